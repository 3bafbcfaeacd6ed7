"""How scripts on a Linux device read and tell: lines `name=value`, taken apart here.

Every path of /proc and /sys that describes the hardware is read below `$FARM_TREE`, which no real
device sets: that is how a tree of files plays a board. Processes and time are always the true ones.
"""

from __future__ import annotations

import math

from farm.errors import InfraError
from farm.shell import Shell, script

TIMEOUT_S = 30.0

Pairs = list[tuple[str, str]]
"""Names and values in the order told; a name may come again."""

# get FILE: the first line of a file in $got, without starting a process; false if there is none.
GET = """
tree=${FARM_TREE:-}
cpus=$tree/sys/devices/system/cpu
get() {
  got=
  { read -r got <"$1"; } 2>/dev/null
  [ -n "$got" ]
}
"""

# began PID: the moment a process began, in $began; false if there is none. Numbers are used again:
# this tells them apart.
BEGAN = """
began() {
  began=
  { [ -n "$1" ] && read -r began <"/proc/$1/stat"; } 2>/dev/null || return
  set -- ${began##*) }
  began=${20}
}
"""


def ask(device: Shell, text: str, *arguments: str) -> str:
    """What a script prints.

    Raises:
        InfraError: it did not come to its end.
    """
    done = device.run(script(text, *arguments), timeout_s=TIMEOUT_S)
    if done.returncode:
        raise InfraError(f"a shell script failed there: {done.stderr.strip()[:200]}")
    return done.stdout


def read_pairs(text: str) -> Pairs:
    """The lines of a script as names and values; what is no such line, or empty, is left out."""
    pairs = (line.partition("=") for line in text.splitlines())
    return [(name, value.strip()) for name, found, value in pairs if found and value.strip()]


def read_number(text: str) -> float | None:
    """A finite number, None for anything else that a driver may have written there."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def write_cores(cores: tuple[int, ...]) -> str:
    """Cores in the short form, `0-3,6`."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
