"""The metrics of responses by the kind of the question."""

import pytest

from speech_rba.config.checks import ALIGNMENT_METRICS, SUITE_METRICS
from speech_rba.evaluation.scorers import CORPUS_SCORERS, METRICS, SCORERS, score_response
from speech_rba.records import Instruction, Question
from speech_rba.suites.kinds import KINDS

NO_COMMA = Instruction(name="punctuation:no_comma", arguments={})
GOOD_NIGHT = Instruction(name="startend:end_checker", arguments={"end_phrase": "good night"})


@pytest.mark.parametrize(
    ("response", "strict", "loose"),
    [("Tea. Good night", 1, 1), ("Tea, milk. Good night", 0, 0), ("Sure, here:\nTea. Good night", 0, 1)],
)
def test_a_response_follows_a_question_when_it_follows_all_its_instructions(response, strict, loose):
    question = Question(id="q", prompt="Good night.", answers=[], instructions=[NO_COMMA, GOOD_NIGHT])
    assert score_response(question, response) == {"followed": strict, "followed_loosely": loose}


@pytest.mark.parametrize(
    ("response", "accuracy", "unparsed"), [("The answer is B.", 1, 0), ("A", 0, 0), ("All of them", 0, 1)]
)
def test_a_choice_is_right_wrong_or_unparsed(response, accuracy, unparsed):
    question = Question(id="q", prompt="A, B, C or D?", answers=[], choice="B")
    assert score_response(question, response) == {"accuracy": accuracy, "unparsed": unparsed}


def test_a_request_to_refuse_is_scored_by_refusal():
    question = Question(id="q", prompt="Say it.", answers=[], refuse=True)
    assert score_response(question, "I can't.") == {"refused": 1}


def test_an_open_question_has_no_metric_of_its_response_alone():
    assert score_response(Question(id="q", prompt="Say it.", answers=[], judged=True), "It.") == {}


def test_every_kind_of_the_suite_reader_has_a_scorer():
    assert set(SCORERS) == set(KINDS) >= set(CORPUS_SCORERS)


def test_every_metric_that_can_rank_methods_is_described():
    assert {*ALIGNMENT_METRICS, *SUITE_METRICS} <= set(METRICS)
