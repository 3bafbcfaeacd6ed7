"""Series over revisions or time, from the store or from a CSV file, and what changed in them."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from farm.analysis.boundaries import (
    Blame,
    Boundary,
    Cause,
    Fixed,
    boundary_of,
    find_blame,
    find_boundaries,
)
from farm.analysis.changepoint import Step, find_changes
from farm.errors import ConfigError
from farm.metrics import METRICS, Method
from farm.papers import Document
from farm.record import Fact
from farm.store.database import open_store
from farm.store.series import FixedPoint, Point, read_fixed, read_points
from farm.systems import system_changes

MAX_CSV_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Series:
    """One series in order.

    Attributes:
        name: what it is, for people.
        labels: time or revision of each point.
        values: shape [points], blanks as NaN.
        exact: whether the metric has no noise, so that any change is an event.
        systems: what the device ran at each point; empty where nobody knows, or nothing depends on
            it.
        fixed: values of model files of this series, wherever they were measured.
    """

    name: str
    labels: tuple[str, ...]
    values: npt.NDArray[np.float64]
    exact: bool = False
    systems: tuple[tuple[Fact, ...], ...] = ()
    fixed: tuple[FixedPoint, ...] = ()

    @property
    def boundaries(self) -> tuple[Boundary, ...]:
        """Where the system of the device changed."""
        return find_boundaries(self.systems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What is known of a step at a boundary.

    Attributes:
        cause: what moved it.
        why: in words; what to measure, if that is not decided.
    """

    cause: Cause
    why: str


def read_csv(path: Path) -> tuple[Series, ...]:
    """The series of a CSV file: first column time or revision, every other column a series.

    Rows keep their order, blanks are missing points and count.

    Raises:
        ConfigError: with file and line: no UTF-8, no header, a duplicate or missing name, a row of
            another length, or a cell that is no number.
    """
    try:
        if path.stat().st_size > MAX_CSV_BYTES:
            raise ConfigError(f"{path}: longer than {MAX_CSV_BYTES >> 20} MiB")
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file, strict=True))
    except OSError as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: no CSV file in UTF-8: {error}") from error
    if not rows or len(rows[0]) < 2:
        raise ConfigError(
            f"{path}:1: expected a header with at least two columns",
            hint="first column time or revision, every other column a series",
        )
    names = rows[0][1:]
    if len(set(names)) < len(names) or "" in names:
        raise ConfigError(f"{path}:1: every column needs a name of its own")
    values = np.full((len(rows) - 1, len(names)), np.nan)
    for line, row in enumerate(rows[1:], 2):
        if not any(row):
            continue  # a blank line is a blank point
        if len(row) != len(rows[0]):
            raise ConfigError(f"{path}:{line}: {len(row)} cells, the header has {len(rows[0])}")
        for column, text in enumerate(row[1:]):
            values[line - 2, column] = _number(path, line, text)
    labels = tuple(row[0] if row else "" for row in rows[1:])
    return tuple(
        Series(name=name, labels=labels, values=values[:, column], exact=_is_exact(name))
        for column, name in enumerate(names)
    )


def stored_series(
    store: Path,
    *,
    metric: str | None = None,
    device: str | None = None,
    all_purposes: bool = False,
) -> tuple[Series, ...]:
    """The series in a store: one value per revision and device unit, oldest first.

    Several runs of one revision count once, by their median; those under another system than the
    first of them do not count. Series of the main line take nightly and release runs only.

    Args:
        store: folder of the store.
        metric: only this metric.
        device: only this device.
        all_purposes: also runs of pull requests and runs made by hand.

    Raises:
        StoreUnavailable: there is no store, or it cannot be read.
    """
    with open_store(store, read_only=True) as opened:
        points = read_points(opened, metric=metric, device=device, all_purposes=all_purposes)
        found: dict[str, dict[str, list[Point]]] = {}
        for point in points:
            revision = found.setdefault(point.series, {}).setdefault(point.revision, [])
            if not revision or not system_changes(revision[0].system, point.system):
                revision.append(point)
        series = [_series(name, revisions) for name, revisions in found.items()]
        moved = {one.name for one in series if one.boundaries}
        devices = {point.device for point in points if point.series in moved}
        fixed: dict[str, list[FixedPoint]] = {}
        for value in read_fixed(opened, sorted(devices)) if devices else ():
            fixed.setdefault(value.series, []).append(value)
    return tuple(replace(one, fixed=tuple(fixed.get(one.name, ()))) for one in series)


