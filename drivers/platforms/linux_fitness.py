"""What stands against measuring on a Linux device now."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress

from drivers.platforms.linux_readings import SAMPLE, Look, read_look
from drivers.platforms.linux_told import Pairs, write_cores
from farm.model import read_cores
from farm.protocols import Limits
from farm.record import Finding

MIN_MEMORY_BYTES = 64 << 20
"""Below this no runtime even starts."""
MAX_PRESSURE_PCT = 20.0
"""Above this share of the last seconds, somebody else's work will be seen in the samples."""

UNDER_VOLTAGE_BIT = 0x1

# $1's free room, and which cores are there. `df` says `available` before the share; where it cannot
# find the mount, as in a container, the file system itself is asked.
ROOM = """
df -Pk "$1" 2>/dev/null | { read -r _; read -r line && echo "df=$line"; } ||
  stat -f -c 'free=%a %S' "$1" 2>/dev/null
get "$cpus/online" && echo "online=$got"
get "$cpus/present" && echo "present=$got"
true
"""
FITNESS = SAMPLE + ROOM
_BLOCKS = re.compile(r"(\d+) (\d+)")
_AVAILABLE = re.compile(r"\s(\d+)\s+(\d+%|-)\s")


def find(pairs: Pairs, limits: Limits, cores_under_test: tuple[int, ...]) -> tuple[Finding, ...]:
    """Everything that stands against measuring.

    Args:
        pairs: what the script printed.
        limits: what the device must satisfy.
        cores_under_test: cores that the inventory names, empty if it names none.
    """
    told = dict(pairs)
    look = read_look(pairs)
    found = [
        *find_room(told, look, limits),
        *_heat(look, limits),
        *_power(look),
        *_company(look, len(_cores(told.get("online", "")))),
        *find_missing_cores(told, cores_under_test),
    ]
    return tuple(found)


def find_room(told: Mapping[str, str], look: Look, limits: Limits) -> list[Finding]:
    """What is missing of space and memory."""
    return [*_space(_free_bytes(told), limits), *_memory(look)]


def find_missing_cores(told: Mapping[str, str], cores_under_test: tuple[int, ...]) -> list[Finding]:
    """Cores that are not there, of those under test and of all."""
    found = []
    online, present = _cores(told.get("online", "")), _cores(told.get("present", ""))
    if gone := tuple(core for core in cores_under_test if online and core not in online):
        message = f"cores {write_cores(gone)} are to be used, and only {told['online']} are online"
        found.append(Finding(code="no_core", message=message, blocking=True))
    if offline := tuple(core for core in present if online and core not in online):
        message = f"cores {write_cores(offline)} are offline"
        found.append(Finding(code="offline", message=message, blocking=False))
    return found


def _free_bytes(told: Mapping[str, str]) -> int | None:
    available = _AVAILABLE.search(told.get("df", ""))
    if available:
        return int(available[1]) * 1024
    blocks = _BLOCKS.fullmatch(told.get("free", ""))
    return int(blocks[1]) * int(blocks[2]) if blocks else None


def _space(free_bytes: int | None, limits: Limits) -> list[Finding]:
    if free_bytes is None or free_bytes >= limits.min_free_bytes:
        return []
    message = f"{free_bytes >> 20} MiB free, {limits.min_free_bytes >> 20} needed"
    return [Finding(code="low_space", message=message, blocking=True)]


def _memory(look: Look) -> list[Finding]:
    if look.memory_bytes is None or look.memory_bytes >= MIN_MEMORY_BYTES:
        return []
    free_mib = int(look.memory_bytes) >> 20
    message = f"{free_mib} MiB of memory available, {MIN_MEMORY_BYTES >> 20} needed"
    return [Finding(code="low_memory", message=message, blocking=True, passing=True)]


def _heat(look: Look, limits: Limits) -> list[Finding]:
    found = []
    if look.temperature_c is not None and look.temperature_c > limits.max_temperature_c:
        allowed = f"at most {limits.max_temperature_c:.0f} to start"
        message = f"{look.temperature_c:.0f} degC, {allowed}"
        found.append(Finding(code="hot", message=message, blocking=True, passing=True))
    if look.throttled(None) and not _under_voltage(look):
        message = "it is slowed down now, by heat or by its firmware"
        found.append(Finding(code="throttled", message=message, blocking=True, passing=True))
    return found


def _power(look: Look) -> list[Finding]:
    if not _under_voltage(look):
        return []
    message = "under-voltage now: its power supply or cable is too weak, and it slows down"
    return [Finding(code="undervoltage", message=message, blocking=True)]


def _under_voltage(look: Look) -> bool:
    return bool((look.pi_bits or 0) & UNDER_VOLTAGE_BIT)


def _company(look: Look, cores: int) -> list[Finding]:
    """Whether somebody else is computing: the load is slow to tell, the pressure is quick."""
    if cores and look.load is not None and look.load > cores:
        message = f"load {look.load:.1f} on {cores} cores: expect noise"
    elif look.pressure_pct is not None and look.pressure_pct > MAX_PRESSURE_PCT:
        message = f"somebody waits for a core {look.pressure_pct:.0f} % of the time: expect noise"
    else:
        return []
    return [Finding(code="busy", message=message, blocking=False)]


def _cores(text: str) -> tuple[int, ...]:
    with suppress(ValueError):
        return read_cores(text)
    return ()
