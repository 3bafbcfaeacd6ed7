"""Area `energy`, the analysis: how near to the truth, how often inside the interval.

Everything is computed: devices of known energy, and meters without an error of gain unless it says
so. Nothing here was measured with a real meter.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from farm.analysis.compare import block_effect
from farm.analysis.energy import Clocks, find_energy
from farm.analysis.energy_budget import (
    across_units,
    budget,
    comparable_interval,
    energy_over_repeats,
)
from farm.energy import chip_s
from farm.metering import METER_CLASSES, EnergyWindow, MeterClass, MeterFacts, SpanKind
from tests.benchmarks.run import Figure
from tests.unit.energy_traces import (
    HOST_NS,
    UNIX_NS,
    Load,
    fast_facts,
    read_fast,
    read_slow,
    run,
    slow_facts,
)

SEED = 20_251_124
SKEW = 20e-6
CLOCKS = Clocks(offset_ns=HOST_NS - UNIX_NS, error_ns=400_000_000)
"""As good as network time is required to be in MLPerf's power rules."""

INFERENCES_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
WIRED = {
    "ppk2": (fast_facts(), True),
    "ppk2 without ranges": (fast_facts(), False),
    "lpm01a": (fast_facts(meter_class="lpm01a", rate_hz=5_000.0), False),
}
CROSSING = ((0.5, 1.6), (0.5, 0.4))
"""Two halves in neighbouring ranges, none of them the highest."""
UNWIRED = {
    "km003c": slow_facts(1000, 0.0, "km003c"),
    "fnb58": slow_facts(100, 0.12, "fnb58"),
    "tc66c": slow_facts(10, 0.5, "tc66c"),
    "um25c": slow_facts(2, 0.5, "um25c"),
}
REPEATS = 3

RUNS = 20_000
SPREADS = (0.001, 0.005, 0.02, 0.1)


def wire() -> list[Figure]:
    """Energy per inference, gated by a wire, windows of ten seconds."""
    errors = {
        f"{name}, {inference_s * 1e3:g} ms, {shape}": off
        for name, (facts, ranges) in WIRED.items()
        for inference_s in INFERENCES_S
        for shape, off in _wired(facts, ranges, inference_s)
    }
    return [_worst("energy-error-pct-wire", errors, 0.2), _highest_range()]


def _highest_range() -> Figure:
    """Inferences of a millisecond that step into the PPK2's highest range: its filter hides some.

    Nothing is corrected, but the budget has to say so.
    """
    rng = np.random.default_rng(SEED)
    load = Load(inference_s=0.001, window_s=10, active_w=0.16, idle_w=0.001, profile=CROSSING)
    device = run(load, rng)
    spans = device.told(CLOCKS, SKEW, 0)
    chunks = read_fast(device, fast_facts(), rng)
    window = find_energy(chunks, spans, fast_facts(), clocks=CLOCKS, wired=True)
    off = window.per_inference_j / device.per_inference_j - 1
    limit = 100 * np.sqrt(3) * window.filter
    return Figure(
        name="energy-error-pct-wire-range-4", value=100 * abs(off), unit="%", n=1,
        goal=f"<= {limit:.2g}", ok=100 * abs(off) <= limit, peer="(1 ms, limit of the budget)",
        peer_value=limit,
    )  # fmt: skip


def _wired(facts: MeterFacts, ranges: bool, inference_s: float) -> Iterator[tuple[str, float]]:
    shapes = {
        "one range": Load(inference_s=inference_s, window_s=10),
        "two ranges": Load(
            inference_s=inference_s, window_s=10, active_w=0.0158, idle_w=1e-4, profile=CROSSING
        ),
    }
    for shape, load in shapes.items():
        rng = np.random.default_rng(SEED)
        device = run(load, rng)
        late_s = rng.uniform(0, 0.01)
        chunks = read_fast(device, facts, rng, ranges=ranges, skew=SKEW, late_s=late_s)
        spans = device.told(CLOCKS, -SKEW, int(rng.uniform(-0.3e9, 0.3e9)))
        window = find_energy(chunks, spans, facts, clocks=CLOCKS, wired=True)
        few = {"short_window"} if window.inferences <= 10 else set()
        if set(window.conditions) - few:
            raise AssertionError(f"{facts.model}, {inference_s}: {window.conditions}")
        yield shape, 100 * (window.per_inference_j / device.per_inference_j - 1)


