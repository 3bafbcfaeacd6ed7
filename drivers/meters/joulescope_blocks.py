"""The streams of a Joulescope, brought to one rate: what is lost of any of them leaves a gap.

Every stream comes in messages of its own and at its own rate: power with 1 or 2 MS/s, inputs and
ranges with 2 MS/s. All count in the same ids. A block is so many ids that it is one sample of the
farm: its power is the mean, the input and the range are those of its end. The maker's driver could
lower the rate as well, but its filter runs on across a gap as if nothing were missing, and delays
what it lets through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[Any]
Reduce = Callable[[Values], Values]
"""From the samples of whole blocks, shape [blocks, samples], to a value for each."""

WRAP = 1 << 32
"""Instruments count so far; some versions of the maker's driver go on from there."""


def mean(samples: Values) -> Values:
    """Mean of each block; NaN if one of its samples is."""
    found: Values = samples.mean(axis=1, dtype=np.float64)
    return found


def last(samples: Values) -> Values:
    """What each block ends with."""
    return samples[:, -1]


class _Stream:
    """One stream, as the blocks that came complete."""

    def __init__(self, reduce: Reduce) -> None:
        self.next: int | None = None  # the first block that is not settled
        self._reduce = reduce
        self._end = 0  # the id after the last sample
        self._rest: Values = np.empty(0)
        self._numbers: list[Values] = []
        self._values: list[Values] = []

    def add(self, start: int, values: Values, step: int, block: int) -> None:
        """Samples from an id on, `step` ids each, into blocks of so many ids."""
        if self.next is None:
            self._end = start
        start = self._end + _signed(start - self._end)
        if start + len(values) * step <= self._end:
            return  # sent again
        if start > self._end or self.next is None:  # begins anew, with a whole block
            self.next = -(-start // block)
            values = values[(self.next * block - start) // step :]
            rest, begin = values[:0], self.next * block
        else:
            twice = (self._end - start) // step  # of what came twice the newer counts
            begin = self._end - len(self._rest) * step
            rest = self._rest[: max(0, len(self._rest) - twice)]
            values = values[max(0, twice - len(self._rest)) :]
        whole = np.concatenate([rest, values])
        blocks, each = len(whole) * step // block, block // step
        if blocks:
            self._values.append(self._reduce(whole[: blocks * each].reshape(blocks, each)))
            self._numbers.append(np.arange(begin // block, begin // block + blocks))
            self.next = begin // block + blocks
        self._rest = whole[blocks * each :]
        self._end = begin + len(whole) * step

    def take(self, before: int) -> tuple[Values, Values]:
        """Numbers and values of the blocks before one; they are forgotten here."""
        numbers = np.concatenate([np.empty(0, np.int64), *self._numbers])
        values = np.concatenate(self._values) if self._values else np.empty(0)
        cut = int(np.searchsorted(numbers, before))
        self._numbers, self._values = [numbers[cut:]], [values[cut:]]
        return numbers[:cut], values[:cut]


class Blocks:
    """Several streams as one.

    Args:
        rate_hz: of blocks.
        streams: how each is reduced, by name.
    """

    def __init__(self, rate_hz: int, streams: dict[str, Reduce]) -> None:
        self._rate_hz = rate_hz
        self._streams = {name: _Stream(reduce) for name, reduce in streams.items()}
        self._origin: int | None = None
        self._next: int | None = None

    def add(self, name: str, message: dict[str, Any], values: Values) -> None:
        """Samples of a stream, as its message tells their ids.

        Raises:
            ValueError: its rate is none that blocks can be made of.
        """
        step, block = message["decimate_factor"], message["sample_rate"] // self._rate_hz
        if not step or block % step or not block:
            raise ValueError(f"{message['sample_rate']} / {step} samples per second")
        if self._origin is None:
            self._origin = message["sample_id"] // block * block
        self._streams[name].add(_signed(message["sample_id"] - self._origin), values, step, block)

    def age_ns(self, message: dict[str, Any], samples: int) -> int:
        """How long after number 0 began so many samples of a message ended."""
        first = _signed(message["sample_id"] - (self._origin or 0))
        ids = first + samples * int(message["decimate_factor"])
        return ids * 10**9 // int(message["sample_rate"])

    def take(self) -> tuple[Values, dict[str, Values], int]:
        """Numbers of the blocks that are complete in every stream, their values, and the lost.

        Numbers count from the first message of all.
        """
        nexts = [stream.next for stream in self._streams.values()]
        begun = [number for number in nexts if number is not None]
        empty: dict[str, Values] = {name: np.empty(0) for name in self._streams}
        if len(begun) < len(nexts):
            return np.empty(0, np.int64), empty, 0
        taken = {name: stream.take(min(begun)) for name, stream in self._streams.items()}
        common = _common([numbers for numbers, _ in taken.values()])
        if self._next is None:
            if not len(common):
                return common, empty, 0
            self._next = int(common[0])
        common = common[np.searchsorted(common, self._next) :]
        lost = min(begun) - self._next - len(common)
        self._next = min(begun)
        return common, {n: v[np.searchsorted(k, common)] for n, (k, v) in taken.items()}, lost


def _common(several: list[Values]) -> Values:
    found = several[0]
    for numbers in several[1:]:
        found = np.intersect1d(found, numbers, assume_unique=True)
    return found


def _signed(distance: int) -> int:
    """The same distance between counters that wrap, the short way round."""
    return (distance + WRAP // 2) % WRAP - WRAP // 2
