"""Did the system of the device move a level, or the model?

An update of a device may move every model on it. A step that begins where the system changed is
therefore compared with a fixed model, one whose file was measured under both systems: what moved it
was not a model. Without one nothing is decided.

Levels are compared by their logarithms: a value of 0.01 is about 1 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from farm.analysis.changepoint import CONFIDENCE_Z, MIN_EFFECT, Step
from farm.record import Fact
from farm.systems import system_changes

Floats = npt.NDArray[np.float64]

NEAREST = 1
"""Points by which a step may always be beside its place: one spike is enough for that."""
FARTHEST = 5
"""Points between a boundary and a step at it, at most."""
PLACE = 7.35
"""Twice the log-likelihood that the best place of a step has over its true place, in 95 % of series
at most (Hansen, Sample splitting and threshold estimation, Econometrica 68, 2000)."""
SIDE_Z = NormalDist().inv_cdf(0.975)
"""How many standard errors make a difference; one side of it is wrong in 2.5 %."""
EXACT = 1e-9
"""What metrics without noise may differ by and be equal, as a fraction."""
MAD_SD = 1.4826
"""Standard deviations in a median absolute deviation."""


class Cause(StrEnum):
    """What moved a level at a boundary."""

    MODEL = "model"
    ENVIRONMENT = "environment"
    UNDECIDED = "undecided"
    """Nothing that stayed the same was measured on both sides, or not often enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """Where the system of the device changed.

    Attributes:
        index: first point under the new system.
        changed: what changed, `os: A -> B` each.
        before: the old system.
        after: the new one.
    """

    index: int
    changed: tuple[str, ...]
    before: tuple[Fact, ...]
    after: tuple[Fact, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """A model that stayed the same, in the metric of a series.

    Attributes:
        name: for people.
        canary: whether it is the canary, which is another kind of model than those of the series.
        before: its values under the old system, one per job.
        after: under the new one.
    """

    name: str
    canary: bool
    before: tuple[float, ...]
    after: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blame:
    """What moved the level at a boundary.

    Attributes:
        by: the fixed model that tells; None if there was none.
        moved: how far it moved, as a fraction.
        error: half of the 95 % interval of `moved`.
    """

    cause: Cause
    by: Fixed | None = None
    moved: float = 0.0
    error: float = 0.0


def find_boundaries(systems: Sequence[Iterable[Fact]]) -> tuple[Boundary, ...]:
    """The boundaries of a series from the system of each of its points, in order.

    What a point does not tell is as it was before.
    """
    found = []
    known: dict[str, Fact] = {}
    for index, system in enumerate(systems):
        if index and system == systems[index - 1]:
            continue
        before = tuple(known.values())
        changed = system_changes(before, system)
        known |= {fact.name: fact for fact in system}
        if changed:
            after = tuple(known.values())
            found.append(Boundary(index=index, changed=changed, before=before, after=after))
    return tuple(found)


def boundary_of(step: Step, values: Floats, boundaries: Iterable[Boundary]) -> Boundary | None:
    """The boundary that a step may be at, the nearest one.

    The points between the two are of one system and at the other level; a boundary is out of reach
    where their likelihood says so.

    Args:
        step: of the series.
        values: the series, shape [points].
        boundaries: of the series.
    """
    spread = _spread(step, values)
    near = [
        boundary
        for boundary in boundaries
        if abs(boundary.index - step.index) <= FARTHEST
        and _likelihood(step, values, boundary.index, spread) <= PLACE
    ]
    return min(near, key=lambda boundary: abs(boundary.index - step.index), default=None)


def find_blame(step: Step, values: Floats, fixed: Iterable[Fixed], *, exact: bool = False) -> Blame:
    """What moved a level at a boundary.

    The model, if significantly something, and more than `MIN_EFFECT`, is left of the step without
    the part that the fixed model made too. The environment, if that is not so and the fixed model
    moved, significantly and in the same direction. A model of the series tells more than the
    canary, and one that was measured more often more than another.

    Args:
        step: at a boundary.
        values: the series, shape [points].
        fixed: models that were measured on both sides.
        exact: the metric has no noise.
    """
    told = [one for one in fixed if one.before and one.after and min(one.before + one.after) > 0]
    if not told or min(step.before, step.after) <= 0:
        return Blame(cause=Cause.UNDECIDED)
    spread = 0.0 if exact else _spread(step, values)
    by = min(told, key=lambda one: (one.canary, _error(one, spread)))
    moved = float(np.median(np.log(by.after)) - np.median(np.log(by.before)))
    error = _error(by, spread)
    rise = math.log(step.after / step.before)
    sign = math.copysign(1.0, rise)
    rest = sign * (rise - moved)
    unsure = SIDE_Z * math.hypot(_step_error(step), error)
    if rest > max(unsure, EXACT if exact else MIN_EFFECT):
        cause = Cause.MODEL
    elif sign * moved > max(SIDE_Z * error, EXACT):
        cause = Cause.ENVIRONMENT
    else:
        cause = Cause.UNDECIDED
    return Blame(cause=cause, by=by, moved=math.expm1(moved), error=math.expm1(SIDE_Z * error))


def _sides(step: Step, values: Floats) -> tuple[Floats, Floats]:
    return (
        values[step.index - step.n_before : step.index],
        values[step.index : step.index + step.n_after],
    )


def _spread(step: Step, values: Floats) -> float:
    """The standard deviation of the logarithms around the two levels; 0 where there are none."""
    if min(step.before, step.after) <= 0:
        return 0.0
    rests = [
        np.log(side[side > 0] / level)
        for side, level in zip(_sides(step, values), (step.before, step.after), strict=True)
    ]
    return MAD_SD * float(np.median(np.abs(np.concatenate(rests))))


def _likelihood(step: Step, values: Floats, index: int, spread: float) -> float:
    """Twice the log-likelihood that is lost when the step is moved to another place.

    Points beyond the two levels count as if they were at them: a spike says no more of the place.
    """
    if abs(index - step.index) <= NEAREST:
        return 0.0
    if not spread:
        return math.inf
    low, high = sorted((step.before, step.after))
    between = np.log(np.clip(values[slice(*sorted((index, step.index)))], low, high))
    old, new = math.log(step.before), math.log(step.after)
    right, wrong = (new, old) if index > step.index else (old, new)
    return float(np.sum((between - wrong) ** 2 - (between - right) ** 2)) / spread**2


def _error(fixed: Fixed, spread: float) -> float:
    """The standard error of how far a fixed model moved.

    Its own spread where that is larger than the series'; few values of its own say little of it.
    """
    sides = [np.log(fixed.before), np.log(fixed.after)]
    free = sum(len(side) - 1 for side in sides)
    own = math.sqrt(sum(float(side.var()) * len(side) for side in sides) / free) if free else 0.0
    return max(spread, own) * math.sqrt(sum(1 / len(side) for side in sides))


def _step_error(step: Step) -> float:
    """The standard error of a step's logarithm, from its interval."""
    width = math.log((1 + step.hi) / (1 + step.lo)) if step.lo > -1 else math.inf
    return width / (2 * CONFIDENCE_Z)
