"""What a job has brought home so far, and what of it is kept."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from farm.analysis import summary
from farm.analysis.energy_budget import budget, energy_over_repeats, range_moved
from farm.errors import Evidence, FarmError, WorkloadError
from farm.metering import MeterFacts
from farm.metrics import METRICS, Method
from farm.model import Arm, ArmModel, Job, Measure, Slot
from farm.record import (
    ArmSummary,
    ErrorRecord,
    Fact,
    JobResult,
    Measurement,
    Outcome,
    Placement,
    Repeat,
    TimeBasis,
)

MAX_PACE = 1.2
"""A repeat is disturbed if the fixed loop ran this much slower in it than in the best one."""
MAX_REDONE = 0.2
"""How many blocks are done again at most, as a share of a job's blocks; later ones are kept."""

EVIDENCE_LIMIT = 16 << 10
MAX_OPERATORS = 6
_SECRET_NAMES = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|CREDENTIAL)", re.IGNORECASE)


@dataclass(slots=True)
class Harvest:
    """What a job has brought home so far; whole blocks survive a broken session."""

    job: Job
    started: datetime
    attempts: int = 0
    simulated: bool = False
    accelerator: str = ""
    time_basis: TimeBasis = TimeBasis.WALL
    environment: tuple[Fact, ...] = ()
    meter: MeterFacts | None = None
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


def result_of(harvest: Harvest, outcome: Outcome, error: ErrorRecord | None) -> JobResult:
    """Everything as one frozen value."""
    return JobResult(
        job=harvest.job,
        outcome=outcome,
        started=harvest.started,
        finished=datetime.now(UTC),
        attempts=harvest.attempts,
        accelerator=harvest.accelerator,
        simulated=harvest.simulated,
        time_basis=harvest.time_basis,
        environment=harvest.environment,
        meter=harvest.meter,
        repeats=tuple(_marked(harvest, repeat) for repeat in harvest.repeats),
        canaries=tuple(harvest.canaries),
        unfit=harvest.unfit,
        arms=tuple(_summarise(harvest, arm) for arm in harvest.job.arms),
        notes=(
            *dict.fromkeys(map(_masked, harvest.notes)),
            *_untimed(harvest),
            *_disturbance(harvest),
            *_operators(harvest),
            *_metered(harvest),
            *filter(None, [harvest.unfit]),
        ),
        error=error,
    )


def _marked(harvest: Harvest, repeat: Repeat) -> Repeat:
    """A repeat with the conditions that only the whole job can tell."""
    told = []
    if harvest.disturbed(repeat):
        told.append("disturbed")
    first = next((r.recording.window for r in harvest.repeats if r.recording), None)
    mine = repeat.recording.window if repeat.recording else None
    if first and mine and range_moved(first, mine):
        told.append("meter_ranges")
    return replace(repeat, conditions=(*repeat.conditions, *told)) if told else repeat


def _untimed(harvest: Harvest) -> tuple[str, ...]:
    """What was asked for and does not exist where instructions are counted."""
    if harvest.time_basis is not TimeBasis.ICOUNT or Measure.LATENCY not in harvest.job.measures:
        return ()
    return ("latency: an emulator counts instructions there, and they are no measure of time",)


def _disturbance(harvest: Harvest) -> tuple[str, ...]:
    kept = sum(harvest.disturbed(repeat) for repeat in harvest.repeats)
    if not harvest.redone and not kept:
        return ()
    unit = "blocks" if harvest.job.compares else "repeats"
    return (
        f"disturbed: other work on the device; {harvest.redone} {unit} were done again, "
        f"{kept} of {len(harvest.repeats)} repeats are disturbed all the same",
    )


