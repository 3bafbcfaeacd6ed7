"""The X-NUCLEO-LPM01A, which feeds a board and measures what it draws.

It is told what to do in words, and sends energies as text: integrated over each millisecond, so
that nothing is aliased away. (As text it can do 5000 a second for any length of time; the binary
format that goes to 100 kHz has no published place for edges of its input.)
"""

from __future__ import annotations

import time
from contextlib import closing, suppress
from typing import ClassVar

from drivers.meters.lpm01a_orders import Orders
from drivers.meters.lpm01a_stream import Stream
from drivers.serial_ports.places import check_place
from farm.connection import Connection
from farm.errors import ConfigError, ConnectionLost, InfraError
from farm.metering import Chunk, ClockDomain, MeterFacts, VoltageSource
from farm.model import Address, Device
from farm.protocols import Meter

RATE_HZ = 1000
MIN_VOLTS, MAX_VOLTS = 1.8, 3.3
GATHER_S = 0.1
"""Every sample is a line of its own: so long they are gathered."""
END_S = 1.0
DRIFT_C = 5.0
"""Its maker wants it calibrated again after such a change of temperature."""
SETTINGS = (
    "output energy",
    "format ascii_dec",
    f"freq {RATE_HZ // 1000}k",
    "acqmode dyn",
    "acqtime inf",
    "trigsrc sw",
    "trigdelay 0",
    "pwrend on",
)
"""It remembers some of them from whoever used it before; the last leaves the board fed."""


class Lpm01a(Meter):
    """An LPM01A behind its serial port.

    Address: `lpm01a:///dev/serial/by-id/NAME?volts=3.0` or `lpm01a://SERIALNUMBER?volts=3.0`. The
    option `volts` is what the board is fed with, 1.8 to 3.3. Its input D7 is of use where its
    firmware tells both edges; whether any does is not known here, and it is asked.
    """

    options: ClassVar[tuple[str, ...]] = ("volts",)
    meter_class: ClassVar[str] = "lpm01a"
    inputs: ClassVar[tuple[str, ...]] = ("D7",)

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse a place that is none, and a voltage that it cannot give."""
        check_place(_address(device), device.name)
        _volts(device)

    @classmethod
    def release(cls, device: Device) -> bool:
        """Feed the board no more."""
        with closing(Orders(_address(device), device.name)) as orders:
            orders.give("pwr off")
        return True

    def __init__(self, device: Device, connection: Connection) -> None:
        self._device = device
        self._volts = _volts(device)
        self._wired = bool(_address(device).option("sync"))
        self._orders: Orders | None = None
        self._running = False
        self._serial = self._firmware = ""
        self._calibrated_c: float | None = None
        self._stream = self._new_stream()
        self._open()

    def facts(self) -> MeterFacts:
        """As it tells."""
        return MeterFacts(
            meter_class=self.meter_class,
            model="X-NUCLEO-LPM01A",
            serial=self._serial,
            firmware=self._firmware,
            clock=ClockDomain.METER,
            rate_hz=RATE_HZ,
            regular=True,
            voltage=VoltageSource.SET,
            voltage_v=self._volts,
        )

    def start(self) -> None:
        """Begin to sample; one that has become warmer or colder calibrates itself before."""
        self.stop()
        orders = self._orders or self._open()
        self._stream = self._new_stream()
        try:
            self._calibrate(orders)
            orders.give("start")
        except ConnectionLost:
            self._drop()
            raise
        self._running = True

    def read(self, *, timeout_s: float) -> Chunk:
        """What came, gathered for a moment."""
        if self._orders is None:
            raise ConnectionLost("the meter is closed", device=self._device.name)
        lines, began = self._orders.lines, time.monotonic()
        while True:
            while lines and self._stream.ready < RATE_HZ:
                self._stream.hear(lines.popleft())
            waited_s = time.monotonic() - began
            enough_s = min(GATHER_S, timeout_s) if self._stream.ready else timeout_s
            if self._stream.ready >= RATE_HZ or waited_s >= enough_s:
                return self._stream.take(time.monotonic_ns())
            try:
                self._orders.hear(enough_s - waited_s)
            except ConnectionLost:
                self._drop()
                raise

    def stop(self) -> None:
        """Sample no more; the board stays fed."""
        if self._orders is None or not self._running:
            return
        self._running = False
        try:
            self._orders.send("stop")
            self._orders.wait_for(r"Acquisition completed.*", END_S)
        except ConnectionLost:
            self._drop()

    def close(self) -> None:
        """Let go of the port; the board stays fed."""
        self.stop()
        self._drop()

    def _open(self) -> Orders:
        """Take control, and let it feed the board."""
        orders = Orders(_address(self._device), self._device.name)
        try:
            self._serial = orders.give("powershield").rpartition(" ")[2]
            self._firmware = orders.give("version").rpartition(" ")[2]
            orders.give(f"volt {round(1000 * self._volts)}m")
            for order in SETTINGS:
                orders.give(order)
            if self._wired:
                self._watch_input(orders)
            orders.give("pwr on nostatus")
            self._calibrated_c = _temperature_c(orders)
        except BaseException:
            orders.close()
            raise
        self._orders = orders
        return orders

    def _calibrate(self, orders: Orders) -> None:
        now_c, before_c = _temperature_c(orders), self._calibrated_c
        if now_c is not None and before_c is not None and abs(now_c - before_c) > DRIFT_C:
            orders.give("calib")
            self._calibrated_c = now_c

    def _watch_input(self, orders: Orders) -> None:
        """Let it tell the edges of D7.

        Raises:
            ConfigError: it cannot tell both.
        """
        try:
            orders.give("eventsrc d7 both")
        except ConnectionLost:
            raise
        except InfraError as error:
            raise ConfigError(
                f"firmware {self._firmware} of the meter does not tell both edges of D7",
                device=self._device.name,
                hint="leave out 'sync': windows are then found by their marks",
            ) from error

    def _new_stream(self) -> Stream:
        return Stream(RATE_HZ, self._device.name, wired=self._wired)

    def _drop(self) -> None:
        self._running = False
        if self._orders is not None:
            self._orders.close()
            self._orders = None


def _temperature_c(orders: Orders) -> float | None:
    """How warm it is, None if it does not tell."""
    try:
        with suppress(ValueError):
            return float(orders.give("temp degc").rpartition(" ")[2])
    except ConnectionLost:
        raise
    except InfraError:  # some firmware has no such order
        return None
    return None


def _volts(device: Device) -> float:
    """What to feed the board with.

    Raises:
        ConfigError: nobody said, or it cannot.
    """
    text = _address(device).option("volts")
    try:
        volts = float(text)
    except ValueError:
        volts = 0.0
    if not MIN_VOLTS <= volts <= MAX_VOLTS:
        raise ConfigError(
            f"volts '{text}' is no voltage that an LPM01A can give",
            device=device.name,
            hint=f"write what the board needs, {MIN_VOLTS} to {MAX_VOLTS}, such as volts=3.0",
        )
    return volts


def _address(device: Device) -> Address:
    return device.metered_by
