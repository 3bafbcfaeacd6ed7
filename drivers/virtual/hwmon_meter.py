"""A power meter that the kernel would show: a tree of files that follow a virtual device's rail."""

from __future__ import annotations

import atexit
import math
import os
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from drivers.virtual.rail import rail_of
from farm.errors import ConfigError, InfraError
from farm.model import Address, Device
from farm.protocols import VirtualMeter

FAULTS = ("eagain", "torn", "stall", "vanish")
"""A driver that has nothing now, half of a number, a bus that hangs, a chip that is unplugged."""
LASTING = ("stall", "vanish")
FAULT_S = 0.2
"""So long the others last."""
AVERAGES = ("8", "16", "32", "64", "128")
CONVERSION_S = 0.0011
"""Of a voltage or a current, once; a reading takes both, so many times as it averages."""
LATE_NS = 40_000_000
"""What a device did becomes known so late."""
VOLTAGE_LSB_MV, CURRENT_LSB_MA, POWER_LSB_UW = 4.0, 0.05, 1000.0
"""Of an INA219 that is set for 1.6 A."""
NAME = "ina219"
_OWN = ("averages", "noise_ma", "seed", "gain", "fault")
_PASSED_ON = ("channel", "class")


class VirtualHwmon(VirtualMeter):
    """An INA219 on the supply of a virtual device: voltage, current, and power as it multiplies.

    Address: `virtual-hwmon://`, with the options `channel` and `class` of `hwmon`, and: `averages`,
    of how many conversions a reading is made (8); `noise_ma` of a reading (0.2); `seed`; `gain`, a
    true error (1); `fault=KIND:SECONDS` after it was switched on, several with commas. The files
    show what the device did 40 ms ago.
    """

    options: ClassVar[tuple[str, ...]] = (*_PASSED_ON, *_OWN)
    meter_class: ClassVar[str] = "ina"

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse numbers that are none, and faults that it cannot have."""
        _read_settings(device)

    @classmethod
    def start(cls, device: Device) -> Address:
        """Switch it on; the folder that plays `/sys` is the option `root`."""
        settings = _read_settings(device)
        key = (device.name, repr(device.metered_by))
        with _switch:
            if key not in _chips:
                try:
                    _chips[key] = _Chip(device.name, settings)
                except OSError as error:
                    raise InfraError(
                        f"cannot make the files of a meter: {error.strerror}", device=device.name
                    ) from error
            root = _chips[key].root
        passed = tuple(pair for pair in device.metered_by.options if pair[0] in _PASSED_ON)
        return Address(scheme="hwmon", place=NAME, options=(*passed, ("root", str(root))))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """What an address says.

    Attributes:
        faults: kinds, and seconds after it was switched on.
    """

    averages: int
    noise_ma: float
    seed: int
    gain: float
    faults: tuple[tuple[str, float], ...]

    @property
    def reading_s(self) -> float:
        """How long a reading takes."""
        return 2 * CONVERSION_S * self.averages


def _read_settings(device: Device) -> _Settings:
    """The settings of an address.

    Raises:
        ConfigError: they cannot be read.
    """
    option = device.metered_by.option
    averages = option("averages") or AVERAGES[0]
    if averages not in AVERAGES:
        raise ConfigError(
            f"averages '{averages}' cannot be set",
            device=device.name,
            hint=f"one of {', '.join(AVERAGES)}",
        )
    values = [value for name, value in device.metered_by.options if name == "fault"]
    faults = []
    for text in filter(None, ",".join(values).split(",")):
        kind, _, at = text.partition(":")
        if kind not in FAULTS:
            raise ConfigError(
                f"fault '{text}' cannot be read",
                device=device.name,
                hint=f"write KIND:SECONDS with KIND one of {', '.join(FAULTS)}",
            )
        faults.append((kind, _number(device, "fault", at)))
    return _Settings(
        averages=int(averages),
        noise_ma=_number(device, "noise_ma", option("noise_ma", "0.2")),
        seed=int(_number(device, "seed", option("seed", "0"))),
        gain=_number(device, "gain", option("gain", "1")),
        faults=tuple(faults),
    )


def _number(device: Device, name: str, text: str) -> float:
    """A number that is not negative."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ConfigError(f"{name} '{text}' is no number of 0 or more", device=device.name)
    return value


