"""Statistics against answers that are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from sedabench.analysis.stats import median, ratio_of_medians


def test_interval_of_one_or_two_repeats_is_their_range_and_says_so() -> None:
    one, two = median([7.0]), median([4.0, 6.0])
    assert (one.value, one.low, one.high, one.kind) == (7.0, 7.0, 7.0, "range")
    assert (two.value, two.low, two.high, two.kind) == (5.0, 4.0, 6.0, "range")


def test_interval_of_equal_repeats_is_a_point_without_a_warning() -> None:
    found = median([3.0] * 5)
    assert (found.low, found.value, found.high, found.kind) == (3.0, 3.0, 3.0, "bootstrap")


def test_interval_does_not_depend_on_the_order_of_the_repeats() -> None:
    assert median([1.0, 5.0, 2.0, 9.0, 4.0]) == median([9.0, 4.0, 1.0, 2.0, 5.0])


def test_interval_of_a_median_agrees_with_order_statistics() -> None:
    """For 101 values 0..100 the exact 95 % interval of the median is about [40, 60]."""
    found = median(np.arange(101.0))
    assert found.value == 50
    assert found.low == pytest.approx(40, abs=2)
    assert found.high == pytest.approx(60, abs=2)


def test_intervals_cover_the_true_median_as_often_as_they_say() -> None:
    source = np.random.default_rng(7)
    intervals = [median(source.normal(10, 1, size=25)) for _ in range(150)]
    covered = np.mean([i.low <= 10 <= i.high for i in intervals])
    assert 0.88 <= covered <= 1.0


@pytest.mark.parametrize("sizes", [(3, 3), (5, 4), (12, 7)])
def test_intervals_are_those_of_the_bootstrap_of_scipy(sizes: tuple[int, int]) -> None:
    source = np.random.default_rng(11)
    over, under = (np.sort(source.gamma(2, 1, size=size)) for size in sizes)
    how = {"paired": False, "n_resamples": 9999, "method": "percentile"}
    one = bootstrap((over,), np.median, rng=np.random.default_rng(5), **how)
    both = bootstrap(
        (over, under), lambda x, y, axis: np.median(x, axis=axis) / np.median(y, axis=axis),
        rng=np.random.default_rng(5), **how,
    )  # fmt: skip
    for found, expected in (
        (median(over, seed=5), one.confidence_interval),
        (ratio_of_medians(over, under, seed=5), both.confidence_interval),
    ):
        assert (found.low, found.high) == pytest.approx(tuple(expected), rel=1e-12)


def test_ratio_of_medians_of_disjoint_samples_stays_under_one() -> None:
    found = ratio_of_medians([4.0, 5.0, 6.0], [9.0, 10.0, 11.0])
    assert found.value == 0.5
    assert 4 / 11 <= found.low < found.value < found.high <= 6 / 9


@pytest.mark.parametrize("values", [[], [1.0, float("nan")]])
def test_no_values_and_nan_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="values"):
        median(values)
