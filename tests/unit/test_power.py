"""Ports that feed devices: commands of the controller, and the kernel's switches of USB ports."""

from __future__ import annotations

import errno
import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from drivers.commands import KEPT_BYTES
from drivers.power import command
from drivers.power.command import CommandPower
from drivers.power.usb_port import UsbPortPower
from farm.errors import ConfigError, InfraError
from farm.model import Address, Device
from farm.testing.powers import PowerContract


def _device(**options: str) -> Device:
    address = Address(scheme="local", place="")
    return Device(name="p", type="t", address=address, options=tuple(options.items()))


# What every port promises


class TestCommandPower(PowerContract):
    kind = CommandPower

    @pytest.fixture
    def device(self, tmp_path: Path) -> Device:
        relay = shlex.quote(str(tmp_path / "relay"))
        script = f"touch {relay}", f"rm -f {relay}"
        on, off = (shlex.join(["sh", "-c", text]) for text in script)
        return _device(power_on=on, power_off=off)

    @pytest.fixture
    def feeds(self, tmp_path: Path) -> Callable[[], bool]:
        return (tmp_path / "relay").exists


class TestUsbPortPower(PowerContract):
    kind = UsbPortPower

    @pytest.fixture
    def device(self) -> Device:
        return _device(power_port="1-1.4")

    @pytest.fixture
    def feeds(self, tree: Path) -> Callable[[], bool]:
        hub = _Hub(tree, "1-1:1.0", "1-1-port4")
        return lambda: hub.disabled == "0"


# Commands


def _commands(*words: object, off: str = "true") -> Device:
    return _device(power_on=shlex.join(map(str, words)), power_off=off)


def test_each_command_runs_without_a_shell(tmp_path: Path) -> None:
    hostile = f"a b;touch {tmp_path}/pwned $(touch {tmp_path}/pwned) `x` | > '\"\n*"
    program = tmp_path / "it's a $(relay)"
    program.write_text(f'#!/bin/sh\nprintf "%s|" "$#" "$@" >>{shlex.quote(str(tmp_path / "told"))}')
    program.chmod(0o755)
    device = _commands(program, hostile, off=shlex.join([str(program), "off"]))
    CommandPower.check(device)
    power = CommandPower(device)
    power.on()
    power.off()
    assert (tmp_path / "told").read_text() == f"1|{hostile}|1|off|"
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("text", ["", "   ", "open 'quote", "''", "a\0b"])
def test_no_command_line_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match="power_off is missing or cannot be read") as caught:
        CommandPower.check(_device(power_on="true", power_off=text))
    assert "power_off: uhubctl -l 1-1 -p 4 -a off" in caught.value.hint


def test_a_command_that_fails_is_told_with_its_complaint() -> None:
    script = "echo looking; echo 'no\x1b[31m hub' >&2; exit 3"
    with pytest.raises(InfraError) as caught:
        CommandPower(_commands("sh", "-c", script, "token-4711")).on()
    assert caught.value.message == r"power_on: 'sh' failed, status 3: no\x1b[31m hub"
    assert caught.value.device == "p"
    assert caught.value.evidence[0].text.splitlines()[0] == "looking"
    assert "4711" not in f"{caught.value.message} {caught.value.hint} {caught.value.evidence}"


def test_a_silent_failure_and_a_missing_program_are_told(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="failed, status 1: it said nothing"):
        CommandPower(_commands("false")).on()
    with pytest.raises(InfraError, match="cannot be run: No such file"):
        CommandPower(_commands(tmp_path / "missing")).on()
    with pytest.raises(InfraError, match="cannot be run: Permission denied"):
        CommandPower(_commands(tmp_path)).on()


def test_a_command_that_hangs_is_killed_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "COMMAND_S", 0.5)
    script = 'sleep 1000 & echo $! >"$1"; echo waiting; wait'
    with pytest.raises(InfraError, match=r"did not end in 0\.5 s: waiting"):
        CommandPower(_commands("sh", "-c", script, "sh", tmp_path / "pid")).on()
    pid = int((tmp_path / "pid").read_text())
    for _ in range(1000):  # the kernel takes its time
        if not _runs(pid):
            return
        time.sleep(0.01)
    pytest.fail("it is still there")


