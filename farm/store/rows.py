"""Reads the store as typed rows: runs, jobs and verdicts, for reports and decisions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from farm.errors import ConfigError, Evidence, nearest_hint
from farm.metering import Term
from farm.model import Arm
from farm.record import ErrorRecord, Fact, Measurement, Skip
from farm.store import schema
from farm.store.database import Store
from farm.systems import system_of


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
                hint=nearest_hint(name, recent, otherwise="'farm job list' shows what there is"),
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


def read_holders(store: Store) -> dict[str, str]:
    """Who holds which device, as far as anybody does."""
    table = schema.lease
    query = sa.select(table.c.device, table.c.holder).where(table.c.holder.is_not(None))
    with store.reading() as connection:
        return {row.device: row.holder for row in connection.execute(query)}


def last_jobs(store: Store, devices: list[str]) -> dict[str, dict[str, str]]:
    """Number, outcome and end of the latest job of each device that has one."""
    table = schema.job
    newest = (
        sa.select(sa.func.max(table.c.id))
        .where(table.c.device.in_(devices))
        .group_by(table.c.device)
    )
    query = sa.select(table.c.device, table.c.id, table.c.outcome, table.c.finished).where(
        table.c.id.in_(newest)
    )
    with store.reading() as connection:
        return {
            row.device: {"job": str(row.id), "outcome": row.outcome, "finished": row.finished}
            for row in connection.execute(query)
        }


def last_system(
    store: Store, device: str, runtime: str, accelerator: str
) -> tuple[str, tuple[Fact, ...]]:
    """The latest run that completed a job there, and the system that it found; empty if none."""
    table = schema.job
    query = (
        sa.select(table.c.run_id, table.c.environment)
        .where(
            table.c.device == device,
            table.c.runtime == runtime,
            table.c.accelerator_asked == accelerator,
            table.c.outcome == "COMPLETED",
        )
        .order_by(table.c.id.desc())
        .limit(1)
    )
    with store.reading() as connection:
        row = connection.execute(query).first()
    return (row.run_id, system_of(facts_of(row.environment))) if row else ("", ())


def facts_of(kept: dict[str, str]) -> tuple[Fact, ...]:
    """Facts as they were kept."""
    return tuple(Fact(name=name, value=value) for name, value in kept.items())


def read_moment(text: str) -> datetime:
    """A moment as it was kept."""
    return datetime.fromisoformat(text)


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
            told = {key: row[key] for key in Measurement.__dataclass_fields__}
            terms = tuple(Term(**term) for term in told.pop("budget") or ())
            by_arm.setdefault((row["job_id"], row["arm"]), []).append(
                Measurement(**told, budget=terms)
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
        environment=facts_of(row["environment"]),
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
