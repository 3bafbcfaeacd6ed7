"""Points of series over revisions: what history is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from farm.record import Purpose
from farm.store import schema
from farm.store.database import Store

MAIN_LINE = (Purpose.NIGHTLY, Purpose.RELEASE)
MAX_POINTS = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One value of one series.

    Attributes:
        series: workload, metric, device unit, runtime, accelerator and load in one line; what is
            simulated, or counted in other units of time, is a series of its own.
        metric: the metric's name.
        revision: the commit, or the run's id where none is known.
        value: in the metric's unit.
    """

    series: str
    metric: str
    revision: str
    value: float


def read_points(
    store: Store,
    *,
    metric: str | None = None,
    device: str | None = None,
    all_purposes: bool = False,
) -> tuple[Point, ...]:
    """Values of completed runs over whole jobs, oldest first."""
    run, job, measurement = schema.run, schema.job, schema.measurement
    place = ("workload", "device", "runtime", "accelerator", "load_digest", "time_basis")
    query = (
        sa.select(
            *(job.c[name] for name in place),
            job.c.simulated,
            run.c.commit,
            run.c.id,
            measurement.c.metric,
            measurement.c.value,
        )
        .join(run, run.c.id == job.c.run_id)
        .join(measurement, measurement.c.job_id == job.c.id)
        .where(
            run.c.kind == "run",
            job.c.outcome == "COMPLETED",
            measurement.c.repeat_id.is_(None),
        )
        .order_by(job.c.id, measurement.c.id)
        .limit(MAX_POINTS)
    )
    if metric is not None:
        query = query.where(measurement.c.metric == metric)
    if device is not None:
        query = query.where(job.c.device == device)
    if not all_purposes:
        query = query.where(run.c.purpose.in_(MAIN_LINE))
    with store.reading() as connection:
        return tuple(
            Point(
                series=series_name(row),
                metric=row.metric,
                revision=row.commit or row.id,
                value=row.value,
            )
            for row in connection.execute(query)
        )


def series_name(row: Any) -> str:
    """The name of the series that a row of job, measurement and run belongs to."""
    parts = [row.workload, row.metric, row.device, row.runtime, row.accelerator]
    parts.append(row.load_digest[:8])
    parts += [row.time_basis] if row.time_basis != "wall" else []
    parts += ["simulated"] if row.simulated else []
    return "/".join(str(part) for part in parts)
