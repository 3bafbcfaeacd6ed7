"""The files in which a virtual phone describes its hardware, and what its sensors show.

Eight cores in three clusters, a battery, and sensors that follow the physics: the processor is as
hot as the physics has it, skin and battery are behind it. Whoever runs commands on the phone finds
the files below `$FARM_TREE`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from drivers.virtual.phone_dumps import (
    BATTERY,
    CHARGING,
    CPU,
    DISCHARGING,
    FULL,
    SKIN,
    Heat,
    battery_dump,
    thermal_dump,
)


class Cluster(NamedTuple):
    """Cores that share a clock.

    Attributes:
        cores: their numbers.
        part: the number that ARM gave to the core.
        khz: the frequencies that it has; the third is the highest while the phone is too hot.
    """

    cores: range
    part: str
    khz: tuple[int, ...]

    @property
    def policy(self) -> str:
        """Where its frequencies are told."""
        return f"{CPUS}/cpufreq/policy{self.cores[0]}"


CPUS = "sys/devices/system/cpu"
CLUSTERS = (
    Cluster(range(4), "0xd05", (300_000, 738_000, 1_197_000, 1_803_000)),
    Cluster(range(4, 7), "0xd41", (400_000, 910_000, 1_491_000, 2_348_000)),
    Cluster(range(7, 8), "0xd44", (500_000, 1_106_000, 1_826_000, 2_850_000)),
)
CORES = sum(len(cluster.cores) for cluster in CLUSTERS)
MEMORY_KIB = 8 << 20
VOLTAGE_MV = 4100
CYCLES = 42
SKIN_SHARE, BATTERY_SHARE = 0.45, 0.35
"""How much of the processor's heat above the room is felt there."""
MODERATE = 2
"""The thermal status of a phone that slowed down."""
_FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm dcpop"
_ZONES = "sys/class/thermal/thermal_zone"
_COOLER = "sys/class/thermal/cooling_device0"
_SUPPLY = "sys/class/power_supply/battery"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What the physics tells of the phone at a moment.

    Attributes:
        die_c: temperature of the processor.
        room_c: that around the phone.
        level_pct: charge, None for a phone without a battery.
        capacity_wh: of the battery.
        gain_w: power that goes into the battery; negative while it gives.
        busy: whether something ran just now.
        throttled: whether it had to slow down.
        idle_s, busy_s, slow_s: how long the cores ran at their lowest frequency, at their highest,
            and at the highest that heat allows.
    """

    die_c: float
    room_c: float
    level_pct: float | None
    capacity_wh: float
    gain_w: float
    busy: bool
    throttled: bool
    idle_s: float
    busy_s: float
    slow_s: float

    @property
    def skin_c(self) -> float:
        """What a hand would feel."""
        return self.room_c + SKIN_SHARE * (self.die_c - self.room_c)

    @property
    def battery_c(self) -> float:
        """What the battery's own sensor shows."""
        return self.room_c + BATTERY_SHARE * (self.die_c - self.room_c)

    @property
    def status(self) -> int:
        """`BatteryManager.BATTERY_STATUS_*`."""
        if self.level_pct is None or self.level_pct >= 100:
            return FULL
        return CHARGING if self.gain_w > 0 else DISCHARGING


def cpufreq_links() -> dict[str, str]:
    """Where each core has the frequencies of its cluster."""
    return {
        f"{CPUS}/cpu{core}/cpufreq": f"../cpufreq/policy{cluster.cores[0]}"
        for cluster in CLUSTERS
        for core in cluster.cores
    }


