"""Where may the level of a series have changed? A rank scan against a calibrated null.

The statistic of one interval is the largest standardised rank sum over its split points. Choosing
the split that differs most inflates any fixed threshold, so the bound is the quantile of that very
maximum on series without a change. Ranks make it free of the distribution: one table serves every
metric. Many intervals of many lengths are scanned, and among those over their bound the narrowest
wins, because a narrow one is the least likely to hold a second change.

Sources: Kovacs, Buehlmann, Li and Munk, Seeded binary segmentation, Biometrika 110 (2023), for the
intervals; Baranowski, Chen and Fryzlewicz, Narrowest-over-threshold detection of multiple change
points, JRSS B 81 (2019), for the choice; Pettitt, A non-parametric approach to the change-point
problem, JRSS C 28 (1979), for the statistic.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

WINDOW = 400
"""The longest interval that is scanned, in points; also what one update looks back on."""
MIN_SEGMENT = 5
"""The fewest points of a level: fewer are an outlier."""
ALPHA = 0.001
"""The chance of exceeding the bound on one interval without a change."""
DECAY = 2**-0.5
"""Each layer of intervals is shorter than the one before by this factor, as in the paper."""
TRIALS = 1_000_000
"""Simulated series per length behind `CRITICAL`."""

MAX_AUTOCORRELATION = 0.8
"""More than this cannot be told from a level that wanders."""
PRIOR_POINTS = 2 * MIN_SEGMENT
"""The estimate of the autocorrelation is shrunk as by so many uncorrelated points: from a dozen
points it is mostly noise, and whitening by noise hides the steps of a young series."""
CENTRAL_SHARE = 0.9
"""The share of the smallest differences that the autocorrelation is estimated from: the others hold
the steps and the spikes."""

LENGTHS = (*range(10, 40), 40, 44, 48, 52, 57, 62, 68, 74, 80, 88, 96, 104, 113, 123, 135, 147, 160,
           175, 190, 207, 226, 247, 269, 293, 320, 349, 380, 400)  # fmt: skip
CRITICAL = (
    2.6112, 2.7387, 2.8824, 3.0001, 3.0984, 3.1820, 3.2540, 3.2717, 3.3057, 3.3477, 3.3817,
    3.4113, 3.4288, 3.4647, 3.4667, 3.4996, 3.5298, 3.5490, 3.5481, 3.5789, 3.5784, 3.5971,
    3.6240, 3.6408, 3.6398, 3.6515, 3.6600, 3.6789, 3.6855, 3.6963, 3.7107, 3.7263, 3.7836,
    3.8004, 3.8183, 3.8486, 3.8677, 3.9010, 3.9112, 3.9371, 3.9501, 3.9637, 3.9866, 4.0086,
    4.0236, 4.0411, 4.0588, 4.0629, 4.0866, 4.0813, 4.1034, 4.1158, 4.1284, 4.1403, 4.1447,
    4.1724, 4.1817, 4.1668,
)  # fmt: skip
"""The bound per length of `LENGTHS` at `ALPHA`, made by `simulate_critical`. Rounded up: the most
extreme order of a short interval has a higher chance than `ALPHA`, and must not be over it."""


class _Hit(NamedTuple):
    """An interval whose statistic is over its bound; sorts by narrowness, then by strength.

    Attributes:
        length: points of the interval.
        weakness: bound over statistic, below 1.
        start: first position of the interval.
        split: first position of the new level.
    """

    length: int
    weakness: float
    start: int
    split: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """The seeded intervals of one length of series, end to end in flat arrays.

    Attributes:
        start: first position per interval, shape [intervals].
        stop: the position after its last, shape [intervals].
        offset: where the interval begins in the flat arrays, shape [intervals].
        bound: largest value of the statistic without a change, shape [intervals].
        position: position in the series, shape [flat].
        row_start: `start` of the interval of that place, shape [flat].
        row_stop: `stop` of the interval of that place, shape [flat].
        scale: 1 / standard deviation of the rank sum up to that place; 0 where a split there would
            leave a side shorter than `MIN_SEGMENT`, shape [flat].
    """

    start: Indices
    stop: Indices
    offset: Indices
    bound: Floats
    position: Indices
    row_start: Indices
    row_stop: Indices
    scale: Floats


def simulate_critical(
    length: int, *, alpha: float = ALPHA, trials: int = TRIALS, seed: int = 0
) -> float:
    """The (1 - alpha) quantile of the largest standardised rank sum of `length` points.

    Every entry of `CRITICAL` is `simulate_critical(length)`; a pass over `LENGTHS` takes minutes.
    """
    rng = np.random.default_rng([seed, length])
    scale = _rank_scale(np.arange(1, length + 1), np.full(length, length))
    largest = []
    for chunk in range(0, trials, 2000):
        rows = min(2000, trials - chunk)
        ranks = np.tile(np.arange(length) - (length - 1) / 2, (rows, 1))
        sums = np.cumsum(rng.permuted(ranks, axis=1), axis=1)
        largest.append(np.abs(sums * scale).max(axis=1))
    quantile = np.quantile(np.concatenate(largest), 1 - alpha, method="higher")
    return float((np.floor(quantile * 1e4) + 1) / 1e4)


def critical(lengths: npt.ArrayLike) -> Floats:
    """The bound for intervals of these lengths, at least 2 * `MIN_SEGMENT` each, any shape."""
    return np.interp(np.log(lengths), np.log(LENGTHS), CRITICAL)


def rank_statistic(before: Floats, after: Floats) -> float:
    """The standardised rank sum of two samples over its bound: above 1 they differ.

    Args:
        before: shape [>= 1].
        after: shape [>= 1]; both together at least 2 * `MIN_SEGMENT`.
    """
    order = np.sort(after)
    below = np.searchsorted(order, before, "left").sum()
    not_above = np.searchsorted(order, before, "right").sum()
    n, m = len(before), len(after)
    rank_sum = (below + not_above - n * m) / 2
    return float(abs(rank_sum) / np.sqrt(n * m * (n + m + 1) / 12) / critical(n + m))


def whiten(values: Floats) -> tuple[Floats, Floats]:
    """Takes the first-order autocorrelation out of a series and leaves its levels where they are.

    (x[t] - rho x[t-1]) / (1 - rho) has the mean of x, and of AR(1) noise leaves what is
    independent. Dividing the statistic by its inflation instead would do for long levels only: a
    rank sum is bounded, so no step, however large, could be found from the few points after it.

    Args:
        values: without blanks, shape [points >= 2 * MIN_SEGMENT].

    Returns:
        The whitened series and rho per point, estimated within `WINDOW`; shapes [points].
    """
    whitened, rho = values.copy(), np.zeros(len(values))
    for start in window_starts(len(values)):
        part = values[start : start + WINDOW]
        correlation = _autocorrelation(part)
        own = slice(start + 1, start + WINDOW)
        whitened[own] = (part[1:] - correlation * part[:-1]) / (1 - correlation)
        rho[start : start + WINDOW] = correlation
    return whitened, rho


def find_candidates(whitened: Floats) -> list[int]:
    """First positions of new levels, ascending; each has yet to prove itself beside the others.

    Between the positions found it is searched again: a second change may only show once the first
    no longer disturbs its interval.

    Args:
        whitened: shape [points].
    """
    n = len(whitened)
    found: list[int] = []
    spans = [(start, min(start + WINDOW, n)) for start in window_starts(n)]
    first = [hit for start, stop in spans for hit in _scan(whitened[start:stop], start)]
    pending = [(0, n, _narrowest(first))]
    while pending:
        start, stop, splits = pending.pop()
        found += splits
        edges = [start, *splits, stop]
        for low, high in pairwise(edges):
            if splits and high - low <= WINDOW:
                pending.append((low, high, _narrowest(_scan(whitened[low:high], low))))
    return sorted(found)


def window_starts(n: int) -> list[int]:
    """Starts of windows that cover n points, each half over the one before."""
    return [*range(0, max(n - WINDOW, 0), WINDOW // 2), max(n - WINDOW, 0)]


def _autocorrelation(values: Floats) -> float:
    """Lag-1 autocorrelation from differences, which no level and hardly a step or spike reaches.

    In AR(1) noise E(x[t] - x[t-2])^2 / E(x[t] - x[t-1])^2 = 1 + rho. Negative ones count as 0: they
    make the scan careful, not wrong.
    """
    one, two = (
        np.sort(np.abs(values[lag:] - values[:-lag]))[: int(CENTRAL_SHARE * (len(values) - lag))]
        for lag in (1, 2)
    )
    square = float(np.mean(one * one))
    if square == 0:
        return 0.0
    rho = min(max(float(np.mean(two * two)) / square - 1, 0.0), MAX_AUTOCORRELATION)
    return rho * len(values) / (len(values) + PRIOR_POINTS)


def _scan(values: Floats, origin: int) -> list[_Hit]:
    """The seeded intervals over their bound; positions count from `origin`."""
    n = len(values)
    if n < 2 * MIN_SEGMENT:
        return []
    layout = _layout(n)
    # Ranks within any interval come from one table of comparisons: row i, summed over the interval,
    # counts the points below point i less those above it, twice its rank from the middle.
    above = (values[:, None] > values).view(np.int8)
    wins = np.zeros((n, n + 1), np.int16)
    np.subtract(above, above.T, out=wins[:, 1:], dtype=np.int16)
    np.cumsum(wins, axis=1, out=wins)
    ranks = wins[layout.position, layout.row_stop] - wins[layout.position, layout.row_start]
    # Each interval's ranks sum to zero, so one running sum over all of them starts afresh at each.
    statistic = np.abs(np.cumsum(ranks, dtype=np.int64) * (layout.scale / 2))
    largest = np.maximum.reduceat(statistic, layout.offset)
    hits = np.flatnonzero(largest > layout.bound)
    if not len(hits):
        return []
    # The first place of the largest: the first such place at or after the interval's own offset.
    length = layout.stop - layout.start
    places = np.flatnonzero(statistic == np.repeat(largest, length))
    split = layout.position[places[np.searchsorted(places, layout.offset[hits])]] + 1
    columns = (
        length[hits],
        layout.bound[hits] / largest[hits],
        layout.start[hits] + origin,
        split + origin,
    )
    return [_Hit(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _narrowest(hits: list[_Hit]) -> list[int]:
    """Narrowest-over-threshold: the splits of intervals that hold no split taken before."""
    splits: list[int] = []
    for hit in sorted(hits):
        if not any(hit.start < split < hit.start + hit.length for split in splits):
            splits.append(hit.split)
    return sorted(splits)


@lru_cache(maxsize=64)
def _layout(n: int) -> _Layout:
    start, length = _seeded_intervals(n)
    stop = start + length
    offset = np.cumsum(length) - length
    position = np.arange(length.sum()) - np.repeat(offset - start, length)
    row_start, row_stop = np.repeat(start, length), np.repeat(stop, length)
    return _Layout(
        start=start,
        stop=stop,
        offset=offset,
        bound=critical(length),
        position=position,
        row_start=row_start,
        row_stop=row_stop,
        scale=_rank_scale(position - row_start + 1, row_stop - row_start),
    )


def _seeded_intervals(n: int) -> tuple[Indices, Indices]:
    """Starts and lengths of half-overlapping intervals, in layers from n points to the shortest."""
    starts, lengths = [], []
    length, layer = n, 0
    while True:
        count = 2 * -(-n // length) - 1
        places = np.arange(count) * ((n - length) / max(count - 1, 1))
        starts.append(places.round().astype(np.intp))
        lengths.append(np.full(count, length))
        if length == 2 * MIN_SEGMENT:
            return np.concatenate(starts), np.concatenate(lengths)
        layer += 1
        length = max(round(n * DECAY**layer), 2 * MIN_SEGMENT)


def _rank_scale(taken: Indices, length: Indices) -> Floats:
    """1 / standard deviation of the sum of the first `taken` of `length` ranks, 0 near the ends.

    Without the correction for ties, which only lowers the statistic: with it a handful of equal
    values would stand further out than the null, which has no ties, can ever reach.
    """
    rest = length - taken
    inside = (taken >= MIN_SEGMENT) & (rest >= MIN_SEGMENT)
    variance = np.maximum(taken * rest, 1) * (length + 1) / 12
    return np.where(inside, 1 / np.sqrt(variance), 0.0)
