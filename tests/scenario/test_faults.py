"""What a run makes of the faults of a device: never a wrong number, never a failed model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import farm
from farm.model import Arm
from farm.record import JobResult, Outcome, Verdict
from farm.runner import RETRIES

Write = Callable[..., Path]
PHONE = "virtual://phone?seed=7"


def _run(suite: Path, inventory: Path, tmp_path: Path) -> JobResult:
    return farm.run(str(suite), inventory=inventory, store=tmp_path / "store").results[0]


@pytest.mark.parametrize(
    ("fault", "note"),
    [
        ("disconnect:3", "connection_lost"),
        ("disconnect:20", "connection_lost"),
        ("corrupt:2", "transfer_corrupt"),
        ("hang:1", "command_timeout"),
        ("hang:2", "command_timeout"),
        ("reboot:2", "rebooted"),
    ],
)
def test_a_passing_fault_is_survived_and_told(
    fault: str, note: str, suite: Write, inventory: Write, tmp_path: Path
) -> None:
    result = _run(suite(), inventory(phone=f"{PHONE}&fault={fault}"), tmp_path)
    assert result.outcome is Outcome.COMPLETED
    assert result.attempts == 2
    assert any(note in line for line in result.notes)
    assert [repeat.block for repeat in result.repeats] == [0, 1]


def test_a_fault_that_does_not_pass_ends_the_job_with_its_cause(
    suite: Write, inventory: Write, tmp_path: Path
) -> None:
    faults = "".join(f"&fault=corrupt:{at}" for at in range(1, 9))
    result = _run(suite(), inventory(phone=PHONE + faults), tmp_path)
    assert result.outcome is Outcome.ERROR
    assert result.error is not None
    assert (result.error.family, result.error.code) == ("infra", "transfer_corrupt")
    assert result.attempts == 1 + max(RETRIES.values())


def test_a_device_that_hangs_for_ever_is_a_timeout(
    suite: Write, inventory: Write, tmp_path: Path
) -> None:
    faults = "".join(f"&fault=hang:{at}" for at in range(1, 9))
    result = _run(suite(), inventory(phone=PHONE + faults), tmp_path)
    assert result.outcome is Outcome.TIMEOUT


def _gate(suite: Path, inventory: Path, digits: Path, store: Path) -> farm.Verdict:
    return farm.gate(
        str(suite),
        candidate=digits / "candidates" / "int8_recalibrated.onnx",
        baseline=digits,
        inventory=inventory,
        store=store,
    )


def test_a_throttled_device_makes_a_gate_invalid_and_fails_nobody(
    digits: Path, suite: Write, inventory: Write, tmp_path: Path
) -> None:
    phone = inventory(phone=f"{PHONE}&fault=throttle:3")
    answer = _gate(suite("accuracy, latency"), phone, digits, tmp_path / "store")
    cells = {cell.rule.metric.name: cell for cell in answer.cells}
    assert answer.verdict is Verdict.INVALID
    assert any(reason.startswith("throttled:") for reason in cells["latency.p50"].reasons)
    assert cells["accuracy.top1"].verdict is Verdict.PASS


def test_a_disturbed_gate_reruns_the_torn_block_and_keeps_the_whole_ones(
    digits: Path, suite: Write, inventory: Write, tmp_path: Path
) -> None:
    phone = inventory(phone=f"{PHONE}&fault=reboot:7")  # two to infer, four of block 0, then
    answer = _gate(suite("accuracy, latency"), phone, digits, tmp_path / "store")
    cell = next(c for c in answer.cells if c.rule.metric.name == "latency.p50")
    assert answer.verdict is Verdict.PASS
    assert cell.units[0].blocks == 5
    frame = farm.results(tmp_path / "store", metric="latency.p50")
    assert set(frame["arm"]) == {Arm.BASELINE, Arm.CANDIDATE}
    assert set(frame["n"]) == {10}


def test_one_dead_device_does_not_delay_or_change_the_others(
    suite: Write, inventory: Write, tmp_path: Path
) -> None:
    faults = "".join(f"&fault=disconnect:{at}" for at in range(1, 200))
    devices = inventory(dead=PHONE + faults, well="virtual://board?seed=2")
    summary = farm.run(str(suite()), inventory=devices, store=tmp_path / "store")
    dead, well = summary.results
    assert dead.outcome is Outcome.ERROR
    assert well.outcome is Outcome.COMPLETED
    assert summary.exit_code == 4
