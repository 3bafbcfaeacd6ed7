"""What was seen: raw traces, measurements, outcomes and verdicts as frozen data.

Raw samples come first; every statistic is derived from them and can be derived again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from farm.errors import Evidence, FarmError
from farm.metering import ClockDomain, MeterFacts, Recording, Span, Term
from farm.model import Arm, Job

Samples = npt.NDArray[np.int64] | npt.NDArray[np.float64]


class Outcome(StrEnum):
    """Did it run?"""

    COMPLETED = "COMPLETED"
    ERROR = "ERROR"
    TIMEOUT = "TIMEOUT"
    ABORTED = "ABORTED"
    SKIPPED = "SKIPPED"


class Verdict(StrEnum):
    """Is it good?"""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    """More measurements are needed."""
    INVALID = "INVALID"
    """Device, meter or environment at fault: nothing is said about the model."""


class TimeBasis(StrEnum):
    """What a duration counts."""

    WALL = "wall"
    CYCLES = "cycles"
    ICOUNT = "icount"


class Purpose(StrEnum):
    """Why a run was made; history uses the main line (nightly, release) only."""

    PULL_REQUEST = "pull-request"
    NIGHTLY = "nightly"
    RELEASE = "release"
    AD_HOC = "ad-hoc"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One recorded circumstance that may explain a change: OS build, governor, runtime version."""

    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One value that a platform sampled.

    Attributes:
        t_ns: the device's monotonic clock.
        name: what was read, `temperature` for example.
        unit: its unit, `degC` for example.
        value: the value.
    """

    t_ns: int
    name: str
    unit: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a preflight found.

    Attributes:
        code: `hot`, `low_space`, `busy`, ...
        message: one line for people.
        blocking: whether measuring now would be wrong.
        passing: whether waiting can cure it.
    """

    code: str
    message: str
    blocking: bool
    passing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Raw samples.

    Attributes:
        name: `latency`, `correct`, ...
        unit: unit of the values.
        values: the samples in the order taken, shape [n].
        t_ns: the device's monotonic clock at each sample, shape [n]; empty where order is all.
    """

    name: str
    unit: str
    values: Samples
    t_ns: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A named statistic.

    Attributes:
        metric: a declared metric.
        unit: unit of `value`, `lo` and `hi`.
        value: the estimate.
        lo: lower end of the 95 % interval, None where none can be given.
        hi: upper end of it.
        n: how many independent observations stand behind it: repeats, or items for accuracy.
        budget: what its uncertainty consists of, where the interval is made from such terms; the
            interval is absolute then, whatever meter or unit one compares with.
    """

    metric: str
    unit: str
    value: float
    lo: float | None = None
    hi: float | None = None
    n: int = 1
    budget: tuple[Term, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """What one execution provider ran of a model, seen in a profile.

    Attributes:
        accelerator: `cpu`, `xnnpack`, ...
        nodes: nodes of the optimised graph; what a provider fuses counts as one.
        time_ns: time inside them, over one inference.
    """

    accelerator: str
    nodes: int
    time_ns: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a model's nodes ran, most nodes first, and which operators took the time."""

    placed: tuple[Placed, ...]
    operators: tuple[tuple[str, float], ...] = ()
    """Operator types and their time in ns over one inference, slowest first."""

    def share_of_nodes(self, accelerator: str) -> float:
        """The share of nodes on an accelerator, 0 to 1."""
        total = sum(place.nodes for place in self.placed)
        return sum(p.nodes for p in self.placed if p.accelerator == accelerator) / total

    def share_of_time(self, accelerator: str) -> float:
        """The share of the nodes' time on an accelerator, 0 to 1."""
        total = sum(place.time_ns for place in self.placed)
        return sum(p.time_ns for p in self.placed if p.accelerator == accelerator) / total


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """What a deployment reports of one window.

    Attributes:
        traces: raw samples; `latency` in ns.
        scalars: values that need no samples, such as `memory.peak_rss`.
        accelerator: where the model really ran.
        pace_ns: time of one turn of a fixed loop in the middle of the window, or before it beside
            a meter, which tells whether others shared the processor; None if nobody tells.
        facts: circumstances of this window, such as whether the warm-up settled.
        time_basis: what the device counts.
        spans: what the device did beside a meter, in order; none if it was not asked to.
        span_clock: whose clock times them.
    """

    traces: tuple[Trace, ...]
    scalars: tuple[Measurement, ...]
    accelerator: str
    pace_ns: float | None = None
    time_basis: TimeBasis = TimeBasis.WALL
    facts: tuple[Fact, ...] = ()
    spans: tuple[Span, ...] = ()
    span_clock: ClockDomain = ClockDomain.DEVICE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Output:
    """One output of a model over all items, shape [items, ...]."""

    name: str
    values: npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Repeat:
    """One fresh process and one window on one device: the statistical unit.

    Attributes:
        block: index of the block, or of the round for a single model.
        position: place inside the block.
        started: when it began.
        conditions: what was wrong with it, by code: `throttled`, `disturbed`.
        measurements: its statistics.
        traces: its raw samples.
        readings: what the platform sampled before and after.
        facts: circumstances of this window.
        pace_ns: as in `Measured`.
        recording: what a meter saw of it, None without one.
    """

    arm: Arm
    block: int
    position: int
    started: datetime
    conditions: tuple[str, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    traces: tuple[Trace, ...] = ()
    readings: tuple[Reading, ...] = ()
    facts: tuple[Fact, ...] = ()
    pace_ns: float | None = None
    recording: Recording | None = None

    def value(self, metric: str) -> float | None:
        """This repeat's value of a metric, None if it has none."""
        return next((m.value for m in self.measurements if m.metric == metric), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRecord:
    """An error as it is kept.

    Attributes:
        arm: the arm whose model was at work, None if none was.
        other_arm_ran: whether the other arm's model ran in the same session.
    """

    family: str
    code: str
    message: str
    hint: str = ""
    arm: Arm | None = None
    other_arm_ran: bool = False
    evidence: tuple[Evidence, ...] = ()

    @classmethod
    def of(
        cls, error: FarmError, *, arm: Arm | None = None, other_arm_ran: bool = False
    ) -> ErrorRecord:
        """Keep an error that was raised."""
        return cls(
            family=error.family,
            code=error.code,
            message=str(error),
            hint=error.hint,
            arm=arm,
            other_arm_ran=other_arm_ran,
            evidence=error.evidence,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArmSummary:
    """One model's measurements over a whole job.

    Attributes:
        measurements: statistics over repeats (n repeats) and over items (n items).
        correct: right or wrong per item, shape [items]; empty without labels.
    """

    arm: Arm
    measurements: tuple[Measurement, ...] = ()
    correct: npt.NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JobResult:
    """Everything that one job brought home.

    Attributes:
        job: what was to be done.
        outcome: did it run?
        started: when it began.
        finished: when it ended.
        attempts: how often a session was opened for it.
        accelerator: where it really ran, empty if it never did.
        simulated: whether device or time were not real.
        time_basis: what durations count.
        environment: recorded circumstances.
        repeats: every repeat, in order.
        canaries: the canary before the first and after the last of them, where there is one.
        unfit: why nothing of this may be judged, beginning with a code: `canary_out_of_band`,
            `governor_changed`, `system_changed`; empty if it may.
        arms: summaries per model.
        notes: lines for people, such as why accuracy was skipped.
        meter: what measured its energy, None if nothing did.
        error: why it did not complete.
    """

    job: Job
    outcome: Outcome
    started: datetime
    finished: datetime
    attempts: int = 1
    accelerator: str = ""
    simulated: bool = False
    time_basis: TimeBasis = TimeBasis.WALL
    environment: tuple[Fact, ...] = ()
    repeats: tuple[Repeat, ...] = ()
    canaries: tuple[Repeat, ...] = ()
    unfit: str = ""
    arms: tuple[ArmSummary, ...] = ()
    notes: tuple[str, ...] = ()
    meter: MeterFacts | None = None
    error: ErrorRecord | None = None

    def summary(self, arm: Arm) -> ArmSummary:
        """The summary of one arm, empty if it never ran."""
        return next((s for s in self.arms if s.arm is arm), ArmSummary(arm=arm))


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """Something that will not be done, and why."""

    device: str
    what: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """What was under test when a run was made, from git and CI variables."""

    commit: str = ""
    parent: str = ""
    branch: str = ""
    purpose: Purpose = Purpose.AD_HOC


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One execution of a plan, written before its first job so that what is missing can be seen.

    Attributes:
        id: `<utc date and time>-<milliseconds and random digits>`, sorts by time.
        kind: `run` or `gate`.
        suite: the suite's name.
        revision: what was under test.
        planned: jobs that the plan had.
        skips: what the plan left out, and why.
        command: the command that repeats it.
    """

    id: str
    kind: str
    suite: str
    started: datetime
    revision: Revision
    planned: int
    skips: tuple[Skip, ...] = ()
    command: str = ""
