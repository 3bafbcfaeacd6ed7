"""Limits on one arm: exact bounds of a share, score bounds of an accuracy, t bounds of a level."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import signal, special, stats

from farm.analysis.budgets import floor, level_bound, share_over

FIXED = settings(derandomize=True, deadline=None)
ALPHAS = [0.01, 0.05, 0.2]
COUNTS = [(0, 1), (1, 1), (0, 299), (3, 300), (150, 300), (299, 300), (300, 300), (17, 10**5)]
VALUES = arrays.arrays(np.float64, st.integers(2, 20), elements=st.floats(1e-3, 1e9))


@st.composite
def counted(draw):
    """Some of n."""
    n = draw(st.integers(1, 2000))
    return draw(st.integers(0, n)), n


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize(("over", "n"), COUNTS)
def test_the_bounds_of_a_share_are_those_of_clopper_and_pearson(over, n, alpha):
    found = share_over(over, n, 0.01, alpha)
    expected = stats.binomtest(over, n).proportion_ci(1 - 2 * alpha, "exact")
    assert (found.lo, found.hi) == pytest.approx(tuple(expected), rel=1e-7, abs=1e-15)
    assert (found.estimate, found.n, found.allowed) == (over / n, n, 0.01)


@pytest.mark.parametrize(
    ("allowed", "alpha", "least"),
    # 59 and 299 are the well-known sample sizes of a 95 % bound on a p95 and a p99
    [(0.05, 0.05, 59), (0.01, 0.05, 299), (0.001, 0.05, 2995), (0.01, 0.01, 459), (0.5, 0.5, 2)],
)
def test_so_many_inferences_without_an_overrun_are_needed(allowed, alpha, least):
    assert share_over(0, 1, allowed, alpha).least_n == least


@FIXED
@given(st.floats(0.0005, 0.9), st.sampled_from(ALPHAS))
def test_the_fewest_inferences_pass_and_one_fewer_does_not(allowed, alpha):
    least = share_over(0, 1, allowed, alpha).least_n
    assert share_over(0, least, allowed, alpha).hi <= allowed * (1 + 1e-12)
    assert least == 1 or share_over(0, least - 1, allowed, alpha).hi >= allowed * (1 - 1e-12)


@pytest.mark.parametrize("allowed", [0.001, 0.01, 0.1])
@pytest.mark.parametrize("n", [59, 299, 2000])
def test_a_share_just_at_the_limit_passes_at_most_as_often_as_alpha_says(n, allowed):
    chances = stats.binom.pmf(np.arange(n + 1), n, allowed)
    found = [share_over(over, n, allowed, 0.05) for over in range(n + 1)]
    assert chances[[one.hi < allowed for one in found]].sum() <= 0.05
    assert chances[[one.lo > allowed for one in found]].sum() <= 0.05


def test_correlated_inferences_break_the_exact_bound_and_levels_of_repeats_break_it_badly():
    """A limit at the true p99: how often the upper bound of the share is below 1 %."""

    def wrong(correlation: float, shared: float, repeats: int, queries: int) -> float:
        rng = np.random.default_rng(40)
        noise = rng.standard_normal((2000 * repeats, queries + 30))
        noise *= np.sqrt(1 - correlation**2)
        inside = signal.lfilter([1.0], [1.0, -correlation], noise, axis=1)[:, 30:]
        inside += shared * rng.standard_normal((2000 * repeats, 1))
        limit = special.ndtri(0.99) * np.sqrt(1 + shared**2)
        over = (inside > limit).sum(axis=1).reshape(2000, repeats).sum(axis=1)
        n = repeats * queries
        passes = [share_over(k, n, 0.01, 0.05).hi < 0.01 for k in range(over.max() + 1)]
        return float(np.mean(np.array(passes)[over]))

    alone, correlated = wrong(0, 0, 1, 1500), wrong(0.4, 0, 1, 1500)
    levels = wrong(0.4, 0.2, 5, 300)
    assert alone <= 0.05 + 0.015
    assert alone < correlated < 0.1
    assert levels > 0.09


def test_a_level_bound_on_the_tail_of_correlated_repeats_holds_its_level():
    rng = np.random.default_rng(41)
    noise = rng.standard_normal((4000, 5, 230)) * np.sqrt(1 - 0.4**2)
    inside = signal.lfilter([1.0], [1.0, -0.4], noise, axis=2)[..., 30:]
    inside += 0.2 * rng.standard_normal((4000, 5, 1))
    tails = np.exp(0.05 * np.quantile(inside, 0.99, axis=2))
    truth = np.exp(np.log(tails).mean())
    found = [level_bound(repeats, 0.05) for repeats in tails]
    assert np.mean([one.hi < truth for one in found]) == pytest.approx(0.05, abs=0.015)
    assert np.mean([one.lo > truth for one in found]) == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize(("right", "n"), COUNTS)
def test_the_bounds_of_an_accuracy_are_those_of_wilson(right, n, alpha):
    found = floor(right, n, alpha)
    expected = stats.binomtest(right, n).proportion_ci(1 - 2 * alpha, "wilson")
    assert (found.lo, found.hi) == pytest.approx(tuple(expected), rel=1e-9, abs=1e-12)
    assert (found.estimate, found.n) == (right / n, n)


@pytest.mark.parametrize("n", [1, 10, 900])
def test_all_right_and_all_wrong_reach_the_edge_and_no_further(n):
    z = stats.norm.ppf(0.95)
    nothing, everything = floor(0, n, 0.05), floor(n, n, 0.05)
    assert (nothing.lo, everything.hi) == (0, 1)
    assert everything.lo == pytest.approx(n / (n + z * z))
    assert nothing.hi == pytest.approx(z * z / (n + z * z))
    assert (share_over(0, n, 0.01, 0.05).lo, share_over(n, n, 0.01, 0.05).hi) == (0, 1)


@FIXED
@given(counted(), st.sampled_from(ALPHAS))
def test_counting_the_others_mirrors_the_bounds(some, alpha):
    k, n = some
    for there, back in (
        (floor(k, n, alpha), floor(n - k, n, alpha)),
        (share_over(k, n, 0.01, alpha), share_over(n - k, n, 0.01, alpha)),
    ):
        assert (back.lo, back.hi) == pytest.approx((1 - there.hi, 1 - there.lo), abs=1e-9)


@FIXED
@given(counted())
def test_bounds_surround_the_estimate_stay_in_range_and_widen_as_alpha_falls(some):
    for made in ([floor(*some, a) for a in ALPHAS], [share_over(*some, 0.1, a) for a in ALPHAS]):
        assert all(0 <= one.lo <= one.estimate <= one.hi <= 1 for one in made)
        assert sorted(made, key=lambda one: one.lo) == made
        assert sorted(made, key=lambda one: -one.hi) == made


@FIXED
@given(counted(), st.sampled_from(ALPHAS))
def test_one_more_moves_both_bounds_up(some, alpha):
    k, n = some
    for bounds in (
        lambda count: floor(count, n, alpha),
        lambda count: share_over(count, n, 0.1, alpha),
    ):
        if k < n:
            fewer, more = bounds(k), bounds(k + 1)
            assert fewer.lo < more.lo
            assert fewer.hi < more.hi or more.hi == 1


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("repeats", [2, 5, 20])
def test_the_bounds_of_a_level_are_a_t_interval_on_logarithms(repeats, alpha):
    values = np.random.default_rng(repeats).lognormal(13, 0.05, repeats)
    found = level_bound(values, alpha)
    expected = stats.ttest_1samp(np.log(values), 0).confidence_interval(1 - 2 * alpha)
    assert np.log([found.lo, found.hi]) == pytest.approx(tuple(expected), rel=1e-9)
    assert found.estimate == pytest.approx(stats.gmean(values))
    assert found.n == repeats


@FIXED
@given(VALUES, st.floats(0.01, 100), st.sampled_from(ALPHAS))
def test_a_level_follows_the_unit_of_its_values(values, factor, alpha):
    there, scaled = level_bound(values, alpha), level_bound(values * factor, alpha)
    assert scaled.estimate == pytest.approx(there.estimate * factor, rel=1e-9)
    for one in (there, scaled):
        assert one.lo <= one.estimate * (1 + 1e-12)
        assert one.estimate <= one.hi * (1 + 1e-12)


def test_repeats_that_agree_to_the_bit_leave_no_doubt():
    found = level_bound(np.full(6, 2.5e6), 0.05)
    assert (found.estimate, found.lo, found.hi) == pytest.approx((2.5e6,) * 3, rel=1e-12)


def test_two_repeats_that_disagree_widely_bound_nothing():
    found = level_bound(np.array([1.0, 1e9]), 1e-4)
    assert (found.lo, found.hi) == (0, np.inf)
    assert found.estimate == pytest.approx(10**4.5)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (-1, 5), (6, 5), (1, 0)])
def test_a_count_that_is_no_share_is_refused(k, n):
    with pytest.raises(ValueError, match="no share"):
        floor(k, n, 0.05)
    with pytest.raises(ValueError, match="no share"):
        share_over(k, n, 0.01, 0.05)


@pytest.mark.parametrize("allowed", [0.0, 1.0, -0.1, np.nan])
def test_an_allowed_share_of_nothing_or_everything_is_refused(allowed):
    with pytest.raises(ValueError, match="allowed"):
        share_over(1, 10, allowed, 0.05)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 0.0], [1.0, -2.0], [1.0, np.nan], [1, np.inf]])
def test_values_that_have_no_level_are_refused(values):
    with pytest.raises(ValueError, match=r"level|positive"):
        level_bound(np.array(values), 0.05)
