"""A board whose firmware speaks the MLPerf Tiny text protocol: it tells little, and that is kept.

It has no sensors, no processes and no way to tell one start from the next.
"""

from __future__ import annotations

from drivers.mcu.mlperf_text import Firmware
from farm.connection import Line
from farm.errors import CommandTimeout, Evidence
from farm.protocols import Limits, Platform, Watch
from farm.record import Fact, Finding, Reading

DETECT_S = 2.0


class MlperfTinyPlatform(Platform):
    """What the firmware says of itself."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._firmware = Firmware(line)

    def facts(self) -> tuple[Fact, ...]:
        """What the firmware that was found there says of itself; others may be flashed later."""
        profile = self._firmware.profile()
        told = {
            "os": "a firmware that speaks the MLPerf Tiny text protocol",
            "found_firmware": self._firmware.name(),
            "found_profile": profile.text,
            "found_model": profile.model,
        }
        return tuple(Fact(name=name, value=value) for name, value in told.items() if value.strip())

    def preflight(self, limits: Limits) -> tuple[Finding, ...]:
        """Whether it answers, and has laps; it has nothing else that could be too hot or full."""
        try:
            self._firmware.name(timeout_s=DETECT_S)
        except CommandTimeout:
            message = "the firmware does not answer: flash one that does, and look at 'baud'"
            return (Finding(code="silent", message=message, blocking=True),)
        if self._firmware.lap_us() is None:
            message = "the firmware is built to measure energy: build it with EE_CFG_ENERGY_MODE=0"
            return (Finding(code="energy_mode", message=message, blocking=True),)
        return ()

    def sample(self) -> tuple[Reading, ...]:
        """Its counter of microseconds, the only thing that it tells at any time."""
        lap_us = self._firmware.lap_us()
        if lap_us is None:
            return ()
        t_ns = self._line.clock.now_ns()
        return (Reading(t_ns=t_ns, name="lap", unit="us", value=float(lap_us)),)

    def watch(self) -> Watch:
        """A word that it hears while it infers would disturb it: nobody looks."""
        return _NoLook()

    def sweep(self) -> tuple[str, ...]:
        """Nothing runs there besides the firmware."""
        return ()

    def evidence(self, last_s: float) -> tuple[Evidence, ...]:
        """What it printed unasked."""
        text = self._line.console()
        return (Evidence(name="console", text=text),) if text.strip() else ()


class _NoLook(Watch):
    def readings(self) -> tuple[Reading, ...]:
        """Nothing."""
        return ()

    def close(self) -> None:
        """Nothing to end."""
