"""The Power Profiler Kit II of Nordic: current at 100 kS/s in five ranges, eight logic inputs."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from typing import ClassVar

import numpy as np

from drivers.meters.kept_port import KeptPort, Piece, release
from drivers.meters.ppk2_calibration import MAX_BYTES, Calibration, is_whole, read_calibration
from drivers.meters.ppk2_clock import SAMPLE_NS, ArrivalWatch
from drivers.meters.ppk2_words import WORD, WordDecoder
from drivers.serial_ports import places
from farm.connection import Connection
from farm.errors import ConfigError, ConnectError, MeterGap
from farm.metering import Chunk, ClockDomain, MeterFacts, VoltageSource
from farm.model import Device
from farm.protocols import Meter

START, STOP, CALIBRATION, POWER_ON = b"\x06", b"\x07", b"\x19", b"\x0c\x01"
AMPERE, SOURCE = 1, 2
MODES = {"ampere": AMPERE, "source": SOURCE}
VOLTS = (0.8, 5.0)
QUIET_S = 0.15
"""So long without a byte, and it has stopped."""
STOP_S = 10.0
AGAIN_S = 1.0
ANSWER_S = 3.0
TRIES = 3
BATCH_BYTES = 40_000
"""A tenth of a second is decoded at once; until then its keeper has it."""
NAP_S = 0.02


class Ppk2(Meter):
    """One meter; its port stays open for life, because it cuts off what it feeds when that closes.

    Address: `ppk2://SERIALNUMBER` or the path of its port, `ppk2:///dev/ttyACM1`. Options: `volts`,
    which it cannot sense: with `mode=ampere` (the default) what another supply gives, with
    `mode=source` what it shall give itself.
    """

    options: ClassVar[tuple[str, ...]] = ("mode", "volts")
    meter_class: ClassVar[str] = "ppk2"
    inputs: ClassVar[tuple[str, ...]] = tuple(f"D{number}" for number in range(8))

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse a place, a mode or a voltage that can never work."""
        address = device.metered_by
        assert address is not None
        if not re.fullmatch(r"/[^\s]+|[0-9A-Za-z]+", address.place):
            raise ConfigError(
                f"'{address.place}' names no meter",
                device=device.name,
                hint="write ppk2://SERIALNUMBER or ppk2:///dev/serial/by-id/NAME",
            )
        _mode(device)
        _volts(device)

    def __init__(self, device: Device, connection: Connection) -> None:
        del connection  # it needs nothing of the device
        self._device = device.name
        self._mode, self._volts = _mode(device), _volts(device)
        self._wire = _wire(device)
        path, self._serial = _find(device)
        self._port = KeptPort(path, device.name)
        try:
            self._calibration = self._set_up(self._ask())
        except BaseException:
            self._port.close()
            raise
        self._restart()

    def facts(self) -> MeterFacts:
        """Its number, its calibration, and the voltage that its power is told for."""
        return MeterFacts(
            meter_class=self.meter_class,
            model="Nordic PPK2",
            serial=self._serial,
            calibration=self._calibration.digest,
            clock=ClockDomain.METER,
            rate_hz=1e9 / SAMPLE_NS,
            regular=True,
            voltage=VoltageSource.SET if self._mode == SOURCE else VoltageSource.DECLARED,
            voltage_v=self._volts,
        )

    def start(self) -> None:
        """Begin to sample; whatever it still sends of an earlier start is thrown away first."""
        self._quieten()
        self._restart()
        self._port.write(START)

    def read(self, *, timeout_s: float) -> Chunk:
        """A tenth of a second or more, or what came by the deadline."""
        deadline = time.monotonic() + timeout_s
        pieces = self._port.read(timeout_s)
        size = sum(len(piece.data) for piece in pieces)
        while pieces and size < BATCH_BYTES and (left_s := deadline - time.monotonic()) > 0:
            time.sleep(min(NAP_S, left_s))
            more = self._port.read(0.0)
            pieces += more
            size += sum(len(piece.data) for piece in more)
        return self._decoded(pieces) if pieces else Chunk.empty()

    def stop(self) -> None:
        """Sample no more; the device is fed as before."""
        self._port.write(STOP)

    def close(self) -> None:
        """Leave the port to its keeper, which keeps the device fed."""
        self._port.close()

    @classmethod
    def release(cls, device: Device) -> bool:
        """Let its port be closed; the device that it feeds loses its power.

        Returns:
            Whether it was open.

        Raises:
            InfraError: somebody measures with it.
        """
        return release(_find(device)[0], device.name)

    def _restart(self) -> None:
        self._decoder = WordDecoder(self._calibration, self._volts, self._device)
        self._watch = ArrivalWatch()
        self._words = 0.0  # that came
        self._unseen = 0  # lost samples that the counter did not show
        self._anchor_ns: int | None = None

    def _decoded(self, pieces: list[Piece]) -> Chunk:
        """The samples of some pieces, timed by the meter's clock; the first by the host's."""
        known = self._decoder.lost + self._unseen
        found, least_ns = 0, []
        for piece in pieces:
            self._words += len(piece.data) / WORD
            samples = int(self._words) + known + found
            least_ns.append(piece.arrived_ns - samples * SAMPLE_NS)
            found += self._watch.see(piece.arrived_ns, samples)
        self._unseen += found
        if self._anchor_ns is None:
            self._anchor_ns = min(least_ns)
        came = self._decoder.feed(b"".join(piece.data for piece in pieces))
        index = came.index + self._unseen
        logic = np.empty(0, np.uint8)
        if self._wire is not None:
            line, low_means_high = self._wire
            logic = (came.logic >> np.uint8(line) & np.uint8(1)) ^ np.uint8(low_means_high)
        return Chunk(
            t_ns=self._anchor_ns + (index + 1) * SAMPLE_NS,
            power_w=came.current_a * self._volts,
            logic=logic,
            range=came.range,
            lost=came.lost + found,
            saturated=came.saturated,
        )

    def _set_up(self, told: Calibration) -> Calibration:
        """Have it as the inventory says, without a moment of a wrong voltage; power stays on."""
        millivolts = round(1000 * self._volts)
        right_volts = self._mode == AMPERE or told.vdd_mv == millivolts
        if not right_volts:
            self._port.write(b"\x0d" + millivolts.to_bytes(2, "big"))
        if told.mode != self._mode:
            self._port.write(b"\x11" + bytes([self._mode]))
        if not right_volts or told.mode != self._mode:
            told = self._ask()
        if told.mode != self._mode or (self._mode == SOURCE and told.vdd_mv != millivolts):
            raise MeterGap(
                f"the meter stays in mode {told.mode} at {told.vdd_mv} mV",
                device=self._device,
                hint=f"it was told mode {self._mode} and {millivolts} mV; is its firmware new?",
            )
        self._port.write(POWER_ON)  # an ampere meter without it lets no current through
        return told

    def _ask(self) -> Calibration:
        """What it tells of itself; asked again if it is garbled."""
        for left in reversed(range(TRIES)):
            self._quieten()
            self._port.write(CALIBRATION)
            text, deadline = b"", time.monotonic() + ANSWER_S
            while not is_whole(text) and len(text) < MAX_BYTES:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    break
                text += b"".join(piece.data for piece in self._port.read(left_s))
            try:
                return read_calibration(text, self._device)
            except MeterGap:
                if not left:
                    raise
        raise AssertionError

    def _quieten(self) -> None:
        """Stop it, whoever started it, and throw away what is under way."""
        begun = told = time.monotonic()
        self._port.write(STOP)
        while True:
            with suppress(MeterGap):  # nobody wants those bytes
                if not self._port.read(QUIET_S):
                    return
            now = time.monotonic()
            if now > begun + STOP_S:
                raise MeterGap(
                    "the meter does not stop sending",
                    device=self._device,
                    hint="is it a PPK2? unplug it, and try again",
                )
            if now > told + AGAIN_S:
                self._port.write(STOP)
                told = now


