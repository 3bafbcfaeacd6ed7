"""Two processes never use one device, and a dead one never keeps it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import farm
from farm.errors import LeaseLost, LeaseTimeout
from farm.lease import leased, renew
from farm.model import Address, Device
from farm.record import Outcome
from farm.store import schema
from farm.store.database import Store, open_store

Write = Callable[..., Path]

HOLD = """
import sys, time
from pathlib import Path
from farm.lease import leased
from farm.model import Address, Device
from farm.store.database import open_store
device = Device(name="here", type="t", address=Address(scheme="local", place=""), host="controller")
with open_store(Path(sys.argv[1])) as store, leased(store, device, "job:other"):
    print("held", flush=True)
    time.sleep(600)
"""


def _device(name: str, host: str = "controller") -> Device:
    return Device(name=name, type="t", address=Address(scheme="local", place=""), host=host)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def other(store: Store) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the device `here`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.folder)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_cannot_have_a_leased_device(
    store: Store, other: subprocess.Popen[str]
) -> None:
    with (
        pytest.raises(LeaseTimeout, match=f"job:other.*{other.pid}"),
        leased(store, _device("here"), "us"),
    ):
        pass


def test_devices_that_share_a_host_exclude_each_other(
    store: Store, other: subprocess.Popen[str]
) -> None:
    with pytest.raises(LeaseTimeout), leased(store, _device("virtual"), "us"):
        pass
    with leased(store, _device("far", host="far"), "us") as lease:
        assert lease.token == 1


def test_a_dead_holder_is_replaced_at_once_with_the_next_token(
    store: Store, other: subprocess.Popen[str]
) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait()
    with leased(store, _device("here"), "us") as lease:
        assert lease.token == 2


def test_a_holder_on_another_machine_is_never_replaced_by_time_alone(store: Store) -> None:
    with leased(store, _device("here"), "us"):
        pass
    with store.transaction() as connection:
        connection.execute(
            schema.lease.update().values(holder="job:far", node="elsewhere", until=time.time() - 9)
        )
    with pytest.raises(LeaseTimeout, match="lost"), leased(store, _device("here"), "us"):
        pass


def test_a_lease_that_was_taken_over_cannot_be_renewed(store: Store) -> None:
    with leased(store, _device("here"), "us") as lease:
        with store.transaction() as connection:
            connection.execute(schema.lease.update().values(token=lease.token + 1))
        with pytest.raises(LeaseLost):
            renew(store, lease)


def test_a_run_on_a_leased_device_is_aborted_and_the_lab_is_told(
    other: subprocess.Popen[str], store: Store, suite: Write, inventory: Write
) -> None:
    summary = farm.run(str(suite()), inventory=inventory(here="local://"), store=store.folder)
    assert summary.results[0].outcome is Outcome.ABORTED
    assert summary.exit_code == 4


def test_a_run_waits_for_a_device_when_told_to(
    other: subprocess.Popen[str], store: Store, suite: Write, inventory: Write
) -> None:
    killer = subprocess.Popen(["sh", "-c", f"sleep 1; kill -9 {other.pid}"])
    summary = farm.run(
        str(suite()), inventory=inventory(here="local://"), store=store.folder, wait_s=60
    )
    killer.wait()
    assert summary.results[0].outcome is Outcome.COMPLETED


def test_what_a_dead_controller_left_running_is_swept_before_the_next_run(
    suite: Write, inventory: Write, tmp_path: Path
) -> None:
    long = suite().with_name("long.yaml")
    long.write_text(suite().read_text().replace("min_duration_s: 0.01", "min_duration_s: 50"))
    devices = inventory(here="local://")
    controller = subprocess.Popen(
        [sys.executable, "-m", "farm.cli", "run", str(long), "--inventory", str(devices),
         "--store", str(tmp_path / "store")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    runs = tmp_path / "cache" / "farm" / "here" / "runs"
    while not (pids := list(runs.glob("*/pid"))) or not pids[0].read_text().strip():
        assert controller.poll() is None
        time.sleep(0.02)
    stray = int(pids[0].read_text().split()[0])
    controller.kill()
    controller.wait()
    os.kill(stray, 0)  # it lives on: that is what detached means
    summary = farm.run(str(suite()), inventory=devices, store=tmp_path / "store")
    assert summary.results[0].outcome is Outcome.COMPLETED
    assert any("swept" in note for note in summary.results[0].notes)
    assert not Path(f"/proc/{stray}/cmdline").exists() or _is_zombie(stray)


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
