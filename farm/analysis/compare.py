"""How much worse is the candidate? One effect with its interval per method of comparison.

Effects are fractions, positive is worse: 0.1 is 10 % slower, or 10 points less accurate. `lo` and
`hi` are each a one-sided bound: the truth lies above `hi` with a chance of at most alpha, below
`lo` likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy  # its parts load when they are used: optimize alone takes most of a second
from scipy import special

POWER = 0.8
"""The chance with which an effect of the size of the MDE would be found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """The candidate against the baseline.

    Attributes:
        estimate: best guess of the effect.
        lo: lower one-sided bound.
        hi: upper one-sided bound.
        n: independent observations behind it: blocks, items, or 1 for an exact number.
        mde: the smallest effect that this many observations of this spread find with a power of
            80 %.
    """

    estimate: float
    lo: float
    hi: float
    n: int
    mde: float


def block_effect(differences: npt.NDArray[np.float64], alpha: float) -> Effect:
    """The effect over ABBA blocks.

    Args:
        differences: per block mean(log B) - mean(log A), positive is worse, shape [blocks >= 2].
        alpha: one-sided chance of error of each bound.
    """
    n = len(differences)
    mean = float(differences.mean())
    scale = float(differences.std(ddof=1)) / np.sqrt(n)
    bound = float(special.stdtrit(n - 1, 1 - alpha))
    reach = (bound + float(special.stdtrit(n - 1, POWER))) * scale
    low, high, mde = np.expm1([mean - bound * scale, mean + bound * scale, reach])
    return Effect(
        estimate=float(np.expm1(mean)), lo=float(low), hi=float(high), n=n, mde=float(mde)
    )


def paired_effect(
    baseline: npt.NDArray[np.bool_], candidate: npt.NDArray[np.bool_], alpha: float
) -> Effect:
    """The loss of accuracy on the same items, by Tango's score interval.

    Tango, Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design, Statistics in Medicine 17 (1998): inverts the score test, so it holds its
    level where few items change sides, which is where a good candidate is.

    Args:
        baseline: right or wrong per item, shape [items >= 1].
        candidate: the same items in the same order.
        alpha: one-sided chance of error of each bound.
    """
    n = len(baseline)
    lost = int((baseline & ~candidate).sum())
    won = int((~baseline & candidate).sum())
    z = float(special.ndtri(1 - alpha))
    return Effect(
        estimate=(lost - won) / n,
        lo=tango_bound(lost, won, n, z),
        hi=tango_bound(lost, won, n, -z),
        n=n,
        mde=(z + float(special.ndtri(POWER))) * np.sqrt(max(lost + won, 1)) / n,
    )


def weighted_effect(
    effects: Sequence[tuple[Effect, float]], alpha: float, *, ratio: bool
) -> Effect:
    """The mean of independent effects with known weights, such as device types by their usage.

    Standard errors are read back from the bounds and add up; degrees of freedom are Welch's and
    Satterthwaite's. For ratios the mean is one of logarithms: the usage-weighted geometric mean.

    Args:
        effects: effects at the same alpha, with weights that add up to 1.
        alpha: one-sided chance of error of each bound.
        ratio: whether the effects are ratios minus one (blocks, sizes) or differences (items).
    """
    mean = variance = fourth = 0.0
    for effect, weight in effects:
        forward = np.log1p if ratio else (lambda value: value)
        centre, high = float(forward(effect.estimate)), float(forward(effect.hi))
        freedom = effect.n - 1 if ratio and effect.n > 1 else 1e6
        error = weight * (high - centre) / float(special.stdtrit(freedom, 1 - alpha))
        mean += weight * centre
        variance += error**2
        fourth += error**4 / freedom
    freedom = variance**2 / fourth if fourth > 0 else 1e6
    bound = float(special.stdtrit(freedom, 1 - alpha)) * float(np.sqrt(variance))
    reach = bound + float(special.stdtrit(freedom, POWER)) * float(np.sqrt(variance))
    values = np.array([mean, mean - bound, mean + bound, reach])
    estimate, low, high, mde = np.expm1(values) if ratio else values
    n = sum(effect.n for effect, _ in effects)
    return Effect(estimate=float(estimate), lo=float(low), hi=float(high), n=n, mde=float(mde))


def items_needed(effect: Effect, margin: float) -> int:
    """How many items would decide about an unchanged model at this margin.

    The share of items that change sides stays as it was seen, so the MDE shrinks with the root of
    the number of items.
    """
    return int(np.ceil(effect.n * (effect.mde / margin) ** 2))


def exact_effect(baseline: float, candidate: float, *, more_is_better: bool = False) -> Effect:
    """The effect on a number without noise: any change is real, and worse is positive."""
    change = candidate / baseline - 1 if candidate != baseline else 0.0
    change = -change if more_is_better and change else change
    return Effect(estimate=change, lo=change, hi=change, n=1, mde=0.0)


def mcnemar_p(baseline: npt.NDArray[np.bool_], candidate: npt.NDArray[np.bool_]) -> float:
    """Two-sided exact p of McNemar's test: whether the two models differ at all.

    Reported beside the verdict and never part of it: it says nothing about a margin.
    """
    lost = int((baseline & ~candidate).sum())
    won = int((~baseline & candidate).sum())
    return min(1.0, 2 * float(special.bdtr(min(lost, won), lost + won, 0.5))) if lost + won else 1.0


def tango_bound(lost: float, won: float, n: float, z: float) -> float:
    """The difference at which Tango's score is `z`; counts may be effective ones, not whole."""
    edge = 1 - 1e-12
    if tango_score(lost, won, n, edge) > z:
        return 1.0
    if tango_score(lost, won, n, -edge) < z:
        return -1.0
    root: float = scipy.optimize.brentq(
        lambda delta: tango_score(lost, won, n, delta) - z, -edge, edge, xtol=1e-10
    )
    return root


def tango_score(lost: float, won: float, n: float, delta: float) -> float:
    """The score statistic of a true difference `delta`; falls as `delta` rises."""
    a = 2 * n
    b = -lost - won + (2 * n - lost + won) * delta
    c = -won * delta * (1 - delta)
    won_share = (np.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * (2 * won_share + delta * (1 - delta))
    gap = lost - won - n * delta
    if variance <= 1e-15:
        return 0.0 if abs(gap) < 1e-9 else float(np.copysign(np.inf, gap))
    return float(gap / np.sqrt(variance))
