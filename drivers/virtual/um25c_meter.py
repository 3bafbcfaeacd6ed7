"""A virtual UM25C, UM34C or UM24C: what it says byte for byte, as slowly as it follows.

Address: `virtual-um25c://MODEL?seed=N&gain=G&fault=KIND:AT,KIND:AT`, a UM25C without MODEL. AT
counts answers since it was switched on. Faults: `shift` (the rest of another answer comes first),
`short` (it breaks off), `damaged` (its end is wrong), `stall` (silent for 2 s), `unplug` (away for
half a second).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import ClassVar

from drivers.virtual.serial_meter import Lagging, SerialMeter, check_meter, switched_on
from farm.errors import ConfigError, nearest_hint
from farm.model import Address, Device
from farm.protocols import VirtualMeter

ASKED = 0xF0
LAG_S, RENEWED_S = 0.3, 0.1
"""Nobody has published how slow it is: twice a TC66C."""
NOISE_A = 2e-4
FRAME_BYTES = 130
MODELS = {
    "UM24C": (0x0963, 100, 1000),
    "UM25C": (0x09C9, 1000, 10000),
    "UM34C": (0x0D4C, 100, 1000),
}
"""The number of a model, and in what parts of a volt and of an ampere it counts."""
CHECKED = (
    1, 3, 7, 9, 15, 17, 19, 23, 31, 39, 41, 45, 49, 53, 55, 57, 59, 63, 67, 69, 73, 79, 83, 89,
    97, 99, 109, 111, 113, 119, 121, 127,
)  # fmt: skip
"""Which bytes the last one of a UM34C is the exclusive or of."""


class VirtualUm25c(VirtualMeter):
    """A meter of that family that exists for as long as the controller's process."""

    options: ClassVar[tuple[str, ...]] = ("seed", "fault", "gain")
    meter_class: ClassVar[str] = "um25c"

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse an unknown model or fault, a gain and a seed that are none."""
        check_meter(device.metered_by, Um25cUnit.faults)
        if device.metered_by.place and device.metered_by.place not in MODELS:
            raise ConfigError(
                f"there is no virtual meter '{device.metered_by.place}'",
                device=device.name,
                hint=nearest_hint(device.metered_by.place, MODELS),
            )

    @classmethod
    def start(cls, device: Device) -> Address:
        """Switch it on, once per process; the address where the production meter finds it."""
        return switched_on(Um25cUnit, device)


class Um25cUnit(SerialMeter):
    """One unit."""

    scheme: ClassVar[str] = "um25c"
    faults: ClassVar[tuple[str, ...]] = ("shift", "short", "damaged", "stall", "unplug")

    def __init__(self, device: Device, folder: Path) -> None:
        super().__init__(device, folder)
        self._model = device.address.place or "UM25C"
        self._shown = Lagging(self.rail, LAG_S, RENEWED_S)
        self._answers = 0

    def hear(self, data: bytes) -> None:
        """Answer F0; other bytes set what nobody looks at here."""
        for _ in range(data.count(ASKED)):
            self._answers += 1
            self._answer(self._answers)

    def _answer(self, number: int) -> None:
        if self.strikes("unplug", number):
            self.unplug()
        elif self.strikes("stall", number):
            self.stall()
        else:
            frame = self._frame()
            if self.strikes("shift", number):
                frame = frame[-37:] + frame
            if self.strikes("damaged", number):
                frame = frame[:-1] + bytes([frame[-1] ^ 0x55])
            self.say(frame[:60] if self.strikes("short", number) else frame)

    def _frame(self) -> bytes:
        number, volt, ampere = MODELS[self._model]
        volts = self.rail.volts
        amperes = self._shown.power_w(self.now_ns()) / volts * self.gain
        amperes = max(0.0, amperes + self.noise.normal(0, NOISE_A))
        frame = struct.pack(
            ">3HI3H", number, round(volts * volt), round(amperes * ampere),
            round(volts * amperes * 1e3), 25, 77, 0,
        )  # fmt: skip
        frame = frame.ljust(96, b"\0") + struct.pack(">3H", 60, 59, 0)
        frame = frame.ljust(FRAME_BYTES - 2, b"\0") + b"\xff\xf1"
        if self._model != "UM34C":
            return frame
        check = 0
        for at in CHECKED:
            check ^= frame[at]
        return frame[:-1] + bytes([check])
