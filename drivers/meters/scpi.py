"""Bench supplies and power analysers that speak SCPI, over whatever VISA reaches."""

from __future__ import annotations

import re
import statistics
import time
from contextlib import suppress
from functools import cache
from math import prod
from typing import ClassVar, cast

import pyvisa
from pyvisa.constants import StatusCode
from pyvisa.errors import Error as VisaError
from pyvisa.resources import MessageBasedResource

from drivers.meters.polled import BadAnswer, NoAnswer, Poller
from farm.connection import Connection
from farm.errors import ConfigError, ConnectError, ConnectionLost
from farm.metering import Chunk, ClockDomain, MeterFacts
from farm.model import Address, Device
from farm.protocols import Meter

DEFAULT_QUERY = "MEAS:POW?"
ANSWER_MS = 1000
MEET_MS = 3000
"""At the first questions it may still be busy with waking up."""
TRIES = 5
FASTEST_S = 0.02
"""No supply makes new readings more often."""
LAG_S = 0.1
"""Supplies smooth their readings, and their makers do not tell how much; a careful guess."""
NO_NUMBER = 9.9e37
"""SCPI has infinity here, and what is no number at all a little above."""
_TCP = re.compile(r"([^\s/:@]+):(\d{1,5})", re.ASCII)
_QUERY = re.compile(r":?[A-Z]+\d*(:[A-Z]+\d*)*\?( [A-Z0-9@(),:]+)?", re.ASCII | re.IGNORECASE)


