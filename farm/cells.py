"""A cell: one metric on one group of devices, what was found, and what was judged of it."""

from __future__ import annotations

from dataclasses import dataclass

from farm.analysis.compare import Effect
from farm.model import Arm, Job
from farm.policy import Waiver
from farm.record import Verdict
from farm.rules import Rule

Group = tuple[str, str, str, str]
"""Device type, runtime, accelerator and load digest: devices that are judged together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What one device contributed to a cell."""

    device: str
    blocks: int
    effect: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One metric on one device type.

    Attributes:
        rule: what the policy says of the metric.
        units: the devices of that type, sick ones with no blocks.
        alpha: one-sided chance of error of each bound of the effect.
        effect: candidate against baseline, None if nothing could be compared; for a limit the
            candidate's own level in the metric's unit.
        against: the arm that the candidate is compared with.
        margin: how much worse is still good, a fraction; None for a limit.
        limit: the limit that the candidate is held against, None for a margin.
        verdict: PASS, FAIL, INCONCLUSIVE or INVALID.
        reasons: why, for people; each begins with a code.
        looks: how often this metric has been looked at.
        waiver: who answers for its failure, if somebody does.
        parts: the groups that a cell over several of them is made of.
    """

    workload: str
    device_type: str
    runtime: str
    accelerator: str
    load_digest: str
    scenario: str
    time_basis: str
    simulated: bool
    rule: Rule
    units: tuple[Unit, ...]
    alpha: float
    effect: Effect | None = None
    against: Arm = Arm.BASELINE
    margin: float | None = None
    limit: float | None = None
    verdict: Verdict = Verdict.INVALID
    reasons: tuple[str, ...] = ()
    looks: int = 1
    waiver: Waiver | None = None
    parts: tuple[Group, ...] = ()

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups whose measurements this cell rests on."""
        return self.parts or (self.group,)

    @property
    def question(self) -> tuple[Group, str, Arm, bool]:
        """What tells this cell from the others of a gate."""
        return self.group, self.rule.metric.name, self.against, self.limit is not None

    @property
    def group(self) -> Group:
        """What its devices have in common."""
        return self.device_type, self.runtime, self.accelerator, self.load_digest


def group_of(job: Job) -> Group:
    """The group that a job's results belong to."""
    return job.device.type, job.runtime, job.accelerator, job.load.digest()
