"""Scores of one response against reference answers."""

import pytest

from speech_rba.evaluation.metrics import (
    TEENS,
    TENS,
    UNITS,
    answer_tokens,
    contains_answer,
    is_right,
    token_f1,
)


def test_answer_tokens_have_no_case_accents_punctuation_or_articles():
    assert answer_tokens("The Coca-Cola Company's “Café”, two/3 U.S.\nan 1,000") == [
        "coca", "cola", "company", "cafe", "2", "3", "us", "1000",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("forty-two, Forty two", ["42", "42"]),
        ("two hundred and five", ["205"]),
        ("a hundred, hundred, 1 hundred", ["100", "100", "100"]),
        ("twelve thousand three hundred and forty-five", ["12345"]),
        ("5 thousand, 1.5 thousand", ["5000", "1.5", "1000"]),
        ("between one hundred and two hundred", ["between", "100", "and", "200"]),
        ("five five five", ["5", "5", "5"]),
        ("nineteen eighty-four", ["19", "84"]),
        ("the twenty-first, second 3rd", ["twenty", "first", "second", "3rd"]),  # ordinals are no numbers
        ("1,234,567 and 1\u202f000 but 1,2", ["1234567", "and", "1000", "but", "1", "2"]),
        ("3.14. .5", ["3.14", "5"]),
        ("½ = 1/2, 2½", ["1", "2", "1", "2", "2", "1", "2"]),
        ("J. K. Rowling’s U. S. Ph.D.", ["jk", "rowling", "us", "phd"]),
        ("ﬁne Ｆｉｖｅ…ten", ["fine", "5", "10"]),
        ("Saint‑Denis — 5–7", ["saint", "denis", "5", "7"]),  # a non-breaking hyphen, two dashes
        ("Paris,France No.5", ["paris", "france", "no", "5"]),
        ("Straße", ["strasse"]),
    ],
)
def test_numbers_and_typographic_signs_are_their_plain_forms(text, tokens):
    assert answer_tokens(text) == tokens


def test_every_number_in_words_below_a_hundred_is_its_digits():
    below_20 = ["zero", *UNITS, *TEENS]
    words = below_20 + [f"{ten}-{unit}".removesuffix("-") for ten in TENS for unit in ("", *UNITS)]
    assert [answer_tokens(word) for word in words] == [[str(value)] for value in range(100)]


@pytest.mark.parametrize(
    ("response", "answers", "expected"),
    [
        ("It was discovered by Newton’s friends", ["Newton"], True),
        ("Newton saw it", ["Newton's"], True),
        ("They ate at McDonalds", ["McDonald’s"], True),
        ("They ate at McDonald's", ["McDonalds"], True),
        ("The Newtons", ["Newton"], False),
        ("In the US", ["U.S.", "America"], True),
        ("It took 1000 days", ["1,000"], True),
        ("It is 3.5", ["35"], False),
        ("the twenty-second", ["22"], False),
        ("the 2nd", ["2"], False),
        ("O’Brien", ["O'Brien"], True),
        ("It was George Washington, of course.", ["George Washington"], True),
        ("Washington, George", ["George Washington"], False),  # the words in another order
        ("It was George H. Washington", ["George Washington"], False),
        ("There are Twelve months.", ["12"], True),
        ("There are 12 months.", ["twelve", "a dozen"], True),
        ("There are 120 months.", ["12"], False),  # a part of a number is no answer
        ("the party", ["art"], False),
        ("He lived on the moon", ["The Moon"], True),
        ("Paris or Rome", ["Berlin", "Rome"], True),
        ("", ["Rome"], False),
    ],
)
def test_contains_answer(response, answers, expected):
    assert contains_answer(response, answers) is expected


def test_a_response_that_also_contains_a_wrong_answer_is_wrong():
    assert is_right("You sound like a woman.", ["woman"], ["man"])
    assert not is_right("You sound like a man or a woman.", ["woman"], ["man"])
    assert not is_right("I cannot say.", ["woman"], ["man"])


@pytest.mark.parametrize("answers", [[], ["A"], ["?!"]])
def test_answers_that_would_match_every_response_are_refused(answers):
    with pytest.raises(ValueError, match="answer"):
        contains_answer("anything", answers)


def test_token_f1_by_hand():
    # response: cat sat on mat (4), reference: cat lay on red mat (5), common: cat on mat (3) -> 2 * 3 / 9
    assert token_f1("The cat sat on a mat.", "A cat lay on the red mat") == pytest.approx(6 / 9)
    assert token_f1("no no no", "no") == pytest.approx(2 * 1 / 4)  # a word counts as often as it is in both
    assert token_f1("yes", "no") == 0
    assert token_f1("", "no") == 0
    assert token_f1("the", "!") == 1
