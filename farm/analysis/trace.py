"""A meter's samples in bins of a millisecond: small enough to keep, fine enough to look back at.

Where a device's windows lie is known only after the last sample. A meter of 100 kHz takes sixty
million of them in ten minutes, so they are folded as they come. The integral over the bins is that
of the samples: a sample that reaches over the edge of a bin is shared out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from farm.metering import Chunk, MeterFacts

BIN_NS = 1_000_000
"""Length of a bin."""

STALL_S = 1.0
"""A meter that tells nothing for that long, or for `STALL_PERIODS`, has stopped."""
STALL_PERIODS = 5

FILTER_S, TOP_FILTER_S, TOP_RANGE = 20.5e-6, 29.4e-6, 4
"""What a PPK2's filter hides of a step into a higher range, and into the highest one: for three
samples of 10 us it tells an average of what was before. A step down adds as much as `FILTER_S`."""
FILTER_DOUBT = 0.05
"""How well that is known, as a share of all steps: some of them reach over two samples."""

RANGES = 8

HOLD_NS = 50_000
"""A pin has to stay as it is for that long to count, as in EEMBC's rules."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Some time in which something went wrong."""

    start_ns: int
    end_ns: int
    lost: int = 0
    saturated: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class High:
    """A time during which the wired pin was high.

    Attributes:
        energy_j: of the samples that there are.
        covered_s: how long these are together.
    """

    start_ns: int
    end_ns: int
    energy_j: float
    covered_s: float

    @property
    def duration_s(self) -> float:
        """How long it was."""
        return (self.end_ns - self.start_ns) / 1e9


