"""From a meter's samples and what a device did meanwhile to the energy of its windows.

A window is found by the pin that is wired to the meter; else by the marks around it; else by the
clocks alone. A wire gates the samples themselves. Without it the window's edges are uncertain and a
slow meter smears them: there the mean power of the middle, far from both edges, stands for the
whole, and is multiplied with the length that the device itself told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from farm.analysis.alignment import Line, find_line
from farm.analysis.trace import BIN_NS, Bins, High, Trace
from farm.metering import Chunk, EnergyWindow, MeterFacts, Span, SpanKind

MOST_LOST = 0.001
"""Share of a window's samples that may be missing, as in EEMBC's rules."""

HOST_ERROR_NS = 50_000_000
"""How far a span on the host's own clock may be off: what the line to the device and that to the
meter take."""

REACH_NS = 1_000_000_000
"""How much further than the clocks' error a mark is looked for."""
MOST_ERROR_NS = 60_000_000_000
"""A clock that may be off by more is no help, and the trace has to end somewhere."""

SHORT_S, SHORT_UNWIRED_S, FEW = 10.0, 60.0, 10
"""Shorter windows, in seconds and inferences, are not worth their figures."""
NEARLY = 0.995
"""Clocks differ: what is short by less than that is not short."""

MOST_PIECES = 1000
"""Pieces of a window, at most, that are compared to see how much its power varies."""

RATE_DOUBT = 50e-6
"""How well the length of a second is known: a device's clock against the meter's."""

MOST_DOUBT = 0.01
"""A window is too short for its meter if less than that is known of its energy: a relative standard
uncertainty, the limit for analysers in MLPerf's rules."""

