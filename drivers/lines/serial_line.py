"""What the lines have in common: a port that may vanish and come back, a console, flashing."""

from __future__ import annotations

import contextlib
import os
import re
import time
from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar

from drivers.lines import flashing
from drivers.lines.console import Console
from drivers.serial_ports.places import check_place, find_port, usb_name
from drivers.serial_ports.port import TCP, Port
from farm.connection import Line, SystemClock
from farm.errors import ConfigError, ConnectError, ConnectionLost, InfraError
from farm.model import Artifact, Device
from farm.record import Fact

BAUD = 115200
MIN_BAUD, MAX_BAUD = 300, 12_000_000
MEET_S = 5.0
"""How long a board may be silent at first: opening may have restarted it, and it may boot."""
RETURN_S = 5.0
"""How long the name of a port that vanished is waited for."""
LOOK_S = 0.05
MAX_DRAINS = 64
"""Somebody who never stops talking is not listened to for ever."""
FLASHED_S = 15.0
"""How long a new firmware may take to answer."""


class SerialLine(Line):
    """A serial port with a board behind it.

    Address: `SCHEME:///dev/serial/by-id/NAME` or any path (a link is followed anew at each
    opening), `SCHEME://SERIALNUMBER` of USB, `SCHEME://HOST:PORT` of a serial server (raw TCP).
    Options: `baud` (115200), and of flashing `flash`, `flash_command`, `flash_address`, `gdb`,
    `control` (docs/flashing-mcu.md).
    """

    simulated: ClassVar[bool] = False
    host: ClassVar[str] = ""
    options: ClassVar[tuple[str, ...]] = ("baud", *flashing.OPTIONS)

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.clock = SystemClock()
        self._said = Console()
        self._closed = False
        self._baud = _baud(device)
        self._port: Port | None = Port(
            find_port(device.address, device.name), self._baud, device.name
        )
        try:
            self._meet(MEET_S)
        except ConnectionLost as error:
            raise ConnectError(error.message, device=device.name, hint=error.hint) from error
        except BaseException:
            self.close()
            raise

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse a place, a speed or a way of flashing that can never work."""
        check_place(device.address, device.name)
        _baud(device)
        flashing.check(device)

    def describe(self) -> tuple[Fact, ...]:
        """The port, what it belongs to, and its speed."""
        name = find_port(self.device.address, self.device.name)
        path = name if name.startswith(TCP) else os.path.realpath(name)
        facts = [Fact(name="port", value=path), Fact(name="baud", value=str(self._baud))]
        if usb := usb_name(path):
            facts.append(Fact(name="usb", value=usb))
        return tuple(facts)

    def console(self) -> str:
        """The last 64 KiB of what the device said besides its answers."""
        with contextlib.suppress(ConnectionLost):
            self._drain()
        return self._said.text()

    @classmethod
    def bring_up(cls, device: Device, image: Artifact) -> None:
        """Put a whole firmware on a board that may be blank."""
        flashing.flash(device, image)

    def flash(self, image: Artifact) -> None:
        """Put a whole firmware on the device; afterwards it must answer again."""
        self._drop()
        self.bring_up(self.device, image)
        deadline = time.monotonic() + FLASHED_S
        try:
            self._meet_again(deadline)
        except InfraError as error:
            self._drop()
            raise InfraError(
                f"it does not answer after it was flashed: {error.message}",
                device=self.device.name,
                hint="is the file a firmware for this board? see docs/flashing-mcu.md",
                evidence=error.evidence,
            ) from error

    def close(self) -> None:
        """Let go of the port."""
        self._closed = True
        self._drop()

    @abstractmethod
    def _meet(self, timeout_s: float) -> None:
        """See that the device answers, and that it is the right one; begins with a fresh port.

        Raises:
            ConnectError: it does not, or is another one.
        """

    @abstractmethod
    def _hear(self, data: bytes) -> None:
        """Bytes came while nothing was asked."""

    def _drain(self) -> None:
        """Hear what came since the last request."""
        for _ in range(MAX_DRAINS):
            if self._port is None or not (data := self._turn(b"", 0.0)[0]):
                return
            self._hear(data)

    def _turn(self, unsent: bytes | memoryview, timeout_s: float) -> tuple[bytes, int]:
        """As in `Port.turn`; a port that vanished is opened again by the next request."""
        if self._port is None:
            raise ConnectionLost("the line is closed", device=self.device.name)
        try:
            return self._port.turn(unsent, timeout_s)
        except ConnectionLost:
            self._drop()
            raise

    def _ready(self, deadline: float) -> None:
        """Have an open port, with the right device behind it."""
        if self._port is None and not self._closed:
            self._come_back(min(RETURN_S, deadline - time.monotonic()))
            try:
                self._meet(max(LOOK_S, deadline - time.monotonic()))
            except BaseException:
                self._drop()
                raise

    def _meet_again(self, deadline: float) -> None:
        """Wait for a board that starts; one with its own USB leaves the bus meanwhile."""
        while True:
            self._come_back(deadline - time.monotonic())
            try:
                self._meet(max(LOOK_S, deadline - time.monotonic()))
            except ConnectionLost:
                if time.monotonic() >= deadline:
                    raise
            else:
                return

    def _come_back(self, patience_s: float) -> None:
        """Open the port anew, which may need a moment to be there."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                self._port = Port(
                    find_port(self.device.address, self.device.name), self._baud, self.device.name
                )
            except ConnectError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(LOOK_S)
            else:
                return

    def _drop(self) -> None:
        if self._port is not None:
            self._port.close()
            self._port = None


def unpinned(device: Device) -> Device:
    """The same device, whichever board it is."""
    options = tuple(pair for pair in device.options if pair[0] != "serial")
    inside = tuple(pair for pair in device.address.options if pair[0] != "serial")
    return replace(device, options=options, address=replace(device.address, options=inside))


def _baud(device: Device) -> int:
    """The speed of the line.

    Raises:
        ConfigError: it is none.
    """
    text = device.option("baud", str(BAUD))
    if not re.fullmatch(r"[0-9]{3,8}", text) or not MIN_BAUD <= int(text) <= MAX_BAUD:
        raise ConfigError(
            f"baud '{text}' is no speed of a serial line",
            device=device.name,
            hint=f"write for example 'baud: {BAUD}', at most {MAX_BAUD}",
        )
    return int(text)