class Trace:
    """Folds chunks, in the order of time; what lies outside of the given time is left out.

    Args:
        start_ns: the time that matters, on the clock of the chunks.
        end_ns: its end.
        facts: of the meter.
    """

    def __init__(self, start_ns: int, end_ns: int, facts: MeterFacts) -> None:
        bins = max(1, -(-(end_ns - start_ns) // BIN_NS))
        self.start_ns, self._bins = start_ns, bins
        self._energy, self._covered, self._hidden, self._stepped = np.zeros((4, bins))
        self._samples = np.zeros(bins, np.uint32)
        self._ranges = np.zeros((bins, RANGES), np.uint32)
        self.stretches: list[Stretch] = []
        self.pin = Pin()
        self._period_ns = 1e9 / facts.rate_hz
        self._longest_ns = max(STALL_S * 1e9, STALL_PERIODS * self._period_ns)
        self._regular = facts.regular
        self._last_ns: int | None = None
        self._silences: list[tuple[float, float]] = []
        self._lost = 0

    def feed(self, chunk: Chunk) -> None:
        """The next samples."""
        self._lost += chunk.lost  # of an empty chunk too: it belongs to what comes next
        if not len(chunk.t_ns):
            return
        first = self._last_ns is None
        before = int(chunk.t_ns[0] - self._period_ns) if self._last_ns is None else self._last_ns
        # a meter that sets its clock anew may step back: such samples last no time
        ends_ns = np.maximum.accumulate(np.maximum(chunk.t_ns, before))
        lasted = np.diff(ends_ns, prepend=before).astype(np.float64)
        self._note_silence(ends_ns, lasted, first=first)
        known = np.isfinite(chunk.power_w)
        gaps = lasted > self._held_ns(chunk)
        self._note_faults(chunk, ends_ns, lasted, gaps, known)
        lasted = np.where(gaps, self._period_ns, lasted)
        self._last_ns = int(ends_ns[-1])
        covered = np.where(known, lasted, 0.0) / 1e9
        energy = np.where(known, chunk.power_w, 0.0) * covered
        ends = (ends_ns - self.start_ns).astype(np.float64)
        if len(chunk.logic):
            self.pin.feed(chunk.logic, ends - lasted, energy, covered)
        self._fold(ends, lasted, energy, covered)
        self._count(chunk, ends_ns)

    def _held_ns(self, chunk: Chunk) -> float:
        """Samples further apart have a gap between them, and the last one tells its own time."""
        if self._regular:
            return 1.5 * self._period_ns
        return 1.8 * self._period_ns if chunk.lost else self._longest_ns

    def _note_silence(self, ends_ns: npt.NDArray[np.int64], lasted: Floats, *, first: bool) -> None:
        if first:
            self._silences.append((-np.inf, float(ends_ns[0] - self._period_ns)))
        for index in np.flatnonzero(lasted > self._longest_ns):
            self._silences.append((float(ends_ns[index] - lasted[index]), float(ends_ns[index])))

    def _note_faults(
        self,
        chunk: Chunk,
        ends_ns: npt.NDArray[np.int64],
        lasted: Floats,
        gaps: npt.NDArray[np.bool_],
        known: npt.NDArray[np.bool_],
    ) -> None:
        """Lost samples lie where the gaps are; if none is to be seen, anywhere in the chunk."""
        start, end = int(ends_ns[0] - lasted[0]), int(ends_ns[-1])
        if chunk.saturated:
            self.stretches.append(Stretch(start_ns=start, end_ns=end, saturated=chunk.saturated))
        if lost := self._lost + int((~known).sum()):
            holes = np.flatnonzero(gaps | ~known)
            if len(holes):
                start = int(ends_ns[holes[0]] - lasted[holes[0]])
                end = int(ends_ns[holes[-1]])
            self.stretches.append(Stretch(start_ns=start, end_ns=end, lost=lost))
        self._lost = 0

    def _fold(self, ends: Floats, lasted: Floats, energy: Floats, covered: Floats) -> None:
        low = max(0, int((ends[0] - lasted[0]) // BIN_NS))
        high = min(self._bins, int(ends[-1] // BIN_NS) + 1)
        if low >= high:
            return
        edges = np.arange(low, high + 1, dtype=np.float64) * BIN_NS
        times = np.stack([ends - lasted, ends], axis=1).ravel()
        for target, amounts in ((self._energy, energy), (self._covered, covered)):
            sums = np.cumsum(amounts)
            steps = np.stack([sums - amounts, sums], axis=1).ravel()
            target[low:high] += np.diff(np.interp(edges, times, steps))

    def _count(self, chunk: Chunk, ends_ns: npt.NDArray[np.int64]) -> None:
        places = (ends_ns - 1 - self.start_ns) // BIN_NS
        inside = (places >= 0) & (places < self._bins)
        if not inside.any():
            return
        places = places[inside]
        low, size = int(places[0]), int(places[-1] - places[0]) + 1
        self._samples[low : low + size] += np.bincount(places - low).astype(np.uint32)
        if not len(chunk.range):
            return
        ranges = np.minimum(chunk.range, RANGES - 1).astype(np.int64)
        cells = np.bincount((places - low) * RANGES + ranges[inside], minlength=size * RANGES)
        self._ranges[low : low + size] += cells.reshape(size, RANGES).astype(np.uint32)
        turns = np.flatnonzero(np.diff(ranges)) + 1
        turns = turns[inside[turns]]
        after = chunk.power_w[np.minimum(turns + 4, len(ranges) - 1)]  # the filter has let go there
        steps = np.nan_to_num(after - chunk.power_w[turns - 1], posinf=0.0, neginf=0.0)
        topped = (ranges[turns] == TOP_RANGE) & (steps > 0)
        where = (ends_ns[turns] - 1 - self.start_ns) // BIN_NS
        np.add.at(self._hidden, where, np.where(topped, TOP_FILTER_S, FILTER_S) * steps)
        np.add.at(self._stepped, where, FILTER_DOUBT * FILTER_S * np.abs(steps))

    def finish(self) -> Bins:
        """What came of it, after the last chunk."""
        last = -np.inf if self._last_ns is None else self._last_ns + self._period_ns
        return Bins(
            start_ns=self.start_ns,
            power_w=np.divide(
                self._energy,
                self._covered,
                out=np.full(self._bins, np.nan),
                where=self._covered > BIN_NS / 2e9,
            ),
            energy_j=_sums(self._energy),
            covered_s=_sums(self._covered),
            hidden_j=_sums(self._hidden),
            stepped_j=_sums(self._stepped),
            samples=self._samples,
            ranges=self._ranges,
            stretches=tuple(self.stretches),
            silences=(*self._silences, (last, np.inf)),
        )


def _sums(amounts: Floats) -> Floats:
    return np.concatenate([[0.0], np.cumsum(amounts)])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bins:
    """A folded trace.

    Attributes:
        start_ns: when its first bin begins.
        power_w: mean power per bin, NaN where less than half of it was measured, shape [bins].
        energy_j: sums at the edges of bins, of what was measured, shape [bins + 1].
        covered_s: how long was measured, likewise.
        hidden_j: what a filter hid after range switches, less what it added, likewise.
        stepped_j: how far that may be wrong, likewise.
        samples: samples per bin, shape [bins].
        ranges: samples per bin and measuring range, shape [bins, RANGES].
        stretches: what was lost and saturated.
        silences: times without a sample that are too long, before the first and after the last one
            as well.
    """

    start_ns: int
    power_w: Floats
    energy_j: Floats
    covered_s: Floats
    hidden_j: Floats
    stepped_j: Floats
    samples: npt.NDArray[np.uint32]
    ranges: npt.NDArray[np.uint32]
    stretches: tuple[Stretch, ...]
    silences: tuple[tuple[float, float], ...]

    def mean_w(self, start_ns: float, end_ns: float) -> float:
        """Mean power of what was measured between two times; NaN if that is nothing."""
        return float(self.means_w(np.array([start_ns, end_ns]))[0])

    def means_w(self, edges_ns: Floats) -> Floats:
        """The same between edges, shape [n] of [n + 1] edges, ascending."""
        energy = self._between(self.energy_j, edges_ns)
        covered = self._between(self.covered_s, edges_ns)
        means = np.full(len(covered), np.nan)
        np.divide(energy, covered, out=means, where=covered > 0)
        return means

    def hidden_between(self, start_ns: float, end_ns: float) -> float:
        """Energy in joules that a filter may have hidden or added at most."""
        edges = np.array([start_ns, end_ns])
        hidden, wrong = (self._between(sums, edges)[0] for sums in (self.hidden_j, self.stepped_j))
        return float(abs(hidden) + wrong)

    def measured_between(self, start_ns: float, end_ns: float) -> float:
        """How many seconds were measured."""
        return float(self._between(self.covered_s, np.array([start_ns, end_ns]))[0])

    def inside(self, start_ns: float, end_ns: float) -> slice:
        """The bins that lie wholly between two times."""
        low = int(np.ceil((start_ns - self.start_ns) / BIN_NS))
        high = int((end_ns - self.start_ns) // BIN_NS)
        return slice(max(0, low), max(0, high))

    def is_silent(self, start_ns: float, end_ns: float) -> bool:
        """Whether the meter stopped meanwhile."""
        return any(start < end_ns and end > start_ns for start, end in self.silences)

    def _between(self, sums: Floats, edges_ns: Floats) -> Floats:
        places = (edges_ns - self.start_ns) / BIN_NS
        found: Floats = np.diff(np.interp(places, np.arange(len(sums)), sums))
        return found


class Pin:
    """Finds the times during which a pin is high, exact to the sample."""

    def __init__(self) -> None:
        self._level = 0
        self._total = np.zeros(2)
        self._edges = np.empty((0, 3))  # time, energy and measured time before; rises, falls
        self._end = 0.0

    def feed(
        self, logic: npt.NDArray[np.uint8], starts: Floats, energy: Floats, covered: Floats
    ) -> None:
        """The next samples.

        Args:
            logic: 1 for high, shape [n].
            starts: when each sample began, ns since the start of the trace.
            energy: of each in joules.
            covered: how much of each was measured, in seconds.
        """
        found = np.flatnonzero(np.diff(logic != 0, prepend=self._level != 0))
        sums = np.cumsum(np.stack([energy, covered], axis=1), axis=0)
        rows = np.column_stack(
            [starts[found], self._total + sums[found] - np.stack([energy, covered], axis=1)[found]]
        )
        self._edges = _held(np.concatenate([self._edges, rows]))
        self._level, self._total = int(logic[-1]), self._total + sums[-1]
        self._end = float(starts[-1])

    def highs(self, start_ns: int) -> tuple[High, ...]:
        """All of them, of a trace that began at that time; one that is not over ends here."""
        edges = self._edges
        if len(edges) % 2:
            edges = np.concatenate([edges, [[self._end, *self._total]]])
        rises, falls = edges[::2], edges[1::2]
        return tuple(
            High(
                start_ns=start_ns + int(rise[0]),
                end_ns=start_ns + int(fall[0]),
                energy_j=float(fall[1] - rise[1]),
                covered_s=float(fall[2] - rise[2]),
            )
            for rise, fall in zip(rises, falls, strict=True)
            if fall[0] - rise[0] >= HOLD_NS
        )


def _held(edges: Floats) -> Floats:
    """Without falls that are taken back at once, and without blips, shape [n, 3].

    The last pulse may still grow, so it stays.
    """
    times = edges[:, 0]
    again = np.flatnonzero(times[2::2] - times[1 : len(times) - 1 : 2] < HOLD_NS) * 2 + 1
    edges = np.delete(edges, np.concatenate([again, again + 1]), axis=0)
    times = edges[: len(edges) // 2 * 2, 0]
    blips = np.flatnonzero(times[1::2] - times[::2] < HOLD_NS) * 2
    blips = blips[blips < len(edges) - 2]
    return np.delete(edges, np.concatenate([blips, blips + 1]), axis=0)