LAGS = 3
"""Time constants until a first-order lag has settled to a twentieth."""
SWING, HARMONICS = 0.5, 5
"""Amplitude of the rhythm of a load that works and waits in turn, as a share of its mean power; its
harmonics fall as one over their number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """From a device's wall clock to the host's monotonic one.

    Attributes:
        offset_ns: what to add to a time of the device.
        error_ns: limit of its error.
    """

    offset_ns: int
    error_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """A window on the clock of the chunks."""

    start_ns: float
    end_ns: float
    energy_j: float
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placed:
    """The windows where they were found.

    Attributes:
        guard_s: how far from an edge the power is that of one side only.
        conditions: what went wrong.
    """

    method: str
    line: Line
    pieces: tuple[_Piece, ...]
    time_error_s: float
    guard_s: float
    alignment: float = 0.0
    conditions: tuple[str, ...] = ()


def find_energy(
    chunks: Iterable[Chunk],
    spans: Sequence[Span],
    facts: MeterFacts,
    *,
    clocks: Clocks | None,
    wired: bool,
) -> EnergyWindow:
    """The energy of the windows among the spans, in one pass over the chunks.

    Args:
        chunks: of one meter, in the order of time.
        spans: what the device did, on its clock, in the order of time; one window at least.
        facts: of the meter.
        clocks: from the spans to the chunks; None where the spans are on the host's clock.
        wired: whether `Chunk.logic` is a pin that is high during the windows, and only then.

    Returns:
        Figures that are NaN, with the condition `meter_stalled`, where nothing was measured. Why an
        energy cannot be trusted, its conditions say: `meter_stalled`, `meter_lost`,
        `meter_saturated`, `meter_edges`, `meter_misaligned`, `meter_negative`, `short_window`.

    Raises:
        ValueError: no span is a window.
    """
    windows = [span for span in spans if span.kind is SpanKind.WINDOW]
    if not windows:
        raise ValueError("no window among the spans")
    known = clocks or Clocks(offset_ns=0, error_ns=HOST_ERROR_NS)
    reach_ns = min(known.error_ns, MOST_ERROR_NS) + REACH_NS
    trace = Trace(
        min(span.start_ns for span in spans) + known.offset_ns - reach_ns - BIN_NS,
        max(span.end_ns for span in spans) + known.offset_ns + reach_ns + BIN_NS,
        facts,
    )
    for chunk in chunks:
        trace.feed(chunk)
    bins = trace.finish()
    placed = _by_wire(trace.pin.highs(trace.start_ns), windows, known, facts) if wired else None
    if placed is None:
        placed = _without_wire(bins, spans, facts, known, reach_ns)
    return _described(bins, spans, placed, facts, wired=wired)


def _by_wire(
    highs: Sequence[High], windows: Sequence[Span], clocks: Clocks, facts: MeterFacts
) -> _Placed | None:
    """The windows by the pin; None unless each of them has its pulse, and is as long.

    A pin may move while a device starts, long before: what the clocks rule out does not count.
    """
    slack = clocks.error_ns + REACH_NS
    first = windows[0].start_ns + clocks.offset_ns - slack
    last = windows[-1].end_ns + clocks.offset_ns + slack
    near = [high for high in highs if high.end_ns > first and high.start_ns < last]
    if len(near) != len(windows):
        return None
    for high, window in zip(near, windows, strict=True):
        told_s = (window.end_ns - window.start_ns) / 1e9
        if high.covered_s <= 0 or abs(high.duration_s - told_s) > 0.1 + 0.01 * told_s:
            return None
    offsets = [high.start_ns - w.start_ns for high, w in zip(near, windows, strict=True)]
    return _Placed(
        method="wire",
        line=Line(at_ns=windows[0].start_ns, offset_ns=float(np.mean(offsets))),
        pieces=tuple(
            _Piece(
                start_ns=high.start_ns,
                end_ns=high.end_ns,
                energy_j=high.energy_j / high.covered_s * high.duration_s,
                duration_s=high.duration_s,
            )
            for high in near
        ),
        time_error_s=1 / facts.rate_hz / np.sqrt(12),
        guard_s=_settled_s(facts) + 0.1,
    )


def _without_wire(
    bins: Bins, spans: Sequence[Span], facts: MeterFacts, clocks: Clocks, reach_ns: int
) -> _Placed:
    """The windows by the marks around them, or by the clocks."""
    windows = [span for span in spans if span.kind is SpanKind.WINDOW]
    marks = [span for span in spans if span.kind is SpanKind.MARK]
    conditions: tuple[str, ...] = ()
    method = "clock"
    line = Line(at_ns=windows[0].start_ns, offset_ns=clocks.offset_ns)
    error_s = clocks.error_ns / 1e9 / np.sqrt(3)
    guard_s = clocks.error_ns / 1e9 + _settled_s(facts)
    if len(marks) > 1:
        found = find_line(bins, marks, clocks.offset_ns, reach_ns, 1e9 / facts.rate_hz)
        if found is None:
            conditions = ("meter_misaligned",)
        else:
            method = "marks"
            line, error_s = found[0], found[1] / 1e9
            guard_s = 3 * error_s + _settled_s(facts)
    found_pieces = [
        _plateau(bins, window, line, guard_s, error_s, lag_s=facts.lag_s) for window in windows
    ]
    if any(tight for _, _, tight in found_pieces):
        conditions += ("short_window",)
    energy = sum(piece.energy_j for piece, _, _ in found_pieces)
    doubt = np.sqrt(sum((piece.energy_j * part) ** 2 for piece, part, _ in found_pieces))
    return _Placed(
        method=method,
        line=line,
        pieces=tuple(piece for piece, _, _ in found_pieces),
        time_error_s=float(error_s),
        guard_s=guard_s,
        alignment=float(doubt / energy) if energy > 0 else 0.0,
        conditions=conditions,
    )


def _settled_s(facts: MeterFacts) -> float:
    """How long after a step a meter tells the new level for certain."""
    return 2 * facts.lag_s + 3 * max(1 / facts.rate_hz, BIN_NS / 1e9)


def _plateau(
    bins: Bins, window: Span, line: Line, guard_s: float, error_s: float, *, lag_s: float
) -> tuple[_Piece, float, bool]:
    """A window's energy from its middle, the doubt about it, and whether the middle is too small.

    Guards are whole inferences: power that goes up and down inside an inference would else be
    weighed wrongly. What they cut off may have drawn more or less than the middle, as pieces of the
    middle as long as they differ; and the middle may be misplaced within an inference.
    """
    length_s = (window.end_ns - window.start_ns) / 1e9
    start, end = line.place(window.start_ns), line.place(window.end_ns)
    rhythm_s = length_s / max(1, window.inferences)
    whole_s = float(np.ceil(guard_s / rhythm_s)) * rhythm_s
    quarter_s = length_s / 4
    cut_s = whole_s if whole_s <= quarter_s else min(guard_s, quarter_s)
    low, high = start + cut_s * 1e9, end - cut_s * 1e9
    mean_w = bins.mean_w(low, high)
    piece = _Piece(start_ns=start, end_ns=end, energy_j=mean_w * length_s, duration_s=length_s)
    seen = bins.power_w[bins.inside(low, high)]
    seen = seen[np.isfinite(seen)]
    if not len(seen) or not mean_w:
        return piece, 0.0, guard_s > quarter_s
    pieces = int(min(MOST_PIECES, max(2, (high - low) / 2e9 / cut_s)))
    levels = bins.means_w(np.linspace(low, high, pieces + 1))
    misplaced_w = np.sqrt(2) * error_s / length_s * seen.std()
    cut_off_w = 2 * cut_s / length_s * levels[np.isfinite(levels)].std()
    doubt = float(np.linalg.norm([misplaced_w / mean_w, cut_off_w / mean_w, RATE_DOUBT]))
    if lag_s:
        doubt = float(np.hypot(doubt, _sampled(bins, low, high, rhythm_s, lag_s) / abs(mean_w)))
    return piece, min(doubt, 1.0), guard_s > quarter_s or doubt > MOST_DOUBT


def _sampled(bins: Bins, low: float, high: float, rhythm_s: float, lag_s: float) -> float:
    """Standard error in watts of a mean power because a meter only looks now and then.

    A meter with a lag tells what it shows at a moment. What changes from one look to the next at
    random averages out, and the differences of neighbours tell how much that is. What changes with
    the rhythm of the inferences need not: who looks twice a second at inferences of a second never
    sees what lies between, and all looks agree. There the phases of the looks tell: the resultant
    of a harmonic is 0 if they are spread evenly, and 1 if they are all the same. It scales the
    harmonic, which is no larger than what the lag lets through of a load that works and waits in
    turn, nor than the looks show, as far as they are spread.
    """
    part = bins.inside(low, high)
    looks = np.flatnonzero(bins.samples[part])
    levels = bins.power_w[part][looks]
    levels = levels[np.isfinite(levels)]
    if len(levels) < 2:
        return np.inf
    random_w = np.sqrt(np.square(np.diff(levels)).mean() / 2 / len(levels))
    turns = np.arange(1, HARMONICS + 1) * 2 * np.pi / rhythm_s
    phases = turns[:, None] * ((part.start + looks) * (BIN_NS / 1e9))
    resultants = np.abs(np.exp(1j * phases).mean(axis=1))
    passed = SWING * levels.mean() / np.arange(1, HARMONICS + 1)
    passed /= np.hypot(1, turns * lag_s / LAGS)
    shown = np.sqrt(2 / np.maximum(1 - resultants**2, 1e-9)) * levels.std()
    rhythm_w = np.linalg.norm(resultants * np.minimum(np.abs(passed), shown)) / np.sqrt(2)
    return float(np.hypot(random_w, rhythm_w))


def _described(
    bins: Bins, spans: Sequence[Span], placed: _Placed, facts: MeterFacts, *, wired: bool
) -> EnergyWindow:
    """Everything that is said about windows that were found."""
    pieces = placed.pieces
    energy_j = sum(piece.energy_j for piece in pieces)
    duration_s = sum(piece.duration_s for piece in pieces)
    inferences = sum(s.inferences for s in spans if s.kind is SpanKind.WINDOW)
    idle_w = _idle_w(bins, spans, placed)
    slices = [bins.inside(piece.start_ns, piece.end_ns) for piece in pieces]
    powers = np.concatenate([bins.power_w[part] for part in slices])
    powers = powers[np.isfinite(powers)]
    touching = [
        stretch
        for stretch in bins.stretches
        if any(stretch.start_ns < p.end_ns and stretch.end_ns > p.start_ns for p in pieces)
    ]
    hidden_j = sum(bins.hidden_between(piece.start_ns, piece.end_ns) for piece in pieces)
    window = EnergyWindow(
        energy_j=energy_j,
        inferences=inferences,
        duration_s=duration_s,
        idle_w=idle_w,
        peak_w=float(powers.max()) if len(powers) else np.nan,
        method=placed.method,
        time_error_s=placed.time_error_s,
        alignment=_of_edges(placed, energy_j, duration_s, idle_w),
        filter=float(hidden_j / energy_j / np.sqrt(3)) if energy_j > 0 else 0.0,
        lost=sum(stretch.lost for stretch in touching),
        samples=int(sum(bins.samples[part].sum() for part in slices)),
        saturated=sum(stretch.saturated for stretch in touching),
        ranges=_occupancy(bins, slices),
        conditions=(),
    )
    silent = any(bins.is_silent(piece.start_ns, piece.end_ns) for piece in pieces)
    return replace(window, conditions=_conditions(window, placed, silent=silent, wired=wired))


def _of_edges(placed: _Placed, energy_j: float, duration_s: float, idle_w: float | None) -> float:
    """The uncertainty of a gated energy: each of its edges is off by a part of a sample."""
    if placed.method != "wire" or not energy_j or not duration_s:
        return placed.alignment
    step_w = abs(energy_j / duration_s - (idle_w or 0.0))
    edges_s = np.sqrt(2 * len(placed.pieces)) * placed.time_error_s
    return float(edges_s * step_w / abs(energy_j))


def _idle_w(bins: Bins, spans: Sequence[Span], placed: _Placed) -> float | None:
    """Mean power of the middles of the rests; None if there is none that is long enough."""
    guard_ns = placed.guard_s * 1e9
    energy = covered = 0.0
    for span in spans:
        start, end = placed.line.place(span.start_ns), placed.line.place(span.end_ns)
        if span.kind is SpanKind.IDLE and end - start > 2 * guard_ns:
            low, high = start + guard_ns, end - guard_ns
            measured = bins.measured_between(low, high)
            if measured > 0:
                energy += bins.mean_w(low, high) * measured
                covered += measured
    return energy / covered if covered > 0 else None


def _occupancy(bins: Bins, slices: Sequence[slice]) -> tuple[float, ...]:
    """Share of samples per range, up to the highest one that the meter used at all."""
    used = np.flatnonzero(bins.ranges.any(axis=0))
    if not len(used):
        return ()
    counts = sum(bins.ranges[part].sum(axis=0, dtype=np.float64) for part in slices)
    shares = np.asarray(counts)[: used[-1] + 1] / max(1.0, float(np.sum(counts)))
    return tuple(float(share) for share in shares)


def _conditions(
    window: EnergyWindow, placed: _Placed, *, silent: bool, wired: bool
) -> tuple[str, ...]:
    """Why a figure cannot be trusted, in the order in which one would look for the cause."""
    gated = placed.method == "wire"
    needed_s = NEARLY * (SHORT_S if gated else SHORT_UNWIRED_S)
    short = window.duration_s < needed_s or window.inferences < FEW
    found = {
        "meter_stalled": silent or not window.samples,
        "meter_lost": window.lost > MOST_LOST * (window.samples + window.lost),
        "meter_saturated": window.saturated > 0,
        "meter_edges": wired and not gated,
        "meter_misaligned": "meter_misaligned" in placed.conditions,
        "meter_negative": window.energy_j <= 0,
        "short_window": short or "short_window" in placed.conditions,
    }
    return tuple(name for name, there in found.items() if there)
