"""Marks in a trace: where they are, and when they are not there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.analysis.alignment import LEAST_LIKENESS, find_line, find_mark
from farm.analysis.trace import Bins, Trace
from farm.metering import MARK, Chunk, Span, SpanKind
from tests.unit.energy_traces import HOST_NS, fast_facts

FIXED = settings(derandomize=True, deadline=None, max_examples=40)
RATE_HZ = 2_000.0
FACTS = fast_facts(rate_hz=RATE_HZ)
SECOND = 10**9


def marked(starts_s: list[float], chip_s: float, length_s: float, noise: float = 0.0) -> Bins:
    """A trace of 1 W at rest and 3 W in the chips of marks, by a meter that averages."""
    steps, powers = [0.0], [1.0]
    for start in starts_s:
        steps += [start + place * chip_s for place in range(len(MARK) + 1)]
        powers += [3.0 if bit else 1.0 for bit in (*MARK, 0)]
    ends = np.arange(1, int(length_s * RATE_HZ) + 1) / RATE_HZ
    steps_s, energy = (
        np.append(steps, length_s + 1),
        np.cumsum(np.array(powers) * np.diff([*steps, length_s + 1])),
    )
    until = np.interp(np.concatenate([[0.0], ends]), steps_s, np.concatenate([[0.0], energy]))
    power = np.diff(until) * RATE_HZ
    power += noise * np.random.default_rng(1).standard_normal(len(power))
    return folded(ends, power, length_s)


def folded(ends: np.ndarray, power: np.ndarray, length_s: float) -> Bins:
    trace = Trace(HOST_NS, HOST_NS + round(length_s * SECOND), FACTS)
    trace.feed(Chunk(t_ns=HOST_NS + np.round(ends * SECOND).astype(np.int64), power_w=power))
    return trace.finish()


def mark(start_s: float, chip_s: float) -> Span:
    start = HOST_NS + round(start_s * SECOND)
    return Span(
        kind=SpanKind.MARK, start_ns=start, end_ns=start + round(len(MARK) * chip_s * SECOND)
    )


@FIXED
@given(st.floats(-0.9, 0.9), st.sampled_from([0.05, 0.0777, 0.25]), st.floats(0, 0.5))
def test_a_mark_is_found_to_a_part_of_a_bin(off_s, chip_s, noise):
    start = 3.0
    bins = marked([start + off_s], chip_s, 9.0, noise)
    found = find_mark(bins, mark(start, chip_s), 0, SECOND)
    assert found is not None
    assert found.offset_ns == pytest.approx(off_s * 1e9, abs=5e5)
    assert found.likeness > 0.9


@FIXED
@given(st.integers(0, 10**6))
def test_noise_holds_no_two_marks(seed):
    rng = np.random.default_rng(seed)
    length = 30.0
    ends = np.arange(1, int(length * RATE_HZ) + 1) / RATE_HZ
    slow = np.repeat(rng.standard_normal(int(length * 4) + 1), int(RATE_HZ / 4))[: len(ends)]
    bins = folded(ends, 2 + 0.5 * slow, length)
    marks = [mark(3.0, 0.25), mark(22.0, 0.25)]
    assert find_line(bins, marks, 0, SECOND, 1e9 / RATE_HZ) is None


def test_a_trace_without_any_load_is_like_nothing():
    bins = marked([], 0.25, 12.0)
    found = find_mark(bins, mark(4.0, 0.25), 0, SECOND)
    assert found is not None
    assert found.likeness < LEAST_LIKENESS


def test_a_mark_of_which_much_was_not_measured_is_not_looked_for():
    bins = marked([4.0], 0.25, 12.0)
    power = bins.power_w.copy()
    power[4000:5500] = np.nan
    holed = replace(bins, power_w=power)
    assert find_mark(holed, mark(4.0, 0.25), 0, SECOND) is None
    power = bins.power_w.copy()
    power[4000:4300] = np.nan
    found = find_mark(replace(bins, power_w=power), mark(4.0, 0.25), 0, SECOND)
    assert found is not None
    assert abs(found.offset_ns) < 2e7


@pytest.mark.parametrize("rest_s", [0.05, 0.3, 1.0])
def test_a_recording_may_end_right_behind_the_mark(rest_s):
    """The search goes on for a second where nothing was recorded."""
    chip_s, start_s = 0.05, 4.0
    bins = marked([start_s], chip_s, 9.0)
    power = bins.power_w.copy()
    power[round((start_s + len(MARK) * chip_s + 0.2 + rest_s) * 1000) :] = np.nan
    found = find_mark(replace(bins, power_w=power), mark(start_s, chip_s), 0, SECOND)
    assert found is not None
    assert found.likeness > 0.99


@pytest.mark.parametrize("place_s", [-5.0, 0.2, 11.5, 40.0])
def test_a_mark_at_the_end_of_the_trace_or_beyond_is_no_error(place_s):
    bins = marked([4.0], 0.25, 12.0)
    found = find_mark(bins, mark(place_s, 0.25), 0, SECOND)
    assert found is None or found.likeness < LEAST_LIKENESS


def test_two_marks_give_a_line_that_follows_a_drifting_clock():
    drift = 100e-6
    starts = [3.0, 63.0]
    bins = marked([s * (1 + drift) + 0.4 for s in starts], 0.1, 70.0, 0.2)
    found = find_line(bins, [mark(s, 0.1) for s in starts], 0, SECOND, 1e9 / RATE_HZ)
    assert found is not None
    line, error_ns = found
    for t_s in (3.0, 30.0, 63.0):
        true = HOST_NS + (t_s * (1 + drift) + 0.4) * 1e9
        assert line.place(HOST_NS + round(t_s * SECOND)) == pytest.approx(true, abs=5e5)
    assert 5e5 < error_ns < 5e6


def test_marks_at_different_offsets_contradict_each_other():
    bins = marked([3.0, 63.3], 0.1, 70.0)
    marks = [mark(3.0, 0.1), mark(63.0, 0.1)]
    assert find_line(bins, marks, 0, SECOND, 1e9 / RATE_HZ) is None


def test_where_to_look_is_given_by_the_clocks():
    bins = marked([3.0, 63.0], 0.1, 70.0)
    behind = [
        replace(m, start_ns=m.start_ns - 1000 * SECOND, end_ns=m.end_ns - 1000 * SECOND)
        for m in (mark(3.0, 0.1), mark(63.0, 0.1))
    ]
    assert find_line(bins, behind, 0, SECOND, 1e9 / RATE_HZ) is None
    found = find_line(bins, behind, 1000 * SECOND + 500_000_000, SECOND, 1e9 / RATE_HZ)
    assert found is not None
    assert found[0].offset_ns == pytest.approx(1000e9, abs=5e5)