def nowire() -> list[Figure]:
    """The same without a wire, windows of a minute, by marks and by the clocks alone."""
    errors: dict[str, float] = {}
    beyond, refused, total = 0, 0, 0
    for name, facts in UNWIRED.items():
        for inference_s in INFERENCES_S:
            for place, window, truth in _unwired(facts, inference_s):
                total += 1
                if window.conditions == ("short_window",):
                    refused += 1
                    continue
                if window.conditions:
                    raise AssertionError(f"{name}, {inference_s}: {window.conditions}")
                off = window.per_inference_j / truth - 1
                beyond += abs(off) > 2 * window.alignment
                errors[f"{name}, {inference_s * 1e3:g} ms, {place}"] = 100 * off
    fast = _unwired_fast()
    return [
        _worst("energy-error-pct-nowire", errors | fast, 0.5),
        Figure(
            name="energy-nowire-refused-pct", value=100 * refused / total, unit="%", n=total,
            peer="(looks in step with inferences)",
        ),
        Figure(
            name="energy-nowire-beyond-2u-pct", value=100 * beyond / len(errors), unit="%",
            n=len(errors), goal="<= 10", ok=beyond <= 0.1 * len(errors),
        ),
    ]  # fmt: skip


def _unwired(facts: MeterFacts, inference_s: float) -> Iterator[tuple[str, EnergyWindow, float]]:
    for repeat in range(REPEATS):
        rng = np.random.default_rng(SEED + repeat)
        load = Load(
            inference_s=inference_s,
            window_s=60,
            idle_w=1.2,
            active_w=4.5,
            chip_s=chip_s(facts),
            idle_s=10,
        )
        device = run(load, rng)
        spans = device.told(CLOCKS, SKEW, int(rng.uniform(-0.39e9, 0.39e9)))
        bare = tuple(span for span in spans if span.kind is not SpanKind.MARK)
        for method, told in (("marks", spans), ("clock", bare)):
            chunks = read_slow(device, facts, rng, late_s=rng.uniform(0, 0.02))
            window = find_energy(chunks, told, facts, clocks=CLOCKS, wired=False)
            yield f"{method} {repeat}", window, device.per_inference_j


def _unwired_fast() -> dict[str, float]:
    """A meter of 100 kHz beside a device without a pin."""
    found = {}
    for inference_s in (0.001, 0.1, 1.0):
        rng = np.random.default_rng(SEED)
        device = run(Load(inference_s=inference_s, window_s=60, chip_s=0.05), rng)
        spans = device.told(CLOCKS, SKEW, int(rng.uniform(-0.39e9, 0.39e9)))
        chunks = read_fast(device, fast_facts(), rng, skew=-SKEW, late_s=0.005)
        window = find_energy(chunks, spans, fast_facts(), clocks=CLOCKS, wired=False)
        if window.conditions or window.method != "marks":
            raise AssertionError(f"ppk2, {inference_s}: {window.method} {window.conditions}")
        off = window.per_inference_j / device.per_inference_j - 1
        found[f"ppk2, {inference_s * 1e3:g} ms, marks"] = 100 * off
    return found


def _worst(name: str, errors: dict[str, float], goal: float) -> Figure:
    where = max(errors, key=lambda place: abs(errors[place]))
    value = abs(errors[where])
    return Figure(
        name=name, value=value, unit="%", n=len(errors), goal=f"<= {goal:g}", ok=value <= goal,
        peer=f"({where}) bias", peer_value=float(np.mean(list(errors.values()))),
    )  # fmt: skip


def meter(kind: str) -> MeterFacts:
    """Facts of a meter of a class; a set voltage, where the class has an error for one."""
    return fast_facts(meter_class=kind)


def covered(
    rng: np.random.Generator, kind: str, *, repeats: int, spread: float, runs: int
) -> dict[str, float]:
    """How often intervals of 95 % hold the truth, in percent, with errors drawn from the class.

    Args:
        kind: class of the meter.
        repeats: per run, and blocks of a comparison.
        spread: of repeats and of block differences.
    """
    limits = METER_CLASSES[kind]
    window = EnergyWindow(
        energy_j=1.0, inferences=1, duration_s=10.0, idle_w=None, peak_w=1.0, method="wire",
        time_error_s=0.0, alignment=0.0, filter=0.0, samples=10**6, lost=0, saturated=0,
    )  # fmt: skip
    hits = dict.fromkeys(("absolute", "comparable", "between arms", "between units"), 0)
    for _ in range(runs):
        ours, theirs = _drawn(rng, limits), _drawn(rng, limits)
        values = ours * np.exp(spread * rng.standard_normal(repeats))
        terms = budget([window] * repeats, values, meter(kind))
        found = energy_over_repeats("energy.per_inference", values, terms)
        near = comparable_interval(found)
        effect = block_effect(np.log(1.03) + spread * rng.standard_normal(repeats), 0.025)
        apart = block_effect(
            np.log(1.03 * ours / theirs) + spread * rng.standard_normal(repeats), 0.025
        )
        wide = across_units(apart, kind)
        hits["absolute"] += (found.lo or 0) <= 1 <= (found.hi or 0)
        hits["comparable"] += near is not None and near[0] <= ours <= near[1]
        hits["between arms"] += effect.lo <= 0.03 <= effect.hi
        hits["between units"] += wide.lo <= 0.03 <= wide.hi
    return {name: 100 * count / runs for name, count in hits.items()}


