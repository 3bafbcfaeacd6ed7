"""What the services of an Android phone print of battery and heat, taken apart.

Their words are those of AOSP 10 to 15; vendors leave lines out and add their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from drivers.platforms.linux_readings import COLDEST_C, HOTTEST_C
from drivers.platforms.linux_told import Pairs, read_number

# What goes before each line of a service; an empty line would end a look.
_LINES = "2>/dev/null </dev/null | sed -n 's/^[[:space:]]*\\([^[:space:]]\\)/{}=\\1/p'\n"

# ask_heat, ask_battery: some 50 ms each on a phone; the service looks, not this process. What
# stands in files is told only where a phone lets the shell read it. Goes after GET.
ASK = (
    """
pack=$tree/sys/class/power_supply/battery
ask_pack() { for name in "$@"; do get "$pack/$name" && echo "$name=$got"; done; }
ask_heat() {
  echo heat=asked
  dumpsys thermalservice """
    + _LINES.format("heat")
    + """}
ask_battery() {
  dumpsys battery """
    + _LINES.format("battery")
    + """}
"""
)
FLOW = "current_now voltage_now"
"""Files that change from second to second."""
AGE = "cycle_count charge_full charge_full_design"
"""Files that change from month to month."""

HEALTH = {
    1: "unknown", 2: "good", 3: "overheat", 4: "dead", 5: "over voltage", 6: "unspecified failure",
    7: "cold",
}  # fmt: skip
"""`BatteryManager.BATTERY_HEALTH_*` in words."""
CHARGING, DISCHARGING = 2, 3
"""`BatteryManager.BATTERY_STATUS_*`."""
STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""Thermal status by its number; from `light` on a phone takes speed away."""

_CPU, _GPU, _BATTERY, _SKIN, _NPU, _TPU, _SOC = 0, 1, 2, 3, 9, 10, 13
RELEVANT = frozenset({_CPU, _GPU, _SKIN, _NPU, _TPU, _SOC})
"""Sensors that show what computing does; others stand at the modem, or are no temperatures."""
_SLOWING = frozenset({2, 3, 5, 7})
"""Cooling devices that take speed away, of CPU, GPU, NPU and TPU; others are fans and modems."""

