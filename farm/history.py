"""Series over revisions or time, from the store or from a CSV file, and what changed in them."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from farm.analysis.changepoint import find_changes
from farm.errors import ConfigError
from farm.metrics import METRICS, Method
from farm.papers import Document
from farm.store.database import open_store
from farm.store.series import read_points

MAX_CSV_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Series:
    """One series in order.

    Attributes:
        name: what it is, for people.
        labels: time or revision of each point.
        values: shape [points], blanks as NaN.
        exact: whether the metric has no noise, so that any change is an event.
    """

    name: str
    labels: tuple[str, ...]
    values: npt.NDArray[np.float64]
    exact: bool = False


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

    Several runs of one revision count once, by their median. Series of the main line take nightly
    and release runs only.

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
    found: dict[str, dict[str, list[float]]] = {}
    exact: dict[str, bool] = {}
    for point in points:
        found.setdefault(point.series, {}).setdefault(point.revision, []).append(point.value)
        exact[point.series] = _is_exact(point.metric)
    return tuple(
        Series(
            name=name,
            labels=tuple(revisions),
            values=np.array([float(np.median(values)) for values in revisions.values()]),
            exact=exact[name],
        )
        for name, revisions in found.items()
    )


def history_document(series: Iterable[Series]) -> Document:
    """The document `farm.history/1`; indices count rows from 0, blanks included."""
    return {"schema": "farm.history/1", "series": [_entry(one) for one in series]}


def _entry(series: Series) -> Document:
    changes = find_changes(series.values, exact=series.exact)
    return {
        "name": series.name,
        "points": len(series.values),
        "missing": changes.missing,
        "steps": [
            {
                "index": step.index,
                "label": series.labels[step.index],
                "before": step.before,
                "after": step.after,
                "effect_pct": _percent(step.effect),
                "lo_pct": _percent(step.lo),
                "hi_pct": _percent(step.hi),
                "n_before": step.n_before,
                "n_after": step.n_after,
            }
            for step in changes.steps
        ],
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
