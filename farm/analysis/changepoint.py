"""Where did the level of a series change, by how much, and did it jump or slide?

A rank scan proposes (`rankscan`), then each proposal must hold against its neighbours: enough
points on both sides, a difference beyond the null, and one that is worth a look. What slides is set
apart (`ramp`). Metrics without noise go another way: any change is an event.

Positions count from 0 and count blanks: NaN is a missing point, and so is infinity, which no
measurement yields. The caller sorts by time or revision and hands over one value per revision and
device unit; the series knows nothing else of time. Multiplying a series by a positive number
multiplies levels and leaves all else; turning its sign turns the effects.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from farm.analysis import rankscan
from farm.analysis.ramp import Ramp, find_ramp

Floats = npt.NDArray[np.float64]
Change = TypeVar("Change", "Step", "Drift")

MIN_EFFECT = 0.01
"""The smallest step that is reported, as a fraction of the level."""
MIN_MADS = 0.5
"""The smallest step that is reported, in median absolute deviations of the noisier side."""
REACH = 60
"""Points on each side that a level is judged by; older ones belong to an older state of the lab."""
RAMP_REACH = 100
"""Points on each side that a ramp is judged by: a slide shows over a longer stretch."""
CONFIDENCE_Z = 1.959964
"""Normal quantile of a two-sided interval of 95 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The level jumped.

    Attributes:
        index: first position of the new level.
        before: median of the level before, in the unit of the series.
        after: median of the level after.
        effect: after / before - 1, positive when the values rise, also from a negative level;
            infinite when `before` is 0.
        lo: lower bound, as a fraction like `effect`, of the 95 % interval of the Hodges-Lehmann
            shift (Estimates of location based on rank tests, 1963), widened for autocorrelation.
        hi: upper bound.
        n_before: points that `before` stands on, at most `REACH`.
        n_after: points that `after` stands on.
    """

    index: int
    before: float
    after: float
    effect: float
    lo: float
    hi: float
    n_before: int
    n_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The level slid: no single point is to blame.

    Attributes:
        start: first position of the slide.
        stop: first position after it.
        before: fitted level where it began, in the unit of the series.
        after: fitted level where it ended.
        effect: after / before - 1, as in `Step`.
        n: points that the fit stands on, those beside the slide included.
    """

    start: int
    stop: int
    before: float
    after: float
    effect: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """All that happened to the level of a series, in order; `missing` counts its blanks."""

    steps: tuple[Step, ...] = ()
    drifts: tuple[Drift, ...] = ()
    missing: int = 0


def find_steps(
    values: npt.ArrayLike, *, exact: bool = False, min_effect: float = MIN_EFFECT
) -> tuple[Step, ...]:
    """The steps of `find_changes` alone."""
    return find_changes(values, exact=exact, min_effect=min_effect).steps


def find_changes(
    values: npt.ArrayLike, *, exact: bool = False, min_effect: float = MIN_EFFECT
) -> Changes:
    """Steps and drifts of one series.

    Fewer than ten points, or points that are all equal, have no changes.

    Args:
        values: in order of time or revision, shape [points], blanks as NaN.
        exact: the metric has no noise (bytes, instructions): every point that differs from the one
            before is a step, to the last bit.
        min_effect: the smallest step that is reported, as a fraction of the level.
    """
    series = np.asarray(values, dtype=np.float64)
    present = np.flatnonzero(np.isfinite(series))
    found = series[present]
    if exact:
        changes = Changes(steps=tuple(_exact_steps(found)))
    elif len(found) < 2 * rankscan.MIN_SEGMENT or found.min() == found.max():
        changes = Changes()
    else:
        changes = _noisy_changes(found, min_effect)
    position = [*present.tolist(), len(series)]
    return Changes(
        steps=tuple(replace(step, index=position[step.index]) for step in changes.steps),
        drifts=tuple(
            replace(drift, start=position[drift.start], stop=position[drift.stop])
            for drift in changes.drifts
        ),
        missing=len(series) - len(present),
    )


