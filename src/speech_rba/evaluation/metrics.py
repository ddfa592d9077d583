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

ARTICLES = {"a", "an", "the"}
NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
DIGITS = {word: str(number) for number, word in enumerate(NUMBERS)}


def answer_tokens(text: str) -> list[str]:
    """The words of `text` that count in an answer: lower case, no accents, punctuation or articles, `two` as `2`.

    As SQuAD's normaliser, but a hyphen or slash parts two words: `Coca-Cola` is what speech recognition writes apart.
    """
    text = re.sub(r"[-–—/]", " ", unicodedata.normalize("NFKD", text.lower()))
    text = re.sub(r"[^\w\s]|_", "", text)  # accents too: NFKD has set them apart from their letters
    return [DIGITS.get(word, word) for word in text.split() if word not in ARTICLES]


def contains_answer(response: str, answers: Sequence[str]) -> bool:
    """Whether the words of any of `answers` stand one after the other in `response`.

    Raises:
        UserError: there is no answer, or one has no word left, and would stand in every response.
    """
    if not answers:
        raise UserError("a question without answers cannot be scored; give at least one")
    said = answer_tokens(response)
    return any(_contains(said, answer) for answer in answers)


def is_right(response: str, answers: Sequence[str], wrong: Sequence[str] = ()) -> bool:
    """Whether `response` contains one of `answers` and none of `wrong`: `a man or a woman` answers nothing."""
    return contains_answer(response, answers) and not (wrong and contains_answer(response, wrong))


def _contains(said: list[str], answer: str) -> bool:
    words = answer_tokens(answer)
    if not words:
        raise UserError(f"the answer {answer!r} is articles or punctuation alone; word it longer")
    return any(said[i : i + len(words)] == words for i in range(len(said) - len(words) + 1))


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
    a: Sequence[float], b: Sequence[float], num_samples: int, seed: int, clusters: Sequence[Hashable] | None = None
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
        raise UserError(f"scores to compare must be of the same items, got {[len(c) for c in columns]} values")
    values = np.array(columns, dtype=float).T
    if not len(values) or not np.isfinite(values).all():
        raise UserError(f"a bootstrap needs finite values and at least one, got {len(values)}: drop what has no score")
    ids = range(len(values)) if clusters is None else clusters
    if len(ids) != len(values):
        raise UserError(f"{len(values)} values need as many cluster ids, got {len(ids)}")
    codes = {name: code for code, name in enumerate(dict.fromkeys(ids))}
    sums = np.zeros((len(codes), values.shape[1] + 1))  # the last column counts a cluster's values
    np.add.at(sums, [codes[name] for name in ids], np.column_stack([values, np.ones(len(values))]))
    counts = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=num_samples)
    drawn = counts @ sums
    return values.mean(axis=0), drawn[:, :-1] / drawn[:, -1:]
