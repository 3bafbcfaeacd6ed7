"""The Harrell-Davis quantile: its weights, its symmetries, its spread, and the weights left out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import special
from scipy.stats import mstats

from farm.analysis.quantiles import harrell_davis

FIXED = settings(derandomize=True, deadline=None)
SAMPLES = arrays.arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e9, 1e9))
QUANTILES = st.floats(0.001, 0.999)


@pytest.mark.parametrize("quantile", [0.01, 0.25, 0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("n", [2, 3, 10, 100, 1500])
def test_the_published_estimator_is_reproduced(n, quantile):
    samples = np.random.default_rng(n).lognormal(0, 1, n)
    expected = float(mstats.hdquantiles(samples, [quantile])[0])
    assert harrell_davis(samples, quantile) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("samples", "quantile", "expected"),
    [
        ([7.0], 0.001, 7.0),
        ([7.0], 0.999, 7.0),
        ([1.0, 3.0], 0.5, 2.0),
        ([0.0, 0.0, 27.0], 0.5, 7.0),  # beta(2, 2) holds 7/27, 13/27, 7/27
        ([0.0, 27.0, 0.0], 0.5, 7.0),
        ([0.0, 1.0, 0.0], 0.75, 1 - (2 / 3) ** 3),  # beta(3, 1) holds 1/27, 7/27, 19/27
    ],
)
def test_small_samples_have_the_weights_of_a_beta_distribution(samples, quantile, expected):
    assert harrell_davis(np.array(samples), quantile) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("quantile", [1e-6, 0.01, 0.5, 0.9, 0.99, 0.999, 1 - 1e-6])
def test_the_weights_that_are_left_out_change_nothing(quantile):
    n = 100_000
    samples = np.random.default_rng(5).lognormal(0, 2, n)
    a, b = (n + 1) * quantile, (n + 1) * (1 - quantile)
    every = np.diff(special.betainc(a, b, np.arange(n + 1) / n))
    expected = float(every @ np.sort(samples))
    assert harrell_davis(samples, quantile) == pytest.approx(expected, rel=1e-13)


def test_one_enormous_outlier_far_from_the_quantile_is_not_seen():
    samples = np.random.default_rng(6).lognormal(0, 0.1, 10_000)
    before = harrell_davis(samples, 0.9)
    samples[samples.argmax()] = 1e12
    assert harrell_davis(samples, 0.9) == pytest.approx(before, rel=1e-13)


def test_whole_nanoseconds_are_samples_too():
    nanoseconds = np.random.default_rng(7).integers(10**6, 10**9, 900)
    found = harrell_davis(nanoseconds, 0.95)
    assert found == pytest.approx(harrell_davis(nanoseconds.astype(np.float64), 0.95), rel=1e-15)


def test_the_samples_are_left_as_they_were():
    samples = np.random.default_rng(8).random(500)
    before = samples.copy()
    harrell_davis(samples, 0.99)
    assert (samples == before).all()


@FIXED
@given(SAMPLES, QUANTILES)
def test_the_result_lies_between_the_smallest_and_the_largest(samples, quantile):
    assert samples.min() <= harrell_davis(samples, quantile) <= samples.max()


@FIXED
@given(st.floats(-1e9, 1e9), st.integers(1, 60), QUANTILES)
def test_equal_samples_are_their_own_quantile(level, n, quantile):
    assert harrell_davis(np.full(n, level), quantile) == level


@FIXED
@given(SAMPLES, QUANTILES, st.randoms(use_true_random=False))
def test_the_order_of_the_samples_does_not_count(samples, quantile, random):
    shuffled = np.array(random.sample(list(samples), len(samples)))
    assert harrell_davis(shuffled, quantile) == harrell_davis(samples, quantile)


@FIXED
@given(SAMPLES, QUANTILES)
def test_mirrored_samples_have_the_mirrored_quantile(samples, quantile):
    mirrored = -harrell_davis(-samples, 1 - quantile)
    assert harrell_davis(samples, quantile) == pytest.approx(mirrored, rel=1e-9, abs=1e-3)


@FIXED
@given(SAMPLES, QUANTILES, st.floats(-1e3, 1e3), st.floats(0.01, 100))
def test_a_change_of_scale_and_origin_carries_over(samples, quantile, origin, scale):
    moved = harrell_davis(origin + scale * samples, quantile)
    expected = origin + scale * harrell_davis(samples, quantile)
    assert moved == pytest.approx(expected, rel=1e-9, abs=1e-3)


@FIXED
@given(SAMPLES, st.tuples(QUANTILES, QUANTILES))
def test_a_higher_quantile_is_never_lower(samples, two):
    low, high = (harrell_davis(samples, q) for q in sorted(two))
    assert low <= high + 1e-9 * max(1.0, abs(low))


@FIXED
@given(SAMPLES, QUANTILES, st.floats(0, 1e9), st.integers(0, 59))
def test_a_slower_sample_never_makes_the_quantile_faster(samples, quantile, more, index):
    before = harrell_davis(samples, quantile)
    samples[index % len(samples)] += more
    assert harrell_davis(samples, quantile) >= before - 1e-9 * max(1.0, abs(before))


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
def test_it_scatters_less_than_the_order_statistic_and_around_the_truth(quantile):
    repeats = np.random.default_rng(9).lognormal(0, 0.3, (1500, 700))
    ours = np.array([harrell_davis(samples, quantile) for samples in repeats])
    plain = np.quantile(repeats, quantile, axis=1, method="inverted_cdf")
    assert ours.std() < plain.std()
    assert ours.mean() == pytest.approx(np.exp(0.3 * special.ndtri(quantile)), rel=0.01)


@pytest.mark.parametrize(
    ("samples", "quantile"),
    [
        ([], 0.5),
        ([1.0, np.nan], 0.5),
        ([1.0, np.inf], 0.5),
        ([1.0], 0.0),
        ([1.0], 1.0),
        ([1.0], -0.1),
        ([1.0], np.nan),
    ],
)
def test_what_has_no_quantile_is_refused(samples, quantile):
    with pytest.raises(ValueError, match="quantile"):
        harrell_davis(np.array(samples), quantile)
