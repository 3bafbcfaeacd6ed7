"""What the loadgen does beside a power meter, so that its window is found in the meter's samples.

Pushed beside the loadgen, which runs it when its spec has `metered`: `program` (path of this
file), `idle_s`, `chip_s` (0: no mark) and `gpio` (the pin wired to the meter; empty: none). In
order: rest, mark, a short rest, the window, a short rest, mark, rest. Needs Python and Linux only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

MARK = (1, 1, 1, 1, 1, 0, 0, 1, 1, 0, 1, 0, 1)  # load where there is a 1
CHIPS_APART = 4  # rest between a mark and the window
INFERENCES = 2  # that an element of the mark has room for, so that a slow model can make it
MAX_CHIP_NS = 2_000_000_000  # a slower one needs a wire
LOOKS = 9  # at the two clocks; the quickest counts

# Linux's uapi/linux/gpio.h, version 2 (Linux 5.10): one line of a chip.
REQUEST = struct.Struct("=I252x32sQ264xI24xi")  # line, consumer, flags, number of lines, its file
VALUES = struct.Struct("=QQ")  # bits, and which of them count
GET_LINE = 0xC250B407
SET_VALUES = 0xC010B40F
ACTIVE_LOW, OUTPUT = 1 << 1, 1 << 3
REASONS = {
    errno.ENOENT: "there is no such chip",
    errno.EACCES: "no right to use the chip: add the user to its group, often 'gpio'",
    errno.EPERM: "no right to use the line",
    errno.ENOTTY: "that is no GPIO chip",
    errno.EINVAL: "the chip has no such line, or its kernel is older than 5.10",
    errno.EBUSY: "somebody else uses the line",
}
UNFIT = 30  # exit status when the device lacks what was asked for

now_ns = time.perf_counter_ns  # the monotonic clock, as in the samples
Loop = Callable[..., Any]


class Pin:
    """One output line of a GPIO chip, low until it is set; nobody else can use it meanwhile.

    What becomes of it when this process ends is up to the chip: most let it float.

    Args:
        text: `/dev/gpiochip0:17`, or `/dev/gpiochip0:!17` for one that is low when it is set.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        chip, _, line = text.rpartition(":")
        flags = OUTPUT | (ACTIVE_LOW if line.startswith("!") else 0)
        number = int(line.lstrip("!"))
        request = bytearray(REQUEST.pack(number, b"farm", flags, 1, 0))
        try:
            device = os.open(chip, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, GET_LINE, request)
            finally:
                os.close(device)
        except OSError as error:
            self._give_up(error)
        self._line = REQUEST.unpack(request)[-1]

    def set(self, high: bool) -> None:
        """Raise or lower it."""
        try:
            fcntl.ioctl(self._line, SET_VALUES, VALUES.pack(high, 1))
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        reason = REASONS.get(error.errno or 0, error.strerror)
        print(f"cannot use the pin {self._text}: {reason}", file=sys.stderr)
        sys.exit(UNFIT)


class Beside:
    """One window beside a meter; its pin is taken, and low, from the beginning.

    Attributes:
        spans: kind, start and end in ns since 1970, and inferences, of what was done, in order.
    """

    def __init__(self, metered: Mapping[str, Any]) -> None:
        self._idle_ns = int(metered["idle_s"] * 1e9)
        self._chip_ns = int(metered["chip_s"] * 1e9)
        self._signal = Pin(metered["gpio"]).set if metered["gpio"] else lambda busy: None
        self.spans: list[tuple[str, int, int, int]] = []

    def window(self, loop: Loop, load: Mapping[str, Any]) -> Any:
        """Run the window and what belongs around it.

        Args:
            loop: the timed loop over the model; returns [2, n], start and duration in ns.
            load: how long and how often, as in the spec.
        """
        bounds = {
            "min_duration_ns": int(load["min_duration_s"] * 1e9),
            "min_queries": load["min_queries"],
            "max_duration_ns": int(load["max_duration_s"] * 1e9),
        }
        if self._chip_ns:
            self._make_room(loop)
        self._idle()
        if self._chip_ns:
            self._mark(loop)
            rest_until(now_ns() + CHIPS_APART * self._chip_ns)
        samples = loop(**bounds, signal=self._signal)
        starts, durations = samples
        self._add("window", int(starts[0]), int(starts[-1] + durations[-1]), len(starts))
        if self._chip_ns:
            rest_until(now_ns() + CHIPS_APART * self._chip_ns)
            self._mark(loop)
        self._idle()
        ahead_ns = wall_clock_ahead_ns()
        self.spans = [(kind, a + ahead_ns, b + ahead_ns, n) for kind, a, b, n in self.spans]
        return samples

    def _make_room(self, loop: Loop) -> None:
        """Lengthen the elements of the mark if the model takes too long for them."""
        _, durations = loop(min_duration_ns=0, min_queries=1, max_duration_ns=0)
        needed_ns = min(MAX_CHIP_NS, INFERENCES * int(durations[-1]))
        self._chip_ns = max(self._chip_ns, needed_ns)

    def _idle(self) -> None:
        start = now_ns()
        rest_until(start + self._idle_ns)
        self._add("idle", start, now_ns())

    def _mark(self, loop: Loop) -> None:
        """Every element has its own end, so that what is late in one does not move the others.

        An inference is not cut short: load ends with the one that ends nearest to that, be it
        sooner or later, or the mark of a slow model would seem to lie later than it does.
        """
        start, half_ns = now_ns(), 0
        deadlines = [start + k * self._chip_ns for k in range(1, len(MARK) + 1)]
        for busy, deadline in zip(MARK, deadlines, strict=True):
            left_ns = deadline - half_ns - now_ns()
            if busy and left_ns > 0:
                _, durations = loop(min_duration_ns=left_ns, min_queries=0, max_duration_ns=left_ns)
                half_ns = int(durations[-1]) // 2
            else:
                rest_until(deadline)
        rest_until(deadlines[-1])
        self._add("mark", start, deadlines[-1])

    def _add(self, kind: str, start: int, end: int, inferences: int = 0) -> None:
        self.spans.append((kind, start, end, inferences))


def rest_until(deadline_ns: int) -> None:
    """Sleep; not at all if it has passed."""
    time.sleep(max(0, deadline_ns - now_ns()) / 1e9)


def wall_clock_ahead_ns() -> int:
    """Wall clock less monotonic clock, in ns, from the reading that was interrupted the least."""
    looks = []
    for _ in range(LOOKS):
        before, wall, after = now_ns(), time.time_ns(), now_ns()
        looks.append((after - before, wall - (before + after) // 2))
    return min(looks)[1]
