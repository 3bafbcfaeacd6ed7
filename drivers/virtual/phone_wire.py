"""The messages of ADB: a header of six numbers, and a payload."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

HEADER = struct.Struct("<6I")
CNXN, AUTH, OPEN, OKAY, WRTE, CLSE = (
    int.from_bytes(name, "little")
    for name in (b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"WRTE", b"CLSE")
)
TOKEN, SIGNATURE, PUBLIC_KEY = 1, 2, 3
"""What an AUTH carries."""
WITH_CHECKSUMS, NEWEST = 0x01000000, 0x01000001
"""Versions of the protocol."""
GREETING_BYTES = 4096
"""The longest payload while two do not know each other yet."""
MOST_BYTES = 1 << 20
"""The longest that is ever agreed on."""

Payload = bytes | bytearray | memoryview


class Malformed(Exception):
    """What came is no ADB: nothing that comes after it can be trusted."""


class Header(NamedTuple):
    """What comes before a payload.

    Attributes:
        command: one of the six.
        first, second: what they mean depends on the command.
        length: of the payload, in bytes.
        checksum: of the payload, in the older version.
    """

    command: int
    first: int
    second: int
    length: int
    checksum: int

    @classmethod
    def read(cls, data: Payload, *, limit: int) -> Header:
        """Read one.

        Args:
            data: its bytes.
            limit: the longest payload that is taken.

        Raises:
            Malformed: it is none, or announces more.
        """
        *numbers, magic = HEADER.unpack(data)
        header = cls(*numbers)
        if header.command ^ magic != 0xFFFFFFFF or header.length > limit:
            raise Malformed
        return header


def write_header(command: int, first: int, second: int, payload: Payload, *, summed: bool) -> bytes:
    """The header of a message; `summed` where the other side looks at the checksum."""
    total = checksum(payload) if summed else 0
    return HEADER.pack(command, first, second, len(payload), total, command ^ 0xFFFFFFFF)


def checksum(payload: Payload) -> int:
    """The sum of all bytes."""
    return int(np.frombuffer(payload, np.uint8).sum(dtype=np.uint64)) & 0xFFFFFFFF