class History:
    """A series that grows: every new point is judged with the last `rankscan.WINDOW` points.

    Each answer is that of `find_changes` on the window, so it depends on nothing but the points in
    it; positions count from the first point ever appended. A change may still move by a few points
    while its new level is young.
    """

    def __init__(
        self,
        values: Iterable[float] = (),
        *,
        exact: bool = False,
        min_effect: float = MIN_EFFECT,
    ) -> None:
        self._window: deque[float] = deque(maxlen=rankscan.WINDOW)
        self._length = 0
        self._exact = exact
        self._min_effect = min_effect
        for value in values:
            self._push(value)

    def append(self, value: float) -> Changes:
        """Takes one more point, NaN for a blank; what changed within the window."""
        self._push(value)
        seen = find_changes(list(self._window), exact=self._exact, min_effect=self._min_effect)
        gone = self._length - len(self._window)
        return replace(
            seen,
            steps=tuple(replace(step, index=step.index + gone) for step in seen.steps),
            drifts=tuple(
                replace(drift, start=drift.start + gone, stop=drift.stop + gone)
                for drift in seen.drifts
            ),
        )

    def _push(self, value: float) -> None:
        self._window.append(value)
        self._length += 1


def _exact_steps(values: Floats) -> Iterator[Step]:
    edges = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]
    for start, index, stop in zip(edges, edges[1:], edges[2:], strict=False):
        before, after = float(values[start]), float(values[index])
        effect = _fraction(after - before, before)
        yield Step(
            index=index, before=before, after=after, effect=effect, lo=effect, hi=effect,
            n_before=index - start, n_after=stop - index,
        )  # fmt: skip


def _noisy_changes(values: Floats, min_effect: float) -> Changes:
    # A power of two changes no digit and keeps sums and squares of any measurement finite.
    exponent = int(np.frexp(np.abs(values).max())[1])
    scaled = np.ldexp(values, -exponent)
    whitened, rho = rankscan.whiten(scaled)
    splits = _eliminate(scaled, whitened, rankscan.find_candidates(whitened), min_effect)
    slid, drifts = _find_drifts(scaled, splits)
    steps = (
        _step(scaled, low, split, high, float(rho[split]))
        for low, split, high in _places([0, *splits, len(scaled)])
        if split not in slid
    )
    return Changes(
        steps=tuple(_rescaled(step, exponent) for step in steps),
        drifts=tuple(_rescaled(drift, exponent) for drift in drifts),
    )


def _rescaled(change: Change, exponent: int) -> Change:
    return replace(
        change,
        before=math.ldexp(change.before, exponent),
        after=math.ldexp(change.after, exponent),
    )


def _eliminate(values: Floats, whitened: Floats, splits: list[int], min_effect: float) -> list[int]:
    """Drops the weakest split, moves the others to their best place, until all hold."""
    refine = cache(partial(_refine, values))
    strength = cache(partial(_strength, values, whitened, min_effect))
    while splits:
        places = _places([0, *splits, len(values)])
        splits = sorted({refine(*place) for place in places})
        strengths = [strength(*place) for place in _places([0, *splits, len(values)])]
        weakest = int(np.argmin(strengths))
        if strengths[weakest] > 1:
            break
        del splits[weakest]
    return splits


def _places(edges: list[int]) -> list[tuple[int, int, int]]:
    """Per inner edge: where the level before it starts, itself, where the level after it ends.

    No level reaches further than `REACH`.
    """
    return [
        (max(low, split - REACH), split, min(high, split + REACH))
        for low, split, high in zip(edges, edges[1:], edges[2:], strict=False)
    ]


def _refine(values: Floats, low: int, split: int, high: int) -> int:
    """The split between two levels with the smallest sum of absolute deviations.

    Like Lloyd's algorithm: medians from the split, then the split from the medians, twice. Where a
    level has two modes its median lies anywhere between, so the split stays if the points on its
    two sides would differ less by their ranks.
    """
    shortest = rankscan.MIN_SEGMENT
    if high - low < 2 * shortest:
        return split
    part, best = values[low:high], split - low
    for _ in range(2):
        before, after = np.median(part[:best]), np.median(part[best:])
        excess = np.cumsum(np.abs(part - before) - np.abs(part - after))
        best = shortest + int(np.argmin(excess[shortest - 1 : len(part) - shortest]))
    old = rankscan.rank_statistic(values[low:split], values[split:high])
    return low + best if rankscan.rank_statistic(part[:best], part[best:]) >= old else split


