"""A virtual X-NUCLEO-LPM01A: words and numbers as firmware 1.0.6 sends them.

That it can be told to watch both edges of D7 is an assumption: only `eventsrc d7 fal` is published,
and that its edges are called `ris` all the same.

Address: `virtual-lpm01a://?volts=3.0&sync=D7&seed=N&gain=G&fault=KIND:AT,KIND:AT`. Faults: `event`
(the AT-th edge of a measurement is not told), `error` (the AT-th order is refused), `warm` (6
degrees warmer from the AT-th order on); and, at the AT-th sample of a measurement, `lose` (twenty
samples are missing), `stall` (silent for 2 s), `over` (too much current: it ends), `unplug` (away
for half a second).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import numpy as np

from drivers.virtual.serial_meter import SerialMeter, check_meter, switched_on
from farm.errors import ConfigError
from farm.model import Address, Device
from farm.protocols import VirtualMeter

PROMPT = "\r\nPowerShield > "
PLAIN = (
    "htc", "hrc", "acqmode", "acqtime", "calib", "format", "funcmode", "lcd", "output", "pwr",
    "pwrend", "trigdelay", "trigsrc", "volt",
)  # fmt: skip
"""Orders that it only acknowledges here."""
EDGES = {"ris": (1,), "fal": (-1,), "both": (1, -1)}
RATES = {"1k": 1000, "2k": 2000, "5k": 5000}
LOST = 20
TURN_S = 0.005
NOISE = 1e-3
WARM_C = 6.0


class VirtualLpm01a(VirtualMeter):
    """An LPM01A that exists for as long as the controller's process."""

    options: ClassVar[tuple[str, ...]] = ("volts", "seed", "fault", "gain")
    meter_class: ClassVar[str] = "lpm01a"
    inputs: ClassVar[tuple[str, ...]] = ("D7",)

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse an unknown fault, and a gain, a seed and a voltage that are none."""
        check_meter(device.metered_by, Lpm01aUnit.faults)
        text = device.metered_by.option("volts")
        if not text.replace(".", "", 1).isdecimal() or not 1.8 <= float(text) <= 3.3:
            raise ConfigError(
                f"volts '{text}' is no voltage that an LPM01A can give",
                device=device.name,
                hint="write what the board needs, 1.8 to 3.3, such as volts=3.0",
            )

    @classmethod
    def start(cls, device: Device) -> Address:
        """Switch it on, once per process; the address where the production meter finds it."""
        return switched_on(Lpm01aUnit, device)


class Lpm01aUnit(SerialMeter):
    """One unit."""

    scheme: ClassVar[str] = "lpm01a"
    faults: ClassVar[tuple[str, ...]] = (
        "event", "error", "warm", "lose", "stall", "over", "unplug",
    )  # fmt: skip

    def __init__(self, device: Device, folder: Path) -> None:
        super().__init__(device, folder)
        self._heard = b""
        self._orders = 0
        self._celsius = 28.0
        self._rate_hz = 100
        self._edges: tuple[int, ...] = ()
        self._running = False

    def hear(self, data: bytes) -> None:
        """Obey, and measure."""
        *lines, self._heard = (self._heard + data).split(b"\n")
        for line in lines:
            if words := line.decode("ascii", "replace").split():
                self._orders += 1
                self._obey(words)
        if self._running:
            self._measure()
        self.turn_s = TURN_S if self._running else None

    def _obey(self, words: list[str]) -> None:
        order = " ".join(words)
        if self.strikes("warm", self._orders):
            self._celsius += WARM_C
        if words == ["stop"]:
            if self._running:
                self._running = False
                self._say(f"{PROMPT}Acquisition completed")
            return
        if self.strikes("error", self._orders) or (answer := self._answer(words)) is None:
            self._say(f"{PROMPT}error {order}\r\nError detail: Command unknown")
            return
        self._say(f"{PROMPT}ack {order}{answer}\r\n")
        if words == ["start"]:
            self._begin()

    def _answer(self, words: list[str]) -> str | None:
        """What follows the acknowledgement, None for an order that makes no sense."""
        match words:
            case ["freq", rate] if rate in RATES:
                self._rate_hz = RATES[rate]
            case ["eventsrc", "d7", edge] if edge in EDGES:
                self._edges = EDGES[edge]
            case ["powershield"]:
                return f" PowerShield present: {self.seed:08X}"
            case ["version"]:
                return " 1.0.6"
            case ["status"]:
                return " ok"
            case ["temp", "degc"]:
                return f" {self._celsius:.1f}"
            case [word, *_] if word not in (*PLAIN, "start"):
                return None
        return ""

    def _begin(self) -> None:
        self._running = True
        self._count = self._events = self._back_at = 0
        self._begun_ns = self.now_ns()
        self._pin = int(self.rail.pin_at(np.array([self._begun_ns], np.int64))[0])

    def _measure(self) -> None:
        """Tell the samples whose time has come."""
        step_ns = 10**9 // self._rate_hz
        until_ns = self.now_ns()
        due = min((until_ns - self._begun_ns) // step_ns - self._count, self._rate_hz)
        if due <= 0:
            return
        edges_ns = self._begun_ns + step_ns * np.arange(self._count, self._count + due + 1)
        joules = self.rail.mean_power_w(edges_ns) * self.gain / self._rate_hz
        joules *= 1 + self.noise.normal(0, NOISE, int(due))
        pins = self.rail.pin_at(edges_ns[1:])
        for joule, pin in zip(joules, pins, strict=True):
            if self.strikes("lose", self._count):
                self._back_at = self._count + LOST
            if self._happens():
                return
            self._tell(float(joule), int(pin), lost=self._count < self._back_at)
            self._count += 1

    def _happens(self) -> bool:
        """Whether something ends this turn."""
        if self.strikes("stall", self._count):
            self.stall()
            return True
        if self.strikes("over", self._count):
            self._say("error: overcurrent")
            self._running = False
        if self.strikes("unplug", self._count):
            self._running = False
            self.unplug()
        return not self._running

    def _tell(self, joules: float, pin: int, *, lost: bool) -> None:
        """One sample, and what comes before it."""
        if self._count and self._count % self._rate_hz == 0:
            self._say(f"TimeStamp: {self._count // self._rate_hz:03d}s 000ms, buff 00%")
        if pin != self._pin:
            if pin - self._pin in self._edges:
                if not self.strikes("event", self._events + 1):
                    self._say(f"event {self._events % 100:02d} ris")
                self._events += 1
            self._pin = pin
        if not lost:
            self._say(_as_text(joules))

    def _say(self, line: str) -> None:
        self.say(f"{line}\r\n".encode())


def _as_text(joules: float) -> str:
    """Four digits and a power of ten: 640.9e-6 is 6409-07."""
    if joules <= 0:
        return "0000-00"
    exponent = math.floor(math.log10(joules)) - 3
    digits = round(joules / 10.0**exponent)
    if digits == 10000:
        digits, exponent = 1000, exponent + 1
    return f"{digits:04d}{exponent:+03d}"