CONDITION_WORDS = {
    "short_window": "shorter than 10 s or 10 inferences, than 60 s without a wire, or too short "
    "for this meter: for a look, never for a gate",
    "meter_lost": "more than 0.1 % of the meter's samples are lost",
    "meter_saturated": "the meter was at full scale",
    "meter_ranges": "the meter's ranges were used otherwise than before",
    "meter_stalled": "the meter stopped sending",
    "meter_edges": "the wire did not show as many windows as there were",
    "meter_misaligned": "the device's pattern is not in the meter's samples: does it measure this "
    "device? farm meter verify",
    "meter_negative": "the meter saw no power, or it flowed back: is it the right way round?",
    "battery_term": "the battery gave or took more than 1 % of the energy",
    "battery_unknown": "the phone does not tell its charge, or in too large steps: nobody knows "
    "what its battery gave; longer windows help, or a dummy battery (battery: bypassed)",
}
"""What is wrong with a window's energy, for people, by the code of its condition."""


USB_DATA = (
    "usb_data: USB data was connected, which keeps the phone awake and draws power itself; cut it, "
    "or reach the phone over Wi-Fi"
)


def _metered(harvest: Harvest) -> tuple[str, ...]:
    """What is wrong with the energies of a job."""
    repeats = [_marked(harvest, repeat) for repeat in harvest.repeats]
    counts = Counter(code for repeat in repeats for code in repeat.conditions)
    total = len(harvest.repeats)
    notes = tuple(
        f"{code}: {counts[code]} of {total} windows: {words}"
        for code, words in CONDITION_WORDS.items()
        if counts[code]
    )
    connected = any(r.name == "usb_data" and r.value for one in repeats for r in one.readings)
    return (*notes, USB_DATA) if harvest.meter and connected else notes


def _summarise(harvest: Harvest, arm: ArmModel) -> ArmSummary:
    """One model over the whole job: n counts repeats, or items."""
    found: list[Measurement] = []
    correct = harvest.correct.get(arm.arm, np.empty(0, np.bool_))
    if len(correct):
        found.append(summary.share_correct(harvest.job.workload.metric, correct))
    found += harvest.drift.get(arm.arm, ())
    found += harvest.described.get(arm.arm, ())
    found += _placed(harvest, arm.arm)
    mine = [repeat for repeat in harvest.repeats if repeat.arm is arm.arm]
    for metric in dict.fromkeys(m.metric for repeat in mine for m in repeat.measurements):
        values = [value for repeat in mine if (value := repeat.value(metric)) is not None]
        if len(values) == len(mine):
            found.append(_over_repeats(harvest, metric, np.array(values), mine))
    if Measure.MEMORY in harvest.job.measures:
        size = float(arm.artifact.size_bytes)
        found.append(Measurement(metric="size.model_bytes", unit="bytes", value=size))
    return ArmSummary(arm=arm.arm, measurements=tuple(found), correct=correct)


def _over_repeats(
    harvest: Harvest, metric: str, values: npt.NDArray[np.float64], repeats: list[Repeat]
) -> Measurement:
    """One metric of one model over its repeats."""
    if METRICS[metric].method is Method.EXACT:
        return summary.exact_over_repeats(metric, values)
    recordings = [repeat.recording for repeat in repeats if repeat.recording]
    windows = [recording.window for recording in recordings if recording.window]
    if METRICS[metric].family != Measure.ENERGY or harvest.meter is None or not windows:
        return summary.over_repeats(metric, values)
    battery = max(recording.battery for recording in recordings)
    net = metric == "energy.net_per_inference"
    terms = budget(windows, values, harvest.meter, battery=battery, net=net)
    return energy_over_repeats(metric, values, terms)


def _placed(harvest: Harvest, arm: Arm) -> tuple[Measurement, ...]:
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


def _operators(harvest: Harvest) -> tuple[str, ...]:
    """Where the nodes of each model ran and which operators took the time, for people."""
    lines = []
    names = {arm.arm: arm.name for arm in harvest.job.arms}
    for arm, placement in harvest.placements.items():
        nodes = ", ".join(f"{place.nodes} on {place.accelerator}" for place in placement.placed)
        total_ns = sum(time_ns for _, time_ns in placement.operators) or 1.0
        slowest = placement.operators[:MAX_OPERATORS]
        times = ", ".join(f"{name} {100 * ns / total_ns:.0f} %" for name, ns in slowest)
        lines.append(f"nodes: {names[arm]} has {nodes}; time in {times}")
    return tuple(lines)


def kept(error: FarmError, harvest: Harvest) -> ErrorRecord:
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
