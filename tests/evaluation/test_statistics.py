"""Bootstrap intervals, paired tests and recovery against numbers worked by hand."""

import numpy as np
import pytest

from speech_rba.errors import UserError
from speech_rba.evaluation.statistics import (
    bootstrap,
    paired_bootstrap,
    paired_rate_bootstrap,
    rate_bootstrap,
    recovery,
)


def test_bootstrap_of_equal_values_has_no_width():
    assert bootstrap([0.25] * 7, 100, 0) == (0.25, 0.25, 0.25)


def test_bootstrap_interval_is_the_binomial_one():
    # 100 of 400: standard error sqrt(0.25 * 0.75 / 400) = 0.02165, interval 0.25 +- 0.0424
    mean, low, high = bootstrap([1.0] * 100 + [0.0] * 300, 4_000, 0)
    assert mean == 0.25
    assert (low, high) == pytest.approx((0.2076, 0.2924), abs=0.004)
    assert bootstrap([1.0, 0.0, 0.0], 100, 5) == bootstrap([1.0, 0.0, 0.0], 100, 5)


def test_clusters_widen_the_interval_as_fewer_values_would():
    # 4 equal clips of each of 100 rows hold no more information than 100 clips
    values, rows = [1.0] * 25 + [0.0] * 75, list(range(100))
    assert bootstrap(values * 4, 500, 3, clusters=rows * 4) == bootstrap(values, 500, 3)


def test_clusters_of_unequal_size_weigh_by_their_values():
    # rows x (1, 1, 1) and y (0): resamples are xx 1, yy 0, xy 3/4
    mean, low, high = bootstrap([1, 1, 1, 0], 2000, 0, clusters=["x", "x", "x", "y"])
    assert (mean, low, high) == (0.75, 0.0, 1.0)


def test_a_paired_test_is_significant_where_the_intervals_overlap():
    noise = np.random.default_rng(0).normal(size=200)
    assert paired_bootstrap(noise + 0.5, noise, 999, 0) == pytest.approx((0.5, 0.5, 0.5, 2 / 1000))
    assert paired_bootstrap(noise, noise + 0.5, 999, 0) == pytest.approx((-0.5, -0.5, -0.5, 2 / 1000))
    assert paired_bootstrap(noise, noise, 999, 0) == (0, 0, 0, 1)


def test_paired_bootstrap_p_value_by_hand():
    # differences 1 and -1: of four resamples three are at most 0 and three at least 0 -> p 1
    assert paired_bootstrap([1, 0], [0, 1], 999, 0)[3] == 1
    # one 0 and three 1: only 0000 of 256 resamples reaches 0 -> p about 2 / 256
    assert paired_bootstrap([0, 1, 1, 1], [0, 0, 0, 0], 50_000, 0)[3] == pytest.approx(2 / 256, rel=0.2)


def test_a_rate_is_over_all_of_its_totals_and_resamples_clusters():
    # speaker x has 1 of 2 and 0 of 2 words wrong, y 4 of 6: resamples are xx 1/4, xy 5/10, yy 2/3
    errors, words, speakers = [1, 0, 4], [2, 2, 6], ["x", "x", "y"]
    assert rate_bootstrap(errors, words, 2000, 0, speakers) == pytest.approx((1 / 2, 1 / 4, 2 / 3))
    difference = paired_rate_bootstrap(errors, [0, 0, 0], words, 999, 0, speakers)
    assert difference == pytest.approx((1 / 2, 1 / 4, 2 / 3, 2 / 1000))


def test_a_rate_leaves_out_resamples_without_a_total():
    assert rate_bootstrap([0, 1], [0, 2], 100, 0, ["x", "y"]) == (0.5, 0.5, 0.5)
    with pytest.raises(UserError, match="a total above 0"):
        rate_bootstrap([1], [0], 100, 0, ["x"])


def test_recovery_by_hand():
    cascade, text = np.zeros(50), np.ones(50)
    assert recovery(cascade + 0.25, cascade, text, 100, 0) == (0.25, 0.25, 0.25)
    # 20 of 50 recovered, every text right, no cascade right: 0.4 +- 1.96 * sqrt(.4 * .6 / 50)
    value, low, high = recovery([1] * 20 + [0] * 30, cascade, text, 20_000, 0)
    assert (value, low, high) == pytest.approx((0.4, 0.264, 0.536), abs=0.02)


def test_recovery_is_undefined_without_a_gap():
    assert recovery([1, 0, 1], [1, 0, 0], [1, 0, 0], 100, 0) is None
    assert recovery([1, 0, 1], [1, 1, 0], [0, 1, 1], 100, 0) is None
    # a gap of 0.5, without which is 1 in 16 resamples of four
    assert recovery([1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], 1000, 0) is None


@pytest.mark.parametrize("values", [[], [1.0, float("nan")]])
def test_values_without_a_mean_are_refused(values):
    with pytest.raises(ValueError, match="finite"):
        bootstrap(values, 10, 0)


def test_pairs_and_clusters_must_be_as_many_as_the_values():
    with pytest.raises(ValueError, match=r"\[2, 1\]"):
        paired_bootstrap([1, 2], [1], 10, 0)
    with pytest.raises(ValueError, match="cluster ids, got 1"):
        bootstrap([1, 2], 10, 0, clusters=["x"])
