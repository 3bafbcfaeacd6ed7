"""What a Linux device tells of itself now: heat, load, memory, frequencies, throttling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from drivers.platforms.linux_told import GET, Pairs, read_number
from farm.record import Reading

COLDEST_C, HOTTEST_C = -40.0, 150.0
"""A sensor beyond these is not connected, or not calibrated."""

NOW_BITS = 0xF
"""A Raspberry Pi's bits: under-voltage, frequency capped, throttled, soft temperature limit."""

# Where a Raspberry Pi's firmware tells: a file, or a command; $pi is empty on other boards.
FIND_PI = (
    GET
    + """
pi=
for file in "$tree"/sys/devices/platform/soc*/soc*firmware/get_throttled; do
  [ -r "$file" ] && pi=$file
done
[ -z "$pi" ] && command -v vcgencmd >/dev/null 2>&1 && pi=vcgencmd
ask_pi() {
  case $pi in
    '') ;;
    vcgencmd) vcgencmd get_throttled 2>/dev/null | { read -r bits && echo "pi=$bits"; } ;;
    *) get "$pi" && echo "pi=$got" ;;
  esac
}
"""
)

# Which zones, cooling devices, counters and clusters there are: found once, looked at often.
# A cluster is what has a maximal frequency of its own; its first policy stands for it.
FIND = (
    FIND_PI
    + """
thermal=$tree/sys/class/thermal zones= coolers= counted= clusters= seen=' '
for folder in "$thermal"/thermal_zone*; do
  [ -d "$folder" ] && zones="$zones ${folder##*zone}"
done
for folder in "$thermal"/cooling_device*; do
  get "$folder/type" || continue
  case $got in *cpufreq* | *devfreq* | Processor) coolers="$coolers ${folder##*device}" ;; esac
done
for folder in "$cpus"/cpu[0-9]*; do
  [ -d "$folder/thermal_throttle" ] && counted="$counted ${folder##*/cpu}"
done
for folder in "$cpus"/cpufreq/policy[0-9] "$cpus"/cpufreq/policy[0-9][0-9] \\
  "$cpus"/cpufreq/policy[0-9][0-9][0-9]; do
  get "$folder/cpuinfo_max_freq" || continue
  case $seen in *" $got "*) continue ;; esac
  seen="$seen$got " clusters="$clusters ${folder##*policy}"
done
"""
)

# One look. Nothing here starts a process, except where only a command knows a Pi's bits.
LOOK = """
for n in $zones; do get "$thermal/thermal_zone$n/temp" && echo "zone=$got"; done
for n in $coolers; do get "$thermal/cooling_device$n/cur_state" && echo "cooler=$got"; done
for n in $clusters; do get "$cpus/cpufreq/policy$n/scaling_cur_freq" && echo "khz.$n=$got"; done
if [ -n "$counted" ]; then
  sum=0
  for n in $counted; do
    for kind in core package; do
      get "$cpus/cpu$n/thermal_throttle/${kind}_throttle_count"
      case $got in '' | *[!0-9]* | ??????????*) ;; *) sum=$((sum + got)) ;; esac
    done
  done
  echo "throttles=$sum"
fi
ask_pi
get "$tree/proc/loadavg" && echo "load=${got%% *}"
get "$tree/proc/pressure/cpu" && echo "pressure=$got"
while read -r key value _; do
  case $key in MemAvailable:) echo "memory_kib=$value"; break ;; esac
done 2>/dev/null <"$tree/proc/meminfo"
get /proc/uptime && echo "uptime=${got%% *}"
"""

SAMPLE = FIND + LOOK + "true\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at a device; None is what it does not tell.

    Attributes:
        t_ns: the device's monotonic clock.
        temperature_c: the hottest sensor that makes sense.
        load: processes that run or wait, over one minute.
        pressure_pct: share of the last ten seconds in which somebody waited for a core.
        memory_bytes: memory that can be had.
        khz: frequency of each cluster, by its first core.
        cooler: the highest state of a device that cools by slowing down; 0 is full speed.
        throttles: how often an x86 processor has slowed itself down since boot.
        pi_bits: what a Raspberry Pi's firmware tells.
    """

    t_ns: int
    temperature_c: float | None = None
    load: float | None = None
    pressure_pct: float | None = None
    memory_bytes: float | None = None
    khz: Mapping[int, float] = field(default_factory=dict)
    cooler: float | None = None
    throttles: float | None = None
    pi_bits: int | None = None

    def throttled(self, throttles_before: float | None) -> bool | None:
        """Whether it is slowed down now, or was since an earlier look; None if it cannot be known.

        Args:
            throttles_before: `throttles` at the earlier look.
        """
        told = []
        if self.pi_bits is not None:
            told.append(bool(self.pi_bits & NOW_BITS))
        if self.cooler is not None:
            told.append(self.cooler > 0)
        if self.throttles is not None and throttles_before is not None:
            told.append(self.throttles > throttles_before)
        return any(told) if told else None

    def readings(self, throttles_before: float | None) -> tuple[Reading, ...]:
        """Everything that was told, as readings."""
        told: list[tuple[str, str, float | None]] = [
            ("load", "processes", self.load),
            ("temperature", "degC", self.temperature_c),
            ("pressure", "pct", self.pressure_pct),
            ("memory_available", "bytes", self.memory_bytes),
            ("throttled", "flag", self.throttled(throttles_before)),
            *((f"frequency.cpu{core}", "kHz", khz) for core, khz in self.khz.items()),
        ]
        return tuple(
            Reading(t_ns=self.t_ns, name=name, unit=unit, value=float(value))
            for name, unit, value in told
            if value is not None
        )


def read_look(pairs: Pairs) -> Look:
    """A look from what the script printed; what is no number was not told."""
    numbers: dict[str, list[float]] = {}
    for name, text in pairs:
        value = _PARSERS.get(name, read_number)(text)
        if value is not None:
            numbers.setdefault(name, []).append(value)
    degrees = [milli / 1000 for milli in numbers.get("zone", [])]
    memory_kib = _last(numbers, "memory_kib")
    pi_bits = _last(numbers, "pi")
    return Look(
        t_ns=int((_last(numbers, "uptime") or 0.0) * 1e9),
        temperature_c=max((c for c in degrees if COLDEST_C < c < HOTTEST_C), default=None),
        load=_last(numbers, "load"),
        pressure_pct=_last(numbers, "pressure"),
        memory_bytes=None if memory_kib is None else memory_kib * 1024,
        khz={
            int(name.removeprefix("khz.")): values[-1]
            for name, values in numbers.items()
            if name.startswith("khz.")
        },
        cooler=max(numbers.get("cooler", []), default=None),
        throttles=_last(numbers, "throttles"),
        pi_bits=None if pi_bits is None else int(pi_bits),
    )


def read_pi_bits(text: str) -> int | None:
    """A Raspberry Pi's bits: `50005` in a file, `throttled=0x50005` from the command."""
    try:
        return int(text.rpartition("=")[2], 16)
    except ValueError:
        return None


def _read_pressure(text: str) -> float | None:
    """The first number of `some avg10=0.85 avg60=...`."""
    kind, _, rest = text.partition(" avg10=")
    return read_number(rest.partition(" ")[0]) if kind == "some" else None


def _last(numbers: dict[str, list[float]], name: str) -> float | None:
    return numbers[name][-1] if name in numbers else None


_PARSERS = {"pressure": _read_pressure, "pi": read_pi_bits}
