"""The farm on virtual microcontrollers, over their serial line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import farm
from drivers.mcu.client import Refusal
from drivers.mcu.image import Header
from drivers.mcu.toolchain import find_toolchain
from drivers.virtual import mcu_slots
from drivers.virtual.machine import switch_all_off
from drivers.virtual.qemu_board import check_qemu
from farm.errors import ConfigError
from farm.metrics import METRICS
from farm.model import Arm
from farm.record import JobResult, Outcome, TimeBasis, Verdict

Write = Callable[..., Path]
PYTHON = "virtual-mcu://?engine=python"
EMULATED = "virtual-mcu://?engine=qemu"
UPDATES = {name for name, metric in METRICS.items() if metric.family == "update"}


@pytest.fixture(autouse=True)
def _power() -> Iterator[None]:
    yield
    switch_all_off()


def _run(suite: Path | str, inventory: Path, tmp_path: Path, **options: object) -> JobResult:
    summary = farm.run(str(suite), inventory=inventory, store=tmp_path / "store", **options)
    return summary.results[0]


def _values(result: JobResult) -> dict[str, float]:
    return {m.metric: m.value for m in result.summary(Arm.CANDIDATE).measurements}


def _answers(folder: Path, model: Path) -> np.ndarray:
    """Whether onnxruntime is right, item by item."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    images = np.load(folder / "inputs.npz")["image"]
    classes = [int(session.run(None, {"image": image[None]})[0].argmax()) for image in images]
    return np.array(classes) == np.load(folder / "labels.npy")


def test_a_run_is_right_item_for_item_and_counts_what_does_not_vary(
    digits: Path, inventory: Write, tmp_path: Path
) -> None:
    result = _run("mcu", inventory(board=PYTHON), tmp_path)
    assert result.outcome is Outcome.COMPLETED, result.error
    correct = result.summary(Arm.CANDIDATE).correct
    assert np.array_equal(correct, _answers(digits, digits / "int8.onnx"))
    assert result.simulated
    assert result.time_basis is TimeBasis.ICOUNT
    assert len({repeat.value("compute.instructions") for repeat in result.repeats}) == 1
    values = _values(result)
    assert {"memory.stack_peak", "memory.arena", "size.image_bytes"} < set(values)
    assert not any(metric.startswith(("latency", "compute.cycles")) for metric in values)
    told = {fact.name: fact.value for fact in result.environment}
    assert "outputs are real" in told["simulated"]
    assert told["accelerators"] == "cpu"


@pytest.mark.parametrize("labelled", [True, False])
def test_outputs_are_held_against_golden_ones(
    digits: Path, few: Path, inventory: Write, tmp_path: Path, labelled: bool
) -> None:
    session = ort.InferenceSession(few / "int8.onnx", providers=["CPUExecutionProvider"])
    images = np.load(few / "inputs.npz")["image"]
    rows = [session.run(None, {"image": image[None]})[0][0] for image in images]
    np.savez(few / "golden.npz", logits=np.array(rows))
    text = (few / "workload.yaml").read_text() + "golden: golden.npz\n"
    if not labelled:
        text = text.replace("labels: labels.npy\nmetric: accuracy.top1\n", "")
    (few / "workload.yaml").write_text(text)
    lab = inventory(board=PYTHON)
    own = _values(_run("mcu", lab, tmp_path, workload=few))
    assert own["drift.bit_exact"] == 1.0
    assert ("accuracy.top1" in own) == labelled
    other = digits / "candidates" / "int8_recalibrated.onnx"
    assert _values(_run("mcu", lab, tmp_path, workload=few, model=other))["drift.bit_exact"] < 1.0


def test_a_second_run_finds_the_model_and_pushes_nothing(
    few: Path, inventory: Write, tmp_path: Path
) -> None:
    lab = inventory(board=PYTHON)
    first, second = (_run("mcu", lab, tmp_path, workload=few) for _ in range(2))
    assert "deploy.push_seconds" in _values(first)
    assert "deploy.push_seconds" not in _values(second)
    assert not any("swept" in note for note in second.notes)


@pytest.mark.parametrize(
    ("candidate", "verdict", "failing"),
    [
        ("int8_recalibrated", Verdict.PASS, set()),
        ("int8_ruined", Verdict.FAIL, {"accuracy.top1"}),
        ("int8_slow", Verdict.FAIL, {"compute.instructions", "size.image_bytes"}),
    ],
)
def test_the_gate_finds_what_is_wrong_and_nothing_else(
    candidate: str, verdict: Verdict, failing: set[str],
    digits: Path, inventory: Write, tmp_path: Path,
) -> None:  # fmt: skip
    answer = farm.gate(
        "mcu", candidate=digits / "candidates" / f"{candidate}.onnx", baseline=digits,
        inventory=inventory(board=PYTHON), store=tmp_path / "store",
    )  # fmt: skip
    assert answer.verdict is verdict
    assert {c.rule.metric.name for c in answer.cells if c.verdict is Verdict.FAIL} == failing
    assert all(cell.simulated for cell in answer.cells)


def test_updates_are_rehearsed_and_survived(few: Path, inventory: Write, tmp_path: Path) -> None:
    result = _run("update", inventory(board=PYTHON), tmp_path, workload=few)
    assert result.outcome is Outcome.COMPLETED, result.error
    values = _values(result)
    assert {name: values.get(name) for name in UPDATES} == dict.fromkeys(UPDATES, 1.0)


def test_an_update_that_ends_badly_is_told_and_fails_the_gate(
    few: Path, inventory: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(image: bytes) -> Header:
        try:
            return Header.unpack(image)
        except ValueError as error:
            raise mcu_slots.Refuse(Refusal.WRONG_ABI, str(error)) from error

    monkeypatch.setattr(mcu_slots, "_check_image", careless)
    lab = inventory(board=PYTHON)
    result = _run("update", lab, tmp_path, workload=few)
    assert result.outcome is Outcome.COMPLETED, result.error
    assert _values(result)["update.mismatch_refused"] == pytest.approx(1 / 5)
    assert "update: another processor: the board took it" in result.notes
    answer = farm.gate(
        "update", candidate=few, baseline=few, inventory=lab, store=tmp_path / "store"
    )
    assert answer.verdict is Verdict.FAIL
    failing = {c.rule.metric.name for c in answer.cells if c.verdict is Verdict.FAIL}
    assert failing == {"update.mismatch_refused"}


@pytest.mark.system
def test_native_code_on_an_emulated_board_is_right_and_survives_updates(
    few: Path, suite: Write, inventory: Write, tmp_path: Path, lacks: Callable[[str], None]
) -> None:
    try:
        check_qemu()
        find_toolchain()
    except ConfigError as error:
        lacks(f"{error.message}: {error.hint}")
    quick = suite("accuracy, compute, memory, update")
    result = _run(quick, inventory(board=EMULATED), tmp_path, workload=few)
    assert result.outcome is Outcome.COMPLETED, result.error
    correct = result.summary(Arm.CANDIDATE).correct
    assert np.array_equal(correct, _answers(few, few / "int8.onnx"))
    values = _values(result)
    assert {name: values.get(name) for name in UPDATES} == dict.fromkeys(UPDATES, 1.0)
    assert len({repeat.value("compute.instructions") for repeat in result.repeats}) == 1
    assert 0 < values["memory.stack_peak"] < values["size.image_bytes"]
    assert values["memory.arena"] > 0
    told = {fact.name: fact.value for fact in result.environment}
    assert "nothing here is a speed" in told["simulated"]
    assert {"toolchain", "cflags", "codegen"} < set(told)
