"""The adb that everybody has takes a virtual phone for a phone."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drivers.virtual.phone import Phone
from farm.model import Address, Device
from tests.system.phones import WHEELS_ADB

pytestmark = pytest.mark.system

BIG = os.urandom(1 << 20) * 20
Adb = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(params=["", "&shell_v2=no&version=16777216", "&max_payload=4096"])
def phone(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Phone]:
    root = tmp_path / "phone"
    address = Address.parse(f"virtual-adb://phone?root={root}{request.param}")
    made = Phone(Device(name="p", type="t", address=address), root)
    yield made
    made.switch_off()


@pytest.fixture(params=["of the wheel", "of Debian"])
def adb(
    request: pytest.FixtureRequest, tmp_path: Path, lacks: Callable[[str], None]
) -> Iterator[Adb]:
    """Runs adb with a server and a key of its own, so that no other is disturbed."""
    program = str(WHEELS_ADB) if request.param == "of the wheel" else shutil.which("adb")
    if not program:
        lacks("'adb' is missing: apt-get install adb")
    home = tmp_path / "home"
    home.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "TMPDIR": str(tmp_path),
                   "ADB_MDNS_AUTO_CONNECT": "0"}  # fmt: skip

    def run(*words: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        command = [program, "-P", port, *map(str, words)]
        return subprocess.run(
            command, env=environment, input=stdin, capture_output=True, timeout=60, check=False
        )

    yield run
    run("kill-server")


@pytest.fixture
def on(phone: Phone, adb: Adb) -> Adb:
    """Runs adb on the phone, where somebody has accepted its key."""
    place = phone.address.place
    adb("connect", place)
    _wait_until(phone.tap)
    _wait_until(lambda: f"{place}\tdevice".encode() in adb("devices").stdout)
    return lambda *words, **more: adb("-s", place, *words, **more)


def _wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_key_is_refused_until_somebody_accepts_it(phone: Phone, adb: Adb) -> None:
    place = phone.address.place
    adb("connect", place)
    _wait_until(lambda: f"{place}\tunauthorized".encode() in adb("devices").stdout)
    assert b"unauthorized" in adb("-s", place, "shell", "true").stderr
    _wait_until(phone.tap)
    _wait_until(lambda: f"{place}\tdevice".encode() in adb("devices").stdout)
    adb("disconnect", place)
    assert b"connected to" in adb("connect", place).stdout
    assert not phone.tap()


def test_commands_have_both_outputs_an_end_and_an_input(phone: Phone, on: Adb) -> None:
    done = on("shell", "head -c 5; echo complaint >&2; exit 7", stdin=b"given")
    if phone.server.manners.shell_v2:
        assert (done.returncode, done.stdout, done.stderr) == (7, b"given", b"complaint\n")
    else:
        assert done.stdout == b"givencomplaint\n"
    assert on("exec-out", "printf 'a\\000b'").stdout == b"a\0b"
    assert on("shell", "getprop", "ro.serialno").stdout.decode().strip() == phone.serial


def test_files_and_folders_go_both_ways(on: Adb, tmp_path: Path) -> None:
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "sub" / "big").write_bytes(BIG)
    (tmp_path / "tree" / "empty").touch()
    there, back = tmp_path / "there", tmp_path / "back"
    assert on("push", tmp_path / "tree", there).returncode == 0
    assert (there / "sub" / "big").read_bytes() == BIG
    assert on("pull", there, back).returncode == 0
    assert (back / "sub" / "big").read_bytes() == BIG
    assert (back / "empty").read_bytes() == b""


def test_a_reason_is_told(on: Adb, tmp_path: Path) -> None:
    missing = on("pull", tmp_path / "none", tmp_path / "x")
    assert missing.returncode != 0
    assert b"does not exist" in missing.stdout + missing.stderr
    (tmp_path / "file").write_bytes(BIG)
    refused = on("push", tmp_path / "file", tmp_path / "file" / "below")
    assert refused.returncode != 0
    assert b"couldn't create file: " in refused.stdout + refused.stderr


@pytest.mark.parametrize("phone", ["&fault=full:5000000"], indirect=True)
def test_a_full_phone_says_so(on: Adb, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(BIG)
    full = on("push", tmp_path / "file", tmp_path / "copy")
    assert full.returncode != 0
    assert b"No space left on device" in full.stdout + full.stderr
    assert not (tmp_path / "copy").exists()
    assert on("shell", "echo here").stdout == b"here\n"
