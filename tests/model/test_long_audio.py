"""Clips over 30 s: cut at pauses, no word lost, and the question at the end answered."""

import itertools

import numpy as np
import pytest
import torch

from speech_rba.data.measures import word_error_rate
from speech_rba.errors import UserError
from speech_rba.model import audio_tower as tower_module
from speech_rba.model.audio_tower import Hypothesis, check_length
from speech_rba.model.long_audio import cut_at_pauses, join, transcribe
from speech_rba.model.student import last_sentences
from speech_rba.synthesis.voices.voices import speak

STATEMENTS = [
    "The train left the station a few minutes late this morning.",
    "We had a long breakfast and talked about the garden.",
    "My sister bought a blue coat in a small shop near the river.",
    "The weather was cold, but the sun came out after lunch.",
    "Two children were playing football behind the old school.",
    "I forgot my umbrella and had to wait under a tree.",
    "The baker said that the bread would be ready at four.",
    "Our neighbour has a brown dog that barks at every bicycle.",
    "In the evening we cooked soup with carrots and potatoes.",
    "There was a concert in the park, and many people came.",
    "My brother called and told me about his new job.",
    "He works in a hospital and likes the night shift.",
    "The road to the village was closed because of the snow.",
    "We read the newspaper and listened to some music.",
    "A man with a red hat asked me for the time.",
    "The library opens at nine and closes at six.",
    "I put the letters on the table next to the window.",
    "She painted the kitchen yellow and the door green.",
    "They walked along the beach and collected shells.",
    "The bus was full, so I went home on foot.",
    "Tomorrow my parents are going to visit us for two days.",
    "I think that we should clean the house before they arrive.",
]
QUESTION = "What is the capital of France?"
LIMITS = {"top_k": 2, "max_tokens": 96, "dtype": torch.float32}


@pytest.fixture(scope="module")
def sentences() -> list[np.ndarray]:
    return [speak("hibari-heart", text, 1.0, 0.0) for text in [*STATEMENTS, QUESTION]]


@pytest.fixture(scope="module")
def recording(sentences) -> np.ndarray:
    """The sentences with pauses of 0.4 s, more than a minute."""
    pause = np.zeros(6_400, np.float32)
    return np.concatenate([part for sentence in sentences for part in (sentence, pause)])


def texts(tower, hypotheses: list[Hypothesis]) -> list[str]:
    return [tower.text(h.token_ids.tolist()) for h in hypotheses]


def test_pieces_are_short_and_end_in_pauses(recording):
    for level in (1.0, 0.001):
        pieces = cut_at_pauses(level * recording)
        assert np.array_equal(np.concatenate(pieces), level * recording)
        assert len(pieces) > 1 and all(2 <= len(piece) / 16_000 <= 28 for piece in pieces)
        for piece in pieces[:-1]:
            assert np.abs(piece[-800:]).max() < 0.02 * level  # 50 ms


@pytest.mark.parametrize("seconds", [30.01, 31, 56, 58.1, 100])
def test_noise_without_a_pause_is_cut_too(seconds):
    noise = np.random.default_rng(0).normal(0, 0.1, round(16_000 * seconds)).astype(np.float32)
    pieces = cut_at_pauses(noise)
    assert sum(map(len, pieces)) == len(noise)
    assert all(1.9 < len(piece) / 16_000 <= 28 for piece in pieces)


def test_no_word_is_lost_at_a_cut(audio_tower, sentences, recording):
    expected = " ".join([*STATEMENTS, QUESTION])
    [joined] = texts(audio_tower, transcribe(audio_tower, [recording], **LIMITS))
    single = " ".join(texts(audio_tower, tower_module.transcribe(audio_tower, sentences, **LIMITS)))
    assert word_error_rate([expected], [joined]) <= word_error_rate([expected], [single]) + 0.02
    assert joined.endswith(QUESTION)


def test_short_and_long_clips_keep_their_order(audio_tower, sentences, recording):
    long, short = recording[: 32 * 16_000], sentences[-1]
    mixed = texts(audio_tower, transcribe(audio_tower, [long, short], **LIMITS))
    [alone] = texts(audio_tower, tower_module.transcribe(audio_tower, [short], **LIMITS))
    assert mixed[1] == alone and mixed[0].startswith("The train left")
    with pytest.raises(UserError, match=r"a clip has 0\.00 s"):
        transcribe(audio_tower, [np.zeros(0, np.float32)], **LIMITS)


def hypothesis(ids: list[int], attribute_features: list[float], mean_logprob: float) -> Hypothesis:
    tensor = torch.tensor(ids, dtype=torch.long)
    features = torch.tensor(attribute_features)
    return Hypothesis(
        tensor, tensor[:, None], torch.ones(len(ids), 1), tensor[:, None].float(), features, mean_logprob
    )


def test_the_joined_hypothesis_has_the_positions_of_all_and_the_features_of_all_frames():
    """Frames 0, 2 | 4, 4, 4, 4: their mean is 3, and the mean of their squares 34 / 3 - 9 is 7 / 3."""
    joined = join(
        [hypothesis([5], [1.0, 1.0], -1.0), hypothesis([6, 7, 8], [4.0, 0.0], -0.25)], [2 * 320, 4 * 320]
    )
    assert joined.token_ids.tolist() == [5, 6, 7, 8] and joined.top_ids.tolist() == [[5], [6], [7], [8]]
    assert joined.attribute_features.tolist() == pytest.approx([3.0, (7 / 3) ** 0.5])
    assert joined.mean_logprob == pytest.approx((2 * -1 + 4 * -0.25) / 6)
    empty = hypothesis([], [9.0, 9.0], -3.0)
    assert join([empty, joined, empty], [1, 1, 1]).attribute_features.tolist() == pytest.approx(
        joined.attribute_features.tolist()
    )
    assert join([empty, empty], [1, 1]) is empty


def test_a_long_hypothesis_is_cut_at_the_start_of_a_sentence(audio_tower):
    ids = audio_tower.tokenizer(" One two three. Four five. Six seven", add_special_tokens=False).input_ids
    whole = hypothesis(ids, [0.0, 1.0], 0.0)

    def rest(max_tokens: int) -> str:
        return audio_tower.text(last_sentences(whole, audio_tower.tokenizer, max_tokens).token_ids.tolist())

    # tokens: One two three . | Four five . | Six seven
    assert last_sentences(whole, audio_tower.tokenizer, 9) is whole
    assert [rest(n) for n in (8, 5, 4, 2, 1)] == [
        "Four five. Six seven", "Four five. Six seven", "Six seven", "Six seven", "seven",
    ]  # fmt: skip


def test_the_question_at_the_end_of_two_minutes_is_answered(student, sentences):
    pause, parts = np.zeros(6_400, np.float32), []
    for sentence in itertools.cycle(sentences[:-1]):
        parts += [sentence, pause]
        if sum(map(len, parts)) > 2 * 60 * 16_000:
            break
    [prompt], [transcript] = student.encode_audio([np.concatenate([*parts, sentences[-1]])])
    [ids] = student.answer([prompt], temperature=0.0, top_p=1.0, seed=0, max_new_tokens=16, batch_size=1)
    assert transcript.startswith("The train left") and transcript.endswith(QUESTION)
    assert "Paris" in student.tokenizer.decode(ids)


def test_a_model_with_a_window_refuses_what_is_longer():
    with pytest.raises(UserError, match=r"a clip has 31\.00 s; allowed is above 0 and at most 30 s"):
        check_length(np.zeros(31 * 16_000, np.float32))
