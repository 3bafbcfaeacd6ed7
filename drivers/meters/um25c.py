"""The UM24C, UM25C and UM34C, meters in the line of a USB supply that are asked over Bluetooth.

A byte F0 is answered with 130 bytes, big-endian. A UM24C and a UM25C end them with FFF1; the last
byte of a UM34C is the exclusive or of some others, which the sigrok project has found out.
"""

from __future__ import annotations

from functools import reduce
from operator import xor
from typing import ClassVar

from drivers.meters.polled_serial import PolledSerialMeter, Reading

FRAME_BYTES = 130
TRAILER = b"\xff\xf1"
POWER = slice(6, 10)
"""Where the power is, in milliwatts."""
XORED = bytes.fromhex("01030709 0f111317 1f27292d 31353739 3b3f4345 494f5359 61636d6f 7177797f")
"""Positions of the bytes that the checksum of a UM34C is made of."""
MODELS = {0x0963: "UM24C", 0x09C9: "UM25C", 0x0D4C: "UM34C"}
"""Models by the number that an answer begins with."""


class Um25c(PolledSerialMeter):
    """A UM25C, UM34C or UM24C behind a serial port, which Bluetooth offers as `/dev/rfcomm0`.

    Address: `um25c:///dev/rfcomm0` or any path, `um25c://HOST:PORT`. It tells no serial number.
    Over Bluetooth an answer is late by what the radio takes, half of which its time is wrong by.
    Nobody has published how it lags: what is told is twice that of a TC66C.
    """

    meter_class: ClassVar[str] = "um25c"
    name: ClassVar[str] = "UM25C"
    question: ClassVar[bytes] = b"\xf0"
    baud: ClassVar[int] = 9600
    answer_s: ClassVar[float] = 1.0
    period_s: ClassVar[float] = 0.2
    lag_s: ClassVar[float] = 1.0

    def _take(self, said: bytes) -> Reading | None:
        """Bytes before a frame are the rest of another, or damaged: they are skipped."""
        for start in range(len(said) - FRAME_BYTES + 1):
            frame = said[start : start + FRAME_BYTES]
            model = MODELS.get(int.from_bytes(frame[:2], "big"), "")
            if model and _whole(model, frame):
                return Reading(model=model, power_w=int.from_bytes(frame[POWER], "big") * 1e-3)
        return None


def _whole(model: str, frame: bytes) -> bool:
    if model != "UM34C":
        return frame.endswith(TRAILER)
    return reduce(xor, (frame[at] for at in XORED)) == frame[-1]
