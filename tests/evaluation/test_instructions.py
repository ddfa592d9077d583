"""Instruction following of a suite, counted by hand."""

import pytest

from speech_rba.evaluation.instructions import instruction_scores
from speech_rba.records import Answer, Instruction, Question

NO_COMMA = Instruction(name="punctuation:no_comma", arguments={})
LOWER = Instruction(name="change_case:english_lowercase", arguments={})
QUESTIONS = {
    ("s", "one"): Question(id="one", prompt="", answers=[], instructions=[NO_COMMA]),
    ("s", "two"): Question(id="two", prompt="", answers=[], instructions=[NO_COMMA, LOWER]),
}


def answer(system: str, row: str, response: str, condition: str = "clean") -> Answer:
    condition = "text" if system == "text" else condition
    return Answer(
        suite="s",
        row_id=row,
        clip_id="" if condition == "text" else f"{row}-{condition}",
        system=system,
        condition=condition,
        voice="v",
        heldout_voice=False,
        snr_db=None,
        judge_hypothesis="",
        response=response,
        metrics={},
    )


def test_prompts_and_instructions_are_counted_separately():
    """Text follows one of two prompts and two of three instructions; loosely, its first line is ignored."""
    answers = [answer("text", "one", "Well said"), answer("text", "two", "Sure\nthe weather is nice today")]
    answers += [answer("base", "one", "well, well"), answer("base", "two", "the weather is nice today")]
    text, clean, everything = instruction_scores(answers, QUESTIONS)
    assert (text["condition"], clean["condition"], everything["condition"]) == ("text", "clean", "all")
    assert (text["prompt_strict"], text["instruction_strict"]) == (1 / 2, pytest.approx(2 / 3))
    assert (text["prompt_loose"], text["instruction_loose"], text["forgetting"]) == (1, 1, 0)
    assert (clean["prompt_strict"], clean["instruction_strict"]) == (1 / 2, pytest.approx(2 / 3))
    assert clean["n"] == 2


def test_the_forgetting_rate_is_the_share_of_the_text_accuracy_that_a_system_lacks():
    """Of three instructions text follows all and base one."""
    answers = [answer("text", "one", "yes"), answer("text", "two", "the weather is nice today")]
    answers += [answer("base", "one", "well, well"), answer("base", "two", "The weather is nice today")]
    assert instruction_scores(answers, QUESTIONS)[1]["forgetting"] == pytest.approx(2 / 3)


def test_the_forgetting_rate_is_undefined_where_text_follows_nothing():
    answers = [answer("text", "one", "no, no"), answer("base", "one", "yes")]
    assert instruction_scores(answers, QUESTIONS)[1]["forgetting"] is None


def test_the_forgetting_rate_of_a_method_on_text_is_relative_to_the_text_system():
    answers = [answer("sft", "one", "Well, no.", "text"), answer("text", "one", "No.")]
    text, sft = instruction_scores(answers, QUESTIONS)
    assert (text["system"], text["forgetting"], sft["system"], sft["forgetting"]) == ("text", 0, "sft", 1)
