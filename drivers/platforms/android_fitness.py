"""What stands against measuring on an Android phone now."""

from __future__ import annotations

import re
from collections.abc import Mapping

from drivers.platforms.android_facts import TELL_PROPERTIES
from drivers.platforms.android_readings import SAMPLE, within
from drivers.platforms.android_told import (
    AGE,
    DISCHARGING,
    STATUS,
    Battery,
    Heat,
    read_battery,
    read_heat,
)
from drivers.platforms.linux_fitness import ROOM, find_missing_cores, find_room
from drivers.platforms.linux_readings import Look, read_look
from drivers.platforms.linux_told import Pairs
from farm.errors import one_line
from farm.protocols import Limits
from farm.record import Finding

HOT_PACK_C = 45.0
"""A healthy pack is as warm as that only beside a chip that is warmer."""
MAX_PACK_C = 60.0
"""No phone lets a healthy pack become warmer."""
MIN_PACK_C = -20.0
MIN_CAPACITY_PCT = 60.0
SICK = ("dead", "over voltage", "unspecified failure")

FITNESS = SAMPLE + TELL_PROPERTIES + f"tell_properties\nask_pack {AGE}\n" + ROOM

_EMULATED = re.compile(r"^(generic|unknown)|emulator|sdk_gphone")
_EMULATED_HARDWARE = ("goldfish", "ranchu", "vbox86", "cutf_cvm")


def find(
    pairs: Pairs, limits: Limits, cores_under_test: tuple[int, ...], *, allow_test_builds: bool
) -> tuple[Finding, ...]:
    """Everything that stands against measuring.

    Load is nothing to go by: on a phone that idles, it counts drivers that sleep.

    Args:
        pairs: what the script printed.
        limits: what the phone must satisfy.
        cores_under_test: cores that the inventory names, empty if it names none.
        allow_test_builds: whether an emulator or an engineering build may be measured on.
    """
    told = dict(pairs)
    look, heat, battery = read_look(pairs), read_heat(pairs), read_battery(pairs)
    return (
        *_booting(told),
        *_test_build(told, allow_test_builds=allow_test_builds),
        *find_room(told, look, limits),
        *_faked(heat, battery),
        *_charge(battery, limits),
        *_pack(battery, look, heat),
        *_heat(look, heat, battery, limits),
        *find_missing_cores(told, cores_under_test),
    )


def _booting(told: Mapping[str, str]) -> list[Finding]:
    if told.get("booted") == "1":
        return []
    message = "it has not finished booting"
    return [Finding(code="booting", message=message, blocking=True, passing=True)]


def _test_build(told: Mapping[str, str], *, allow_test_builds: bool) -> list[Finding]:
    """What is no phone, and builds that check themselves while they run."""
    fingerprint, build = told.get("fingerprint", ""), told.get("build", "")
    emulated = "1" in (told.get("emulated"), told.get("emulated_kernel"))
    if emulated or told.get("hardware", "") in _EMULATED_HARDWARE or _EMULATED.search(fingerprint):
        what = "an emulator"
    elif build == "eng" or ":eng/" in fingerprint:
        what = "an engineering build, which is slower than what people have"
    elif build == "userdebug" or ":userdebug/" in fingerprint:
        message = "a userdebug build: its speed may not be that of what people have"
        return [Finding(code="test_build", message=message, blocking=False)]
    else:
        return []
    allow = "" if allow_test_builds else "; 'allow_test_builds: yes' measures on it nevertheless"
    message = f"it is {what}{allow}"
    return [Finding(code="test_build", message=message, blocking=not allow_test_builds)]


def _faked(heat: Heat, battery: Battery) -> list[Finding]:
    """What somebody has told the services to say."""
    found = []
    if battery.faked:
        message = "somebody faked its battery state: run 'adb shell dumpsys battery reset'"
        found.append(Finding(code="faked_battery", message=message, blocking=True))
    if heat.faked:
        message = "somebody faked its thermal status: run 'adb shell cmd thermalservice reset'"
        found.append(Finding(code="faked_heat", message=message, blocking=True))
    return found


