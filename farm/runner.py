"""Does one job on one device and brings everything home, whatever happens on the way."""

from __future__ import annotations

import math
import os
import re
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from farm.analysis import scoring, summary
from farm.errors import (
    CommandTimeout,
    DeviceError,
    Evidence,
    FarmBug,
    FarmError,
    InfraError,
    LeaseError,
    RuntimeCrashed,
    WorkloadError,
)
from farm.metrics import COLDSTART, LATENCY_QUANTILES, METRICS
from farm.model import REPEATED, Arm, ArmModel, Artifact, Job, Measure, Slot
from farm.plugins import find_runtime
from farm.protocols import Deployment, Limits, Runtime
from farm.record import (
    ArmSummary,
    ErrorRecord,
    Fact,
    JobResult,
    Measured,
    Measurement,
    Outcome,
    Placement,
    Reading,
    Repeat,
)
from farm.session import Session, open_session

RETRIES: dict[type[FarmError], int] = {InfraError: 2, DeviceError: 2, RuntimeCrashed: 1}
"""How often a job is taken up again, by family; only transient kinds are.

A crash is no transient error, but once is not proof: the kernel may have killed the wrong process.
"""

MAX_PACE = 1.2
"""A repeat is disturbed if the fixed loop ran this much slower in it than in the best one."""
MAX_REDONE = 0.2
"""How many blocks are done again at most, as a share of a job's blocks; later ones are kept."""

EVIDENCE_LIMIT = 16 << 10
_SECRET_NAMES = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|CREDENTIAL)", re.IGNORECASE)

RepeatDone = Callable[[int, int], None]
"""Called after each repeat with how many are done and how many there are."""


@dataclass(slots=True)
class _Harvest:
    """What a job has brought home so far; whole blocks survive a broken session."""

    job: Job
    started: datetime
    attempts: int = 0
    simulated: bool = False
    accelerator: str = ""
    environment: tuple[Fact, ...] = ()
    notes: tuple[str, ...] = ()
    repeats: list[Repeat] = field(default_factory=list)
    correct: dict[Arm, npt.NDArray[np.bool_]] = field(default_factory=dict)
    drift: dict[Arm, tuple[Measurement, ...]] = field(default_factory=dict)
    described: dict[Arm, tuple[Measurement, ...]] = field(default_factory=dict)
    placements: dict[Arm, Placement] = field(default_factory=dict)
    ran: set[Arm] = field(default_factory=set)
    at_work: Arm | None = None
    redone: int = 0
    canaries: list[Repeat] = field(default_factory=list)
    unfit: str = ""
    quiet_pace_ns: float | None = None

    def note_pace(self, pace_ns: float | None) -> None:
        """Remember the best pace: that is how fast the processor is when nobody disturbs it."""
        if pace_ns is not None:
            self.quiet_pace_ns = min(pace_ns, self.quiet_pace_ns or pace_ns)

    def drop_torn_block(self) -> None:
        """A block counts whole or not at all."""
        counts = Counter(repeat.block for repeat in self.repeats)
        self.repeats = [r for r in self.repeats if counts[r.block] == self.job.block_size]

    def next_slot(self) -> Slot | None:
        """The first repeat that is still to be done."""
        done = {(repeat.block, repeat.position) for repeat in self.repeats}
        return next((s for s in self.job.slots() if (s.block, s.position) not in done), None)

    def disturbed(self, repeat: Repeat) -> bool:
        """Whether the processor was slower beside a repeat than it was beside the best of them."""
        if repeat.pace_ns is None or self.quiet_pace_ns is None:
            return False
        return repeat.pace_ns > MAX_PACE * self.quiet_pace_ns

    def drop_disturbed_block(self) -> None:
        """Give one block that was measured beside other work another chance, within bounds.

        What decides is the pace of a fixed loop, never a measured value: choosing by the value
        would bias every verdict.
        """
        if self.next_slot() is not None or self.redone >= MAX_REDONE * self.job.rounds:
            return
        block = next((r.block for r in self.repeats if self.disturbed(r)), None)
        if block is not None:
            self.repeats = [r for r in self.repeats if r.block != block]
            self.redone += 1


