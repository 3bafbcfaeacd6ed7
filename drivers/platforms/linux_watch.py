"""Looks at a Linux device once a second, out of the way of what is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from drivers.platforms.linux_readings import FIND, LOOK, Look, read_look
from drivers.platforms.linux_told import Pairs, read_number
from farm.connection import Stream
from farm.protocols import Watch
from farm.record import Reading

_BEGIN = """
renice -n 19 -p $$ >/dev/null 2>&1
[ -n "$1" ] && taskset -p "$1" $$ >/dev/null 2>&1
tested=
for folder in "$cpus"/cpufreq/policy[0-9]*; do
  [ -r "$folder/stats/time_in_state" ] && get "$folder/related_cpus" || continue
  count=0
  for core in $got; do
    case ${2:- $core } in *" $core "*) count=$((count + 1)) ;; esac
  done
  get "$folder/scaling_max_freq"
  [ $count = 0 ] || tested="$tested ${folder##*policy}:$count:${got%% *}"
done
parent() {
  parent=
  { read -r _ _ _ parent _ <"/proc/$$/stat"; } 2>/dev/null
}
parent
first=$parent
while [ "$parent" = "$first" ]; do
"""
_END = """
  for n in $tested; do
    line=
    while read -r khz ticks; do
      line="$line $khz:$ticks"
    done 2>/dev/null <"$cpus/cpufreq/policy${n%%:*}/stats/time_in_state"
    echo "time.$n=$line"
  done
  echo || exit
  sleep 1
  parent
done
"""


def watch_script(find: str, look: str) -> str:
    """The script of a watch.

    Its $1 is a mask of cores to run on, or nothing; its $2 the cores under test as ` 2 3 `, or
    nothing for all. An empty line ends each look. The script ends when nobody can read it any
    more, or when the process that started it has: no device keeps it. Besides `look` it starts
    `sleep` alone.

    Args:
        find: finds once what there is to look at.
        look: one look.
    """
    return find + _BEGIN + look + _END


WATCH = watch_script(FIND, LOOK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How long the cores of one frequency domain ran at which frequency since boot.

    Attributes:
        cores: how many of them are under test.
        limit_khz: what they were allowed when the watch began; infinite if that is unknown.
        ticks: time by frequency in kHz, in ticks of 10 ms.
    """

    cores: int
    limit_khz: float
    ticks: Mapping[float, float]


class LinuxWatch(Watch):
    """Reads what the script printed so far; an empty line ends each look."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._begun: Pairs = []
        self._throttles: float | None = None
        self._times: dict[str, Times] = {}

    def readings(self) -> tuple[Reading, ...]:
        """Every look that is complete; `below_max_frequency` covers the time since the last call.

        It is the share of that time in which the cores under test ran below their highest
        frequency, 0 to 1, to a second.
        """
        found: list[Reading] = []
        times, t_ns = self._times, 0
        for line in self._stream.lines():
            name, _, value = line.partition("=")
            if value:
                self._begun.append((name, value))
            elif self._begun:
                look = read_look(self._begun)
                found += self.read(look, self._begun)
                times, t_ns = read_times(self._begun), look.t_ns
                self._begun = []
        share = share_below(self._times, times)
        self._times = times
        if share is not None:
            name = "below_max_frequency"
            found.append(Reading(t_ns=t_ns, name=name, unit="ratio", value=share))
        return tuple(found)

    def read(self, look: Look, pairs: Pairs) -> tuple[Reading, ...]:
        """The readings of one look; `pairs` is all that it told."""
        readings = look.readings(self._throttles)
        self._throttles = look.throttles
        return readings

    def close(self) -> None:
        """End the script."""
        self._stream.close()


def watch_arguments(cores_under_test: tuple[int, ...]) -> tuple[str, str]:
    """What the script is told of the cores under test; none are named for all."""
    tested = f" {' '.join(map(str, cores_under_test))} " if cores_under_test else ""
    return spare_mask(cores_under_test), tested


def spare_mask(cores_under_test: tuple[int, ...]) -> str:
    """A hexadecimal mask of the cores that are not under test; empty if that says nothing.

    Cores that do not exist may be in it: the kernel leaves them out. A hexadecimal mask is what
    every `taskset` understands.
    """
    spare = ~sum(1 << core for core in cores_under_test) & 0xFFFFFFFF
    return f"{spare:x}" if cores_under_test and spare else ""


def read_times(pairs: Pairs) -> dict[str, Times]:
    """Times by frequency domain, from lines `time.POLICY:CORES:LIMIT= KHZ:TICKS KHZ:TICKS ...`."""
    found = {}
    for name, text in pairs:
        if not name.startswith("time."):
            continue
        policy, cores, limit = [*name.removeprefix("time.").split(":"), "", ""][:3]
        pairs_of_numbers = (
            (read_number(khz), read_number(ticks))
            for khz, _, ticks in (word.partition(":") for word in text.split())
        )
        ticks = {k: t for k, t in pairs_of_numbers if k is not None and t is not None}
        if ticks and cores.isdigit():
            limit_khz = read_number(limit) or float("inf")
            found[policy] = Times(cores=int(cores), limit_khz=limit_khz, ticks=ticks)
    return found


def share_below(before: Mapping[str, Times], after: Mapping[str, Times]) -> float | None:
    """The share of time between two looks below the highest frequency; None if no time passed."""
    below = total = 0.0
    for policy in before.keys() & after.keys():
        was, now = before[policy], after[policy]
        highest = min(now.limit_khz, max(now.ticks))
        for khz, ticks in now.ticks.items():
            spent = now.cores * max(0.0, ticks - was.ticks.get(khz, ticks))
            total += spent
            below += spent if khz < highest else 0.0
    return below / total if total else None
