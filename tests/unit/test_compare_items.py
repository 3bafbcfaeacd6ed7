"""Accuracy on the same items: Tango's interval, from its likelihood to its long-run error."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from farm.analysis.compare import (
    Effect,
    items_needed,
    mcnemar_p,
    paired_effect,
    tango_bound,
    tango_score,
)

FIXED = settings(derandomize=True, deadline=None)
Z95 = 1.6448536269514722


@st.composite
def tables(draw):
    """Lost, won and all items."""
    lost, won, same = (draw(st.integers(0, 60)) for _ in range(3))
    return lost, won, max(1, lost + won + same)


def answers(lost: int, won: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong per item of a baseline and a candidate, shuffled."""
    order = np.random.default_rng(3).permutation(n)
    baseline = np.repeat([True, False, True], [lost, won, n - lost - won])
    candidate = np.repeat([False, True, True], [lost, won, n - lost - won])
    return baseline[order], candidate[order]


def effect(lost: int, won: int, n: int, alpha: float = 0.05) -> Effect:
    return paired_effect(*answers(lost, won, n), alpha)


@pytest.mark.parametrize("delta", [-0.7, -0.1, -0.02, 0.0, 0.02, 0.3, 0.8])
@pytest.mark.parametrize(
    "table", [(0, 0, 30), (5, 0, 30), (0, 5, 30), (9, 4, 50), (30, 6, 900), (12, 0, 12), (3, 9, 12)]
)
def test_the_score_uses_the_share_that_maximises_the_likelihood(table, delta):
    lost, won, n = table

    def loss(won_share: float) -> float:
        same_share = max(0.0, 1 - 2 * won_share - delta)
        return -(
            special.xlogy(lost, won_share + delta)
            + special.xlogy(won, won_share)
            + special.xlogy(n - lost - won, same_share)
        )

    bounds = (max(0.0, -delta), (1 - delta) / 2)
    found = optimize.minimize_scalar(
        loss, bounds=bounds, method="bounded", options={"xatol": 1e-13}
    )
    share = min((found.x, *bounds), key=lambda s: loss(s) if np.isfinite(loss(s)) else np.inf)
    gap = lost - won - n * delta
    variance = n * (2 * share + delta * (1 - delta))
    expected = gap / np.sqrt(variance) if variance > 1e-12 else 0.0
    assert tango_score(lost, won, n, delta) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_the_published_example_is_reproduced():
    # Tango 1998: disinfection of soft contact lenses, 44 pairs, one discordant; equivalence within
    # 10 points has Z = 1.709, the 90 % interval of the difference is (-0.096, 0.037).
    assert tango_score(0, 1, 44, -0.1) == pytest.approx(1.709, abs=5e-4)
    assert tango_score(1, 0, 44, 0.1) == pytest.approx(-1.709, abs=5e-4)
    found = effect(0, 1, 44)
    assert (found.lo, found.hi) == pytest.approx((-0.096, 0.037), abs=5e-4)


@FIXED
@given(tables(), st.sampled_from([0.01, 0.05, 0.2]))
def test_both_bounds_solve_the_score_equation(table, alpha):
    found, z = effect(*table, alpha), special.ndtri(1 - alpha)
    for bound, level in ((found.lo, z), (found.hi, -z)):
        above, below = (
            tango_score(*table, float(np.clip(bound + e, -1, 1))) for e in (-1e-6, 1e-6)
        )
        assert above >= level >= below or abs(bound) == 1


@FIXED
@given(tables())
def test_the_score_falls_as_the_assumed_difference_rises(table):
    scores = [tango_score(*table, float(delta)) for delta in np.linspace(-0.999, 0.999, 101)]
    assert np.all(np.diff(scores) <= 1e-9)


@FIXED
@given(tables(), st.sampled_from([0.001, 0.05, 0.3]))
def test_swapping_the_arms_mirrors_the_interval(table, alpha):
    lost, won, n = table
    there, back = effect(lost, won, n, alpha), effect(won, lost, n, alpha)
    assert back.estimate == -there.estimate
    assert (back.lo, back.hi) == pytest.approx((-there.hi, -there.lo), abs=1e-8)
    assert back.mde == there.mde


@FIXED
@given(tables())
def test_the_interval_surrounds_the_estimate_and_widens_as_alpha_falls(table):
    found = [effect(*table, alpha) for alpha in (0.001, 0.01, 0.05, 0.2)]
    for one in found:
        assert -1 <= one.lo <= one.estimate + 1e-9
        assert one.estimate - 1e-9 <= one.hi <= 1
    assert all(b.lo >= a.lo - 1e-9 and b.hi <= a.hi + 1e-9 for a, b in pairwise(found))


@pytest.mark.parametrize("n", [1, 5, 44, 900, 10**6])
def test_without_a_change_of_sides_the_interval_has_a_closed_form(n):
    found = effect(0, 0, n)
    limit = Z95**2 / (n + Z95**2)
    assert found.estimate == 0
    assert (found.lo, found.hi) == pytest.approx((-limit, limit), rel=1e-6)


@pytest.mark.parametrize("n", [1, 5, 44, 900])
def test_when_every_item_changes_sides_the_interval_ends_at_one(n):
    inner = (n - Z95**2) / (n + Z95**2)
    all_lost, all_won = effect(n, 0, n), effect(0, n, n)
    assert (all_lost.estimate, all_lost.hi) == (1, 1)
    assert all_lost.lo == pytest.approx(inner, abs=1e-8)
    assert (all_won.estimate, all_won.lo) == (-1, -1)
    assert all_won.hi == pytest.approx(-inner, abs=1e-8)


def test_only_items_that_change_sides_and_their_number_count():
    baseline, candidate = answers(7, 3, 100)
    wrong = baseline & candidate  # both right; let both be wrong instead
    assert paired_effect(baseline & ~wrong, candidate & ~wrong, 0.05) == effect(7, 3, 100)


@pytest.mark.parametrize(
    ("margin", "lost_share", "won_share"), [(0.02, 0.03, 0.01), (0.02, 0.025, 0.005)]
)
def test_a_candidate_worse_by_the_margin_passes_about_as_often_as_alpha_says(
    margin, lost_share, won_share
):
    rng = np.random.default_rng(1998)
    shares = [lost_share, won_share, 1 - lost_share - won_share]
    drawn = rng.multinomial(900, shares, size=4000)[:, :2]
    pairs, counts = np.unique(drawn, axis=0, return_counts=True)
    passed = [tango_bound(int(lost), int(won), 900, -Z95) < margin for lost, won in pairs]
    assert 0.035 <= counts[passed].sum() / counts.sum() <= 0.065


@pytest.mark.parametrize(
    ("lost", "won", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (3, 3, 1.0),
        (1, 7, 2 * (1 + 8) / 2**8),
        (7, 1, 2 * (1 + 8) / 2**8),
        (0, 5, 2 / 2**5),
        (10, 2, 2 * (1 + 12 + 66) / 2**12),
    ],
)
def test_mcnemars_p_is_that_of_a_fair_coin(lost, won, p):
    assert mcnemar_p(*answers(lost, won, 40)) == pytest.approx(p)
    if lost + won:
        assert p == pytest.approx(stats.binomtest(lost, lost + won).pvalue)


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (4, 4), (18, 18)])
def test_as_many_items_as_needed_decide_about_an_unchanged_model(lost, won):
    found = effect(lost, won, 900)
    margin = 0.8 * found.mde
    times = items_needed(found, margin) / 900
    more = effect(round(lost * times), round(won * times), round(900 * times))
    assert more.hi < margin
