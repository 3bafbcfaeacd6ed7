"""What an energy is worth: budgets, both intervals, and what holds between units."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from farm.analysis.compare import block_effect
from farm.analysis.energy_budget import (
    across_units,
    battery_life_h,
    budget,
    comparable_interval,
    energy_over_repeats,
    range_moved,
)
from farm.metering import METER_CLASSES, Duty, EnergyWindow, Term, VoltageSource, combined
from farm.record import Measurement
from tests.benchmarks.energy_accuracy import covered, meter, planted
from tests.unit.energy_traces import fast_facts

FIXED = settings(derandomize=True, deadline=None)
METRIC = "energy.per_inference"
WINDOW = EnergyWindow(
    energy_j=1.0, inferences=100, duration_s=10.0, idle_w=0.05, peak_w=0.2, method="wire",
    time_error_s=3e-6, alignment=0.001, filter=0.002, samples=999_000, lost=1_000, saturated=0,
    ranges=(0.0, 0.0, 0.3, 0.7),
)  # fmt: skip
VALUES = 0.01 * np.exp(np.array([-0.01, 0.0, 0.01]))


def by_name(terms: tuple[Term, ...]) -> dict[str, Term]:
    return {term.name: term for term in terms}


def test_a_budget_names_every_term():
    terms = by_name(budget([WINDOW] * 3, VALUES, fast_facts(), battery=0.004))
    root = math.sqrt(3)
    expected = {
        "gain": 0.1 / root, "voltage": 0.01 / root, "alignment": 0.001, "lost": 0.001 / root,
        "filter": 0.002, "battery": 0.004, "repeat": 0.01 / root,
    }  # fmt: skip
    assert list(terms) == list(expected)
    assert {name: term.relative for name, term in terms.items()} == pytest.approx(expected)
    assert {name for name, term in terms.items() if term.cancels} == {"gain", "voltage"}


def test_a_meter_that_senses_the_voltage_need_not_be_told_it():
    facts = fast_facts(voltage=VoltageSource.MEASURED)
    assert by_name(budget([WINDOW], VALUES[:1], facts))["voltage"].relative == 0


def test_a_single_repeat_does_not_tell_how_repeats_differ():
    terms = budget([WINDOW], VALUES[:1], fast_facts())
    assert "repeat" not in by_name(terms)
    measurement = energy_over_repeats(METRIC, VALUES[:1], terms)
    assert (measurement.lo, measurement.hi) == (None, None)
    assert measurement.budget == terms
    assert comparable_interval(measurement) is None


def test_what_is_a_share_of_the_gross_energy_weighs_more_on_a_net_one():
    gross = by_name(budget([WINDOW] * 3, VALUES, fast_facts()))
    net = by_name(budget([WINDOW] * 3, VALUES / 4, fast_facts(), net=True))
    for name in ("alignment", "lost", "filter"):
        assert net[name].relative == pytest.approx(4 * gross[name].relative, rel=1e-3)
    for name in ("gain", "voltage", "repeat"):
        assert net[name].relative == pytest.approx(gross[name].relative)


def test_a_measurement_without_a_budget_cannot_be_compared_by_one():
    measurement = Measurement(metric=METRIC, unit="J", value=1.0, lo=0.9, hi=1.1, n=5)
    assert comparable_interval(measurement) is None


def test_alone_the_spread_of_repeats_gives_students_interval():
    values = np.random.default_rng(1).lognormal(0, 0.02, 5)
    facts = fast_facts(meter_class="js220", voltage=VoltageSource.MEASURED)
    clean = replace(WINDOW, alignment=0.0, filter=0.0, lost=0)
    measurement = energy_over_repeats(METRIC, values, budget([clean] * 5, values, facts))
    logs = np.log(values)
    expected = np.exp(stats.t.interval(0.95, 4, logs.mean(), stats.sem(logs)))
    assert comparable_interval(measurement) == pytest.approx(expected)
    assert measurement.lo < expected[0] < expected[1] < measurement.hi
    assert measurement.unit == "J"


@FIXED
@given(
    st.lists(st.floats(0.01, 100), min_size=2, max_size=12),
    st.sampled_from(sorted(METER_CLASSES)),
    st.floats(0.001, 1000),
)
def test_intervals_hold_the_value_and_scale_with_it(values, kind, factor):
    facts = fast_facts(meter_class=kind)
    values = np.array(values)
    terms = budget([WINDOW] * len(values), values, facts)
    ours = energy_over_repeats(METRIC, values, terms)
    scaled = energy_over_repeats(METRIC, factor * values, terms)
    near = comparable_interval(ours)
    assert near is not None
    assert ours.lo < near[0] <= ours.value * (1 + 1e-9)
    assert ours.value * (1 - 1e-9) <= near[1] < ours.hi
    assert (scaled.lo, scaled.hi) == pytest.approx((factor * ours.lo, factor * ours.hi))
    assert combined(terms, compared=True) < combined(terms, compared=False)


def test_no_number_of_repeats_averages_a_calibration_away():
    rng = np.random.default_rng(1)
    values = rng.lognormal(0, 0.01, 10_000)
    measurement = energy_over_repeats(METRIC, values, budget([WINDOW], values, fast_facts()))
    near = comparable_interval(measurement)
    assert near is not None
    assert measurement.hi / measurement.lo - 1 > 0.2 > 0.02 > near[1] / near[0] - 1


@pytest.mark.parametrize("kind", ["js220", "ppk2", "tc66c"])
@pytest.mark.parametrize("spread", [0.001, 0.01, 0.05])
def test_intervals_hold_the_truth_as_often_as_they_say(kind, spread):
    found = covered(np.random.default_rng(7), kind, repeats=5, spread=spread, runs=800)
    assert 92.5 <= found["comparable"] <= 97.5
    assert 92.5 <= found["between arms"] <= 97.5
    assert found["absolute"] >= 93.5
    assert found["between units"] >= 92.5


def test_the_same_blocks_decide_on_one_unit_and_not_between_two():
    rng = np.random.default_rng(3)
    differences = planted(rng, meter("js220"), blocks=9)
    effect = block_effect(differences, 0.05 / 3)
    assert effect.lo > 0
    assert effect.estimate == pytest.approx(0.03, abs=0.01)
    assert across_units(effect, "js220").lo > 0
    wide = across_units(effect, "ppk2")
    assert wide.lo < 0 < 0.03 < wide.hi
    assert wide.estimate == effect.estimate
    assert wide.n == effect.n
    assert wide.mde > 0.15


@FIXED
@given(
    st.lists(st.floats(-0.3, 0.3), min_size=2, max_size=12),
    st.sampled_from(sorted(METER_CLASSES)),
    st.sampled_from([0.005, 0.05, 0.2]),
)
def test_what_holds_between_units_is_never_narrower(differences, kind, alpha):
    effect = block_effect(np.array(differences), alpha)
    wide = across_units(effect, kind)
    assert wide.lo <= effect.lo <= effect.hi <= wide.hi
    assert wide.mde >= effect.mde
    assert wide.estimate == effect.estimate


def test_blocks_that_agree_to_the_bit_leave_the_whole_limit_of_both_meters():
    wide = across_units(block_effect(np.full(6, np.log(1.03)), 0.05), "js220")
    assert (wide.lo, wide.hi) == pytest.approx(
        (1.03 * math.exp(-0.01) - 1, 1.03 * math.exp(0.01) - 1)
    )


@pytest.mark.parametrize("kind", ["odpm", "gauge"])
def test_some_meters_support_no_comparison_between_units(kind):
    wide = across_units(block_effect(np.array([0.5, 0.51, 0.52]), 0.05), kind)
    assert (wide.lo, wide.hi, wide.mde) == (-1.0, math.inf, math.inf)


@pytest.mark.parametrize(
    ("other", "moved"),
    [
        ((0.0, 0.0, 0.35, 0.65), False),
        ((0.0, 0.0, 0.41, 0.59), True),
        ((0.0, 0.0, 0.3, 0.58, 0.12), True),
        ((0.0, 0.0, 0.3, 0.69, 0.01), False),
    ],
)
def test_windows_in_other_ranges_were_not_measured_alike(other, moved):
    changed = replace(WINDOW, ranges=other)
    assert range_moved(WINDOW, changed) is moved
    assert range_moved(changed, WINDOW) is moved


def test_a_meter_with_one_range_never_moves():
    assert not range_moved(replace(WINDOW, ranges=()), replace(WINDOW, ranges=()))


def test_a_battery_lasts_as_long_as_its_energy():
    duty = Duty(battery_wh=3.7, inferences_per_hour=60)
    assert battery_life_h(duty, 0.01, 0.6) == pytest.approx(3.7 / (0.01 + 0.01))
    assert battery_life_h(duty, 0.0, 0.0) == math.inf