def run_job(
    job: Job,
    *,
    limits: Limits,
    before_repeat: Callable[[], None] = lambda: None,
    repeat_done: RepeatDone = lambda done, total: None,
) -> JobResult:
    """Do a job; an error that is not the farm's own bookkeeping becomes part of the result.

    Args:
        job: what to do.
        limits: what the device must satisfy.
        before_repeat: called before each repeat; the lease is renewed there.
        repeat_done: called after each repeat.

    Raises:
        LeaseError: the device is no longer ours; nothing may be kept.
    """
    harvest = _Harvest(job=job, started=datetime.now(UTC))
    while True:
        harvest.attempts += 1
        try:
            with open_session(job.device, limits) as session:
                _measure(session, harvest, before_repeat, repeat_done)
            return _result(harvest, Outcome.COMPLETED, None)
        except LeaseError:
            raise
        except FarmError as error:
            if harvest.attempts > _retries(error):
                harvest.drop_torn_block()
                outcome = Outcome.TIMEOUT if isinstance(error, CommandTimeout) else Outcome.ERROR
                return _result(harvest, outcome, _kept(error, harvest))
            harvest.drop_torn_block()
            harvest.notes += (f"taken up again after {error.code}: {error.message}",)
        except Exception as error:
            bug = FarmBug(
                f"{type(error).__name__}: {error}",
                device=job.device.name,
                hint="this is a mistake in the farm; its trace is kept with the job",
                evidence=[Evidence(name="traceback", text=traceback.format_exc())],
            )
            return _result(harvest, Outcome.ERROR, _kept(bug, harvest))


def _retries(error: FarmError) -> int:
    if not (error.transient or isinstance(error, RuntimeCrashed)):
        return 0
    return next((times for kind, times in RETRIES.items() if isinstance(error, kind)), 0)


def _measure(
    session: Session,
    harvest: _Harvest,
    before_repeat: Callable[[], None],
    repeat_done: RepeatDone,
) -> None:
    """Everything that a job asks for, from where an earlier session left off."""
    job = harvest.job
    runtime = find_runtime(job.runtime)(session.transport)
    harvest.simulated = session.simulated
    harvest.environment = (*session.environment, *runtime.facts())
    harvest.notes += session.notes
    harvest.ran.clear()
    deployed = {arm.arm: _deploy(runtime, harvest, arm) for arm in job.arms}
    try:
        if Measure.ACCURACY in job.measures:
            for arm, deployment in deployed.items():
                if arm not in harvest.correct:
                    _infer(harvest, arm, deployment)
        if REPEATED & set(job.measures):
            total = job.rounds * job.block_size
            watch = _canary(session, harvest, runtime)
            harvest.canaries += watch(0)
            while slot := harvest.next_slot():
                before_repeat()
                harvest.repeats.append(_repeat(session, harvest, slot, deployed[slot.arm]))
                repeat_done(len(harvest.repeats), total)
                harvest.drop_disturbed_block()
            harvest.canaries += watch(1)
            harvest.unfit = harvest.unfit or _changed(session)
    finally:
        for deployment in deployed.values():
            deployment.remove()


def _deploy(runtime: Runtime, harvest: _Harvest, arm: ArmModel) -> Deployment:
    harvest.at_work = arm.arm
    job = harvest.job
    deployment = runtime.deploy(arm.artifact, job.workload, accelerator=job.accelerator)
    harvest.described[arm.arm] = deployment.prepare()
    return deployment


def _infer(harvest: _Harvest, arm: Arm, deployment: Deployment) -> None:
    harvest.at_work = arm
    workload = harvest.job.workload
    outputs = deployment.infer()
    assert workload.labels is not None
    harvest.correct[arm] = scoring.correct_top1(outputs, np.load(workload.labels.path))
    if workload.reference:
        harvest.drift[arm] = scoring.drift(outputs, _first_array(workload.reference))
    harvest.ran.add(arm)


def _first_array(artifact: Artifact) -> npt.NDArray[np.generic]:
    with np.load(artifact.path, allow_pickle=False) as arrays:
        first: npt.NDArray[np.generic] = arrays[arrays.files[0]]
        return first


