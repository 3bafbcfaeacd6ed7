"""Reads the store: typed rows for reports, DataFrames for people and the dashboard.

No function loads a table whole: each asks for one run, one job or a bounded selection.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import sqlalchemy as sa

from farm.errors import ConfigError, Evidence, StoreError, nearest_hint
from farm.model import Arm
from farm.record import ErrorRecord, Fact, Measurement, Skip
from farm.store import schema
from farm.store.database import Store, open_store
from farm.store.traces import trace_path


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """One run as it stands in the store."""

    id: str
    kind: str
    suite: str
    started: str
    finished: str | None
    commit: str
    branch: str
    purpose: str
    planned: int
    skips: tuple[Skip, ...]
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """The model that one arm of a job ran."""

    arm: Arm
    name: str
    sha256: str
    size_bytes: int
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredJob:
    """One whole job as it stands in the store."""

    id: int
    run_id: str
    ordinal: int
    device: str
    device_type: str
    runtime: str
    accelerator_asked: str
    accelerator: str
    workload: str
    scenario: str
    time_basis: str
    simulated: bool
    outcome: str
    started: str
    finished: str
    attempts: int
    environment: tuple[Fact, ...]
    notes: tuple[str, ...]
    error: ErrorRecord | None
    trace_sha256: str
    models: tuple[StoredModel, ...]


def find_run(store: Store, name: str = "latest") -> StoredRun:
    """A run by its id, the unique beginning of one, or `latest`.

    Raises:
        ConfigError: there is none, or several begin like that.
    """
    table = schema.run
    query = sa.select(table).order_by(table.c.id.desc()).limit(2)
    if name != "latest":
        query = query.where(table.c.id.startswith(name, autoescape=True))
    with store.reading() as connection:
        found = connection.execute(query).mappings().all()
        recent = connection.execute(
            sa.select(table.c.id).order_by(table.c.id.desc()).limit(50)
        ).scalars()
        if not found:
            raise ConfigError(
                f"the store {str(store.folder)!r} has no run '{name}'",
                hint=nearest_hint(name, recent),
            )
    if len(found) > 1 and name != "latest" and found[0]["id"] != name:
        raise ConfigError(f"several runs begin with '{name}'", hint=f"for example {found[0]['id']}")
    row = found[0]
    return StoredRun(
        **{key: row[key] for key in StoredRun.__dataclass_fields__ if key != "skips"},
        skips=tuple(Skip(**skip) for skip in row["skips"]),
    )


def read_jobs(store: Store, run_id: str) -> tuple[StoredJob, ...]:
    """The jobs of a run that are in the store, in the order of its plan."""
    return _read_jobs(store, schema.job.c.run_id == run_id)


def read_job(store: Store, job_id: int) -> StoredJob:
    """One job.

    Raises:
        ConfigError: there is no such job.
    """
    found = _read_jobs(store, schema.job.c.id == job_id)
    if not found:
        raise ConfigError(
            f"the store {str(store.folder)!r} has no job {job_id}",
            hint="'farm job list' shows them",
        )
    return found[0]


def read_verdict(store: Store, run_id: str) -> str | None:
    """The gate document of a run as JSON text, None if the run was no gate or was never judged."""
    table = schema.verdict
    with store.reading() as connection:
        document: str | None = connection.execute(
            sa.select(table.c.document).where(table.c.run_id == run_id)
        ).scalar()
    return document


def runs(store: Store, *, limit: int = 200) -> pd.DataFrame:
    """The latest runs, one row each, newest first.

    Columns: run_id, kind, suite, started, finished, commit, branch, purpose, planned, completed,
    failed, simulated (jobs on simulated devices), verdict.
    """
    run, job, verdict = schema.run, schema.job, schema.verdict
    latest = sa.select(run).order_by(run.c.id.desc()).limit(limit).subquery()
    completed = sa.case((job.c.outcome == "COMPLETED", 1), else_=0)
    query = (
        sa.select(
            latest.c.id.label("run_id"),
            *_pick(
                latest,
                "kind",
                "suite",
                "started",
                "finished",
                "commit",
                "branch",
                "purpose",
                "planned",
                "command",
            ),
            sa.func.coalesce(sa.func.sum(completed), 0).label("completed"),
            (sa.func.count(job.c.id) - sa.func.coalesce(sa.func.sum(completed), 0)).label("failed"),
            sa.func.coalesce(sa.func.sum(sa.cast(job.c.simulated, sa.Integer)), 0).label(
                "simulated"
            ),
            verdict.c.verdict,
        )
        .select_from(latest)
        .outerjoin(job, job.c.run_id == latest.c.id)
        .outerjoin(verdict, verdict.c.run_id == latest.c.id)
        .group_by(*latest.c, verdict.c.verdict)
        .order_by(latest.c.id.desc())
    )
    return _frame(store, query)


def jobs(store: Store, *, run_id: str | None = None, limit: int = 500) -> pd.DataFrame:
    """The latest jobs, or those of one run, one row each.

    Columns: job_id, run_id, ordinal, device, device_type, runtime, accelerator, workload, outcome,
    simulated, started, finished, attempts.
    """
    job = schema.job
    query = (
        sa.select(
            job.c.id.label("job_id"),
            *_pick(
                job,
                "run_id",
                "ordinal",
                "device",
                "device_type",
                "runtime",
                "accelerator",
                "workload",
                "outcome",
                "simulated",
                "started",
                "finished",
                "attempts",
            ),
        )
        .order_by(job.c.id.desc() if run_id is None else job.c.ordinal)
        .limit(limit)
    )
    return _frame(store, query if run_id is None else query.where(job.c.run_id == run_id))


def results(
    store: Store,
    *,
    run_id: str | None = None,
    device: str | None = None,
    metric: str | None = None,
    limit: int = 100_000,
) -> pd.DataFrame:
    """Measurements over whole jobs, newest first, one row per job, arm and metric.

    Columns: run_id, job_id, started, suite, device, device_type, workload, runtime, accelerator,
    arm, model, model_sha256, metric, unit, value, lo, hi, n, simulated, time_basis.
    """
    run, job, model, measurement = schema.run, schema.job, schema.model, schema.measurement
    query = (
        sa.select(
            job.c.run_id,
            job.c.id.label("job_id"),
            job.c.started,
            run.c.suite,
            *_pick(job, "device", "device_type", "workload", "runtime", "accelerator"),
            measurement.c.arm,
            model.c.name.label("model"),
            model.c.sha256.label("model_sha256"),
            *_pick(measurement, "metric", "unit", "value", "lo", "hi", "n"),
            job.c.simulated,
            job.c.time_basis,
        )
        .join(run, run.c.id == job.c.run_id)
        .join(measurement, measurement.c.job_id == job.c.id)
        .join(model, sa.and_(model.c.job_id == job.c.id, model.c.arm == measurement.c.arm))
        .where(measurement.c.repeat_id.is_(None))
        .order_by(job.c.id.desc(), measurement.c.id)
        .limit(limit)
    )
    for column, wanted in (
        (job.c.run_id, run_id),
        (job.c.device, device),
        (measurement.c.metric, metric),
    ):
        query = query if wanted is None else query.where(column == wanted)
    return _frame(store, query)


def read_results(
    store: str | Path = ".farm",
    *,
    run_id: str | None = None,
    device: str | None = None,
    metric: str | None = None,
    limit: int = 100_000,
) -> pd.DataFrame:
    """Measurements of a store folder, newest first; see `results` for the columns.

    Raises:
        StoreUnavailable: there is no store, or it cannot be read.
    """
    with open_store(Path(store), create=False) as opened:
        return results(opened, run_id=run_id, device=device, metric=metric, limit=limit)


def repeats(store: Store, job_id: int) -> pd.DataFrame:
    """Statistics of every repeat of a job, one row per repeat and metric.

    Columns: arm, block, position, started, conditions, metric, unit, value, n.
    """
    repeat, measurement = schema.repeat, schema.measurement
    query = (
        sa.select(
            *_pick(repeat, "arm", "block", "position", "started", "conditions"),
            *_pick(measurement, "metric", "unit", "value", "n"),
        )
        .join(measurement, measurement.c.repeat_id == repeat.c.id)
        .where(repeat.c.job_id == job_id)
        .order_by(repeat.c.block, repeat.c.position, measurement.c.id)
    )
    return _frame(store, query)


def traces(store: Store, job_id: int, *, trace: str = "latency") -> pd.DataFrame:
    """The raw samples of one trace of a job, in the order taken.

    Columns: arm, block, position, unit, t_ns, value. Empty if the job has no such trace.

    Raises:
        StoreError: the file that holds them is gone or damaged.
    """
    digest = read_job(store, job_id).trace_sha256
    columns = ["arm", "block", "position", "unit", "t_ns", "value"]
    if not digest:
        return pd.DataFrame(columns=columns)
    try:
        table = pq.read_table(
            trace_path(store.folder, digest), columns=columns, filters=[("trace", "=", trace)]
        )
    except (OSError, ValueError) as error:
        raise StoreError(
            f"the raw samples of job {job_id} cannot be read: {error}",
            hint="restore the folder 'traces' of the store from a backup",
        ) from error
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _read_jobs(store: Store, condition: sa.ColumnElement[bool]) -> tuple[StoredJob, ...]:
    job, model, measurement = schema.job, schema.model, schema.measurement
    with store.reading() as connection:
        rows = connection.execute(
            sa.select(job).where(condition).order_by(job.c.run_id, job.c.ordinal)
        ).mappings()
        found = list(rows)
        ids = [row["id"] for row in found]
        models = connection.execute(sa.select(model).where(model.c.job_id.in_(ids))).mappings()
        measured = connection.execute(
            sa.select(measurement)
            .where(measurement.c.job_id.in_(ids), measurement.c.repeat_id.is_(None))
            .order_by(measurement.c.id)
        ).mappings()
        by_arm: dict[tuple[int, str], list[Measurement]] = {}
        for row in measured:
            by_arm.setdefault((row["job_id"], row["arm"]), []).append(
                Measurement(**{key: row[key] for key in Measurement.__dataclass_fields__})
            )
        stored: dict[int, list[StoredModel]] = {}
        for row in models:
            stored.setdefault(row["job_id"], []).append(
                StoredModel(
                    arm=Arm(row["arm"]),
                    name=row["name"],
                    sha256=row["sha256"],
                    size_bytes=row["size_bytes"],
                    measurements=tuple(by_arm.get((row["job_id"], row["arm"]), ())),
                )
            )
    return tuple(_stored_job(row, tuple(stored.get(row["id"], ()))) for row in found)


def _stored_job(row: Any, models: tuple[StoredModel, ...]) -> StoredJob:
    special = {"environment", "notes", "error", "models"}
    return StoredJob(
        **{key: row[key] for key in StoredJob.__dataclass_fields__ if key not in special},
        environment=tuple(Fact(name=k, value=v) for k, v in row["environment"].items()),
        notes=tuple(row["notes"]),
        error=_error(row["error"]),
        models=models,
    )


def _error(kept: dict[str, Any] | None) -> ErrorRecord | None:
    if kept is None:
        return None
    evidence = tuple(Evidence(**exhibit) for exhibit in kept["evidence"])
    arm = Arm(kept["arm"]) if kept["arm"] else None
    return ErrorRecord(**{**kept, "evidence": evidence, "arm": arm})


def _pick(table: sa.FromClause, *names: str) -> list[sa.ColumnElement[Any]]:
    return [table.c[name] for name in names]


def _frame(store: Store, query: sa.Select[Any]) -> pd.DataFrame:
    with store.reading() as connection:
        return pd.read_sql(query, connection)
