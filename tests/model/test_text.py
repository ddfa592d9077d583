"""Answers that the token limit cuts."""

import pytest

from speech_rba.model.text import settled, whole_sentences


def test_a_cut_answer_keeps_its_whole_sentences():
    assert whole_sentences("It is big. It is old. It has", finished=False) == "It is big. It is old."
    assert whole_sentences("It has no end", finished=False) == ""
    assert whole_sentences("Paris", finished=True) == "Paris"


ANSWERS = (
    "It is big. It is old. It has",
    "It is 3.5 km. Or 4",
    " First:\n1. Eat. 2. Sleep",
    "It has\n\ntwo ends and no full stop",
    "A  wide gap. Then more",
    "Caf\u00e9, na\u00efve",
)


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("finished", [True, False])
def test_what_has_settled_is_the_beginning_of_the_answer(answer, finished):
    final = whole_sentences(answer, finished) or answer.strip()
    beginnings = [settled(answer[:end]) for end in range(len(answer) + 1)]
    assert all(final.startswith(beginning) for beginning in beginnings)


def test_the_first_sentence_settles_word_by_word_and_a_later_one_when_it_has_ended():
    assert settled("It is") == "It is"
    assert settled("It is big. It is ol") == "It is big."
    assert settled("It is big. It is old. I") == "It is big. It is old."
    assert settled("Caf\ufffd") == "Caf"  # the first of the two bytes of a letter
