"""The TC66C, a meter in the line of a USB supply.

`getva` is answered with 192 bytes: three blocks of 64, each with a name and a CRC of its own, all
encrypted with a key that is the same in every unit and has long been published.
"""

from __future__ import annotations

import struct
from typing import ClassVar

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from drivers.meters.polled import BadAnswer
from drivers.meters.polled_serial import PolledSerialMeter, Reading, meter_address
from farm.errors import ConfigError, ConnectError
from farm.model import Device

BLOCK, BLOCKS = 64, (b"pac1", b"pac2", b"pac3")
KEY = bytes.fromhex("5821fa5601b2f02687ff1204622a4fb086f40260816f9a0ba7f106619ab87288")
_FIRST = struct.Struct("<4x4s4sI40xI")
"""Model, firmware, serial number, and power in tenths of a milliwatt."""


class Tc66c(PolledSerialMeter):
    """A TC66 or TC66C behind a serial port; it renews what it tells every 80 to 100 ms.

    Address: `tc66c:///dev/serial/by-id/NAME`, `tc66c://SERIALNUMBER` of USB, `tc66c://HOST:PORT`.
    Options: `serial`, the number that the meter itself shows; another one is refused, which matters
    where a path says who comes first and not who is there.
    """

    options: ClassVar[tuple[str, ...]] = ("serial",)
    meter_class: ClassVar[str] = "tc66c"
    name: ClassVar[str] = "TC66C"
    question: ClassVar[bytes] = b"getva"
    baud: ClassVar[int] = 115200
    answer_s: ClassVar[float] = 0.5
    period_s: ClassVar[float] = 0.1
    lag_s: ClassVar[float] = 0.5

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse a place that is none, and a serial number that no meter has."""
        super().check(device)
        number = meter_address(device).option("serial", "0")
        if not (number.isascii() and number.isdigit() and int(number) < 1 << 32):
            raise ConfigError(
                f"serial '{number}' is no serial number of a TC66C",
                device=device.name,
                hint="the number that its display and 'farm meter list' show, such as serial=1234",
            )

    def _accept(self, reading: Reading) -> None:
        wanted = meter_address(self._device).option("serial")
        if wanted and int(wanted) != int(reading.serial):
            raise ConnectError(
                f"another meter is there: {reading.serial}, not {wanted}",
                device=self._device.name,
                hint="plug in the right one, or correct 'serial' in the inventory",
            )

    def _take(self, said: bytes) -> Reading | None:
        if len(said) < BLOCK * len(BLOCKS):
            return None
        decryptor = Cipher(AES(KEY), ECB()).decryptor()
        plain = decryptor.update(said[: BLOCK * len(BLOCKS)]) + decryptor.finalize()
        for number, name in enumerate(BLOCKS):
            block = plain[number * BLOCK : (number + 1) * BLOCK]
            crc = int.from_bytes(block[-4:], "little")
            if not block.startswith(name) or crc != _crc16(block[:-4]):
                raise BadAnswer(f"block {number + 1} of an answer is damaged")
        model, firmware, serial, power = _FIRST.unpack_from(plain)
        return Reading(
            model=model.rstrip(b"\0").decode("ascii", "replace"),
            firmware=firmware.rstrip(b"\0").decode("ascii", "replace"),
            serial=str(serial),
            power_w=power * 1e-4,
        )


def _crc16(data: bytes) -> int:
    """CRC-16 as Modbus has it."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0xA001 if crc & 1 else crc >> 1
    return crc
