"""The files in which a virtual board describes its hardware, as Linux has them in /proc and /sys.

The scripts of the Linux platform read them below `$FARM_TREE`. Processes and time are the true ones
of this machine, so there is no uptime here. Governor and limits of frequency are plain files that
anybody may write; the physics does not follow them.
"""

from __future__ import annotations

CORES = 4
LOWEST_KHZ, HIGHEST_KHZ = 600_000, 1_800_000
THROTTLED_KHZ = 1_000_000
GOVERNORS = "performance schedutil powersave"
MEMORY_KIB = 4 << 20

CPUS = "sys/devices/system/cpu"
_POLICY = f"{CPUS}/cpufreq/policy0"
_ZONE = "sys/class/thermal/thermal_zone0"
_COOLER = "sys/class/thermal/cooling_device0"


def sensor_files(temperature_c: float, *, throttled: bool) -> dict[str, str]:
    """What the sensors show now."""
    return {
        f"{_ZONE}/temp": str(round(1000 * temperature_c)),
        f"{_COOLER}/cur_state": str(int(throttled)),
        f"{_POLICY}/scaling_cur_freq": str(THROTTLED_KHZ if throttled else HIGHEST_KHZ),
    }


def board_files(boot_id: str, serial: str) -> dict[str, str]:
    """Everything else, as it is after a restart."""
    return {
        "proc/device-tree/model": "Virtual board (simulated)",
        "proc/device-tree/compatible": "farm,virtual-board\0farm,virtual-soc\0",
        "proc/device-tree/serial-number": serial,
        "proc/sys/kernel/random/boot_id": boot_id,
        "proc/cpuinfo": "\n\n".join(
            f"processor\t: {core}\nmodel name\t: virtual core (simulated)" for core in range(CORES)
        ),
        "proc/meminfo": f"MemTotal:       {MEMORY_KIB} kB\nMemFree:        {MEMORY_KIB // 2} kB\n"
        f"MemAvailable:   {MEMORY_KIB // 4 * 3} kB",
        "proc/loadavg": "0.02 0.01 0.00 1/96 1",
        "proc/pressure/cpu": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0",
        "etc/os-release": 'NAME="Virtual board"\nPRETTY_NAME="Virtual board (simulated)"',
        "etc/machine-id": serial.rpartition("-")[2].ljust(32, "0"),
        f"{CPUS}/online": f"0-{CORES - 1}",
        f"{CPUS}/present": f"0-{CORES - 1}",
        f"{_POLICY}/related_cpus": " ".join(map(str, range(CORES))),
        f"{_POLICY}/cpuinfo_min_freq": str(LOWEST_KHZ),
        f"{_POLICY}/cpuinfo_max_freq": str(HIGHEST_KHZ),
        f"{_POLICY}/scaling_min_freq": str(LOWEST_KHZ),
        f"{_POLICY}/scaling_max_freq": str(HIGHEST_KHZ),
        f"{_POLICY}/scaling_available_governors": GOVERNORS,
        f"{_POLICY}/scaling_governor": "schedutil",
        f"{_ZONE}/type": "cpu-thermal",
        f"{_COOLER}/type": "cpufreq-cpu0",
        f"{_COOLER}/max_state": "1",
    }