class Scpi(Meter):
    """An instrument that measures what it feeds to the device, or what flows through it.

    Address: `scpi://HOST:PORT`, or `scpi://?resource=USB0::0x1AB1::0x0E11::DP8A::INSTR` with the
    name that VISA has for it. Options: `query`, the question for watts, or two for volts and
    amperes with `*` between them (`MEAS:VOLT? CH1*MEAS:CURR? CH1`); `serial`, the number in its
    answer to `*IDN?`: another instrument is refused. It is asked as fast as it answers.
    """

    options: ClassVar[tuple[str, ...]] = ("resource", "query", "serial")
    meter_class: ClassVar[str] = "supply"

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse a place that is none, and what is no question."""
        address = _address(device)
        _resource(device)
        for query in _queries(address):
            if not _QUERY.fullmatch(query):
                raise ConfigError(
                    f"'{query}' is no question of SCPI for one number",
                    device=device.name,
                    hint="write for example query=MEAS:POW? or query=MEAS:VOLT?*MEAS:CURR?",
                )

    def __init__(self, device: Device, connection: Connection) -> None:
        self.check(device)  # nobody has, if a virtual one led here
        self._device = device
        self._name = _resource(device)
        self._queries = _queries(_address(device))
        self._resource: MessageBasedResource | None = None
        self._meet()

    def facts(self) -> MeterFacts:
        """As `*IDN?` tells; its rate is what it answered with when it was met."""
        maker, model, serial, firmware = self._identity
        return MeterFacts(
            meter_class=self.meter_class,
            model=f"{maker} {model}".strip(),
            serial=serial,
            firmware=firmware,
            clock=ClockDomain.HOST,
            rate_hz=1 / self._period_s,
            lag_s=LAG_S,
        )

    def start(self) -> None:
        """Begin to ask; one that had vanished is looked for again."""
        if self._resource is None:
            self._meet()
        self._poller.restart()

    def read(self, *, timeout_s: float) -> Chunk:
        """Some answers; what is no number is counted as lost."""
        try:
            return self._poller.read(timeout_s)
        except ConnectionLost:
            self.close()
            raise

    def stop(self) -> None:
        """It says nothing by itself, and goes on feeding the device."""

    def close(self) -> None:
        """Let go of it; its output stays as it is."""
        if self._resource is not None:
            with suppress(VisaError, OSError):
                self._resource.close()
            self._resource = None

    def _meet(self) -> None:
        """Open it, and see who is there and how fast it answers."""
        try:
            self._open(MEET_MS)
            self._identity = _identity(self._ask("*IDN?"))
            self._refuse_another()
            took_s = []
            for _ in range(TRIES):
                began = time.monotonic()
                self._power_w()
                took_s.append(time.monotonic() - began)
        except ConnectError:
            self.close()
            raise
        except (BadAnswer, ConnectionLost) as error:
            complaint = self._complaint()
            self.close()
            why = error.message if isinstance(error, ConnectionLost) else str(error)
            raise ConnectError(
                f"no supply can be asked at {self._name}: {why}{complaint}",
                device=self._device.name,
                hint="is it on, is its remote control enabled, and does it know 'query'?",
            ) from error
        if self._resource is not None:
            self._resource.timeout = ANSWER_MS
        self._period_s = max(FASTEST_S, statistics.median(took_s))
        self._poller = Poller(self._power_w, self._period_s, self._device.name)

    def _refuse_another(self) -> None:
        wanted, there = _address(self._device).option("serial"), self._identity[2]
        if wanted and wanted != there:
            raise ConnectError(
                f"another instrument is there: {there or 'without a number'}, not {wanted}",
                device=self._device.name,
                hint="connect the right one, or correct 'serial' in the inventory",
            )

    def _power_w(self) -> float:
        """One reading.

        Raises:
            NoAnswer: it is silent.
            BadAnswer: it answers with no number; what it complains of is told.
            ConnectionLost: it cannot be reached any more.
        """
        values = []
        for query in self._queries:
            said = self._ask(query)
            try:
                values.append(float(said))
            except ValueError:
                raise BadAnswer(f"{said[:40]!r} to {query}{self._complaint()}") from None
            if not abs(values[-1]) < NO_NUMBER:
                raise BadAnswer(f"no number to {query}{self._complaint()}")
        return prod(values)

    def _complaint(self) -> str:
        with suppress(BadAnswer, ConnectionLost):
            said = self._ask("SYST:ERR?")
            if not said.lstrip("+").startswith("0"):
                return f"; it says {said}"
        return ""

    def _ask(self, query: str) -> str:
        """Ask once. After silence the road is made anew: a late answer would be taken for the next.

        That a connection was closed looks like silence too; then the new one is refused.
        """
        if self._resource is None:
            raise ConnectionLost("the instrument is closed", device=self._device.name)
        try:
            return str(self._resource.query(query)).strip()
        except UnicodeDecodeError as error:
            raise BadAnswer(f"no text to {query}") from error
        except (VisaError, OSError) as error:
            self.close()
            if getattr(error, "error_code", None) != StatusCode.error_timeout:
                raise self._lost(error) from error
            self._open(ANSWER_MS)
            raise NoAnswer(f"no answer to {query}") from error

    def _open(self, timeout_ms: int) -> None:
        try:
            opened = _manager().open_resource(
                self._name, open_timeout=MEET_MS, read_termination="\n", write_termination="\n"
            )
        except (VisaError, OSError, ValueError) as error:  # a ValueError names what is missing
            raise self._lost(error) from error
        self._resource = cast(MessageBasedResource, opened)
        self._resource.timeout = timeout_ms

    def _lost(self, error: Exception) -> ConnectionLost:
        return ConnectionLost(
            f"{self._name} cannot be reached: {error}",
            device=self._device.name,
            hint="check its power and cable, and what VISA needs: pyvisa-info",
        )


@cache
def _manager() -> pyvisa.ResourceManager:
    """VISA in pure Python, one for all instruments: closing it would close them all."""
    return pyvisa.ResourceManager("@py")


def _address(device: Device) -> Address:
    return device.metered_by


def _queries(address: Address) -> list[str]:
    return [query.strip() for query in address.option("query", DEFAULT_QUERY).split("*")]


def _resource(device: Device) -> str:
    """What VISA calls the place of the instrument.

    Raises:
        ConfigError: it is no place, or there are two.
    """
    address = _address(device)
    named = address.option("resource")
    tcp = _TCP.fullmatch(address.place)
    if tcp and not named and 0 < int(tcp[2]) < 65536:
        return f"TCPIP::{tcp[1]}::{tcp[2]}::SOCKET"
    if not address.place and "::" in named and named.isprintable():
        return named
    raise ConfigError(
        f"'{named or address.place}' is no place of an instrument",
        device=device.name,
        hint="write for example scpi://192.168.1.5:5025 or scpi://?resource=USB0::...::INSTR",
    )


def _identity(said: str) -> tuple[str, str, str, str]:
    """Maker, model, serial number and firmware; a number that is 0 is none.

    Raises:
        BadAnswer: these are not four words.
    """
    words = [word.strip() for word in said.split(",", 3)]
    if len(words) < 4 or not words[1]:
        raise BadAnswer(f"{said[:60]!r} to *IDN?")
    return words[0], words[1], "" if words[2].strip("0") == "" else words[2], words[3]
