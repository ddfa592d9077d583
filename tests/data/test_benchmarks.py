"""Folders of recordings that nobody here made: what is read from them, and what is refused."""

from pathlib import Path

import pytest

from speech_rba.evaluation.suites import listed


def folder(tmp_path: Path, name: str, text: str) -> Path:
    (tmp_path / name).write_text(text)
    return tmp_path


def test_questions_with_answers_have_a_heading_and_lie_under_wav(tmp_path):
    table = 'Questions\tAnswer\tFile\nWho said "hello"?\tAda\t1.wav\n'
    assert listed(folder(tmp_path, "any.tsv", table)) == [("wav/1.wav", 'Who said "hello"?', ("Ada",))]


def test_transcripts_have_neither_heading_nor_answer(tmp_path):
    assert listed(folder(tmp_path, "transcripts.tsv", "a/1.flac\tbook a room\n")) == [("a/1.flac", "book a room", ())]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("notes.txt", "hello", r"is no suite: it needs questions.jsonl, transcripts.tsv \(file, text\), or one .tsv"),
        ("any.tsv", "Question\tAnswer\tFile\nWho?\tAda\n", r"a line with too few columns: \['Who\?', 'Ada'\]"),
        ("transcripts.tsv", "../secret.wav\thello\n", r"names ../secret.wav; allowed are files inside"),
        ("any.tsv", "Q\tA\tF\nWho?\tAda\t../../1.wav\n", r"names wav/../../1.wav; allowed are files inside"),
    ],
)
def test_other_folders_are_refused_with_what_to_do(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        listed(folder(tmp_path, name, text))
