"""Where a device's times lie on a meter's clock, from the mark that it made with its load.

A mark is a Barker code: moved by a chip or more it hardly resembles itself, so the place where a
trace resembles it most is its place. Found at both ends of a run it gives a line, which takes up
the difference of the clocks, their drift, and the meter's lag.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from farm.analysis.trace import BIN_NS, Bins, Floats
from farm.metering import MARK, Span

LEAST_LIKENESS = 0.7
"""Correlation coefficient from which on a mark is taken for one. In noise alone the best place
within two seconds reaches it in about one of a hundred cases; here two have to, at one offset."""

REST = 2
"""Chips of rest before and after that belong to what is looked for."""

APART, APART_CHIPS, APART_PERIODS = 0.002, 0.25, 2
"""By how much the offsets of two marks may differ: a share of the time between them, which is more
than any clock drifts; or a part of a chip, for a device that is late; or periods of the meter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """From a device's clock to that of the chunks.

    Attributes:
        at_ns: a time of the device.
        offset_ns: what to add to it.
        slope: by how much that grows per unit of time.
    """

    at_ns: int
    offset_ns: float
    slope: float = 0.0

    def place(self, t_ns: int) -> float:
        """A time of the device on the clock of the chunks, in ns."""
        return t_ns + self.offset_ns + self.slope * (t_ns - self.at_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A mark in a trace.

    Attributes:
        offset_ns: from its time on the device's clock to its place.
        likeness: correlation coefficient there.
    """

    offset_ns: float
    likeness: float


def find_mark(bins: Bins, mark: Span, offset_ns: int, reach_ns: int) -> Sighting | None:
    """The place that resembles a mark most.

    Args:
        bins: a trace.
        mark: when the device made it, on its clock.
        offset_ns: from there to the clock of the trace, as far as is known.
        reach_ns: how far from there to look, to both sides.

    Returns:
        None where too little of it was measured, or nothing moves.
    """
    chip = (mark.end_ns - mark.start_ns) / len(MARK) / BIN_NS
    shape = _shape(chip)
    start = mark.start_ns + offset_ns - bins.start_ns
    low = int(np.floor((start - reach_ns) / BIN_NS - REST * chip))
    high = int(np.ceil((start + reach_ns) / BIN_NS - REST * chip)) + len(shape)
    cut = max(0, low)
    measured = np.flatnonzero(np.isfinite(bins.power_w[cut : max(cut, high)]))
    if not len(measured):
        return None
    # The recording may end right behind the last rest, long before the end of the search.
    first, last = cut + measured[0], cut + measured[-1]
    seen, cut = bins.power_w[first : last + 1], int(first)
    known = np.isfinite(seen)
    if len(seen) < len(shape) + 2 or known.mean() < 0.8:
        return None
    places = np.arange(len(seen))
    likeness = _likeness(np.interp(places, places[known], seen[known]), shape)
    best = int(np.argmax(likeness))
    at = (cut + best + _summit(likeness, best) + REST * chip) * BIN_NS
    return Sighting(
        offset_ns=float(at + bins.start_ns - mark.start_ns), likeness=float(likeness[best])
    )


def find_line(
    bins: Bins, marks: Sequence[Span], offset_ns: int, reach_ns: int, period_ns: float
) -> tuple[Line, float] | None:
    """The line through the first and the last mark, and the standard error of a place on it.

    Half of the difference between the two offsets is taken for the error, although most of it may
    be drift, which the line follows.

    Args:
        bins: a trace.
        marks: two or more, in the order of time.
        offset_ns: as for `find_mark`.
        reach_ns: likewise.
        period_ns: between two samples of the meter.

    Returns:
        The line and an error in ns; None where a mark is not there, or the two contradict each
        other: the meter looks at something else, or one of the clocks was set meanwhile.
    """
    ends = (marks[0], marks[-1])
    found = [find_mark(bins, mark, offset_ns, reach_ns) for mark in ends]
    sightings = [s for s in found if s is not None and s.likeness >= LEAST_LIKENESS]
    if len(sightings) < 2:
        return None
    distance = ends[1].start_ns - ends[0].start_ns
    change = sightings[1].offset_ns - sightings[0].offset_ns
    chip_ns = (ends[0].end_ns - ends[0].start_ns) / len(MARK)
    if abs(change) > max(APART * distance, APART_CHIPS * chip_ns, APART_PERIODS * period_ns):
        return None
    line = Line(at_ns=ends[0].start_ns, offset_ns=sightings[0].offset_ns, slope=change / distance)
    return line, float(np.hypot(change / 2, max(period_ns, BIN_NS) / np.sqrt(12)))


def _shape(chip: float) -> Floats:
    """The mark with rests around it in bins, of mean 0 and length 1; chips need not be whole."""
    chips = np.array([*[0] * REST, *MARK, *[0] * REST], np.float64)
    edges = np.arange(len(chips) + 1) * chip
    sums = np.concatenate([[0.0], np.cumsum(chips) * chip])
    shape = np.diff(np.interp(np.arange(int(edges[-1]) + 1), edges, sums))
    shape -= shape.mean()
    unit: Floats = shape / np.linalg.norm(shape)
    return unit


def _likeness(seen: Floats, shape: Floats) -> Floats:
    """Correlation coefficient at every place, shape [len(seen) - len(shape) + 1]."""
    n = len(shape)
    size = 1 << (len(seen) - 1).bit_length()
    centred = seen - seen.mean()
    spectrum = np.fft.rfft(centred, size) * np.conj(np.fft.rfft(shape, size))
    products = np.fft.irfft(spectrum, size)[: len(seen) - n + 1]
    sums, squares = (np.concatenate([[0.0], np.cumsum(x)]) for x in (centred, centred**2))
    spread = squares[n:] - squares[:-n] - (sums[n:] - sums[:-n]) ** 2 / n
    floor = 1e-12 * max(float(squares[-1]), 1e-300)
    found: Floats = np.where(spread > floor, products / np.sqrt(np.maximum(spread, floor)), 0.0)
    return found


def _summit(values: Floats, best: int) -> float:
    """Where the top of a parabola through the best value and its neighbours lies, in places."""
    if not 0 < best < len(values) - 1:
        return 0.0
    before, top, after = values[best - 1 : best + 2]
    bend = before - 2 * top + after
    return float(0.5 * (before - after) / bend) if bend < 0 else 0.0
