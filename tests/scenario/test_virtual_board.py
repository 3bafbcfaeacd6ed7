"""The farm on a virtual board, over SSH and with the drivers that reach hardware."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import farm
from drivers.virtual.machine import switch_all_off
from farm.demo import PLANTED, DemoGate
from farm.model import Arm
from farm.record import JobResult, Outcome, Verdict

Write = Callable[..., Path]
BOARD = "virtual-ssh://board?seed=2"


@pytest.fixture(autouse=True)
def _power() -> Iterator[None]:
    yield
    switch_all_off()


def _run(suite: Path | str, inventory: Path, tmp_path: Path) -> JobResult:
    return farm.run(str(suite), inventory=inventory, store=tmp_path / "store").results[0]


def test_a_run_goes_over_ssh_and_says_that_it_is_simulated(
    suite: Write, inventory: Write, tmp_path: Path
) -> None:
    result = _run(suite("accuracy, latency, memory, coldstart"), inventory(b=BOARD), tmp_path)
    assert result.outcome is Outcome.COMPLETED, result.error
    assert result.simulated
    facts = {fact.name: fact.value for fact in result.environment}
    assert facts["model"] == "Virtual board (simulated)"
    assert facts["serial"].startswith("virtual-")
    assert "are simulated; outputs are real" in facts["simulated"]
    names = {reading.name for repeat in result.repeats for reading in repeat.readings}
    assert {"temperature", "throttled"} <= names
    assert not any(repeat.conditions for repeat in result.repeats)
    assert all(farm.results(tmp_path / "store")["simulated"])


def test_outputs_are_those_of_the_in_process_device(
    digits: Path, suite: Write, inventory: Write, tmp_path: Path
) -> None:
    devices = inventory(one=BOARD, two="virtual://board?seed=3")
    results = farm.run(
        str(suite("accuracy, memory")), inventory=devices, store=tmp_path / "store"
    ).results
    wanted = ("accuracy", "size", "memory")
    one, two = (
        {m.metric: m.value for m in result.arms[0].measurements if m.metric.startswith(wanted)}
        for result in results
    )
    assert len(one) == 3
    assert one == two


@pytest.mark.parametrize("candidate", PLANTED)
def test_a_gate_finds_what_is_planted(
    candidate: str, digits: Path, inventory: Write, tmp_path: Path
) -> None:
    verdict = farm.gate(
        "smoke",
        candidate=digits / "candidates" / f"{candidate}.onnx",
        baseline=digits,
        inventory=inventory(b=BOARD),
        store=tmp_path / "store",
    )
    gate = DemoGate(candidate=candidate, planted=PLANTED[candidate], verdict=verdict)
    assert gate.as_expected, [(cell.rule.metric.name, cell.verdict) for cell in verdict.cells]
    assert all(cell.simulated for cell in verdict.cells)


def test_a_second_run_finds_the_board_cool(suite: Write, inventory: Write, tmp_path: Path) -> None:
    devices = inventory(b=f"{BOARD}&fault=throttle:1")
    first, second = (_run(suite(), devices, tmp_path) for _ in range(2))
    assert all("throttled" in repeat.conditions for repeat in first.repeats)
    assert second.outcome is Outcome.COMPLETED


@pytest.mark.parametrize(
    ("fault", "note"),
    [
        ("disconnect:3", "connection_lost"),
        ("disconnect:9", "connection_lost"),
        ("corrupt:1", "transfer_corrupt"),
        ("reboot:2", "rebooted"),
    ],
)
def test_a_passing_fault_is_survived_and_told(
    fault: str, note: str, suite: Write, inventory: Write, tmp_path: Path
) -> None:
    result = _run(suite(), inventory(b=f"{BOARD}&fault={fault}"), tmp_path)
    assert result.outcome is Outcome.COMPLETED, result.error
    assert result.attempts == 2
    assert any(note in line for line in result.notes), result.notes
    assert [repeat.block for repeat in result.repeats] == [0, 1]


def test_a_gate_goes_on_after_a_restart(
    digits: Path, suite: Write, inventory: Write, tmp_path: Path
) -> None:
    """Two inferences come first, then the blocks of four: the second is torn."""
    answer = farm.gate(
        str(suite("accuracy, latency")),
        candidate=digits / "candidates" / "int8_recalibrated.onnx",
        baseline=digits,
        inventory=inventory(b=f"{BOARD}&fault=reboot:9"),
        store=tmp_path / "store",
    )
    assert answer.verdict is Verdict.PASS
    frame = farm.results(tmp_path / "store", metric="latency.p50")
    assert set(frame["arm"]) == {Arm.BASELINE, Arm.CANDIDATE}


def test_settings_are_restored(suite: Write, tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_text(
        "schema: farm.inventory/1\ndevices:\n  b:\n    type: t\n"
        f"    address: {BOARD}\n    governor: performance\n    max_khz: '1500000'\n"
    )
    first = _run(suite(), path, tmp_path)
    facts = {fact.name: fact.value for fact in first.environment}
    assert facts["governor"] == "performance"
    assert facts["max_khz"] == "1500000"
    assert any(note.startswith("governor: performance while measuring") for note in first.notes)
    second = _run(suite(), path, tmp_path)
    assert not any(note.startswith("restored") for note in second.notes)
    assert any("schedutil before" in note for note in second.notes)
