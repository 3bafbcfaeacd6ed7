"""The time of this machine, which is also that of what hangs on its serial ports."""

from __future__ import annotations

import time

from farm.connection import Clock


class SystemClock(Clock):
    """The real one."""

    def now_ns(self) -> int:
        """Monotonic nanoseconds."""
        return time.monotonic_ns()

    def sleep(self, duration_s: float) -> None:
        """Sleep."""
        time.sleep(duration_s)
