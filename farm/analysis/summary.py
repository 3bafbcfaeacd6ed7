"""From raw samples to statistics of one repeat, and from repeats to statistics of a job.

The repeat is the unit: samples inside one process are correlated, so their number says nothing
about how well a level is known. n of a summary counts repeats, or items for accuracy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

from farm.analysis.items import wilson
from farm.analysis.quantiles import harrell_davis
from farm.metrics import LATENCY_QUANTILES, METRICS, Direction
from farm.record import Measurement, Samples

CONFIDENCE = 0.95


def latency_statistics(latency_ns: Samples) -> tuple[Measurement, ...]:
    """Percentiles of one repeat in ns, shape [inferences]; those the sample supports, no others.

    Tails are Harrell-Davis quantiles: they weigh the order statistics around the quantile, so that
    one inference more or less does not make them jump.
    """
    found = []
    for name, quantile in LATENCY_QUANTILES.items():
        metric = METRICS[name]
        if len(latency_ns) >= metric.min_samples:
            median = quantile == 0.5
            value = float(np.median(latency_ns)) if median else harrell_davis(latency_ns, quantile)
            found.append(Measurement(metric=name, unit=metric.unit, value=value, n=len(latency_ns)))
    return tuple(found)


def over_repeats(metric: str, values: npt.NDArray[np.float64]) -> Measurement:
    """One metric over repeats, shape [repeats], all positive.

    The geometric mean with a t interval on the logarithms: spreads of times and sizes are ratios.
    A single repeat has no interval.
    """
    logs = np.log(values)
    n = len(logs)
    lo = hi = None
    if n > 1:
        half = float(special.stdtrit(n - 1, (1 + CONFIDENCE) / 2) * logs.std(ddof=1) / np.sqrt(n))
        lo, hi = float(np.exp(logs.mean() - half)), float(np.exp(logs.mean() + half))
    unit = METRICS[metric].unit
    return Measurement(
        metric=metric, unit=unit, value=float(np.exp(logs.mean())), lo=lo, hi=hi, n=n
    )


def exact_over_repeats(metric: str, values: npt.NDArray[np.float64]) -> Measurement:
    """A number without noise over repeats, shape [repeats]: the worst, should they differ."""
    declared = METRICS[metric]
    worst = values.max() if declared.direction is Direction.LOWER else values.min()
    return Measurement(metric=metric, unit=declared.unit, value=float(worst), n=len(values))


def share_correct(metric: str, correct: npt.NDArray[np.bool_]) -> Measurement:
    """Accuracy over items, shape [items], with Wilson's score interval."""
    z = float(special.ndtri((1 + CONFIDENCE) / 2))
    share, lo, hi = wilson(int(correct.sum()), len(correct), z)
    unit = METRICS[metric].unit
    return Measurement(metric=metric, unit=unit, value=share, lo=lo, hi=hi, n=len(correct))
