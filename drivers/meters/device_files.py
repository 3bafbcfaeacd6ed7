"""Files of the device itself, looked at by a shell there.

That takes power and time from what is measured: a look at two files took 1.3 ms of a core of a
server, nearly all of it for starting `sleep`; 20 a second are 2.5 % of that core, and a small
device pays several times as much. Where that matters, use a meter that another machine reads.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import cast

from drivers.meters.file_looks import Files, Look, read_whole
from farm.connection import Connection, Stream, Transport
from farm.errors import ConfigError, ConnectError, ConnectionLost
from farm.shell import script

TIMEOUT_S = 30.0
POLL_S = 0.005
TICK_NS = 10_000_000
"""What `/proc/uptime` counts in."""
_KEPT = 256
"""Looks whose delays tell how the clocks stand; clocks of a year drift by a tick in minutes."""

# Prints PATH=FIRST LINE of every file that matches one of the patterns "$@", which may have blanks.
_TELL = """
IFS=
for pattern in "$@"; do
  for file in $pattern; do
    [ -e "$file" ] || continue
    line=
    { read -r line <"$file"; } 2>/dev/null
    echo "$file=$line"
  done
done
true
"""

# Prints the time since boot and a word per file "$@", every $1 seconds: `-` where there is no
# number to be had now, `gone` where there is no file. `read` is false at a line without its end.
_LOOK = """
period=$1
shift
while read -r up _ </proc/uptime; do
  line=$up
  for file in "$@"; do
    value=
    { read -r value <"$file"; } 2>/dev/null || value=-
    [ "$value" = - ] && [ ! -e "$file" ] && value=gone
    line="$line ${value:--}"
  done
  echo "$line" || exit
  sleep "$period"
done
"""


class DeviceClock:
    """The device's time since boot on the host's monotonic clock, from when lines arrive.

    A line is read no later than it arrives, and the fastest of the last lines tells how the clocks
    stand. A line that is handed over late has a time that is wrong by a tick at most.
    """

    def __init__(self) -> None:
        self._behind_ns: deque[int] = deque(maxlen=_KEPT)

    def learn(self, up_ns: int, arrived_ns: int) -> None:
        """A line that was read at a time since boot has arrived."""
        self._behind_ns.append(arrived_ns - up_ns)

    def host_ns(self, up_ns: int) -> int:
        """A time since boot on the host's clock."""
        return up_ns + min(self._behind_ns)

    def stamp_ns(self, up_ns: int, arrived_ns: int) -> int:
        """When a line was read; its time since boot was cut to a tick."""
        self.learn(up_ns, arrived_ns)
        return min(arrived_ns, self.host_ns(up_ns) + TICK_NS)


class DeviceFiles(Files):
    """Files of a device that has a shell.

    Args:
        connection: to it.
        fix: what gives the right to read them, for people.

    Raises:
        ConfigError: it has no shell.
    """

    def __init__(self, connection: Connection, fix: str) -> None:
        self._transport = need_shell(connection)
        self._device = connection.device.name
        self._fix = fix
        self._stream: Stream | None = None
        self._clock = DeviceClock()

    def tell(self, patterns: Iterable[str]) -> dict[str, str]:
        """The first lines of the files that match."""
        done = self._transport.run(script(_TELL, *patterns), timeout_s=TIMEOUT_S)
        pairs = (line.partition("=") for line in done.stdout.splitlines())
        return {path: text.strip() for path, found, text in pairs if found}

    def start(self, paths: tuple[str, ...], period_s: float) -> None:
        """Start the loop; every file must be readable."""
        self.stop()
        told = self.tell(paths)
        for path in paths:
            if path not in told:
                raise ConnectError(f"{path} is not there", device=self._device)
            if not told[path]:
                raise ConnectError(
                    f"{path} cannot be read there", device=self._device, hint=self._fix
                )
        self._clock = DeviceClock()
        self._stream = self._transport.stream(script(_LOOK, f"{period_s:g}", *paths))

    def looks(self, *, timeout_s: float) -> tuple[Look, ...]:
        """What the loop printed."""
        looks: list[Look] = []
        for line in wait_lines(self._stream, timeout_s=timeout_s):
            up, *words = line.split()
            arrived_ns = time.monotonic_ns()
            if "gone" in words:
                if looks:
                    break  # what came before it counts, and the loop will say it again
                raise ConnectionLost("a file of the meter has vanished", device=self._device)
            if (up_ns := up_time_ns(up)) is not None:
                values = tuple(read_whole(word.encode() + b"\n") for word in words)
                looks.append(Look(t_ns=self._clock.stamp_ns(up_ns, arrived_ns), values=values))
        return tuple(looks)

    def stop(self) -> None:
        """End the loop."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def need_shell(connection: Connection) -> Transport:
    """The connection, if commands can be run over it.

    Raises:
        ConfigError: none can.
    """
    if not connection.has_shell:
        raise ConfigError(
            "a meter on the device itself is read by a shell there, and it has none",
            device=connection.device.name,
            hint="use a meter that this machine reads",
        )
    return cast(Transport, connection)


def wait_lines(stream: Stream | None, *, timeout_s: float) -> tuple[str, ...]:
    """The lines of a stream as soon as there are some that say something; none at the deadline."""
    deadline = time.monotonic() + timeout_s
    while stream is not None:
        if lines := tuple(line for line in stream.lines() if line.strip()):
            return lines
        if time.monotonic() >= deadline:
            break
        time.sleep(POLL_S)
    return ()


def up_time_ns(text: str) -> int | None:
    """Nanoseconds since boot of seconds with two digits after the point; None for other text."""
    seconds, point, rest = text.partition(".")
    if not (point and seconds.isdigit() and len(rest) == 2 and rest.isdigit()):
        return None
    return int(seconds + rest) * TICK_NS
