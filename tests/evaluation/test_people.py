"""Word error rates on recordings that are only transcribed: sets, speakers, questions and lengths."""

import pytest

from speech_rba.evaluation.people import (
    Transcribed,
    error_rates,
    is_question,
    is_too_long,
    may_be_question,
    transcribed_clip,
    word_errors,
)

ROWS = [  # file, speaker, reference, Whisper, student
    ("read/1.wav", "ann", "the cat sat down", "The cat sat down.", "What cat sat down?"),
    ("read/2.wav", "ann", "no it is not", "No, it is not.", "No, it is not."),
    ("read/3.wav", "bob", "he ran home fast", "He ran on fast.", "He ran home fast."),
    ("digits/1.wav", "cyd", "seven", "7.", "Seven cats and dogs"),
]


def clips(condition: str = "clean", speakers: bool = True) -> list[Transcribed]:
    return [
        transcribed_clip(
            "people",
            file,
            speaker if speakers else "recorded",
            condition,
            reference,
            {"Whisper": whisper, "student": student},
        )
        for file, speaker, reference, whisper, student in ROWS
    ]


def rows_of(transcribed: list[Transcribed]) -> dict[tuple[str, str], dict]:
    return {(row["set"], row["condition"]): row for row in error_rates(transcribed, 200, seed=0)}


def rates(row: dict) -> list[float]:
    return [part["wer"] for part in row["transcribers"]]


def test_word_error_rates_are_over_all_words_of_a_set():
    rows = rows_of(clips())
    assert list(rows) == [(name, "clean") for name in ("all", "sentences", "single words", "read", "digits")]
    # of 13 words Whisper has "on" wrong, and the student "What" and three insertions
    assert rates(rows["all", "clean"]) == [pytest.approx(1 / 13), pytest.approx(4 / 13)]
    assert rows["all", "clean"]["difference"]["value"] == pytest.approx(3 / 13)
    assert rates(rows["read", "clean"]) == rates(rows["sentences", "clean"]) == [1 / 12, 1 / 12]
    assert rates(rows["single words", "clean"]) == [0, 3]
    counts = [(rows[name, "clean"]["n"], rows[name, "clean"]["num_speakers"]) for name in ("all", "read")]
    assert counts == [(4, 3), (3, 2)]


def test_intervals_resample_speakers_and_one_speaker_has_none():
    rows = rows_of(clips())
    # a resample of read has ann twice, ann and bob, or bob twice
    pair = rows["read", "clean"]["difference"]
    assert (pair["low"], pair["high"]) == (-1 / 4, 1 / 8)
    digits = rows["digits", "clean"]
    assert digits["difference"] == {"value": 3, "low": None, "high": None, "p_value": None}
    assert digits["transcribers"][1]["low"] is None
    unnamed = rows_of(clips(speakers=False))["read", "clean"]
    assert unnamed["num_speakers"] == 3 and unnamed["difference"]["low"] == -1 / 4


def test_statements_as_questions_and_long_transcripts_are_counted():
    row = rows_of(clips())["all", "clean"]
    assert row["num_statements"] == 4
    assert [(part["num_questions"], part["num_too_long"]) for part in row["transcribers"]] == [(0, 0), (1, 1)]


def test_degraded_clips_have_rows_for_each_condition_and_for_all():
    rows = rows_of(clips() + clips("hum") + clips("room"))
    assert [condition for name, condition in rows if name == "all"] == ["clean", "degraded", "hum", "room"]
    assert rows["all", "degraded"]["n"] == 8 and rows["all", "hum"]["n"] == 4
    assert rates(rows["all", "degraded"]) == rates(rows["all", "hum"])


def test_recordings_without_subfolders_or_words_have_one_set():
    one = [transcribed_clip("s", "1.wav", "ann", "clean", "go home", {"Whisper": "Go home.", "student": ""})]
    silent = transcribed_clip("s", "2.wav", "ann", "hum", "hmm", {"Whisper": "Hm.", "student": ""})
    rows = rows_of([*one, silent])
    assert rates(rows["all", "clean"]) == [0, 1]
    assert ("all", "hum") not in rows  # the normaliser leaves no word of its reference


@pytest.mark.parametrize(
    ("text", "asks", "may_ask"),
    [
        ("What is a small tree", True, True),
        ("They did not see them?", True, True),
        ("is he at home", False, True),
        ("they did not see them", False, False),
        ("Whatever you say.", False, False),
        ("", False, False),
    ],
)
def test_questions(text, asks, may_ask):
    assert (is_question(text), may_be_question(text)) == (asks, may_ask)


def test_errors_are_counted_after_whispers_normaliser():
    assert word_errors("mister smith has two dogs", "Mr. Smith has 2 dogs!") == 0
    assert word_errors("seven", "") == 1
    assert not is_too_long("seven", "Seven, seven, 7.") and is_too_long("seven", "Seven, seven, seven, 7.")
