"""Points of series over revisions: what history is made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import sqlalchemy as sa

from farm.model import Arm
from farm.record import Fact, Purpose
from farm.store import schema
from farm.store.database import Store
from farm.store.rows import facts_of
from farm.systems import system_of

MAIN_LINE = (Purpose.NIGHTLY, Purpose.RELEASE)
MAX_POINTS = 200_000
_PLACE = [
    schema.job.c[name]
    for name in (
        "workload", "device", "runtime", "accelerator", "load_digest", "time_basis", "simulated",
    )
]  # fmt: skip
_VALUE = [schema.measurement.c[name] for name in ("job_id", "metric", "value")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One value of one series.

    Attributes:
        series: workload, metric, device unit, runtime, accelerator and load in one line; what is
            simulated, or counted in other units of time, is a series of its own.
        metric: the metric's name.
        revision: the commit, or the run's id where none is known.
        device: the unit.
        value: in the metric's unit.
        system: what the device ran.
    """

    series: str
    metric: str
    revision: str
    device: str
    value: float
    system: tuple[Fact, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPoint:
    """One value of one model file, in whatever job it was measured.

    Attributes:
        series: as in `Point`; a canary belongs to the series of the job that it watched over.
        name: the model's, for people.
        sha256: of its file.
        canary: whether it was there as the canary.
        value: the mean over the job, in the metric's unit.
        system: what the device ran.
    """

    series: str
    name: str
    sha256: str
    canary: bool
    value: float
    system: tuple[Fact, ...]


def read_points(
    store: Store,
    *,
    metric: str | None = None,
    device: str | None = None,
    all_purposes: bool = False,
) -> tuple[Point, ...]:
    """Values of completed runs over whole jobs, oldest first."""
    run, job, measurement = schema.run, schema.job, schema.measurement
    wanted = [run.c.kind == "run", job.c.outcome == "COMPLETED"]
    if device is not None:
        wanted.append(job.c.device == device)
    if not all_purposes:
        wanted.append(run.c.purpose.in_(MAIN_LINE))
    query = (
        sa.select(*_PLACE, *_VALUE, run.c.commit, run.c.id)
        .join(run, run.c.id == job.c.run_id)
        .join(measurement, measurement.c.job_id == job.c.id)
        .where(*wanted, measurement.c.repeat_id.is_(None))
        .order_by(job.c.id, measurement.c.id)
        .limit(MAX_POINTS)
    )
    if metric is not None:
        query = query.where(measurement.c.metric == metric)
    with store.reading() as connection:
        systems = _read_systems(connection, wanted)
        return tuple(
            Point(
                series=series_name(row),
                metric=row.metric,
                revision=row.commit or row.id,
                device=row.device,
                value=row.value,
                system=systems[row.job_id],
            )
            for row in connection.execute(query)
        )


def read_fixed(store: Store, devices: Iterable[str]) -> tuple[FixedPoint, ...]:
    """The latest values of every model file on some devices, of runs, gates and noise, by job."""
    job, model, repeat, measurement = (
        schema.job, schema.model, schema.repeat, schema.measurement,
    )  # fmt: skip
    wanted = [job.c.outcome == "COMPLETED", job.c.device.in_(list(devices))]
    models = (
        sa.select(*_PLACE, *_VALUE, model.c.name, model.c.sha256)
        .join(measurement, measurement.c.job_id == job.c.id)
        .join(model, sa.and_(model.c.job_id == job.c.id, model.c.arm == measurement.c.arm))
        .where(*wanted, measurement.c.repeat_id.is_(None))
        .order_by(job.c.id.desc())
        .limit(MAX_POINTS)
    )
    canaries = (
        sa.select(*_PLACE, *_VALUE, repeat.c.facts)
        .join(repeat, repeat.c.job_id == job.c.id)
        .join(measurement, measurement.c.repeat_id == repeat.c.id)
        .where(*wanted, repeat.c.arm == Arm.CANARY)
        .order_by(job.c.id.desc())
        .limit(MAX_POINTS)
    )
    values: dict[tuple[int, str, str, str, bool], list[float]] = {}
    with store.reading() as connection:
        systems = _read_systems(connection, wanted)
        for row in connection.execute(models):
            key = (row.job_id, series_name(row), row.name, row.sha256, False)
            values.setdefault(key, []).append(row.value)
        for row in connection.execute(canaries):
            key = (row.job_id, series_name(row), "the canary", row.facts.get("canary", ""), True)
            values.setdefault(key, []).append(row.value)
    return tuple(
        FixedPoint(
            series=series, name=name, sha256=sha256, canary=canary, value=fmean(found),
            system=systems[job_id],
        )
        for (job_id, series, name, sha256, canary), found in sorted(values.items())
    )  # fmt: skip


def _read_systems(
    connection: sa.Connection, wanted: Iterable[sa.ColumnElement[bool]]
) -> dict[int, tuple[Fact, ...]]:
    """The system under which each job ran."""
    run, job = schema.run, schema.job
    query = (
        sa.select(job.c.id, job.c.environment).join(run, run.c.id == job.c.run_id).where(*wanted)
    )
    return {row.id: system_of(facts_of(row.environment)) for row in connection.execute(query)}


def series_name(row: Any) -> str:
    """The name of the series that a row of job, measurement and run belongs to."""
    parts = [row.workload, row.metric, row.device, row.runtime, row.accelerator]
    parts.append(row.load_digest[:8])
    parts += [row.time_basis] if row.time_basis != "wall" else []
    parts += ["simulated"] if row.simulated else []
    return "/".join(str(part) for part in parts)
