"""Answers that the token limit cuts."""

from speech_rba.model.text import whole_sentences


def test_a_cut_answer_keeps_its_whole_sentences():
    assert whole_sentences("It is big. It is old. It has", finished=False) == "It is big. It is old."
    assert whole_sentences("It has no end", finished=False) == ""
    assert whole_sentences("Paris", finished=True) == "Paris"
