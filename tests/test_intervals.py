import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from circuitlapse.errors import CircuitlapseError
from circuitlapse.stats.intervals import (
    bootstrap_indices,
    bootstrap_means,
    mean_interval,
    mean_intervals,
    near_zero,
    percentile_ends,
    proportion_interval,
)


def test_mean_interval_is_the_one_worked_out_by_hand():
    estimate = mean_interval(np.array([1.0, 2.0, 3.0, 4.0]))
    half = 3.182446305284263 * np.sqrt(5 / 3) / 2  # t at .975 with 3 degrees of freedom
    assert estimate.value == 2.5
    assert (estimate.low, estimate.high) == pytest.approx((2.5 - half, 2.5 + half))


def test_columns_match_scipys_one_sample_test():
    values = np.random.default_rng(0).normal(size=(40, 3))
    result = mean_intervals(values, confidence=0.99)
    ends = stats.ttest_1samp(values, 0).confidence_interval(0.99)
    np.testing.assert_allclose(result.low, ends.low)
    np.testing.assert_allclose(result.high, ends.high)
    assert result[1].value == pytest.approx(values[:, 1].mean())
    assert len(result) == 3


def test_excludes_zero_needs_the_whole_interval_on_one_side():
    values = np.array([[1.0, -1.0, 1.0], [1.1, -1.1, -1.0], [0.9, -0.9, 0.5]])
    assert mean_intervals(values).excludes_zero.tolist() == [True, True, False]


def test_mean_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    result = mean_intervals(rng.normal(3.0, 2.0, size=(12, 4000)))
    assert 0.94 < ((result.low <= 3) & (result.high >= 3)).mean() < 0.96


def test_mean_interval_refuses_too_few_and_broken_values():
    with pytest.raises(CircuitlapseError, match=r"at least two prompts \(got 1\)\. Use more"):
        mean_interval(np.array([1.0]))
    with pytest.raises(CircuitlapseError, match=r"not a finite number \(got 'first at prompt 1'"):
        mean_interval(np.array([1.0, np.nan]))


def test_wilson_interval_is_the_published_one():
    # Wilson's score interval for 8 of 10.
    estimate = proportion_interval(8, 10)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx(
        (0.8, 0.49016247, 0.94331785)
    )


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_its_value_and_stays_a_proportion(case):
    successes, n = case
    estimate = proportion_interval(successes, n)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert estimate.low < estimate.high


def test_proportion_refuses_what_is_not_one():
    with pytest.raises(CircuitlapseError, match="3 of 2"):
        proportion_interval(3, 2)
    with pytest.raises(CircuitlapseError, match="0 of 0"):
        proportion_interval(0, 0)


def test_bootstrap_draws_are_fixed_by_the_seed_and_in_range():
    first, again = bootstrap_indices(7, 50, 3), bootstrap_indices(7, 50, 3)
    np.testing.assert_array_equal(first, again)
    assert (first != bootstrap_indices(7, 50, 4)).any()
    assert first.shape == (50, 7)
    assert first.min() == 0
    assert first.max() == 6


def test_bootstrap_means_equal_the_literal_resampling():
    values = np.random.default_rng(2).normal(size=(9, 4))
    indices = bootstrap_indices(9, 30, 0)
    literal = np.stack([values[row].mean(axis=0) for row in indices])
    np.testing.assert_allclose(bootstrap_means(values, indices), literal, atol=1e-12)


def test_percentile_ends_hold_the_central_95_percent():
    low, high = percentile_ends(np.arange(1001.0)[:, None])
    assert (low[0], high[0]) == pytest.approx((25.0, 975.0))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([1.0, -1.0, 0.5], r"not clear of zero: 0\.167 \(95 % interval -2\.42 to 2\.75\)"),
        ([0.0, 0.0], "not clear of zero: 0 "),
        ([3.0], "one prompt gives no interval"),
        ([3.0, np.inf], "not a finite number"),
    ],
)
def test_a_denominator_near_zero_is_told(values, reason):
    assert re.search(reason, near_zero(np.array(values)) or "")


def test_a_denominator_clear_of_zero_is_passed():
    assert near_zero(np.array([1.0, 1.2, 0.9])) is None
    assert near_zero(np.array([-1.0, -1.2, -0.9])) is None
