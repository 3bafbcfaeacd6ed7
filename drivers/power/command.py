"""Power by commands of the controller: uhubctl, a smart socket, a relay."""

from __future__ import annotations

import shlex
from typing import ClassVar

from drivers.commands import run_command
from farm.errors import ConfigError
from farm.model import Device
from farm.protocols import Power

COMMAND_S = 30.0


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
        self._run("power_on")

    def off(self) -> None:
        """Run its opposite."""
        self._run("power_off")

    def _run(self, option: str) -> None:
        words = _read(self._device, option)
        run_command(words, option=option, device=self._device, timeout_s=COMMAND_S)


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
