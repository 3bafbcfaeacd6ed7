"""An update of a device is a boundary: nothing is compared, pooled or expected across it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import farm
from drivers.virtual.platform import VirtualPlatform
from farm.calibration import measure_noise
from farm.cli import main
from farm.execution import Step
from farm.model import Address, Arm, ArmModel, Artifact, Device, Job, Load, Measure, Workload
from farm.record import (
    ArmSummary,
    Fact,
    JobResult,
    Measurement,
    Outcome,
    Purpose,
    Repeat,
    Revision,
    RunRecord,
    Verdict,
)
from farm.request import Where
from farm.store import rows, writer
from farm.store.database import Store, open_store

Write = Callable[..., Path]
START = datetime(2026, 1, 1, tzinfo=UTC)
OTA, NIGHTS = 14, 28
BOARD, SLOW = "virtual://board?seed=1", "virtual://camera?seed=1"


@pytest.fixture
def update(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Gives every virtual device another system, as an update over the air does."""
    told = VirtualPlatform.facts
    systems = ["virtual"]

    def facts(platform: VirtualPlatform) -> tuple[Fact, ...]:
        return tuple(
            replace(fact, value=systems[-1]) if fact.name == "os" else fact
            for fact in told(platform)
        )

    monkeypatch.setattr(VirtualPlatform, "facts", facts)
    return systems.append


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str]]:
    """Runs the command line in this process; returns exit code and stdout."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str]:
        line = ["farm", *words, "--store", tmp_path / "store"]
        monkeypatch.setattr(sys, "argv", [str(word) for word in line])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().out

    return run


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store") as opened:
        yield opened


def _model(arm: Arm, sha256: str) -> ArmModel:
    file = Artifact(path=Path("m"), sha256=sha256, size_bytes=7)
    return ArmModel(arm=arm, name=f"{sha256}.onnx", artifact=file)


def _job(
    store: Store, day: int, level: float, sha256: str, purpose: Purpose, canary: float = 0.0,
    commit: str = "",
) -> None:  # fmt: skip
    """One job of one model on a phone that is updated at `OTA`; a canary may watch over it."""
    started = START + timedelta(days=day, hours=purpose is Purpose.AD_HOC)
    run_id = f"{started:%Y%m%d-%H%M%S}-{purpose:.6}-{sha256}"
    record = RunRecord(
        id=run_id, kind="run", suite="s", started=started, planned=1,
        revision=Revision(commit=commit or f"c{day:02}", purpose=purpose),
    )  # fmt: skip
    writer.begin_run(store, record)
    noise = np.random.default_rng([day, len(sha256)]).normal(1, 0.003)
    measured = (Measurement(metric="latency.p50", unit="ns", value=5e6 * level * noise, n=3),)
    result = JobResult(
        job=Job(
            workload=Workload(name="digits", digest="d"),
            device=Device(name="p1", type="phone", address=Address(scheme="local", place="")),
            runtime="ort", accelerator="cpu", load=Load(), measures=(Measure.LATENCY,), rounds=1,
            arms=(_model(Arm.CANDIDATE, sha256),),
        ),
        outcome=Outcome.COMPLETED, started=started, finished=started, accelerator="cpu",
        simulated=True, arms=(ArmSummary(arm=Arm.CANDIDATE, measurements=measured),),
        environment=(Fact(name="fingerprint", value="B" if day >= OTA else "A"),),
        canaries=_canaries(started, canary * noise) if canary else (),
    )  # fmt: skip
    writer.append_job(store, run_id, 0, result, lease_token=0)


def _canaries(started: datetime, level: float) -> tuple[Repeat, ...]:
    measured = (Measurement(metric="latency.p50", unit="ns", value=1e6 * level),)
    fact = (Fact(name="canary", value="cafe"),)
    return tuple(
        Repeat(arm=Arm.CANARY, block=0, position=position, started=started, measurements=measured,
               facts=fact)
        for position in (0, 1)
    )  # fmt: skip


def _nights(store: Store, *, ota: float, regression: float, fixed: str) -> None:
    """A model per night; the promoted one is measured by hand before the update.

    It may be measured again after it, or the suite may have a canary.
    """
    for day in range(NIGHTS):
        level = (ota if day >= OTA else 1.0) * (regression if day >= OTA else 1.0)
        canary = (ota if day >= OTA else 1.0) if fixed == "canary" else 0.0
        _job(store, day, level, f"night{day}", Purpose.NIGHTLY, canary)
    for day in (OTA - 2, OTA - 1, *((OTA, OTA + 1) if fixed == "promoted" else ())):
        _job(store, day, 0.5 * (ota if day >= OTA else 1.0), "promoted", Purpose.AD_HOC)


@pytest.mark.parametrize(
    ("ota", "regression", "fixed", "cause", "state", "code"),
    [
        (1.1, 1.0, "promoted", "environment", "environment", 0),
        (1.1, 1.0, "canary", "environment", "environment", 0),
        (1.1, 1.0, "", "undecided", "new", 1),
        (1.0, 1.1, "promoted", "model", "confirmed", 1),
        (1.0, 1.1, "canary", "model", "confirmed", 1),
        (1.1, 1.1, "promoted", "model", "confirmed", 1),
    ],
)
def test_history_and_alerts_tell_an_update_from_a_regression(
    call: Callable[..., tuple[int, str]], store: Store, ota: float, regression: float,
    fixed: str, cause: str, state: str, code: int,
) -> None:  # fmt: skip
    _nights(store, ota=ota, regression=regression, fixed=fixed)
    document: dict[str, Any] = json.loads(call("history", "--json")[1])
    (series,) = document["series"]
    assert series["boundaries"] == [
        {"index": OTA, "label": f"c{OTA}", "changed": ["fingerprint: A -> B"]}
    ]
    (step,) = series["steps"]
    assert (step["index"], step["cause"]) == (OTA, cause)
    assert step["why"].startswith("fingerprint: A -> B; ")
    shown = call("history")[1]
    assert f"boundary in 1 series at c{OTA}: fingerprint: A -> B" in shown
    by = "promoted.onnx" if fixed == "promoted" else f"the {fixed}"
    assert (f"{by}, which is the same file on both sides" in shown) is bool(fixed)

    ended, out = call("alerts", "list", "--all", "--json")
    found = json.loads(out)
    (alert,) = found["alerts"]
    assert (ended, alert["state"]) == (code, state)
    (group,) = found["groups"]
    assert (group["kind"] == "environment") is (state == "environment")
    assert call("alerts", "list", "--all")[1].count("environment incident") == (
        state == "environment"
    )


def test_what_is_measured_later_decides_an_open_step(
    call: Callable[..., tuple[int, str]], store: Store
) -> None:
    _nights(store, ota=1.1, regression=1.0, fixed="")
    assert "measure the one of c13 again on this device" in call("alerts", "list")[1]
    for day in (OTA, OTA + 1):
        _job(store, day, 0.55, "promoted", Purpose.AD_HOC)
    assert call("alerts", "list")[0] == 0
    (alert,) = json.loads(call("alerts", "list", "--state", "environment", "--json")[1])["alerts"]
    assert (alert["last"]["from"], alert["last"]["to"]) == ("new", "environment")


def test_a_revision_that_is_measured_again_keeps_its_value_of_the_old_system(
    call: Callable[..., tuple[int, str]], store: Store
) -> None:
    for day in range(OTA):
        _job(store, day, 1.0, f"night{day}", Purpose.NIGHTLY)
    for again in range(2):
        _job(store, OTA + again, 1.5, "night13", Purpose.NIGHTLY, commit=f"c{OTA - 1}")
    for day in range(OTA + 2, NIGHTS):
        _job(store, day, 1.5, f"night{day}", Purpose.NIGHTLY)
    (series,) = json.loads(call("history", "--json")[1])["series"]
    assert [boundary["index"] for boundary in series["boundaries"]] == [OTA]
    (step,) = series["steps"]
    assert (step["index"], step["cause"]) == (OTA, "environment")


def test_a_run_after_an_update_says_so_once(
    suite: Write, inventory: Write, tmp_path: Path, update: Callable[[str], None]
) -> None:
    def notes() -> list[str]:
        (result,) = farm.run(
            str(suite()), inventory=inventory(b=BOARD), store=tmp_path / "store"
        ).results
        return [note for note in result.notes if note.startswith("boundary: ")]

    assert notes() == []
    update("B")
    (note,) = notes()
    assert note.startswith("boundary: os: virtual -> B since run ")
    assert note.endswith("farm run SUITE --model OLD --device b")
    assert notes() == []


def test_a_canary_learns_anew_after_an_update(
    digits: Path, suite: Write, inventory: Write, tmp_path: Path, update: Callable[[str], None]
) -> None:
    watched = suite(extra=f"canary: {digits}\n")

    def ask(address: str, why: str) -> Verdict:
        return farm.gate(
            str(watched), candidate=digits, baseline=digits, fresh=why,
            inventory=inventory(b=address), store=tmp_path / "store",
        ).verdict  # fmt: skip

    for day in range(5):
        assert ask(BOARD, f"day {day}") is Verdict.PASS
    assert ask(SLOW, "sick") is Verdict.INVALID
    update("B")
    assert ask(SLOW, "updated, and slower ever since") is Verdict.PASS


def test_noise_of_another_system_is_unknown(
    digits: Path, suite: Write, inventory: Write, tmp_path: Path,
    update: Callable[[str], None], call: Callable[..., tuple[int, str]],
) -> None:  # fmt: skip
    quick, devices, store = suite(), inventory(b=BOARD), tmp_path / "store"
    where = Where(inventory=devices, store=store)

    def ask() -> str:
        return "\n".join(
            farm.gate(
                str(quick), candidate=digits, baseline=digits, inventory=devices, store=store,
                fresh="again",
            ).notes
        )  # fmt: skip

    def spread() -> float | None:
        found = json.loads(call("fleet", "--inventory", devices, "--json")[1])
        value: float | None = found["devices"][0]["block_sd_pct"]
        return value

    measure_noise(str(quick), where=where, blocks=5)
    assert "noise_" not in ask()
    assert spread() is not None
    update("B")
    notes = ask()
    assert "noise_unknown: b; 'farm noise' measures it" in notes
    assert "noise_outdated: b: os: virtual -> B since its noise was measured" in notes
    assert spread() is None
    measure_noise(str(quick), where=where, blocks=5)
    assert "noise_" not in ask()
    assert spread() is not None


def test_a_question_begins_anew_when_the_system_has_changed_since(
    digits: Path, suite: Write, inventory: Write, tmp_path: Path, update: Callable[[str], None]
) -> None:
    quick, devices, store = suite(), inventory(b=BOARD), tmp_path / "store"

    def ask() -> Any:
        return farm.gate(
            str(quick), candidate=digits, baseline=digits, inventory=devices, store=store
        )

    first = ask()
    update("B")
    assert ask().run_id == first.run_id  # nobody knows of the update yet
    farm.run(str(quick), inventory=devices, store=store)
    anew = ask()
    reason = f"the system changed (b: os: virtual -> B); the blocks of run {first.run_id} are set"
    assert f"fresh: measured anew because: {reason} aside" in anew.notes
    assert anew.run_id != first.run_id
    with open_store(store) as opened:
        assert len(rows.read_jobs(opened, anew.run_id)) == 1
    again = ask()
    assert again.run_id == anew.run_id
    assert any(note.startswith("resumed: ") for note in again.notes)


def _noisy(quick: Path) -> None:
    """Let no look decide, and as many of them as there may be."""
    policy = quick.with_suffix(".policy.yaml")
    text = policy.read_text().replace("15 %", "0.01 %").replace("blocks: 5", "looks: [5, 6]")
    policy.write_text(text + "on_undecidable: inform\n")


def test_an_update_between_two_looks_sets_the_first_blocks_aside(
    digits: Path, suite: Write, inventory: Write, tmp_path: Path, update: Callable[[str], None]
) -> None:
    quick, store = suite(), tmp_path / "store"
    _noisy(quick)
    updates = iter(["B"])

    def progress(step: Step) -> None:
        if step.finished:
            for name in updates:
                update(name)

    verdict = farm.gate(
        str(quick), candidate=digits, baseline=digits, inventory=inventory(p="virtual://phone?seed=1"),
        store=store, progress=progress,
    )  # fmt: skip
    (note,) = [note for note in verdict.notes if note.startswith("fresh: ")]
    assert "(p: os: virtual -> B)" in note
    with open_store(store) as opened:
        jobs = rows.read_jobs(opened, verdict.run_id)
    told = [fact.value for job in jobs for fact in job.environment if fact.name == "os"]
    assert told == ["B", "B"]


def test_a_system_that_never_stays_ends_the_gate_with_a_hint(
    digits: Path, suite: Write, inventory: Write, tmp_path: Path, update: Callable[[str], None]
) -> None:
    quick = suite()
    _noisy(quick)
    names = iter(range(1000))
    with pytest.raises(farm.FarmError, match="a device changes while it is measured") as caught:
        farm.gate(
            str(quick), candidate=digits, baseline=digits,
            inventory=inventory(p="virtual://phone?seed=1"), store=tmp_path / "store",
            progress=lambda step: update(f"build {next(names)}") if step.finished else None,
        )  # fmt: skip
    assert "switch off its updates" in caught.value.hint


def test_an_update_inside_a_job_makes_it_unfit(
    digits: Path, suite: Write, inventory: Write, tmp_path: Path, update: Callable[[str], None]
) -> None:
    def progress(step: Step) -> None:
        if step.done == 6:
            update("B")

    verdict = farm.gate(
        str(suite()), candidate=digits, baseline=digits,
        inventory=inventory(b=f"{BOARD}&fault=reboot:7"), store=tmp_path / "store",
        progress=progress,
    )  # fmt: skip
    assert verdict.verdict is Verdict.INVALID
    assert any("system_changed: os: virtual -> B" in r for c in verdict.cells for r in c.reasons)
