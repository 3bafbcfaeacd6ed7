"""Did the level jump, or did it slide? A ramp against the steps that a scan found in its place.

A slow slide passes every test for a difference between early and late points, yet no revision
caused it: its home is the room temperature or a battery, and a bisection would chase nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

MIN_RAMP = 40
"""A change that takes fewer points, a tenth of the window of analysis, is a step."""
WIDTHS = (40, 60, 80, 120, 160)
"""Lengths of ramp that are tried, besides one over all points."""
MIN_EVIDENCE = 1.0
"""Gain in log-likelihood that makes a step a ramp: in doubt it stays a step, because a drift that
is reported as a step costs a look, a step that is taken for a drift a release."""
FIT_ROUNDS = 4
HUBER = 1.5
"""Residuals beyond so many standard deviations lose weight in a fit."""
CLIP = 3.0
"""No residual counts for more than so many standard deviations: a spike belongs to no model."""
NORMAL_MAD = 1.4826
"""Standard deviation of normal noise over its median absolute deviation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """A slide from one level to another.

    Attributes:
        start: first position that is not on the old level.
        stop: first position on the new level, or the number of points if it is not reached.
        before: fitted level of the first point.
        after: fitted level of the last point.
    """

    start: int
    stop: int
    before: float
    after: float


def find_ramp(values: Floats, splits: list[int]) -> Ramp | None:
    """The ramp that explains the points better than the levels between the splits; None if none.

    Both are fitted robustly and compared by likelihood; every split after the first costs the
    levels log(points), two parameters by Schwarz's criterion.

    Args:
        values: shape [points].
        splits: first positions of new levels, ascending, at least one.
    """
    n = len(values)
    if n < MIN_RAMP:
        return None
    centre, span = (splits[0] + splits[-1] - 1) / 2, splits[-1] - splits[0]
    ramps = [(centre, float(width + span)) for width in WIDTHS if width + span < n]
    ramps.append(((n - 1) / 2, float(n)))
    shape = np.array([np.clip((np.arange(n) - c) / w + 0.5, 0, 1) for c, w in ramps])
    level = np.repeat(np.arange(len(splits) + 1), np.diff([0, *splits, n]))
    fits = np.vstack([_fit_levels(values, level)[None], _fit_ramps(values, shape)])
    losses = _clipped_squares(values - fits)
    best = int(np.argmin(losses[1:])) + 1
    if losses[0] == 0:
        return None
    gain = n / 2 * np.log(losses[0] / max(losses[best], np.finfo(float).tiny))
    if gain + np.log(n) * (len(splits) - 1) <= MIN_EVIDENCE:
        return None
    c, w = ramps[best - 1]
    return Ramp(
        start=max(int(np.ceil(c - w / 2)), 0),
        stop=min(int(np.ceil(c + w / 2)), n),
        before=float(fits[best, 0]),
        after=float(fits[best, -1]),
    )


def _fit_levels(values: Floats, level: Indices) -> Floats:
    """Fitted values, shape [points], of a constant per level."""
    weights = _huber_weights(values - np.median(values))
    fitted = values
    for _ in range(FIT_ROUNDS):
        means = np.bincount(level, weights * values) / np.bincount(level, weights)
        fitted = means[level]
        weights = _huber_weights(values - fitted)
    return fitted


def _fit_ramps(values: Floats, shapes: Floats) -> Floats:
    """Fitted values, shape [ramps, points], of level + height * shape for each shape alone."""
    weights = np.broadcast_to(_huber_weights(values - np.median(values)), shapes.shape)
    fitted = shapes
    for _ in range(FIT_ROUNDS):
        total = weights.sum(axis=1, keepdims=True)
        centred = shapes - (weights * shapes).sum(axis=1, keepdims=True) / total
        mean = (weights * values).sum(axis=1, keepdims=True) / total
        spread = (weights * centred * centred).sum(axis=1, keepdims=True)
        height = (weights * centred * values).sum(axis=1, keepdims=True) / spread
        fitted = mean + height * centred
        weights = _huber_weights(values - fitted)
    return fitted


def _huber_weights(residuals: Floats) -> Floats:
    size = np.abs(residuals)
    limit = HUBER * NORMAL_MAD * np.median(size, axis=-1, keepdims=True)
    # A model that is exact for most points has no scale, and then every point keeps its weight.
    return np.divide(limit, size, out=np.ones_like(size), where=(size > limit) & (limit > 0))


def _clipped_squares(residuals: Floats) -> Floats:
    """Loss per model, shape [models], all on the scale of the model with the smallest residuals."""
    size = np.abs(residuals)
    scale = NORMAL_MAD * np.median(size, axis=1)
    smallest = np.where(scale > 0, scale, size.mean(axis=1)).min()
    losses: Floats = (np.minimum(size, CLIP * smallest) ** 2).sum(axis=1)
    return losses
