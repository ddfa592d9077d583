"""Clips without speech have no transcript; speech keeps its own, and a transcript that repeats itself is
cut."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration

from speech_rba.data.measures import normalize, word_error_rate
from speech_rba.model import audio_tower as tower_module
from speech_rba.model.answering import NOTHING_HEARD, AlignedStudent, answer_result
from speech_rba.model.audio_tower import SAMPLING_RATE, transcribe, window_s
from speech_rba.model.hypotheses import load_hypotheses, save_hypotheses
from speech_rba.model.no_speech import NO_SPEECH, SILENCE, TOO_FAST, TOO_SHORT, loop_start, no_speech_reason
from speech_rba.synthesis.voices.voices import speak

SETTINGS = {"top_k": 2, "max_tokens": 48, "dtype": torch.float32}
RNG = np.random.default_rng(0)
TIME = np.arange(2 * SAMPLING_RATE) / SAMPLING_RATE


def decaying_noise(seconds: float, decay: float) -> np.ndarray:
    noise = RNG.standard_normal(int(seconds * SAMPLING_RATE))
    return noise * np.exp(-decay * np.arange(len(noise)) / SAMPLING_RATE)


def chord(root_hz: float) -> np.ndarray:
    tones = [np.sin(2 * np.pi * root_hz * step * TIME) for step in (1, 1.26, 1.5, 2)]
    return sum(tones) * np.exp(-TIME % 0.5)


def cough() -> np.ndarray:
    clip = np.zeros(2 * SAMPLING_RATE)
    for start in (4_000, 12_000):
        burst = decaying_noise(0.3, 15)
        clip[start : start + len(burst)] += burst
    return clip


NO_SPEECH_CLIPS = {
    "silence": (np.zeros(2 * SAMPLING_RATE), 1.0, SILENCE),
    "faint noise": (RNG.standard_normal(2 * SAMPLING_RATE), 1e-3, NO_SPEECH),
    "loud noise": (RNG.standard_normal(2 * SAMPLING_RATE), 0.5, NO_SPEECH),
    "hum": (np.sin(2 * np.pi * 50 * TIME) + 0.5 * np.sin(2 * np.pi * 100 * TIME), 0.3, NO_SPEECH),
    "music": (np.concatenate([chord(220), chord(330), chord(262)]), 0.3, NO_SPEECH),
    "cough": (cough(), 0.5, NO_SPEECH),
    "click": (np.eye(1, 2 * SAMPLING_RATE, 9_000)[0], 0.9, NO_SPEECH),
    "one sample": (np.ones(1), 0.5, TOO_SHORT),
    "20 ms": (RNG.standard_normal(320), 0.3, TOO_SHORT),
}


@pytest.fixture(scope="module")
def no_speech(audio_tower):
    """The hypothesis of each of these clips."""
    clips = [
        (clip / np.abs(clip).max(initial=1e-9) * peak).astype(np.float32)
        for clip, peak, _ in NO_SPEECH_CLIPS.values()
    ]
    return dict(zip(NO_SPEECH_CLIPS, transcribe(audio_tower, clips, **SETTINGS), strict=True))


@pytest.mark.parametrize("kind", NO_SPEECH_CLIPS)
def test_a_clip_without_speech_has_no_transcript_and_the_reason(no_speech, kind):
    assert no_speech[kind].no_speech == NO_SPEECH_CLIPS[kind][2]
    assert (
        len(no_speech[kind].token_ids) == len(no_speech[kind].top_probs) == len(no_speech[kind].hidden) == 0
    )


def test_single_words_and_quiet_speech_are_transcribed(audio_tower):
    words = ["Seven.", "Stop.", "Hello.", "Good morning."]
    clips = [speak("hibari-heart", word, 1.0, 0.0) for word in words]
    quiet = [clip / np.abs(clip).max() * 10 ** (-50 / 20) for clip in clips]
    texts = [
        audio_tower.text(h.token_ids.tolist()) for h in transcribe(audio_tower, clips + quiet, **SETTINGS)
    ]
    assert [normalize(text) for text in texts] == [normalize(word) for word in words * 2]


def test_the_student_says_that_it_heard_nothing(small_student, no_speech, hypotheses):
    aligned = AlignedStudent.__new__(AlignedStudent)
    aligned.student, aligned.adapter = small_student, None
    nothing, something = no_speech["silence"], hypotheses[0]
    prompts = [small_student.build_prompt(h) for h in (nothing, something)]
    responses, _ = aligned.respond(prompts)
    assert responses[0] == NOTHING_HEARD != responses[1]
    assert list(aligned.stream(prompts[0])) == [NOTHING_HEARD]
    assert not small_student.is_uncertain(prompts[0])  # no adapter learns from it
    result = answer_result(small_student, nothing, responses[0])
    assert (result.hypothesis, result.words, result.no_speech) == ("", (), SILENCE)


def test_the_words_of_a_transcript_have_the_product_of_their_tokens_probabilities(audio_tower, hypotheses):
    for h in hypotheses:
        words = audio_tower.words(h)
        assert " ".join(word.text for word in words) == audio_tower.text(h.token_ids.tolist())
        product = np.prod([word.probability for word in words])
        assert product == pytest.approx(h.top_probs[:, 0].prod().item(), rel=1e-4)


def test_the_reason_and_a_cut_loop_are_stored(no_speech, hypotheses, tmp_path):
    stored = [no_speech["silence"], hypotheses[0], no_speech["click"]]
    narrow = [replace(h, top_ids=h.top_ids[:, :2], top_probs=h.top_probs[:, :2]) for h in stored]
    save_hypotheses(tmp_path / "h.safetensors", [narrow[0], narrow[1], replace(narrow[2], loop_cut=True)])
    loaded = load_hypotheses(tmp_path / "h.safetensors", [2, 0, 1])
    assert [h.no_speech for h in loaded] == [NO_SPEECH, SILENCE, None]
    assert [h.loop_cut for h in loaded] == [True, False, False]


def test_an_improbable_transcript_too_long_for_its_clip_is_invented():
    word = speak("hibari-heart", "Seven.", 1.0, 0.0)
    num_tokens = int(9 * len(word) / SAMPLING_RATE) + 1
    assert no_speech_reason(word, -1.1, num_tokens) == TOO_FAST
    assert no_speech_reason(word, -0.3, num_tokens) is no_speech_reason(word, -1.1, 2) is None


def test_a_loop_begins_with_its_second_round():
    assert loop_start([1, 2, 3, 2, 3, 2, 3, 2, 3]) == 3
    assert loop_start([1, *[7] * 8]) == 2
    assert loop_start([1, *range(10, 20)] + [*range(10, 20)] * 2) == 11
    assert loop_start([1, *[7] * 7]) is None  # "no, no, no" is none
    assert loop_start([1, 2, 3, 2, 3, 2, 3, 4]) is None
    assert loop_start([]) is None


def test_a_decoding_that_repeats_itself_is_cut(audio_tower, monkeypatch):
    """A window without silence behind the speech, in which Whisper repeats itself."""
    monkeypatch.setattr(tower_module, "encode", lambda tower, clips, dtype: _bare(tower, clips, dtype))
    monkeypatch.setattr(tower_module, "window_s", lambda clip_s: 1.0)
    clip = speak("hibari-heart", "Seven.", 1.0, 0.0)[:SAMPLING_RATE]
    [h] = transcribe(audio_tower, [clip], **SETTINGS | {"max_tokens": 96})
    assert h.loop_cut and 0 < len(h.token_ids) < 30


def _bare(tower, clips, dtype):
    states, _ = tower_module.encode_window(tower, clips, 1.0, dtype)
    return states, torch.zeros(len(clips), 2 * tower.model.config.d_model)


TEXTS = {  # seconds of speech, about
    "Stop.": 1,
    "Seven.": 1,
    "Who wrote Hamlet?": 2,
    "What is the capital of France?": 2,
    "It rained all night and the river rose over its banks.": 4,
    "My brother and I went to the market this morning to buy apples, bread and fresh cheese.": 6,
    "Please call the office at nine and tell them that the meeting on Friday is moved to the next week, "
    "because the room is closed.": 8,
}


def test_the_short_window_transcribes_as_whisper_does_in_30_s(audio_tower):
    """Against transformers' own `generate`, on 1 to 8 s of speech."""
    model: WhisperForConditionalGeneration = audio_tower.model
    clips = [speak("hibari-heart", text, 1.0, 0.0) for text in TEXTS]
    features = audio_tower.feature_extractor(clips, sampling_rate=SAMPLING_RATE, return_tensors="pt")
    generated = model.generate(features.input_features, max_new_tokens=48, do_sample=False, num_beams=1)
    whole = audio_tower.tokenizer.batch_decode(generated, skip_special_tokens=True)
    short = [audio_tower.text(h.token_ids.tolist()) for h in transcribe(audio_tower, clips, **SETTINGS)]
    assert max(window_s(len(clip) / SAMPLING_RATE) for clip in clips) <= 10
    assert word_error_rate(whole, short) < 0.02
    assert word_error_rate(list(TEXTS), short) <= word_error_rate(list(TEXTS), whole) + 0.01
