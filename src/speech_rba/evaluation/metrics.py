"""Scores of answers, and how sure they are: pure functions, numpy alone.

Every interval is a 95 % percentile interval of the bootstrap. Clips of one row share their text, so their scores are
not independent: with `clusters` whole rows are drawn, and without it every value stands alone.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from speech_rba.errors import UserError
from speech_rba.evaluation.parsing import plain

ARTICLES = {"a", "an", "the"}
UNITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = (
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
VALUES = (
    {word: value for value, word in enumerate(("zero", *UNITS, *TEENS))}
    | {word: 10 * value for value, word in enumerate(TENS, 2)}
)  # fmt: skip
_UNIT, _TEEN, _TEN = ("|".join(words) for words in (UNITS, TEENS, TENS))
_ORDINAL = "first|second|third|fourth|fifth|sixth|seventh|eighth|ninth"
_BELOW_100 = rf"(?:(?:{_TEN})(?:[- ](?:{_UNIT})\b|(?![- ](?:{_ORDINAL})\b))|{_TEEN}|{_UNIT})\b"
_BELOW_1000 = (
    rf"(?:(?:(?:a|{_UNIT}|{_TEEN}|(?<![\d.,])[1-9]\d?) )?hundred\b"
    rf"(?: (?:and )?{_BELOW_100}(?! (?:hundred|thousand)\b))?|{_BELOW_100})"
)
NUMBER = re.compile(
    rf"\b(?:(?:(?:a|{_BELOW_1000}|(?<![\d.,])[1-9]\d{{,2}}) )?thousand\b(?: (?:and )?{_BELOW_1000})?"
    rf"|{_BELOW_1000}|zero\b)"
)


def answer_tokens(text: str) -> list[str]:
    """The words of `text` that count in an answer: lower case, without accents, punctuation and articles.

    As SQuAD's normaliser, but a hyphen, slash, comma or colon parts two words, as `Coca-Cola` is what speech
    recognition writes apart; a number is its digits (`forty-two`, `1,000`), with its decimal point; initials
    are joined (`J. K.`, `U.S.`); a possessive s is left out; typographic signs are their plain forms.
    """
    return _words(re.sub(r"'s\b", "", _plain_letters(text)))


def contains_answer(response: str, answers: Sequence[str]) -> bool:
    """Whether the words of any of `answers` stand one after the other in `response`.

    A possessive may lack its s or its apostrophe: `Newton's` is Newton, `McDonald's` is McDonalds.

    Raises:
        UserError: there is no answer, or one has no word left, and would stand in every response.
    """
    if not answers:
        raise UserError("a question without answers cannot be scored; give at least one")
    said = [answer_tokens(response), _words(_plain_letters(response))]
    return any(_contains(words, answer) for words in said for answer in answers)


def _plain_letters(text: str) -> str:
    """Lower case without accents, in the signs of a keyboard; a fraction stands apart from a number before it."""
    text = re.sub(r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3}\b)", "", text)  # spaces between thousands
    text = unicodedata.normalize("NFKD", plain(re.sub(r"(?=[¼-¾⅐-⅞])", " ", text)).casefold())
    return "".join(sign for sign in text if not unicodedata.combining(sign))


def _words(text: str) -> list[str]:
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", " ".join(text.split()))
    text = NUMBER.sub(lambda number: str(_value(re.findall(r"\w+", number[0]))), text)
    text = re.sub(r"\b([a-z])\. (?=[a-z]\.)", r"\1", text)  # initials
    text = re.sub(r"[-/⁄,:;!?]|\.{2,}|(?<=[a-z]{2})\.(?=\d|\w\w)", " ", text)
    text = re.sub(r"(?<!\d)\.|\.(?!\d)|[^\w\s.]|_", "", text)
    return [word for word in text.split() if word not in ARTICLES]


def _value(words: list[str]) -> int:
    """What a number in words counts: 205 for two, hundred, and, five."""
    thousands, rest = 0, 0
    for word in words:
        if word == "thousand":
            thousands, rest = (rest or 1) * 1000, 0
        elif word == "hundred":
            rest = (rest or 1) * 100
        elif word not in ("a", "and"):
            rest += int(word) if word.isdigit() else VALUES[word]
    return thousands + rest


def is_right(response: str, answers: Sequence[str], wrong: Sequence[str] = ()) -> bool:
    """Whether `response` contains one of `answers` and none of `wrong`: `a man or a woman` answers nothing."""
    return contains_answer(response, answers) and not (wrong and contains_answer(response, wrong))


def _contains(said: list[str], answer: str) -> bool:
    forms = answer_tokens(answer), _words(_plain_letters(answer))
    if not all(forms):
        raise UserError(f"the answer {answer!r} is articles or punctuation alone; word it longer")
    return any(said[i : i + len(words)] == words for words in forms for i in range(len(said)))


def token_f1(response: str, reference: str) -> float:
    """SQuAD's F1 over the bags of words, 0 to 1; two texts without words agree."""
    said, expected = answer_tokens(response), answer_tokens(reference)
    if not said or not expected:
        return float(said == expected)
    return 2 * (Counter(said) & Counter(expected)).total() / (len(said) + len(expected))


