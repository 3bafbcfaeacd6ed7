"""A virtual PPK2 on a pseudo-terminal: byte for byte what the real one sends, at 100 kS/s."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from drivers.virtual.ppk2_converter import LARGEST_CODE, RANGES, Codes, Converter
from drivers.virtual.rail import rail_of
from drivers.virtual.serial_meter import (
    BEHIND_NS,
    FIFO_BYTES,
    SerialMeter,
    check_meter,
    switched_on,
)
from farm.model import Address, Device
from farm.protocols import VirtualMeter

SAMPLE_NS = 10_000
LAG_NS = BEHIND_NS + 10_000_000
TURN_S = 0.005
MOST_WORDS = 2000
"""That are made in one go."""
LEAST_WORDS = 200
ARGUMENTS = {0x0C: 1, 0x0D: 2, 0x11: 1, 0x25: 5}
"""Bytes that follow a command; all others have none."""
DROPS = (1, 63, 64, 65, 100, 128)
STALLS_MS = (50, 1000)
FAULTS = (
    "fragmented", "stale", "nan", "implausible", *(f"drop-{count}" for count in DROPS), "slip",
    "chatter", "full-scale", "stuck", *(f"stall-{ms}" for ms in STALLS_MS), "unplug",
)  # fmt: skip
"""AT of the first four: which answer with the calibration it concerns, from 1; of the others: how
many samples since it was switched on. `nan`, `implausible` and `stuck` last."""
CHATTERED, PINNED = 1000, 100
PIECE_BYTES = 100
PAUSE_S = 0.03
STALE_WORDS = 300


class Ppk2Unit(SerialMeter):
    """One meter that is switched on; it measures the rail of the device it is wired to."""

    scheme = "ppk2"
    faults = FAULTS

    def __init__(self, device: Device, folder: Path) -> None:
        super().__init__(device, folder)
        if sees := device.address.option("sees"):
            self.rail = rail_of(sees)
        kept = tuple(pair for pair in self.address.options if pair[0] != "sees")
        self.address = replace(self.address, options=kept)
        self._converter = Converter(self.noise)
        self._wire = device.address.option("sync", "D0")
        self._heard = b""
        self._later: list[bytes] = []  # pieces of an answer
        self._paused_s = 0.0
        self._asked = 0
        self._taken = 0
        self._damaged: tuple[str, ...] = ()
        self._power_up()

    def hear(self, data: bytes) -> None:
        """Commands came, or it is time for the next samples."""
        self._heard += data
        while self._heard and len(self._heard) > (more := ARGUMENTS.get(self._heard[0], 0)):
            command, told = self._heard[0], self._heard[1 : 1 + more]
            self._heard = self._heard[1 + more :]
            self._obey(command, told)
        if self._later and time.monotonic() > self._paused_s + PAUSE_S:
            self._paused_s = time.monotonic()
            self.say(self._later.pop(0))
        if self._begun_ns is not None:
            self._stream(self._begun_ns)
        self.turn_s = TURN_S if self._later or self._begun_ns is not None else None

    def _power_up(self) -> None:
        self._begun_ns: int | None = None
        self._count = 0  # samples since streaming began
        self._fed = False
        self._millivolts, self._mode = 3000, 2
        self._dropping = self._chattering = self._pinning = 0
        self._stuck = False

    def _obey(self, command: int, told: bytes) -> None:
        match command:
            case 0x06:
                self._begun_ns, self._count, self._stuck = time.monotonic_ns(), 0, False
            case 0x07:
                self._begun_ns, self._out = None, b""
            case 0x0C:
                self._fed = told == b"\x01"
            case 0x0D:
                self._millivolts = min(max(int.from_bytes(told, "big"), 800), 5000)
            case 0x11:
                self._mode = told[0]
            case 0x19:
                self._tell()
            case 0x20:
                self._power_up()

    def _tell(self) -> None:
        """The calibration, as lines of text."""
        self._asked += 1
        self._damaged += tuple(
            kind for kind in ("nan", "implausible") if self.strikes(kind, self._asked)
        )
        lines = self._converter.table()
        if "implausible" in self._damaged:
            lines[0] = "R0: 3099999953940643800000000000.0000"
        if "nan" in self._damaged:
            lines[2 * RANGES] = "GI0: -nan"
        settings = [f"VDD: {self._millivolts}", "HW: 9173", f"mode: {self._mode}"]
        answer = "\n".join(["Calibrated: 0", *lines[: 4 * RANGES], *settings,
                            *lines[4 * RANGES :], "IA: 56", "END", ""]).encode()  # fmt: skip
        if self.strikes("stale", self._asked):
            answer = self._words(STALE_WORDS, time.monotonic_ns())[:-1] + answer
        if not self.strikes("fragmented", self._asked):
            self.say(answer)
            return
        pieces = range(0, len(answer), PIECE_BYTES)
        self._later += [answer[begin : begin + PIECE_BYTES] for begin in pieces]

    def _stream(self, begun_ns: int) -> None:
        """Make what is due as far as there is room; what is not sent yet is made later."""
        due = (time.monotonic_ns() - begun_ns) // SAMPLE_NS
        while due - self._count >= LEAST_WORDS and len(self._out) < FIFO_BYTES:
            for ms in STALLS_MS:
                if self.strikes(f"stall-{ms}", self._taken):
                    self._off.wait(ms / 1000)
            if self.strikes("unplug", self._taken):
                self._power_up()
                self.unplug()
                return
            count = min(due - self._count, MOST_WORDS)
            self._out += self._words(count, begun_ns)

    def _words(self, count: int, begun_ns: int) -> bytes:
        """The next samples; faults that are due begin with the first of them."""
        numbers = self._count + np.arange(count + 1)
        edges = begun_ns - LAG_NS + numbers * SAMPLE_NS
        volts = self._millivolts / 1000 if self._mode == 2 else self.rail.volts
        currents = self.rail.mean_power_w(edges) / self.rail.volts * (self.gain * self._fed)
        ranges = self._chatter(self._converter.ranges(currents))
        codes = self._converter.codes(currents, ranges, volts)
        pinned = self._begin("full-scale", PINNED, "_pinning", count)
        codes[:pinned] = LARGEST_CODE
        self._stuck = self._stuck or self.strikes("stuck", self._taken)
        counter = np.zeros(count, np.uint32) if self._stuck else numbers[:-1].astype(np.uint32)
        inputs = self._inputs(edges[1:])
        words = codes | ranges << 14 | (counter & 63) << 18 | inputs << 24
        for dropped in DROPS:
            self._dropping += dropped * self.strikes(f"drop-{dropped}", self._taken)
        gone = min(self._dropping, count)
        self._dropping -= gone
        sent = words[gone:].astype("<u4").tobytes()
        if self.strikes("slip", self._taken):
            sent = sent[:1] + sent[2:]
        self._count += count
        self._taken += count
        return sent

    def _inputs(self, t_ns: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Codes:
        """The logic inputs at these times, shape [n]: the device's pin, where it is wired to."""
        pins = self.rail.pin_at(t_ns) ^ np.uint8(self._wire.startswith("!"))
        return pins.astype(np.uint32) << np.uint32(int(self._wire.lstrip("!D")))

    def _chatter(self, ranges: Codes) -> Codes:
        """Ranges that change every fourth sample, while that fault lasts."""
        count = self._begin("chatter", CHATTERED, "_chattering", len(ranges))
        other = ranges.copy()
        other[:count] = np.minimum(ranges[:count] + (np.arange(count) // 4 % 2), RANGES - 1)
        return other

    def _begin(self, kind: str, length: int, left: str, count: int) -> int:
        """How many of the next samples a fault that lasts for a while concerns."""
        if self.strikes(kind, self._taken):
            setattr(self, left, length)
        concerned = min(getattr(self, left), count)
        setattr(self, left, getattr(self, left) - concerned)
        return int(concerned)


class VirtualPpk2(VirtualMeter):
    """A PPK2 without hardware.

    Address: `virtual-ppk2:` with the options of `ppk2://`, and `seed`, `gain` (1.05 tells 5 % too
    much), `fault=KIND:AT,...` (`FAULTS`), `sees`: the device that it is really wired to.
    """

    options: ClassVar[tuple[str, ...]] = ("mode", "volts", "seed", "fault", "gain", "sees")
    meter_class: ClassVar[str] = "ppk2"
    inputs: ClassVar[tuple[str, ...]] = tuple(f"D{number}" for number in range(8))

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse a seed, a gain and faults that are none."""
        check_meter(device.metered_by, Ppk2Unit.faults)

    @classmethod
    def start(cls, device: Device) -> Address:
        """Switch it on."""
        return switched_on(Ppk2Unit, device)
