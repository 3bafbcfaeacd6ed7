"""The calibration that a PPK2 tells: whole and plausible, or refused.

Constants that are missing are never replaced by others: a unit's own differ from any default by 3
to 88 %. The text comes in pieces, in any order, and bytes of a stream may precede it.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from farm.errors import MeterGap

RANGES = 5
CODES = 1 << 14
"""Values that the converter tells."""
VOLTS_PER_STEP = 1.8 / 163840
"""Of four times a code, before the shunt."""
SHUNTS_OHM = (1000.0, 101.0, 10.3, 0.96, 0.056)
TOPS_A = (50e-6, 500e-6, 5e-3, 60e-3, 1.0)
"""What a range is for; the next one takes over above."""
SHUNT_LIMIT = 0.1
FAMILIES = ("R", "GS", "GI", "O", "S", "I", "UG")
KEYS = tuple(f"{family}{index}" for family in FAMILIES for index in range(RANGES))
SETTINGS = ("VDD", "mode")
"""What it tells of how it is set."""
MAX_BYTES = 64 << 10

_LINE = re.compile(rb"(VDD|mode|(?:GS|GI|UG|R|O|S|I)[0-4]):[ \t]*([^\r\n]{0,400}?)[ \t]*\r?\n")
_END = re.compile(rb"[\r\n]END(?=[\r\n]|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The constants of one unit, five of each, from the range of the least currents up.

    Attributes:
        shunt_ohm: R.
        square, gain: GS, GI of the polynomial.
        offset: O, in steps of the converter.
        per_volt, constant: S, I, in amperes.
        user_gain: UG.
        vdd_mv: the voltage that it is set to.
        mode: 1 for an ampere meter, 2 for a source meter.
    """

    shunt_ohm: tuple[float, ...]
    square: tuple[float, ...]
    gain: tuple[float, ...]
    offset: tuple[float, ...]
    per_volt: tuple[float, ...]
    constant: tuple[float, ...]
    user_gain: tuple[float, ...]
    vdd_mv: int
    mode: int

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits over the constants, not over how it is set."""
        constants = (
            *self.shunt_ohm, *self.square, *self.gain, *self.offset,
            *self.per_volt, *self.constant, *self.user_gain,
        )  # fmt: skip
        return hashlib.sha256(struct.pack(f"<{len(constants)}d", *constants)).hexdigest()[:16]

    def currents(self, volts: float) -> npt.NDArray[np.float64]:
        """Amperes of every range and code, shape [5, 16384].

        Args:
            volts: at the device that is fed; the meter cannot sense it.
        """

        def column(values: tuple[float, ...]) -> npt.NDArray[np.float64]:
            return np.array(values)[:, None]

        steps = 4.0 * np.arange(CODES) - column(self.offset)
        raw = steps * (VOLTS_PER_STEP / column(self.shunt_ohm))
        bent = raw * (column(self.square) * raw + column(self.gain))
        shift = column(self.per_volt) * volts + column(self.constant)
        found: npt.NDArray[np.float64] = column(self.user_gain) * (bent + shift)
        return found


def is_whole(text: bytes) -> bool:
    """Whether the line that ends the text has come."""
    return bool(_END.search(text))


def read_calibration(text: bytes, device: str) -> Calibration:
    """Read what a meter answered, or as much of it as came.

    Raises:
        MeterGap: it is not whole, or no constants of a sound meter; the message names the key.
    """
    end = _END.search(text)
    if end is None:
        raise _refused(device, f"the calibration does not end ({len(text)} bytes came)")
    values: dict[str, float] = {}
    for name, told in _LINE.findall(text[: end.start() + 1]):
        key = name.decode()
        if key in values:
            raise _refused(device, f"the calibration has {key} twice")
        values[key] = _number(key, told, device)
    missing = [key for key in (*KEYS, *SETTINGS) if key not in values]
    if missing:
        raise _refused(device, f"the calibration lacks {', '.join(missing[:5])}")
    for index in range(RANGES):
        _insist_on_sense(values, index, device)
    families = [tuple(values[f"{name}{index}"] for index in range(RANGES)) for name in FAMILIES]
    shunt, square, gain, offset, per_volt, constant, user_gain = families
    return Calibration(
        shunt_ohm=shunt, square=square, gain=gain, offset=offset, per_volt=per_volt,
        constant=constant, user_gain=user_gain,
        vdd_mv=round(values["VDD"]), mode=round(values["mode"]),
    )  # fmt: skip


def _number(key: str, told: bytes, device: str) -> float:
    try:
        value = float(told)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _damaged(device, key, told.decode("ascii", "replace")[:40])
    return value


def _insist_on_sense(values: dict[str, float], index: int, device: str) -> None:
    """Refuse constants of a range that no sound meter has."""
    top, nominal = TOPS_A[index], SHUNTS_OHM[index]
    limits = {
        "R": (nominal * (1 - SHUNT_LIMIT), nominal * (1 + SHUNT_LIMIT)),
        "UG": (0.8, 1.25),
        "GI": (0.7, 1.3),
        "GS": (-0.3 / top, 0.3 / top),  # how much it bends a range at its top
        "O": (-1000.0, 1000.0),
        "S": (-0.02 * top, 0.02 * top),
        "I": (-0.1 * top, 0.1 * top),
    }
    for family, (least, most) in limits.items():
        key = f"{family}{index}"
        if not least <= values[key] <= most:
            raise _damaged(device, key, f"{values[key]:g}, not within {least:g} and {most:g}")


def _damaged(device: str, key: str, told: str) -> MeterGap:
    return MeterGap(
        f"the meter's calibration is no good: {key} is {told}",
        device=device,
        hint="compare nRF Connect's Power Profiler; a unit with a damaged memory is to be replaced",
    )


def _refused(device: str, why: str) -> MeterGap:
    return MeterGap(
        why, device=device, hint="is it a PPK2, with its newest firmware? unplug it, and try again"
    )
