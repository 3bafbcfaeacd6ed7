"""The loop of looks: when it stops, what it measures next, and what it confirms."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from farm.looks import FRESH, decide
from farm.metrics import METRICS
from farm.model import PAIR, Address, Arm, ArmModel, Artifact, Device, Job, Load, Measure, Workload
from farm.policy import Policy
from farm.record import ArmSummary, JobResult, Measurement, Outcome, Repeat, Verdict
from farm.rules import Rule

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Lab:
    """Measures jobs from a table of slowdowns per device type and block."""

    def __init__(self, *, noise: float = 0.001, lost: int = 0, **slowdowns: float) -> None:
        self.noise, self.lost, self.slowdowns = noise, lost, slowdowns
        self.fresh_slowdowns = slowdowns
        self.asked: list[Job] = []
        self.dice = np.random.default_rng(11)

    def measure(self, jobs: tuple[Job, ...]) -> tuple[JobResult, ...]:
        self.asked += jobs
        return tuple(self._result(job) for job in jobs)

    def _result(self, job: Job) -> JobResult:
        repeats = []
        for slot in job.slots():
            table = self.fresh_slowdowns if slot.block >= FRESH else self.slowdowns
            slow = table.get(job.device.type, 1.0) if slot.arm is Arm.CANDIDATE else 1.0
            p50 = 1e6 * slow * float(np.exp(self.noise * self.dice.normal()))
            measured = (Measurement(metric="latency.p50", unit="ns", value=p50),)
            repeats.append(Repeat(arm=slot.arm, block=slot.block, position=slot.position,
                                  started=NOW, measurements=measured))  # fmt: skip
        arms = ()
        if Measure.ACCURACY in job.measures:
            right = np.ones(900, np.bool_)
            wrong = right.copy()
            wrong[: self.lost] = False
            arms = (ArmSummary(arm=Arm.BASELINE, correct=right),
                    ArmSummary(arm=Arm.CANDIDATE, correct=wrong))  # fmt: skip
        return JobResult(job=job, outcome=Outcome.COMPLETED, started=NOW, finished=NOW,
                         repeats=tuple(repeats), arms=arms)  # fmt: skip


def _job(type: str) -> Job:
    model = Artifact(path=Path("m"), sha256="m", size_bytes=1)
    return Job(
        workload=Workload(name="w", digest="d"), runtime="r", accelerator="cpu", load=Load(),
        device=Device(name=f"{type}-1", type=type, address=Address(scheme="virtual", place="x")),
        measures=(Measure.LATENCY, Measure.ACCURACY), rounds=5,
        arms=tuple(ArmModel(arm=arm, name=arm, artifact=model) for arm in PAIR),
    )  # fmt: skip


def _policy(*metrics: str, looks: tuple[int, ...] = (5, 9, 13)) -> Policy:
    rules = [Rule(metric=METRICS[name], gate=True, margin=0.05) for name in metrics]
    return Policy(path=Path("p"), sha256="p", alpha=0.05, looks=looks, rules=tuple(rules))


LATENCY = _policy("latency.p50")
BOTH = _policy("latency.p50", "accuracy.top1")


def test_a_clear_case_takes_one_look() -> None:
    lab = Lab()
    verdict = decide(LATENCY, (_job("phone"),), lab.measure)
    assert verdict.verdict is Verdict.PASS
    assert [job.rounds for job in lab.asked] == [5]
    assert verdict.cells[0].looks == 1


def test_an_undecided_gate_measures_the_missing_blocks_and_looks_again() -> None:
    lab = Lab(noise=0.2)
    looks: list[int] = []
    verdict = decide(LATENCY, (_job("phone"),), lab.measure, look_done=looks.append)
    assert verdict.verdict is Verdict.INCONCLUSIVE
    assert [(job.first_block, job.rounds) for job in lab.asked] == [(0, 5), (5, 4), (9, 4)]
    assert looks == [1, 2, 3]
    assert verdict.cells[0].effect is not None
    assert verdict.cells[0].effect.n == 13


def test_only_undecided_types_get_more_blocks_and_items_are_inferred_once() -> None:
    lab = Lab(noise=0.2)
    quiet = Lab()

    def measure(jobs: tuple[Job, ...]) -> tuple[JobResult, ...]:
        lab.asked += jobs
        noisy = [job for job in jobs if job.device.type == "phone"]
        return tuple((lab if job in noisy else quiet)._result(job) for job in jobs)

    decide(BOTH, (_job("phone"), _job("board")), measure)
    later = lab.asked[2:]
    assert {job.device.type for job in later} == {"phone"}
    assert all(Measure.ACCURACY not in job.measures for job in later)


def test_a_failure_is_confirmed_on_fresh_blocks_when_several_cells_decide() -> None:
    lab = Lab(phone=1.2)
    verdict = decide(BOTH, (_job("phone"), _job("board")), lab.measure)
    assert verdict.verdict is Verdict.FAIL
    fresh = [job for job in lab.asked if job.first_block >= FRESH]
    assert [(job.device.type, job.rounds) for job in fresh] == [("phone", 5)]
    (failed,) = [cell for cell in verdict.cells if cell.verdict is Verdict.FAIL]
    assert any(reason.startswith("confirmed: ") for reason in failed.reasons)


def test_a_failure_that_fresh_blocks_do_not_show_is_undecided_again() -> None:
    lab = Lab(phone=1.2)
    lab.fresh_slowdowns = {}
    verdict = decide(BOTH, (_job("phone"),), lab.measure)
    assert verdict.verdict is Verdict.INCONCLUSIVE
    (cell,) = [c for c in verdict.cells if c.rule.metric.name == "latency.p50"]
    assert any(reason.startswith("not_confirmed: ") for reason in cell.reasons)


@pytest.mark.parametrize(("policy", "lost"), [(LATENCY, 0), (BOTH, 300)])
def test_no_confirmation_where_one_cell_decides_or_items_have_decided(
    policy: Policy, lost: int
) -> None:
    lab = Lab(phone=1.2, lost=lost)
    verdict = decide(policy, (_job("phone"),), lab.measure)
    assert verdict.verdict is Verdict.FAIL
    assert all(job.first_block < FRESH for job in lab.asked)


def test_what_is_recalled_is_not_measured_again() -> None:
    first = Lab(noise=0.2)
    job = _job("phone")
    recalled = first.measure((job,))
    lab = Lab(noise=0.2)
    decide(LATENCY, (job,), lab.measure, recalled=recalled)
    assert [(again.first_block, again.rounds) for again in lab.asked] == [(5, 4), (9, 4)]


def test_a_decided_question_measures_nothing_when_it_is_asked_again() -> None:
    jobs = (_job("phone"), _job("board"))
    lab = Lab(phone=1.2)
    decide(BOTH, jobs, lab.measure)
    recalled = tuple(Lab._result(lab, job) for job in lab.asked)
    again = Lab(phone=1.2)
    assert decide(BOTH, jobs, again.measure, recalled=recalled).verdict is Verdict.FAIL
    assert again.asked == []


def test_an_interrupted_look_is_completed_with_what_is_missing() -> None:
    job = _job("phone")
    lab = Lab()
    part = lab.measure((replace(job, rounds=2),))
    decide(LATENCY, (job,), lab.measure, recalled=part)
    assert [(again.first_block, again.rounds) for again in lab.asked[1:]] == [(2, 3)]


def test_no_block_is_spent_on_items_that_are_undecided() -> None:
    lab = Lab(lost=40)  # 4.4 points lost at a margin of 5: nothing but more items would decide
    verdict = decide(BOTH, (_job("phone"),), lab.measure)
    assert verdict.verdict is Verdict.INCONCLUSIVE
    assert [job.rounds for job in lab.asked] == [5]
    assert any(note.startswith("looks_spent: ") for note in verdict.notes)
