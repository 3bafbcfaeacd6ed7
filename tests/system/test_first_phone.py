"""Every complaint of the first hour with a phone, brought about; docs/first-phone.md answers it."""

from __future__ import annotations

import ast
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

import farm.cli
from drivers.platforms.android import AndroidPlatform
from drivers.runtimes.ort_library import find_library
from drivers.transports import adb, adb_link
from drivers.transports.adb import AdbTransport
from drivers.virtual.phone import Phone as PlayedPhone
from drivers.virtual.phone_dumps import Heat, battery_dump, thermal_dump
from farm.battery import Suspicion
from farm.errors import FarmError, InfraError
from farm.model import Address, Device
from farm.protocols import Limits
from farm.store.batteries import begin_quarantine
from farm.store.database import open_store
from farm.testing.probes import wait_until
from tests.system.phones import AdbServer, Phone
from tests.system.proxies import Proxy
from tests.system.servers import free_port

pytestmark = pytest.mark.system

PAGE = Path(__file__).parents[2] / "docs" / "first-phone.md"
STLS = b"STLS" + bytes(4) * 4 + bytes(byte ^ 0xFF for byte in b"STLS")

Complain = Callable[..., str]
Starter = Callable[..., Phone]


def answered() -> dict[str, re.Pattern[str]]:
    """The messages in the page's tables; an ellipsis stands for anything."""
    tables = PAGE.read_text().split("## When something is in the way")[1]
    lines = tables.split("## What was not tried")[0].splitlines()
    rows = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    return {
        row: re.compile(".+".join(map(re.escape, row.split("…"))), re.DOTALL)
        for row in rows
        if row != "message"
    }


def assert_answered(said: str, row: str) -> None:
    """The complaint is the one that was meant, and the page has an answer to it."""
    assert answered()[row].search(said), said


@pytest.fixture
def complaint(tmp_path: Path) -> Complain:
    """What `farm doctor` or another command says of a phone."""

    def complain(command: str = "doctor", **entry: object) -> str:
        lines = ["schema: farm.inventory/1", "devices:", "  p:", "    type: phone"]
        lines += [f"    {name}: {value}" for name, value in entry.items() if value != ""]
        inventory = tmp_path / "inventory.yaml"
        inventory.write_text("\n".join(lines) + "\n")
        arguments = [command, "p", "--inventory", str(inventory)]
        if command == "doctor":
            arguments += ["--store", str(tmp_path / "store")]
        done = CliRunner().invoke(farm.cli.app, arguments)
        if isinstance(done.exception, FarmError):
            return str(done.exception)
        return " ".join(done.stdout.split())

    return complain


def known(phone: Phone, **changes: object) -> dict[str, object]:
    """A phone's entry in the inventory, and what is wrong in it."""
    entry: dict[str, object] = {
        "address": f"adb://{phone.host}:{phone.port}",
        "serial": phone.serial,
        "adb_key": phone.folder / "adbkey",
    }
    return entry | changes


