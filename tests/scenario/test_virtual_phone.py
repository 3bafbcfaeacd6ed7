"""The farm on a virtual phone, over ADB and with the drivers that reach hardware."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

import farm
from drivers.runtimes.ort_python import LOADGEN
from drivers.virtual.machine import switch_all_off
from farm.demo import PLANTED, DemoGate
from farm.errors import CommandTimeout
from farm.model import Address, Arm, Artifact, Device
from farm.plugins import connect
from farm.record import JobResult, Outcome, Verdict
from farm.store import schema
from farm.store.database import open_store

Write = Callable[..., Path]
PHONE = "virtual-adb://phone?seed=2"


@pytest.fixture(autouse=True)
def _power() -> Iterator[None]:
    yield
    switch_all_off()


def _run(suite: Path | str, inventory: Path, tmp_path: Path) -> JobResult:
    return farm.run(str(suite), inventory=inventory, store=tmp_path / "store").results[0]


def test_a_run_goes_over_adb_and_says_that_it_is_simulated(
    inventory: Write, tmp_path: Path
) -> None:
    result = _run("smoke", inventory(p=PHONE), tmp_path)
    assert result.outcome is Outcome.COMPLETED, result.error
    assert result.simulated
    facts = {fact.name: fact.value for fact in result.environment}
    assert facts["model"] == "Virtual phone (simulated)"
    assert facts["serial"].startswith("virtual-")
    assert "are simulated; outputs are real" in facts["simulated"]
    names = {reading.name for repeat in result.repeats for reading in repeat.readings}
    assert {"temperature", "throttled", "battery"} <= names
    assert not any(repeat.conditions for repeat in result.repeats)
    assert all(farm.results(tmp_path / "store")["simulated"])


def test_outputs_are_those_of_the_in_process_device(
    suite: Write, inventory: Write, tmp_path: Path
) -> None:
    devices = inventory(one=PHONE, two="virtual://phone?seed=3")
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
        inventory=inventory(p=PHONE),
        store=tmp_path / "store",
    )
    gate = DemoGate(candidate=candidate, planted=PLANTED[candidate], verdict=verdict)
    assert gate.as_expected, [(cell.rule.metric.name, cell.verdict) for cell in verdict.cells]
    assert all(cell.simulated for cell in verdict.cells)


@pytest.mark.parametrize(
    ("fault", "note"),
    [
        ("disconnect:8", "connection_lost"),
        ("disconnect:20", "connection_lost"),
        ("drop:30000", "connection_lost"),
        ("corrupt:1", "transfer_corrupt"),
        ("reboot:2", "rebooted"),
    ],
)
def test_a_passing_fault_is_survived_and_told(
    fault: str, note: str, suite: Write, inventory: Write, tmp_path: Path
) -> None:
    result = _run(suite(), inventory(p=f"{PHONE}&fault={fault}"), tmp_path)
    assert result.outcome is Outcome.COMPLETED, result.error
    assert result.attempts == 2
    assert any(note in line for line in result.notes), result.notes
    assert [repeat.block for repeat in result.repeats] == [0, 1]
    _nothing_is_left(tmp_path)


@pytest.mark.parametrize(
    ("fault", "family", "code"),
    [("full:1000", "device", "out_of_space"), ("unauthorized:1", "infra", "connect")],
)
def test_a_fault_that_does_not_pass_ends_the_job_with_its_cause(
    fault: str, family: str, code: str, suite: Write, inventory: Write, tmp_path: Path
) -> None:
    result = _run(suite(), inventory(p=f"{PHONE}&fault={fault}"), tmp_path)
    assert result.outcome is Outcome.ERROR
    assert result.error is not None
    assert (result.error.family, result.error.code) == (family, code), result.error
    _nothing_is_left(tmp_path)


def _nothing_is_left(tmp_path: Path) -> None:
    """No process of the phone runs, no setting is changed, and no lease is held."""
    mark = f"FARM_TREE={tmp_path}".encode()
    running = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes():
                running.append((process / "cmdline").read_bytes())
        except OSError:
            continue
    assert running == []
    with open_store(tmp_path / "store") as store, store.transaction() as connection:
        holders = connection.execute(sa.select(schema.lease.c.holder)).scalars().all()
    assert holders == [None]
    stay_on = tmp_path / "cache/farm/p/settings/global/stay_on_while_plugged_in"
    assert stay_on.read_text() == "0\n"


def test_a_process_that_hangs_is_ended_at_its_deadline(tmp_path: Path) -> None:
    device = Device(name="p", type="t", address=Address.parse(f"{PHONE}&fault=hang:1"))
    transport = connect(device)
    loadgen = transport.install(Artifact.of(LOADGEN))
    spec = json.dumps({"mode": "measure", "model": "/none", "inputs": None, "accelerator": "cpu"})
    folder = transport.root / "runs" / "one"
    process = transport.start(("python3", str(loadgen), spec), folder=folder)
    with pytest.raises(CommandTimeout):
        process.wait(3)
    assert transport.attach(process.id).poll() is not None
    transport.close()


@pytest.mark.parametrize("manner", ["version=16777216", "max_payload=4096", "latency_ms=3"])
def test_a_phone_of_another_manner_is_measured_all_the_same(
    manner: str, suite: Write, inventory: Write, tmp_path: Path
) -> None:
    result = _run(suite("accuracy, latency"), inventory(p=f"{PHONE}&{manner}"), tmp_path)
    assert result.outcome is Outcome.COMPLETED, result.error
    assert not result.notes or all("connection" not in note for note in result.notes)


def test_a_throttled_phone_makes_a_gate_invalid_and_fails_nobody(
    digits: Path, suite: Write, inventory: Write, tmp_path: Path
) -> None:
    answer = farm.gate(
        str(suite("accuracy, latency")),
        candidate=digits / "candidates" / "int8_recalibrated.onnx",
        baseline=digits,
        inventory=inventory(p=f"{PHONE}&fault=throttle:3"),
        store=tmp_path / "store",
    )
    cells = {cell.rule.metric.name: cell for cell in answer.cells}
    assert answer.verdict is Verdict.INVALID
    assert any(reason.startswith("throttled:") for reason in cells["latency.p50"].reasons)
    assert cells["accuracy.top1"].verdict is Verdict.PASS


def test_a_gate_goes_on_after_a_restart(
    digits: Path, suite: Write, inventory: Write, tmp_path: Path
) -> None:
    """Two inferences come first, then the blocks of four: the second is torn."""
    answer = farm.gate(
        str(suite("accuracy, latency")),
        candidate=digits / "candidates" / "int8_recalibrated.onnx",
        baseline=digits,
        inventory=inventory(p=f"{PHONE}&fault=reboot:9"),
        store=tmp_path / "store",
    )
    assert answer.verdict is Verdict.PASS
    frame = farm.results(tmp_path / "store", metric="latency.p50")
    assert set(frame["arm"]) == {Arm.BASELINE, Arm.CANDIDATE}


def test_several_phones_are_measured_by_one_controller(
    suite: Write, inventory: Write, tmp_path: Path
) -> None:
    phones = {f"p{n}": f"virtual-adb://phone?seed={n}" for n in range(5)}
    summary = farm.run(str(suite()), inventory=inventory(**phones), store=tmp_path / "store")
    assert [result.outcome for result in summary.results] == [Outcome.COMPLETED] * 5
    truths = {
        json.loads((tmp_path / "cache" / "farm" / name / "truth.jsonl").read_text().split("\n")[0])[
            "level"
        ]
        for name in phones
    }
    assert len(truths) == 5
