"""What a PPK2 makes of a current: a range, a code, and the constants to undo it.

Each unit has constants of its own, by its seed, like those that real units tell.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

RANGES = 5
LARGEST_CODE = (1 << 14) - 1
VOLTS_PER_STEP = 1.8 / 163840
UP_A = np.array([45e-6, 450e-6, 4.5e-3, 45e-3])
"""Above these currents the next range takes over."""
DOWN_A = 0.8 * UP_A
"""Below these the range before it does."""
NOISE_CODES = 0.8

Currents = npt.NDArray[np.float64]
Codes = npt.NDArray[np.uint32]

_TYPICAL = {
    "R": (1002.0, 101.4, 10.29, 0.962, 0.0563),
    "GS": (0.0, 110.0, 18.2, 2.4, 0.072),
    "GI": (1.0, 0.97, 0.962, 0.953, 0.958),
    "O": (110.0, 76.0, 64.0, 51.0, 86.0),
    "S": (5e-8, 6e-7, 5.2e-6, 6.3e-5, 2.9e-3),
    "I": (-1e-7, -1.4e-6, 3.6e-5, -3.7e-4, -9.3e-3),
    "UG": (1.0, 1.0, 1.0, 1.0, 1.0),
}
_DIGITS = {"R": 4, "GS": 4, "GI": 4, "O": 4, "S": 9, "I": 9, "UG": 2}
_SPREAD = 0.01


class Converter:
    """One unit.

    Args:
        noise: of its converter, and of its constants.

    Attributes:
        constants: by family, as it tells them.
    """

    def __init__(self, noise: np.random.Generator) -> None:
        self._noise = noise
        spread = {family: noise.normal(1, _SPREAD, RANGES) for family in _TYPICAL}
        spread["UG"] = np.ones(RANGES)
        self.constants = {
            family: np.round(np.array(typical) * spread[family], _DIGITS[family])
            for family, typical in _TYPICAL.items()
        }
        self._range = 0

    def table(self) -> list[str]:
        """The lines that tell its constants, without their ends."""
        return [
            f"{family}{index}: {value:.{_DIGITS[family]}f}"
            for family, values in self.constants.items()
            for index, value in enumerate(values)
        ]

    def ranges(self, currents: Currents) -> Codes:
        """The range of each of the next samples, shape [n]: it lags behind at its borders."""
        least = np.searchsorted(UP_A, currents, side="right")
        most = np.searchsorted(DOWN_A, currents, side="right")
        found = np.empty(len(currents), np.uint32)
        changes = np.flatnonzero((np.diff(least) != 0) | (np.diff(most) != 0)) + 1
        for begin, end in zip([0, *changes], [*changes, len(currents)], strict=True):
            self._range = min(max(self._range, int(least[begin])), int(most[begin]))
            found[begin:end] = self._range
        return found

    def codes(self, currents: Currents, ranges: Codes, volts: float) -> Codes:
        """What the converter shows, shape [n]; with noise, so that means are finer than a step."""
        of = {family: values[ranges] for family, values in self.constants.items()}
        bent = currents / of["UG"] - of["S"] * volts - of["I"]
        root = np.sqrt(np.maximum(0.0, of["GI"] ** 2 + 4 * of["GS"] * bent))
        raw = 2 * bent / (of["GI"] + root)
        exact = (raw * of["R"] / VOLTS_PER_STEP + of["O"]) / 4
        noisy = exact + self._noise.normal(0, NOISE_CODES, len(exact))
        return np.clip(np.rint(noisy), 0, LARGEST_CODE).astype(np.uint32)
