"""From raw samples to what a chart can carry: spikes survive, and what is left out is counted."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd

SHOWN_SAMPLES = 2000
"""About as many points as a chart shows well; 300,000 would cross the wire without a warning."""

BINS = (30, 200)
"""Fewest and most bins of a histogram."""

CLIP_QUANTILE = 0.999
LOG_SPREAD = 4.0
"""Above this ratio of largest to smallest drawn value a histogram's axis is logarithmic."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Histogram:
    """Shares of samples per bin, the same bins for both arms.

    Attributes:
        bins: one row per arm and bin: arm, left, right (stored unit), share (of the arm's samples).
        medians: one row per arm: arm, median (stored unit).
        logarithmic: whether the bins are even on a logarithmic axis.
        clip: the largest value drawn, in the stored unit.
        clipped: how many samples lie above it.
        largest: the largest sample, in the stored unit.
    """

    bins: pd.DataFrame
    medians: pd.DataFrame
    logarithmic: bool
    clip: float
    clipped: int
    largest: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JobSamples:
    """The raw samples of one trace of a job, small enough to keep and to send.

    Attributes:
        unit: the stored unit of every value here.
        total: samples in the store.
        shown: one row per sample drawn: arm, order (1 is the first taken), block, position,
            value.
        histogram: their distribution.
    """

    unit: str
    total: int
    shown: pd.DataFrame
    histogram: Histogram


def summarise(traces: pd.DataFrame) -> JobSamples | None:
    """Reduce the raw samples of a job; None if there are none.

    Args:
        traces: columns arm, block, position, unit and value, in the order taken.
    """
    if traces.empty:
        return None
    frame = traces.assign(arm=traces["arm"].astype(str), order=np.arange(1, len(traces) + 1))
    return JobSamples(
        unit=str(traces["unit"].iloc[0]),
        total=len(frame),
        shown=_thin(frame),
        histogram=_histogram(frame),
    )


def keep_extremes(values: Floats, limit: int) -> npt.NDArray[np.int64]:
    """The indices of at most `limit` values, in order: smallest and largest of each bucket.

    Every spike survives, which a mean or every n-th sample would not grant.

    Args:
        values: shape [n].
        limit: at least 2.
    """
    n = len(values)
    if n <= limit:
        return np.arange(n)
    edges = np.linspace(0, n, limit // 2 + 1).astype(np.int64)
    kept = [
        start + offset
        for start, stop in pairwise(edges)
        for offset in (values[start:stop].argmin(), values[start:stop].argmax())
    ]
    return np.unique(np.array(kept, np.int64))


def _thin(frame: pd.DataFrame) -> pd.DataFrame:
    """Thin out each arm by itself, so that the spikes of one cannot hide those of the other."""
    arms = [arm for _, arm in frame.groupby("arm", sort=False)]
    limit = SHOWN_SAMPLES // len(arms)
    kept = [arm.iloc[keep_extremes(arm["value"].to_numpy(np.float64), limit)] for arm in arms]
    thinned = pd.concat(kept).sort_values("order")
    return thinned[["arm", "order", "block", "position", "value"]].reset_index(drop=True)


def _histogram(frame: pd.DataFrame) -> Histogram:
    values = frame["value"].to_numpy(np.float64)
    clip = float(np.quantile(values, CLIP_QUANTILE, method="higher"))
    low = float(values.min())
    logarithmic = low > 0 and clip / low > LOG_SPREAD
    edges = _edges(frame, clip, logarithmic=logarithmic)
    rows, medians = [], []
    for arm, part in frame.groupby("arm", sort=True):
        of_arm = part["value"].to_numpy(np.float64)
        counts, _ = np.histogram(of_arm[of_arm <= clip], bins=edges)
        rows.append(
            pd.DataFrame(
                {
                    "arm": arm,
                    "left": edges[:-1],
                    "right": edges[1:],
                    "share": counts / len(of_arm),
                }
            )
        )
        medians.append({"arm": arm, "median": float(np.median(of_arm))})
    return Histogram(
        bins=pd.concat(rows, ignore_index=True),
        medians=pd.DataFrame(medians),
        logarithmic=logarithmic,
        clip=clip,
        clipped=int((values > clip).sum()),
        largest=float(values.max()),
    )


def _edges(frame: pd.DataFrame, clip: float, *, logarithmic: bool) -> Floats:
    """Even bins on the axis that is drawn, of the width that Freedman and Diaconis advise.

    The narrower arm decides: over both arms together, a regression would widen every bin.
    """
    drawn = frame[frame["value"] <= clip]
    low, high = float(drawn["value"].min()), float(drawn["value"].max())
    if high <= low:  # all samples equal: one bin that can be seen
        reach = abs(low) * 0.01 or 0.5
        return np.array([low - reach, low + reach])
    axis = np.log if logarithmic else np.asarray
    widths = [_bin_width(axis(arm.to_numpy())) for _, arm in drawn.groupby("arm")["value"]]
    width = min((width for width in widths if width > 0), default=0.0)
    reach = float(axis(high) - axis(low))
    bins = int(np.clip(np.ceil(reach / width), *BINS)) if width > 0 else BINS[1]
    edges = np.geomspace(low, high, bins + 1) if logarithmic else np.linspace(low, high, bins + 1)
    edges[0], edges[-1] = low, high  # rounding must not push the ends outside
    return edges


def _bin_width(values: Floats) -> float:
    lower, upper = np.quantile(values, (0.25, 0.75))
    return float(2 * (upper - lower) / len(values) ** (1 / 3))
