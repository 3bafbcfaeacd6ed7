"""The tail of one repeat as one number with less noise than a single order statistic has."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

NO_WEIGHT = 1e-18
"""Share of all weight that is left out at either end: far below the 1.1e-16 that a double sees."""


def harrell_davis(samples: npt.NDArray[np.float64 | np.int64], quantile: float) -> float:
    """The quantile as a mean over all order statistics, most weight on those near it.

    Harrell and Davis, A new distribution-free quantile estimator, Biometrika 69 (1982): the weight
    of the i-th of n order statistics is the probability of ((i - 1) / n, i / n) under a beta
    distribution with (n + 1) q and (n + 1) (1 - q). Its spread over repeats is smaller than that of
    the order statistic alone, so a gate on a tail needs fewer blocks.

    Only order statistics that can count are weighed and sorted: the inverse of the beta
    distribution says where its tails hold less than `NO_WEIGHT`, the samples are partitioned there,
    and what is between gets its weights. For the p99 of 100,000 samples these are about 600 order
    statistics. What is left out could move the result only if it were 17 orders of magnitude larger
    than the rest.

    Whether the sample supports the quantile is for the caller to ask: see `Metric.min_samples`.

    Args:
        samples: of one repeat, any unit, shape [inferences >= 1].
        quantile: share of samples at or below the result, above 0 and below 1.

    Returns:
        The estimate in the unit of the samples, between the smallest and the largest.

    Raises:
        ValueError: no samples, a sample that is not finite, or a quantile outside (0, 1).
    """
    n = len(samples)
    if n == 0 or not np.isfinite(samples).all():
        raise ValueError(f"a quantile of {n} samples, which must be at least one and all finite")
    if not 0 < quantile < 1:
        raise ValueError(f"quantile {quantile} is not between 0 and 1")
    a, b = (n + 1) * quantile, (n + 1) * (1 - quantile)
    first = int(n * special.betaincinv(a, b, NO_WEIGHT))
    last = min(n, int(n * special.betainccinv(a, b, NO_WEIGHT)) + 1)
    middle = np.partition(samples, (first, last - 1))[first:last].astype(np.float64)
    middle.sort()
    weights = np.diff(special.betainc(a, b, np.arange(first, last + 1) / n))
    estimate = weights @ (middle / weights.sum())
    return float(np.clip(estimate, middle[0], middle[-1]))
