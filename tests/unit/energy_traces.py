"""A device whose energy is known, and meters that read it, for tests of the analysis of energy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy import signal

from farm.analysis.energy import Clocks
from farm.metering import (
    CHIPS_APART,
    MARK,
    Chunk,
    ClockDomain,
    MeterFacts,
    Span,
    SpanKind,
    VoltageSource,
)

HOST_NS = 5_000 * 10**9
"""When the device begins, on the host's clock."""
UNIX_NS = 1_700_000_000 * 10**9

VOLTS = 3.3
LIMITS_A = (45e-6, 480e-6, 4.8e-3, 48e-3)
"""Currents at which the meter of 100 kHz takes the next range."""
LSB_A = np.array([0.04e-6, 0.5e-6, 6e-6, 74e-6, 1010e-6])

NOISE_S = 0.02
"""How often the device's own noise takes another value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a device does.

    Attributes:
        inference_s: length of one, half a percent more or less.
        window_s: inferences begin until then.
        profile: shares of an inference and the part of `active_w` drawn in each.
        noise: standard deviation of what comes on top of the power, a fraction, correlated.
        chip_s: of the marks; 0 for none.
    """

    inference_s: float
    window_s: float
    idle_w: float = 0.01
    active_w: float = 0.06
    profile: tuple[tuple[float, float], ...] = ((0.3, 1.2), (0.5, 1.0), (0.2, 0.6))
    noise: float = 0.05
    chip_s: float = 0.0
    idle_s: float = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The truth: steps of power, energy until each of them, and the spans in seconds."""

    t_s: np.ndarray
    power_w: np.ndarray
    spans: tuple[tuple[SpanKind, float, float, int], ...]

    def energy_until(self, t_s: np.ndarray) -> np.ndarray:
        """What was drawn until then."""
        sums = np.concatenate([[0.0], np.cumsum(self.power_w[:-1] * np.diff(self.t_s))])
        return np.interp(t_s, self.t_s, sums)

    @property
    def end_s(self) -> float:
        return float(self.t_s[-1])

    @property
    def window(self) -> tuple[float, float, int]:
        return next((a, b, n) for kind, a, b, n in self.spans if kind is SpanKind.WINDOW)

    @property
    def per_inference_j(self) -> float:
        """The truth."""
        start, end, inferences = self.window
        before, after = self.energy_until(np.array([start, end]))
        return float(after - before) / inferences

    def told(self, clocks: Clocks, skew: float, off_ns: int) -> tuple[Span, ...]:
        """The spans as the device tells them, its clock off by what the host does not know."""
        return tuple(
            Span(
                kind=kind,
                start_ns=round(HOST_NS + a * 1e9 * (1 + skew)) - clocks.offset_ns + off_ns,
                end_ns=round(HOST_NS + b * 1e9 * (1 + skew)) - clocks.offset_ns + off_ns,
                inferences=n,
            )
            for kind, a, b, n in self.spans
        )


def run(load: Load, rng: np.random.Generator) -> Device:
    """A device that ran a load."""
    times, powers, spans = [0.0], [load.idle_w], []
    now = load.idle_s
    spans.append((SpanKind.IDLE, 0.0, now, 0))

    def mark() -> None:
        nonlocal now
        spans.append((SpanKind.MARK, now, now + len(MARK) * load.chip_s, 0))
        for place, bit in enumerate(MARK):
            times.append(now + (place + rng.uniform(0, 0.01)) * load.chip_s)
            powers.append(0.9 * load.active_w if bit else load.idle_w)
        now += len(MARK) * load.chip_s
        times.append(now)
        powers.append(load.idle_w)

    if load.chip_s:
        mark()
        now += CHIPS_APART * load.chip_s
    count = int(np.ceil(load.window_s / load.inference_s))
    lengths = load.inference_s * (1 + 0.005 * rng.standard_normal(count))
    starts = now + np.concatenate([[0.0], np.cumsum(lengths)])
    shares, levels = np.array(load.profile).T
    phases = np.concatenate([[0.0], np.cumsum(shares)[:-1]])
    times.extend((starts[:-1, None] + lengths[:, None] * phases).ravel())
    powers.extend(np.tile(levels * load.active_w, count))
    spans.append((SpanKind.WINDOW, now, float(starts[-1]), count))
    now = float(starts[-1])
    times.append(now)
    powers.append(load.idle_w)
    if load.chip_s:
        now += CHIPS_APART * load.chip_s
        mark()
    spans.append((SpanKind.IDLE, now, now + load.idle_s, 0))
    times.append(now + load.idle_s + 1)
    powers.append(load.idle_w)
    return _disturbed(np.array(times), np.array(powers), load.noise, tuple(spans), rng)


def _disturbed(
    times: np.ndarray,
    powers: np.ndarray,
    noise: float,
    spans: tuple[tuple[SpanKind, float, float, int], ...],
    rng: np.random.Generator,
) -> Device:
    grid = np.arange(0, times[-1], NOISE_S)
    white = rng.standard_normal(len(grid))
    walk = signal.lfilter([np.sqrt(1 - 0.8**2)], [1, -0.8], white)
    everything = np.union1d(times, grid)
    level = powers[np.searchsorted(times, everything, side="right") - 1]
    factor = 1 + noise * walk[np.searchsorted(grid, everything, side="right") - 1]
    return Device(t_s=everything, power_w=level * np.maximum(factor, 0.1), spans=spans)


def fast_facts(**changed: object) -> MeterFacts:
    """Of a meter like the PPK2."""
    facts = MeterFacts(
        meter_class="ppk2",
        model="PPK2",
        clock=ClockDomain.METER,
        rate_hz=100_000.0,
        regular=True,
        voltage=VoltageSource.SET,
        voltage_v=VOLTS,
        simulated=True,
    )
    return replace(facts, **changed)


def read_fast(
    device: Device,
    facts: MeterFacts,
    rng: np.random.Generator,
    *,
    ranges: bool = True,
    skew: float = 20e-6,
    late_s: float = 0.0,
) -> Iterator[Chunk]:
    """A regular meter that averages; with ranges it filters after switches as the PPK2 does.

    Args:
        late_s: how much later than in truth its samples are said to be.
    """
    start, end, _ = device.window
    step, count = 1 / facts.rate_hz, int(0.5 * facts.rate_hz)
    state = np.zeros(4)  # both averages, the range before, samples since the last switch
    for first in range(0, int(device.end_s * facts.rate_hz) - count, count):
        edges = np.arange(first, first + count + 1) * step * (1 + skew)
        amperes = np.diff(device.energy_until(edges)) / np.diff(edges) / VOLTS
        level = np.empty(0, np.uint8)
        if ranges:
            amperes *= 1 + 0.02 * rng.standard_normal(count)
            level = np.digitize(amperes, LIMITS_A).astype(np.uint8)
            amperes = (
                np.round(amperes / LSB_A[level] + rng.uniform(-0.5, 0.5, count)) * LSB_A[level]
            )
            amperes = _filtered(amperes, level, state, seed=first == 0)
        numbers = np.arange(first + 1, first + count + 1)
        yield Chunk(
            t_ns=HOST_NS + np.round((numbers * step + late_s) * 1e9).astype(np.int64),
            power_w=amperes * VOLTS,
            logic=((edges[1:] >= start) & (edges[1:] < end)).astype(np.uint8),
            range=level,
        )


def _filtered(amperes: np.ndarray, level: np.ndarray, state: np.ndarray, seed: bool) -> np.ndarray:
    """What the PPK2's host software makes of the samples around range switches."""
    if seed:
        state[:] = amperes[0], amperes[0], level[0], 99
    switched = np.diff(level.astype(float), prepend=state[2]) != 0
    index = np.arange(len(level))
    last = np.maximum.accumulate(np.where(switched, index, -1 - int(state[3])))
    since = index - last
    frozen = (level == 4) & (since < 2)
    kept = np.flatnonzero(~frozen)
    averages = []
    for place, weight in enumerate((0.18, 0.06)):
        keep = 1 - weight
        found, _ = signal.lfilter([weight], [1, -keep], amperes[kept], zi=[keep * state[place]])
        row = np.concatenate([[state[place]], found])[np.cumsum(~frozen)]
        averages.append(row)
        state[place] = row[-1]
    state[2:] = level[-1], min(99, since[-1])
    smooth = np.where(level == 4, averages[1], averages[0])
    return np.where(since < 3, smooth, amperes)


