"""A control chart: is a device still the one that it was?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

MIN_HISTORY = 10
"""With fewer earlier values there are no limits: a new device is neither good nor bad."""
WINDOW = 50
"""How many earlier values count: a device may age, it may not jump."""
FALSE_ALARM = 0.002
"""The chance of calling a healthy device bad in one gate, over both of its looks at the canary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Where the next value of a healthy device lies.

    Attributes:
        lo: lower limit, in the unit of the values.
        hi: upper limit.
        n: earlier values that it stands on.
    """

    lo: float
    hi: float
    n: int

    def holds(self, value: float) -> bool:
        """Whether a value is inside."""
        return self.lo <= value <= self.hi


def control_band(earlier: npt.NDArray[np.float64]) -> Band | None:
    """The prediction interval of one more value, on the logarithms.

    A t interval with the spread of a single value, not of the mean: it grows honest where the
    history is short. Median and scaled median absolute deviation would ignore what once was out of
    band; here such values are left out by the caller, who knows that they were.

    Args:
        earlier: values in band, oldest first, all positive, any unit, shape [n].

    Returns:
        None with fewer than `MIN_HISTORY` values.
    """
    recent = np.log(earlier[-WINDOW:])
    n = len(recent)
    if n < MIN_HISTORY:
        return None
    level = float(special.stdtrit(n - 1, 1 - FALSE_ALARM / 4))  # two looks, two sides
    reach = level * float(recent.std(ddof=1)) * float(np.sqrt(1 + 1 / n))
    centre = float(recent.mean())
    return Band(lo=float(np.exp(centre - reach)), hi=float(np.exp(centre + reach)), n=n)
