"""Words that replace others: which they are, and what of the text stays."""

import re

import numpy as np

from speech_rba.synthesis.strange_words import whole_words, with_strange_words

VOCABULARY = {"Ġtea": 0, "ĠNorway": 1, "Ġwhale": 2, "water": 3, "ĠUSA": 4, "Ġ1984": 5, "Ġit's": 6}


def test_words_are_whole_of_letters_and_four_at_least():
    assert whole_words(VOCABULARY) == ["Norway", "whale"]


def test_one_to_three_longer_words_are_replaced_and_punctuation_stays():
    text = "Where does the river, which is long, begin and end?"
    numbers = set()
    for seed in range(40):
        found = with_strange_words(text, ["Norway", "whale"], np.random.default_rng(seed))
        assert re.findall(r"[,?]", found) == [",", ",", "?"] and len(found.split()) == len(text.split())
        changed = [a for a, b in zip(text.split(), found.split(), strict=True) if a != b]
        assert set(changed) <= {"Where", "does", "river,", "which", "long,", "begin"}
        numbers.add(len(changed))
    assert numbers == {1, 2, 3}


def test_a_text_of_short_words_stays():
    assert with_strange_words("Is it so?", ["Norway"], np.random.default_rng(0)) == "Is it so?"
