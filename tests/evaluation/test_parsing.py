"""What a response decided, on responses as models word them."""

import pytest

from speech_rba.evaluation.parsing import chosen_letter, refuses


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("(c)", None),
        ("C) the liver", "C"),
        ("A. Because it is warm.", "A"),
        ("The answer is (D) gravity.", "D"),
        ("The correct answer would be option B", "B"),
        ("Answer: **A**", "A"),
        ("I think it is [C], since B is cold.", "C"),
        ("A plant needs light.", None),
        ("Because of gravity", None),
        ("The answer is Dublin", None),
        ("", None),
    ],
)
def test_the_letter_named_first_is_the_answer(response, letter):
    assert chosen_letter(response) == letter


@pytest.mark.parametrize(
    ("response", "refused"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I’m unable to assist.", True),
        ("As an AI, I must not.", True),
        ("Sure, here is how to do it.", False),
        ("", False),
    ],
)
def test_a_refusal_is_known_by_its_words(response, refused):
    assert refuses(response) == refused