def _mode(device: Device) -> int:
    text = device.metered_by.option("mode", "ampere")
    if text not in MODES:
        raise ConfigError(
            f"mode '{text}' is none of a PPK2",
            device=device.name,
            hint="write mode=ampere, or mode=source if it feeds the device itself",
        )
    return MODES[text]


def _volts(device: Device) -> float:
    text = device.metered_by.option("volts")
    try:
        volts = float(text)
    except ValueError:
        volts = 0.0
    if not VOLTS[0] <= volts <= VOLTS[1]:
        raise ConfigError(
            f"volts '{text}' is no voltage between {VOLTS[0]:g} and {VOLTS[1]:g}",
            device=device.name,
            hint="a PPK2 senses no voltage: write the one the device is fed with, as volts=3.3",
        )
    return volts


def _wire(device: Device) -> tuple[int, bool] | None:
    """The logic input that the device is wired to, and whether low means high."""
    sync = device.metered_by.option("sync")
    return (int(sync.lstrip("!D")), sync.startswith("!")) if sync else None


def _find(device: Device) -> tuple[str, str]:
    """The path of its port, and its serial number as far as it is known.

    Raises:
        ConnectError: it is not plugged in.
    """
    place = device.metered_by.place
    if place.startswith("/"):
        return place, places.usb_name(place).rpartition(" ")[2]
    ports = places.ports_with_number(place)
    # Newer ones have a second port, which is for something else.
    measuring = [port for port in ports if (port.location or "").endswith("1")] or ports
    if not measuring:
        raise ConnectError(
            f"no PPK2 with the serial number '{place}' is plugged in",
            device=device.name,
            hint="plug it in and switch it on; see: ls -l /dev/serial/by-id",
        )
    return str(measuring[0].device), place
