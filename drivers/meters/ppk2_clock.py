"""Finds what a stream has lost that its own counter cannot show: multiples of 64 samples.

Samples may arrive late, never early. So the least lateness of a quarter of a second hardly changes,
however much the computer stalls now and then; samples that are missing make all that follow 640 us
per 64 later, for good. Clocks that differ by 200 millionths and less are told apart from that.
"""

from __future__ import annotations

from collections import deque

import numpy as np

SAMPLE_NS = 10_000
STEP = 64
STEP_NS = STEP * SAMPLE_NS
WINDOW_NS = 250_000_000
WINDOWS = 6
"""Compared before and after: what is lost is noticed when so many windows are over."""


class ArrivalWatch:
    """The arrivals of one stream from its start on."""

    def __init__(self) -> None:
        self._least: deque[int] = deque(maxlen=2 * WINDOWS)
        self._window = -1

    def see(self, arrived_ns: int, samples: int) -> int:
        """Some samples came.

        Args:
            arrived_ns: when, on a monotonic clock.
            samples: how many came since the start, those known to be lost included.

        Returns:
            How many more have turned out to be lost, a multiple of 64; mostly none.
        """
        window, late_ns = arrived_ns // WINDOW_NS, arrived_ns - samples * SAMPLE_NS
        if window == self._window:
            self._least[-1] = min(self._least[-1], late_ns)
            return 0
        lost = self._judge()
        self._window = window
        self._least.append(late_ns - lost * SAMPLE_NS)
        return lost

    def _judge(self) -> int:
        """Compare the windows, all of which are over."""
        if len(self._least) < 2 * WINDOWS:
            return 0
        least = list(self._least)
        before, after = least[:WINDOWS], least[WINDOWS:]
        steps = max(0, round((min(after) - float(np.median(before))) / STEP_NS))
        if steps:
            self._least.clear()
            self._least.extend([*before, *(late - steps * STEP_NS for late in after)])
        return steps * STEP
