"""Does the jobs of a run, each under its lease, and keeps every result.

Jobs whose devices share a host run one after the other, for they would disturb each other; devices
that are machines of their own run side by side.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

import numpy as np

from farm.analysis.control import control_band
from farm.charging import note_job, refuse_quarantined
from farm.energy import meter_name
from farm.errors import FarmError, LeaseTimeout, PreflightFailed
from farm.lease import Lease, leased, renew
from farm.metering import METER_MISMATCH
from farm.model import Job
from farm.planning import Plan
from farm.protocols import Limits
from farm.record import ErrorRecord, JobResult, Outcome, RunRecord
from farm.revision import detect_revision
from farm.runner import run_job
from farm.store.canaries import OUT_OF_BAND, canary_history
from farm.store.database import Store
from farm.store.meters import complaints_of
from farm.store.rows import last_system
from farm.store.samples import spool
from farm.store.writer import append_job, begin_run, extend_plan
from farm.systems import system_changes

MAX_HOSTS = 64
"""Machines that one controller works with at the same time; each costs it a few threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How far a run has come.

    Attributes:
        job: which job is at work, from 1.
        jobs: how many there are.
        device: where.
        done: repeats of this job that are done ...
        total: ... of so many; 0 for a job without repeats.
        meanwhile: what a meter sees, for people.
        finished: whether this job has ended.
    """

    job: int
    jobs: int
    device: str
    done: int = 0
    total: int = 0
    meanwhile: str = ""
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
    """Do jobs; each result is in the store before the next job on its host begins.

    When one host's jobs end in an error of the farm's own, or in an interrupt, the others stop
    after the repeat that they are at.

    Args:
        store: where results are kept.
        run_id: the run that they belong to.
        jobs: what to do.
        first: place in the run of the first of them.
        wait_s: how long to wait for a device that somebody else uses.
        progress: called after every repeat and every job, by one thread at a time.

    Returns:
        The results in the order of the jobs.
    """
    extend_plan(store, run_id, first + len(jobs))
    one_at_a_time, stop = threading.Lock(), threading.Event()

    def tell(step: Step) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        with one_at_a_time:
            progress(step)

    def do(number: int, job: Job) -> JobResult:
        step = Step(job=number, jobs=len(jobs), device=job.device.name)
        tell(step)
        result = _do(store, run_id, job, first + number - 1, step, wait_s, tell)
        tell(replace(step, finished=True))
        return result

    hosts: dict[str, list[tuple[int, Job]]] = defaultdict(list)
    for number, job in enumerate(jobs, 1):
        hosts[job.device.host].append((number, job))
    results: dict[int, JobResult] = {}

    def work(queue: list[tuple[int, Job]]) -> None:
        for number, job in queue:
            results[number] = do(number, job)

    _side_by_side([partial(work, queue) for queue in hosts.values()], stop)
    return tuple(results[number] for number in sorted(results))


def _side_by_side(works: list[Callable[[], None]], stop: threading.Event) -> None:
    """Do works at the same time; the first error stops the others and is raised."""
    if len(works) == 1:  # in this thread an interrupt ends it at once
        works[0]()
        return
    with ThreadPoolExecutor(MAX_HOSTS, thread_name_prefix="host") as pool:
        futures = [pool.submit(work) for work in works]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stop.set()
            raise


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
    latest = step

    def repeat_done(done: int, total: int) -> None:
        nonlocal latest
        latest = replace(step, done=done, total=total)
        progress(latest)

    def seen(elapsed_s: float, power_w: float) -> None:
        progress(replace(latest, meanwhile=f"{elapsed_s:.0f} s, {power_w:.3g} W"))

    try:
        with leased(store, job.device, f"job:{run_id}.{ordinal}", wait_s=wait_s) as lease:
            refuse_quarantined(store, job.device)
            with spool(store.folder) as folder:
                result = run_job(
                    job,
                    limits=Limits(),
                    folder=folder,
                    before_repeat=_renewer(store, lease),
                    repeat_done=repeat_done,
                    seen=seen,
                )
                result = _bounded(store, _verified(store, _watched(store, result)))
                append_job(store, run_id, ordinal, result, lease_token=lease.token)
            note_job(store, result)
    except (LeaseTimeout, PreflightFailed) as error:
        result = _never_started(job, error)
        append_job(store, run_id, ordinal, result, lease_token=0)
    return result


def _watched(store: Store, result: JobResult) -> JobResult:
    """A result with what its canary says of the device."""
    band = control_band(np.array(canary_history(store, result.job, result.environment)))
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


def _verified(store: Store, result: JobResult) -> JobResult:
    """A result whose energies are marked if its meter was found to see something else."""
    if result.meter is None:
        return result
    name = result.job.device.name
    complaints = complaints_of(store, name, meter_name(result.meter))
    if not complaints:
        return result
    note = f"{METER_MISMATCH}: {complaints[0]}; farm meter verify {name}"
    repeats = tuple(
        replace(repeat, conditions=(*repeat.conditions, METER_MISMATCH))
        for repeat in result.repeats
    )
    return replace(result, repeats=repeats, notes=(*result.notes, note))


def _bounded(store: Store, result: JobResult) -> JobResult:
    """A result that says when the device has another system than the job there before it."""
    job = result.job
    run_id, system = last_system(store, job.device.name, job.runtime, job.accelerator)
    changes = system_changes(system, result.environment)
    if not changes:
        return result
    note = (
        f"boundary: {', '.join(changes)} since run {run_id}; before a level that moves is blamed "
        "on a model, measure the promoted model again: farm run SUITE --model OLD --device "
        f"{job.device.name}"
    )
    return replace(result, notes=(*result.notes, note))


def _renewer(store: Store, lease: Lease) -> Callable[[], None]:
    return lambda: renew(store, lease)


def _never_started(job: Job, error: FarmError) -> JobResult:
    now = datetime.now(UTC)
    return JobResult(
        job=job, outcome=Outcome.ABORTED, started=now, finished=now, attempts=0,
        error=ErrorRecord.of(error),
    )  # fmt: skip
