"""A virtual TC66C: what it says byte for byte, as slowly as it follows.

Address: `virtual-tc66c://?serial=N&seed=N&gain=G&fault=KIND:AT,KIND:AT`. AT counts answers since it
was switched on. Faults: `crc` (a block with a wrong checksum), `short` (an answer that breaks off),
`stall` (silent for 2 s), `unplug` (away for half a second).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import ClassVar

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from drivers.virtual.serial_meter import Lagging, SerialMeter, check_meter, switched_on
from farm.errors import ConfigError
from farm.model import Address, Device
from farm.protocols import VirtualMeter

ASKED = b"getva"
KEY = bytes.fromhex("5821fa5601b2f02687ff1204622a4fb086f40260816f9a0ba7f106619ab87288")
LAG_S, RENEWED_S = 0.16, 0.1
NOISE_A = 5e-5
BLOCK = 64


class VirtualTc66c(VirtualMeter):
    """A TC66C that exists for as long as the controller's process."""

    options: ClassVar[tuple[str, ...]] = ("serial", "seed", "fault", "gain")
    meter_class: ClassVar[str] = "tc66c"

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse an unknown fault, a gain, a seed and a serial number that are none."""
        check_meter(device.metered_by, Tc66cUnit.faults)
        number = device.metered_by.option("serial", "0")
        if not (number.isascii() and number.isdigit()):
            raise ConfigError(
                f"serial '{number}' is no serial number of a TC66C",
                device=device.name,
                hint="leave it out, and 'farm meter list' shows it",
            )

    @classmethod
    def start(cls, device: Device) -> Address:
        """Switch it on, once per process; the address where the production meter finds it."""
        return switched_on(Tc66cUnit, device)


class Tc66cUnit(SerialMeter):
    """One unit."""

    scheme: ClassVar[str] = "tc66c"
    faults: ClassVar[tuple[str, ...]] = ("crc", "short", "stall", "unplug")

    def __init__(self, device: Device, folder: Path) -> None:
        super().__init__(device, folder)
        self._shown = Lagging(self.rail, LAG_S, RENEWED_S)
        self._heard = b""
        self._answers = 0

    def hear(self, data: bytes) -> None:
        """Answer `getva`; other words mean nothing here."""
        self._heard = (self._heard + data)[-64:]
        while ASKED in self._heard:
            self._heard = self._heard.partition(ASKED)[2]
            self._answers += 1
            self._answer(self._answers)

    def _answer(self, number: int) -> None:
        if self.strikes("unplug", number):
            self.unplug()
        elif self.strikes("stall", number):
            self.stall()
        else:
            blocks = bytearray(self._blocks())
            if self.strikes("crc", number):
                blocks[60] ^= 0x01
            encryptor = Cipher(AES(KEY), ECB()).encryptor()
            sent = encryptor.update(bytes(blocks)) + encryptor.finalize()
            self.say(sent[:100] if self.strikes("short", number) else sent)

    def _blocks(self) -> bytes:
        volts = self.rail.volts
        amperes = self._shown.power_w(self.now_ns()) / volts * self.gain
        amperes = max(0.0, amperes + self.noise.normal(0, NOISE_A))
        first = struct.pack("<4s4s4sI28xI", b"pac1", b"TC66", b"1.14", self.seed, 1)
        first += struct.pack(
            "<3I", round(volts * 1e4), round(amperes * 1e5), round(volts * amperes * 1e4)
        )
        ohms = round(min(volts / amperes, 9999.9) * 10) if amperes else 0
        second = struct.pack("<4s9I", b"pac2", ohms, 0, 0, 0, 0, 0, 27, 60, 59)
        return b"".join(_with_crc(block) for block in (first, second, b"pac3"))


def _with_crc(block: bytes) -> bytes:
    block = block.ljust(BLOCK - 4, b"\0")
    crc = 0xFFFF
    for byte in block:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return block + crc.to_bytes(4, "little")
