"""Hesitant speech holds every word of the text, in order, and added words."""

import numpy as np
import pytest

from speech_rba.synthesis.disfluency import PAUSE, SLIPS, hesitant

TEXT = "What is the capital of France?"


def is_within(words: list[str], longer: list[str]) -> bool:
    rest = iter(longer)
    return all(word in rest for word in words)


def test_every_word_is_kept_in_order_and_words_are_added():
    for seed in range(200):
        words = hesitant(TEXT, np.random.default_rng(seed)).split()
        assert is_within(TEXT.split(), words) and len(TEXT.split()) < len(words) <= len(TEXT.split()) + 9
        assert words[0] != PAUSE


def test_every_kind_of_disfluency_occurs():
    texts = [hesitant(TEXT, np.random.default_rng(seed)) for seed in range(200)]
    for slip in ("um,", "| ", "I mean,", "capital, capital of"):
        assert any(slip in text for text in texts)
    assert len(SLIPS) == 4


def test_the_same_seed_gives_the_same_text():
    assert hesitant(TEXT, np.random.default_rng(3)) == hesitant(TEXT, np.random.default_rng(3))


@pytest.mark.parametrize("text", ["", "Why?"])
def test_a_short_text_keeps_its_words(text):
    assert is_within(text.split(), hesitant(text, np.random.default_rng(0)).split())
