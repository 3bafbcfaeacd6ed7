"""Does the jobs of a run one after the other, each under its lease, and keeps every result."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from farm.analysis.control import control_band
from farm.errors import FarmError, LeaseTimeout
from farm.lease import Lease, leased, renew
from farm.model import Job
from farm.planning import Plan
from farm.protocols import Limits
from farm.record import ErrorRecord, JobResult, Outcome, RunRecord
from farm.revision import detect_revision
from farm.runner import run_job
from farm.store.canaries import OUT_OF_BAND, canary_history
from farm.store.database import Store
from farm.store.writer import append_job, begin_run, extend_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How far a run has come.

    Attributes:
        job: which job is at work, from 1.
        jobs: how many there are.
        device: where.
        done: repeats of this job that are done ...
        total: ... of so many; 0 for a job without repeats.
        finished: whether this job has ended.
    """

    job: int
    jobs: int
    device: str
    done: int = 0
    total: int = 0
    finished: bool = False


Progress = Callable[[Step], None]


def begin(store: Store, plan: Plan, kind: str, command: str) -> str:
    """Write down what is going to be done; returns the run's id.

    Args:
        store: where results are kept.
        plan: what is to be done.
        kind: `run` or `gate`.
        command: the command line that repeats it.
    """
    now = datetime.now(UTC)
    record = RunRecord(
        id=f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03d}{os.urandom(2).hex()}",
        kind=kind,
        suite=plan.suite,
        started=now,
        revision=detect_revision(),
        planned=len(plan.jobs),
        skips=plan.skips,
        command=command,
    )
    begin_run(store, record)
    return record.id


def execute(
    store: Store,
    run_id: str,
    jobs: tuple[Job, ...],
    *,
    first: int = 0,
    wait_s: float = 0.0,
    progress: Progress = lambda step: None,
) -> tuple[JobResult, ...]:
    """Do jobs in order; each result is in the store before the next job begins.

    Args:
        store: where results are kept.
        run_id: the run that they belong to.
        jobs: what to do.
        first: place in the run of the first of them.
        wait_s: how long to wait for a device that somebody else uses.
        progress: called after every repeat and every job.
    """
    results = []
    extend_plan(store, run_id, first + len(jobs))
    for number, job in enumerate(jobs, 1):
        step = Step(job=number, jobs=len(jobs), device=job.device.name)
        progress(step)
        results.append(_do(store, run_id, job, first + number - 1, step, wait_s, progress))
        progress(replace(step, finished=True))
    return tuple(results)


def _do(
    store: Store,
    run_id: str,
    job: Job,
    ordinal: int,
    step: Step,
    wait_s: float,
    progress: Progress,
) -> JobResult:
    """One job under its lease, kept before the lease ends."""
    try:
        with leased(store, job.device, f"job:{run_id}.{ordinal}", wait_s=wait_s) as lease:
            result = run_job(
                job,
                limits=Limits(),
                before_repeat=_renewer(store, lease),
                repeat_done=lambda done, total: progress(replace(step, done=done, total=total)),
            )
            result = _watched(store, result)
            append_job(store, run_id, ordinal, result, lease_token=lease.token)
    except LeaseTimeout as error:
        result = _never_started(job, error)
        append_job(store, run_id, ordinal, result, lease_token=0)
    return result


def _watched(store: Store, result: JobResult) -> JobResult:
    """A result with what its canary says of the device."""
    band = control_band(np.array(canary_history(store, result.job)))
    for canary in result.canaries if band else ():
        value = canary.value("latency.p50")
        if band and value is not None and not band.holds(value):
            when = "after" if canary.position else "before"
            unfit = (
                f"{OUT_OF_BAND}: {value / 1000:.4g} us {when} the blocks, "
                f"{band.lo / 1000:.4g} to {band.hi / 1000:.4g} us expected of {band.n}"
            )
            return replace(result, unfit=unfit, notes=(*result.notes, unfit))
    return result


def _renewer(store: Store, lease: Lease) -> Callable[[], None]:
    return lambda: renew(store, lease)


def _never_started(job: Job, error: FarmError) -> JobResult:
    now = datetime.now(UTC)
    return JobResult(
        job=job, outcome=Outcome.ABORTED, started=now, finished=now, attempts=0,
        error=ErrorRecord.of(error),
    )  # fmt: skip
