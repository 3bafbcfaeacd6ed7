"""What an Android phone tells of itself now, asked for once or once a second."""

from __future__ import annotations

from dataclasses import replace

from drivers.platforms.android_told import (
    ASK,
    FLOW,
    Heat,
    read_battery,
    read_heat,
)
from drivers.platforms.linux_readings import COLDEST_C, FIND, HOTTEST_C, LOOK, Look
from drivers.platforms.linux_told import Pairs, read_number
from drivers.platforms.linux_watch import LinuxWatch, watch_script
from farm.connection import Stream
from farm.record import Reading

MOST_UAH = 1e8
"""No battery of a phone holds more."""
HEAT_EVERY, BATTERY_EVERY = 5, 10
"""Looks from one question to a service to the next: each of them takes time from the phone."""

GAUGE = f"{FLOW} charge_counter"

# What the battery service says of the charge may be minutes old; `-f` makes it ask the gauge. The
# USB manager knows whether a host has configured the phone, so that data may flow.
_EXACT = """
[ -r "$pack/charge_counter" ] ||
  echo "charge_counter=$(cmd battery get -f counter 2>/dev/null </dev/null)"
dumpsys usb 2>/dev/null </dev/null | sed -n 's/^[[:space:]]*configured=/usb=/p'
"""

SAMPLE = FIND + ASK + LOOK + f"ask_pack {GAUGE}\n{_EXACT}ask_heat\nask_battery\ntrue\n"

WATCH = watch_script(
    FIND + ASK + "looks=0\n",
    LOOK
    + f"""
  ask_pack {GAUGE}
  [ $((looks % {HEAT_EVERY})) = 0 ] && ask_heat
  [ $((looks % {BATTERY_EVERY})) = 0 ] && ask_battery
  looks=$((looks + 1))
""",
)


class Looks:
    """Makes readings of looks; knows of earlier ones what is asked for less often.

    Besides those of Linux: `thermal_status` (0 none to 6 shutdown), `battery` (pct),
    `battery_temperature` (degC), `battery_voltage` (V), `battery_current` (A, negative while it
    discharges), `battery_charge` (C, what is left, in the steps that the gauge counts in) and
    `usb_data` (1 while a USB host has configured the phone; a watch does not ask). `temperature`
    is the hottest sensor of the thermal HAL that computing makes hot; where the HAL tells none, the
    hottest zone. `throttled` is 1 from status `light` on, or while a cooling device takes speed
    away.
    """

    def __init__(self) -> None:
        self._heat = Heat()
        self._status: int | None = None

    def readings(self, look: Look, pairs: Pairs) -> tuple[Reading, ...]:
        """The readings of one look; `pairs` is all that it told."""
        heat, battery = read_heat(pairs), read_battery(pairs, self._status)
        self._status = battery.status
        if any(name == "heat" for name, _ in pairs):
            self._heat = heat
        told: list[tuple[str, str, float | None]] = [
            ("thermal_status", "level", heat.status),
            ("battery", "pct", within(battery.level_pct, 0, 100)),
            ("battery_temperature", "degC", within(battery.temperature_c, COLDEST_C, HOTTEST_C)),
            ("battery_voltage", "V", battery.voltage_v),
            ("battery_current", "A", battery.current_a),
            ("battery_charge", "C", _charge_c(pairs)),
            ("usb_data", "flag", _usb_data(pairs)),
        ]
        return _with_heat(look, heat, self._heat).readings(None) + tuple(
            Reading(t_ns=look.t_ns, name=name, unit=unit, value=float(value))
            for name, unit, value in told
            if value is not None
        )


def within(value: float | None, low: float, high: float) -> float | None:
    """A value that can be true, None for any other."""
    return value if value is not None and low <= value <= high else None


def _charge_c(pairs: Pairs) -> float | None:
    """What is left in the battery: by its driver or the service's own question, else as it says."""
    told = [text for name, text in pairs if name == "charge_counter"]
    told += [
        line.partition(":")[2]
        for name, line in pairs
        if name == "battery" and line.lower().startswith("charge counter:")
    ]
    for text in told:
        microampere_hours = read_number(text)
        if microampere_hours and 0 < microampere_hours < MOST_UAH:
            return microampere_hours * 3600e-6
    return None


def _usb_data(pairs: Pairs) -> float | None:
    """Whether a USB host has configured the phone, 1 or 0; None where nobody tells."""
    told = [text for name, text in pairs if name == "usb"]
    return {"true": 1.0, "false": 0.0}.get(told[0]) if told else None


def _with_heat(look: Look, heat: Heat, latest: Heat) -> Look:
    """A look with the temperature and the throttling that a thermal service tells.

    Args:
        look: what the files tell.
        heat: what the service tells in it.
        latest: what the service told last: it decides where temperatures come from.
    """
    celsius = look.temperature_c if latest.temperature_c is None else heat.temperature_c
    states = [state for state in (look.cooler, latest.slowed) if state is not None]
    return replace(look, temperature_c=celsius, cooler=max(states, default=None))


class AndroidWatch(LinuxWatch):
    """Reads what the script printed so far."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self._looks = Looks()

    def read(self, look: Look, pairs: Pairs) -> tuple[Reading, ...]:
        """The readings of one look."""
        return self._looks.readings(look, pairs)
