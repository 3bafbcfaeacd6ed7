"""Thinning out keeps every spike; the histogram says what it leaves out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard import samples
from dashboard.samples import SHOWN_SAMPLES, keep_extremes, summarise


def traces(**arms: np.ndarray) -> pd.DataFrame:
    """The arms one after the other, each as one block."""
    return pd.concat(
        [
            pd.DataFrame(
                {"arm": arm, "block": 0, "position": 0, "unit": "ns", "value": values.astype(float)}
            )
            for arm, values in arms.items()
        ],
        ignore_index=True,
    ).astype({"arm": "category"})


@given(
    st.lists(st.floats(allow_nan=False, width=32), min_size=1, max_size=300),
    st.integers(min_value=2, max_value=60),
)
def test_the_extremes_survive_in_order_within_the_limit(values, limit):
    array = np.array(values)
    kept = keep_extremes(array, limit)
    assert len(kept) <= limit or len(array) <= limit
    assert np.all(np.diff(kept) > 0)
    assert array[kept].max() == array.max()
    assert array[kept].min() == array.min()


def test_one_spike_in_a_million_survives():
    values = np.ones(1_000_000)
    values[654_321] = 9.0
    kept = keep_extremes(values, SHOWN_SAMPLES)
    assert 654_321 in kept
    assert len(kept) <= SHOWN_SAMPLES


def test_every_bucket_keeps_its_own_spike():
    values = np.ones(100_000)
    spikes = np.arange(50, 100_000, 1000)
    values[spikes] = np.linspace(2, 3, len(spikes))
    assert set(spikes) <= set(keep_extremes(values, SHOWN_SAMPLES))


def test_the_spikes_of_one_arm_do_not_hide_those_of_the_other():
    quiet, loud = np.ones(50_000), np.ones(50_000)
    quiet[25_000], loud[:] = 2.0, np.random.default_rng(7).normal(100, 10, 50_000)
    found = summarise(traces(baseline=quiet, candidate=loud))
    shown = found.shown[found.shown["arm"] == "baseline"]
    assert shown["value"].max() == 2.0
    assert len(found.shown) <= SHOWN_SAMPLES
    assert found.total == 100_000


def test_the_order_counts_from_the_first_sample_of_the_job():
    found = summarise(traces(baseline=np.ones(3), candidate=np.ones(2)))
    assert list(found.shown["order"]) == [1, 2, 3, 4, 5]


def test_no_samples_give_nothing():
    assert summarise(pd.DataFrame(columns=["arm", "block", "position", "unit", "value"])) is None


def test_the_histogram_is_clipped_and_counts_what_it_leaves_out():
    values = np.random.default_rng(3).normal(1000, 10, 10_000)
    values[:5] = 50_000
    histogram = summarise(traces(candidate=values)).histogram
    assert histogram.clipped == (values > histogram.clip).sum()
    assert 5 <= histogram.clipped <= 10
    assert histogram.largest == 50_000
    assert histogram.clip < 1100
    assert histogram.bins["share"].sum() == pytest.approx(1 - histogram.clipped / 10_000)
    assert histogram.bins["right"].max() == pytest.approx(histogram.clip)


def test_both_arms_share_their_bins():
    rng = np.random.default_rng(4)
    found = summarise(traces(baseline=rng.normal(10, 1, 900), candidate=rng.normal(12, 1, 900)))
    bins = found.histogram.bins
    left = [list(part["left"]) for _, part in bins.groupby("arm")]
    assert left[0] == left[1]
    assert list(found.histogram.medians["arm"]) == ["baseline", "candidate"]


def test_a_slower_arm_does_not_make_the_bins_wider():
    rng = np.random.default_rng(8)
    fast, slow = rng.normal(10, 0.2, 4000), rng.normal(40, 0.2, 4000)
    bins = summarise(traces(baseline=fast, candidate=slow)).histogram.bins
    shares = bins[bins["arm"] == "baseline"]["share"]
    assert (shares > 0.01).sum() > 8


def test_a_wide_spread_makes_the_axis_logarithmic():
    values = np.random.default_rng(5).lognormal(0, 1, 5000)
    histogram = summarise(traces(candidate=values)).histogram
    assert histogram.logarithmic
    ratios = histogram.bins["right"] / histogram.bins["left"]
    assert ratios.std() < 1e-9 * ratios.mean() + 1e-6


@pytest.mark.parametrize("value", [0.0, 5.0, -5.0])
def test_equal_samples_make_one_bin_that_can_be_seen(value):
    bins = summarise(traces(candidate=np.full(10, value))).histogram.bins
    assert len(bins) == 1
    assert bins["right"][0] > bins["left"][0]
    assert bins["share"][0] == 1.0


def test_the_number_of_bins_is_bounded():
    rng = np.random.default_rng(6)
    for values in (rng.normal(10, 1, 10), np.r_[np.ones(9000), rng.normal(2, 0.1, 1000)]):
        bins = summarise(traces(candidate=values)).histogram.bins
        assert samples.BINS[0] <= len(bins) <= samples.BINS[1]