def _series(name: str, revisions: dict[str, list[Point]]) -> Series:
    firsts = [points[0] for points in revisions.values()]
    medians = [float(np.median([p.value for p in points])) for points in revisions.values()]
    metric = firsts[0].metric
    return Series(
        name=name,
        labels=tuple(revisions),
        values=np.array(medians),
        exact=_is_exact(metric),
        systems=() if metric.startswith("size.") else tuple(point.system for point in firsts),
    )


def explain(series: Series, steps: Iterable[Step]) -> dict[int, Explained]:
    """The steps that are at a boundary, by their index, with what moved them."""
    boundaries = series.boundaries
    found = {}
    for step in steps:
        boundary = boundary_of(step, series.values, boundaries)
        if boundary:
            fixed = _fixed_models(series.fixed, boundary)
            blame = find_blame(step, series.values, fixed, exact=series.exact)
            label = series.labels[boundary.index - 1]
            found[step.index] = Explained(
                cause=blame.cause,
                why=f"{', '.join(boundary.changed)}; {_told(blame, label)}",
            )
    return found


def _fixed_models(points: Iterable[FixedPoint], boundary: Boundary) -> list[Fixed]:
    """The models with values on both sides; what fits both systems or none is of neither."""
    sides: dict[tuple[str, bool], tuple[str, list[float], list[float]]] = {}
    for point in points:
        old = not system_changes(boundary.before, point.system)
        new = not system_changes(boundary.after, point.system)
        if old != new:
            _, before, after = sides.setdefault((point.sha256, point.canary), (point.name, [], []))
            (before if old else after).append(point.value)
    return [
        Fixed(name=name, canary=canary, before=tuple(before), after=tuple(after))
        for (_, canary), (name, before, after) in sides.items()
        if before and after
    ]


def _told(blame: Blame, label: str) -> str:
    """What speaks for a cause, or what to measure where nothing does."""
    by = blame.by
    if by is None:
        return (
            f"no model was measured on both sides: measure the one of {label} again on this "
            "device, by a gate against it or by farm run SUITE --model OLD"
        )
    moved = (
        f"{by.name}, which is the same file on both sides, moved by {100 * blame.moved:+.2f} "
        f"+- {100 * blame.error:.2f} %"
    )
    if blame.cause is Cause.UNDECIDED:
        counts = f"{len(by.before)} and {len(by.after)} jobs"
        return f"{moved} in {counts}, which is not enough to tell: measure it again"
    return moved


def history_document(series: Iterable[Series]) -> Document:
    """The document `farm.history/1`; indices count rows from 0, blanks included."""
    return {"schema": "farm.history/1", "series": [_entry(one) for one in series]}


def _entry(series: Series) -> Document:
    changes = find_changes(series.values, exact=series.exact)
    explained = explain(series, changes.steps)
    return {
        "name": series.name,
        "points": len(series.values),
        "missing": changes.missing,
        "steps": [_step_entry(series, step, explained.get(step.index)) for step in changes.steps],
        "drifts": [
            {
                "start": drift.start,
                "stop": drift.stop,
                "before": drift.before,
                "after": drift.after,
                "effect_pct": _percent(drift.effect),
            }
            for drift in changes.drifts
        ],
        "boundaries": [
            {
                "index": boundary.index,
                "label": series.labels[boundary.index],
                "changed": list(boundary.changed),
            }
            for boundary in series.boundaries
        ],
    }


def _step_entry(series: Series, step: Step, explained: Explained | None) -> Document:
    return {
        "index": step.index,
        "label": series.labels[step.index],
        "before": step.before,
        "after": step.after,
        "effect_pct": _percent(step.effect),
        "lo_pct": _percent(step.lo),
        "hi_pct": _percent(step.hi),
        "n_before": step.n_before,
        "n_after": step.n_after,
        "cause": explained.cause if explained else None,
        "why": explained.why if explained else None,
    }


def _percent(fraction: float) -> float | None:
    return 100 * fraction if math.isfinite(fraction) else None


def _is_exact(name: str) -> bool:
    return name in METRICS and METRICS[name].method is Method.EXACT


def _number(path: Path, line: int, text: str) -> float:
    if not text.strip():
        return math.nan
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(f"{path}:{line}: {text!r} is no number") from None
    return value if math.isfinite(value) else math.nan
