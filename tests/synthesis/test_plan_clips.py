"""The plan of clips: conditions, voices and settings are drawn from the clip's id, in the shares that are
documented."""

from pathlib import Path

import pytest

from speech_rba.config import Voice, load_params
from speech_rba.errors import UserError
from speech_rba.records import Attribute, Clip, Message, Question, Row, Sampling
from speech_rba.synthesis.conditions import (
    CONDITIONS,
    DEGRADED,
    TRAINED_DEGRADED,
    check_conditions,
    check_ranges,
)
from speech_rba.synthesis.plan_clips import SETTINGS, is_dealt, plan_questions, plan_rows, setting_of
from speech_rba.synthesis.voices.voices import VOICES, training_voices

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")


def row(number: int, split: str, prompt: str) -> Row:
    return Row(
        id=f"r{number}",
        task="question",
        split=split,
        messages=[Message(role="user", content=prompt)],
        prompt=prompt,
        completion="It is.",
        completion_ended=True,
        teacher="t",
        template_hash="h",
        sampling=Sampling(temperature=1.0, top_p=1.0, max_new_tokens=8),
        seed=0,
    )


@pytest.fixture
def voice() -> Voice:
    return PARAMS.voice.model_copy(update={"train_clips_per_row": 1})


def plan(voice: Voice, rows: list[Row]) -> list[Clip]:
    speeches = plan_rows(voice, training_voices(voice), rows)
    return [clip for speech in speeches for clip in speech]


def share(clips: list[Clip], **fields: str) -> float:
    """The share of clips whose fields have these values."""
    return sum(all(getattr(clip, k) == v for k, v in fields.items()) for clip in clips) / len(clips)


def test_training_conditions_and_engines_are_drawn_in_equal_shares(voice):
    clips = plan(voice, [row(i, "train", "Why?") for i in range(2000)])
    assert share(clips, condition="clean") == pytest.approx(0.1, abs=0.03)
    shares = [share(clips, condition=condition) for condition in TRAINED_DEGRADED]
    assert shares == pytest.approx([0.9 / 8] * 8, abs=0.02)
    assert share(clips, condition="muffled") == share(clips, condition="packet_loss") == 0
    assert not {*voice.heldout_voices, *voice.validation_voices} & {clip.voice for clip in clips}
    for engine in ("hibari", "piper", "espeak", "kokoro"):
        assert share(clips, engine=engine) == pytest.approx(1 / 4, abs=0.04)


def test_the_strength_and_the_text_of_a_clip_fit_its_condition(voice):
    clips = plan(voice, [row(i, "train", "Why?") for i in range(200)])
    noises = {"white_noise", "pink_noise", "hum", "babble"}
    for clip in clips:
        assert ("snr_db" in clip.strength) == (clip.condition in noises)
        assert ("rt60_s" in clip.strength) == (clip.condition == "room")
        assert (clip.spoken != clip.transcript) == (clip.condition == "hesitant")
        assert 0.7 <= clip.rate <= 1.5 and -32 <= clip.level_db <= -16
        assert bool(clip.strength_text) == bool(clip.strength)
    [clipped, *_] = [clip for clip in clips if clip.condition == "clipped"]
    assert clipped.strength_text == f"{clipped.strength['drive_db']:.0f} dB too loud"


