"""Instruction following of a suite, counted by hand."""

import pytest

from speech_rba.evaluation.instructions import followed
from speech_rba.records import Answer, Instruction

NO_COMMA = Instruction(name="punctuation:no_comma", arguments={})
LOWER = Instruction(name="change_case:english_lowercase", arguments={})
ASKED = {("s", "one"): [NO_COMMA], ("s", "two"): [NO_COMMA, LOWER], ("other", "three"): []}


def answer(system: str, row: str, response: str, condition: str = "clean") -> Answer:
    text = system == "text"
    return Answer(suite="s", row_id=row, clip_id="" if text else f"{row}-{condition}", system=system,
                  condition="text" if text else condition, voice="v", heldout_voice=False, snr_db=None, judge_hypothesis="",
                  response=response, metrics={})  # fmt: skip


def test_prompts_and_instructions_are_counted_apart():
    """Text: one of two prompts, two of three instructions. Loosely the line before the answer does not count."""
    answers = [answer("text", "one", "Well said"), answer("text", "two", "Sure\nthe weather is nice today")]
    answers += [answer("base", "one", "well, well"), answer("base", "two", "the weather is nice today")]
    text, clean, everything = followed(answers, ASKED)
    assert (text["condition"], clean["condition"], everything["condition"]) == ("text", "clean", "all")
    assert (text["prompt_strict"], text["instruction_strict"]) == (1 / 2, pytest.approx(2 / 3))
    assert (text["prompt_loose"], text["instruction_loose"], text["forgetting"]) == (1, 1, 0)
    assert (clean["prompt_strict"], clean["instruction_strict"]) == (1 / 2, pytest.approx(2 / 3))
    assert clean["n"] == 2


def test_forgetting_is_what_is_lacking_of_the_text():
    """Of three instructions text follows all and base one."""
    answers = [answer("text", "one", "yes"), answer("text", "two", "the weather is nice today")]
    answers += [answer("base", "one", "well, well"), answer("base", "two", "The weather is nice today")]
    assert followed(answers, ASKED)[1]["forgetting"] == pytest.approx(2 / 3)


def test_nothing_is_forgotten_where_text_follows_nothing():
    answers = [answer("text", "one", "no, no"), answer("base", "one", "yes")]
    assert followed(answers, ASKED)[1]["forgetting"] is None
