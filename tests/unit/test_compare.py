"""Effects over blocks and exact numbers: sign, scale, interval and what would have been found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from farm.analysis.compare import POWER, Effect, block_effect, exact_effect, items_needed

FIXED = settings(derandomize=True, deadline=None)
ALPHAS = [0.01, 0.05, 0.2]
TIMES = arrays.arrays(
    np.float64, st.tuples(st.integers(2, 12), st.just(4)), elements=st.floats(1e3, 1e9)
)


def differences(times: np.ndarray) -> np.ndarray:
    """Per block of times A B B A: mean(log B) - mean(log A)."""
    logs = np.log(times)
    return logs[:, [1, 2]].mean(axis=1) - logs[:, [0, 3]].mean(axis=1)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("blocks", [2, 5, 13])
def test_the_bounds_are_those_of_a_one_sample_t_interval(blocks, alpha):
    sample = np.random.default_rng(blocks).normal(0.03, 0.02, blocks)
    effect = block_effect(sample, alpha)
    expected = stats.ttest_1samp(sample, 0).confidence_interval(1 - 2 * alpha)
    assert np.log1p([effect.lo, effect.hi]) == pytest.approx(expected, rel=1e-9)
    assert np.log1p(effect.estimate) == pytest.approx(sample.mean())
    assert effect.n == blocks


@pytest.mark.parametrize("level", [-0.1, 0.0, 0.25])
def test_blocks_that_agree_to_the_bit_leave_no_doubt(level):
    effect = block_effect(np.full(8, np.log1p(level)), 0.05)
    assert (effect.lo, effect.hi) == pytest.approx((level, level), abs=1e-12)
    assert effect.estimate == pytest.approx(level, abs=1e-12)
    assert effect.mde == pytest.approx(0, abs=1e-12)


@FIXED
@given(TIMES, st.sampled_from(ALPHAS))
def test_swapping_the_arms_turns_the_sign_of_the_log_effect(times, alpha):
    there = block_effect(differences(times), alpha)
    back = block_effect(differences(times[:, [1, 0, 3, 2]]), alpha)
    assume(np.isfinite([there.hi, back.hi]).all() and min(there.lo, back.lo) > -0.999)
    assert np.log1p(back.estimate) == pytest.approx(-np.log1p(there.estimate), abs=1e-9)
    assert np.log1p(back.lo) == pytest.approx(-np.log1p(there.hi), rel=1e-6, abs=1e-9)
    assert np.log1p(back.hi) == pytest.approx(-np.log1p(there.lo), rel=1e-6, abs=1e-9)
    assert back.mde == pytest.approx(there.mde, rel=1e-6, abs=1e-9)


@FIXED
@given(TIMES, st.floats(0.01, 100), st.sampled_from(ALPHAS))
def test_scaling_both_arms_changes_nothing(times, factor, alpha):
    before = block_effect(differences(times), alpha)
    after = block_effect(differences(times * factor), alpha)
    for name in ("estimate", "lo", "hi", "mde"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), rel=1e-6, abs=1e-9)


@FIXED
@given(TIMES)
def test_the_bounds_surround_the_estimate_and_widen_as_alpha_falls(times):
    effects = [block_effect(differences(times), alpha) for alpha in ALPHAS]
    assert all(e.lo <= e.estimate <= e.hi for e in effects)
    assert sorted(effects, key=lambda e: e.lo) == effects
    assert sorted(effects, key=lambda e: -e.hi) == effects


@pytest.mark.parametrize("slowdown", [0.02, 0.15, 1.0])
def test_a_candidate_that_is_slower_by_a_factor_is_worse_by_that_factor(slowdown):
    rng = np.random.default_rng(4)
    times = 1e6 * rng.lognormal(0, 1e-4, (10, 4))
    times[:, [1, 2]] *= 1 + slowdown
    effect = block_effect(differences(times), 0.05)
    assert effect.estimate == pytest.approx(slowdown, rel=0.02)
    assert 0 < effect.lo < effect.hi


def test_a_linear_drift_inside_the_blocks_is_no_effect():
    drift = np.exp(0.01 * np.arange(24).reshape(6, 4))
    assert block_effect(differences(1e6 * drift), 0.05).estimate == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("blocks", [5, 10, 30])
def test_an_effect_of_the_size_of_the_mde_is_found_with_the_power_that_it_names(blocks, alpha):
    sample = np.random.default_rng(7).normal(0, 0.01, blocks)
    shift = np.log1p(block_effect(sample, alpha).mde) / (sample.std(ddof=1) / np.sqrt(blocks))
    bound = stats.t.ppf(1 - alpha, blocks - 1)
    assert stats.nct.sf(bound, blocks - 1, shift) == pytest.approx(POWER, abs=0.035)


@pytest.mark.parametrize("true_effect", [0.0, 0.05])
def test_each_bound_is_wrong_about_as_often_as_alpha_says(true_effect):
    rng = np.random.default_rng(20)
    samples = rng.normal(np.log1p(true_effect), 0.02, (4000, 10))
    effects = [block_effect(sample, 0.05) for sample in samples]
    assert np.mean([e.hi < true_effect for e in effects]) == pytest.approx(0.05, abs=0.012)
    assert np.mean([e.lo > true_effect for e in effects]) == pytest.approx(0.05, abs=0.012)


@pytest.mark.parametrize(("candidate", "change"), [(1100, 0.1), (900, -0.1), (1000, 0.0)])
def test_any_change_of_an_exact_number_is_the_effect(candidate, change):
    effect = exact_effect(1000, candidate)
    assert (effect.estimate, effect.lo, effect.hi) == pytest.approx((change,) * 3)
    assert (effect.n, effect.mde) == (1, 0.0)


@pytest.mark.parametrize(
    ("mde", "margin", "expected"),
    [(0.02, 0.01, 3600), (0.02, 0.02, 900), (0.01, 0.02, 225), (0.02, 0.03, 400)],
)
def test_the_items_needed_grow_with_the_square_of_what_is_to_be_found(mde, margin, expected):
    effect = Effect(estimate=0.0, lo=-0.01, hi=0.01, n=900, mde=mde)
    assert items_needed(effect, margin) == pytest.approx(expected, abs=1)


@FIXED
@given(st.integers(1, 10**6), st.floats(1e-4, 0.5), st.floats(1e-4, 0.5))
def test_the_items_at_hand_suffice_exactly_when_the_mde_is_within_the_margin(n, mde, margin):
    effect = Effect(estimate=0.0, lo=-1.0, hi=1.0, n=n, mde=mde)
    assert (items_needed(effect, margin) <= n) == (mde <= margin or items_needed(effect, mde) > n)
