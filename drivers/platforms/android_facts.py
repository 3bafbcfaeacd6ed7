"""What an Android phone is: model, build, cores, the state of its battery."""

from __future__ import annotations

from drivers.platforms.android_told import AGE, ASK, Battery, read_battery
from drivers.platforms.linux_cores import CORES, SAY, SUPPORT, Told, processor, sort_out
from drivers.platforms.linux_facts import as_facts
from drivers.platforms.linux_told import GET, Pairs
from farm.record import Fact

_PROPERTIES = {
    "serialno": "ro.serialno",
    "boot_serial": "ro.boot.serialno",
    "model": "ro.product.model",
    "manufacturer": "ro.product.manufacturer",
    "soc_maker": "ro.soc.manufacturer",
    "soc_model": "ro.soc.model",
    "platform": "ro.board.platform",
    "hardware": "ro.hardware",
    "fingerprint": "ro.build.fingerprint",
    "release": "ro.build.version.release",
    "sdk": "ro.build.version.sdk",
    "security_patch": "ro.build.version.security_patch",
    "abis": "ro.product.cpu.abilist",
    "abi": "ro.product.cpu.abi",
    "build": "ro.build.type",
    "booted": "sys.boot_completed",
    "emulated": "ro.boot.qemu",
    "emulated_kernel": "ro.kernel.qemu",
}

# tell_properties: those that the farm knows, under its own names, from one list of all. A value of
# several lines is none of ours.
TELL_PROPERTIES = (
    "tell_properties() {\n  getprop 2>/dev/null </dev/null | sed -n"
    + "".join(
        f" \\\n    -e 's/^\\[{name.replace('.', '[.]')}\\]: \\[\\(.*\\)\\]$/{fact}=\\1/p'"
        for fact, name in _PROPERTIES.items()
    )
    + "\n}\n"
)

# find_boot: what changes with every boot and never in between, in $boot. Where the file is hidden,
# init's first moment has nanoseconds; the time of the boot itself moves when the clock is set.
FIND_BOOT = """
find_boot() {
  get "$tree/proc/sys/kernel/random/boot_id" && boot=$got && return
  boot=$(getprop ro.boottime.init 2>/dev/null </dev/null)
  [ -n "$boot" ] || boot=$(sed -n 's/^btime //p' "$tree/proc/stat" 2>/dev/null)
}
"""

# Each line stands for itself: what a phone does not have is not told. The cores that this script
# may run on are those that models may, as long as nobody moves either.
FACTS = (
    GET
    + SAY
    + ASK
    + TELL_PROPERTIES
    + FIND_BOOT
    + """
tell_properties
find_boot
say boot_id "$boot"
say kernel "$(uname -r)"
say machine "$(uname -m)"
while read -r key value; do
  case $key in Cpus_allowed_list:) say affinity "$value" ;; esac
done 2>/dev/null </proc/$$/status
"""
    + f"ask_pack {AGE}\nask_battery\n"
    + CORES
    + SUPPORT
)


def read_facts(pairs: Pairs, fixed_performance: str) -> tuple[Fact, ...]:
    """Facts from what the script printed; one line each, none of them empty.

    Args:
        pairs: what the script printed.
        fixed_performance: what became of that mode: no phone tells.
    """
    told, policies = sort_out(pairs)
    found = {
        **_identity(told),
        **processor(told, policies),
        **_pack(read_battery(pairs)),
        "fixed_performance": fixed_performance,
    }
    for name in (
        "boot_id", "manufacturer", "fingerprint", "sdk", "security_patch", "kernel", "machine",
        "memory_kib", "online", "affinity", "simulated",
    ):  # fmt: skip
        found[name] = _first(told, name)
    return as_facts(found)


def _identity(told: Told) -> dict[str, str]:
    """Which phone and which one of them; older systems have no name for the chip."""
    release = _first(told, "release")
    chip = (_first(told, "soc_maker"), _first(told, "soc_model"))
    known = " ".join(word for word in chip if word.lower() not in ("", "unknown"))
    return {
        "serial": _first(told, "serialno", "boot_serial"),
        "model": _first(told, "model"),
        "soc": known or _first(told, "platform", "hardware"),
        "os": f"Android {release}" if release else "",
        "abi": _first(told, "abis", "abi").partition(",")[0],
    }


def _pack(battery: Battery) -> dict[str, str]:
    share = battery.capacity_pct
    return {
        "battery_health": "" if battery.health == "unknown" else battery.health,
        "battery_cycles": "" if battery.cycles is None else str(battery.cycles),
        "battery_capacity_pct": "" if share is None else f"{share:.1f}",
    }


def _first(told: Told, *names: str) -> str:
    """The first that was told of several names."""
    return next((told[name][0] for name in names if name in told), "")
