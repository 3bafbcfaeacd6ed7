"""What the services of an Android phone print of charge and heat, in the words of AOSP 13."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

CHARGING, DISCHARGING, FULL = 2, 3, 5
"""`BatteryManager.BATTERY_STATUS_*`."""
CPU, GPU, BATTERY, SKIN = 0, 1, 2, 3
"""`Temperature.TYPE_*`."""
_LISTENERS = "\tcallbacks: 1\n\tkilled: false\n\tbroadcasts count: -1\n"
_SKIN_LIMITS = "NaN, 39.0, 43.0, 45.0, 46.5, 52.0, 55.0"
_NO_LIMITS = ", ".join(["NaN"] * 7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heat:
    """One sensor of the thermal HAL.

    Attributes:
        name: as the vendor calls it.
        kind: one of `CPU`, `GPU`, `BATTERY`, `SKIN`.
        celsius: what it shows.
        status: 0 none, 1 light, 2 moderate, 3 severe, up to 6.
    """

    name: str
    kind: int
    celsius: float
    status: int = 0

    def __str__(self) -> str:
        value = round(self.celsius, 3)
        return (
            f"\tTemperature{{mValue={value}, mType={self.kind}, mName={self.name},"
            f" mStatus={self.status}}}\n"
        )


def battery_dump(
    *,
    level_pct: int,
    celsius: float,
    plugged: str = "USB",
    present: bool = True,
    status: int = CHARGING,
    voltage_mv: int = 4100,
    charge_uah: int = 3_000_000,
) -> str:
    """The output of `dumpsys battery`; temperatures there are tenths of a degree.

    Args:
        level_pct: charge.
        celsius: what the battery's sensor shows.
        plugged: AC, USB, Wireless, Dock or nothing.
        present: whether there is a battery.
        status: one of `CHARGING`, `DISCHARGING`, `FULL`.
        voltage_mv: of the battery.
        charge_uah: what is left in it.
    """
    powered = "".join(
        f"  {source} powered: {str(source == plugged).lower()}\n"
        for source in ("AC", "USB", "Wireless", "Dock")
    )
    return (
        f"Current Battery Service state:\n{powered}"
        f"  Max charging current: {500_000 if plugged else 0}\n"
        f"  Max charging voltage: {5_000_000 if plugged else 0}\n"
        f"  Charge counter: {charge_uah}\n"
        f"  status: {status}\n"
        "  health: 2\n"
        f"  present: {str(present).lower()}\n"
        f"  level: {level_pct}\n"
        "  scale: 100\n"
        f"  voltage: {voltage_mv}\n"
        f"  temperature: {round(10 * celsius)}\n"
        "  technology: Li-ion\n"
    )


def thermal_dump(
    *, status: int, sensors: Iterable[Heat], cooling: int = 0, ready: bool = True
) -> str:
    """The output of `dumpsys thermalservice`.

    Args:
        status: of the phone as a whole.
        sensors: what the HAL tells now; the service keeps only those of the skin in its cache.
        cooling: how many steps the frequency of the processor is taken back.
        ready: whether there is a thermal HAL.
    """
    sensors = tuple(sensors)
    cached = "".join(str(sensor) for sensor in sensors if sensor.kind == SKIN)
    text = (
        "IsStatusOverride: false\n"
        f"ThermalEventListeners:\n{_LISTENERS}"
        f"ThermalStatusListeners:\n{_LISTENERS}"
        f"Thermal Status: {status}\n"
        f"Cached temperatures:\n{cached}"
        f"HAL Ready: {str(ready).lower()}\n"
    )
    if not ready:
        return text
    limits = "".join(
        f"\t{{.type = SKIN, .name = {sensor.name}, .hotThrottlingThresholds = [{_SKIN_LIMITS}],"
        f" .coldThrottlingThresholds = [{_NO_LIMITS}], .vrThrottlingThreshold = NaN}}\n"
        for sensor in sensors
        if sensor.kind == SKIN
    )
    return text + (
        "HAL connection:\n\tThermalHAL 2.0 connected: yes\n"
        f"Current temperatures from HAL:\n{''.join(map(str, sensors))}"
        "Current cooling devices from HAL:\n"
        f"\tCoolingDevice{{mValue={cooling}, mType=2, mName=thermal-cpufreq-0}}\n"
        f"Temperature static thresholds from HAL:\n{limits}"
    )
