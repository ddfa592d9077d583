import numpy as np
import pytest

from speech_rba.evaluation.metrics import (
    TEENS,
    TENS,
    UNITS,
    answer_tokens,
    bootstrap,
    contains_answer,
    is_right,
    paired_bootstrap,
    recovery,
    token_f1,
)


def test_answer_tokens_drop_what_does_not_count():
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
        ("the twenty-first, second 3rd", ["twenty", "first", "second", "3rd"]),  # ordinals count nothing
        ("1,234,567 and 1\u202f000 but 1,2", ["1234567", "and", "1000", "but", "1", "2"]),
        ("3.14. .5", ["3.14", "5"]),
        ("½ = 1/2, 2½", ["1", "2", "1", "2", "2", "1", "2"]),
        ("J. K. Rowling’s U. S. Ph.D.", ["jk", "rowling", "us", "phd"]),
        ("ﬁne Ｆｉｖｅ…ten", ["fine", "5", "10"]),
        ("Saint‑Denis — 5–7", ["saint", "denis", "5", "7"]),  # a hyphen that does not break, two dashes
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
        ("Washington, George", ["George Washington"], False),  # the words, but not one after the other
        ("It was George H. Washington", ["George Washington"], False),
        ("There are Twelve months.", ["12"], True),
        ("There are 12 months.", ["twelve", "a dozen"], True),
        ("There are 120 months.", ["12"], False),  # a part of a word is no answer
        ("the party", ["art"], False),
        ("He lived on the moon", ["The Moon"], True),
        ("Paris or Rome", ["Berlin", "Rome"], True),
        ("", ["Rome"], False),
    ],
)
def test_contains_answer(response, answers, expected):
    assert contains_answer(response, answers) is expected


def test_an_answer_that_names_the_other_too_is_wrong():
    assert is_right("You sound like a woman.", ["woman"], ["man"])
    assert not is_right("You sound like a man or a woman.", ["woman"], ["man"])
    assert not is_right("I cannot say.", ["woman"], ["man"])


@pytest.mark.parametrize("answers", [[], ["A"], ["?!"]])
def test_contains_answer_refuses_answers_that_fit_everything(answers):
    with pytest.raises(ValueError, match="answer"):
        contains_answer("anything", answers)


def test_token_f1_by_hand():
    # said: cat sat on mat (4), expected: cat lay on red mat (5), common: cat on mat (3) -> 2 * 3 / 9
    assert token_f1("The cat sat on a mat.", "A cat lay on the red mat") == pytest.approx(6 / 9)
    assert token_f1("no no no", "no") == pytest.approx(2 * 1 / 4)  # a word counts as often as both say it
    assert token_f1("yes", "no") == 0
    assert token_f1("", "no") == 0
    assert token_f1("the", "!") == 1


def test_bootstrap_of_equal_values_has_no_width():
    assert bootstrap([0.25] * 7, 100, 0) == (0.25, 0.25, 0.25)


def test_bootstrap_interval_is_the_binomial_one():
    # 100 of 400: standard error sqrt(0.25 * 0.75 / 400) = 0.02165, interval 0.25 +- 0.0424
    mean, low, high = bootstrap([1.0] * 100 + [0.0] * 300, 20_000, 0)
    assert mean == 0.25
    assert (low, high) == pytest.approx((0.2076, 0.2924), abs=0.004)
    assert bootstrap([1.0, 0.0, 0.0], 100, 5) == bootstrap([1.0, 0.0, 0.0], 100, 5)


def test_clusters_widen_the_interval_as_fewer_values_would():
    # 4 equal clips of each of 100 rows tell no more than 100 clips
    values, rows = [1.0] * 25 + [0.0] * 75, list(range(100))
    assert bootstrap(values * 4, 500, 3, clusters=rows * 4) == bootstrap(values, 500, 3)


def test_clusters_of_unequal_size_weigh_by_their_values():
    # rows x (1, 1, 1) and y (0): draws are xx 1, yy 0, xy 3/4
    mean, low, high = bootstrap([1, 1, 1, 0], 2000, 0, clusters=["x", "x", "x", "y"])
    assert (mean, low, high) == (0.75, 0.0, 1.0)


def test_paired_bootstrap_sees_what_two_intervals_hide():
    noise = np.random.default_rng(0).normal(size=200)
    assert paired_bootstrap(noise + 0.5, noise, 999, 0) == pytest.approx((0.5, 0.5, 0.5, 2 / 1000))
    assert paired_bootstrap(noise, noise + 0.5, 999, 0) == pytest.approx((-0.5, -0.5, -0.5, 2 / 1000))
    assert paired_bootstrap(noise, noise, 999, 0) == (0, 0, 0, 1)


def test_paired_bootstrap_p_value_by_hand():
    # differences 1 and -1: a draw of two is below or at 0 in three of four, above or at 0 in three of four -> p 1
    assert paired_bootstrap([1, 0], [0, 1], 999, 0)[3] == 1
    # one 0 and three 1: only 0000 of 256 draws reaches 0 -> p about 2 / 256
    assert paired_bootstrap([0, 1, 1, 1], [0, 0, 0, 0], 50_000, 0)[3] == pytest.approx(2 / 256, rel=0.2)


def test_recovery_by_hand():
    cascade, text = np.zeros(50), np.ones(50)
    assert recovery(cascade + 0.25, cascade, text, 100, 0) == (0.25, 0.25, 0.25)
    # 20 of 50 recovered, every text right, no cascade right: the method's own 0.4 +- 1.96 * sqrt(.4 * .6 / 50)
    value, low, high = recovery([1] * 20 + [0] * 30, cascade, text, 20_000, 0)
    assert (value, low, high) == pytest.approx((0.4, 0.264, 0.536), abs=0.02)


def test_recovery_needs_a_gap():
    assert recovery([1, 0, 1], [1, 0, 0], [1, 0, 0], 100, 0) is None
    assert recovery([1, 0, 1], [1, 1, 0], [0, 1, 1], 100, 0) is None
    # a gap of 0.5 that 1 in 16 draws of four lacks
    assert recovery([1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], 1000, 0) is None


@pytest.mark.parametrize("values", [[], [1.0, float("nan")]])
def test_bootstrap_refuses_what_has_no_mean(values):
    with pytest.raises(ValueError, match="finite"):
        bootstrap(values, 10, 0)


def test_pairs_and_clusters_must_fit():
    with pytest.raises(ValueError, match=r"\[2, 1\]"):
        paired_bootstrap([1, 2], [1], 10, 0)
    with pytest.raises(ValueError, match="cluster ids, got 1"):
        bootstrap([1, 2], 10, 0, clusters=["x"])