def phone_files(boot_id: str) -> dict[str, str]:
    """What does not change until the next restart."""
    files = {
        "proc/sys/kernel/random/boot_id": boot_id,
        "proc/cpuinfo": "\n".join(
            f"processor\t: {core}\nBogoMIPS\t: 49.15\nFeatures\t: {_FEATURES}\n"
            f"CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x1\n"
            f"CPU part\t: {cluster.part}\nCPU revision\t: 0\n"
            for cluster in CLUSTERS
            for core in cluster.cores
        ),
        "proc/meminfo": f"MemTotal:       {MEMORY_KIB} kB\nMemFree:        {MEMORY_KIB // 8} kB\n"
        f"MemAvailable:   {MEMORY_KIB // 2} kB",
        "proc/loadavg": "0.52 0.41 0.30 1/2048 1",
        f"{CPUS}/possible": f"0-{CORES - 1}",
        f"{CPUS}/present": f"0-{CORES - 1}",
        f"{CPUS}/online": f"0-{CORES - 1}",
        f"{_COOLER}/type": "thermal-cpufreq-0",
        f"{_COOLER}/max_state": "1",
    }
    for index, name in enumerate(_zone_names()):
        files[f"{_ZONES}{index}/type"] = name
    for cluster in CLUSTERS:
        lowest, highest = cluster.khz[0], cluster.khz[-1]
        files |= {
            f"{cluster.policy}/related_cpus": " ".join(map(str, cluster.cores)),
            f"{cluster.policy}/cpuinfo_min_freq": str(lowest),
            f"{cluster.policy}/cpuinfo_max_freq": str(highest),
            f"{cluster.policy}/scaling_min_freq": str(lowest),
            f"{cluster.policy}/scaling_available_frequencies": " ".join(map(str, cluster.khz)),
            f"{cluster.policy}/scaling_available_governors": "schedutil performance powersave",
            f"{cluster.policy}/scaling_governor": "schedutil",
        }
    return files


def sensor_files(now: Condition) -> dict[str, str]:
    """What the sensors of the hardware show."""
    heats = (*[now.die_c] * len(CLUSTERS), now.battery_c, now.skin_c)
    files = {f"{_ZONES}{n}/temp": str(100 * round(10 * heat)) for n, heat in enumerate(heats)}
    files[f"{_COOLER}/cur_state"] = str(int(now.throttled))
    for cluster in CLUSTERS:
        lowest, middle, warm, highest = cluster.khz
        most = warm if now.throttled else highest
        spent_s = {lowest: now.idle_s, middle: 0.0, warm: now.slow_s, highest: now.busy_s}
        files |= {
            f"{cluster.policy}/scaling_cur_freq": str(most if now.busy else lowest),
            f"{cluster.policy}/scaling_max_freq": str(most),
            f"{cluster.policy}/stats/time_in_state": "".join(
                f"{khz} {round(100 * seconds)}\n" for khz, seconds in spent_s.items()
            ),
        }
    if now.level_pct is None:
        return files
    full_uah = _full_uah(now)
    status = {CHARGING: "Charging", DISCHARGING: "Discharging", FULL: "Full"}[now.status]
    return files | {
        f"{_SUPPLY}/capacity": str(int(now.level_pct)),
        f"{_SUPPLY}/temp": str(round(10 * now.battery_c)),
        f"{_SUPPLY}/voltage_now": str(1000 * VOLTAGE_MV),
        f"{_SUPPLY}/current_now": str(round(now.gain_w * 1e9 / VOLTAGE_MV)),
        f"{_SUPPLY}/cycle_count": str(CYCLES),
        f"{_SUPPLY}/charge_full": str(round(0.97 * full_uah)),
        f"{_SUPPLY}/charge_full_design": str(full_uah),
        f"{_SUPPLY}/status": status,
    }


def service_files(now: Condition) -> dict[str, str]:
    """What `dumpsys` prints, by the names that the phone's tools have for it."""
    status = MODERATE if now.throttled else 0
    names = _zone_names()
    sensors = [Heat(name=name, kind=CPU, celsius=now.die_c) for name in names[: len(CLUSTERS)]]
    if now.level_pct is not None:
        sensors.append(Heat(name="battery", kind=BATTERY, celsius=now.battery_c))
    sensors.append(Heat(name=names[-1], kind=SKIN, celsius=now.skin_c, status=status))
    there = now.level_pct is not None
    battery = battery_dump(
        level_pct=int(now.level_pct) if now.level_pct is not None else 100,
        celsius=now.battery_c,
        plugged="USB" if there else "AC",
        present=there,
        status=now.status,
        voltage_mv=VOLTAGE_MV,
        charge_uah=round(_full_uah(now) * (now.level_pct or 0) / 100),
    )
    thermal = thermal_dump(status=status, sensors=sensors, cooling=int(now.throttled))
    return {"dumpsys/battery": battery, "dumpsys/thermalservice": thermal}


def _zone_names() -> tuple[str, ...]:
    return ("LITTLE", "MID", "BIG", "battery", "VIRTUAL-SKIN")


def _full_uah(now: Condition) -> int:
    return round(now.capacity_wh * 1e9 / VOLTAGE_MV)
