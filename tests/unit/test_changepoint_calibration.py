"""The rates of the history engine: false alarms, recall, real series, and the null behind them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from farm.analysis.changepoint import find_changes, find_steps
from farm.analysis.rankscan import (
    ALPHA,
    CRITICAL,
    LENGTHS,
    MIN_SEGMENT,
    critical,
    find_candidates,
    rank_statistic,
    simulate_critical,
    whiten,
)
from tests.benchmarks.history import f1_score, labelled, match, noise, series

N = 150


def wrong_share(kind: str, n: int, *, slide: float = 0.0) -> float:
    """Share of series with any step; a seed of its own per series, apart from the benchmark's."""
    ramp = np.linspace(0, slide, N)
    return float(np.mean([bool(find_steps(series(kind, 10_000 + i, N) + ramp)) for i in range(n)]))


@pytest.mark.parametrize(
    ("kind", "most"),
    [("gaussian", 0.03), ("spiky", 0.03), ("bimodal", 0.03), ("ar0.3", 0.05), ("ar0.5", 0.05),
     ("ar0.7", 0.15)],
)  # fmt: skip
def test_a_flat_series_seldom_alarms(kind, most):
    assert wrong_share(kind, 400) <= most


@pytest.mark.parametrize(("slide", "most"), [(2.0, 0.3), (5.0, 0.1), (10.0, 0.05)])
def test_a_linear_slide_is_seldom_called_a_step(slide, most):
    assert wrong_share("gaussian", 200, slide=slide) <= most


@pytest.mark.parametrize(
    ("kind", "sigmas", "at", "least"),
    [("gaussian", 2, 75, 0.9), ("gaussian", 3, 75, 0.98), ("spiky", 2, 75, 0.9),
     ("bimodal", 2.5, 75, 0.8), ("ar0.5", 5, 75, 0.9), ("gaussian", 3, N - 8, 0.85),
     ("gaussian", 5, N - 8, 0.95)],
)  # fmt: skip
def test_a_step_is_found_in_its_place(kind, sigmas, at, least):
    step = sigmas * (np.arange(N) >= at)
    found = [
        bool(match([s.index for s in find_steps(series(kind, 20_000 + i, N) + step)], [at]))
        for i in range(150)
    ]
    assert np.mean(found) >= least


@pytest.mark.parametrize(("n", "least"), [(20, 0.85), (30, 0.95), (60, 0.98)])
def test_a_large_step_is_found_in_a_young_series(n, least):
    step = 5 * (np.arange(n) >= n // 2)
    found = [
        bool(match([s.index for s in find_steps(series("gaussian", i, n) + step)], [n // 2]))
        for i in range(300)
    ]
    assert np.mean(found) >= least


@pytest.mark.parametrize("kind", ["gaussian", "ar0.5"])
def test_the_interval_of_a_step_covers_its_size(kind):
    step = 5 * (np.arange(N) >= 75)
    found = [
        s
        for i in range(300)
        for s in find_steps(series(kind, 30_000 + i, N) + step)
        if abs(s.index - 75) <= 5
    ]
    assert len(found) > 250
    assert np.mean([s.lo <= 0.05 <= s.hi for s in found]) >= 0.9


@pytest.mark.skipif(not labelled(), reason="the labelled series are not stored here")
def test_real_series_agree_with_the_audit():
    found = [[step.index for step in find_steps(one["values"])] for one in labelled()]
    f1, labels = f1_score("audit", found)
    assert labels == 19
    assert f1 >= 0.94


@pytest.mark.parametrize("length", [10, 17, 25])
def test_an_entry_of_the_null_can_be_made_again(length):
    assert simulate_critical(length) == CRITICAL[LENGTHS.index(length)]


def test_the_bound_of_a_short_interval_is_that_of_all_its_orders():
    length = 15
    subsets = np.array(list(combinations(range(1, length + 1), 7)))
    # P(largest over splits 5..10) from below: the split 7 alone; from above: Bonferroni over all.
    bound = critical(length)
    z = np.abs(subsets.sum(axis=1) - 7 * (length + 1) / 2) / np.sqrt(7 * 8 * (length + 1) / 12)
    assert np.mean(z > bound) <= ALPHA
    assert np.mean(z > bound) * 6 >= ALPHA / 3


@pytest.mark.parametrize("length", [40, 160, 400])
def test_the_bound_of_a_long_interval_is_exceeded_as_often_as_it_says(length):
    quick = simulate_critical(length, alpha=0.01, trials=4000, seed=7)
    strict = simulate_critical(length, alpha=ALPHA, trials=20_000, seed=7)
    assert quick < strict == pytest.approx(critical(length), abs=0.1)


@pytest.mark.parametrize("n", range(2 * MIN_SEGMENT, 14))
def test_the_shortest_intervals_alarm_at_no_order(n):
    for split in range(MIN_SEGMENT, n - MIN_SEGMENT + 1):
        assert rank_statistic(np.arange(split) * 1.0, np.arange(split, n) * 1.0) <= 1
    assert find_candidates(np.arange(n) * 1.0) == []


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("step", [0.0, 50.0])
def test_whitening_takes_out_the_autocorrelation_and_leaves_the_levels(rho, step):
    estimates, lags = [], []
    for seed in range(60):
        values = noise(f"ar{rho}", np.random.default_rng(seed), 400)
        whitened, estimate = whiten(values + step * (np.arange(400) >= 200))
        estimates.append(estimate[0])
        half = whitened[201:] - whitened[201:].mean()
        lags.append(np.mean(half[1:] * half[:-1]) / np.mean(half * half))
        levels = np.median(whitened[201:]) - np.median(whitened[:200])
        assert levels == pytest.approx(step, abs=1.5)
    assert np.mean(estimates) == pytest.approx(rho, abs=0.06)
    assert np.mean(lags) == pytest.approx(0, abs=0.06)


def test_a_second_change_is_not_hidden_by_the_first():
    values = series("gaussian", 4, 120)
    values[80:] += 3
    values[93:] -= 3
    assert [s.index for s in find_steps(values)] == pytest.approx([80, 93], abs=1)


def test_two_units_measured_in_turn_are_one_level():
    values = series("gaussian", 5, 200) + np.tile([-3.0, 3.0], 100)
    assert not find_changes(values).steps
