"""A gate that is asked again goes on where it ended."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import farm
from farm.judging import GateVerdict
from farm.record import Verdict
from farm.store import reader
from farm.store.database import open_store

Write = Callable[..., Path]


def _ask(
    digits: Path, suite: Path, inventory: Path, store: Path, candidate: str, **more: str
) -> GateVerdict:
    return farm.gate(
        str(suite), candidate=digits / "candidates" / f"{candidate}.onnx", baseline=digits,
        inventory=inventory, store=store, **more,
    )  # fmt: skip


def test_asking_again_measures_nothing_and_says_so(
    digits: Path, suite: Write, inventory: Write, tmp_path: Path
) -> None:
    asked = (digits, suite("accuracy, latency"), inventory(b="virtual://board?seed=1"))
    first = _ask(*asked, tmp_path / "store", "int8_slow")
    with open_store(tmp_path / "store") as store:
        jobs = len(reader.jobs(store))
    again = _ask(*asked, tmp_path / "store", "int8_slow")
    with open_store(tmp_path / "store") as store:
        assert len(reader.jobs(store)) == jobs
    assert (again.verdict, again.run_id) == (first.verdict, first.run_id)
    assert [c.effect for c in again.cells] == [c.effect for c in first.cells]
    assert any(note.startswith("resumed: ") for note in again.notes)


def test_another_model_policy_or_a_stated_reason_is_another_question(
    digits: Path, suite: Write, inventory: Write, tmp_path: Path
) -> None:
    quick, devices, store = suite(), inventory(b="virtual://board?seed=1"), tmp_path / "store"
    first = _ask(digits, quick, devices, store, "int8_recalibrated")
    other = _ask(digits, quick, devices, store, "int8_ruined")
    anew = _ask(digits, quick, devices, store, "int8_recalibrated", fresh="new fan")
    policy = quick.with_suffix(".policy.yaml")
    policy.write_text(policy.read_text() + "# reviewed\n")
    changed = _ask(digits, quick, devices, store, "int8_recalibrated")
    runs = {first.run_id, other.run_id, anew.run_id, changed.run_id}
    assert len(runs) == 4
    assert "fresh: measured anew because: new fan" in anew.notes


def test_what_the_lab_spoilt_is_asked_anew(
    digits: Path, suite: Write, inventory: Write, tmp_path: Path
) -> None:
    quick, store = suite(), tmp_path / "store"
    hot = inventory(b="virtual://board?seed=1&fault=throttle:1")
    spoilt = _ask(digits, quick, hot, store, "int8_recalibrated")
    cool = inventory(b="virtual://board?seed=1")
    good = _ask(digits, quick, cool, store, "int8_recalibrated")
    assert spoilt.verdict is Verdict.INVALID
    assert good.verdict is Verdict.PASS
    assert good.run_id != spoilt.run_id


def test_a_killed_gate_is_resumed_in_its_run_and_keeps_its_whole_jobs(
    digits: Path, suite: Write, inventory: Write, tmp_path: Path
) -> None:
    quick, store = suite(), tmp_path / "store"
    devices = inventory(a="virtual://board?seed=1", z="local://")
    candidate = digits / "candidates" / "int8_recalibrated.onnx"
    command = [
        sys.executable, "-m", "farm.cli", "gate", str(quick), "--candidate", str(candidate),
        "--baseline", str(digits), "--inventory", str(devices), "--store", str(store),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (store / "farm.sqlite").exists() or _jobs(store) == 0:
        assert process.poll() is None
    process.kill()
    process.wait()
    answer = _ask(digits, quick, devices, store, "int8_recalibrated")
    assert _runs(store) == 1
    assert any(note.startswith("resumed: ") for note in answer.notes)
    assert {unit.blocks for cell in answer.cells for unit in cell.units} == {5}


def _jobs(folder: Path) -> int:
    try:
        with open_store(folder, read_only=True) as store:
            return len(reader.jobs(store))
    except farm.FarmError:  # it is being made
        return 0


def _runs(folder: Path) -> int:
    with open_store(folder, read_only=True) as store:
        return len(reader.runs(store))


def test_an_anchor_is_measured_in_the_same_blocks(
    digits: Path, suite: Write, inventory: Write, tmp_path: Path
) -> None:
    quick = suite("accuracy, latency")
    slow = digits / "candidates" / "int8_slow.onnx"
    digest = hashlib.sha256((digits / "float.onnx").read_bytes()).hexdigest()
    quick.with_suffix(".policy.yaml").write_text(
        "schema: farm.policy/1\nlooks: [5]\n"
        f"anchor: {{model: {digits / 'float.onnx'}, sha256: {digest}, owner: ann, "
        "reason: first, decided: 2026-01-01}\n"
        "metrics:\n  latency.p50: {gate: true, margin: 15 %, anchor_margin: 20 %}\n"
        "  accuracy.top1: {gate: true, margin: 2 points, anchor_margin: 3 points}\n"
    )
    answer = farm.gate(
        str(quick), candidate=slow, baseline=slow, workload=digits,
        inventory=inventory(b="virtual://board?seed=1"), store=tmp_path / "store",
    )  # fmt: skip
    verdicts = {(c.rule.metric.name, str(c.against)): c.verdict for c in answer.cells}
    assert verdicts == {
        ("latency.p50", "baseline"): Verdict.PASS,
        ("latency.p50", "anchor"): Verdict.FAIL,
        ("accuracy.top1", "baseline"): Verdict.PASS,
        ("accuracy.top1", "anchor"): Verdict.PASS,
    }
    with open_store(tmp_path / "store") as store:
        repeats = reader.repeats(store, 1)
    first = repeats[(repeats["block"] == 0) & (repeats["metric"] == "latency.p50")]
    arms = ["anchor", "baseline", "candidate", "candidate", "baseline", "anchor"]
    assert list(first["arm"]) == arms
