"""Watches the pin of an emulated board in the trace of QEMU, which has the time of every edge.

The pin is the first LED of the FPGA's registers, as the farm's firmware sets it.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable

EVENTS = ("mps2_fpgaio_write", "mps2_fpgaio_reset")
_LINE = re.compile(
    rb"\d+@(\d+)\.(\d{6}):(?:mps2_fpgaio_reset|mps2_fpgaio_write .*offset 0x0 data 0x([0-9a-f]+))"
)

Moved = Callable[[int, bool], None]
"""Called with each edge: when, on this machine's monotonic clock, and whether the pin rose."""


class PinWatch:
    """Reads a trace for as long as somebody writes it.

    Args:
        moved: told of every edge, by a thread of its own.

    Attributes:
        descriptor: where QEMU writes the trace; to be closed here once QEMU has it.
    """

    def __init__(self, moved: Moved) -> None:
        self._moved = moved
        self._high = False
        self._trace, self.descriptor = os.pipe()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def options(self) -> tuple[str, ...]:
        """What QEMU has to be told."""
        events = (option for event in EVENTS for option in ("-trace", event))
        return ("-msg", "timestamp=on", *events, "-D", f"/dev/fd/{self.descriptor}")

    def join(self) -> None:
        """Wait until everything that was written is told; QEMU has ended."""
        self._thread.join()

    def _read(self) -> None:
        with os.fdopen(self._trace, "rb") as trace:
            for line in trace:
                if found := _LINE.match(line):
                    self._tell(int(found[1]) * 10**9 + int(found[2]) * 1000, found[3])

    def _tell(self, wall_ns: int, data: bytes | None) -> None:
        """A register was written, or the board was reset."""
        high = data is not None and bool(int(data, 16) & 1)
        if high != self._high:
            self._high = high
            self._moved(wall_ns - time.time_ns() + time.monotonic_ns(), high)
