"""From results to verdicts: margins, errors, conditions, and many cells to one answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farm.comparing import block_differences, compare
from farm.errors import ConnectionLost, FarmError, RuntimeCrashed
from farm.judging import judge
from farm.metrics import METRICS
from farm.model import Address, Arm, ArmModel, Artifact, Device, Job, Load, Measure, Workload
from farm.policy import Coverage, FailRule, OnInconclusive, Policy, Waiver
from farm.record import (
    ArmSummary,
    ErrorRecord,
    JobResult,
    Measurement,
    Outcome,
    Repeat,
    Verdict,
)
from farm.rules import Rule

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _policy(
    *, latency: bool = True, accuracy: bool = False, memory: bool = False, **more: Any
) -> Policy:
    rules = [
        Rule(metric=METRICS[name], gate=gate, margin=margin)
        for name, gate, margin, wanted in (
            ("latency.p50", True, 0.05, latency),
            ("accuracy.top1", True, 0.02, accuracy),
            ("memory.peak_rss", False, 0.1, memory),
        )
        if wanted
    ]
    settings = {"alpha": 0.05, "looks": (5,), **more}
    return Policy(path=Path("p"), sha256="p", rules=tuple(rules), **settings)


def _job(device: str = "unit-1", type: str = "phone", measures: Sequence[Measure] = ()) -> Job:
    def arm(which: Arm, size: int) -> ArmModel:
        artifact = Artifact(path=Path("m"), sha256=which, size_bytes=size)
        return ArmModel(arm=which, name=which, artifact=artifact)

    return Job(
        workload=Workload(name="w", digest="d"),
        device=Device(name=device, type=type, address=Address(scheme="virtual", place="phone")),
        runtime="r",
        accelerator="cpu",
        load=Load(),
        measures=tuple(measures) or (Measure.LATENCY, Measure.ACCURACY),
        arms=(arm(Arm.BASELINE, 100), arm(Arm.CANDIDATE, 110)),
        rounds=5,
    )


def _result(
    slowdown: float = 1.0, *, blocks: int = 5, noise: float = 0.001, device: str = "unit-1",
    type: str = "phone", throttled: Sequence[Arm] = (), error: ErrorRecord | None = None,
    lost: int | None = None,
) -> JobResult:  # fmt: skip
    job, dice = _job(device, type), np.random.default_rng(5)
    order = (Arm.BASELINE, Arm.CANDIDATE, Arm.CANDIDATE, Arm.BASELINE)
    repeats = []
    for block in range(blocks):
        for position, arm in enumerate(order):
            value = 1e6 * (slowdown if arm is Arm.CANDIDATE else 1) * (1 + noise * dice.normal())
            measured = Measurement(metric="latency.p50", unit="ns", value=value)
            conditions = ("throttled",) if arm in throttled else ()
            repeats.append(
                Repeat(arm=arm, block=block, position=position, started=NOW,
                       measurements=(measured,), conditions=conditions)
            )  # fmt: skip
    right = np.ones(900, np.bool_)
    wrong = right.copy()
    wrong[: lost or 0] = False
    arms = (
        ArmSummary(arm=Arm.BASELINE, correct=right),
        ArmSummary(arm=Arm.CANDIDATE, correct=wrong),
    )
    return JobResult(
        job=job, outcome=Outcome.ERROR if error else Outcome.COMPLETED, started=NOW, finished=NOW,
        repeats=tuple(repeats), arms=arms if lost is not None else (), error=error,
    )  # fmt: skip


def _verdict(*results: JobResult, policy: Policy | None = None) -> Verdict:
    rules = policy or _policy()
    return judge(rules, compare(results, rules)).verdict


@pytest.mark.parametrize(
    ("slowdown", "noise", "verdict"),
    [
        (1.0, 0.001, Verdict.PASS),
        (0.5, 0.001, Verdict.PASS),  # faster is never a failure
        (1.04, 0.001, Verdict.PASS),  # worse, and known to be within the margin
        (1.10, 0.001, Verdict.FAIL),
        (1.0, 0.1, Verdict.INCONCLUSIVE),
        (1.0, 0.3, Verdict.INCONCLUSIVE),
    ],
)
def test_latency_is_held_against_its_margin(
    slowdown: float, noise: float, verdict: Verdict
) -> None:
    assert _verdict(_result(slowdown, noise=noise)) is verdict


@pytest.mark.parametrize(
    ("lost", "verdict"),
    [(0, Verdict.PASS), (9, Verdict.PASS), (15, Verdict.INCONCLUSIVE), (60, Verdict.FAIL)],
)
def test_accuracy_is_held_against_its_margin_on_the_same_items(lost: int, verdict: Verdict) -> None:
    assert _verdict(_result(lost=lost), policy=_policy(latency=False, accuracy=True)) is verdict


def test_the_worst_unit_counts_for_accuracy() -> None:
    policy = _policy(latency=False, accuracy=True)
    results = (_result(lost=0), _result(lost=60, device="unit-2"))
    (cell,) = judge(policy, compare(results, policy)).cells
    assert cell.verdict is Verdict.FAIL
    assert any("unit-2 lost 60" in reason for reason in cell.reasons)


@pytest.mark.parametrize("blocks", [0, 1, 4])
def test_too_few_whole_blocks_are_no_verdict(blocks: int) -> None:
    assert _verdict(_result(blocks=blocks)) is Verdict.INVALID


def test_a_torn_block_does_not_count() -> None:
    repeats = _result(blocks=2).repeats
    assert len(block_differences(repeats, "latency.p50")) == 2
    assert len(block_differences(repeats[:-1], "latency.p50")) == 1


def test_units_of_a_type_are_pooled_as_blocks() -> None:
    policy = _policy()
    pair = (_result(blocks=3), _result(blocks=3, device="unit-2"))
    (cell,) = judge(policy, compare(pair, policy)).cells
    assert cell.verdict is Verdict.PASS
    assert cell.effect is not None
    assert cell.effect.n == 6
    assert [unit.blocks for unit in cell.units] == [3, 3]


def _error(
    kind: type[FarmError], *, arm: Arm | None = None, other_arm_ran: bool = False
) -> ErrorRecord:
    return ErrorRecord.of(kind("broken"), arm=arm, other_arm_ran=other_arm_ran)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (_error(RuntimeCrashed, arm=Arm.CANDIDATE, other_arm_ran=True), Verdict.FAIL),
        (_error(RuntimeCrashed, arm=Arm.CANDIDATE), Verdict.INVALID),  # both arms may be broken
        (_error(RuntimeCrashed, arm=Arm.BASELINE, other_arm_ran=True), Verdict.INVALID),
        (_error(ConnectionLost), Verdict.INVALID),
    ],
)
def test_only_a_candidate_that_broke_where_the_baseline_ran_fails(
    error: ErrorRecord, verdict: Verdict
) -> None:
    assert _verdict(_result(blocks=0, error=error)) is verdict


def test_a_sick_unit_is_left_out_and_named() -> None:
    policy = _policy()
    sick = _result(2.0, device="sick", throttled=[Arm.BASELINE, Arm.CANDIDATE])
    (cell,) = judge(policy, compare((_result(), sick), policy)).cells
    assert cell.verdict is Verdict.PASS
    assert any("sick" in reason for reason in cell.reasons)


@pytest.mark.parametrize(
    ("throttled", "verdict"),
    [
        ([Arm.BASELINE, Arm.CANDIDATE], Verdict.INVALID),
        ([Arm.BASELINE], Verdict.INVALID),
        ([Arm.CANDIDATE], Verdict.FAIL),  # ten of ten against none of ten is no chance
    ],
)
def test_throttling_is_the_candidates_doing_only_if_chance_cannot_explain_it(
    throttled: list[Arm], verdict: Verdict
) -> None:
    assert _verdict(_result(throttled=throttled)) is verdict


def test_one_failing_type_fails_the_release_and_an_invalid_one_forbids_it() -> None:
    good, bad = _result(), _result(1.2, type="board", device="board-1")
    dead = _result(blocks=0, type="camera", device="camera-1")
    unsure = _result(noise=0.3, type="hub", device="hub-1")
    assert _verdict(good, bad, dead, unsure) is Verdict.FAIL
    assert _verdict(good, dead, unsure) is Verdict.INVALID
    assert _verdict(good, unsure) is Verdict.INCONCLUSIVE
    assert _verdict(good) is Verdict.PASS


def test_a_gate_on_nothing_is_invalid() -> None:
    assert _verdict() is Verdict.INVALID


def test_a_missing_measurement_never_passes() -> None:
    policy = _policy(accuracy=True)
    assert _verdict(_result(), policy=policy) is Verdict.INVALID


def test_a_metric_that_only_informs_never_decides() -> None:
    policy = _policy(memory=True)
    (latency, *rest) = judge(policy, compare((_result(),), policy)).cells
    assert latency.verdict is Verdict.PASS
    assert rest == []  # memory was not measured, and nobody has to know
    assert _verdict(_result(), policy=policy) is Verdict.PASS


def test_an_undecided_cell_says_how_much_would_decide() -> None:
    policy = _policy(latency=False, accuracy=True)
    (cell,) = judge(policy, compare((_result(lost=15),), policy)).cells
    assert any("items would decide" in reason for reason in cell.reasons)


def test_the_strict_rule_fails_only_what_is_certainly_beyond_the_margin() -> None:
    worse = _result(1.06, noise=0.015)
    assert _verdict(worse) is Verdict.FAIL
    assert _verdict(worse, policy=_policy(fail_rule=FailRule.STRICT)) is Verdict.INCONCLUSIVE
    much = _result(1.2, noise=0.004)
    assert _verdict(much, policy=_policy(fail_rule=FailRule.STRICT)) is Verdict.FAIL


@pytest.mark.parametrize(
    ("rule", "verdict", "exit_code"),
    [
        (OnInconclusive.FAIL, Verdict.FAIL, 1),
        (OnInconclusive.HOLD, Verdict.INCONCLUSIVE, 3),
        (OnInconclusive.WARN, Verdict.INCONCLUSIVE, 3),
    ],
)
def test_the_policy_speaks_when_the_looks_are_spent(
    rule: OnInconclusive, verdict: Verdict, exit_code: int
) -> None:
    policy = _policy(on_inconclusive=rule, looks=(5, 9))
    cells = compare((_result(noise=0.3),), policy)
    spent = judge(policy, cells)
    assert (spent.verdict, spent.exit_code) == (verdict, exit_code)
    assert any(note.startswith("looks_spent: ") for note in spent.notes)
    assert judge(policy, cells, look=1).verdict is Verdict.INCONCLUSIVE


def test_alpha_is_split_over_the_looks_and_never_over_items() -> None:
    policy = _policy(accuracy=True, looks=(5, 9, 13))
    latency, accuracy = compare((_result(lost=0),), policy)
    assert latency.alpha == pytest.approx(0.05 / 3)
    assert accuracy.alpha == 0.05


def test_a_type_needs_as_many_healthy_units_as_the_policy_demands() -> None:
    policy = _policy(coverage=(Coverage(device_type="phone", units=2),))
    dead = _result(blocks=0, device="unit-2")
    assert _verdict(_result(), _result(device="unit-2"), policy=policy) is Verdict.PASS
    short = judge(policy, compare((_result(), dead), policy))
    assert short.verdict is Verdict.INVALID
    assert any("under_quorum: 1 healthy" in reason for reason in short.cells[0].reasons)


def test_a_type_that_must_be_covered_and_is_not_there_forbids_a_pass() -> None:
    policy = _policy(coverage=(Coverage(device_type="board"),))
    found = judge(policy, compare((_result(),), policy))
    assert found.verdict is Verdict.INVALID
    assert any("not_covered" in note and "board" in note for note in found.notes)


def test_an_optional_type_may_be_missing_or_sick_but_not_worse() -> None:
    policy = _policy(coverage=(Coverage(device_type="board", optional=True),))
    sick = _result(blocks=0, type="board", device="board-1")
    slow = _result(1.3, type="board", device="board-1")
    assert _verdict(_result(), policy=policy) is Verdict.PASS
    assert _verdict(_result(), sick, policy=policy) is Verdict.PASS
    assert _verdict(_result(), slow, policy=policy) is Verdict.FAIL


def test_a_waived_failure_is_shown_and_decides_nothing() -> None:
    waiver = Waiver(
        metric="latency.p50", device_type="board", owner="ann", reason="known",
        expires=date(2099, 1, 1),
    )  # fmt: skip
    policy = _policy(waivers=(waiver,))
    slow = _result(1.3, type="board", device="board-1")
    found = judge(policy, compare((_result(), slow), policy))
    assert found.verdict is Verdict.PASS
    assert found.cells[1].verdict is Verdict.FAIL
    assert found.cells[1].waiver is waiver
    assert found.notes == ("waived: latency.p50 on board until 2099-01-01 by ann: known",)
    assert _verdict(_result(1.3), policy=policy) is Verdict.FAIL  # another type


def test_whole_blocks_from_before_a_lost_connection_count() -> None:
    policy = _policy()
    cut = _result(blocks=5, error=_error(ConnectionLost))
    (cell,) = judge(policy, compare((cut,), policy)).cells
    assert cell.verdict is Verdict.PASS
    assert any("connection_lost" in reason for reason in cell.reasons)


def _limited(metric: str, limit: float, margin: float | None = None) -> Policy:
    rule = Rule(metric=METRICS[metric], gate=True, margin=margin, limit=limit)
    return Policy(path=Path("p"), sha256="p", alpha=0.05, looks=(5,), rules=(rule,))


@pytest.mark.parametrize(
    ("limit_ns", "verdict"),
    [(1.2e6, Verdict.PASS), (0.8e6, Verdict.FAIL), (1.0e6, Verdict.INCONCLUSIVE)],
)
def test_a_limit_on_latency_holds_whatever_the_baseline_does(
    limit_ns: float, verdict: Verdict
) -> None:
    assert _verdict(_result(), policy=_limited("latency.p50", limit_ns)) is verdict


@pytest.mark.parametrize(
    ("floor", "verdict"),
    [(0.9, Verdict.PASS), (0.99, Verdict.FAIL), (0.95, Verdict.INCONCLUSIVE)],
)
def test_a_floor_of_accuracy_holds_whatever_the_baseline_does(
    floor: float, verdict: Verdict
) -> None:
    assert _verdict(_result(lost=45), policy=_limited("accuracy.top1", floor)) is verdict


def test_a_limit_on_an_exact_number_has_no_doubt() -> None:
    assert _verdict(_result(), policy=_limited("size.model_bytes", 110)) is Verdict.PASS
    assert _verdict(_result(), policy=_limited("size.model_bytes", 109)) is Verdict.FAIL


def test_a_rule_with_margin_and_limit_asks_two_questions() -> None:
    policy = _limited("latency.p50", 0.5e6, margin=0.05)
    margin, limit = judge(policy, compare((_result(),), policy)).cells
    assert (margin.verdict, limit.verdict) == (Verdict.PASS, Verdict.FAIL)
    assert limit.effect is not None
    assert limit.effect.n == 5  # blocks: two repeats of one block count once


@pytest.mark.parametrize("limit", [None, 2e6])
def test_a_tail_without_enough_inferences_says_how_many_it_needs(limit: float | None) -> None:
    rule = Rule(metric=METRICS["latency.p99"], gate=True, margin=0.2, limit=limit)
    policy = Policy(path=Path("p"), sha256="p", alpha=0.05, looks=(5,), rules=(rule,))
    for cell in judge(policy, compare((_result(),), policy)).cells:
        assert cell.verdict is Verdict.INVALID
        assert any("p99 needs 662 inferences" in reason for reason in cell.reasons)


def test_a_limit_needs_enough_repeats() -> None:
    assert _verdict(_result(blocks=2), policy=_limited("latency.p50", 2e6)) is Verdict.INVALID


@pytest.mark.parametrize("positions", [(0, 1, 2, 3), (0, 2, 1, 3)])
def test_a_block_in_an_order_that_drift_can_bend_does_not_count(positions: tuple[int, ...]) -> None:
    order = {0: Arm.BASELINE, 1: Arm.BASELINE, 2: Arm.CANDIDATE, 3: Arm.CANDIDATE}
    repeats = [
        Repeat(arm=order[i], block=block, position=position, started=NOW,
               measurements=(Measurement(metric="latency.p50", unit="ns", value=1e6),))
        for block in range(5)
        for i, position in enumerate(positions)
    ]  # fmt: skip
    assert block_differences(repeats, "latency.p50") == []


def _anchored(slow: float, slow_anchor: float) -> JobResult:
    """A candidate that is `slow` against the baseline and `slow_anchor` against the anchor."""
    factors = {Arm.ANCHOR: 1 / slow_anchor, Arm.BASELINE: 1 / slow, Arm.CANDIDATE: 1.0}
    order = (Arm.ANCHOR, Arm.BASELINE, Arm.CANDIDATE, Arm.CANDIDATE, Arm.BASELINE, Arm.ANCHOR)
    dice = np.random.default_rng(8)
    repeats = tuple(
        Repeat(arm=arm, block=block, position=position, started=NOW,
               measurements=(Measurement(metric="latency.p50", unit="ns",
                                         value=1e6 * factors[arm] * (1 + 0.001 * dice.normal())),))
        for block in range(5)
        for position, arm in enumerate(order)
    )  # fmt: skip
    return replace(_result(), repeats=repeats)


def test_twenty_small_losses_are_stopped_by_the_anchor() -> None:
    rule = Rule(metric=METRICS["latency.p50"], gate=True, margin=0.02, anchor_margin=0.05)
    policy = Policy(path=Path("p"), sha256="p", alpha=0.05, looks=(5,), rules=(rule,))
    passed = 0
    for promotion in range(1, 21):
        found = judge(policy, compare((_anchored(1.01, 1.01**promotion),), policy))
        step, anchor = found.cells
        assert step.verdict is Verdict.PASS  # one by one, each loss is small enough
        assert anchor.against is Arm.ANCHOR
        if found.verdict is not Verdict.PASS:
            break
        passed += 1
    assert 3 <= passed <= 5
    assert found.verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE)
    last = judge(policy, compare((_anchored(1.01, 1.01**7),), policy))
    assert last.verdict is Verdict.FAIL


def test_items_of_one_cluster_are_judged_together(tmp_path: Path) -> None:
    np.save(tmp_path / "clusters.npy", np.arange(900) // 90)
    clusters = Artifact.of(tmp_path / "clusters.npy")
    policy = _policy(latency=False, accuracy=True)
    alone = _result(lost=9)
    together = replace(
        alone, job=replace(alone.job, workload=replace(alone.job.workload, clusters=clusters))
    )
    (single,) = judge(policy, compare((alone,), policy)).cells
    (grouped,) = judge(policy, compare((together,), policy)).cells
    assert single.effect is not None
    assert grouped.effect is not None
    assert grouped.effect.n == 10
    assert grouped.effect.estimate == pytest.approx(single.effect.estimate)
    assert grouped.effect.hi > single.effect.hi  # nine losses in one video say less


def _weighted(over_all: float, shares: dict[str, float], **more: Any) -> Policy:
    rule = Rule(metric=METRICS["latency.p50"], gate=True, weighted_margin=over_all, **more)
    coverage = tuple(Coverage(device_type=name, share=share) for name, share in shares.items())
    return Policy(
        path=Path("p"), sha256="p", alpha=0.05, looks=(5,), rules=(rule,), coverage=coverage
    )  # fmt: skip


def test_usage_decides_how_much_a_loss_on_one_type_weighs() -> None:
    results = (_result(1.10), _result(1.0, type="board", device="board-1"))
    found = []
    for phone in (0.1, 0.9):
        policy = _weighted(0.05, {"phone": phone, "board": 1 - phone})
        found.append(judge(policy, compare(results, policy)))
    rare, common = found
    assert rare.verdict is Verdict.PASS
    assert common.verdict is Verdict.FAIL
    (cell,) = rare.cells  # the types themselves have no margin of their own
    assert cell.effect is not None
    assert cell.effect.estimate == pytest.approx(1.1**0.1 - 1, abs=0.002)
    assert len(cell.groups) == 2


def test_a_type_that_weighs_and_was_not_measured_makes_the_whole_invalid() -> None:
    policy = _weighted(0.05, {"phone": 0.5, "board": 0.5})
    found = judge(policy, compare((_result(),), policy))
    assert found.verdict is Verdict.INVALID
    assert any("not_measured: board" in reason for reason in found.cells[0].reasons)


def test_margin_and_weighted_margin_stand_side_by_side() -> None:
    policy = _weighted(0.05, {"phone": 0.9, "board": 0.1}, margin=0.2)
    results = (_result(1.10), _result(1.0, type="board", device="board-1"))
    verdicts = [c.verdict for c in judge(policy, compare(results, policy)).cells]
    assert verdicts == [Verdict.PASS, Verdict.PASS, Verdict.FAIL]


def test_a_result_that_is_unfit_to_judge_leaves_its_device_out() -> None:
    policy = _policy()
    moved = replace(_result(2.0, device="unit-2"), unfit="governor_changed: from a to b")
    (cell,) = judge(policy, compare((_result(), moved), policy)).cells
    assert cell.verdict is Verdict.PASS
    assert any("governor_changed" in reason and "unit-2" in reason for reason in cell.reasons)


@pytest.mark.parametrize(("worse", "verdict"), [(1.0, Verdict.PASS), (1.3, Verdict.FAIL)])
def test_energy_per_inference_is_compared_per_repeat_like_a_time(
    worse: float, verdict: Verdict
) -> None:
    base = _result(worse)
    repeats = tuple(
        replace(r, measurements=(Measurement(metric="energy.per_inference", unit="J",
                                             value=1e-9 * r.measurements[0].value),))
        for r in base.repeats
    )  # fmt: skip
    job = replace(base.job, measures=(Measure.ENERGY,))
    rule = Rule(metric=METRICS["energy.per_inference"], gate=True, margin=0.05)
    policy = Policy(path=Path("p"), sha256="p", alpha=0.05, looks=(5,), rules=(rule,))
    assert _verdict(replace(base, job=job, repeats=repeats), policy=policy) is verdict


def test_two_counts_of_different_items_have_an_interval_too() -> None:
    from farm.analysis.items import unpaired_effect

    same = unpaired_effect(900, 1000, 900, 1000, 0.05)
    worse = unpaired_effect(900, 1000, 800, 1000, 0.05)
    assert same.lo < 0 < same.hi
    assert worse.lo > 0.05
