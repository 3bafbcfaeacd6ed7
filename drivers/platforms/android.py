"""Android phones as `adb shell` sees them, without root: facts, fitness, tuning, readings, strays.

Each is asked for by one POSIX shell script for mksh and toybox; what a phone does not tell or allow
is left out. What Android shares with any Linux is done by the scripts of that platform.
"""

from __future__ import annotations

import math
import os

from drivers.platforms import android_settings, linux_leftovers, linux_settings
from drivers.platforms.android_facts import FACTS, read_facts
from drivers.platforms.android_fitness import FITNESS, find
from drivers.platforms.android_log import LOG, recent_log
from drivers.platforms.android_readings import SAMPLE, WATCH, AndroidWatch, Looks
from drivers.platforms.linux_readings import read_look
from drivers.platforms.linux_told import Pairs, ask, read_pairs
from drivers.platforms.linux_watch import watch_arguments
from farm.connection import Transport
from farm.errors import Evidence
from farm.model import Device
from farm.protocols import Limits, Platform, Watch
from farm.record import Fact, Finding, Reading
from farm.shell import script


class AndroidPlatform(Platform):
    """What every phone tells, and what it may be asked to set.

    Options of a device: `fixed_performance` (yes: speeds that it can hold), `allow_test_builds`
    (yes: an emulator or an engineering build is measured on), and those of Linux: `cpus`, and
    `governor` and `max_khz` for phones whose shell is root.
    """

    options = ("governor", "max_khz", "cpus", "fixed_performance", "allow_test_builds")

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse options that can never be set."""
        android_settings.read_phone_settings(device)

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._settings = android_settings.read_phone_settings(transport.device)
        self._fixed_performance = "off"

    def facts(self) -> tuple[Fact, ...]:
        """Model, build, chip, cores and their rules, state of the battery; `boot_id`, `serial`."""
        return read_facts(self._pairs(FACTS), self._fixed_performance)

    def preflight(self, limits: Limits) -> tuple[Finding, ...]:
        """Whether it is up, what it is, room, memory, charge, heat, throttling, a bad battery."""
        pairs = self._pairs(FITNESS, str(self._transport.root))
        settings = self._settings
        return find(
            pairs, limits, settings.linux.cores, allow_test_builds=settings.allow_test_builds
        )

    def prepare(self) -> tuple[str, ...]:
        """Keep it awake and out of doze; fixed performance and frequencies where asked for."""
        root, settings = str(self._transport.root), self._settings
        fixed = "yes" if settings.fixed_performance else "no"
        told = self._script(android_settings.PREPARE, root, fixed)
        self._fixed_performance = android_settings.fixed_performance(told)
        lines = android_settings.prepared_lines(told)
        if wanted := settings.linux.arguments():
            told = self._script(linux_settings.PREPARE, root, *wanted)
            lines += linux_settings.prepared_lines(settings.linux, told)
        return lines

    def restore(self) -> tuple[str, ...]:
        """Undo it from the files that lie on the phone; nothing is changed twice."""
        root = str(self._transport.root)
        names = android_settings.restored_names(self._script(android_settings.RESTORE, root))
        self._fixed_performance = "off"
        return names + linux_settings.restored_names(self._script(linux_settings.RESTORE, root))

    def sample(self) -> tuple[Reading, ...]:
        """Heat, charge, load, memory, frequency of each cluster; `throttled` if it is known."""
        pairs = self._pairs(SAMPLE)
        return Looks().readings(read_look(pairs), pairs)

    def watch(self) -> Watch:
        """The same once a second, services less often, from the cores that are not under test."""
        arguments = watch_arguments(self._settings.linux.cores)
        return AndroidWatch(self._transport.stream(script(WATCH, *arguments)))

    def sweep(self) -> tuple[str, ...]:
        """Kill what runs that nobody waits for have started, and remove their folders."""
        root = str(self._transport.root)
        return tuple(self._script(linux_leftovers.SWEEP, root, str(os.getpid())).splitlines())

    def evidence(self, last_s: float) -> tuple[Evidence, ...]:
        """The last seconds of its log, and of the kernel's messages where they may be read."""
        kernel = linux_leftovers.recent(self._script(linux_leftovers.KERNEL), last_s)
        log = recent_log(self._script(LOG, str(math.ceil(last_s))))
        found = (Evidence(name="logcat", text=log), Evidence(name="kernel", text=kernel))
        return tuple(exhibit for exhibit in found if exhibit.text)

    def _pairs(self, text: str, *arguments: str) -> Pairs:
        return read_pairs(self._script(text, *arguments))

    def _script(self, text: str, *arguments: str) -> str:
        return ask(self._transport, text, *arguments)
