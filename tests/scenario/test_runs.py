"""Whole runs and gates on the local device and on virtual ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import farm
from farm.model import Arm
from farm.record import JobResult, Outcome, Verdict
from farm.store import reader
from farm.store.database import open_store

Write = Callable[..., Path]


def _run(suite: Path, inventory: Path, store: Path, **options: object) -> JobResult:
    summary = farm.run(str(suite), inventory=inventory, store=store, **options)
    return summary.results[0]


def test_accuracy_on_the_local_device_is_onnxruntimes_item_for_item(
    digits: Path, suite: Write, inventory: Write, tmp_path: Path
) -> None:
    result = _run(suite("accuracy"), inventory(here="local://"), tmp_path / "store")
    session = ort.InferenceSession(digits / "int8.onnx", providers=["CPUExecutionProvider"])
    images = np.load(digits / "inputs.npz")["image"]
    answers = [int(session.run(None, {"image": image[None]})[0].argmax()) for image in images]
    expected = np.array(answers) == np.load(digits / "labels.npy")
    assert result.outcome is Outcome.COMPLETED
    assert np.array_equal(result.summary(Arm.CANDIDATE).correct, expected)
    with open_store(tmp_path / "store") as store:
        kept = reader.traces(store, 1, trace="correct")
    assert np.array_equal(kept["value"].to_numpy().astype(bool), expected)


def test_every_raw_sample_is_kept_in_the_order_taken(
    suite: Write, inventory: Write, tmp_path: Path
) -> None:
    result = _run(suite(), inventory(here="local://"), tmp_path / "store")
    with open_store(tmp_path / "store") as store:
        kept = reader.traces(store, 1)
    taken = np.concatenate([repeat.traces[0].values for repeat in result.repeats])
    assert np.array_equal(kept["value"].to_numpy(), taken)
    assert len(kept) >= 2 * 70
    for _, one in kept.groupby("block"):
        assert (np.diff(one["t_ns"]) > 0).all()


def test_a_bare_model_just_runs_and_says_what_would_add_accuracy(
    digits: Path, suite: Write, inventory: Write, tmp_path: Path
) -> None:
    bare = tmp_path / "my.onnx"
    bare.write_bytes((digits / "int8.onnx").read_bytes())
    quick = suite("accuracy, latency", workload=False)
    made = farm.plan(str(quick), model=bare, inventory=inventory(here="local://"))
    result = _run(quick, tmp_path / "inventory.yaml", tmp_path / "store", model=bare)
    assert [skip.what for skip in made.skips] == ["accuracy"]
    assert "labels: labels.npy" in made.skips[0].reason
    assert result.outcome is Outcome.COMPLETED
    assert result.repeats[0].value("latency.p50") is not None


def test_another_accelerator_than_asked_for_is_an_error_and_never_a_result(
    suite: Write, inventory: Write, tmp_path: Path
) -> None:
    asks = suite(extra="accelerators: [cuda]\n")
    result = _run(asks, inventory(here="local://"), tmp_path / "store")
    assert result.outcome is Outcome.ERROR
    assert result.error is not None
    assert result.error.code == "wrong_accelerator"
    assert result.repeats == ()


@pytest.mark.parametrize(
    ("candidate", "verdict", "failing"),
    [
        ("int8_recalibrated", Verdict.PASS, set()),
        ("int8_ruined", Verdict.FAIL, {"accuracy.top1"}),
        ("int8_slow", Verdict.FAIL, {"latency.p50"}),
    ],
)
def test_the_gate_finds_what_is_wrong_with_a_candidate_and_nothing_else(
    candidate: str, verdict: Verdict, failing: set[str],
    digits: Path, suite: Write, inventory: Write, tmp_path: Path,
) -> None:  # fmt: skip
    answer = farm.gate(
        str(suite("accuracy, latency")),
        candidate=digits / "candidates" / f"{candidate}.onnx",
        baseline=digits,
        inventory=inventory(board="virtual://board?seed=5", camera="virtual://camera?seed=6"),
        store=tmp_path / "store",
    )
    assert answer.verdict is verdict
    failed = {c.rule.metric.name for c in answer.cells if c.verdict is Verdict.FAIL}
    assert failed == failing
    assert all(cell.simulated for cell in answer.cells)
    assert len(answer.cells) == 4


def test_no_model_is_recognised_by_its_name(
    digits: Path, suite: Write, inventory: Write, tmp_path: Path
) -> None:
    renamed = tmp_path / "int8_slow.onnx"
    renamed.write_bytes((digits / "candidates" / "int8_recalibrated.onnx").read_bytes())
    answer = farm.gate(
        str(suite("accuracy, latency")),
        candidate=renamed,
        baseline=digits,
        inventory=inventory(board="virtual://board?seed=5"),
        store=tmp_path / "store",
    )
    assert answer.verdict is Verdict.PASS


def test_a_policy_that_decides_by_what_is_never_measured_is_refused_before_anything_runs(
    digits: Path, suite: Write, inventory: Write, tmp_path: Path
) -> None:
    policy = tmp_path / "other.policy.yaml"
    policy.write_text(suite("accuracy").with_suffix(".policy.yaml").read_text())
    with pytest.raises(farm.FarmError, match=r"accuracy.top1.*does not measure"):
        farm.gate(
            str(suite("latency")), candidate=digits, baseline=digits, policy=policy,
            inventory=inventory(here="local://"), store=tmp_path / "store",
        )  # fmt: skip
    assert not (tmp_path / "store").exists()