def _charge(battery: Battery, limits: Limits) -> list[Finding]:
    level = within(battery.level_pct, 0, 100)
    if battery.present is False or level is None:
        message = "it tells of no battery: charge is not checked"
        return [Finding(code="no_battery", message=message, blocking=False)]
    if level >= limits.min_battery_pct:
        return []
    charges = bool(battery.powered) and battery.status != DISCHARGING
    message = (
        f"battery at {level:.0f} %, {limits.min_battery_pct:.0f} needed; "
        f"{'it charges' if charges else 'nothing charges it'}"
    )
    return [Finding(code="low_battery", message=message, blocking=True, passing=charges)]


def _pack(battery: Battery, look: Look, heat: Heat) -> list[Finding]:
    """Signs of a pack that may swell or burn; a phone without one may say anything of it.

    What overheats or is cold can be so for now: just after a job the pack is warmer than the chip.
    """
    if battery.present is False or battery.faked:
        return []
    found = [_suspect(sign) for sign in _signs(battery)]
    chip_c = look.temperature_c if heat.temperature_c is None else heat.temperature_c
    celsius = within(battery.temperature_c, HOT_PACK_C, MAX_PACK_C)
    if celsius is not None and chip_c is not None and celsius > chip_c:
        sign = f"its battery is at {celsius:.0f} degC and nothing in the phone is hotter"
        found.append(_suspect(f"{sign}; if it stays so while idle", passing=True))
    if battery.health in ("overheat", "cold"):
        message = f"the phone calls its battery '{battery.health}'"
        code = "hot" if battery.health == "overheat" else "cold"
        found.append(Finding(code=code, message=message, blocking=True, passing=True))
    return found


def _signs(battery: Battery) -> list[str]:
    """What no waiting mends."""
    signs = []
    if battery.health in SICK:
        signs.append(f"the phone calls its battery '{battery.health}'")
    level, celsius, share = battery.level_pct, battery.temperature_c, battery.capacity_pct
    if level is not None and within(level, 0, 100) is None:
        signs.append(f"its battery is at {level:.0f} %, which cannot be")
    if celsius is not None and within(celsius, MIN_PACK_C, MAX_PACK_C) is None:
        signs.append(f"its battery tells {celsius:.0f} degC, which no healthy one does")
    if share is not None and share < MIN_CAPACITY_PCT:
        signs.append(f"its battery holds {share:.0f} % of what it held when new")
    return signs


def _suspect(sign: str, *, passing: bool = False) -> Finding:
    message = f"{sign}: take the phone out, look whether the pack bulges, and have it replaced"
    return Finding(code="battery_suspect", message=message, blocking=True, passing=passing)


def _heat(look: Look, heat: Heat, battery: Battery, limits: Limits) -> list[Finding]:
    """What is too hot to begin, whether the phone takes speed away, and whether it can tell."""
    hottest = ("its hottest zone", look.temperature_c)
    if heat.temperature_c is not None:
        hottest = (one_line(heat.sensor), heat.temperature_c)
    pack = ("its battery", None if battery.present is False else battery.temperature_c)
    found = [
        Finding(
            code="hot",
            message=f"{name} is at {celsius:.0f} degC, at most {limits.max_temperature_c:.0f} to "
            "start",
            blocking=True,
            passing=True,
        )
        for name, celsius in (hottest, pack)
        if celsius is not None and celsius > limits.max_temperature_c
    ]
    if heat.status:
        message = f"thermal status {heat.status} ({STATUS[heat.status]}): it slows itself down"
        found.append(Finding(code="throttled", message=message, blocking=True, passing=True))
    elif look.cooler or heat.cooler:
        message = "it slows itself down now, to cool"
        found.append(Finding(code="throttled", message=message, blocking=True, passing=True))
    if heat.status is None:
        unknown = heat.slowed is None and look.cooler is None
        message = "it does not tell its thermal status: throttling " + (
            "is not seen" if unknown else "is seen by its cooling devices only"
        )
        found.append(Finding(code="unknown_heat", message=message, blocking=False))
    return found