def _drawn(rng: np.random.Generator, limits: MeterClass) -> float:
    """What a meter of a class makes of one joule."""
    gain, voltage = rng.uniform(-1, 1, 2) * (limits.gain, limits.voltage)
    return float((1 + gain) * (1 + voltage))


def planted(rng: np.random.Generator, facts: MeterFacts, *, blocks: int) -> np.ndarray:
    """Block differences of a model that takes 3 % more, windows that differ by 0.5 %.

    The meter's own error is in both arms, so it is in no difference.
    """
    gain = _drawn(rng, METER_CLASSES[facts.meter_class])
    energies = gain * np.exp(0.005 * rng.standard_normal((blocks, 4)))
    energies[:, 1:3] *= 1.03
    logs = np.log(energies)
    return logs[:, 1:3].mean(axis=1) - logs[:, [0, 3]].mean(axis=1)


def coverage() -> list[Figure]:
    """Both intervals, a comparison on one unit and one between units; gains drawn."""
    rng = np.random.default_rng(SEED)
    grid = [
        (kind, repeats, spread)
        for kind in ("js220", "tc66c", "ina", "ppk2")
        for repeats in (5, 9)
        for spread in SPREADS
    ]
    each = RUNS // len(grid) + 1
    found = [
        covered(rng, kind, repeats=repeats, spread=spread, runs=each)
        for kind, repeats, spread in grid
    ]
    mean = {name: float(np.mean([f[name] for f in found])) for name in found[0]}
    repeated = [
        rate["absolute"]
        for (kind, repeats, spread), rate in zip(grid, found, strict=True)
        if spread / np.sqrt(repeats) > 3 * METER_CLASSES[kind].gain / np.sqrt(3)
    ]
    dominated = float(np.mean(repeated))
    return [
        Figure(
            name="energy-coverage-pct", value=mean["comparable"], unit="%", n=each * len(grid),
            goal="93..97", ok=93 <= mean["comparable"] <= 97, peer="nominal", peer_value=95,
        ),
        Figure(
            name="energy-coverage-ab-pct", value=mean["between arms"], unit="%",
            n=each * len(grid), goal="93..97", ok=93 <= mean["between arms"] <= 97,
            peer="nominal", peer_value=95,
        ),
        Figure(
            name="energy-coverage-repeats-pct", value=dominated, unit="%", n=each * len(repeated),
            goal="93..97", ok=93 <= dominated <= 97, peer="(absolute, repeats dominate) nominal",
            peer_value=95,
        ),
        Figure(
            name="energy-coverage-absolute-pct", value=mean["absolute"], unit="%",
            n=each * len(grid), goal=">= 95", ok=mean["absolute"] >= 95, peer="nominal",
            peer_value=95,
        ),
        Figure(
            name="energy-coverage-units-pct", value=mean["between units"], unit="%",
            n=each * len(grid), goal=">= 94", ok=mean["between units"] >= 94, peer="nominal",
            peer_value=95,
        ),
    ]  # fmt: skip


def regression() -> list[Figure]:
    """A model that takes 3 % more: found on one unit, not claimed between units by a PPK2."""
    rng = np.random.default_rng(SEED)
    alpha, runs = 0.05 / 3, 2_000
    found = claimed = 0
    for _ in range(runs):
        effect = block_effect(planted(rng, meter("js220"), blocks=5), alpha)
        found += effect.lo > 0
        wide = across_units(block_effect(planted(rng, meter("ppk2"), blocks=5), alpha), "ppk2")
        claimed += not wide.lo < 0 < 0.03 < wide.hi
    return [
        Figure(
            name="energy-regression-found-pct", value=100 * found / runs, unit="%", n=runs,
            goal=">= 95", ok=found >= 0.95 * runs, peer="(3 %, js220, 5 blocks, first look)",
        ),
        Figure(
            name="energy-regression-claimed-between-units-pct", value=100 * claimed / runs,
            unit="%", n=runs, goal="0", ok=claimed == 0, peer="(3 %, ppk2)",
        ),
    ]  # fmt: skip


BENCHES = (wire, nowire, coverage, regression)
