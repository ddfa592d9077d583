"""Each filter refuses the texts that break its rule, and no others."""

import pytest

from speech_rba.synthesis.filters import NearDuplicates, completion_fault, query_fault, translation_fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("What is the capital of France?", None),
        ("Can you write `print(1)` for me?", "not_speakable"),
        ("Open https://example.org for me", "not_speakable"),
        ("Why?", "length"),
        ("the " * 19 + "end", "length"),
        ("Wo liegt Paris denn genau", "language"),
    ],
)
def test_a_query_is_refused_with_the_rule_that_it_breaks(text, fault):
    assert query_fault(text, finished=True, min_words=3, max_words=18) == fault


def test_a_query_cut_by_the_token_limit_is_refused():
    assert query_fault("What is the capital of", finished=False, min_words=3, max_words=18) == "unfinished"


def test_an_empty_and_a_looping_answer_are_refused():
    assert completion_fault("Paris is the capital.") is None
    assert completion_fault("") == "no_completion"
    assert completion_fault("it is a big city and it is a big town") == "looping"  # "it is a big" twice


def test_exact_and_near_duplicates_are_refused():
    seen = NearDuplicates(0.6)
    text = "what is the best way to learn how to play the piano at home every single day"
    assert seen.add(text) is None
    assert (
        seen.add("What is the best way to learn how to play the piano at home, every single day?")
        == "exact_duplicate"
    )
    assert seen.add(text + " now") == "near_duplicate"
    assert seen.add("how tall is the tower in Paris") is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Wo ist der nächste Bahnhof?", None),
        ("where is the next train station", "untranslated"),
        ("Bahnhof?", "length_ratio"),
        ("Where can we find the next station", "completion_language"),
        ("?????????????????????????", "completion_language"),
    ],
)
def test_a_translation_is_refused_with_the_rule_that_it_breaks(text, fault):
    assert translation_fault("Where is the next train station?", text, "German") == fault
