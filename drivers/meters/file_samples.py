"""Samples of power out of looks at files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from drivers.meters.file_looks import Look
from farm.metering import Chunk

LATE, LATE_S = 5, 0.05
"""A reading that comes later than so many periods after the last one, and so long: there were
others, which nobody saw. What is less is the jitter of a machine that has other work as well."""
MOST_W = 1000.0
"""No meter here measures more: a counter that is not looked at for longer than this takes to wrap
may have wrapped twice."""


class Samples:
    """Makes samples of looks.

    A meter that converts more slowly than it is looked at shows the same reading again and again:
    that is one sample. A reading that is equal to the one before shows only in that none other came
    when it was due; each has the time of one conversion, or energy would be weighed wrongly.

    Args:
        power_w: mean power between two looks that both have all values; None if it is unknown. The
            first of them is None for the first look of all.
        period_s: from one sample to the next.
        conversion_s: how long the meter takes for a reading; 0 where each look finds a new one,
            infinite where a value that stays is no reading.
        counter: whether values count energy: then looks that failed lose nothing.
    """

    def __init__(
        self,
        power_w: Callable[[Look | None, Look], float | None],
        *,
        period_s: float,
        conversion_s: float = 0.0,
        counter: bool,
    ) -> None:
        self._power_w = power_w
        self._period_ns = period_s * 1e9
        self._conversion_ns = conversion_s * 1e9
        self._counter = counter
        self._last: Look | None = None
        self._failed = False

    def chunk(self, looks: Iterable[Look]) -> Chunk:
        """The samples of looks that follow those of the last call."""
        times, powers, lost = [], [], 0
        for look in looks:
            if None in look.values:
                self._failed = True
                continue
            for reading in self._fresh(look):
                power_w = self._power_w(self._last, reading)
                lost += self._missing(reading, known=power_w is not None)
                if power_w is not None:
                    times.append(reading.t_ns)
                    powers.append(power_w)
                self._last, self._failed = reading, False
        return Chunk(
            t_ns=np.array(times, np.int64), power_w=np.array(powers, np.float64), lost=lost
        )

    def _fresh(self, look: Look) -> tuple[Look, ...]:
        """The readings that a look shows and no look before it did."""
        last, conversion_ns = self._last, self._conversion_ns
        if last is None:
            return (look,)
        passed_ns = look.t_ns - last.t_ns
        changed = look.values != last.values
        if passed_ns <= 0 or not (changed or passed_ns >= conversion_ns):
            return ()
        if not conversion_ns or self._broken(last, look):
            return (look,)
        if changed:
            if passed_ns < 1.5 * conversion_ns:
                return (look,)
            return (replace(last, t_ns=look.t_ns - round(conversion_ns)), look)
        if passed_ns < 2 * conversion_ns:
            return ()  # the next one may be under way
        return (replace(last, t_ns=last.t_ns + round(conversion_ns)),)

    def _broken(self, last: Look, look: Look) -> bool:
        """Whether readings may be missing between two looks."""
        late_ns = max(LATE * self._period_ns, LATE_S * 1e9)
        return self._failed or look.t_ns - last.t_ns > late_ns

    def _missing(self, reading: Look, *, known: bool) -> int:
        """Samples that are missing before this one."""
        last = self._last
        if last is None:
            return 0
        if self._counter:
            return 0 if known else 1
        if not self._broken(last, reading):
            return 0
        return max(0, round((reading.t_ns - last.t_ns) / self._period_ns) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Mean power from files that count energy.

    Attributes:
        unit_j: what they count in.
        wraps_at: the count after which they begin at 0 again; 0 for those that never do.
    """

    unit_j: float
    wraps_at: int = 0

    def __call__(self, before: Look | None, now: Look) -> float | None:
        """None for the first look, and where a counter has begun anew in between."""
        if before is None:
            return None
        duration_s = (now.t_ns - before.t_ns) / 1e9
        longest_s = self.wraps_at * self.unit_j / MOST_W if self.wraps_at else math.inf
        counts = 0
        for was, value in zip(before.values, now.values, strict=True):
            assert was is not None
            assert value is not None
            grown = value - was + (self.wraps_at if value < was else 0)
            if grown < 0 or duration_s > longest_s:
                return None
            counts += grown
        return counts * self.unit_j / duration_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Power from files that tell it, or the factors of it.

    Attributes:
        unit_w: of their product.
        unsigned: whether the direction of the current only shows how the meter is plugged in.
    """

    unit_w: float
    unsigned: bool = False

    def __call__(self, before: Look | None, now: Look) -> float | None:
        """The power of the look itself."""
        power_w = math.prod(value for value in now.values if value is not None) * self.unit_w
        return abs(power_w) if self.unsigned else power_w
