"""From what a meter saw to what can be shown of it; a figure that nobody knows is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from farm.metering import UNUSABLE, MeterFacts

Preview = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JobPower:
    """The recordings of one job.

    Attributes:
        meter: what took them.
        windows: one row each, in the order taken: number (from 1), arm, block, conditions (list of
            codes), sha256, samples, lost (in the whole recording), method, inferences, duration_s,
            mean_w, idle_w, energy_j (of one inference), lost_inside, gaps (whether something is
            missing in the recording). What is not known is NaN, and nothing is known of a window
            with a condition of `UNUSABLE`.
        spans: what the device did meanwhile, per window, as the store keeps it.
        previews: least, mean and largest power of equal parts in W, per window.
    """

    meter: MeterFacts
    windows: pd.DataFrame
    spans: tuple[Sequence[Sequence[Any]], ...]
    previews: tuple[Preview, ...]


def read_power(recordings: pd.DataFrame) -> JobPower | None:
    """What a meter saw of a job; None if it had none.

    Args:
        recordings: as `farm.store.reader.recordings`.
    """
    if recordings.empty:
        return None
    kept = recordings[["arm", "block", "conditions", "sha256", "samples", "lost"]]
    pairs = zip(recordings["window"], recordings["conditions"], strict=True)
    found = pd.DataFrame([_figures(window, conditions) for window, conditions in pairs])
    stalled = recordings["conditions"].map(lambda codes: "meter_stalled" in codes)
    told = kept.assign(number=range(1, len(kept) + 1), gaps=(kept["lost"] > 0) | stalled)
    windows = pd.concat([told, found], axis=1)
    return JobPower(
        meter=MeterFacts(**recordings["meter"].iloc[0]),
        windows=windows,
        spans=tuple(recordings["spans"]),
        previews=tuple(recordings["preview"]),
    )


def parts_of(preview: Preview, length_s: float) -> pd.DataFrame:
    """A preview over time: begin (in s since the first sample), least, mean, largest (in W).

    The parts have equally many samples, so they are taken to be equally long. One row more closes
    the last part: each holds until the next begins.
    """
    frame = pd.DataFrame(preview, columns=["least", "mean", "largest"], dtype=np.float64)
    closed = pd.concat([frame, frame.tail(1)], ignore_index=True)
    return closed.assign(begin=np.linspace(0.0, length_s, len(closed)))


def _figures(window: dict[str, Any], conditions: Sequence[str]) -> dict[str, Any]:
    """One window, from what is kept of it."""
    known = {} if UNUSABLE & set(conditions) else window
    energy_j, inferences, duration_s, idle_w = (
        np.nan if known.get(name) is None else float(known[name])
        for name in ("energy_j", "inferences", "duration_s", "idle_w")
    )
    return {
        "method": window.get("method", ""),
        "lost_inside": window.get("lost", 0),
        "inferences": inferences,
        "duration_s": duration_s,
        "mean_w": energy_j / duration_s,
        "idle_w": idle_w,
        "energy_j": energy_j / inferences,
    }
