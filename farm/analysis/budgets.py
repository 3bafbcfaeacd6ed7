"""Absolute limits on the candidate alone: a share of overruns, an accuracy, a level.

Two ways to ask whether the p99 holds its limit. `share_over` counts inferences and is exact as
long as they are independent: one inference per process, or a share of items. `level_bound` takes
one statistic per repeat, whatever the inferences inside a repeat do to each other. Inferences of
one process are not independent: with an autocorrelation of 0.4 and no more, 2,000 inferences in a
row and a limit at the true p99, the upper bound of the share, meant to be wrong in 5 %, is wrong
in 5.7 % (3.6 % without); for the p90 in 8.5 %. What does the harm is the level that a whole repeat
shares: 0.2 of the spread inside (1 % between repeats, 5 % inside) makes it 13 % over five repeats
of 400 and 29 % in one of 2,000. So: gate on `level_bound` as soon as there are five repeats, and
show `share_over` beside it, or gate on it where a single inference is the repeat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from farm.analysis.items import wilson


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One arm by itself, to be held against a limit.

    Attributes:
        estimate: best guess.
        lo: lower one-sided bound.
        hi: upper one-sided bound.
        n: independent observations behind it: inferences, items or repeats.
    """

    estimate: float
    lo: float
    hi: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Share(Level):
    """A share of inferences over a limit.

    Attributes:
        allowed: the share that may be over.
        least_n: the fewest inferences that can show it, if none of them is over.
    """

    allowed: float
    least_n: int


def share_over(over: int, n: int, allowed: float, alpha: float) -> Share:
    """The share of inferences over a limit, with exact bounds.

    Clopper and Pearson, The use of confidence or fiducial limits illustrated in the case of the
    binomial, Biometrika 26 (1934): `hi` is the largest share under which so few overruns have a
    chance of alpha, so it errs at most that often, for independent inferences: the module says
    when they are. A limit on the p99 allows 1 %: it holds if `hi` is below `allowed`, and is
    broken if `lo` is above.

    Args:
        over: inferences over the limit.
        n: all inferences.
        allowed: above 0 and below 1: 0.01 for the p99.
        alpha: one-sided chance of error of each bound.

    Raises:
        ValueError: n below 1, not 0 <= over <= n, or an allowed share of nothing or everything.
    """
    if n < 1 or not 0 <= over <= n:
        raise ValueError(f"{over} of {n} inferences is no share")
    if not 0 < allowed < 1:
        raise ValueError(f"allowed share {allowed} is not between 0 and 1")
    return Share(
        estimate=over / n,
        lo=float(special.betaincinv(over, n - over + 1, alpha)) if over else 0.0,
        hi=float(special.betainccinv(over + 1, n - over, alpha)) if over < n else 1.0,
        n=n,
        allowed=allowed,
        least_n=int(np.floor(np.log(alpha) / np.log1p(-allowed))) + 1,
    )


def floor(right: int, n: int, alpha: float) -> Level:
    """An accuracy with Wilson's score bounds, to be held against a floor.

    The floor holds if `lo` is above it. For independent items and accuracies of 50 to 99.95 %, `lo`
    at alpha 5 % is wrong in 3.7 % on average and 7.4 % at worst with 30 items, in 4.8 % and 6.1 %
    with 1,000.

    Args:
        right: items that are right.
        n: all items.
        alpha: one-sided chance of error of each bound.

    Raises:
        ValueError: n below 1, or not 0 <= right <= n.
    """
    share, lo, hi = wilson(right, n, float(special.ndtri(1 - alpha)))
    return Level(estimate=share, lo=lo, hi=hi, n=n)


def level_bound(values: npt.NDArray[np.float64], alpha: float) -> Level:
    """The level of a statistic over repeats, to be held against a limit.

    t bounds on the mean logarithm: spreads of times and sizes are ratios. The level is the
    geometric mean over repeats, whatever the statistic of one repeat is: a p99 by
    `harrell_davis`, a median, a peak.

    Args:
        values: one positive value per repeat, any unit, shape [repeats >= 2].
        alpha: one-sided chance of error of each bound.

    Returns:
        The level in the unit of the values; n counts repeats.

    Raises:
        ValueError: fewer than two repeats, or a value that is not positive and finite.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"a level over {n} repeats has no bounds: two are needed")
    if not (np.isfinite(values) & (values > 0)).all():
        raise ValueError("a value is not positive and finite")
    logs = np.log(values)
    reach = float(special.stdtrit(n - 1, 1 - alpha) * logs.std(ddof=1) / np.sqrt(n))
    with np.errstate(over="ignore"):  # two repeats far apart bound nothing: infinity is right
        estimate, lo, hi = np.exp(logs.mean() + np.array([0.0, -reach, reach]))
    return Level(estimate=float(estimate), lo=float(lo), hi=float(hi), n=n)
