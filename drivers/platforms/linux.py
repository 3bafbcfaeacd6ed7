"""Linux, from a workstation to a board: facts, fitness, tuning, readings and strays.

Each is asked for by one POSIX shell script that needs nothing beyond what dash, busybox and toybox
have, and no rights: what a device does not tell or allow is left out.
"""

from __future__ import annotations

import os

from drivers.platforms import linux_fitness, linux_leftovers, linux_settings
from drivers.platforms.linux_facts import FACTS, read_facts
from drivers.platforms.linux_readings import SAMPLE, read_look
from drivers.platforms.linux_told import Pairs, ask, read_pairs
from drivers.platforms.linux_watch import WATCH, LinuxWatch, watch_arguments
from farm.connection import Transport
from farm.errors import Evidence
from farm.model import Device
from farm.protocols import Limits, Platform, Watch
from farm.record import Fact, Finding, Reading
from farm.shell import script


class LinuxPlatform(Platform):
    """What every Linux tells, and what it may be asked to set.

    Options of a device: `governor` (performance, for example), `max_khz` (the highest frequency,
    below turbo for example), `cpus` (the cores under test, such as 2-3).
    """

    options = ("governor", "max_khz", "cpus")

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse options that can never be set."""
        linux_settings.read_settings(device)

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._settings = linux_settings.read_settings(transport.device)
        self._throttles: float | None = None

    def facts(self) -> tuple[Fact, ...]:
        """Board, chip, system, cores, frequencies and their governor; `boot_id` and `serial`."""
        return read_facts(self._pairs(FACTS))

    def preflight(self, limits: Limits) -> tuple[Finding, ...]:
        """Room, memory, heat, throttling, power, missing cores; whether others compute."""
        pairs = self._pairs(linux_fitness.FITNESS, str(self._transport.root))
        self._throttles = read_look(pairs).throttles
        return linux_fitness.find(pairs, limits, self._settings.cores)

    def prepare(self) -> tuple[str, ...]:
        """Set governor and highest frequency where the inventory asks and the device allows."""
        wanted = self._settings.arguments()
        if not wanted:
            return ()
        told = self._script(linux_settings.PREPARE, str(self._transport.root), *wanted)
        return linux_settings.prepared_lines(self._settings, told)

    def restore(self) -> tuple[str, ...]:
        """Undo it from the file that lies on the device; nothing is changed twice."""
        told = self._script(linux_settings.RESTORE, str(self._transport.root))
        return linux_settings.restored_names(told)

    def sample(self) -> tuple[Reading, ...]:
        """Load, heat, pressure, memory, frequency of each cluster; `throttled` if it is known."""
        look = read_look(self._pairs(SAMPLE))
        readings = look.readings(self._throttles)
        self._throttles = look.throttles
        return readings

    def watch(self) -> Watch:
        """The same once a second, from the other cores if the inventory names those under test."""
        arguments = watch_arguments(self._settings.cores)
        return LinuxWatch(self._transport.stream(script(WATCH, *arguments)))

    def sweep(self) -> tuple[str, ...]:
        """Kill what runs that nobody waits for have started, and remove their folders."""
        root = str(self._transport.root)
        return tuple(self._script(linux_leftovers.SWEEP, root, str(os.getpid())).splitlines())

    def evidence(self, last_s: float) -> tuple[Evidence, ...]:
        """The kernel's messages of the last seconds; none where they may not be read."""
        text = linux_leftovers.recent(self._script(linux_leftovers.KERNEL), last_s)
        return (Evidence(name="kernel", text=text),) if text else ()

    def _pairs(self, text: str, *arguments: str) -> Pairs:
        return read_pairs(self._script(text, *arguments))

    def _script(self, text: str, *arguments: str) -> str:
        return ask(self._transport, text, *arguments)
