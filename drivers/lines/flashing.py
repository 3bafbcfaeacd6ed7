"""Putting a whole firmware on a board, by the way that the inventory names."""

from __future__ import annotations

import json
import re
import shlex
import socket
from collections.abc import Callable
from contextlib import closing

from drivers.commands import run_command
from drivers.lines.firmware_file import read_firmware
from drivers.lines.gdb_remote import GdbError, GdbRemote
from drivers.serial_ports.places import find_port
from farm.errors import ConfigError, InfraError
from farm.model import Artifact, Device

OPTIONS = ("flash", "flash_command", "flash_address", "gdb", "control")
BY_HAND = "by-hand"
"""A person flashes it, and answers for what is there."""
NO_WAY = ("", BY_HAND)
COMMAND_S = 300.0
"""An ESP32 with 16 MB takes minutes at 115200 baud."""
ANSWER_BYTES = 64 << 10
CONTROL_S = 30.0
_NAMES = re.compile(r"\{image\}|\{port\}")
_PLACE = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s/:@]+):(\d{1,5})", re.ASCII)


def check(device: Device) -> None:
    """Refuse a way of flashing that can never work.

    Raises:
        ConfigError: it is unknown, or lacks what it needs.
    """
    way = device.option("flash")
    if way in NO_WAY:
        return
    if way not in _WAYS:
        raise ConfigError(
            f"flash '{way}' is no way to flash",
            device=device.name,
            hint=f"known: {', '.join(_WAYS)}, {BY_HAND}; see docs/flashing-mcu.md",
        )
    _address(device)
    if way == "command":
        _template(device)
    elif way == "gdb":
        _server(device)
    elif not device.option("control"):
        raise ConfigError(
            "flash 'relaunch' is for virtual boards, and needs their 'control'",
            device=device.name,
            hint="known for real boards: command, gdb",
        )


def flash(device: Device, image: Artifact) -> None:
    """Put a firmware on the board; nothing else may have its port open meanwhile.

    Raises:
        ConfigError: the inventory or the file is wrong.
        InfraError: it did not arrive.
    """
    check(device)
    way = device.option("flash")
    if way in NO_WAY:
        raise ConfigError(
            "there is no way to put a firmware on it" + (": it is flashed by hand" if way else ""),
            device=device.name,
            hint="write its 'flash' into the inventory: docs/flashing-mcu.md",
        )
    _WAYS[way](device, image)


def _by_command(device: Device, image: Artifact) -> None:
    """Run a tool; words are told apart before names are put in, so no name becomes two words."""
    names = {
        "{image}": str(image.path.absolute()),
        "{port}": find_port(device.address, device.name),
    }
    words = [_NAMES.sub(lambda name: names[name[0]], word) for word in _template(device)]
    # What the tool leaves behind would hold the port.
    run_command(words, option="flash_command", device=device, timeout_s=COMMAND_S, alone=True)


def _by_gdb(device: Device, image: Artifact) -> None:
    """Write and reset, and read back after the reset: some servers load an older file at one."""
    pieces = read_firmware(image.path, address=_address(device))
    try:
        with closing(GdbRemote(*_server(device))) as server:
            for piece in pieces:
                server.write(piece)
            server.reset()
            for piece in pieces:
                server.insist_on(piece)
            server.detach()
    except (OSError, GdbError) as error:
        raise InfraError(
            f"flashing through {device.option('gdb')} failed: {error}",
            device=device.name,
            hint="does the server run, and is that RAM? for flash memory take 'flash: command'",
        ) from error


def _by_relaunch(device: Device, image: Artifact) -> None:
    """Let a virtual board start with another file."""
    request = json.dumps({"kernel": str(image.path.absolute())}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(CONTROL_S)
            control.connect(device.option("control"))
            control.sendall(request)
            with control.makefile("rb") as answers:
                answer = json.loads(answers.readline(ANSWER_BYTES))
        refused = "" if answer["ok"] else str(answer["error"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InfraError(
            f"the virtual board cannot be told to start anew: {error}",
            device=device.name,
            hint="does the process that plays it still run?",
        ) from error
    if refused:
        raise InfraError(
            f"the virtual board refuses '{image.name}': {refused}",
            device=device.name,
            hint="is it a firmware for that board?",
        )


_WAYS: dict[str, Callable[[Device, Artifact], None]] = {
    "command": _by_command,
    "gdb": _by_gdb,
    "relaunch": _by_relaunch,
}


def _template(device: Device) -> list[str]:
    text = device.option("flash_command")
    try:
        words = shlex.split(text)
    except ValueError:
        words = []
    if not words or not words[0] or "{image}" not in text or "\0" in text:
        raise ConfigError(
            "flash_command is missing, cannot be split, or does not name {image}",
            device=device.name,
            hint="write for example 'flash_command: pyocd load -t stm32f405rg {image}'; see "
            "docs/flashing-mcu.md",
        )
    return words


def _server(device: Device) -> tuple[str, int]:
    text = device.option("gdb")
    match = _PLACE.fullmatch(text)
    if not match or not 0 < int(match[2]) < 65536:
        raise ConfigError(
            f"gdb '{text}' is no HOST:PORT",
            device=device.name,
            hint="write for example 'gdb: 127.0.0.1:3333', where the debugger's server listens",
        )
    return match[1].strip("[]"), int(match[2])


def _address(device: Device) -> int | None:
    """Where a raw file belongs, None if the inventory does not say."""
    text = device.option("flash_address")
    if not text:
        return None
    if not re.fullmatch(r"0[xX][0-9A-Fa-f]{1,8}|[0-9]{1,10}", text):
        raise ConfigError(
            f"flash_address '{text}' is no address",
            device=device.name,
            hint="write for example 'flash_address: 0x08000000'",
        )
    return int(text, 0) if text[:2] in ("0x", "0X") else int(text)