class _Chip:
    """One chip that is switched on, and the thread that is its converter.

    Attributes:
        root: plays `/sys`.
    """

    def __init__(self, device: str, settings: _Settings) -> None:
        self.root = Path(tempfile.mkdtemp(prefix=f"farm-hwmon-{os.getpid()}-"))
        self._folder = self.root / "class" / "hwmon" / "hwmon0"
        self._folder.mkdir(parents=True)
        self._rail = rail_of(device)
        self._settings = settings
        self._random = np.random.default_rng(settings.seed)
        self._off = threading.Event()
        self._begun_ns = time.monotonic_ns()
        self._shown_ns: dict[tuple[str, float], int] = {}
        self._writer: int | None = None
        self._show("name", NAME)
        self._show("update_interval", str(round(1e3 * settings.reading_s)))
        self._convert(self._begun_ns - LATE_NS)
        self._thread = threading.Thread(target=self._run, name="hwmon", daemon=True)
        self._thread.start()

    def switch_off(self) -> None:
        """End its thread, and remove its files."""
        self._off.set()
        self._thread.join()
        self._let_read()
        shutil.rmtree(self.root, ignore_errors=True)

    def _run(self) -> None:
        reading_ns = round(1e9 * self._settings.reading_s)
        end_ns = self._begun_ns
        while True:
            # a machine that was held up does not catch up: the chip overwrites what nobody read
            late = max(0, time.monotonic_ns() - LATE_NS - end_ns) // reading_ns
            end_ns += max(1, late) * reading_ns
            if self._off.wait(max(0, end_ns + LATE_NS - time.monotonic_ns()) / 1e9):
                return
            self._play(end_ns)

    def _play(self, end_ns: int) -> None:
        """One reading, or what has become of it."""
        fault = self._fault(time.monotonic_ns())
        if fault == "vanish":
            shutil.rmtree(self._folder, ignore_errors=True)
        elif fault == "eagain":
            self._refuse("power1_input")
        elif fault != "stall":
            self._let_read()
            self._convert(end_ns, torn=fault == "torn")

    def _fault(self, now_ns: int) -> str:
        """What is broken now, empty if nothing is; what is short begins when it first shows."""
        for kind, at_s in self._settings.faults:
            if now_ns < self._begun_ns + at_s * 1e9:
                continue
            since_ns = self._shown_ns.setdefault((kind, at_s), now_ns)
            if kind in LASTING or now_ns < since_ns + FAULT_S * 1e9:
                return kind
        return ""

    def _convert(self, end_ns: int, *, torn: bool = False) -> None:
        """Write the reading that ended then."""
        start_ns = end_ns - round(1e9 * self._settings.reading_s)
        edges = np.array([start_ns, end_ns], np.int64)
        power_w = float(self._rail.mean_power_w(edges)[0]) * self._settings.gain
        noise_ma = self._settings.noise_ma * float(self._random.standard_normal())
        current_ma = power_w / self._rail.volts * 1e3 + noise_ma
        voltage_mv = _to_step(self._rail.volts * 1e3, VOLTAGE_LSB_MV)
        current_ma = _to_step(current_ma, CURRENT_LSB_MA)
        power_uw = _to_step(current_ma * voltage_mv, POWER_LSB_UW)
        self._show("in1_input", str(round(voltage_mv)))
        self._show("curr1_input", str(round(current_ma)))
        self._show("power1_input", str(round(power_uw)), end="" if torn else "\n")

    def _show(self, name: str, text: str, end: str = "\n") -> None:
        """Write a file in one go, as the kernel does."""
        part = self.root / "part"
        part.write_text(text + end)
        part.replace(self._folder / name)

    def _refuse(self, name: str) -> None:
        """Put a pipe with nothing in it in the place of a file: reading it now is EAGAIN."""
        if self._writer is None:
            part = self.root / "part"
            os.mkfifo(part)
            self._writer = os.open(part, os.O_RDWR)
            part.replace(self._folder / name)

    def _let_read(self) -> None:
        if self._writer is not None:
            os.close(self._writer)
            self._writer = None


def _to_step(value: float, step: float) -> float:
    return round(value / step) * step


_chips: dict[tuple[str, str], _Chip] = {}
_switch = threading.Lock()


@atexit.register
def switch_all_off() -> None:
    """No meter outlives the process that plays it."""
    with _switch:
        while _chips:
            _chips.popitem()[1].switch_off()