def slow_facts(rate_hz: float, lag_s: float, meter_class: str = "tc66c") -> MeterFacts:
    """Of a meter that is asked again and again."""
    return MeterFacts(
        meter_class=meter_class,
        model=meter_class.upper(),
        clock=ClockDomain.HOST,
        rate_hz=rate_hz,
        lag_s=lag_s,
        simulated=True,
    )


def read_slow(
    device: Device,
    facts: MeterFacts,
    rng: np.random.Generator,
    *,
    late_s: float = 0.0,
) -> Iterator[Chunk]:
    """A polled meter: a first-order lag that is through by `lag_s`, looked at now and then."""
    grid = np.arange(0, device.end_s, 0.001)
    power = np.diff(device.energy_until(grid)) / np.diff(grid)
    if facts.lag_s:
        keep = np.exp(-0.001 / (facts.lag_s / 3))
        power, _ = signal.lfilter([1 - keep], [1, -keep], power, zi=[keep * power[0]])
    gaps = (1 + 0.05 * rng.standard_normal(int(device.end_s * facts.rate_hz))) / facts.rate_hz
    times = np.cumsum(np.maximum(gaps, 0.1 / facts.rate_hz))
    times = times[times < grid[-1]]
    if facts.lag_s:  # what it shows at that moment
        values = np.interp(times, grid[1:], power)
    else:
        edges = np.concatenate([[0.0], times])
        values = np.diff(device.energy_until(edges)) / np.diff(edges)
    for part in np.array_split(np.arange(len(times)), max(1, int(device.end_s))):
        yield Chunk(
            t_ns=HOST_NS + np.round((times[part] + late_s) * 1e9).astype(np.int64),
            power_w=values[part],
        )
