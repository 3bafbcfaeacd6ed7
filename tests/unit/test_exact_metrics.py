"""Numbers without noise, and metrics that exist only where a device counts what they count."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from farm.analysis.scoring import bit_exact
from farm.comparing import compare
from farm.errors import WrongOutput
from farm.harvest import Harvest, result_of
from farm.judging import GateVerdict, judge
from farm.metrics import METRICS
from farm.model import PAIR, Address, Arm, ArmModel, Artifact, Device, Job, Load, Measure, Workload
from farm.policy import Policy
from farm.record import (
    ArmSummary,
    JobResult,
    Measurement,
    Outcome,
    Output,
    Repeat,
    TimeBasis,
    Verdict,
)
from farm.rules import Rule

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _result(
    values: dict[str, tuple[float, float]],
    *,
    device: str = "mcu-1",
    time_basis: TimeBasis = TimeBasis.ICOUNT,
) -> JobResult:
    """A gate whose baseline and candidate have these values in every repeat."""
    model = Artifact(path=Path("m"), sha256="m", size_bytes=1)
    job = Job(
        workload=Workload(name="w", digest="d"), runtime="mcu", accelerator="cpu", load=Load(),
        device=Device(name=device, type="m4", address=Address(scheme="uart", place="x")),
        measures=(Measure.COMPUTE, Measure.LATENCY, Measure.MEMORY), rounds=5,
        arms=tuple(ArmModel(arm=arm, name=arm, artifact=model) for arm in PAIR),
    )  # fmt: skip
    harvest = Harvest(job=job, started=NOW, time_basis=time_basis)
    for slot in job.slots():
        measured = tuple(
            Measurement(metric=name, unit=METRICS[name].unit, value=pair[slot.arm is Arm.CANDIDATE])
            for name, pair in values.items()
        )
        harvest.repeats.append(
            Repeat(arm=slot.arm, block=slot.block, position=slot.position, started=NOW,
                   measurements=measured)
        )  # fmt: skip
    return result_of(harvest, Outcome.COMPLETED, None)


def _judged(*results: JobResult, **rules: Rule) -> GateVerdict:
    policy = Policy(path=Path("p"), sha256="p", alpha=0.05, looks=(5,), rules=tuple(rules.values()))
    return judge(policy, compare(results, policy))


def _exact(name: str) -> Rule:
    return Rule(metric=METRICS[name], gate=True, margin=0.0, exact=True)


@pytest.mark.parametrize(
    ("metric", "pair", "verdict"),
    [
        ("compute.instructions", (1000.0, 1000.0), Verdict.PASS),
        ("compute.instructions", (1000.0, 1001.0), Verdict.FAIL),
        ("compute.instructions", (1000.0, 999.0), Verdict.PASS),
        ("memory.stack_peak", (0.0, 0.0), Verdict.PASS),
        ("memory.stack_peak", (4096.0, 4100.0), Verdict.FAIL),
        ("memory.stack_peak", (0.0, 4.0), Verdict.INVALID),
        ("memory.stack_peak", (4.0, 0.0), Verdict.PASS),
    ],
)
def test_an_exact_rule_fails_any_change_for_the_worse(
    metric: str, pair: tuple[float, float], verdict: Verdict
) -> None:
    assert _judged(_result({metric: pair}), rule=_exact(metric)).verdict is verdict


def test_of_several_units_the_worst_decides() -> None:
    results = [
        _result({"compute.instructions": (1000.0, after)}, device=name)
        for name, after in (("mcu-1", 1000.0), ("mcu-2", 1010.0))
    ]
    (cell,) = _judged(*results, rule=_exact("compute.instructions")).cells
    assert cell.verdict is Verdict.FAIL
    assert cell.effect is not None
    assert cell.effect.estimate == pytest.approx(0.01)
    assert [unit.effect for unit in cell.units] == [0.0, pytest.approx(0.01)]


def test_a_limit_on_an_exact_number_is_held_against_what_was_measured() -> None:
    rule = Rule(metric=METRICS["compute.instructions"], gate=True, limit=1000.0)
    within, beyond = ({"compute.instructions": (1.0, after)} for after in (1000.0, 1001.0))
    assert _judged(_result(within), rule=rule).verdict is Verdict.PASS
    assert _judged(_result(beyond), rule=rule).verdict is Verdict.FAIL


def test_a_number_that_was_not_measured_is_no_pass() -> None:
    verdict = _judged(_result({}), rule=_exact("compute.instructions"))
    assert verdict.verdict is Verdict.INVALID
    assert "not_measured: compute.instructions on mcu-1" in verdict.cells[0].reasons


def test_time_is_not_asked_for_where_instructions_are_counted() -> None:
    rules = {
        "time": Rule(metric=METRICS["latency.p50"], gate=True, margin=0.05),
        "count": _exact("compute.instructions"),
    }
    counted = _result({"compute.instructions": (5.0, 5.0)})
    judged = _judged(counted, **rules)
    assert [cell.rule.metric.name for cell in judged.cells] == ["compute.instructions"]
    assert judged.verdict is Verdict.PASS
    assert [note for note in counted.notes if note.startswith("latency: ")]
    timed = _result({"latency.p50": (5.0, 5.0)}, time_basis=TimeBasis.WALL)
    judged = _judged(timed, **rules)
    assert [cell.rule.metric.name for cell in judged.cells] == ["latency.p50"]
    assert judged.verdict is Verdict.PASS
    assert timed.notes == ()


def test_what_only_informs_and_does_not_exist_there_is_not_shown() -> None:
    rules = {
        "count": _exact("compute.instructions"),
        "memory": Rule(metric=METRICS["memory.peak_rss"], gate=False, margin=0.1),
    }
    result = _result({"compute.instructions": (5.0, 5.0)})
    right = ArmSummary(
        arm=Arm.CANDIDATE, correct=np.ones(3, np.bool_)
    )  # accuracy says nothing of it
    judged = _judged(result, replace(result, arms=(*result.arms[:1], right)), **rules)
    assert [cell.rule.metric.name for cell in judged.cells] == ["compute.instructions"]


def test_a_gate_on_time_alone_passes_nothing_where_instructions_are_counted() -> None:
    rule = Rule(metric=METRICS["latency.p50"], gate=True, margin=0.05)
    judged = _judged(_result({"compute.instructions": (5.0, 5.0)}), rule=rule)
    assert judged.verdict is Verdict.INVALID


def test_counts_that_differ_between_repeats_are_summarised_by_the_worst() -> None:
    result = _result({"compute.instructions": (7.0, 7.0)})
    mixed = Harvest(job=result.job, started=NOW, time_basis=TimeBasis.ICOUNT)
    mixed.repeats = [
        replace(
            repeat,
            measurements=(
                Measurement(metric="compute.instructions", unit="instructions", value=float(n)),
            ),
        )
        for n, repeat in enumerate(result.repeats)
    ]
    found = result_of(mixed, Outcome.COMPLETED, None).summary(Arm.BASELINE).measurements
    (count,) = [m for m in found if m.metric == "compute.instructions"]
    assert (count.value, count.lo, count.hi, count.n) == (19.0, None, None, 10)


def _outputs(values: np.ndarray) -> tuple[Output, ...]:
    return (Output(name="out", values=values),)


def test_outputs_equal_the_golden_ones_to_the_bit_or_not_at_all() -> None:
    golden = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    near = golden.copy()
    near[1, 1] = np.nextafter(near[1, 1], np.float32(9))
    assert bit_exact(_outputs(golden), golden).value == 1.0
    assert bit_exact(_outputs(near.reshape(2, 2, 1)), golden).value == 0.5
    for wrong in (golden.astype(np.float64), golden[:, :1]):
        with pytest.raises(WrongOutput, match="the golden ones"):
            bit_exact(_outputs(wrong), golden)
