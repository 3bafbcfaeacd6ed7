"""The stream of a PPK2: words of 32 bits, each one sample of 10 us.

Bits 0-13 are the converter's code, 14-16 the range, 18-23 a counter, 24-31 the logic inputs. What
is lost is known from the counter, except for multiples of 64; bytes that are lost shift all that
follow, until an alignment is found at which the counter counts again. Nothing is filled in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from drivers.meters.ppk2_calibration import CODES, Calibration
from drivers.meters.ppk2_filter import LARGEST, SwitchFilter
from farm.errors import MeterGap

WORD = 4
COUNTS = 64
SURE = 16
"""Words in a row whose counter counts; less are no proof of an alignment."""
SEARCHED_BYTES = 32 << 10
"""So much without an alignment (80 ms) is no accident."""

LOOK_BYTES = 512
_SHIFT, _COUNT = np.uint8(2), np.uint8(COUNTS - 1)  # of the counter in its byte

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Samples:
    """What was decoded, in the order taken.

    Attributes:
        index: which sample of the stream each is, shape [n]; it jumps where some are lost.
        current_a: shape [n].
        logic: the eight inputs, D0 in bit 0, shape [n].
        range: shape [n].
        lost: how many are missing before or between them.
        saturated: at the converter's full scale.
    """

    index: npt.NDArray[np.int64]
    current_a: npt.NDArray[np.float64]
    logic: npt.NDArray[np.uint8]
    range: npt.NDArray[np.uint8]
    lost: int
    saturated: int


class WordDecoder:
    """One stream from its start on; whatever the pieces it comes in, the samples are the same.

    The last word is kept back until the next one is there: a byte that is lost in between would
    make its logic inputs wrong.

    Args:
        calibration: of the meter.
        volts: at the device that is fed.
        device: its name in the inventory.

    Attributes:
        lost: samples that the counter has shown to be missing so far.
    """

    def __init__(self, calibration: Calibration, volts: float, device: str) -> None:
        table = calibration.currents(volts)
        largest = np.broadcast_to(table[LARGEST], (8 - len(table), CODES))
        self._currents = np.concatenate([table, largest]).reshape(-1)  # by the low 17 bits
        self._device = device
        self._filter = SwitchFilter()
        self._bytes = np.empty(0, np.uint8)
        self._aligned = False
        self._count: int | None = None  # of the last word that was taken
        self._next = 0
        self._gap = 0
        self.lost = 0

    def feed(self, data: bytes) -> Samples:
        """The next bytes.

        Raises:
            MeterGap: they are no samples, or the meter's counter stands still.
        """
        self._bytes = np.concatenate([self._bytes, np.frombuffer(data, np.uint8)])
        before = self.lost
        words, index = [np.empty(0, np.uint32)], [np.empty(0, np.int64)]
        while (piece := self._take() if self._aligned else self._align()) is not None:
            words.append(piece)
            index.append(np.arange(self._next, self._next + len(piece)))
            self._next += len(piece) + self._gap
            self.lost += self._gap
            self._gap = 0
        return self._decoded(np.concatenate(words), np.concatenate(index), self.lost - before)

    def _take(self) -> Words | None:
        """The words up to the next break of the counter; None if there is none to be sure of."""
        whole = self._bytes[: len(self._bytes) // WORD * WORD]
        if len(whole) <= WORD:
            return None
        counts = whole[2::WORD] >> _SHIFT
        breaks = np.flatnonzero(_steps(counts) != 1)
        self._aligned = not len(breaks)
        taken = len(counts) - 1 if self._aligned else int(breaks[0])
        if taken:
            self._count = int(counts[taken - 1])
        self._bytes = self._bytes[taken * WORD :]
        return whole[: taken * WORD].view(np.uint32)

    def _align(self) -> Words | None:
        """Find where the counter counts again, and how many samples that took.

        Returns:
            The word before a plain loss, which is sound; nothing if bytes were lost; None if more
            must come to tell.
        """
        at = _find_alignment(self._bytes)
        if at is None:
            if len(self._bytes) > SEARCHED_BYTES:
                raise self._nonsense()
            return None
        kept = 1 if at == WORD and self._count is not None else 0
        if at and not kept:
            at += WORD  # the first one may have a byte of another
        counts = self._bytes[2:] >> _SHIFT
        if self._count is not None:
            last = int(counts[0]) if kept else self._count
            least = at // WORD - kept
            self._gap = least + (int(counts[at]) - last - 1 - least) % COUNTS
        words = self._bytes[: kept * WORD].view(np.uint32)
        self._bytes, self._aligned = self._bytes[at:], True
        return words

    def _decoded(self, words: Words, index: npt.NDArray[np.int64], lost: int) -> Samples:
        parts = words.view(np.uint8).reshape(-1, WORD)
        ranges = np.minimum((words >> 14 & 7).astype(np.uint8), LARGEST)
        currents = self._currents.take(words & 0x1FFFF)
        return Samples(
            index=index,
            current_a=self._filter.apply(currents, ranges),
            logic=parts[:, 3].copy(),
            range=ranges,
            lost=lost,
            saturated=int(np.count_nonzero(words & CODES - 1 == CODES - 1)),
        )

    def _nonsense(self) -> MeterGap:
        counts = self._bytes[2::WORD] >> _SHIFT
        still = not _steps(counts)[1:].any()  # the first is from before
        return MeterGap(
            "the meter's counter of samples stands still"
            if still
            else "the meter sends what cannot be read as samples",
            device=self._device,
            hint="start again; if it stays so, unplug it and try another cable and another socket",
        )


def _steps(counts: Bytes) -> Bytes:
    """From each count to the next, modulo 64."""
    steps: Bytes = (counts[1:] - counts[:-1]) & _COUNT
    return steps


def _find_alignment(data: Bytes) -> int | None:
    """The first place from which on enough words count, or None."""
    reach = (SURE - 1) * WORD  # from the first count of such words to their last
    for begin in range(0, len(data) - reach - WORD + 1, LOOK_BYTES):
        counts = data[begin + 2 : begin + 2 + LOOK_BYTES + reach] >> _SHIFT
        good = (counts[WORD:] - counts[:-WORD]) & _COUNT == 1
        # The byte after the last count must be there too: it is that word's.
        width = min(LOOK_BYTES, len(data) - reach - WORD + 1 - begin)
        runs = np.ones(width, bool)
        for word in range(SURE - 1):
            runs &= good[word * WORD : word * WORD + width]
        if runs.any():
            return begin + int(np.argmax(runs))
    return None
