"""Items in clusters, different items in the two arms, and scores that are not right or wrong."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from farm.analysis.compare import POWER, items_needed, paired_effect
from farm.analysis.items import (
    _cluster_mean,
    _unskewed,
    clustered_effect,
    per_item_effect,
    unpaired_effect,
)

FIXED = settings(derandomize=True, deadline=None)
ALPHAS = [0.01, 0.05, 0.2]
SCORES = arrays.arrays(
    np.float64, st.tuples(st.just(2), st.integers(2, 40)), elements=st.floats(-100, 100)
)


@st.composite
def clustered(draw):
    """Baseline, candidate and clusters of the same items."""
    n = draw(st.integers(1, 60))
    flags = st.lists(st.booleans(), min_size=n, max_size=n)
    names = st.lists(st.integers(0, draw(st.integers(0, 12))), min_size=n, max_size=n)
    return tuple(np.array(draw(part)) for part in (flags, flags, names))


@st.composite
def two_counts(draw):
    """Right and all items of two arms."""
    sizes = draw(st.tuples(st.integers(1, 300), st.integers(1, 300)))
    return tuple(x for n in sizes for x in (draw(st.integers(0, n)), n))


def per_cluster(sizes, lost, won):
    """Answers with so many items, lost and won per cluster."""
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    place = np.concatenate([np.arange(size) for size in sizes])
    gone = place < np.repeat(lost, sizes)
    gained = ~gone & (place < np.repeat(np.add(lost, won), sizes))
    return ~gained, ~gone, clusters


def drawn(rng, clusters, mean_size, rates, correlation):
    """Clusters of unequal size whose rates scatter so that items correlate."""
    scatter = rng.lognormal(-0.32, 0.8, clusters)
    sizes = np.maximum(1, np.round(mean_size * scatter)).astype(int)
    if correlation:
        shares = rng.dirichlet((1 / correlation - 1) * np.array(rates), clusters)
    else:
        shares = np.tile(rates, (clusters, 1))
    counts = np.array([rng.multinomial(n, p) for n, p in zip(sizes, shares, strict=True)])
    return per_cluster(sizes, counts[:, 0], counts[:, 1])


# -- clusters ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clusters", "rates", "correlation"),
    [
        (10, (0.1, 0.05, 0.85), 0.1),
        (20, (0.3, 0.1, 0.6), 0.3),
        (50, (0.1, 0.05, 0.85), 0.1),
        (50, (0.03, 0.01, 0.96), 0.02),
        (200, (0.02, 0.02, 0.96), 0.1),
    ],
)
def test_the_bounds_of_clusters_hold_their_level(clusters, rates, correlation):
    rng = np.random.default_rng(50)
    truth = rates[0] - rates[1]
    made = [
        clustered_effect(*drawn(rng, clusters, 20, rates, correlation), 0.05) for _ in range(1000)
    ]
    assert np.mean([one.hi < truth for one in made]) <= 0.05 + 0.025
    assert np.mean([one.lo > truth for one in made]) <= 0.05 + 0.025


def test_bounds_that_ignore_the_clusters_do_not():
    rng = np.random.default_rng(51)
    sets = [drawn(rng, 50, 20, (0.1, 0.05, 0.85), 0.3) for _ in range(400)]
    naive = np.mean([paired_effect(old, new, 0.05).hi < 0.05 for old, new, _ in sets])
    ours = np.mean([clustered_effect(*one, 0.05).hi < 0.05 for one in sets])
    assert naive > 0.2
    assert ours < 0.09


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (40, 25), (300, 10)])
def test_many_clusters_of_one_item_are_items(lost, won):
    n = 3000
    baseline, candidate, _ = per_cluster([n], [lost], [won])
    items = paired_effect(baseline, candidate, 0.05)
    ours = clustered_effect(baseline, candidate, np.arange(n), 0.05)
    for name in ("estimate", "lo", "hi", "mde"):
        assert getattr(ours, name) == pytest.approx(getattr(items, name), rel=2e-3, abs=1e-5)
    assert ours.n == items.n


def test_whole_clusters_that_flip_are_worth_one_item_each():
    sizes, lost = np.full(60, 25), np.repeat([25, 0], [12, 48])
    ours = clustered_effect(*per_cluster(sizes, lost, 0 * lost), 0.05)
    old, new, _ = per_cluster([60], [12], [0])
    items = paired_effect(old, new, 0.05)
    assert ours.estimate == items.estimate
    assert (ours.lo, ours.hi) == pytest.approx((items.lo, items.hi), abs=0.01)
    assert ours.mde == pytest.approx(items.mde, rel=0.1)


def test_the_variance_of_equal_clusters_is_that_of_their_means():
    sums, sizes = np.random.default_rng(52).normal(2, 3, 15), np.full(15, 4.0)
    mean = _cluster_mean(sums, sizes)
    assert mean.value == pytest.approx((sums / 4).mean())
    assert mean.error == pytest.approx(stats.sem(sums / 4))
    assert mean.freedom == pytest.approx(14)


@pytest.mark.parametrize("sizes", [[5, 5], [1, 2, 3, 4], [40, 3, 3, 2, 1, 1], [7] * 12])
def test_error_and_freedom_are_those_of_bell_and_mccaffrey(sizes):
    """In matrices, for a regression on a constant whose items are independent under the model."""
    values = np.random.default_rng(62).normal(1, 2, sum(sizes))
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    n, ones = sum(sizes), np.ones((sum(sizes), 1))
    rest = np.eye(n) - ones @ ones.T / n
    columns = []
    for number in range(len(sizes)):
        part = clusters == number
        block = np.eye(part.sum()) - np.ones((part.sum(), part.sum())) / n
        roots, axes = np.linalg.eigh(block)
        weight = axes / np.sqrt(roots) @ axes.T @ ones[part] / n
        columns.append(rest[:, part] @ weight)
    columns = np.hstack(columns)
    spread = np.linalg.eigvalsh(columns.T @ columns)
    sums = np.bincount(clusters, weights=values)
    mean = _cluster_mean(sums, np.array(sizes, float))
    assert mean.error == pytest.approx(np.sqrt(((values @ columns) ** 2).sum()))
    assert mean.freedom == pytest.approx(spread.sum() ** 2 / (spread**2).sum())


def test_one_giant_cluster_leaves_few_degrees_of_freedom():
    mean = _cluster_mean(np.arange(20.0), np.array([1e6] + [1.0] * 19))
    assert 1 <= mean.freedom < 1.1


def test_one_cluster_bounds_nothing():
    found = clustered_effect(*per_cluster([50], [7], [2]), 0.05)
    assert (found.estimate, found.lo, found.hi, found.n, found.mde) == (0.1, -1, 1, 1, 1)


@pytest.mark.parametrize("clusters", [10, 50, 200])
def test_an_unchanged_model_in_clusters_is_bounded_by_what_may_hide(clusters):
    sizes = np.full(clusters, 20)
    found = clustered_effect(*per_cluster(sizes, 0 * sizes, 0 * sizes), 0.05)
    old, new, _ = per_cluster([20 * clusters], [0], [0])
    items = paired_effect(old, new, 0.05)
    assert (found.estimate, found.lo) == (0, pytest.approx(-found.hi))
    assert items.hi < found.hi < 3 * items.hi
    assert items_needed(found, found.mde) == clusters


def test_clusters_that_all_lose_the_same_are_no_surer_than_independent_items():
    sizes, lost = np.full(30, 20), np.full(30, 2)
    found = clustered_effect(*per_cluster(sizes, lost, 0 * lost), 0.05)
    old, new, _ = per_cluster([600], [60], [0])
    items = paired_effect(old, new, 0.05)
    assert found.estimate == pytest.approx(0.1)
    assert found.lo < items.lo < items.hi < found.hi


@pytest.mark.parametrize("sign", [1, -1])
def test_an_arm_that_is_right_everywhere_against_one_that_is_wrong_everywhere(sign):
    right, clusters = np.ones(60, bool), np.repeat(np.arange(12), 5)
    arms = (right, ~right)[::sign]
    found = clustered_effect(*arms, clusters, 0.05)
    assert found.estimate == sign
    assert -1 <= found.lo <= found.hi <= 1
    assert sign in (found.lo, found.hi)


@FIXED
@given(clustered(), st.sampled_from(ALPHAS))
def test_swapping_the_arms_mirrors_the_effect_of_clusters(items, alpha):
    old, new, clusters = items
    there = clustered_effect(old, new, clusters, alpha)
    back = clustered_effect(new, old, clusters, alpha)
    assert back.estimate == pytest.approx(-there.estimate, abs=1e-12)
    assert (back.lo, back.hi) == pytest.approx((-there.hi, -there.lo), abs=1e-7)
    assert (back.n, back.mde) == (there.n, pytest.approx(there.mde))


@FIXED
@given(clustered())
def test_clustered_bounds_are_in_range_surround_the_estimate_and_widen_as_alpha_falls(items):
    made = [clustered_effect(*items, alpha) for alpha in ALPHAS]
    for one in made:
        assert -1 <= one.lo <= one.estimate + 1e-9
        assert one.estimate - 1e-9 <= one.hi <= 1
        assert one.n == len(np.unique(items[2]))
    assert all(a.lo <= b.lo + 1e-9 and a.hi >= b.hi - 1e-9 for a, b in pairwise(made))


@FIXED
@given(clustered(), st.randoms(use_true_random=False))
def test_neither_the_order_of_the_items_nor_the_names_of_the_clusters_count(items, random):
    order = np.array(random.sample(range(len(items[0])), len(items[0])))
    old, new, clusters = (part[order] for part in items)
    names = np.array([f"speaker-{(7 * number) % 13}" for number in clusters])
    there, back = clustered_effect(*items, 0.05), clustered_effect(old, new, names, 0.05)
    assert (back.lo, back.hi) == pytest.approx((there.lo, there.hi), abs=1e-8)


# -- different items --------------------------------------------------------------------------


def test_the_published_example_of_two_independent_shares_is_reproduced():
    # Newcombe 1998, table II, method 10, 95 %: 56/70 against 48/80 gives 0.0524 to 0.3339,
    # 9/10 against 3/10 gives 0.1705 to 0.8090, 10/10 against 0/10 gives 0.6075 to 1
    for counts, bounds in (
        ((56, 70, 48, 80), (0.0524, 0.3339)),
        ((9, 10, 3, 10), (0.1705, 0.8090)),
        ((10, 10, 0, 10), (0.6075, 1.0)),
    ):
        found = unpaired_effect(*counts, 0.025)
        assert (found.lo, found.hi) == pytest.approx(bounds, abs=5e-5)


@FIXED
@given(two_counts(), st.sampled_from(ALPHAS))
def test_swapping_the_arms_or_right_and_wrong_mirrors_the_unpaired_effect(counts, alpha):
    old, n_old, new, n_new = counts
    there = unpaired_effect(old, n_old, new, n_new, alpha)
    for back in (
        unpaired_effect(new, n_new, old, n_old, alpha),
        unpaired_effect(n_old - old, n_old, n_new - new, n_new, alpha),
    ):
        assert back.estimate == pytest.approx(-there.estimate, abs=1e-12)
        assert (back.lo, back.hi) == pytest.approx((-there.hi, -there.lo), abs=1e-9)
        assert (back.n, back.mde) == (there.n, pytest.approx(there.mde))


@FIXED
@given(two_counts())
def test_unpaired_bounds_are_in_range_and_widen_as_alpha_falls(counts):
    made = [unpaired_effect(*counts, alpha) for alpha in ALPHAS]
    for one in made:
        assert -1 <= one.lo <= one.estimate <= one.hi <= 1
        assert one.mde > 0
    assert sorted(made, key=lambda one: one.lo) == made
    assert sorted(made, key=lambda one: -one.hi) == made


@pytest.mark.parametrize(("accuracy", "loss"), [(0.9, 0.0), (0.9, 0.02), (0.7, 0.05), (0.95, 0.02)])
@pytest.mark.parametrize(("n_old", "n_new"), [(300, 300), (400, 100)])
def test_unpaired_bounds_are_wrong_about_as_often_as_alpha_says(n_old, n_new, accuracy, loss):
    rng = np.random.default_rng(53)
    old, new = rng.binomial(n_old, accuracy, 2000), rng.binomial(n_new, accuracy - loss, 2000)
    pairs = zip(old.tolist(), new.tolist(), strict=True)
    made = [unpaired_effect(a, n_old, b, n_new, 0.05) for a, b in pairs]
    assert np.mean([one.hi < loss for one in made]) == pytest.approx(0.05, abs=0.025)
    assert np.mean([one.lo > loss for one in made]) == pytest.approx(0.05, abs=0.025)


def test_a_loss_of_the_size_of_the_mde_is_found_with_the_power_that_it_names():
    n, accuracy = 2000, 0.85
    loss = unpaired_effect(int(n * accuracy), n, int(n * accuracy), n, 0.05).mde
    rng = np.random.default_rng(54)
    old = rng.binomial(n, accuracy + loss / 2, 2000).tolist()
    new = rng.binomial(n, accuracy - loss / 2, 2000).tolist()
    pairs = zip(old, new, strict=True)
    found = np.mean([unpaired_effect(a, n, b, n, 0.05).lo > 0 for a, b in pairs])
    assert found == pytest.approx(POWER, abs=0.04)


def test_the_same_items_in_both_arms_are_worth_more_than_different_ones():
    old, new, _ = per_cluster([900], [20], [10])
    both = (np.arange(900) < 720) | (old != new)  # a fifth is wrong in both arms
    old, new = old & both, new & both
    right_old, right_new = int(old.sum()), int(new.sum())
    apart = unpaired_effect(right_old, 900, right_new, 900, 0.05)
    assert paired_effect(old, new, 0.05).mde < apart.mde / 3


@pytest.mark.parametrize("counts", [(0, 0, 1, 2), (1, 2, 0, 0), (3, 2, 1, 2), (1, 2, -1, 2)])
def test_counts_that_are_no_shares_are_refused(counts):
    with pytest.raises(ValueError, match="no share"):
        unpaired_effect(*counts, 0.05)


# -- scores per item --------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", ALPHAS)
def test_differences_without_skew_have_a_paired_t_interval(alpha):
    half = np.random.default_rng(55).normal(0, 0.1, 20)
    old = np.random.default_rng(56).random(40)
    new = old - 0.03 + np.concatenate([half, -half])
    found = per_item_effect(old, new, None, alpha, higher_is_better=True)
    expected = stats.ttest_rel(old, new).confidence_interval(1 - 2 * alpha)
    # symmetric differences have no skew, so the transformation has nothing to take out
    assert (found.lo, found.hi) == pytest.approx(tuple(expected), rel=1e-6)
    assert found.estimate == pytest.approx(0.03)
    assert found.n == 40


@FIXED
@given(st.floats(-10, 10), st.floats(-1.5, 1.5))
def test_the_transformation_is_the_inverse_of_halls_cubic(bound, skew):
    t = _unskewed(bound, skew)
    back = t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / 6
    assert back == pytest.approx(bound, rel=1e-6, abs=1e-4)


@pytest.mark.parametrize("kind", ["normal", "heavy"])
@pytest.mark.parametrize("n", [10, 50])
def test_bounds_of_scores_are_wrong_about_as_often_as_alpha_says(kind, n):
    rng = np.random.default_rng(57)
    noise = rng.normal(0, 0.1, (2000, n)) if kind == "normal" else rng.standard_t(3, (2000, n))
    zero = np.zeros(n)
    made = [per_item_effect(zero, 0.02 + x, None, 0.05, higher_is_better=False) for x in noise]
    assert 0.02 <= np.mean([one.hi < 0.02 for one in made]) <= 0.065
    assert 0.02 <= np.mean([one.lo > 0.02 for one in made]) <= 0.065


def test_skewed_scores_hold_their_level_where_student_does_not():
    """One item in ten gets worse, some of them much: the mean is easily underestimated."""
    rng = np.random.default_rng(58)
    worse = np.where(rng.random((1500, 100)) < 0.1, rng.exponential(0.2, (1500, 100)), 0.0)
    zero = np.zeros(100)
    made = [per_item_effect(zero, x, None, 0.05, higher_is_better=False) for x in worse]
    reach = stats.t.ppf(0.95, 99) * worse.std(axis=1, ddof=1) / 10
    assert np.mean(worse.mean(axis=1) + reach < 0.02) > 0.11
    assert np.mean([one.hi < 0.02 for one in made]) < 0.08


def test_scores_in_clusters_hold_their_level_where_items_alone_do_not():
    rng = np.random.default_rng(59)
    clusters = np.repeat(np.arange(20), rng.integers(3, 40, 20))
    zero, made, naive = np.zeros(len(clusters)), [], []
    for _ in range(800):
        new = rng.normal(0, 0.1, len(clusters)) + rng.normal(0, 0.08, 20)[clusters]
        made.append(per_item_effect(zero, new, clusters, 0.05, higher_is_better=False).hi < 0)
        naive.append(per_item_effect(zero, new, None, 0.05, higher_is_better=False).hi < 0)
    assert np.mean(made) <= 0.075
    assert np.mean(naive) > 0.15


def test_the_direction_of_the_score_turns_the_sign():
    old, new = np.array([0.5, 0.7, 0.9, 0.4]), np.array([0.4, 0.7, 0.7, 0.4])
    precision = per_item_effect(old, new, None, 0.05, higher_is_better=True)
    error_rate = per_item_effect(old, new, None, 0.05, higher_is_better=False)
    assert precision.estimate == pytest.approx(0.075)
    assert error_rate.estimate == pytest.approx(-0.075)
    assert (error_rate.lo, error_rate.hi) == pytest.approx((-precision.hi, -precision.lo))


@FIXED
@given(SCORES, st.sampled_from(ALPHAS), st.booleans())
def test_swapping_the_arms_mirrors_the_effect_of_scores(scores, alpha, higher):
    there = per_item_effect(*scores, None, alpha, higher_is_better=higher)
    back = per_item_effect(*scores[::-1], None, alpha, higher_is_better=higher)
    assert (back.lo, back.estimate, back.hi) == pytest.approx(
        (-there.hi, -there.estimate, -there.lo), rel=1e-6, abs=1e-6
    )
    assert back.mde == pytest.approx(there.mde)


@FIXED
@given(SCORES, st.floats(0.01, 100), st.floats(-100, 100))
def test_the_effect_of_scores_follows_their_unit_and_not_their_origin(scores, factor, origin):
    there = per_item_effect(*scores, None, 0.05, higher_is_better=True)
    moved = per_item_effect(*(scores * factor + origin), None, 0.05, higher_is_better=True)
    for name in ("lo", "estimate", "hi", "mde"):
        expected = getattr(there, name) * factor
        assert getattr(moved, name) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@FIXED
@given(SCORES)
def test_bounds_of_scores_surround_the_estimate_and_widen_as_alpha_falls(scores):
    made = [per_item_effect(*scores, None, alpha, higher_is_better=True) for alpha in ALPHAS]
    slack = 1e-9 * (1 + abs(made[0].hi - made[0].lo))
    assert all(one.lo <= one.estimate <= one.hi for one in made)
    assert all(a.lo <= b.lo + slack and a.hi >= b.hi - slack for a, b in pairwise(made))


def test_scores_that_all_change_by_the_same_leave_no_doubt():
    old = np.array([0.5, 0.25, 0.75, 1.0])
    found = per_item_effect(old, old - 0.125, None, 0.05, higher_is_better=True)
    assert (found.estimate, found.lo, found.hi, found.mde) == (0.125, 0.125, 0.125, 0)


def test_a_score_per_item_of_right_and_wrong_is_the_loss_of_accuracy():
    old, new, clusters = drawn(np.random.default_rng(60), 80, 15, (0.2, 0.1, 0.7), 0.1)
    scores = per_item_effect(
        old.astype(float), new.astype(float), clusters, 0.05, higher_is_better=True
    )
    shares = clustered_effect(old, new, clusters, 0.05)
    assert (scores.estimate, scores.n) == (pytest.approx(shares.estimate), shares.n)
    assert (scores.lo, scores.hi) == pytest.approx((shares.lo, shares.hi), abs=0.004)


def test_a_loss_of_scores_of_the_size_of_the_mde_is_found_with_the_power_that_it_names():
    rng = np.random.default_rng(61)
    zero, noise = np.zeros(60), rng.normal(0, 1, (1500, 60))
    loss = (stats.t.ppf(0.95, 59) + stats.t.ppf(POWER, 59)) / np.sqrt(60)
    made = [per_item_effect(zero, loss + x, None, 0.05, higher_is_better=False) for x in noise]
    assert np.mean([one.mde for one in made]) == pytest.approx(loss, rel=0.02)
    assert np.mean([one.lo > 0 for one in made]) == pytest.approx(POWER, abs=0.04)


# -- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [(0, 0, 0), (3, 2, 3), (3, 3, 2), (2, 3, 3)])
def test_items_that_do_not_belong_together_are_refused(lengths):
    old, new, clusters = (np.zeros(n) for n in lengths)
    with pytest.raises(ValueError, match="items must be"):
        clustered_effect(old.astype(bool), new.astype(bool), clusters, 0.05)
    with pytest.raises(ValueError, match="items must be"):
        per_item_effect(old, new, clusters, 0.05, higher_is_better=True)


@pytest.mark.parametrize("clusters", [None, np.zeros(3)])
def test_a_single_unit_of_scores_is_refused(clusters):
    scores = np.ones(1 if clusters is None else 3)
    with pytest.raises(ValueError, match="single unit"):
        per_item_effect(scores, scores, clusters, 0.05, higher_is_better=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        per_item_effect(np.array([1.0, bad]), np.ones(2), None, 0.05, higher_is_better=True)
