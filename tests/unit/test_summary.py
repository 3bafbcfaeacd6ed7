"""Statistics of one repeat, over repeats and over items, and where none is given."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from farm.analysis.summary import latency_statistics, over_repeats, share_correct

FIXED = settings(derandomize=True, deadline=None)
NAMES = ["latency.p50", "latency.p90", "latency.p95", "latency.p99", "latency.p99.9"]


@pytest.mark.parametrize(
    ("samples", "supported"),
    [
        (0, 0),
        (1, 1),
        (63, 1),
        (64, 2),
        (129, 2),
        (130, 3),
        (661, 3),
        (662, 4),
        (6635, 4),
        (6636, 5),
    ],
)
def test_a_percentile_is_given_only_where_the_sample_supports_it(samples, supported):
    found = latency_statistics(np.arange(samples, dtype=np.int64))
    assert [m.metric for m in found] == NAMES[:supported]
    assert all((m.unit, m.n, m.lo, m.hi) == ("ns", samples, None, None) for m in found)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("latency.p50", 5000.5),
        ("latency.p90", 9000),
        ("latency.p95", 9500),
        ("latency.p99", 9900),
        ("latency.p99.9", 9990),
    ],
)
def test_a_percentile_is_near_the_least_sample_that_so_many_do_not_exceed(name, expected):
    samples = np.random.default_rng(5).permutation(np.arange(1, 10_001))
    found = {m.metric: m.value for m in latency_statistics(samples)}
    assert found[name] == pytest.approx(expected, abs=2)


@FIXED
@given(st.lists(st.integers(1, 10**12), min_size=64, max_size=200))
def test_a_tail_lies_among_the_samples_and_above_the_median_of_even_ones(samples):
    latency = np.array(samples, np.int64)
    found = {m.metric: m.value for m in latency_statistics(latency)}
    low, high = (1 - 1e-9) * latency.min(), (1 + 1e-9) * latency.max()
    assert low <= found["latency.p50"] <= high
    assert low <= found["latency.p90"] <= high


def test_one_repeat_has_a_value_and_no_interval():
    found = over_repeats("latency.p50", np.array([1234.0]))
    assert (found.value, found.lo, found.hi, found.n) == (pytest.approx(1234.0), None, None, 1)


@pytest.mark.parametrize("repeats", [2, 5, 20])
def test_repeats_have_a_geometric_mean_and_a_t_interval_of_their_logarithms(repeats):
    values = np.random.default_rng(repeats).lognormal(10, 0.1, repeats)
    found = over_repeats("memory.peak_rss", values)
    interval = stats.ttest_1samp(np.log(values), 0).confidence_interval(0.95)
    assert found.value == pytest.approx(stats.gmean(values))
    assert (found.lo, found.hi) == pytest.approx(tuple(np.exp(interval)))
    assert (found.n, found.unit, found.metric) == (repeats, "bytes", "memory.peak_rss")


@FIXED
@given(st.floats(1, 1e12), st.integers(2, 9))
def test_equal_repeats_have_an_interval_of_that_value(value, repeats):
    found = over_repeats("latency.p50", np.full(repeats, value))
    assert (found.lo, found.value, found.hi) == pytest.approx((value,) * 3)


@pytest.mark.parametrize(
    ("right", "items", "lo", "hi"),
    [
        (8, 10, 0.490162, 0.943318),
        (1, 2, 0.094531, 0.905469),
        (0, 10, 0.0, 0.277533),
        (10, 10, 0.722467, 1.0),
        (0, 1, 0.0, 0.793450),
        (1, 1, 0.206550, 1.0),
        (870, 900, 0.952814, 0.976553),
    ],
)
def test_accuracy_has_wilsons_interval(right, items, lo, hi):
    found = share_correct("accuracy.top1", np.arange(items) < right)
    assert (found.lo, found.hi) == pytest.approx((lo, hi), abs=1e-6)
    assert (found.value, found.n, found.unit) == (right / items, items, "ratio")


@FIXED
@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_accuracy_lies_within_its_interval_and_that_within_zero_and_one(counts):
    right, items = counts
    found = share_correct("accuracy.top1", np.arange(items) < right)
    expected = stats.binomtest(right, items).proportion_ci(method="wilson")
    assert (found.lo, found.hi) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= found.lo <= found.hi <= 1
    assert found.lo <= found.value + 1e-12
    assert found.value - 1e-12 <= found.hi


def test_at_none_and_at_all_right_the_interval_ends_at_the_accuracy_to_the_bit():
    for items in range(1, 300):
        none, every = (share_correct("accuracy.top1", np.full(items, b)) for b in (False, True))
        assert (none.lo, none.value) == (0, 0)
        assert (every.value, every.hi) == (1, 1)