def bootstrap(
    values: Sequence[float], num_samples: int, seed: int, clusters: Sequence[Hashable] | None = None
) -> tuple[float, float, float]:
    """(mean, low, high) of `values`.

    Raises:
        UserError: `values` is empty or holds a number that is not finite.
    """
    mean, means = _means([values], num_samples, seed, clusters)
    return mean[0].item(), *_interval(means[:, 0])


def paired_bootstrap(
    a: Sequence[float],
    b: Sequence[float],
    num_samples: int,
    seed: int,
    clusters: Sequence[Hashable] | None = None,
) -> tuple[float, float, float, float]:
    """(mean of a minus b, low, high, two-sided p-value) over the same items in the same order.

    The p-value is twice the share of draws on the other side of 0, one counted on top, so it is never 0.
    """
    mean, means = _means([a, b], num_samples, seed, clusters)
    drawn = means[:, 0] - means[:, 1]
    other_side = min((drawn <= 0).sum(), (drawn >= 0).sum())
    p_value = min(1.0, 2 * (1 + other_side.item()) / (num_samples + 1))
    return (mean[0] - mean[1]).item(), *_interval(drawn), p_value


def recovery(
    method: Sequence[float],
    cascade: Sequence[float],
    text: Sequence[float],
    num_samples: int,
    seed: int,
    clusters: Sequence[Hashable] | None = None,
) -> tuple[float, float, float] | None:
    """(share, low, high) of the gap between `cascade` and `text` that `method` closes; 1 is as good as text input.

    The three are scores of the same clips: the score of a row's text stands once for each of its clips. None when that
    gap or its interval reaches 0: then it is not to speak of, and the quotient would be noise. Else the draws without
    a gap, fewer than 1 in 40, are left out.
    """
    mean, means = _means([method, cascade, text], num_samples, seed, clusters)
    gaps = means[:, 2] - means[:, 1]
    if _interval(gaps)[0] <= 0 or mean[2] <= mean[1]:
        return None
    drawn = ((means[:, 0] - means[:, 1])[gaps > 0]) / gaps[gaps > 0]
    return ((mean[0] - mean[1]) / (mean[2] - mean[1])).item(), *_interval(drawn)


def _interval(drawn: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return low.item(), high.item()


def _means(
    columns: Sequence[Sequence[float]], num_samples: int, seed: int, clusters: Sequence[Hashable] | None
) -> tuple[np.ndarray, np.ndarray]:
    """The means of the K columns, (K,), and those of every draw, (num_samples, K); all columns share a draw."""
    if len({len(column) for column in columns}) > 1:
        raise UserError(
            f"scores to compare must be of the same items, got {[len(c) for c in columns]} values"
        )
    values = np.array(columns, dtype=float).T
    if not len(values) or not np.isfinite(values).all():
        raise UserError(
            f"a bootstrap needs finite values and at least one, got {len(values)}: drop what has no score"
        )
    ids = range(len(values)) if clusters is None else clusters
    if len(ids) != len(values):
        raise UserError(f"{len(values)} values need as many cluster ids, got {len(ids)}")
    codes = {name: code for code, name in enumerate(dict.fromkeys(ids))}
    sums = np.zeros((len(codes), values.shape[1] + 1))  # the last column counts a cluster's values
    np.add.at(sums, [codes[name] for name in ids], np.column_stack([values, np.ones(len(values))]))
    counts = np.random.default_rng(seed).multinomial(
        len(sums), np.full(len(sums), 1 / len(sums)), size=num_samples
    )
    drawn = counts @ sums
    return values.mean(axis=0), drawn[:, :-1] / drawn[:, -1:]
