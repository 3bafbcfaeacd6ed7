"""The cores of a device: how many of which kind, and the rules that they run by."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from drivers.platforms.linux_told import Pairs, write_cores
from farm.model import read_cores

# What the farm does without where a device lacks it: it sends files back to check them, does not
# move its own script to another core, and does not step behind other work.
FALLBACKS = "sha256sum taskset renice setsid"

# say NAME TEXT, show NAME FILE; goes after GET. What is empty is not told.
SAY = """
say() { [ -n "$2" ] && printf '%s=%s\\n' "$1" "$2"; }
show() { get "$2" && say "$1" "$got"; }
"""

# Each line stands for itself: what a device does not have is not told.
CORES = """
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
"""

# What the farm misses on a device, and whether it is one.
SUPPORT = f"""
missing=
for tool in {FALLBACKS}; do
  command -v $tool >/dev/null 2>&1 || missing="$missing $tool"
done
say missing_tools "${{missing# }}"
say simulated "$FARM_SIMULATED"
true
"""

_KINDS = {
    "0xd03": "Cortex-A53", "0xd04": "Cortex-A35", "0xd05": "Cortex-A55", "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72", "0xd09": "Cortex-A73", "0xd0a": "Cortex-A75", "0xd0b": "Cortex-A76",
    "0xd0d": "Cortex-A77", "0xd41": "Cortex-A78", "0xd42": "Cortex-A78AE", "0xd44": "Cortex-X1",
    "0xd46": "Cortex-A510", "0xd47": "Cortex-A710", "0xd48": "Cortex-X2", "0xd4d": "Cortex-A715",
    "0xd4e": "Cortex-X3", "0xd80": "Cortex-A520", "0xd81": "Cortex-A720", "0xd82": "Cortex-X4",
    "0xd85": "Cortex-X925", "0xd87": "Cortex-A725",
}  # fmt: skip

Told = dict[str, list[str]]
"""Everything told under a name, in the order told."""


@dataclass(slots=True)
class Policy:
    """One frequency domain, as told."""

    name: str
    told: dict[str, str] = field(default_factory=dict)

    @property
    def cores(self) -> tuple[int, ...]:
        """The cores that it governs; none if that cannot be read."""
        with suppress(ValueError):
            return read_cores(self.told.get("cores", ""))
        return ()


def sort_out(pairs: Pairs) -> tuple[Told, list[Policy]]:
    """What a script told, and what of it belongs to a frequency domain."""
    told: Told = {}
    policies: list[Policy] = []
    for name, text in pairs:
        if name == "policy":
            policies.append(Policy(f"policy{text}"))
        elif policies and name in ("cores", "highest_khz", "min_khz", "max_khz", "governor"):
            policies[-1].told[name] = text
        else:
            told.setdefault(name, []).append(text)
    return told, policies


def processor(told: Told, policies: list[Policy]) -> dict[str, str]:
    """Facts: which cores, how fast they may run, and what decides it."""
    return {
        **_kinds(told),
        "clusters": _clusters(policies) or _clusters_by_part(told),
        "governor": _merged(policies, "governor"),
        "min_khz": _merged(policies, "min_khz"),
        "max_khz": _merged(policies, "max_khz"),
        "missing_tools": told.get("missing_tools", [""])[0].replace(" ", ","),
    }


def _kinds(told: Told) -> dict[str, str]:
    """Model and number of the cores; ARM cores have numbers, which have names."""
    parts = [part.lower() for part in told.get("part", [])]
    kinds = {part: parts.count(part) for part in parts}
    by_part = ", ".join(f"{n} x {_KINDS.get(part, part)}" for part, n in kinds.items())
    cores = len(told.get("core", []))
    return {"cpu": told.get("cpu", [by_part])[0], "cores": str(cores) if cores else ""}


def _merged(policies: list[Policy], name: str) -> str:
    """One word if all domains agree, otherwise each with its own."""
    values = {policy.name: policy.told[name] for policy in policies if name in policy.told}
    if len(set(values.values())) <= 1:
        return next(iter(values.values()), "")
    return ",".join(f"{policy}:{value}" for policy, value in values.items())


def _clusters(policies: list[Policy]) -> str:
    """Cores by their highest frequency: `0-3:1800000,4-7:2400000`."""
    return _grouped(
        (policy.told["highest_khz"], policy.cores)
        for policy in policies
        if "highest_khz" in policy.told
    )


def _clusters_by_part(told: Told) -> str:
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
