"""Whole runs over ADB on real adbds: many at once, broken networks, kills, and hostile names."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

import farm
from drivers.platforms.android import AndroidPlatform
from drivers.transports.adb import AdbTransport
from farm.connection import Transport
from farm.record import Outcome
from farm.store import reader, rows
from farm.store.database import open_store
from farm.testing.platforms import PlatformContract
from farm.testing.probes import wait_until
from tests.system.phones import Phone
from tests.system.proxies import Proxy
from tests.system.servers import kill
from tests.system.trials import HOSTILE_NAMES, assert_kept_once

pytestmark = pytest.mark.system

Starter = Callable[..., Phone]
ROOT = Path(__file__).parents[2]
SEED = 20_261_124
CUTS = 10
GROUPS = 2
KILLS = 5
LONGEST_S = 3.0
PHONES = 20
STAY_ON = "settings/global/stay_on_while_plugged_in"
KEPT = (STAY_ON, "doze", "fixed_performance")
"""What a session changes and puts back."""


def lab(folder: Path, *phones: Phone, port: int = 0) -> Path:
    """An inventory of phones."""
    lines = ["schema: farm.inventory/1", "devices:"]
    for number, phone in enumerate(phones, 1):
        lines += [
            f"  phone-{number}:",
            "    type: phone",
            f"    address: adb://{phone.host}:{port or phone.port}",
            f"    serial: {phone.serial}",
            f"    adb_key: {phone.folder / 'adbkey'}",
            f"    root: {phone.root}",
            "    fixed_performance: yes",
        ]
    path = folder / "inventory.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def kept(phone: Phone) -> dict[str, str]:
    """The settings that a session changes, as the phone has them now."""
    return {name: (phone.state / name).read_text().strip() for name in KEPT}


class TestAndroidOnAdb(PlatformContract):
    kind = AndroidPlatform

    @pytest.fixture
    def transport(self, phone: Phone) -> Iterator[Transport]:
        before = kept(phone)
        transport = AdbTransport(phone.device("a phone's $(touch pwned)"))
        yield transport
        transport.close()
        phone.assert_nothing_is_left()
        assert kept(phone) == before or (phone.here(phone.root) / "restore-phone").exists()


def test_many_phones_are_validated_at_once(
    start_phone: Starter, digits: Path, tmp_path: Path
) -> None:
    phones = [start_phone(serial=f"FARM{number:04}") for number in range(PHONES)]
    before = [kept(phone) for phone in phones]
    at_work: set[str] = set()
    most = 0
    seen: set[tuple[str, ...]] = set()

    def watch(step: object) -> None:
        nonlocal most
        at_work.add(step.device)  # type: ignore[attr-defined]
        if step.finished:  # type: ignore[attr-defined]
            at_work.discard(step.device)  # type: ignore[attr-defined]
        most = max(most, len(at_work))
        seen.add(tuple(kept(phones[0]).values()))

    store = tmp_path / "store"
    summary = farm.run(
        str(ROOT / "suites" / "smoke.yaml"), model=digits / "int8.onnx",
        inventory=lab(tmp_path, *phones), store=store, progress=watch,
    )  # fmt: skip
    assert [(r.outcome, r.error) for r in summary.results] == [(Outcome.COMPLETED, None)] * PHONES
    assert [r.job.device.name for r in summary.results] == [f"phone-{n + 1}" for n in range(PHONES)]
    assert all(result.attempts == 1 for result in summary.results)
    assert most == PHONES
    assert ("7", "disabled", "true") in seen
    for phone, settings in zip(phones, before, strict=True):
        phone.assert_nothing_is_left()
        assert kept(phone) == settings
    with open_store(store, read_only=True) as opened:
        table = reader.jobs(opened)
        assert rows.read_holders(opened) == {}
    assert sorted(table["device"]) == sorted(f"phone-{n + 1}" for n in range(PHONES))


@pytest.mark.parametrize("group", range(GROUPS))
def test_a_run_whose_connection_is_cut_completes_or_says_why(
    group: int,
    phone: Phone,
    start_proxy: Callable[[int], Proxy],
    suite: Callable[..., Path],
    digits: Path,
    tmp_path: Path,
) -> None:
    dice = random.Random(f"{SEED} {group}")
    proxy = start_proxy(phone.port)
    quick, store, before = str(suite("accuracy, latency, memory")), tmp_path / "store", kept(phone)
    devices = lab(tmp_path, phone, port=proxy.port)
    outcomes = []
    for number in range(1, CUTS // GROUPS + 1):
        delay_s = dice.uniform(0.0, LONGEST_S)
        shutil.rmtree(phone.here(phone.root), ignore_errors=True)  # so that every run pushes again
        cut = threading.Timer(delay_s, proxy.cut)
        cut.start()
        summary = farm.run(quick, model=digits / "int8.onnx", inventory=devices, store=store)
        cut.cancel()
        (result,) = summary.results
        moment = f"seed {SEED}, group {group}, cut after {delay_s:.3f} s"
        outcomes.append(result.outcome)
        if result.outcome is not Outcome.COMPLETED:
            assert result.outcome is Outcome.ERROR, moment
            assert result.error is not None
            assert result.error.family == "infra", moment
            assert result.error.message, moment
        phone.assert_nothing_is_left()
        assert kept(phone) == before, moment
        assert_kept_once(store, number, moment)
    assert Outcome.COMPLETED in outcomes
    assert proxy.connections > 2 * len(outcomes), "no cut struck anything"


def test_a_controller_that_is_killed_leaves_nothing_after_the_next_session(
    phone: Phone, suite: Callable[..., Path], digits: Path, tmp_path: Path
) -> None:
    """Whatever moment it was killed at; the phone keeps what undoes its settings."""
    dice, struck = random.Random(SEED), 0
    quick, before = suite("accuracy, latency"), kept(phone)
    long = quick.with_name("long.yaml")  # so that none ends before it is killed
    long.write_text(quick.read_text().replace("min_duration_s: 0.01", "min_duration_s: 50"))
    devices, store = lab(tmp_path, phone), tmp_path / "store"
    command = [sys.executable, "-m", "farm.cli", "run", str(long), "--inventory", str(devices)]
    command += ["--store", str(store), "--model", str(digits / "int8.onnx")]
    for _ in range(KILLS):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: kept(phone) != before, "no setting is ever changed")
        time.sleep(dice.uniform(0.0, LONGEST_S / 2))
        process.kill()
        process.wait()
        struck += kept(phone) != before  # not where it died between undoing and changing
    assert struck, "no kill struck anything"
    summary = farm.run(str(quick), model=digits / "int8.onnx", inventory=devices, store=store)
    assert [result.outcome for result in summary.results] == [Outcome.COMPLETED]
    assert kept(phone) == before
    phone.assert_nothing_is_left()


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=ascii)
def test_hostile_names_of_model_device_and_folder_run_verbatim(
    name: str, phone: Phone, suite: Callable[..., Path], digits: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    model = folder / f"{name}.onnx"
    shutil.copy(digits / "int8.onnx", model)
    printable = os.fsencode(name).decode("utf-8", "backslashreplace")
    root = phone.root / printable.replace("\n", " ")
    inventory = lab(tmp_path, phone)
    text = inventory.read_text().replace("phone-1", json.dumps(printable, ensure_ascii=False))
    inventory.write_text(
        text.replace(f"root: {phone.root}", f"root: {json.dumps(str(root), ensure_ascii=False)}")
    )
    summary = farm.run(
        str(suite("latency")), model=model, inventory=inventory, store=tmp_path / "store"
    )
    (result,) = summary.results
    assert result.outcome is Outcome.COMPLETED, result.error
    assert phone.here(PurePosixPath(root)).is_dir()
    assert not list(tmp_path.rglob("pwned"))
    phone.assert_nothing_is_left()


def test_a_job_that_fails_carries_what_the_phone_wrote_down_meanwhile(
    phone: Phone, suite: Callable[..., Path], digits: Path, tmp_path: Path
) -> None:
    """Its store keeps it, and nothing that was written before the job."""
    quick = suite("latency")
    quick.write_text(quick.read_text().replace("min_duration_s: 0.01", "min_duration_s: 20"))
    began = time.time()
    log = phone.state / "logcat"
    log.write_text(f"{began - 3600:.3f}  1  1 I boot: an hour ago\n")

    def kill_runner() -> None:
        """As a phone does that is short of memory, also when the job is taken up again."""
        while not ended.wait(0.05):
            for pid in _runners(phone):
                with log.open("a") as file:
                    file.write(f"{time.time():.3f}  1  1 I lowmemorykiller: Kill the runner\n")
                kill(pid)

    ended = threading.Event()
    killer = threading.Thread(target=kill_runner)
    killer.start()
    store = tmp_path / "store"
    summary = farm.run(
        str(quick), model=digits / "int8.onnx", inventory=lab(tmp_path, phone), store=store
    )
    ended.set()
    killer.join()
    (result,) = summary.results
    assert result.outcome is not Outcome.COMPLETED
    with open_store(store, read_only=True) as opened:
        (row,) = reader.jobs(opened).to_dict("records")
        error = rows.read_job(opened, int(row["job_id"])).error
    assert error is not None
    (exhibit,) = (exhibit for exhibit in error.evidence if exhibit.name == "logcat")
    assert "lowmemorykiller: Kill the runner" in exhibit.text
    assert "an hour ago" not in exhibit.text
    phone.assert_nothing_is_left()


def _runners(phone: Phone) -> list[int]:
    """What measures, on the phone."""
    lines = phone.processes().items()
    begins = (str(phone.root), "--min-duration")
    return [pid for pid, line in lines if line.startswith(begins[0]) and begins[1] in line]
