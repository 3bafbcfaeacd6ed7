"""Meters behind a serial port that speak when they are spoken to."""

from __future__ import annotations

import time
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from drivers.meters.polled import BadAnswer, NoAnswer, Poller
from drivers.serial_ports.places import check_place, find_port
from drivers.serial_ports.port import Port
from farm.connection import Connection
from farm.errors import ConnectError, ConnectionLost
from farm.metering import Chunk, ClockDomain, MeterFacts
from farm.model import Address, Device
from farm.protocols import Meter

GAP_S = 0.3
"""An answer that has begun goes on within this time, or has broken off."""
TRIES = 3
"""A meter may be busy, or sleep, at the first question."""
MAX_DRAINS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one answer says; without serial number and firmware where the meter does not tell."""

    model: str
    serial: str = ""
    firmware: str = ""
    power_w: float


class PolledSerialMeter(Meter):
    """One that answers a question with a reading.

    Attributes:
        name: its maker's name for it, for people.
        question: as it goes over the wire.
        baud: bits per second.
        answer_s: how long an answer may take.
        period_s: from one question to the next.
        lag_s: how long it takes to settle.
    """

    name: ClassVar[str]
    question: ClassVar[bytes]
    baud: ClassVar[int]
    answer_s: ClassVar[float]
    period_s: ClassVar[float]
    lag_s: ClassVar[float]

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse a place that is none."""
        check_place(meter_address(device), device.name)

    def __init__(self, device: Device, connection: Connection) -> None:
        self._device = device
        self._port: Port | None = None
        self._unit = self._meet()
        self._poller = Poller(lambda: self._ask().power_w, self.period_s, device.name)

    def facts(self) -> MeterFacts:
        """As its first answer tells."""
        return MeterFacts(
            meter_class=self.meter_class,
            model=self._unit.model,
            serial=self._unit.serial,
            firmware=self._unit.firmware,
            clock=ClockDomain.HOST,
            rate_hz=1 / self.period_s,
            lag_s=self.lag_s,
        )

    def start(self) -> None:
        """Begin to ask; a meter that had vanished is looked for again."""
        if self._port is None:
            self._unit = self._meet()
        self._poller.restart()

    def read(self, *, timeout_s: float) -> Chunk:
        """Some answers; one that is damaged, or cut short, is counted as lost."""
        return self._poller.read(timeout_s)

    def stop(self) -> None:
        """It says nothing by itself."""

    def close(self) -> None:
        """Let go of the port."""
        if self._port is not None:
            self._port.close()
            self._port = None

    @abstractmethod
    def _take(self, said: bytes) -> Reading | None:
        """The reading in all bytes that came so far, None while there is none.

        Raises:
            BadAnswer: it is damaged.
        """

    def _accept(self, reading: Reading) -> None:
        """Refuse a unit that is not the one meant.

        Raises:
            ConnectError: it is another.
        """

    def _meet(self) -> Reading:
        """Open the port, and see who is there."""
        name = find_port(meter_address(self._device), self._device.name)
        self._port = Port(name, self.baud, self._device.name)
        why = ""
        try:
            for _ in range(TRIES):
                try:
                    reading = self._ask()
                except BadAnswer as error:
                    why = str(error)
                else:
                    self._accept(reading)
                    return reading
        except ConnectionLost as error:
            why = error.message
        except BaseException:
            self.close()
            raise
        self.close()
        raise ConnectError(
            f"no {self.name} answers at {name}: {why}",
            device=self._device.name,
            hint="is it plugged in and switched on, and is this its port?",
        )

    def _ask(self) -> Reading:
        """Ask once; what was still in the air before is thrown away.

        Raises:
            NoAnswer: nothing came.
            BadAnswer: it broke off or is damaged.
            ConnectionLost: the port vanished.
        """
        for _ in range(MAX_DRAINS):
            if not self._turn(b"", 0.0)[0]:
                break
        deadline = time.monotonic() + self.answer_s
        said, unsent = b"", self.question
        while (left := deadline - time.monotonic()) > 0:
            data, gone = self._turn(unsent, min(left, GAP_S) if said else left)
            unsent = unsent[gone:]
            said += data
            if data and (reading := self._take(said)) is not None:
                return reading
            if said and not data:
                break
        if said:
            raise BadAnswer(f"{len(said)} bytes that are no whole answer")
        raise NoAnswer("no answer")

    def _turn(self, unsent: bytes, timeout_s: float) -> tuple[bytes, int]:
        """As in `Port.turn`; a port that vanished is opened again by the next start."""
        if self._port is None:
            raise ConnectionLost("the meter is closed", device=self._device.name)
        try:
            return self._port.turn(unsent, timeout_s)
        except ConnectionLost:
            self.close()
            raise


def meter_address(device: Device) -> Address:
    """Where the meter of a device is that has one."""
    return device.metered_by
