"""What gates have been asked, how often they looked, and what they saw.

A question is candidate, baseline, policy and devices by their digests. Asked again it goes on in
the same run: looks that were spent stay spent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import sqlalchemy as sa

from farm.model import Arm, Job
from farm.record import ArmSummary, JobResult, Measurement, Outcome, Repeat, TimeBasis
from farm.store import schema
from farm.store.canaries import OUT_OF_BAND
from farm.store.database import Store
from farm.store.rows import StoredJob, read_jobs, read_moment
from farm.store.traces import trace_path

UNFIT = (OUT_OF_BAND, "governor_changed", "system_changed")
"""How the notes begin that say why a result may not be judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One asking: the run that measures for it, and how many looks it has had."""

    run_id: str
    looks: int


def question_key(jobs: Iterable[Job], policy_sha256: str) -> str:
    """The digest of a question: models, inputs, load, devices and policy."""
    parts = sorted(
        [
            job.device.name,
            job.device.type,
            job.runtime,
            job.accelerator,
            job.load.digest(),
            job.workload.digest,
            *(f"{arm.arm}:{arm.artifact.sha256}" for arm in job.arms),
        ]
        for job in jobs
    )
    return hashlib.sha256(json.dumps([policy_sha256, parts]).encode()).hexdigest()


def find_question(store: Store, key: str) -> Question | None:
    """The latest asking of a question whose answer was not the lab's fault."""
    table, verdict = schema.question, schema.verdict
    query = (
        sa.select(table.c.run_id, table.c.looks)
        .outerjoin(verdict, verdict.c.run_id == table.c.run_id)
        .where(table.c.key == key, sa.func.coalesce(verdict.c.verdict, "") != "INVALID")
        .order_by(table.c.run_id.desc())
        .limit(1)
    )
    with store.reading() as connection:
        row = connection.execute(query).mappings().first()
    return Question(run_id=row["run_id"], looks=row["looks"]) if row else None


def begin_question(store: Store, run_id: str, key: str, fresh: str) -> None:
    """Write down that a run measures for a question, and why anew if it was asked before."""
    row = {"run_id": run_id, "key": key, "looks": 0, "fresh": fresh}
    with store.transaction() as connection:
        connection.execute(schema.question.insert().values(**row))


def note_look(store: Store, run_id: str, number: int) -> None:
    """Write down that a look has been spent."""
    table = schema.question
    with store.transaction() as connection:
        connection.execute(
            table.update()
            .where(table.c.run_id == run_id, table.c.looks < number)
            .values(looks=number)
        )


def recall(store: Store, run_id: str, jobs: Iterable[Job]) -> tuple[JobResult, ...]:
    """The results of a run, as far as they belong to jobs of the plan; empty for a new run."""
    found = []
    for stored in read_jobs(store, run_id):
        job = next((job for job in jobs if _is_of(stored, job)), None)
        if job is not None:
            found.append(_result(store, stored, job))
    return tuple(found)


def _is_of(stored: StoredJob, job: Job) -> bool:
    return (
        stored.device == job.device.name
        and stored.runtime == job.runtime
        and stored.accelerator_asked == job.accelerator
    )


def _result(store: Store, stored: StoredJob, job: Job) -> JobResult:
    correct = _read_correct(store, stored.trace_sha256)
    return JobResult(
        job=job,
        outcome=Outcome(stored.outcome),
        started=read_moment(stored.started),
        finished=read_moment(stored.finished),
        attempts=stored.attempts,
        accelerator=stored.accelerator,
        simulated=stored.simulated,
        time_basis=TimeBasis(stored.time_basis),
        environment=stored.environment,
        repeats=_read_repeats(store, stored.id),
        arms=tuple(
            ArmSummary(
                arm=model.arm,
                measurements=model.measurements,
                correct=correct.get(model.arm, np.empty(0, np.bool_)),
            )
            for model in stored.models
        ),
        notes=stored.notes,
        unfit=next((note for note in stored.notes if note.startswith(UNFIT)), ""),
        error=stored.error,
    )


def _read_repeats(store: Store, job_id: int) -> tuple[Repeat, ...]:
    repeat, measurement = schema.repeat, schema.measurement
    with store.reading() as connection:
        rows = connection.execute(
            sa.select(repeat)
            .where(repeat.c.job_id == job_id, repeat.c.arm != Arm.CANARY)
            .order_by(repeat.c.id)
        ).mappings()
        values = connection.execute(
            sa.select(measurement).where(measurement.c.job_id == job_id)
        ).mappings()
        by_repeat: dict[int, list[Measurement]] = {}
        for row in values:
            by_repeat.setdefault(row["repeat_id"], []).append(
                Measurement(**{key: row[key] for key in Measurement.__dataclass_fields__})
            )
        return tuple(
            Repeat(
                arm=Arm(row["arm"]),
                block=row["block"],
                position=row["position"],
                started=read_moment(row["started"]),
                conditions=tuple(row["conditions"]),
                measurements=tuple(by_repeat.get(row["id"], ())),
            )
            for row in rows
        )


def _read_correct(store: Store, digest: str) -> dict[Arm, npt.NDArray[np.bool_]]:
    """Right and wrong per item of each arm; empty where nothing was inferred."""
    if not digest:
        return {}
    table = pq.read_table(
        trace_path(store.folder, digest),
        columns=["arm", "value"],
        filters=[("trace", "=", "correct")],
    )
    arms = np.array(table["arm"].to_pylist())
    values = table["value"].to_numpy().astype(np.bool_)
    return {Arm(arm): values[arms == arm] for arm in set(arms.tolist())}
