"""The battery gauge of an Android phone: what a discharging battery gives.

It measures at the battery, so it tells what the phone draws only while nothing feeds it: over the
network, or with the power of the USB port cut. Its registers change slowly, every few seconds on
many phones, and vendors do not agree on the sign of a current.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import ClassVar

from drivers.meters.device_files import (
    TIMEOUT_S,
    DeviceClock,
    need_shell,
    up_time_ns,
    wait_lines,
)
from drivers.meters.file_looks import Look, read_whole
from drivers.meters.file_samples import Samples, Told
from farm.connection import Connection, Stream
from farm.errors import ConfigError, ConnectError, MeterGap, PreflightFailed
from farm.metering import Chunk, ClockDomain, MeterFacts
from farm.model import Device
from farm.protocols import Meter
from farm.shell import script

FILES_S, SERVICE_S = 0.25, 1.0
"""From one look to the next, where files tell, and where two services must be asked: they take some
50 ms of a core each time."""
FED_EVERY_S = 10.0
"""How often the battery service is asked whether something feeds the phone."""
LAG_S = 5.0
"""Until a gauge shows a step; from published traces, no phone was measured."""
SILENT_S = 10.0
"""Registers of a phone that works do change in that time."""
LEAST_UA = 5000
"""A phone that is awake draws more; a gauge that tells less counts in another unit."""
LEAST_V, MOST_V = 2.0, 10.0
"""Of a pack of one or two cells."""
DISCHARGING = "3"
"""`BatteryManager.BATTERY_STATUS_DISCHARGING`."""

# One look, or one every $1 seconds until nobody reads: `battery=` lines of the service every $2
# looks, the registers, and last the time since boot. /sys is told only where the shell may read it;
# `cmd battery get` knows the current on newer phones.
_LOOK = """
tree=${FARM_TREE:-}
pack=$tree/sys/class/power_supply/battery
count=0
while :; do
  if [ $((count % $2)) = 0 ]; then
    dumpsys battery 2>/dev/null </dev/null | sed -n 's/^ *\\([^ ]\\)/battery=\\1/p'
  fi
  voltage= current=
  { read -r voltage <"$pack/voltage_now"; } 2>/dev/null && echo "voltage=$voltage"
  if { read -r current <"$pack/current_now"; } 2>/dev/null; then
    echo "current=$current"
  else
    echo "current=$(cmd battery get -f current_now 2>/dev/null </dev/null)"
  fi
  read -r up _ </proc/uptime
  echo "up=$up" || exit
  [ -n "$1" ] || exit 0
  count=$((count + 1))
  sleep "$1"
done
"""


class AndroidGauge(Meter):
    """The gauge of the phone itself. Address: `gauge://`."""

    options: ClassVar[tuple[str, ...]] = ()
    meter_class: ClassVar[str] = "gauge"

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse a place: a phone has one gauge."""
        if device.metered_by.place:
            raise ConfigError(
                "a phone has one gauge, which needs no place",
                device=device.name,
                hint="write 'meter: gauge://'",
            )

    def __init__(self, device: Device, connection: Connection) -> None:
        self.check(device)
        self._device = device.name
        self._transport = need_shell(connection)
        self._stream: Stream | None = None
        self._restart()
        told = self._look()
        if self._current_ua() is None or self._voltage_uv() is None:
            raise ConnectError(
                "the phone does not tell the current of its battery",
                device=device.name,
                hint="its shell may not read the gauge; use a meter in the cable",
            )
        files = "voltage" in told
        self._period_s = FILES_S if files else SERVICE_S
        self._every = round(FED_EVERY_S / FILES_S) if files else 1

    def facts(self) -> MeterFacts:
        """A gauge of a kind that nobody knows, on the device's own battery."""
        return MeterFacts(
            meter_class=self.meter_class,
            model="battery gauge",
            clock=ClockDomain.HOST,
            rate_hz=1 / self._period_s,
            lag_s=LAG_S,
            in_path=False,
        )

    def start(self) -> None:
        """Begin with looks.

        Raises:
            PreflightFailed: something feeds the phone.
        """
        self.stop()
        self._restart()
        self._look()
        if why := self._why_not():
            raise PreflightFailed(
                f"the battery gauge tells nothing of what the phone draws: {why}",
                device=self._device,
                hint="use wireless debugging, or cut the power of its USB port",
            )
        words = script(_LOOK, f"{self._period_s:g}", str(self._every))
        self._stream = self._transport.stream(words)

    def read(self, *, timeout_s: float) -> Chunk:
        """What changed since the last call.

        Raises:
            MeterGap: something began to feed the phone, or the gauge tells what cannot be.
        """
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

    def _restart(self) -> None:
        self._told: dict[str, str] = {}
        self._service: dict[str, str] = {}
        self._faked = False
        self._clock = DeviceClock()
        # a register that keeps its value has not been measured anew
        self._samples = Samples(
            Told(unit_w=1e-12, unsigned=True),
            period_s=SILENT_S,
            conversion_s=math.inf,
            counter=False,
        )

    def _look(self) -> dict[str, str]:
        """One look at once: the registers that it told."""
        done = self._transport.run(script(_LOOK, "", "1"), timeout_s=TIMEOUT_S)
        for line in done.stdout.splitlines():
            self._hear(line)
        return self._told

    def _hear(self, line: str) -> None:
        name, _, text = line.partition("=")
        if name != "battery":
            self._told[name] = text.strip()
            return
        word, colon, value = text.partition(":")
        if text.startswith("Current Battery Service state"):
            self._service, self._faked = {}, False
        elif "UPDATES STOPPED" in text:
            self._faked = True
        elif colon:
            # vendors repeat names further down, with other meanings
            self._service.setdefault(word.strip().lower(), value.strip().lower())

    def _looks(self, lines: Iterable[str], arrived_ns: int) -> list[Look]:
        looks = []
        for line in lines:
            self._hear(line)
            if not line.startswith("up="):
                continue
            if why := self._why_not():
                raise MeterGap(f"the battery gauge tells nothing any more: {why}")
            up_ns = up_time_ns(self._told["up"])
            current_ua, voltage_uv = self._current_ua(), self._voltage_uv()
            if current_ua is not None and abs(current_ua) < LEAST_UA:
                raise MeterGap(
                    f"the battery gauge tells {current_ua} uA, less than any phone draws",
                    hint="its driver counts in another unit; use a meter in the cable",
                )
            if up_ns is not None:
                t_ns = self._clock.stamp_ns(up_ns, arrived_ns)
                looks.append(Look(t_ns=t_ns, values=(current_ua, voltage_uv)))
            self._told = {}
        return looks

    def _why_not(self) -> str:
        """Why the battery does not give what the phone draws; empty if it does."""
        if self._faked:
            return "somebody told its service what to say (dumpsys battery reset)"
        fed = [name for name, value in self._service.items() if value == "true"]
        for name in fed:
            if name.endswith(" powered"):
                return f"it is fed by {name.removesuffix(' powered')}"
        if self._service.get("status") != DISCHARGING:
            return "its battery does not discharge"
        return ""

    def _current_ua(self) -> int | None:
        return read_whole(self._told.get("current", "").encode() + b"\n")

    def _voltage_uv(self) -> int | None:
        """By the file, in microvolts, on a few phones in millivolts; by the service in those."""
        text = self._told.get("voltage") or self._service.get("voltage", "")
        value = read_whole(text.encode() + b"\n")
        if value is None:
            return None
        for microvolts in (value, 1000 * value):
            if LEAST_V <= microvolts / 1e6 <= MOST_V:
                return microvolts
        return None
