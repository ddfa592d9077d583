"""Means, rates, paired differences and recovery with 95 % percentile intervals of the bootstrap; numpy alone.

The scores of clips of one row depend on each other, because the clips share their text: with `clusters`,
whole rows are resampled. Without `clusters`, each value is resampled by itself.
"""

from collections.abc import Hashable, Sequence
from functools import lru_cache

import numpy as np

from speech_rba.errors import UserError


def bootstrap(
    values: Sequence[float], num_samples: int, seed: int, clusters: Sequence[Hashable] | None = None
) -> tuple[float, float, float]:
    """(mean, low, high) of `values`.

    Raises:
        UserError: `values` is empty or holds a number that is not finite.
    """
    mean, means = _resampled_means([values], num_samples, seed, clusters)
    return mean[0].item(), *_interval(means[:, 0])


def paired_bootstrap(
    a: Sequence[float],
    b: Sequence[float],
    num_samples: int,
    seed: int,
    clusters: Sequence[Hashable] | None = None,
) -> tuple[float, float, float, float]:
    """(mean of a minus b, low, high, two-sided p-value) over the same items in the same order.

    The p-value is twice the share of resamples on the other side of 0. One resample is added to the count, so
    that it is never 0.
    """
    mean, means = _resampled_means([a, b], num_samples, seed, clusters)
    differences = means[:, 0] - means[:, 1]
    return (mean[0] - mean[1]).item(), *_interval(differences), _p_value(differences)


def rate_bootstrap(
    counts: Sequence[float],
    totals: Sequence[float],
    num_samples: int,
    seed: int,
    clusters: Sequence[Hashable],
) -> tuple[float, float, float]:
    """(rate, low, high): the sum of `counts` over the sum of `totals`, as of word errors over words.

    Raises:
        UserError: there are no values, or all totals are 0.
    """
    [rate], rates = _resampled_rates([counts], totals, num_samples, seed, clusters)
    return rate.item(), *_interval(rates[:, 0])


def paired_rate_bootstrap(
    a: Sequence[float],
    b: Sequence[float],
    totals: Sequence[float],
    num_samples: int,
    seed: int,
    clusters: Sequence[Hashable],
) -> tuple[float, float, float, float]:
    """As `paired_bootstrap`, of the rates of `a` and `b` over the same `totals`."""
    rate, rates = _resampled_rates([a, b], totals, num_samples, seed, clusters)
    differences = rates[:, 0] - rates[:, 1]
    return (rate[0] - rate[1]).item(), *_interval(differences), _p_value(differences)


def recovery(
    method: Sequence[float],
    cascade: Sequence[float],
    text: Sequence[float],
    num_samples: int,
    seed: int,
    clusters: Sequence[Hashable] | None = None,
) -> tuple[float, float, float] | None:
    """(share, low, high) of the gap between `cascade` and `text` that `method` closes; 1 equals text.

    The three hold scores of the same clips: the score of a row's text is repeated for each of its clips. None
    when the gap or the lower end of its interval is not above 0: the quotient would be noise. The resamples
    without a gap, fewer than 1 in 40, are left out.
    """
    mean, means = _resampled_means([method, cascade, text], num_samples, seed, clusters)
    gaps = means[:, 2] - means[:, 1]
    if _interval(gaps)[0] <= 0 or mean[2] <= mean[1]:
        return None
    shares = ((means[:, 0] - means[:, 1])[gaps > 0]) / gaps[gaps > 0]
    return ((mean[0] - mean[1]) / (mean[2] - mean[1])).item(), *_interval(shares)


def _interval(resampled: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return low.item(), high.item()


def _p_value(differences: np.ndarray) -> float:
    other_side = min((differences <= 0).sum(), (differences >= 0).sum())
    return min(1.0, 2 * (1 + other_side.item()) / (len(differences) + 1))


def _resampled_means(
    columns: Sequence[Sequence[float]], num_samples: int, seed: int, clusters: Sequence[Hashable] | None
) -> tuple[np.ndarray, np.ndarray]:
    """The means of K columns, (K,), and of every resample, (num_samples, K); columns share resamples."""
    values = _checked_values(columns)
    resampled = _resampled_sums(values, num_samples, seed, clusters)
    return values.mean(axis=0), resampled[:, :-1] / resampled[:, -1:]


def _resampled_rates(
    columns: Sequence[Sequence[float]],
    totals: Sequence[float],
    num_samples: int,
    seed: int,
    clusters: Sequence[Hashable],
) -> tuple[np.ndarray, np.ndarray]:
    """The rates of K columns over `totals`, (K,), and of every resample that has a total above 0, (N, K)."""
    values = _checked_values([*columns, totals])
    sums = values.sum(axis=0)
    if sums[-1] <= 0:
        raise UserError("a rate needs a total above 0: drop groups without a reference word")
    resampled = _resampled_sums(values, num_samples, seed, clusters)
    resampled = resampled[resampled[:, -2] > 0]
    return sums[:-1] / sums[-1], resampled[:, :-2] / resampled[:, -2:-1]


def _resampled_sums(
    values: np.ndarray, num_samples: int, seed: int, clusters: Sequence[Hashable] | None
) -> np.ndarray:
    """The sums of `values` (N, K) and, in a last column, the number of values in every resample,
    (num_samples, K + 1)."""
    ids = range(len(values)) if clusters is None else clusters
    if len(ids) != len(values):
        raise UserError(f"{len(values)} values need as many cluster ids, got {len(ids)}")
    codes = {name: code for code, name in enumerate(dict.fromkeys(ids))}
    sums = np.zeros((len(codes), values.shape[1] + 1))
    np.add.at(sums, [codes[name] for name in ids], np.column_stack([values, np.ones(len(values))]))
    return _cluster_counts(len(sums), num_samples, seed) @ sums


def _checked_values(columns: Sequence[Sequence[float]]) -> np.ndarray:
    """The K columns of N values as one array (N, K)."""
    if len({len(column) for column in columns}) > 1:
        raise UserError(
            f"scores to compare must be of the same items, got {[len(c) for c in columns]} values"
        )
    values = np.array(columns, dtype=float).T
    if not len(values) or not np.isfinite(values).all():
        raise UserError(
            f"a bootstrap needs finite values and at least one, got {len(values)}: drop what has no score"
        )
    return values


@lru_cache(
    maxsize=32
)  # thousands of tests share a few dozen draws; one draw of 215 rows takes 30 ms and 3.4 MB
def _cluster_counts(num_clusters: int, num_samples: int, seed: int) -> np.ndarray:
    """How often each resample holds each cluster, (num_samples, num_clusters)."""
    shares = np.full(num_clusters, 1 / num_clusters)
    return np.random.default_rng(seed).multinomial(num_clusters, shares, size=num_samples).astype(float)