@contextmanager
def listening(answer: bytes) -> Iterator[str]:
    """Somebody who says the same to everybody; where he listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener, suppress(OSError):
        visitors = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    visitors.append(listener.accept()[0])
                    visitors[-1].sendall(answer)

        server = threading.Thread(target=serve)
        server.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            server.join()
            for visitor in visitors:
                visitor.close()


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PlayedPhone]:
    """A phone that asks for keys."""
    monkeypatch.setenv("HOME", str(tmp_path))
    root = tmp_path / "played"
    address = Address.parse(f"virtual-adb://phone?root={root}")
    phone = PlayedPhone(Device(name="p", type="t", address=address), root)
    yield phone
    phone.switch_off()


class TestReaching:
    def test_a_name_that_nobody_knows(self, complaint: Complain) -> None:
        said = complaint(address="adb://no-such-phone.invalid")
        assert_answered(said, "the name of … cannot be found")

    def test_nobody_listens(self, complaint: Complain) -> None:
        said = complaint(address=f"adb://127.0.0.1:{free_port()}")
        assert_answered(said, "… cannot be reached: Connection refused")

    def test_it_is_silent(self, complaint: Complain, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (adb, adb_link):
            monkeypatch.setattr(module, "CONNECT_S", 0.3)
        with listening(b"") as place:
            said = complaint(address=f"adb://{place}")
        assert_answered(said, "… does not answer within … s")

    def test_somebody_else_listens(self, complaint: Complain) -> None:
        with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as place:
            said = complaint(address=f"adb://{place}")
        assert_answered(said, "… does not speak ADB with us: …")

    def test_it_wants_a_paired_computer(self, complaint: Complain) -> None:
        with listening(STLS) as place:
            said = complaint(address=f"adb://{place}")
        assert_answered(said, "… speaks with paired computers only")

    def test_it_does_not_know_the_key(self, complaint: Complain, played: PlayedPhone) -> None:
        said = complaint(address=f"adb://{played.address.place}")
        assert_answered(said, "… does not know this computer")

    def test_nobody_accepts(
        self, complaint: Complain, played: PlayedPhone, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in (adb, adb_link):
            monkeypatch.setattr(module, "ACCEPT_S", 0.3)
        said = complaint("enroll", address=f"adb://{played.address.place}")
        assert_answered(said, "nobody accepted within … s at …")

    def test_somebody_is_asked_as_the_page_says(self, played: PlayedPhone) -> None:
        device = Device(name="pixel8-1", type="t", address=played.address)
        told: list[str] = []

        def tap(line: str) -> None:
            told.append(line)
            threading.Thread(target=wait_until, args=(played.tap, "it never asks")).start()

        AdbTransport.introduce(device, tap)
        assert told
        assert told[0] in PAGE.read_text().splitlines()

    def test_it_was_never_met(self, complaint: Complain, phone: Phone) -> None:
        assert_answered(complaint(**known(phone, serial="")), "… shows the unknown serial …")

    def test_it_is_another_one(self, complaint: Complain, phone: Phone) -> None:
        said = complaint(**known(phone, serial="OTHER"))
        assert_answered(said, "… now shows the serial …, … was pinned")

    def test_it_has_no_serial(self, complaint: Complain, phone: Phone) -> None:
        (phone.state / "props" / "ro.serialno").unlink()
        assert_answered(complaint(**known(phone)), "it does not tell its serial number")

    def test_a_key_that_is_none(self, complaint: Complain, played: PlayedPhone) -> None:
        said = complaint(address=f"adb://{played.address.place}", adb_key="/no/such/key")
        assert_answered(said, "cannot use the key …: …")

    def test_no_server_of_adb(self, complaint: Complain) -> None:
        said = complaint(address=f"adb-server://X?server=127.0.0.1:{free_port()}")
        assert_answered(said, "no adb server answers at …: …")

    def test_a_phone_that_the_server_lacks(
        self, complaint: Complain, server_of_adb: AdbServer
    ) -> None:
        said = complaint(address=f"adb-server://NONE?server=127.0.0.1:{server_of_adb.port}")
        assert_answered(said, "the adb server has no …")

    def test_a_phone_that_does_not_know_the_server(
        self, complaint: Complain, played: PlayedPhone, server_of_adb: AdbServer
    ) -> None:
        place = played.address.place
        server_of_adb.adb("connect", place)
        said = complaint(address=f"adb-server://{place}?server=127.0.0.1:{server_of_adb.port}")
        assert_answered(said, "… does not know the computer of the adb server")

    def test_a_phone_that_hangs(self, complaint: Complain) -> None:
        with listening(b"FAIL000edevice offline") as place:
            said = complaint(address=f"adb-server://X?server={place}")
        assert_answered(said, "… is offline")

    def test_its_folder_cannot_be_written(self, complaint: Complain, phone: Phone) -> None:
        said = complaint(**known(phone, root="/proc/farm"))
        assert_answered(said, "cannot make the folder … there: …")

    def test_its_network_goes(self, phone: Phone, start_proxy: Callable[[int], Proxy]) -> None:
        proxy = start_proxy(phone.port)
        with closing(AdbTransport(phone.device(port=proxy.port))) as transport:
            threading.Timer(0.3, proxy.cut).start()
            with pytest.raises(InfraError) as caught:
                transport.run(("sleep", "20"), timeout_s=15)
        assert_answered(str(caught.value), "the connection broke while … ran: …")


def _heat(status: int, celsius: float = 30.0) -> str:
    skin = Heat(name="SKIN", kind=3, celsius=celsius, status=status)
    return thermal_dump(status=status, sensors=(skin,))


class TestFitness:
    @pytest.mark.parametrize(
        ("file", "text", "row"),
        [
            ("props/sys.boot_completed", "0", "it has not finished booting"),
            ("props/ro.boot.qemu", "1", "it is an emulator"),
            ("props/ro.build.type", "eng", "it is an engineering build"),
            ("props/ro.build.type", "userdebug", "a userdebug build: …"),
            ("dumpsys/thermalservice", _heat(0, 95), "… is at … degC, at most … to start"),
            ("dumpsys/thermalservice", _heat(3), "thermal status … (…): it slows itself down"),
            ("dumpsys/thermalservice", "", "it does not tell its thermal status: …"),
            (
                "dumpsys/thermalservice",
                _heat(0).replace("IsStatusOverride: false", "IsStatusOverride: true"),
                "somebody faked its thermal status: …",
            ),
        ],
    )
    def test_what_it_tells(
        self, complaint: Complain, phone: Phone, file: str, text: str, row: str
    ) -> None:
        (phone.state / file).write_text(f"{text}\n")
        assert_answered(complaint(**known(phone)), row)

    def test_a_core_that_it_does_not_have(self, complaint: Complain, phone: Phone) -> None:
        phone.here("/sys/devices/system/cpu/online").write_text("0-3\n")
        said = complaint(**known(phone, cpus=9))
        assert_answered(said, "cores … are to be used, and only … are online")

    def test_a_full_disk(self, start_phone: Starter) -> None:
        phone = start_phone(small_disk=True)
        with closing(AdbTransport(phone.device())) as transport:
            found = AndroidPlatform(transport).preflight(Limits())
        said = "; ".join(finding.message for finding in found)
        assert_answered(said, "… MiB free, … needed")

    def test_settings_that_it_refuses(self, phone: Phone) -> None:
        (phone.state / "fixed_performance").write_text("unsupported\n")
        for tool, lie in (
            ("settings", "[ $1 = get ] && echo 0"),
            ("dumpsys", "[ $1 = deviceidle ] && echo 1"),
        ):
            (phone.folder / "tools" / tool).write_text(f"#!/bin/sh\n{lie}\ntrue\n")
        with closing(AdbTransport(phone.device(fixed_performance="yes"))) as transport:
            said = "\n".join(AndroidPlatform(transport).prepare())
        assert_answered(said, "stay_on: the phone does not let it be set, …")
        assert_answered(said, "doze: the phone does not let it be switched off: …")
        assert_answered(said, "fixed_performance: not supported by this phone, …")


class TestRuntime:
    def test_no_ndk(
        self, complaint: Complain, start_phone: Starter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT"):
            monkeypatch.delenv(name, raising=False)
        phone = start_phone(linker=True)
        assert_answered(complaint(**known(phone)), "there is no Android NDK here")

    def test_no_library(self) -> None:
        with pytest.raises(FarmError) as caught:
            find_library("", "x86_64", android=True)
        row = "there is no official wheel of onnxruntime for Android"
        assert_answered(str(caught.value), row)


class TestBatteries:
    @pytest.mark.parametrize(
        ("dump", "row"),
        [
            (
                battery_dump(level_pct=5, celsius=25),
                "battery at … %, … needed; it charges",
            ),
            (
                battery_dump(level_pct=5, celsius=25, plugged="", status=3),
                "battery at … %, … needed; nothing charges it",
            ),
            (
                battery_dump(level_pct=50, celsius=25).replace(
                    "state:", "state:\n  (UPDATES STOPPED -- use 'reset' to restart)"
                ),
                "somebody faked its battery state: …",
            ),
            (
                battery_dump(level_pct=50, celsius=25).replace("health: 2", "health: 4"),
                "the phone calls its battery …: take the phone out, …",
            ),
            (
                battery_dump(level_pct=50, celsius=50),
                "its battery is at … degC and nothing in the phone is hotter; …",
            ),
            (
                battery_dump(level_pct=50, celsius=25, present=False),
                "it tells of no battery: charge is not checked",
            ),
        ],
    )
    def test_what_it_tells(self, complaint: Complain, phone: Phone, dump: str, row: str) -> None:
        (phone.state / "dumpsys" / "battery").write_text(dump)
        assert_answered(complaint(**known(phone)), row)

    def test_a_worn_pack(self, complaint: Complain, phone: Phone) -> None:
        supply = phone.here("/sys/class/power_supply/battery")
        supply.mkdir(parents=True)
        (supply / "charge_full").write_text("2000000\n")
        (supply / "charge_full_design").write_text("4000000\n")
        row = "its battery holds … % of what it held when new: …"
        assert_answered(complaint(**known(phone)), row)

    def test_a_pack_in_quarantine(self, complaint: Complain, phone: Phone, tmp_path: Path) -> None:
        with open_store(tmp_path / "store") as opened:
            begin_quarantine(opened, "p", [Suspicion(saw="it smells", act="take it out")])
        assert_answered(complaint(**known(phone)), "its battery is in quarantine: …")


def test_every_message_of_the_page_is_brought_about_here() -> None:
    """Each test names its row; they may run in different processes."""
    nodes = ast.walk(ast.parse(Path(__file__).read_text()))
    words = {node.value for node in nodes if isinstance(node, ast.Constant)}
    assert set(answered()) <= words
