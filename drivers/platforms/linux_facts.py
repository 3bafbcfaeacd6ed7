"""What a Linux device is: board, chip, system, cores and the rules that they run by."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from drivers.platforms.linux_readings import FIND_PI, read_pi_bits
from drivers.platforms.linux_told import Pairs, write_cores
from farm.errors import one_line
from farm.model import read_cores
from farm.record import Fact

MAX_CHARACTERS = 200

# What the farm does without where a board lacks it: it sends files back to check them, does not
# move its own script to another core, and does not step behind other work.
FALLBACKS = "sha256sum taskset renice setsid"

# Each line stands for itself: what a device does not have is not told.
FACTS = (
    FIND_PI
    + """
say() { [ -n "$2" ] && printf '%s=%s\\n' "$1" "$2"; }
show() { get "$2" && say "$1" "$got"; }
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
sed -n -e 's/^processor[^:]*: */core=/p' -e 's/^model name[^:]*: */cpu=/p' \\
  -e 's/^CPU part[^:]*: */part=/p' -e 's/^Serial[^:]*: */serial=/p' \\
  "$tree/proc/cpuinfo" 2>/dev/null
sed -n 's/^MemTotal: *\\([0-9]*\\).*/memory_kib=\\1/p' "$tree/proc/meminfo" 2>/dev/null
show online "$cpus/online"
for folder in "$cpus"/cpufreq/policy[0-9]*; do
  [ -d "$folder" ] || continue
  echo "policy=${folder##*/policy}"
  show cores "$folder/related_cpus"
  show highest_khz "$folder/cpuinfo_max_freq"
  show min_khz "$folder/scaling_min_freq"
  show max_khz "$folder/scaling_max_freq"
  show governor "$folder/scaling_governor"
done
ask_pi
if command -v nvpmodel >/dev/null 2>&1; then
  nvpmodel -q 2>/dev/null | sed -n 's/^NV Power Mode: */power_model=/p'
else
  show power_model "$tree/var/lib/nvpmodel/status"
fi
missing=
for tool in """
    + FALLBACKS
    + """; do
  command -v $tool >/dev/null 2>&1 || missing="$missing $tool"
done
say missing_tools "${missing# }"
say simulated "$FARM_SIMULATED"
true
"""
)

_CORES = {
    "0xd03": "Cortex-A53", "0xd04": "Cortex-A35", "0xd05": "Cortex-A55", "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72", "0xd09": "Cortex-A73", "0xd0a": "Cortex-A75", "0xd0b": "Cortex-A76",
    "0xd0d": "Cortex-A77", "0xd41": "Cortex-A78", "0xd42": "Cortex-A78AE", "0xd44": "Cortex-X1",
    "0xd46": "Cortex-A510", "0xd47": "Cortex-A710", "0xd4d": "Cortex-A715",
}  # fmt: skip

_SINCE_BOOT = {16: "under-voltage", 17: "frequency capped", 18: "throttled", 19: "soft limit"}


@dataclass(slots=True)
class _Policy:
    """One frequency domain, as told."""

    name: str
    told: dict[str, str] = field(default_factory=dict)

    @property
    def cores(self) -> tuple[int, ...]:
        with suppress(ValueError):
            return read_cores(self.told.get("cores", ""))
        return ()


def read_facts(pairs: Pairs) -> tuple[Fact, ...]:
    """Facts from what the script printed; one line each, none of them empty."""
    told: dict[str, list[str]] = {}
    policies: list[_Policy] = []
    for name, text in pairs:
        if name == "policy":
            policies.append(_Policy(f"policy{text}"))
        elif policies and name in ("cores", "highest_khz", "min_khz", "max_khz", "governor"):
            policies[-1].told[name] = text
        else:
            told.setdefault(name, []).append(text)
    found = {**_identity(told), **_processor(told), **_rules(told, policies)}
    for name in ("boot_id", "kernel", "machine", "libc", "memory_kib", "online", "simulated"):
        found[name] = told.get(name, [""])[0]
    return tuple(
        Fact(name=name, value=one_line(value)[:MAX_CHARACTERS])
        for name, value in found.items()
        if value
    )


def _identity(told: dict[str, list[str]]) -> dict[str, str]:
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


def _processor(told: dict[str, list[str]]) -> dict[str, str]:
    """Model and number of the cores; ARM cores have numbers, which have names."""
    parts = [part.lower() for part in told.get("part", [])]
    kinds = {part: parts.count(part) for part in parts}
    by_part = ", ".join(f"{n} x {_CORES.get(part, part)}" for part, n in kinds.items())
    cores = len(told.get("core", []))
    return {"cpu": told.get("cpu", [by_part])[0], "cores": str(cores) if cores else ""}


def _rules(told: dict[str, list[str]], policies: list[_Policy]) -> dict[str, str]:
    """How fast which cores may run, and what has kept them from it."""
    bits = read_pi_bits(told.get("pi", [""])[0])
    since_boot = [name for bit, name in _SINCE_BOOT.items() if bits and bits >> bit & 1]
    return {
        "clusters": _clusters(policies) or _clusters_by_part(told),
        "governor": _merged(policies, "governor"),
        "min_khz": _merged(policies, "min_khz"),
        "max_khz": _merged(policies, "max_khz"),
        "throttled_since_boot": "" if bits is None else ", ".join(since_boot) or "no",
        "power_model": told.get("power_model", [""])[0],
        "missing_tools": told.get("missing_tools", [""])[0].replace(" ", ","),
    }


def _merged(policies: list[_Policy], name: str) -> str:
    """One word if all domains agree, otherwise each with its own."""
    values = {policy.name: policy.told[name] for policy in policies if name in policy.told}
    if len(set(values.values())) <= 1:
        return next(iter(values.values()), "")
    return ",".join(f"{policy}:{value}" for policy, value in values.items())


def _clusters(policies: list[_Policy]) -> str:
    """Cores by their highest frequency: `0-3:1800000,4-7:2400000`."""
    return _grouped(
        (policy.told["highest_khz"], policy.cores)
        for policy in policies
        if "highest_khz" in policy.told
    )


def _clusters_by_part(told: dict[str, list[str]]) -> str:
    """Cores by their kind, where nothing tells a frequency."""
    cores, parts = told.get("core", []), told.get("part", [])
    if len(cores) != len(parts) or not all(core.isdigit() for core in cores):
        return ""
    return _grouped((part.lower(), (int(core),)) for core, part in zip(cores, parts, strict=True))


def _grouped(pairs: Iterable[tuple[str, tuple[int, ...]]]) -> str:
    groups: dict[str, tuple[int, ...]] = {}
    for key, cores in pairs:
        groups[key] = (*groups.get(key, ()), *cores)
    by_first_core = sorted((tuple(sorted(cores)), key) for key, cores in groups.items() if cores)
    return ",".join(f"{write_cores(cores).replace(',', '+')}:{key}" for cores, key in by_first_core)
