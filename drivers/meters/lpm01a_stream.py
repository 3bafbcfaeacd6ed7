"""What an LPM01A says while it measures, line by line, made into samples.

A line is a sample (`6409-07` is 6409e-7), an edge at its input (`event 03 ris`), the time by its
own clock once a second (`TimeStamp: 012s 000ms, buff 00%`), or the end of it all. Lines have no
checksum and no number: what is missing shows where its clock is ahead of what came.
"""

from __future__ import annotations

import re

import numpy as np

from farm.errors import MeterGap
from farm.metering import Chunk

SLACK = 5
"""So many samples its time may be off, from the first one on: no more can be missing unseen."""
MAX_BAD = 20
_SAMPLE = re.compile(r"(\d{4})([+-]\d{2})")
_STAMP = re.compile(r"TimeStamp: (\d+)s (\d+)ms\b.*")
_EVENT = re.compile(r"event (\d+) \w+")
_END = re.compile(r"(?i).*(error|acquisition completed|overcurrent).*")


class Stream:
    """One measurement.

    Args:
        rate_hz: of its samples, each of which is the energy since the one before, in joules.
        wired: whether the edges of its input matter.
        device: the inventory name of what is measured.
    """

    def __init__(self, rate_hz: int, device: str, *, wired: bool) -> None:
        self._rate_hz = rate_hz
        self._device = device
        self._wired = wired
        self._count = 0
        self._lost = 0
        self._unexplained = 0
        self._offset: int | None = None
        self._start_ns: int | None = None
        self._first_event: int | None = None
        self._high = 0
        self._clear()

    @property
    def ready(self) -> int:
        """How many samples can be taken."""
        return len(self._index)

    def hear(self, line: str) -> None:
        """One line, without its end.

        Raises:
            MeterGap: the measurement has ended, or this makes no sense.
        """
        if found := _SAMPLE.fullmatch(line):
            self._index.append(self._count)
            self._joules.append(int(found[1]) * 10.0 ** int(found[2]))
            self._logic.append(self._high)
            self._count += 1
            self._unexplained = 0
        elif found := _STAMP.fullmatch(line):
            self._tell_time(int(found[1]) * 1000 + int(found[2]))
        elif found := _EVENT.fullmatch(line):
            self._edge(int(found[1]))
        elif _END.fullmatch(line):
            raise self._gap(f"the meter ended its measurement: {line}")
        elif line:  # a sample once, as far as anybody knows
            self._lose(1)
            self._unexplained += 1
            if self._unexplained > MAX_BAD:
                raise self._gap(f"the meter sends what cannot be understood: {line[:40]!r}")

    def take(self, now_ns: int) -> Chunk:
        """All samples since the last time.

        Args:
            now_ns: when the last of them came; the first time, that is when it was measured.
        """
        if not self._index:
            return Chunk.empty()
        index = np.array(self._index, np.int64)
        if self._start_ns is None:
            self._start_ns = now_ns - int(index[-1]) * 10**9 // self._rate_hz
        chunk = Chunk(
            t_ns=self._start_ns + index * 10**9 // self._rate_hz,
            power_w=np.array(self._joules) * self._rate_hz,
            logic=np.array(self._logic if self._wired else [], np.uint8),
            lost=self._lost,
        )
        self._clear()
        return chunk

    def _clear(self) -> None:
        self._index: list[int] = []
        self._joules: list[float] = []
        self._logic: list[int] = []
        self._lost = 0

    def _tell_time(self, time_ms: int) -> None:
        """Compare what came with what its clock says should have come."""
        ahead = time_ms * self._rate_hz // 1000 - self._count
        if self._offset is None:
            self._offset = ahead if abs(ahead) <= SLACK else 0
        missing = ahead - self._offset
        if missing < -SLACK:
            raise self._gap(f"{-missing} samples more came than its clock allows")
        if missing > SLACK:
            self._lose(missing)

    def _lose(self, samples: int) -> None:
        self._count += samples
        self._lost += samples

    def _edge(self, number: int) -> None:
        """The input changed; edges are numbered, and every second one begins a window.

        By its number, an edge that got lost shifts one window and does not turn over all the rest.
        The words of the meter do not tell which way the edge went.
        """
        if self._first_event is None:
            self._first_event = number
        self._high = (number - self._first_event + 1) % 2

    def _gap(self, message: str) -> MeterGap:
        return MeterGap(
            message,
            device=self._device,
            hint="it ends above 50 mA; see its display, its supply and its cable",
        )
