"""Linux: facts, fitness, readings and strays, each asked for by one POSIX shell script.

The scripts need nothing beyond what dash, busybox and toybox have.
"""

from __future__ import annotations

import os

from farm.errors import InfraError
from farm.protocols import Limits, Platform, Stream, Transport, Watch
from farm.record import Fact, Finding, Reading
from farm.shell import script

TIMEOUT_S = 30.0

_FACTS = """
say() { [ -n "$2" ] && printf '%s=%s\\n' "$1" "$2"; }
say serial "$(cat /proc/device-tree/serial-number 2>/dev/null | tr -d '\\0' || true)"
say machine_id "$(cut -c1-12 /etc/machine-id 2>/dev/null)"
say boot_id "$(cat /proc/sys/kernel/random/boot_id)"
say os "$(. /etc/os-release 2>/dev/null; printf %s "$PRETTY_NAME")"
say kernel "$(uname -r)"
say machine "$(uname -m)"
say cpu "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
say cores "$(grep -c ^processor /proc/cpuinfo)"
say memory_kib "$(sed -n 's/^MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo)"
say governor "$(cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor 2>/dev/null)"
say max_khz "$(cat /sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq 2>/dev/null)"
true
"""

_SAMPLE = """
for zone in /sys/class/thermal/thermal_zone*/temp; do
  [ -r "$zone" ] && printf 'zone=%s\\n' "$(cat "$zone" 2>/dev/null)"
done
printf 'load1=%s\\n' "$(cut -d' ' -f1 /proc/loadavg)"
khz=/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq
[ -r $khz ] && printf 'khz=%s\\n' "$(cat $khz)"
printf 'uptime=%s\\n' "$(cut -d' ' -f1 /proc/uptime)"
"""

_FREE = 'df -Pk "$1" | { read -r _; read -r _ _ _ free _; echo "$free"; }'

# A run is a stray if its process still is the one that was started, unless the controller that owns
# it is alive and is not the one that asks. Numbers are used again: the beginning tells them apart.
_SWEEP = """
cd "$1/runs" 2>/dev/null || exit 0
began() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }
for run in */; do
  [ -d "$run" ] || continue
  if read -r owner since 2>/dev/null < "$run/owner" && [ "$owner" != "$2" ]; then
    [ "$(began "$owner")" = "$since" ] && continue
  fi
  if read -r pid since 2>/dev/null < "$run/pid" && [ "$(began "$pid")" = "$since" ]; then
    kill -9 "-$pid" && echo "${run%/}"
  fi
  rm -rf -- "$run"
done
rm -f "$1/store/"*.part
"""


class LinuxPlatform(Platform):
    """What every Linux tells without rights and without installing anything."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def facts(self) -> tuple[Fact, ...]:
        """OS, kernel, processor, memory, governor; `boot_id`, and `serial` where there is one."""
        return tuple(Fact(name=name, value=value) for name, value in self._ask(_FACTS))

    def preflight(self, limits: Limits) -> tuple[Finding, ...]:
        """Room, heat, and whether somebody else is computing."""
        findings = []
        free_kib = self._script(_FREE, str(self._transport.root)).strip()
        if free_kib.isdigit() and int(free_kib) * 1024 < limits.min_free_bytes:
            message = f"{int(free_kib) // 1024} MiB free, {limits.min_free_bytes >> 20} needed"
            findings.append(Finding(code="low_space", message=message, blocking=True))
        readings = {reading.name: reading.value for reading in self.sample()}
        temperature = readings.get("temperature")
        if temperature is not None and temperature > limits.max_temperature_c:
            message = f"{temperature:.0f} degC, at most {limits.max_temperature_c:.0f} to start"
            findings.append(Finding(code="hot", message=message, blocking=True, passing=True))
        cores = next((int(f.value) for f in self.facts() if f.name == "cores"), 1)
        if readings.get("load", 0.0) > cores:
            message = f"load {readings['load']:.1f} on {cores} cores: expect noise"
            findings.append(Finding(code="busy", message=message, blocking=False))
        return tuple(findings)

    def sample(self) -> tuple[Reading, ...]:
        """Hottest zone in degC, load over one minute, frequency of the first core in kHz."""
        return _readings(self._ask(_SAMPLE))

    def watch(self) -> Watch:
        """The same readings once a second, by a script on a connection of its own."""
        looped = f"while :; do {_SAMPLE}\necho; sleep 1; done"
        return LinuxWatch(self._transport.stream(script(looped)))

    def sweep(self) -> tuple[str, ...]:
        """Kill the process groups of runs that nobody waits for, and remove their folders."""
        return tuple(self._script(_SWEEP, str(self._transport.root), str(os.getpid())).split())

    def _ask(self, script: str) -> list[tuple[str, str]]:
        lines = self._script(script).splitlines()
        pairs = [line.partition("=") for line in lines]
        return [(name, value.strip()) for name, found, value in pairs if found and value.strip()]

    def _script(self, script: str, *arguments: str) -> str:
        done = self._transport.run(("sh", "-c", script, "farm", *arguments), timeout_s=TIMEOUT_S)
        if done.returncode:
            raise InfraError(f"a shell script failed there: {done.stderr.strip()[:200]}")
        return done.stdout


class LinuxWatch(Watch):
    """Reads what the script printed so far; an empty line ends each sample."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._begun: list[tuple[str, str]] = []

    def readings(self) -> tuple[Reading, ...]:
        """Every sample that is complete."""
        found: list[Reading] = []
        for line in self._stream.lines():
            name, _, value = line.partition("=")
            if value:
                self._begun.append((name, value))
            elif self._begun:
                found += _readings(self._begun)
                self._begun = []
        return tuple(found)

    def close(self) -> None:
        """End the script."""
        self._stream.close()


def _readings(pairs: list[tuple[str, str]]) -> tuple[Reading, ...]:
    values: dict[str, list[float]] = {}
    for name, text in pairs:
        values.setdefault(name, []).append(float(text))
    t_ns = int(values.get("uptime", [0.0])[0] * 1e9)
    readings = [Reading(t_ns=t_ns, name="load", unit="processes", value=values["load1"][0])]
    if zones := values.get("zone"):
        hottest = max(zones) / 1000
        readings.append(Reading(t_ns=t_ns, name="temperature", unit="degC", value=hottest))
    if khz := values.get("khz"):
        readings.append(Reading(t_ns=t_ns, name="frequency", unit="kHz", value=khz[0]))
    return tuple(readings)
