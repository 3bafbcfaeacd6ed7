"""From samples and spans to joules: against a device whose energy is known."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.analysis.energy import Clocks, find_energy
from farm.metering import Chunk, EnergyWindow, MeterFacts, Span, SpanKind
from tests.unit.energy_traces import (
    HOST_NS,
    UNIX_NS,
    Device,
    Load,
    fast_facts,
    read_fast,
    read_slow,
    run,
    slow_facts,
)

FIXED = settings(derandomize=True, deadline=None)
CLOCKS = Clocks(offset_ns=HOST_NS - UNIX_NS, error_ns=5_000_000)
SKEW = 20e-6
PLAIN = fast_facts(rate_hz=10_000.0, meter_class="lpm01a")
"""A regular meter of one range: what is not about ranges is tested with fewer samples."""


def error_pct(window: EnergyWindow, device: Device) -> float:
    return 100 * (window.per_inference_j / device.per_inference_j - 1)


def wired(device: Device, chunks: Iterable[Chunk], facts: MeterFacts = PLAIN) -> EnergyWindow:
    spans = device.told(CLOCKS, SKEW, 3_000_000)
    return find_energy(chunks, spans, facts, clocks=CLOCKS, wired=True)


def short(seed: int = 1, window_s: float = 10.0) -> tuple[Device, list[Chunk]]:
    """A window of ten seconds and what a plain meter saw of it."""
    rng = np.random.default_rng(seed)
    device = run(Load(inference_s=0.05, window_s=window_s, idle_s=2.0), rng)
    return device, list(read_fast(device, PLAIN, rng, ranges=False, skew=SKEW, late_s=0.004))


@pytest.fixture(scope="module")
def plain() -> tuple[Device, list[Chunk]]:
    return short()


def joined(chunks: Iterable[Chunk]) -> Chunk:
    parts = list(chunks)
    return Chunk(
        t_ns=np.concatenate([c.t_ns for c in parts]),
        power_w=np.concatenate([c.power_w for c in parts]),
        logic=np.concatenate([c.logic for c in parts]),
        lost=sum(c.lost for c in parts),
        saturated=sum(c.saturated for c in parts),
    )


def cut(chunk: Chunk, low: int, high: int, **changed: object) -> Chunk:
    part = replace(
        chunk,
        t_ns=chunk.t_ns[low:high],
        power_w=chunk.power_w[low:high],
        logic=chunk.logic[low:high],
    )
    return replace(part, **changed)


def at(chunk: Chunk, seconds: float) -> int:
    """The sample at that time of the device."""
    return int(np.searchsorted(chunk.t_ns, HOST_NS + round(seconds * 1e9)))


# With a wire


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "plain"])
@pytest.mark.parametrize("inference_s", [0.001, 0.01, 1.0])
def test_a_wire_gates_the_energy_of_an_inference_to_two_per_mille(inference_s, ranges):
    rng = np.random.default_rng(1)
    device = run(Load(inference_s=inference_s, window_s=10), rng)
    chunks = read_fast(device, fast_facts(), rng, ranges=ranges, skew=SKEW, late_s=0.004)
    window = wired(device, chunks, fast_facts())
    assert abs(error_pct(window, device)) < 0.2
    assert (window.method, window.conditions) == ("wire", ())
    assert window.alignment < 1e-5
    assert window.idle_w == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("inference_s", [0.001, 0.01])
def test_what_the_filter_hides_of_steps_into_the_highest_range_is_in_the_doubt(inference_s):
    rng = np.random.default_rng(1)
    halves = ((0.5, 1.6), (0.5, 0.4))
    load = Load(inference_s=inference_s, window_s=10, active_w=0.16, idle_w=0.001, profile=halves)
    device = run(load, rng)
    window = wired(device, read_fast(device, fast_facts(), rng), fast_facts())
    off = abs(error_pct(window, device)) / 100
    assert 0.5 * off < window.filter * np.sqrt(3) < 2 * off
    assert window.ranges == pytest.approx((0, 0, 0, 0.5, 0.5), abs=0.02)


def test_the_energy_is_the_same_however_the_samples_come(plain):
    device, chunks = plain
    whole = wired(device, chunks)
    once = joined(chunks)
    rng = np.random.default_rng(3)
    places = np.unique(rng.integers(0, len(once.t_ns), 200)).tolist()
    parts = [cut(once, a, b) for a, b in zip([0, *places], [*places, None], strict=True)]
    again = wired(device, [Chunk.empty(), *parts, Chunk.empty()])
    assert again.energy_j == pytest.approx(whole.energy_j, rel=1e-9)
    assert (again.duration_s, again.samples) == (whole.duration_s, whole.samples)
    assert again.peak_w == pytest.approx(whole.peak_w, rel=1e-9)
    assert again.idle_w == pytest.approx(whole.idle_w, rel=1e-9)


def test_chunks_are_not_held(plain):
    device, chunks = plain
    seen: list[weakref.ref[np.ndarray]] = []

    def fresh() -> Iterator[Chunk]:
        for chunk in chunks:
            copy = replace(chunk, power_w=chunk.power_w.copy())
            seen.append(weakref.ref(copy.power_w))
            yield copy
            del copy
            assert sum(ref() is not None for ref in seen) <= 2

    assert wired(device, fresh()).samples
    assert len(seen) == len(chunks)


def test_glitches_and_bounces_of_the_pin_do_not_count(plain):
    device, chunks = plain
    once = joined(chunks)
    rate = 100_000.0
    rng = np.random.default_rng(4)
    facts = fast_facts()
    fine = joined(read_fast(device, facts, rng, ranges=False))
    whole = wired(device, [fine], facts)
    logic = fine.logic.copy()
    start, end, _ = device.window
    rise = at(fine, start)
    for glitch in (100, 500, rise - 40_000):  # a sample or two of 10 us
        logic[glitch : glitch + 2] = 1
    logic[[rise + 1, rise + 3, rise + int(3 * rate), at(fine, end) - 2]] = 0
    bouncing = wired(device, [replace(fine, logic=logic)], facts)
    assert bouncing.conditions == ()
    assert bouncing.energy_j == pytest.approx(whole.energy_j, rel=1e-5)
    assert len(once.t_ns) * 10 == len(fine.t_ns)


def test_a_pin_that_moves_while_the_device_starts_does_not_count(plain):
    device, chunks = plain
    once = joined(chunks)
    logic = once.logic.copy()
    logic[:1000] = 1
    spans = tuple(s for s in device.told(CLOCKS, SKEW, 0) if s.kind is SpanKind.WINDOW)
    window = find_energy([replace(once, logic=logic)], spans, PLAIN, clocks=CLOCKS, wired=True)
    assert window.conditions == ()
    assert window.idle_w is None  # nobody said when it rested


def test_each_batch_of_a_microcontroller_has_its_pulse(plain):
    device, chunks = plain
    once = joined(chunks)
    start, end, inferences = device.window
    pauses = [start + (end - start) * part for part in (0.25, 0.5, 0.75)]
    logic = once.logic.copy()
    spans, began = [], start
    for pause in [*pauses, end]:
        stop = pause if pause == end else pause - 0.01
        a, b = (HOST_NS + round(t * 1e9) for t in (began, stop))
        spans.append(Span(kind=SpanKind.WINDOW, start_ns=a, end_ns=b, inferences=inferences // 4))
        logic[at(once, stop) : at(once, pause)] = 0
        began = pause
    logic[at(once, end) :] = 0
    batches = find_energy([replace(once, logic=logic)], spans, PLAIN, clocks=None, wired=True)
    assert (batches.method, batches.inferences) == ("wire", inferences // 4 * 4)
    assert batches.duration_s == pytest.approx(end - start - 0.03, abs=0.01)
    edges = np.array([[s.start_ns - HOST_NS, s.end_ns - HOST_NS] for s in spans]) / 1e9
    truth = np.diff(device.energy_until(edges)).sum()
    assert batches.energy_j == pytest.approx(truth, rel=2e-3)


@pytest.mark.parametrize("wrong", ["never", "always", "twice", "half"])
def test_a_pin_that_does_not_tell_the_windows_is_a_condition(plain, wrong):
    device, chunks = plain
    once = joined(chunks)
    logic = once.logic.copy()
    middle = at(once, sum(device.window[:2]) / 2)
    match wrong:
        case "never":
            logic[:] = 0
        case "always":
            logic[:] = 1
        case "twice":
            logic[middle : middle + 100] = 0
        case _:
            logic[middle:] = 0
    window = wired(device, [replace(once, logic=logic)])
    assert "meter_edges" in window.conditions
    assert window.method == "clock"


# What was not measured


def test_what_is_lost_inside_is_told_and_not_filled_in(plain):
    device, chunks = plain
    once = joined(chunks)
    start = at(once, device.window[0])
    gap = slice(start + 20_000, start + 22_000)
    parts = [cut(once, 0, gap.start), cut(once, gap.stop, None, lost=2_000)]
    window = wired(device, parts)
    assert window.lost == 2_000
    assert window.conditions == ("meter_lost",)
    assert abs(error_pct(window, device)) < 0.5
    few = wired(device, [cut(once, 0, gap.start), cut(once, gap.start + 30, None, lost=30)])
    assert (few.lost, few.conditions) == (30, ())


def test_what_is_lost_while_the_device_rests_does_not_matter(plain):
    device, chunks = plain
    once = joined(chunks)
    window = wired(device, [cut(once, 0, 2_000), cut(once, 4_000, None, lost=2_000)])
    assert (window.lost, window.conditions) == (0, ())


def test_lost_samples_of_which_no_gap_is_seen_may_be_anywhere(plain):
    device, chunks = plain
    window = wired(device, [chunks[0], replace(Chunk.empty(), lost=640), *chunks[1:]])
    assert (window.lost, window.conditions) == (0, ())  # the chunk after it ends before the window
    middle = len(chunks) // 2
    parts = [*chunks[:middle], replace(Chunk.empty(), lost=640), *chunks[middle:]]
    assert wired(device, parts).lost == 640


def test_samples_that_are_no_number_are_lost(plain):
    device, chunks = plain
    once = joined(chunks)
    power = once.power_w.copy()
    middle = at(once, sum(device.window[:2]) / 2)
    power[middle : middle + 500] = np.nan
    power[10:20] = np.nan
    window = wired(device, [cut(once, 0, 5_000), cut(replace(once, power_w=power), 5_000, None)])
    assert (window.lost, window.conditions) == (500, ("meter_lost",))
    assert abs(error_pct(window, device)) < 0.5


def test_full_scale_inside_is_a_condition_and_outside_is_none(plain):
    device, chunks = plain
    outside = [replace(chunks[0], saturated=3), *chunks[1:]]
    assert wired(device, outside).conditions == ()
    middle = len(chunks) // 2
    inside = [*chunks[:middle], replace(chunks[middle], saturated=3), *chunks[middle + 1 :]]
    window = wired(device, inside)
    assert (window.saturated, window.conditions) == (3, ("meter_saturated",))


def test_a_meter_that_stops_is_a_condition(plain):
    device, chunks = plain
    once = joined(chunks)
    middle = at(once, sum(device.window[:2]) / 2)
    silent = wired(device, [cut(once, 0, middle), cut(once, middle + 12_000, None)])
    assert "meter_stalled" in silent.conditions
    ended = wired(device, [cut(once, 0, middle)])
    assert {"meter_stalled", "meter_edges"} <= set(ended.conditions)
    late = wired(device, [cut(once, middle, None)])
    assert {"meter_stalled", "meter_edges"} <= set(late.conditions)


def test_without_a_sample_nothing_is_known(plain):
    device, _ = plain
    window = wired(device, [])
    assert np.isnan(window.energy_j)
    assert np.isnan(window.peak_w)
    assert window.idle_w is None
    assert window.samples == 0
    assert "meter_stalled" in window.conditions
    assert "meter_negative" not in window.conditions


def test_a_meter_the_wrong_way_round_is_a_condition(plain):
    device, chunks = plain
    window = wired(device, [replace(c, power_w=-c.power_w) for c in chunks])
    assert window.conditions == ("meter_negative",)


def test_no_window_is_an_error(plain):
    device, chunks = plain
    spans = [s for s in device.told(CLOCKS, SKEW, 0) if s.kind is not SpanKind.WINDOW]
    with pytest.raises(ValueError, match="no window"):
        find_energy(chunks, spans, PLAIN, clocks=CLOCKS, wired=True)


@pytest.mark.parametrize(("inference_s", "window_s"), [(0.05, 5.0), (1.5, 12.0)])
def test_short_windows_and_few_inferences_are_a_condition(inference_s, window_s):
    rng = np.random.default_rng(2)
    device = run(Load(inference_s=inference_s, window_s=window_s, idle_s=1.0), rng)
    window = wired(device, read_fast(device, PLAIN, rng, ranges=False))
    assert window.conditions == ("short_window",)
    assert abs(error_pct(window, device)) < 0.2


@FIXED
@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=12),
    st.integers(0, 10**6),
    st.sampled_from([1e3, 1e4, 12_345.0]),
)
def test_a_constant_power_lasts_as_long_as_its_samples(sizes, late_ns, rate_hz):
    facts = replace(PLAIN, rate_hz=rate_hz)
    numbers = np.arange(sum(sizes) + 1)
    t_ns = HOST_NS + late_ns + np.round(numbers / rate_hz * 1e9).astype(np.int64)
    chunks = [
        Chunk(t_ns=t_ns[1:][a : a + n], power_w=np.full(n, 2.5), logic=np.ones(n, np.uint8))
        for a, n in zip(np.cumsum([0, *sizes[:-1]]), sizes, strict=True)
    ]
    spans = [Span(kind=SpanKind.WINDOW, start_ns=int(t_ns[0]), end_ns=int(t_ns[-1]), inferences=1)]
    window = find_energy(chunks, spans, facts, clocks=None, wired=False)
    assert window.energy_j == pytest.approx(2.5 * (t_ns[-1] - t_ns[0]) / 1e9, rel=1e-9)


# Without a wire

SLOW = {
    "km003c": slow_facts(1000, 0.0, "km003c"),
    "fnb58": slow_facts(100, 0.12, "fnb58"),
    "tc66c": slow_facts(10, 0.5),
}


def phone(seed: int, inference_s: float = 0.1, **changed: float) -> tuple[Device, object]:
    rng = np.random.default_rng(seed)
    load = Load(
        inference_s=inference_s, window_s=60, idle_w=1.2, active_w=4.5, chip_s=0.25, idle_s=4.0
    )
    return run(replace(load, **changed), rng), rng


@pytest.mark.parametrize("marked", [True, False], ids=["marks", "clock"])
@pytest.mark.parametrize("inference_s", [0.003, 0.3, 1.0])
@pytest.mark.parametrize("meter", list(SLOW))
def test_without_a_wire_the_energy_is_known_to_half_a_percent(meter, inference_s, marked):
    facts = SLOW[meter]
    device, rng = phone(2, inference_s)
    clocks = Clocks(offset_ns=CLOCKS.offset_ns, error_ns=400_000_000)
    spans = device.told(clocks, SKEW, -350_000_000)
    if not marked:
        spans = tuple(s for s in spans if s.kind is not SpanKind.MARK)
    chunks = read_slow(device, facts, rng, late_s=0.01)
    window = find_energy(chunks, spans, facts, clocks=clocks, wired=False)
    assert window.conditions == ()
    assert window.method == ("marks" if marked else "clock")
    assert abs(error_pct(window, device)) < 0.5
    assert abs(error_pct(window, device)) < 100 * 4 * max(window.alignment, 1e-4)
    assert window.idle_w == pytest.approx(1.2, rel=0.05)


def test_a_fast_meter_without_a_wire_needs_no_more_than_the_clock():
    facts = replace(PLAIN, rate_hz=5_000.0)
    rng = np.random.default_rng(5)
    device = run(Load(inference_s=0.02, window_s=60, chip_s=0.05), rng)
    spans = device.told(CLOCKS, SKEW, 3_000_000)
    chunks = read_fast(device, facts, rng, ranges=False, late_s=0.002)
    window = find_energy(chunks, spans, facts, clocks=CLOCKS, wired=False)
    assert (window.method, window.conditions) == ("marks", ())
    assert abs(error_pct(window, device)) < 0.1
    assert window.time_error_s < 0.002


def test_a_meter_that_looks_in_step_with_the_inferences_is_not_believed():
    facts = slow_facts(2, 0.5, "um25c")
    device, rng = phone(2, 1.0)
    spans = tuple(s for s in device.told(CLOCKS, SKEW, 0) if s.kind is not SpanKind.MARK)
    window = find_energy(read_slow(device, facts, rng), spans, facts, clocks=CLOCKS, wired=False)
    assert window.conditions == ("short_window",)
    assert abs(error_pct(window, device)) < 300 * window.alignment


def test_a_meter_of_another_device_does_not_show_the_marks():
    device, _ = phone(2)
    other, rng = phone(9, inference_s=0.3, idle_s=5.7)
    facts = SLOW["km003c"]
    window = find_energy(
        read_slow(other, facts, rng),
        device.told(CLOCKS, SKEW, 0),
        facts,
        clocks=CLOCKS,
        wired=False,
    )
    assert "meter_misaligned" in window.conditions


def test_a_clock_that_is_set_meanwhile_is_noticed():
    device, rng = phone(2)
    facts = SLOW["km003c"]
    spans = device.told(CLOCKS, SKEW, 0)
    jumped = [
        replace(s, start_ns=s.start_ns + 500_000_000, end_ns=s.end_ns + 500_000_000)
        if s.start_ns > spans[2].start_ns
        else s
        for s in spans
    ]
    window = find_energy(read_slow(device, facts, rng), jumped, facts, clocks=CLOCKS, wired=False)
    assert window.conditions == ("meter_misaligned",)


def test_a_window_shorter_than_the_meters_lag_is_a_condition():
    rng = np.random.default_rng(2)
    device = run(Load(inference_s=0.05, window_s=2.0, chip_s=0.25), rng)
    facts = SLOW["tc66c"]
    window = find_energy(
        read_slow(device, facts, rng),
        device.told(CLOCKS, SKEW, 0),
        facts,
        clocks=CLOCKS,
        wired=False,
    )
    assert window.conditions == ("short_window",)


def test_the_peak_is_that_of_a_millisecond(plain):
    device, chunks = plain
    once = joined(chunks)
    power = once.power_w.copy()
    middle = at(once, sum(device.window[:2]) / 2) // 10 * 10
    power[middle : middle + 40] = 1.0  # four milliseconds
    power[middle + 5_000] = 5.0  # a tenth of one
    window = wired(device, [replace(once, power_w=power)])
    assert window.peak_w == pytest.approx(1.0, rel=0.01)
