"""What a PPK2 tells just after it changed its range is replaced by an average, as its maker does.

Two running averages follow the current, a quick and a slow one. The sample at a switch and the two
after it are told as an average: in the largest range the slow one, else the quick one. The first
two of them leave both averages as they were if they are in the largest range.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

QUICK, SLOW = 0.18, 0.06
SETTLING = 3
HELD = 2
LARGEST = 4
_WIDTH = 64
"""Samples that one matrix product averages."""

Currents = npt.NDArray[np.float64]
Ranges = npt.NDArray[np.uint8]


class _Average:
    """y += share * (x - y), many samples at a time."""

    def __init__(self, share: float) -> None:
        ages = np.arange(_WIDTH)[None, :] - np.arange(_WIDTH)[:, None]
        keep = 1 - share
        self._weights = np.where(ages >= 0, share * keep ** np.maximum(ages, 0.0), 0.0)
        self._fading = keep ** np.arange(1.0, _WIDTH + 1)
        self.value: float | None = None

    def follow(self, currents: Currents) -> Currents:
        """The average after each sample, shape [n]; the first sample ever begins it."""
        count = len(currents)
        if not count:
            return currents
        before = float(currents[0]) if self.value is None else self.value
        blocks = -(-count // _WIDTH)
        padded = np.zeros((blocks, _WIDTH))
        padded.reshape(-1)[:count] = currents
        found = padded @ self._weights
        begins = np.empty(blocks)
        fading = float(self._fading[-1])
        for index, end in enumerate(found[:, -1].tolist()):
            begins[index] = before
            before = end + fading * before
        found += begins[:, None] * self._fading
        averages: Currents = found.reshape(-1)[:count]
        self.value = float(averages[-1])
        return averages


class SwitchFilter:
    """One stream from its start on; whatever its pieces, the result is the same."""

    def __init__(self) -> None:
        self._quick, self._slow = _Average(QUICK), _Average(SLOW)
        self._range: int | None = None
        self._since = SETTLING

    def apply(self, currents: Currents, ranges: Ranges) -> Currents:
        """The currents of the next samples, shape [n], as they are to be told."""
        count = len(currents)
        if not count:
            return currents
        if self._quick.value is None:
            self._quick.value = self._slow.value = float(currents[0])
        before = int(ranges[0]) if self._range is None else self._range
        switches = np.flatnonzero(np.diff(ranges, prepend=np.uint8(before)))
        settling = np.flatnonzero(self._near(switches, count, SETTLING))
        held = self._near(switches, count, HELD) & (ranges == LARGEST)
        quick, slow = self._averages(currents, held)
        last = switches[-1] if len(switches) else -1 - self._since
        self._since = min(int(count - 1 - last), SETTLING)
        self._range = int(ranges[-1])
        if not len(settling):
            return currents
        told = currents.copy()
        told[settling] = np.where(ranges[settling] == LARGEST, slow[settling], quick[settling])
        return told

    def _near(
        self, switches: npt.NDArray[np.intp], count: int, reach: int
    ) -> npt.NDArray[np.bool_]:
        """Which samples are less than `reach` after a switch, the one of an earlier piece too."""
        near = np.zeros(count, bool)
        near[: max(0, reach - 1 - self._since)] = True
        for after in range(min(reach, count)):
            near[after:][switches[: np.searchsorted(switches, count - after)]] = True
        return near

    def _averages(
        self, currents: Currents, held: npt.NDArray[np.bool_]
    ) -> tuple[Currents, Currents]:
        """Both averages after each sample; at those that are held they stand still."""
        if not held.any():
            return self._quick.follow(currents), self._slow.follow(currents)
        moved = np.cumsum(~held)
        kept = currents[~held]
        both = []
        for average in (self._quick, self._slow):
            assert average.value is not None
            both.append(np.concatenate([[average.value], average.follow(kept)])[moved])
        return both[0], both[1]
