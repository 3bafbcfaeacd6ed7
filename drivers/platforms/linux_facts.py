"""What a Linux device is: board, chip, system, cores and the rules that they run by."""

from __future__ import annotations

from collections.abc import Mapping

from drivers.platforms.linux_cores import CORES, SAY, SUPPORT, Told, processor, sort_out
from drivers.platforms.linux_readings import FIND_PI, read_pi_bits
from drivers.platforms.linux_told import Pairs
from farm.errors import one_line
from farm.record import Fact

MAX_CHARACTERS = 200

# Each line stands for itself: what a device does not have is not told.
FACTS = (
    FIND_PI
    + SAY
    + """
show model "$tree/proc/device-tree/model"
show dmi_vendor "$tree/sys/class/dmi/id/sys_vendor"
show dmi_product "$tree/sys/class/dmi/id/product_name"
for part in family soc_id machine; do show soc "$tree/sys/devices/soc0/$part"; done
chips=$tree/proc/device-tree/compatible
[ -r "$chips" ] && say compatible "$(tr '\\000' ' ' 2>/dev/null <"$chips")"
show serial "$tree/proc/device-tree/serial-number"
show serial "$tree/sys/class/dmi/id/product_serial"
show machine_id "$tree/etc/machine-id"
show boot_id "$tree/proc/sys/kernel/random/boot_id"
while read -r line; do
  case $line in PRETTY_NAME=*) say os "${line#*=}" ;; esac
done 2>/dev/null <"$tree/etc/os-release"
say kernel "$(uname -r)"
say machine "$(uname -m)"
libc=$(getconf GNU_LIBC_VERSION 2>/dev/null)
for loader in /lib/ld-musl-*.so.1; do
  [ -z "$libc" ] && [ -x "$loader" ] && libc=$("$loader" 2>&1 | sed -n 's/^Version /musl /p')
done
say libc "$libc"
"""
    + CORES
    + """
ask_pi
if command -v nvpmodel >/dev/null 2>&1; then
  nvpmodel -q 2>/dev/null | sed -n 's/^NV Power Mode: */power_model=/p'
else
  show power_model "$tree/var/lib/nvpmodel/status"
fi
"""
    + SUPPORT
)

_SINCE_BOOT = {16: "under-voltage", 17: "frequency capped", 18: "throttled", 19: "soft limit"}


def read_facts(pairs: Pairs) -> tuple[Fact, ...]:
    """Facts from what the script printed; one line each, none of them empty."""
    told, policies = sort_out(pairs)
    found = {**_identity(told), **_rules(told), **processor(told, policies)}
    for name in ("boot_id", "kernel", "machine", "libc", "memory_kib", "online", "simulated"):
        found[name] = told.get(name, [""])[0]
    return as_facts(found)


def as_facts(found: Mapping[str, str]) -> tuple[Fact, ...]:
    """Facts of one line each, without those that are empty."""
    lines = {name: one_line(value)[:MAX_CHARACTERS] for name, value in found.items()}
    return tuple(Fact(name=name, value=line) for name, line in lines.items() if line)


def _identity(told: Told) -> dict[str, str]:
    """Which board and which one of them; a device tree knows better than a firmware table."""
    dmi = " ".join(told.get("dmi_vendor", []) + told.get("dmi_product", []))
    chips = told.get("compatible", [""])[0].split()
    return {
        "model": told.get("model", [dmi])[0],
        "soc": " ".join(told.get("soc", chips[-1:])),
        "serial": told.get("serial", [""])[0],
        "machine_id": told.get("machine_id", [""])[0][:12],
        "os": told.get("os", [""])[0].strip("\"'"),
    }


def _rules(told: Told) -> dict[str, str]:
    """What has kept it from full speed, and what its maker lets it have."""
    bits = read_pi_bits(told.get("pi", [""])[0])
    since_boot = [name for bit, name in _SINCE_BOOT.items() if bits and bits >> bit & 1]
    return {
        "throttled_since_boot": "" if bits is None else ", ".join(since_boot) or "no",
        "power_model": told.get("power_model", [""])[0],
    }