_STATUS = re.compile(r"Thermal Status: (\d+)")
_SENSOR = re.compile(
    r"Temperature\{mValue=(-?[\d.]+), mType=(-?\d+), mName=(.*), mStatus=(-?\d+)\}"
)
_COOLER = re.compile(r"CoolingDevice\{mValue=(\d+), mType=(-?\d+), mName=(.*)\}")
_HIGHEST_CELL_V = 10.0
"""Of two cells in a row; above it a voltage has another unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Battery:
    """What a phone tells of its battery; None is what it does not tell.

    Attributes:
        faked: whether somebody has told the service what to say, and left it that way.
        powered: whether anything feeds the phone.
        present: whether it has a battery.
        status: one of `BatteryManager.BATTERY_STATUS_*`.
        health: the word of its service, empty if there is none.
        level_pct: charge, as told, however implausible.
        temperature_c: of the pack, as told.
        voltage_v: of the pack.
        current_a: into the pack: negative while it discharges.
        cycles: full charges so far; a gauge that does not count says 0, which is not told.
        capacity_pct: what a full charge holds now, of what it held when new.
    """

    faked: bool = False
    powered: bool | None = None
    present: bool | None = None
    status: int | None = None
    health: str = ""
    level_pct: float | None = None
    temperature_c: float | None = None
    voltage_v: float | None = None
    current_a: float | None = None
    cycles: int | None = None
    capacity_pct: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Heat:
    """What a phone's thermal service tells; None is what it does not know.

    Without a thermal HAL it knows nothing, and says status 0.

    Attributes:
        faked: whether somebody has told the service which status to say.
        status: index into `STATUS`.
        sensor: the hottest of those that matter.
        temperature_c: what it shows.
        cooler: the highest state of a device that cools by slowing down; 0 is full speed.
    """

    faked: bool = False
    status: int | None = None
    sensor: str = ""
    temperature_c: float | None = None
    cooler: float | None = None

    @property
    def slowed(self) -> float | None:
        """Above 0 if the phone takes speed away; None if that cannot be known."""
        told = [float(value) for value in (self.status, self.cooler) if value is not None]
        return max(told, default=None)


def read_battery(pairs: Pairs, status_before: int | None = None) -> Battery:
    """A battery from the lines of its service, `battery=...`, and the files of its driver.

    The first line of a name counts: vendors repeat names further down, with other meanings.

    Args:
        pairs: what the script printed.
        status_before: what the service told last, for a look that did not ask it.
    """
    lines = [text for name, text in pairs if name == "battery"]
    told: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            told.setdefault(name.strip().lower(), value.strip().lower())
    status = _whole(told.get("status", ""))
    status = status_before if status is None else status
    level, scale = read_number(told.get("level", "")), read_number(told.get("scale", "100"))
    tenths = read_number(told.get("temperature", ""))
    files = dict(pair for pair in pairs if pair[0] != "battery")
    fed = [value == "true" for name, value in told.items() if name.endswith(" powered")]
    return Battery(
        faked=any("UPDATES STOPPED" in line for line in lines),
        powered=any(fed) if fed else None,
        present={"true": True, "false": False}.get(told.get("present", "")),
        status=status,
        health=HEALTH.get(_whole(told.get("health", "")) or 0, ""),
        level_pct=100 * level / scale if level is not None and scale else None,
        temperature_c=None if tenths is None else tenths / 10,
        voltage_v=_voltage(files.get("voltage_now", "")) or _voltage(told.get("voltage", "")),
        current_a=_current(files.get("current_now", ""), status),
        cycles=_whole(files.get("cycle_count", "")) or None,
        capacity_pct=_share(files.get("charge_full", ""), files.get("charge_full_design", "")),
    )


def read_heat(pairs: Pairs) -> Heat:
    """Heat from the lines of the thermal service, `heat=...`.

    What the HAL says now counts; what the service remembers is old, and counts only where the
    service does not repeat the HAL's words.
    """
    text = "\n".join(text for name, text in pairs if name == "heat")
    faked = "IsStatusOverride: true" in text
    status = _STATUS.search(text)
    if "HAL Ready: false" in text:
        return Heat(faked=faked)
    head, now_told, now = text.partition("Current temperatures from HAL:")
    hottest = _hottest(_SENSOR.findall(now if now_told else head))
    coolers = [float(value) for value, kind, _ in _COOLER.findall(now) if int(kind) in _SLOWING]
    number = _whole(status[1]) if status else None
    return Heat(
        faked=faked,
        status=number if number is not None and number < len(STATUS) else None,
        sensor=hottest[1] if hottest else "",
        temperature_c=hottest[0] if hottest else None,
        cooler=max(coolers, default=None),
    )


def _hottest(sensors: Iterable[tuple[str, str, str, str]]) -> tuple[float, str] | None:
    """Temperature in degC and name of the hottest sensor that matters and makes sense."""
    found = []
    for value, kind, name, _ in sensors:
        celsius = read_number(value)
        if celsius is not None and int(kind) in RELEVANT and COLDEST_C < celsius < HOTTEST_C:
            found.append((celsius, name))
    return max(found, default=None)


def _whole(text: str) -> int | None:
    """A whole number that is not negative, None for anything else."""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def _voltage(text: str) -> float | None:
    """Volts; kernels say microvolts, the service millivolts, and a few phones volts."""
    value = read_number(text)
    if value is None or value <= 0:
        return None
    for unit in (1.0, 1e-3, 1e-6):
        if value * unit < _HIGHEST_CELL_V:
            return value * unit
    return None


def _current(text: str, status: int | None) -> float | None:
    """Amperes into the pack from microamperes; vendors do not agree on the sign, so it follows."""
    value = read_number(text)
    if value is None or abs(value) > 1e8:
        return None
    sign = {CHARGING: 1, DISCHARGING: -1}.get(status or 0)
    return (value if sign is None else sign * abs(value)) * 1e-6


def _share(full: str, design: str) -> float | None:
    """What a full charge holds now in percent of the design; None where the gauge makes it up."""
    now, new = read_number(full), read_number(design)
    if not now or not new or now < 0 or new < 0:
        return None
    share = 100 * now / new
    return share if 1 < share < 130 else None
