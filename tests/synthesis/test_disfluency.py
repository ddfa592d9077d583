"""Hesitant speech holds every word of the text, in order, and something more."""

import numpy as np
import pytest

from speech_rba.synthesis.disfluency import PAUSE, SLIPS, hesitant

TEXT = "What is the capital of France?"


def is_within(words: list[str], longer: list[str]) -> bool:
    rest = iter(longer)
    return all(word in rest for word in words)


def test_every_word_is_still_there_in_order_and_something_was_added():
    for seed in range(200):
        said = hesitant(TEXT, np.random.default_rng(seed)).split()
        assert is_within(TEXT.split(), said) and len(TEXT.split()) < len(said) <= len(TEXT.split()) + 9
        assert said[0] != PAUSE


def test_every_kind_of_slip_comes():
    said = [hesitant(TEXT, np.random.default_rng(seed)) for seed in range(200)]
    assert (
        any("um," in s for s in said) and any("| " in s for s in said) and any("I mean," in s for s in said)
    )
    assert any("capital, capital of" in s for s in said) and len(SLIPS) == 4


def test_the_same_draw_says_the_same():
    assert hesitant(TEXT, np.random.default_rng(3)) == hesitant(TEXT, np.random.default_rng(3))


@pytest.mark.parametrize("text", ["", "Why?"])
def test_short_texts_are_no_trouble(text):
    assert is_within(text.split(), hesitant(text, np.random.default_rng(0)).split())