def _repeat(session: Session, harvest: _Harvest, slot: Slot, deployment: Deployment) -> Repeat:
    harvest.at_work = slot.arm
    started = datetime.now(UTC)
    before = session.platform.sample()
    session.watch.readings()  # what came between two repeats belongs to none
    measured = deployment.measure(harvest.job.load, quiet_pace_ns=harvest.quiet_pace_ns)
    during = session.watch.readings()
    harvest.note_pace(measured.pace_ns)
    after = session.platform.sample()
    harvest.accelerator = measured.accelerator
    if measured.placement:
        harvest.placements[slot.arm] = measured.placement
    harvest.ran.add(slot.arm)
    return Repeat(
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


def _changed(session: Session) -> str:
    """Whether the device runs by another rule than when the session began."""
    before, after = (
        {fact.name: fact.value for fact in facts}
        for facts in (session.environment, session.platform.facts())
    )
    was, now = before.get("governor", ""), after.get("governor", "")
    return "" if was == now else f"governor_changed: from {was or 'none'} to {now or 'none'}"


def _canary(session: Session, harvest: _Harvest, runtime: Runtime) -> Callable[[int], list[Repeat]]:
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


def _result(harvest: _Harvest, outcome: Outcome, error: ErrorRecord | None) -> JobResult:
    return JobResult(
        job=harvest.job,
        outcome=outcome,
        started=harvest.started,
        finished=datetime.now(UTC),
        attempts=harvest.attempts,
        accelerator=harvest.accelerator,
        simulated=harvest.simulated,
        environment=harvest.environment,
        repeats=tuple(_marked(harvest, repeat) for repeat in harvest.repeats),
        canaries=tuple(harvest.canaries),
        unfit=harvest.unfit,
        arms=tuple(_summarise(harvest, arm) for arm in harvest.job.arms),
        notes=(
            *dict.fromkeys(map(_masked, harvest.notes)),
            *_disturbance(harvest),
            *filter(None, [harvest.unfit]),
        ),
        error=error,
    )


def _marked(harvest: _Harvest, repeat: Repeat) -> Repeat:
    """A repeat with the condition that only the whole job can tell."""
    if not harvest.disturbed(repeat):
        return repeat
    return replace(repeat, conditions=(*repeat.conditions, "disturbed"))


def _disturbance(harvest: _Harvest) -> tuple[str, ...]:
    kept = sum(harvest.disturbed(repeat) for repeat in harvest.repeats)
    if not harvest.redone and not kept:
        return ()
    unit = "blocks" if harvest.job.compares else "repeats"
    return (
        f"disturbed: other work on the device; {harvest.redone} {unit} were done again, "
        f"{kept} of {len(harvest.repeats)} repeats are disturbed all the same",
    )


def _summarise(harvest: _Harvest, arm: ArmModel) -> ArmSummary:
    """One model over the whole job: n counts repeats, or items."""
    found: list[Measurement] = []
    correct = harvest.correct.get(arm.arm, np.empty(0, np.bool_))
    if len(correct):
        found.append(summary.share_correct(harvest.job.workload.metric, correct))
    found += harvest.drift.get(arm.arm, ())
    found += harvest.described.get(arm.arm, ())
    found += _placed(harvest, arm.arm)
    mine = [repeat for repeat in harvest.repeats if repeat.arm is arm.arm]
    for metric in (*LATENCY_QUANTILES, "memory.peak_rss", *COLDSTART):
        values = [value for repeat in mine if (value := repeat.value(metric)) is not None]
        if values and len(values) == len(mine):
            found.append(summary.over_repeats(metric, np.array(values)))
    if Measure.MEMORY in harvest.job.measures:
        size = float(arm.artifact.size_bytes)
        found.append(Measurement(metric="size.model_bytes", unit="bytes", value=size))
    return ArmSummary(arm=arm.arm, measurements=tuple(found), correct=correct)


def _placed(harvest: _Harvest, arm: Arm) -> tuple[Measurement, ...]:
    """The shares of nodes and of time on the accelerator that was asked for."""
    placement = harvest.placements.get(arm)
    if placement is None:
        return ()
    asked = harvest.job.accelerator.partition("+")[0]
    shares = {
        "placement.nodes": placement.share_of_nodes(asked),
        "placement.time": placement.share_of_time(asked),
    }
    return tuple(Measurement(metric=m, unit="ratio", value=v) for m, v in shares.items())


def _kept(error: FarmError, harvest: _Harvest) -> ErrorRecord:
    """An error as it goes into the store: bounded, and without secrets."""
    at_fault = harvest.at_work if isinstance(error, WorkloadError) else None
    record = ErrorRecord.of(error, arm=at_fault, other_arm_ran=bool(harvest.ran - {at_fault}))
    evidence = tuple(
        Evidence(name=exhibit.name, text=_masked(exhibit.text)[-EVIDENCE_LIMIT:])
        for exhibit in error.evidence
    )
    return replace(
        record,
        message=_masked(record.message),
        hint=_masked(record.hint),
        evidence=evidence,
    )


def _masked(text: str) -> str:
    """A text without the values of environment variables whose names speak of secrets."""
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRET_NAMES.search(name):
            text = text.replace(value, f"<{name}>")
    return text
