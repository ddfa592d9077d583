"""Constraints on the answer to a question, in words and as an instruction that code checks."""

from pathlib import Path

import pytest

from speech_rba.data.ifeval import CHECKERS, follows
from speech_rba.records import Constraint, read_jsonl
from speech_rba.synthesis.constraints import constrained
from speech_rba.synthesis.filters import query_fault

DATA = Path(__file__).parents[2] / "data"


def test_the_topic_of_the_question_stands_in_the_constraint():
    forbids = Constraint(
        says="But do not say {topic}.",
        name="keywords:forbidden_words",
        arguments={"forbidden_words": ["{topic}"]},
    )
    prompt, instruction = constrained("What do they eat?", "bees", forbids)
    assert prompt == "What do they eat? But do not say bees."
    assert follows("Nectar and pollen.", instruction.name, instruction.arguments)
    assert not follows("Bees eat nectar.", instruction.name, instruction.arguments)


@pytest.mark.parametrize(
    "constraint", read_jsonl(DATA / "constraints.jsonl", Constraint), ids=lambda c: c.says
)
def test_every_constraint_can_be_spoken_and_checked(constraint):
    prompt, instruction = constrained("What do bees eat?", "bees", constraint)
    assert query_fault(prompt, True, 3, 18) is None
    assert constraint.name in CHECKERS
    follows("Bees eat nectar and pollen.", instruction.name, instruction.arguments)
