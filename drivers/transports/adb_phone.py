"""Phones behind an adbd, whatever the way to it is."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import ClassVar

from drivers.transports.adb_exec import Exec, lost
from drivers.transports.adb_sync import Refused, send_file
from drivers.transports.adb_wire import Wire
from drivers.transports.posix import STALL_S, PosixTransport, opened, quota_bytes
from farm.connection import SystemClock
from farm.errors import CommandTimeout, ConfigError, InfraError
from farm.model import Device
from farm.record import Fact
from farm.shell import COMMAND_S, script

ROOT = "/data/local/tmp/farm"
"""Where Android lets its shell write and execute."""

LONGEST_SERIAL = 100

_SERIAL = "getprop ro.serialno | grep . || getprop ro.boot.serialno"
"""The second is what some makers fill in."""


class PhoneWire(Wire):
    """A way to a phone that ends."""

    @abstractmethod
    def banner(self) -> tuple[Fact, ...]:
        """What adbd tells of itself."""

    @abstractmethod
    def close(self) -> None:
        """Hang up everything; closing twice is no error."""


class PhoneTransport(PosixTransport[Exec]):
    """An Android phone with adbd: commands by its shell, files by its sync service."""

    platform: ClassVar[str] = "android"
    runtime: ClassVar[str] = "ort_native"
    simulated: ClassVar[bool] = False
    host: ClassVar[str] = ""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.clock = SystemClock()
        self.allowed_bytes = quota_bytes(device) or self.allowed_bytes
        self._wire = self._make_wire(device)
        self.root = PurePosixPath("/")
        try:
            self.root = self._make_root(device.option("root") or ROOT)
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _make_wire(self, device: Device) -> PhoneWire:
        """The way to it; nothing is connected yet."""

    def describe(self) -> tuple[Fact, ...]:
        """What adbd tells of itself, and what a command costs."""
        return (*self._wire.banner(), self._exec_cost("look at the network"))

    def push(self, source: Path, target: PurePosixPath) -> None:
        """Send a file by the sync service."""
        with opened(source, "rb") as file, self._told(target):
            send_file(self._wire, file, target)

    def close(self) -> None:
        """Hang up every connection; what was started goes on."""
        self._wire.close()

    def _execute(self, argv: tuple[str, ...], cwd: PurePosixPath, *, apart: bool = False) -> Exec:
        return Exec(self._wire, argv, cwd, self.device.name)

    @contextlib.contextmanager
    def _told(self, target: PurePosixPath) -> Iterator[None]:
        """What can happen to a file under way as errors of ours."""
        try:
            yield
        except Refused as error:
            raise self._refused(target, str(error)) from error
        except TimeoutError as error:
            raise CommandTimeout(
                f"nothing of {str(target)!r} moved for {STALL_S:g} s", device=self.device.name
            ) from error
        except OSError as error:
            raise lost(f"{str(target)!r} was written", error, self.device.name) from error


def serial_of(wire: Wire, device: str) -> str:
    """The serial number of the phone.

    Raises:
        InfraError: it cannot be reached, or has none.
    """
    try:
        with contextlib.closing(Exec(wire, script(_SERIAL), PurePosixPath("/"), device)) as command:
            told = command.to_the_end(COMMAND_S).stdout.strip()
    except OSError as error:
        raise lost("it was asked for its serial number", error, device) from error
    if not told or len(told) > LONGEST_SERIAL:
        raise InfraError("it does not tell its serial number", device=device)
    return told


def insist_on_serial(wire: Wire, device: Device) -> None:
    """Refuse another phone than the one that was pinned.

    Raises:
        ConfigError: it is another one, or none was pinned.
        InfraError: it cannot be reached, or has no serial number.
    """
    shown, pinned = serial_of(wire, device.name), device.option("serial")
    if shown == pinned:
        return
    raise ConfigError(
        f"{device.address.place} now shows the serial {shown}, {pinned} was pinned"
        if pinned
        else f"{device.address.place} shows the unknown serial {shown}",
        device=device.name,
        hint=f"if it is the right phone: farm enroll {device.name}"
        if pinned
        else f"compare it with the phone's own and pin it: farm enroll {device.name}",
    )
