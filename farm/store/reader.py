"""Reads the store as DataFrames, for people and the dashboard.

No function loads a table whole: each asks for one run, one job or a bounded selection.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import sqlalchemy as sa

from farm.errors import StoreError
from farm.model import Arm
from farm.store import schema
from farm.store.database import Store, open_store
from farm.store.rows import read_job
from farm.store.traces import trace_path


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
    with open_store(Path(store), read_only=True) as opened:
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
        .where(repeat.c.job_id == job_id, repeat.c.arm != Arm.CANARY)
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


def recordings(store: Store, job_id: int) -> pd.DataFrame:
    """What a meter saw of every repeat of a job, one row each, in the order taken.

    Columns: arm, block, position, conditions, sha256, samples, lost, and as they are kept: meter,
    window, spans, preview. Empty if the job had no meter.
    """
    repeat, recording = schema.repeat, schema.recording
    query = (
        sa.select(
            *_pick(repeat, "arm", "block", "position", "conditions"),
            *_pick(recording, "sha256", "samples", "lost", "meter", "window", "spans", "preview"),
        )
        .join(recording, recording.c.repeat_id == repeat.c.id)
        .where(repeat.c.job_id == job_id, repeat.c.arm != Arm.CANARY)
        .order_by(repeat.c.block, repeat.c.position)
    )
    return _frame(store, query)


def recorded_s(store: Store, sha256: str) -> float:
    """How many seconds lie between the first and the last sample of a recording.

    Only what the file tells of itself is read, never its samples.

    Raises:
        StoreError: the file that holds them is gone or damaged.
    """
    try:
        file = pq.read_metadata(trace_path(store.folder, sha256))
    except (OSError, ValueError) as error:
        raise StoreError(
            f"the samples of the meter cannot be read: {error}",
            hint="restore the folder 'traces' of the store from a backup",
        ) from error
    groups = [file.row_group(i).column(0).statistics for i in range(file.num_row_groups)]
    return (max(g.max for g in groups) - min(g.min for g in groups)) / 1e9 if groups else 0.0


def _pick(table: sa.FromClause, *names: str) -> list[sa.ColumnElement[Any]]:
    return [table.c[name] for name in names]


def _frame(store: Store, query: sa.Select[Any]) -> pd.DataFrame:
    with store.reading() as connection:
        return pd.read_sql(query, connection)