def _strength(
    values: Floats, whitened: Floats, min_effect: float, low: int, split: int, high: int
) -> float:
    """How far a split is over the lowest of its bars; it must be above 1."""
    if min(split - low, high - split) < rankscan.MIN_SEGMENT:
        return 0.0
    before, after = values[low:split], values[split:high]
    shift = abs(float(np.median(after[:, None] - before)))
    centres = float(np.median(before)), float(np.median(after))
    mad = max(
        float(np.median(np.abs(side - centre)))
        for side, centre in zip((before, after), centres, strict=True)
    )
    # The smaller level of the two, so that a series read backwards has the same steps.
    floor = max(min_effect * min(abs(centre) for centre in centres), MIN_MADS * mad)
    worth = shift / floor if floor else math.inf * shift if shift else 0.0
    return min(worth, rankscan.rank_statistic(whitened[low:split], whitened[split:high]))


def _find_drifts(values: Floats, splits: list[int]) -> tuple[set[int], list[Drift]]:
    """Splits that belong to a slide, and the slides.

    Of neighbouring splits in one direction the longest run is tried first: a long slide looks like
    a stair, and each stair alone like a step.
    """
    edges = [0, *splits, len(values)]
    rises = [
        bool(np.median(values[split:high]) > np.median(values[low:split]))
        for low, split, high in _places(edges)
    ]
    slid: set[int] = set()
    drifts = []
    for first, last in _runs(splits, rises):
        run = splits[first : last + 1]
        if not slid.isdisjoint(run):
            continue
        low = max(edges[first], run[0] - RAMP_REACH)
        high = min(edges[last + 2], run[-1] + RAMP_REACH)
        ramp = find_ramp(values[low:high], [split - low for split in run])
        if ramp:
            slid |= set(run)
            drifts.append(_drift(ramp, low, high))
    return slid, sorted(drifts, key=lambda drift: drift.start)


def _runs(splits: list[int], rises: list[bool]) -> list[tuple[int, int]]:
    """First and last of all runs of splits in one direction within a window, longest first."""
    runs = []
    for first in range(len(splits)):
        for last in range(first, len(splits)):
            if rises[last] != rises[first] or splits[last] - splits[first] > rankscan.WINDOW:
                break
            runs.append((first, last))
    return sorted(runs, key=lambda run: run[0] - run[1])


def _drift(ramp: Ramp, low: int, high: int) -> Drift:
    return Drift(
        start=low + ramp.start,
        stop=low + ramp.stop,
        before=ramp.before,
        after=ramp.after,
        effect=_fraction(ramp.after - ramp.before, ramp.before),
        n=high - low,
    )


def _step(values: Floats, low: int, split: int, high: int, rho: float) -> Step:
    before, after = values[low:split], values[split:high]
    n, m = len(before), len(after)
    shifts = np.sort((after[:, None] - before).ravel())
    inflation = math.sqrt((1 + rho) / (1 - rho))
    half = CONFIDENCE_Z * inflation * math.sqrt(n * m * (n + m + 1) / 12)
    rank = max(math.floor(n * m / 2 - half), 0)
    level, new_level = float(np.median(before)), float(np.median(after))
    effect = _fraction(new_level - level, level)
    return Step(
        index=split,
        before=level,
        after=new_level,
        effect=effect,
        # Medians and shift are two estimates; a skewed level must not put one outside the other.
        lo=min(effect, _fraction(float(shifts[rank]), level)),
        hi=max(effect, _fraction(float(shifts[n * m - 1 - rank]), level)),
        n_before=n,
        n_after=m,
    )


def _fraction(change: float, level: float) -> float:
    if level:
        return change / abs(level)
    return math.copysign(math.inf, change) if change else 0.0