@pytest.mark.parametrize(
    ("split", "conditions", "each"), [("test", DEGRADED, 3), ("validation", TRAINED_DEGRADED, 1)]
)
def test_conditions_take_turns_over_held_out_texts_in_both_kinds_of_voice(voice, split, conditions, each):
    num = 20 if split == "test" else 2 * len(conditions)
    clips = plan(voice, [row(i, split, f"Why {i}?") for i in range(num)])
    for heldout in (False, True):
        spoken = [clip.condition for clip in clips if clip.heldout_voice == heldout]
        counts = {condition: spoken.count(condition) for condition in CONDITIONS if condition in spoken}
        assert counts == {"clean": num // 2} | dict.fromkeys(conditions, each)


def test_a_held_out_voice_speaks_in_one_split_and_never_in_training(voice):
    splits = ["train", "validation", "test"]
    clips = plan(voice, [row(i, splits[i % 3], f"Why {i}?") for i in range(300)])
    heldout = {split: {c.voice for c in clips if c.split == split and c.heldout_voice} for split in splits}
    assert heldout["train"] == set()
    assert heldout["validation"] == set(voice.validation_voices)
    assert heldout["test"] == set(voice.heldout_voices)


def test_seven_test_rows_cover_every_condition_and_six_do_not(voice):
    def planned(num: int) -> list[list[Clip]]:
        return plan_rows(voice, training_voices(voice), [row(i, "test", f"Why {i}?") for i in range(num)])

    check_conditions(planned(7))
    with pytest.raises(UserError, match=r"6 test rows are too few.*packet_loss would be missing: raise"):
        check_conditions(planned(6))


def test_the_parameters_list_the_conditions_in_their_order():
    check_ranges(PARAMS.voice)
    assert list(PARAMS.voice.conditions) == list(CONDITIONS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loud": {"gain_db": [1.0, 2.0]}}, "loud has the ranges gain_db in .* and is missing in"),
        ({"loud": {}}, "loud has no range in .* and is missing in"),
        ({"hum": {}}, "hum has no range in .* and has the ranges snr_db in"),
        ({"clean": {"snr_db": [1.0, 2.0]}}, "clean has the ranges snr_db in .* and has no range in"),
    ],
)
def test_parameters_that_do_not_fit_the_conditions_are_an_error_that_names_both_files(voice, change, message):
    changed = voice.model_copy(update={"conditions": voice.conditions | change})
    with pytest.raises(UserError, match=rf"{message} CONDITIONS of src/.*/conditions\.py"):
        plan(changed, [row(0, "train", "Why?")])


def test_a_condition_that_the_parameters_do_not_list_is_an_error(voice):
    fewer = {name: ranges for name, ranges in voice.conditions.items() if name != "muffled"}
    with pytest.raises(UserError, match=r"muffled is missing in voice\.conditions of params\.yaml and has"):
        plan(voice.model_copy(update={"conditions": fewer}), [row(0, "train", "Why?")])


def test_a_share_is_dealt_evenly_and_is_never_empty():
    assert [n for n in range(14) if is_dealt(n, 0.3)] == [0, 4, 7, 10]
    assert [n for n in range(3) if is_dealt(n, 0.01)] == [0]
    assert not any(is_dealt(n, 0.0) for n in range(9)) and all(is_dealt(n, 1.0) for n in range(9))


def attribute_clips(voice: Voice, each: int) -> dict[tuple[str, str], list[Clip]]:
    """The clips of `each` questions about every attribute, by its name and value."""
    attributes = [(name, value) for name, values in SETTINGS.items() for value in values]
    questions = {
        f"{name}-{value}-{i}": Question(
            id=f"{name}-{value}-{i}",
            prompt="How do I sound?",
            answers=["So."],
            attribute=Attribute(name=name, value=value),
        )
        for name, value in attributes
        for i in range(each)
    }
    speeches = plan_questions(voice, training_voices(voice), "quiz", list(questions.values()), 0.2)
    clips: dict[tuple[str, str], list[Clip]] = {attribute: [] for attribute in attributes}
    for speech in speeches:
        attribute = questions[speech[0].row_id].attribute
        clips[attribute.name, attribute.value] += speech
    return clips


def test_a_question_about_an_attribute_is_recorded_with_it(voice):
    clips = attribute_clips(voice, each=6)
    assert {VOICES[clip.voice].gender for clip in clips["gender", "woman"]} == {"woman"}
    assert {VOICES[clip.voice].accent for clip in clips["accent", "British"]} == {"British"}
    assert all(0.7 <= clip.rate <= 0.8 for clip in clips["rate", "slow"])
    assert all(clip.rate >= 1.3 for clip in clips["rate", "fast"])
    noisy = {clip.condition for clip in clips["noise", "noisy"]}
    assert noisy <= {"white_noise", "pink_noise", "hum", "babble"}
    assert {clip.condition for clip in clips["noise", "quiet"] + clips["line", "direct"]} == {"clean"}
    assert {clip.condition for clip in clips["line", "telephone"]} == {"telephone"}
    assert len(clips["gender", "man"]) == 12 and len(clips["noise", "noisy"]) == 6


def test_an_unknown_attribute_value_is_an_error_that_lists_the_known_ones():
    with pytest.raises(UserError, match=r"no clip can be 'tall' in 'gender'; there are gender: woman, man"):
        setting_of(Attribute(name="gender", value="tall"))
