"""Every fault of a virtual phone at random moments: told, survived or not, and nothing is left."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import farm
from drivers.runtimes import ort_deployment
from drivers.virtual.machine import switch_all_off
from farm.record import JobResult, Outcome
from farm.store import reader, rows
from farm.store.database import open_store
from tests.chaos import moments

Write = Callable[..., Path]
SEED = 20_261_124
MOMENTS = moments(20, usual=8)
REPEATS = 2
END_S = 20.0
"""Until what nobody waits for has ended by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault, and what may become of the run that it strikes.

    Attributes:
        latest: the last moment at which it may strike, in what it counts.
        ends: family and code of the errors in which a run may end.
        always_survived: whether no run may end in an error.
    """

    latest: int
    ends: tuple[str, str] = ("", "")
    always_survived: bool = False


FAULTS = {
    "disconnect": Fault(latest=45, always_survived=True),
    "drop": Fault(latest=60_000, always_survived=True),
    "hang": Fault(latest=5, always_survived=True),
    "corrupt": Fault(latest=3, always_survived=True),
    "reboot": Fault(latest=5, always_survived=True),
    "throttle": Fault(latest=5, always_survived=True),
    "full": Fault(latest=30_000, ends=("device", "out_of_space")),
    "unauthorized": Fault(latest=4, ends=("infra", "connect")),
}


@pytest.fixture(autouse=True)
def _power(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(ort_deployment, "START_S", 2.0)  # a hang is waited for
    monkeypatch.setattr(ort_deployment, "INFER_S", 2.0)
    yield
    switch_all_off()


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_at_any_moment_is_told_and_leaves_nothing(
    kind: str, suite: Write, inventory: Write, digits: Path, tmp_path: Path
) -> None:
    dice, fault = random.Random(f"{SEED} {kind}"), FAULTS[kind]
    quick, struck = suite("accuracy, latency"), 0
    short = quick.read_text().replace("warmup_s: 0.01", "warmup_s: 0.01, max_duration_s: 1")
    quick.write_text(short)  # a hang is waited for
    for number in range(MOMENTS):
        at = dice.randint(1, fault.latest)
        phone, store = tmp_path / f"phone-{number}", tmp_path / f"store-{number}"
        address = f"virtual-adb://phone?seed={number}&root={phone}&fault={kind}:{at}"
        (result,) = farm.run(
            str(quick), model=digits / "int8.onnx", inventory=inventory(p=address), store=store
        ).results
        moment = f"seed {SEED}, {kind}:{at}: {result.error}"
        _assert_right_end(result, fault, moment)
        _assert_kept_once(store, result, moment)
        if kind == "unauthorized":  # it let nobody in to clean up: the next session does
            farm.run(str(quick), inventory=inventory(p=address.partition("&fault")[0]), store=store)
        _assert_nothing_is_left(phone, moment)
        conditions = any(repeat.conditions for repeat in result.repeats)
        struck += result.outcome is not Outcome.COMPLETED or result.attempts > 1 or conditions
        switch_all_off()
    assert struck > MOMENTS / 4, "hardly any fault struck anything"


def _assert_right_end(result: JobResult, fault: Fault, moment: str) -> None:
    if result.outcome is Outcome.COMPLETED:
        return
    assert not fault.always_survived, moment
    assert result.outcome is Outcome.ERROR, moment
    assert result.error is not None
    assert (result.error.family, result.error.code) == fault.ends, moment
    assert result.error.message, moment


def _assert_kept_once(store: Path, result: JobResult, moment: str) -> None:
    """One job, whole or with its error, every repeat in it once, and nobody holds the device."""
    with open_store(store, read_only=True) as opened:
        assert rows.read_holders(opened) == {}, moment
        (row,) = reader.jobs(opened).to_dict("records")
        job = rows.read_job(opened, int(row["job_id"]))
        assert job.outcome == result.outcome, moment
        if job.outcome == Outcome.COMPLETED:
            blocks = reader.traces(opened, job.id).drop_duplicates(["block", "position"])
            assert sorted(blocks["block"]) == list(range(REPEATS)), moment


def _assert_nothing_is_left(phone: Path, moment: str) -> None:
    """No process of the phone runs, and no setting is changed; a sampler that lost us may sleep."""
    deadline = time.monotonic() + END_S
    while running := _running(phone):
        assert time.monotonic() < deadline, (moment, running)
        time.sleep(0.05)
    stay_on = phone / "settings/global/stay_on_while_plugged_in"
    assert stay_on.read_text() == "0\n", moment
    assert not list((phone / "farm").glob("runs/*")), moment
    assert not list((phone / "farm").rglob("*.part")), moment


def _running(phone: Path) -> list[bytes]:
    mark, found = f"FARM_TREE={phone}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes())
    return found
