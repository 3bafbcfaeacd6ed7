"""On-device power monitors of Android phones: what single rails took since boot.

Files of the kernel tell it with their own time where the shell may read them; elsewhere the power
stats HAL prints it, rounded as a number of 24 bits, so that the steps of a phone that has been up
for days are a few mJ. Asking the HAL takes some 50 ms of a core each time.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from drivers.meters.device_files import (
    TIMEOUT_S,
    DeviceClock,
    need_shell,
    up_time_ns,
    wait_lines,
)
from drivers.meters.file_looks import Look
from drivers.meters.file_samples import Counted, Samples
from farm.connection import Connection, Stream
from farm.errors import ConfigError, ConnectError
from farm.metering import Chunk, ClockDomain, MeterFacts
from farm.model import Device
from farm.protocols import Meter
from farm.shell import script

PERIOD_S = {"files": 0.1, "hal": 0.5}

# One look, or one every $2 seconds until nobody reads, of what $1 names: the time since boot before
# and after, and between them lines `rail=`. The HAL prints its energy meter between two headlines.
_LOOK = """
tree=${FARM_TREE:-}
while read -r up _ </proc/uptime; do
  echo "from=$up"
  if [ "$1" = files ]; then
    for file in "$tree"/sys/bus/iio/devices/iio:device*/energy_value; do
      while read -r line; do echo "rail=$line"; done <"$file"
    done 2>/dev/null
  else
    dumpsys android.hardware.power.stats.IPowerStats/default 2>/dev/null </dev/null |
      sed -n '/HAL.*energy meter/,/End of/s/^/rail=/p'
  fi
  read -r up _ </proc/uptime
  echo "to=$up" || exit
  [ -n "$2" ] || exit 0
  sleep "$2"
done
"""
_TIME = re.compile(r"t=(\d+)")
_FILE_RAIL = re.compile(r"CH\d+\(T=\d+\)\[(\S+)\], (\d+)")
_HAL_RAIL = re.compile(r"\s*(\S+)\s+(\d+\.\d+) mWs")
_HAL_NAME = re.compile(r"\[(.+)\]:(.*)")


@dataclass(slots=True, kw_only=True)
class Counts:
    """What one look told, while its lines come.

    Attributes:
        from_ns: time since boot when it began.
        to_ns: when it ended.
        rails: by their names the time since boot that the kernel tells, or None, and the energy in
            microjoules.
    """

    from_ns: int | None = None
    to_ns: int | None = None
    rails: dict[str, tuple[int | None, int]] = field(default_factory=dict)
    _time_ns: int | None = None

    def hear(self, line: str) -> None:
        """Take one line in."""
        name, _, text = line.partition("=")
        if name == "from":
            self.from_ns = up_time_ns(text)
        elif name == "to":
            self.to_ns = up_time_ns(text)
        elif found := _TIME.fullmatch(text.strip()):
            self._time_ns = int(found[1]) * 1_000_000
        elif found := _FILE_RAIL.match(text):
            self.rails[found[1]] = (self._time_ns, int(found[2]))
        elif found := _HAL_RAIL.fullmatch(text.rstrip()):
            full = _HAL_NAME.fullmatch(found[1])
            self.rails[full[1] if full else found[1]] = (None, round(1e3 * float(found[2])))

    def of(self, names: Iterable[str]) -> tuple[int, tuple[int, ...]] | None:
        """The time since boot and what rails had taken then; None if one is missing."""
        if self.from_ns is None or self.to_ns is None or any(n not in self.rails for n in names):
            return None
        middle_ns = (self.from_ns + self.to_ns) // 2
        times, energies = zip(*(self.rails[name] for name in names), strict=True)
        told = [middle_ns if time_ns is None else time_ns for time_ns in times]
        return sum(told) // len(told), energies


class AndroidRails(Meter):
    """Some rails of the phone itself, together.

    Address: `rails://?rail=S2M_VDD_CPUCL2+S4M_VDD_CPUCL0`; which there are, and what hangs on them,
    is particular to each model. What they do not feed is not measured.
    """

    options: ClassVar[tuple[str, ...]] = ("rail",)
    meter_class: ClassVar[str] = "odpm"

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse a place: rails are those of the phone itself."""
        if device.metered_by.place:
            raise ConfigError(
                "a phone's rails need no place",
                device=device.name,
                hint="write for example 'meter: rails://?rail=VSYS_PWR_DISPLAY'",
            )

    def __init__(self, device: Device, connection: Connection) -> None:
        self.check(device)
        self._transport = need_shell(connection)
        self._stream: Stream | None = None
        self._heard = Counts()
        self._clock = DeviceClock()
        self._up_ns = 0
        self._source, there = self._find(device.name)
        # a plus in an address is a blank
        asked = device.metered_by.option("rail").replace("+", " ").split()
        self._rails = tuple(dict.fromkeys(asked))
        unknown = [rail for rail in self._rails if rail not in there]
        if unknown or not self._rails:
            raise ConfigError(
                f"the phone has no rail {unknown[0]}"
                if unknown
                else "the option 'rail' is missing",
                device=device.name,
                hint=f"it has: {', '.join(sorted(there))}",
            )

    def facts(self) -> MeterFacts:
        """The phone's own account of some rails."""
        return MeterFacts(
            meter_class=self.meter_class,
            model=f"rails {' + '.join(self._rails)}",
            clock=ClockDomain.HOST,
            rate_hz=1 / PERIOD_S[self._source],
            in_path=False,
        )

    def start(self) -> None:
        """Begin with looks."""
        self.stop()
        self._heard, self._clock, self._up_ns = Counts(), DeviceClock(), 0
        period_s = PERIOD_S[self._source]
        self._samples = Samples(Counted(unit_j=1e-6), period_s=period_s, counter=True)
        words = script(_LOOK, self._source, f"{period_s:g}")
        self._stream = self._transport.stream(words)

    def read(self, *, timeout_s: float) -> Chunk:
        """The mean power from one look to the next."""
        lines = wait_lines(self._stream, timeout_s=timeout_s)
        return self._samples.chunk(self._looks(lines, time.monotonic_ns()))

    def stop(self) -> None:
        """End the looks."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def close(self) -> None:
        """Nothing is held."""
        self.stop()

    def _looks(self, lines: Iterable[str], arrived_ns: int) -> list[Look]:
        """Looks that are complete; the kernel tells by its time which are those of before."""
        looks = []
        for line in lines:
            self._heard.hear(line)
            if not line.startswith("to="):
                continue
            heard, self._heard = self._heard, Counts()
            found = heard.of(self._rails)
            if heard.to_ns is None or found is None or found[0] == self._up_ns:
                continue  # a counter loses nothing by a look that failed
            self._clock.learn(heard.to_ns, arrived_ns)
            self._up_ns = found[0]
            looks.append(Look(t_ns=self._clock.host_ns(found[0]), values=found[1]))
        return looks

    def _find(self, device: str) -> tuple[str, set[str]]:
        """What tells, and the rails that it tells of."""
        for source in PERIOD_S:
            done = self._transport.run(script(_LOOK, source, ""), timeout_s=TIMEOUT_S)
            counts = Counts()
            for line in done.stdout.splitlines():
                counts.hear(line)
            if counts.rails:
                return source, set(counts.rails)
        raise ConnectError(
            "the phone tells nothing of its rails",
            device=device,
            hint="Pixel phones from the 6 on do; elsewhere use a meter in the cable",
        )
