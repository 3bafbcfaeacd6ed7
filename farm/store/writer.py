"""Writes runs, whole jobs and verdicts; each call is one transaction."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import sqlalchemy as sa

from farm.errors import LeaseLost
from farm.metering import MeterFacts, Recording
from farm.record import JobResult, Measurement, Repeat, RunRecord, Verdict
from farm.store import schema
from farm.store.database import Store
from farm.store.traces import keep_file, write_traces


def begin_run(store: Store, record: RunRecord) -> None:
    """Write what is to be done before the first job: an interrupted run shows what is missing.

    Raises:
        StoreUnavailable: it cannot be written.
    """
    with store.transaction() as connection:
        connection.execute(
            schema.run.insert().values(
                id=record.id,
                kind=record.kind,
                suite=record.suite,
                started=iso(record.started),
                commit=record.revision.commit,
                parent=record.revision.parent,
                branch=record.revision.branch,
                purpose=record.revision.purpose,
                planned=record.planned,
                skips=[asdict(skip) for skip in record.skips],
                command=record.command,
                farm_version=version("verdict-farm"),
            )
        )


def extend_plan(store: Store, run_id: str, planned: int) -> None:
    """Write down that a run has come to so many jobs; a gate plans more when it looks again."""
    table = schema.run
    with store.transaction() as connection:
        connection.execute(
            table.update()
            .where(table.c.id == run_id, table.c.planned < planned)
            .values(planned=planned)
        )


def append_job(
    store: Store, run_id: str, ordinal: int, result: JobResult, *, lease_token: int
) -> int:
    """Keep a whole job: raw samples first, then its rows in one transaction. Returns its id.

    Args:
        store: where.
        run_id: the run that it belongs to.
        ordinal: its place in the plan.
        result: what it brought home.
        lease_token: token of the lease under which it ran, or 0 if it never had one.

    Raises:
        LeaseLost: the device has been leased to somebody else since; nothing is written.
        StoreUnavailable: it cannot be written.
    """
    digest = write_traces(store.folder, result)
    for repeat in result.repeats:
        if repeat.recording:
            keep_file(store.folder, repeat.recording.path, repeat.recording.sha256)
    with store.transaction() as connection:
        _check_token(connection, result.job.device.name, lease_token)
        job_id = _insert(
            connection, schema.job, _job_row(run_id, ordinal, result, digest, lease_token)
        )
        connection.execute(
            schema.model.insert(),
            [
                {
                    "job_id": job_id,
                    "arm": arm.arm,
                    "name": arm.name,
                    "sha256": arm.artifact.sha256,
                    "size_bytes": arm.artifact.size_bytes,
                }
                for arm in result.job.arms
            ],
        )
        rows = [
            _measurement_row(job_id, None, summary.arm, measurement)
            for summary in result.arms
            for measurement in summary.measurements
        ]
        for repeat in (*result.canaries, *result.repeats):
            repeat_id = _insert(connection, schema.repeat, _repeat_row(job_id, repeat))
            rows += [
                _measurement_row(job_id, repeat_id, repeat.arm, measurement)
                for measurement in repeat.measurements
            ]
            if repeat.recording and result.meter:
                row = _recording_row(repeat_id, repeat.recording, result.meter)
                connection.execute(schema.recording.insert().values(**row))
        if rows:
            connection.execute(schema.measurement.insert(), rows)
    return job_id


def finish_run(store: Store, run_id: str) -> None:
    """Mark a run as ended."""
    with store.transaction() as connection:
        connection.execute(
            schema.run.update()
            .where(schema.run.c.id == run_id)
            .values(finished=iso(datetime.now(UTC)))
        )


def save_verdict(
    store: Store, run_id: str, verdict: Verdict, *, policy_sha256: str, policy: str, document: str
) -> None:
    """Keep a gate's verdict with the policy that it was judged by.

    Args:
        store: where.
        run_id: the gate's run.
        verdict: the answer.
        policy_sha256: digest of the policy file.
        policy: its text.
        document: the gate document as JSON text.
    """
    with store.transaction() as connection:
        connection.execute(schema.verdict.delete().where(schema.verdict.c.run_id == run_id))
        connection.execute(
            schema.verdict.insert().values(
                run_id=run_id,
                verdict=verdict,
                policy_sha256=policy_sha256,
                policy=policy,
                document=document,
                judged=iso(datetime.now(UTC)),
            )
        )


def iso(moment: datetime) -> str:
    """A moment as the store keeps it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _check_token(connection: sa.Connection, device: str, token: int) -> None:
    if token == 0:
        return
    lease = schema.lease
    found = connection.execute(sa.select(lease.c.token).where(lease.c.device == device)).scalar()
    if found != token:
        raise LeaseLost(
            f"the lease {token} was taken over by {found}", device=device, hint="run the job again"
        )


def _insert(connection: sa.Connection, table: sa.Table, row: dict[str, object]) -> int:
    key = connection.execute(table.insert().values(**row)).inserted_primary_key
    return int(key[0]) if key else 0


def _job_row(
    run_id: str, ordinal: int, result: JobResult, digest: str, lease_token: int
) -> dict[str, object]:
    job = result.job
    return {
        "run_id": run_id,
        "ordinal": ordinal,
        "device": job.device.name,
        "device_type": job.device.type,
        "runtime": job.runtime,
        "accelerator_asked": job.accelerator,
        "accelerator": result.accelerator,
        "workload": job.workload.name,
        "workload_digest": job.workload.digest,
        "scenario": job.load.scenario,
        "load": asdict(job.load),
        "load_digest": job.load.digest(),
        "time_basis": result.time_basis,
        "simulated": result.simulated,
        "outcome": result.outcome,
        "started": iso(result.started),
        "finished": iso(result.finished),
        "attempts": result.attempts,
        "lease_token": lease_token,
        "environment": {fact.name: fact.value for fact in result.environment},
        "notes": list(result.notes),
        "error": asdict(result.error) if result.error else None,
        "trace_sha256": digest,
    }


def _repeat_row(job_id: int, repeat: Repeat) -> dict[str, object]:
    return {
        "job_id": job_id,
        "arm": repeat.arm,
        "block": repeat.block,
        "position": repeat.position,
        "started": iso(repeat.started),
        "conditions": list(repeat.conditions),
        "readings": [asdict(reading) for reading in repeat.readings],
        "facts": {fact.name: fact.value for fact in repeat.facts},
    }


def _measurement_row(
    job_id: int, repeat_id: int | None, arm: str, measurement: Measurement
) -> dict[str, object]:
    return {
        "job_id": job_id,
        "repeat_id": repeat_id,
        "arm": arm,
        "metric": measurement.metric,
        "unit": measurement.unit,
        "value": measurement.value,
        "lo": measurement.lo,
        "hi": measurement.hi,
        "n": measurement.n,
        "budget": [asdict(term) for term in measurement.budget] or None,
    }


def _without_nan(entries: dict[str, Any]) -> dict[str, Any]:
    """What nobody knows is null, for JSON has no NaN."""
    return {key: None if value != value else value for key, value in entries.items()}


def _recording_row(repeat_id: int, recording: Recording, meter: MeterFacts) -> dict[str, object]:
    spans = recording.spans
    return {
        "repeat_id": repeat_id,
        "sha256": recording.sha256,
        "samples": recording.samples,
        "lost": recording.lost,
        "meter": asdict(meter),
        "window": _without_nan(asdict(recording.window)) if recording.window else {},
        "spans": [[span.kind, span.start_ns, span.end_ns, span.inferences] for span in spans],
        "preview": [[round(float(watts), 9) for watts in part] for part in recording.preview],
    }
