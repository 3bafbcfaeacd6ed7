"""Power by commands of the controller: uhubctl, a smart socket, a relay."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
from contextlib import suppress
from typing import ClassVar

from farm.errors import ConfigError, Evidence, InfraError
from farm.model import Device
from farm.protocols import Power

COMMAND_S = 30.0
KEPT_BYTES = 64 << 10
"""How much of what a command prints is kept: the end, where the reason is."""


class CommandPower(Power):
    """Runs a command line of the inventory, split as a shell would, but without a shell.

    Options of the device:
        power_on: `uhubctl -l 1-1 -p 4 -a on`.
        power_off: its opposite.
    """

    options: ClassVar[tuple[str, ...]] = ("power_on", "power_off")

    def __init__(self, device: Device) -> None:
        self._device = device

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse command lines that are missing or cannot be split."""
        for option in cls.options:
            _read(device, option)

    def on(self) -> None:
        """Run the command that feeds the device."""
        _run(self._device, "power_on")

    def off(self) -> None:
        """Run its opposite."""
        _run(self._device, "power_off")


def _read(device: Device, option: str) -> list[str]:
    text = device.option(option)
    try:
        words = shlex.split(text)
    except ValueError:
        words = []
    if not words or not words[0] or "\0" in text:
        raise ConfigError(
            f"{option} is missing or cannot be read as a command line",
            device=device.name,
            hint=f"write for example '{option}: uhubctl -l 1-1 -p 4 -a {option[6:]}'",
        )
    return words


def _run(device: Device, option: str) -> None:
    """Run the command of an option; only its program is told, for its words may hold secrets."""
    words = _read(device, option)
    what = f"{option}: '{words[0]}'"
    # Into a file: a pipe would stay open as long as something that the command has left behind.
    with tempfile.TemporaryFile() as told:
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise InfraError(
                f"{what} cannot be run: {error.strerror}",
                device=device.name,
                hint="give the whole path of a program on the controller",
            ) from error
        try:
            status = process.wait(COMMAND_S)
        except subprocess.TimeoutExpired:
            status = None
            _end(process)
        told.seek(max(0, told.seek(0, os.SEEK_END) - KEPT_BYTES))
        text = told.read().decode("utf-8", "replace").strip()
    if status != 0:
        how = f"did not end in {COMMAND_S:g} s" if status is None else f"failed, status {status}"
        raise InfraError(
            f"{what} {how}: {text.splitlines()[-1] if text else 'it said nothing'}",
            device=device.name,
            hint="run the command by hand on the controller, as the farm's user",
            evidence=[Evidence(name="output", text=text)],
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the command and what it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
