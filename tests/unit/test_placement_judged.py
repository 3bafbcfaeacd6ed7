"""A candidate that falls back more than its baseline fails, whatever its speed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from farm.comparing import compare
from farm.errors import WrongAccelerator
from farm.harvest import Harvest, kept
from farm.judging import judge
from farm.metering import Metered
from farm.metrics import METRICS
from farm.model import (
    PAIR,
    Address,
    Arm,
    ArmModel,
    Artifact,
    Device,
    Job,
    Load,
    Measure,
    Workload,
)
from farm.policy import Policy
from farm.protocols import Deployment, Runtime
from farm.record import (
    ArmSummary,
    Fact,
    JobResult,
    Measured,
    Measurement,
    Outcome,
    Output,
    Placed,
    Placement,
    Repeat,
    Verdict,
)
from farm.rules import Rule
from farm.runner import _deploy

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BLOCKS = 5


def result(accelerator: str, shares: dict[Arm, float | None]) -> JobResult:
    model = Artifact(path=Path("m.onnx"), sha256="0" * 64, size_bytes=1)
    job = Job(
        workload=Workload(name="w", digest="d"),
        device=Device(name="orin-1", type="orin", address=Address(scheme="ssh", place="b")),
        runtime="ort_native",
        accelerator=accelerator,
        load=Load(),
        measures=(Measure.LATENCY,),
        arms=tuple(ArmModel(arm=arm, name=arm, artifact=model) for arm in PAIR),
        rounds=BLOCKS,
    )
    jitter = (1.0, 1.001, 0.999, 1.0005)
    repeats = tuple(
        Repeat(
            arm=slot.arm, block=slot.block, position=slot.position, started=NOW,
            measurements=(
                Measurement(
                    metric="latency.p50", unit="ns",
                    value=1e6 * jitter[(slot.position + slot.block) % 4],
                ),
            ),
        )
        for slot in job.slots()
    )  # fmt: skip
    arms = tuple(
        ArmSummary(
            arm=arm,
            measurements=()
            if share is None
            else (Measurement(metric="placement.nodes", unit="ratio", value=share),),
        )
        for arm, share in shares.items()
    )
    return JobResult(
        job=job, outcome=Outcome.COMPLETED, started=NOW, finished=NOW, repeats=repeats, arms=arms
    )


POLICY = Policy(
    path=Path("p"), sha256="", alpha=0.05, looks=(BLOCKS,),
    rules=(Rule(metric=METRICS["latency.p50"], gate=True, margin=0.05),),
)  # fmt: skip


@pytest.mark.parametrize(
    ("baseline", "candidate", "verdict"),
    [
        (1.0, 1.0, Verdict.PASS),
        (0.8, 0.8, Verdict.PASS),
        (0.8, 1.0, Verdict.PASS),
        (1.0, 0.9, Verdict.FAIL),
        (None, None, Verdict.PASS),
        (None, 0.5, Verdict.PASS),  # nothing to compare with
    ],
)
def test_only_a_candidate_that_lost_nodes_fails(
    baseline: float | None, candidate: float | None, verdict: Verdict
) -> None:
    shares = {Arm.BASELINE: baseline, Arm.CANDIDATE: candidate}
    judged = judge(POLICY, compare([result("tensorrt+cpu", shares)], POLICY))
    assert judged.verdict is verdict
    told = [reason for cell in judged.cells for reason in cell.reasons]
    assert any(reason.startswith("candidate_falls_back: ") for reason in told) is (
        verdict is Verdict.FAIL
    )


def test_the_reason_names_shares_accelerator_and_unit() -> None:
    shares = {Arm.BASELINE: 1.0, Arm.CANDIDATE: 0.75}
    (cell,) = judge(POLICY, compare([result("tensorrt+cpu", shares)], POLICY)).cells
    (reason,) = cell.reasons
    assert reason.startswith("candidate_falls_back: 75 % of its nodes run on tensorrt of orin-1, ")
    assert reason.endswith("100 % of the baseline's")


def test_a_unit_that_lost_nodes_fails_its_whole_type() -> None:
    good = result("xnnpack+cpu", {Arm.BASELINE: 1.0, Arm.CANDIDATE: 1.0})
    bad = result("xnnpack+cpu", {Arm.BASELINE: 1.0, Arm.CANDIDATE: 0.5})
    other = replace(bad, job=replace(bad.job, device=replace(bad.job.device, name="orin-2")))
    assert judge(POLICY, compare([good, other], POLICY)).verdict is Verdict.FAIL


class Accelerator(Deployment):
    """A model on an accelerator that takes all of it or none."""

    def __init__(self, *, takes: bool) -> None:
        self._takes = takes

    def placement(self, load: Load) -> Placement | None:
        if not self._takes:
            raise WrongAccelerator("none of 3 nodes ran on npu")
        return Placement(placed=(Placed(accelerator="npu", nodes=3, time_ns=1e6),))

    def infer(self) -> tuple[Output, ...]:
        raise NotImplementedError

    def measure(
        self, load: Load, *, quiet_pace_ns: float | None = None, metered: Metered | None = None
    ) -> Measured:
        raise NotImplementedError

    def remove(self) -> None:
        raise NotImplementedError


class Npu(Runtime):
    """Refuses the model whose digest begins with a b."""

    formats = ("onnx",)
    scenarios = ()

    def __init__(self) -> None: ...

    def facts(self) -> tuple[Fact, ...]:
        return ()

    def deploy(self, model: Artifact, workload: Workload, *, accelerator: str) -> Deployment:
        return Accelerator(takes=not model.sha256.startswith("b"))


def test_a_candidate_that_is_refused_where_the_baseline_ran_is_held_against_it() -> None:
    job = result("npu", {}).job
    good, bad = (replace(job.arms[0].artifact, sha256=c * 64) for c in "ab")
    arms = (replace(job.arms[0], artifact=good), replace(job.arms[1], artifact=bad))
    harvest = Harvest(job=replace(job, arms=arms), started=NOW)
    _deploy(Npu(), harvest, arms[0])
    with pytest.raises(WrongAccelerator) as caught:
        _deploy(Npu(), harvest, arms[1])
    error = kept(caught.value, harvest)
    assert (error.arm, error.other_arm_ran) == (Arm.CANDIDATE, True)
    failed = replace(result("npu", {}), repeats=(), outcome=Outcome.ERROR, error=error)
    (cell,) = judge(POLICY, compare([failed], POLICY)).cells
    assert cell.verdict is Verdict.FAIL
    assert cell.reasons == ("workload_wrong_accelerator: none of 3 nodes ran on npu",)
