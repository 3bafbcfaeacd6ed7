"""Numbers as people read them: a unit that fits, four digits, times in UTC.

The store keeps latency in ns, memory in bytes and shares as ratios; only what is shown is scaled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

ABSENT = "—"
"""Shown where there is no value; never an empty cell that could be read as zero."""

_STEPS: dict[str, tuple[tuple[float, str], ...]] = {
    "ns": ((1, "ns"), (1e3, "µs"), (1e6, "ms"), (1e9, "s")),
    "bytes": ((1, "B"), (2**10, "KiB"), (2**20, "MiB"), (2**30, "GiB")),
    "ratio": ((0.01, "%"),),
    "J": ((1e-9, "nJ"), (1e-6, "µJ"), (1e-3, "mJ"), (1, "J")),
    "W": ((1e-9, "nW"), (1e-6, "µW"), (1e-3, "mW"), (1, "W")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How a stored unit is shown: a stored value divided by `divisor` is in `unit`."""

    divisor: float
    unit: str

    def number(self, value: float) -> str:
        """A stored value as text without its unit."""
        return significant(value / self.divisor)

    def text(self, value: float | None) -> str:
        """A stored value as text with its unit."""
        if value is None or is_absent(value):
            return ABSENT
        return f"{self.number(value)} {self.unit}"


def fit_scale(unit: str, values: Iterable[float]) -> Scale:
    """The unit in which the largest of these values is at least one; one scale for all of them.

    Args:
        unit: the stored unit; one that is not known here is kept as it is.
        values: stored values that are shown together.
    """
    steps = _STEPS.get(unit, ((1, unit),))
    largest = max((abs(value) for value in values if not is_absent(value)), default=0.0)
    fitting = [step for step in steps if step[0] <= largest]
    divisor, name = fitting[-1] if fitting else steps[0]
    return Scale(divisor=divisor, unit=name)


def significant(value: float, digits: int = 4) -> str:
    """A number with that many significant digits, thousands apart, never in powers of ten."""
    if not math.isfinite(value):
        return ABSENT
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(decimals, 9)}f}"


def signed(value: float | None, unit: str) -> str:
    """An effect with its sign: `+4.20 %`; a positive effect is worse."""
    if value is None or is_absent(value):
        return ABSENT
    return f"{value:+,.2f} {unit}"


def is_absent(value: float | None) -> bool:
    """Whether a value is missing: None, or the NaN that pandas makes of it."""
    return value is None or math.isnan(value)


def moment(text: str | None) -> str:
    """A stored time (ISO 8601, UTC) as `2025-01-31 12:00:05`; the label beside it says UTC."""
    return text[:19].replace("T", " ") if isinstance(text, str) and text else ABSENT


def duration(started: str, finished: str | None) -> str:
    """The time between two stored moments: `850 ms`, `12.4 s`, `3 min 05 s`, `2 h 14 min`."""
    if not isinstance(finished, str) or not finished:
        return ABSENT
    seconds = (datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def short_digest(sha256: str) -> str:
    """The first twelve digits of a digest: enough to tell two models apart."""
    return sha256[:12]


def counted(n: int, noun: str) -> str:
    """A number with its noun: `1 job`, `2,000 samples`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
