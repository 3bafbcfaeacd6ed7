"""Chips that the kernel shows below `/sys/class/hwmon`: INA2xx and INA3221 on boards, KM003C."""

from __future__ import annotations

from typing import ClassVar

from drivers.meters.file_meter import HOST, ON_DEVICE, FileMeter, Plan, where
from drivers.meters.file_samples import Counted, Told
from drivers.meters.hwmon_channels import find_channel, read_items
from farm.connection import Connection
from farm.errors import ConfigError, ConnectError, nearest_hint
from farm.metering import METER_CLASSES, ClockDomain, MeterFacts
from farm.model import Device

PERIOD_S = {HOST: 0.002, ON_DEVICE: 0.05}
"""From one look to the next, at least: below some 350 Hz short loads are missed, but a device has
to work for its own looks."""
LOOKS_PER_CONVERSION = 4
"""Of a slow chip, so that it is known to a quarter when a conversion ended."""
FIX = "let this user read it, with a udev rule or: sudo chmod a+r FILE"
_OF_CHIP = (
    "name", "update_interval", "*_label", "*_input", "device/../serial", "device/../bcdDevice",
)  # fmt: skip
"""Files of a chip that are looked at once; the last two are those of a USB device."""
_KM003C = "km003c"
_CLASS_OF_NAME = {"powerz": _KM003C}


class Hwmon(FileMeter):
    """A chip, by the name that its kernel driver has, or by its folder.

    Address: `hwmon://powerz`, `hwmon:///sys/bus/i2c/devices/1-0040`. Options: `channel`, a label
    or one of `in1`, `curr1`, `power1`, `energy1`; `at`, `host` (the default) or `device`: whose
    files they are; `root`, instead of `/sys`; `class`, what it is worth, where its name does not
    tell. On the device a shell reads the files, which costs the device power of its own.
    """

    options: ClassVar[tuple[str, ...]] = ("channel", "at", "root", "class")
    meter_class: ClassVar[str] = ""

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse a place without a name, and words that mean nothing."""
        super().check(device)
        if not device.metered_by.place:
            raise ConfigError(
                "hwmon needs the name of a chip",
                device=device.name,
                hint="this lists them: grep . /sys/class/hwmon/*/name",
            )
        kind = device.metered_by.option("class")
        if kind and kind not in METER_CLASSES:
            raise ConfigError(
                f"there is no class '{kind}' of meters",
                device=device.name,
                hint=nearest_hint(kind, METER_CLASSES),
            )

    def __init__(self, device: Device, connection: Connection) -> None:
        super().__init__(device, connection, FIX)
        self._device = device.name
        self._address = device.metered_by
        self._at = where(device)
        folder, self._told = self._find()
        items = read_items(self._told)
        self._channel = find_channel(items, self._address.option("channel"), device.name)
        self._class = self._find_class()
        self.plan = self._make_plan(folder)

    def facts(self) -> MeterFacts:
        """Its name and channel; a chip on the device's own rails is not in its path."""
        usb = self._class == _KM003C
        return MeterFacts(
            meter_class=self._class,
            model=f"{self._told['name']} {self._channel}",
            serial=self._told.get("device/../serial", "") if usb else "",
            firmware=self._told.get("device/../bcdDevice", "") if usb else "",
            clock=ClockDomain.HOST,
            rate_hz=1 / self.plan.period_s,
            lag_s=self.plan.period_s,
            in_path=self._at == HOST,
        )

    def _make_plan(self, folder: str) -> Plan:
        channel, interval = self._channel, self._told.get("update_interval", "")
        conversion_s = int(interval) / 1e3 if interval.isdigit() else 0.0
        look_s = max(PERIOD_S[self._at], conversion_s / LOOKS_PER_CONVERSION)
        return Plan(
            paths=tuple(f"{folder}/{name}" for name in channel.files),
            power_w=Counted(unit_j=channel.unit)
            if channel.counts
            else Told(unit_w=channel.unit, unsigned=self._class == _KM003C),
            look_s=look_s,
            conversion_s=conversion_s if conversion_s > look_s else 0.0,
            counter=channel.counts,
        )

    def _find(self) -> tuple[str, dict[str, str]]:
        """The chip's folder, and what its files say by their names in it."""
        place = self._address.place.rstrip("/")
        if place.startswith("/"):
            folders = [place, f"{place}/hwmon/hwmon*"]
        else:
            folders = [f"{self._address.option('root') or '/sys'}/class/hwmon/hwmon*"]
        names = self.files.tell(f"{folder}/name" for folder in folders)
        chips = {path.removesuffix("/name"): name for path, name in names.items()}
        found = [f for f, name in chips.items() if place.startswith("/") or name == place]
        if len(found) > 1:
            raise ConfigError(
                f"{len(found)} chips are called '{place}'",
                device=self._device,
                hint="write the folder of one: hwmon:///sys/bus/usb/devices/1-2:1.0, for example",
            )
        if not found:
            there = ", ".join(sorted(set(chips.values()))) or "nothing"
            raise ConnectError(
                f"no chip '{place}' is there",
                device=self._device,
                hint=f"there is: {there}; is it plugged in, and its kernel driver loaded?",
            )
        told = self.files.tell(f"{found[0]}/{name}" for name in _OF_CHIP)
        return found[0], {path.removeprefix(f"{found[0]}/"): text for path, text in told.items()}

    def _find_class(self) -> str:
        name = self._told["name"]
        known = _CLASS_OF_NAME.get(name, "ina" if name.startswith("ina") else "")
        if not (chosen := self._address.option("class") or known):
            raise ConfigError(
                f"nobody has said what a chip '{name}' is worth",
                device=self._device,
                hint="write its 'class', for example class=ina",
            )
        return chosen
