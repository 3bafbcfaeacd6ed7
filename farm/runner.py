"""Does one job on one device and brings everything home, whatever happens on the way."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from farm.analysis import scoring, summary
from farm.energy import Metering, figures, meter_facts, metering
from farm.errors import (
    CommandTimeout,
    DeviceError,
    Evidence,
    FarmBug,
    FarmError,
    InfraError,
    LeaseError,
    RuntimeCrashed,
)
from farm.harvest import Harvest, kept, result_of
from farm.metrics import METRICS, Method
from farm.model import REPEATED, Arm, ArmModel, Artifact, Job, Measure, Slot
from farm.plugins import find_power, find_runtime
from farm.protocols import Deployment, Limits, Power, Runtime
from farm.record import Fact, JobResult, Measured, Measurement, Outcome, Reading, Repeat
from farm.recorder import Seen
from farm.session import Session, open_session
from farm.systems import system_changes

RETRIES: dict[type[FarmError], int] = {InfraError: 2, DeviceError: 2, RuntimeCrashed: 1}
"""How often a job is taken up again, by family; only transient kinds are.

A crash is no transient error, but once is not proof: the kernel may have killed the wrong process.
"""

CPU = "cpu"
"""The accelerator that nothing falls back from."""

RepeatDone = Callable[[int, int], None]
"""Called after each repeat with how many are done and how many there are."""


def run_job(
    job: Job,
    *,
    limits: Limits,
    folder: Path,
    before_repeat: Callable[[], None] = lambda: None,
    repeat_done: RepeatDone = lambda done, total: None,
    seen: Seen = lambda elapsed_s, power_w: None,
) -> JobResult:
    """Do a job; an error that is not the farm's own bookkeeping becomes part of the result.

    Args:
        job: what to do.
        limits: what the device must satisfy.
        folder: where meters' samples may lie until the result is kept, on the disk of the store.
        before_repeat: called before each repeat; the lease is renewed there.
        repeat_done: called after each repeat.
        seen: hears what a meter sees meanwhile.

    Raises:
        LeaseError: the device is no longer ours; nothing may be kept.
    """
    harvest = Harvest(job=job, started=datetime.now(UTC))
    while True:
        harvest.attempts += 1
        try:
            with (
                open_session(job.device, limits) as session,
                metering(job, session.connection, folder, seen) as meter,
            ):
                _measure(session, meter, harvest, before_repeat, repeat_done)
            return result_of(harvest, Outcome.COMPLETED, None)
        except LeaseError:
            raise
        except FarmError as error:
            if harvest.attempts > _retries(error):
                harvest.drop_torn_block()
                outcome = Outcome.TIMEOUT if isinstance(error, CommandTimeout) else Outcome.ERROR
                return result_of(harvest, outcome, kept(error, harvest))
            harvest.drop_torn_block()
            harvest.notes += (f"taken up again after {error.code}: {error.message}",)
        except Exception as error:
            bug = FarmBug(
                f"{type(error).__name__}: {error}",
                device=job.device.name,
                hint="this is a mistake in the farm; its trace is kept with the job",
                evidence=[Evidence(name="traceback", text=traceback.format_exc())],
            )
            return result_of(harvest, Outcome.ERROR, kept(bug, harvest))


def _retries(error: FarmError) -> int:
    if not (error.transient or isinstance(error, RuntimeCrashed)):
        return 0
    return next((times for kind, times in RETRIES.items() if isinstance(error, kind)), 0)


def _measure(
    session: Session,
    meter: Metering | None,
    harvest: Harvest,
    before_repeat: Callable[[], None],
    repeat_done: RepeatDone,
) -> None:
    """Everything that a job asks for, from where an earlier session left off."""
    job = harvest.job
    runtime = find_runtime(job.runtime)(session.connection)
    _begin(session, meter, runtime, harvest)
    deployed = {arm.arm: _deploy(runtime, harvest, arm) for arm in job.arms}
    try:
        if Measure.ACCURACY in job.measures:
            for arm, deployment in deployed.items():
                if arm not in harvest.drift:
                    _infer(harvest, arm, deployment)
        if Measure.UPDATE in job.measures:
            for arm, deployment in deployed.items():
                harvest.at_work = arm
                harvest.described[arm] += deployment.try_updates(_power(session))
                harvest.ran.add(arm)
        if REPEATED & set(job.measures):
            total = job.rounds * job.block_size
            watch = _canary(session, harvest, runtime)
            harvest.canaries += watch(0)
            while slot := harvest.next_slot():
                before_repeat()
                harvest.repeats.append(_repeat(session, meter, harvest, slot, deployed[slot.arm]))
                repeat_done(len(harvest.repeats), total)
                harvest.drop_disturbed_block()
            harvest.canaries += watch(1)
            harvest.unfit = harvest.unfit or _changed(session)
        for deployment in deployed.values():
            harvest.notes += deployment.notes()
    finally:
        for deployment in deployed.values():
            deployment.remove()


def _begin(session: Session, meter: Metering | None, runtime: Runtime, harvest: Harvest) -> None:
    """Note the circumstances of a session, and whether they are those of the one before."""
    environment = (*session.environment, *runtime.facts())
    if meter:
        harvest.meter = meter.facts
        environment += meter_facts(meter.facts)
    if changes := system_changes(harvest.environment, environment):  # since an earlier session
        harvest.unfit = harvest.unfit or f"system_changed: {', '.join(changes)}"
    harvest.environment = environment
    harvest.simulated = session.simulated or bool(meter and meter.facts.simulated)
    harvest.notes += session.notes
    harvest.ran.clear()


def _deploy(runtime: Runtime, harvest: Harvest, arm: ArmModel) -> Deployment:
    harvest.at_work = arm.arm
    job = harvest.job
    deployment = runtime.deploy(arm.artifact, job.workload, accelerator=job.accelerator)
    harvest.described[arm.arm] = deployment.prepare()
    if harvest.described[arm.arm]:  # whoever has numbers of a model has run it
        harvest.ran.add(arm.arm)
    if job.accelerator != CPU or Measure.PLACEMENT in job.measures:
        placement = deployment.placement(job.load)
        if placement:
            harvest.placements[arm.arm] = placement
            harvest.ran.add(arm.arm)
    return deployment


def _infer(harvest: Harvest, arm: Arm, deployment: Deployment) -> None:
    harvest.at_work = arm
    workload = harvest.job.workload
    outputs = deployment.infer()
    found: list[Measurement] = []
    if workload.labels:
        labels = np.load(workload.labels.path)
        if METRICS[workload.metric].method is Method.PAIRED_ITEMS:
            harvest.correct[arm] = scoring.correct_top1(outputs, labels)
        else:
            found.append(scoring.auc(outputs, labels))
    if workload.reference:
        found += scoring.drift(outputs, _first_array(workload.reference))
    if workload.golden:
        found.append(scoring.bit_exact(outputs, _first_array(workload.golden)))
    harvest.drift[arm] = tuple(found)
    harvest.ran.add(arm)


def _first_array(artifact: Artifact) -> npt.NDArray[np.generic]:
    with np.load(artifact.path, allow_pickle=False) as arrays:
        first: npt.NDArray[np.generic] = arrays[arrays.files[0]]
        return first


def _power(session: Session) -> Power | None:
    """The port that feeds the device: the inventory's, or a virtual device's own."""
    device = session.connection.device
    name = device.option("power")
    return find_power(name)(device) if name else None


def _repeat(
    session: Session,
    meter: Metering | None,
    harvest: Harvest,
    slot: Slot,
    deployment: Deployment,
) -> Repeat:
    harvest.at_work = slot.arm
    started, load, quiet = datetime.now(UTC), harvest.job.load, harvest.quiet_pace_ns
    before = session.platform.sample()
    session.watch.readings()  # what came between two repeats belongs to none
    recording = window = None
    if meter:
        measured, recording, window = meter.measure(deployment, load, quiet_pace_ns=quiet)
    else:
        measured = deployment.measure(load, quiet_pace_ns=quiet)
    during = session.watch.readings()
    harvest.note_pace(measured.pace_ns)
    after = session.platform.sample()
    harvest.accelerator = measured.accelerator
    harvest.time_basis = measured.time_basis
    harvest.ran.add(slot.arm)
    repeat = Repeat(
        arm=slot.arm,
        block=slot.block,
        position=slot.position,
        started=started,
        conditions=_conditions(before, during + after, session.limits),
        measurements=_statistics(measured, harvest.job),
        traces=measured.traces,
        readings=before + during + after,
        facts=measured.facts,
        pace_ns=measured.pace_ns,
    )
    if not (meter and recording and window):
        return repeat
    correct = harvest.correct.get(slot.arm)
    found = figures(
        window, recording, meter.facts, harvest.job.device, before=before, after=after,
        share_correct=None if correct is None else float(correct.mean()),
    )  # fmt: skip
    return replace(
        repeat,
        conditions=(*repeat.conditions, *found.conditions),
        measurements=(*repeat.measurements, *found.measurements),
        recording=replace(recording, window=found.window, battery=found.battery),
    )


def _changed(session: Session) -> str:
    """Whether the device runs by another rule than when the session began."""
    before, after = (
        {fact.name: fact.value for fact in facts}
        for facts in (session.environment, session.platform.facts())
    )
    was, now = before.get("governor", ""), after.get("governor", "")
    return "" if was == now else f"governor_changed: from {was or 'none'} to {now or 'none'}"


def _canary(session: Session, harvest: Harvest, runtime: Runtime) -> Callable[[int], list[Repeat]]:
    """What measures the canary, before (0) and after (1) the blocks; nothing without a canary."""
    canary, job = harvest.job.canary, harvest.job
    if canary is None:
        return lambda position: []
    deployment = runtime.deploy(canary.artifact, canary.workload, accelerator=job.accelerator)
    watched = replace(job, measures=(Measure.LATENCY,))

    def watch(position: int) -> list[Repeat]:
        harvest.at_work = None  # a canary that breaks is no model's fault
        started = datetime.now(UTC)
        measured = deployment.measure(job.load, quiet_pace_ns=harvest.quiet_pace_ns)
        harvest.note_pace(measured.pace_ns)
        statistics = _statistics(measured, watched)
        fact = Fact(name="canary", value=canary.artifact.sha256)
        slot = Slot(block=job.first_block, position=position, arm=Arm.CANARY)
        return [
            Repeat(arm=slot.arm, block=slot.block, position=position, started=started,
                   measurements=statistics, facts=(fact,))
        ]  # fmt: skip

    return watch


def _conditions(
    before: tuple[Reading, ...], later: tuple[Reading, ...], limits: Limits
) -> tuple[str, ...]:
    """What was wrong with a repeat. What the device does not tell is unknown, not wrong."""
    found = []
    if any(reading.name == "throttled" and reading.value for reading in later):
        found.append("throttled")
    start_c = max((r.value for r in before if r.name == "temperature"), default=-math.inf)
    if start_c > limits.max_temperature_c:
        found.append("off_temperature")
    return tuple(found)


def _statistics(measured: Measured, job: Job) -> tuple[Measurement, ...]:
    """The statistics of one repeat that the job asked for."""
    wanted = {str(measure) for measure in job.measures}
    found = list(measured.scalars)
    for trace in measured.traces:
        if trace.name == "latency":
            found += summary.latency_statistics(trace.values)
    return tuple(m for m in found if METRICS[m.metric].family in wanted)
