"""What a virtual microcontroller draws: a little, and more while its pin says that models run."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from pathlib import Path

from drivers.virtual.rail import rail_of

VOLTS = 3.3
IDLE_W, BUSY_W = VOLTS * 5e-3, VOLTS * 30e-3
"""Made up, of the size of a Cortex-M4 at a hundred MHz or so."""


class BoardRail:
    """The supply of one board.

    Args:
        device: its name in the inventory.
        folder: gets `energy.jsonl`, the truth about every time that the pin was high: start and
            end on this machine's wall clock, energy, and what idling draws.
    """

    def __init__(self, device: str, folder: Path) -> None:
        self._rail = rail_of(device, volts=VOLTS, idle_w=0.0)
        self._truth = folder / "energy.jsonl"
        self._lock = threading.Lock()
        self._rose_ns: int | None = None

    def switch(self, *, on: bool) -> None:
        """The board gets power, or none; its pin is low."""
        now_ns = time.monotonic_ns()
        with self._lock:
            self._fall(now_ns)
            self._rail.step(now_ns, IDLE_W if on else 0.0)

    def set_pin(self, t_ns: int, *, high: bool) -> None:
        """The pin has moved.

        Args:
            t_ns: when, on this machine's monotonic clock.
            high: where to.
        """
        with self._lock:
            self._fall(t_ns)
            self._rose_ns = t_ns if high else None
            self._rail.step(t_ns, BUSY_W if high else IDLE_W, pin=high)

    def _fall(self, t_ns: int) -> None:
        if self._rose_ns is None:
            return
        wall_ns = time.time_ns() - time.monotonic_ns()
        truth = {
            "start_ns": self._rose_ns + wall_ns,
            "end_ns": t_ns + wall_ns,
            "energy_j": self._rail.energy_j(self._rose_ns, t_ns),
            "idle_w": IDLE_W,
        }
        self._rose_ns = None
        with suppress(OSError), self._truth.open("a") as file:  # the folder may be gone
            file.write(json.dumps(truth) + "\n")