def _runs(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_a_command_may_leave_something_behind(tmp_path: Path) -> None:
    script = 'sleep 1000 & echo $! >"$1"'  # keeps its output open
    CommandPower(_commands("sh", "-c", script, "sh", tmp_path / "pid")).on()
    os.kill(int((tmp_path / "pid").read_text()), 9)


def test_a_flood_of_words_is_cut_at_its_front() -> None:
    with pytest.raises(InfraError, match="the reason") as caught:
        CommandPower(_commands("sh", "-c", "yes | head -c 300000; echo the reason; exit 1")).on()
    assert len(caught.value.evidence[0].text) <= KEPT_BYTES


# USB ports


class _Hub:
    """The kernel's folders of a hub below `$FARM_TREE`."""

    def __init__(self, tree: Path, interface: str, port: str) -> None:
        bus = tree / "sys" / "bus" / "usb" / "devices"
        self.port = tree / "sys" / "devices" / interface / port
        self.port.mkdir(parents=True)
        (self.port / "disable").write_text("0\n")
        bus.mkdir(parents=True, exist_ok=True)
        (bus / interface).symlink_to(self.port.parent)

    @property
    def disabled(self) -> str:
        return (self.port / "disable").read_text().strip()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FARM_TREE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("option", "interface", "port"),
    [
        ("1-1.4", "1-1:1.0", "1-1-port4"),
        ("2-1.3.12", "2-1.3:1.0", "2-1.3-port12"),
        ("1-2", "1-0:1.0", "usb1-port2"),  # of the computer itself
    ],
)
def test_a_port_is_switched(tree: Path, option: str, interface: str, port: str) -> None:
    hub = _Hub(tree, interface, port)
    UsbPortPower.check(_device(power_port=option))
    power = UsbPortPower(_device(power_port=option))
    for _ in range(2):
        power.off()
        assert hub.disabled == "1"
    power.on()
    assert hub.disabled == "0"


def test_a_port_of_usb_3_is_switched_on_both_buses(tree: Path) -> None:
    slow, fast = _Hub(tree, "1-1:1.0", "1-1-port4"), _Hub(tree, "2-1:1.0", "2-1-port4")
    (slow.port / "peer").symlink_to(fast.port)
    UsbPortPower(_device(power_port="1-1.4")).off()
    assert (slow.disabled, fast.disabled) == ("1", "1")


@pytest.mark.parametrize(
    "text",
    ["", "4", "1-", "-1", "1-1.", "1-1..4", "1-1.4 ", "1-1.4\n", "../1-1.4", "1-1.4/../x",
     "usb1", "1-1:1.0", "1-1.٤", "1-1.444", "$(reboot)"],
)  # fmt: skip
def test_what_is_no_port_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match="is no USB port") as caught:
        UsbPortPower.check(_device(power_port=text))
    assert "power_port: 1-1.4" in caught.value.hint


def test_a_port_without_a_switch_is_told(tree: Path) -> None:
    hub = _Hub(tree, "1-1:1.0", "1-1-port4")
    for option in ("1-1.5", "3-1.4"):
        with pytest.raises(InfraError, match="there is no switch"):
            UsbPortPower(_device(power_port=option)).off()
    (hub.port / "disable").unlink()
    with pytest.raises(InfraError) as caught:
        UsbPortPower(_device(power_port="1-1.4")).off()
    assert "Linux 6.0" in caught.value.hint


def test_without_rights_the_hint_is_the_rule_that_gives_them(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _Hub(tree, "1-1:1.0", "1-1-port4")

    def refuse(path: Path, text: str) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(InfraError, match="port 1-1-port4: Permission denied") as caught:
        UsbPortPower(_device(power_port="1-1.4")).off()
    assert caught.value.hint.endswith(
        'ACTION=="bind", SUBSYSTEM=="usb", KERNEL=="1-1:1.0", '
        'RUN+="/bin/chmod a+w %S%p/1-1-port4/disable"'
    )


def test_a_hub_that_cannot_switch_is_told(tree: Path) -> None:
    hub = _Hub(tree, "1-1:1.0", "1-1-port4")
    (hub.port / "disable").unlink()
    (hub.port / "disable").symlink_to("/dev/null")  # takes all, and tells nothing of it
    with pytest.raises(InfraError, match="the hub does not switch its port 1-1-port4"):
        UsbPortPower(_device(power_port="1-1.4")).off()


def test_a_kernel_that_refuses_is_told(tree: Path) -> None:
    hub = _Hub(tree, "1-1:1.0", "1-1-port4")
    (hub.port / "disable").unlink()
    (hub.port / "disable").symlink_to("/dev/full")
    with pytest.raises(InfraError, match="cannot switch the USB port 1-1-port4"):
        UsbPortPower(_device(power_port="1-1.4")).off()
