"""A new kind of question needs an entry in KINDS, and no field of Question."""

import json

import pytest
from test_read import causes, suite

from speech_rba.suites.cells import texts_of
from speech_rba.suites.kinds import KINDS, Kind
from speech_rba.suites.read import read_suite


@pytest.fixture
def rhyme(monkeypatch) -> None:
    """A kind whose target is a word to rhyme with."""
    monkeypatch.setitem(KINDS, "rhyme", Kind(("rhymes with",), lambda values: texts_of(values.get("rhyme"))))


def test_a_table_gives_the_target_of_the_new_kind(tmp_path, rhyme):
    table = "question\tfile\trhymes with\tanswer\nSing?\t1.wav\tcat\t\nWho?\t2.wav\t\tAda\n"
    [sung, answered], refused = read_suite(suite(tmp_path, table))
    assert not refused
    assert (sung.question.target("rhyme"), sung.question.target("answers")) == (["cat"], [])
    assert (answered.question.target("rhyme"), answered.question.target("answers")) == (None, ["Ada"])


def test_a_written_question_gives_the_target_of_the_new_kind(tmp_path, rhyme):
    lines = [
        {"id": "a", "prompt": "Sing?", "answers": [], "targets": {"rhyme": "cat"}},
        {"id": "b", "prompt": "Sing?", "answers": [], "targets": {"metre": "iamb"}},
    ]
    folder = suite(tmp_path, "\n".join(map(json.dumps, lines)), "questions.jsonl")
    [recording], refused = read_suite(folder)
    assert recording.question.target("rhyme") == "cat"
    [(line, cause)] = causes(refused)
    assert line == 2 and cause.startswith("there is no kind metre; allowed are answers, choice,")
