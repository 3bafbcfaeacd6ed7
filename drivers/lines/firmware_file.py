"""What of a firmware's file belongs where in a board's memory."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from farm.errors import ConfigError

_ELF = b"\x7fELF"
_HEADER = struct.Struct("<16sHHIIIIIHHHHHH")
_SEGMENT = struct.Struct("<IIIIIIII")
_32_BIT, _LITTLE, _LOAD = 1, 1, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Bytes for an address."""

    address: int
    data: bytes


def read_firmware(path: Path, *, address: int | None) -> tuple[Piece, ...]:
    """The pieces of an ELF, where it wants to be loaded, or of a raw file at an address.

    Args:
        path: the file.
        address: for a file that is no ELF.

    Raises:
        ConfigError: it cannot be read, is damaged, or has no address.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error.strerror}") from error
    if data.startswith(_ELF):
        pieces = _segments(data, path)
    elif address is None:
        raise ConfigError(
            f"'{path.name}' is no ELF, and does not say where it belongs",
            hint="give an ELF, or write for example 'flash_address: 0x08000000'",
        )
    else:
        pieces = (Piece(address=address, data=data),)
    if not any(piece.data for piece in pieces):
        raise ConfigError(f"'{path.name}' holds nothing that could be written")
    return tuple(piece for piece in pieces if piece.data)


def _segments(data: bytes, path: Path) -> tuple[Piece, ...]:
    """Where segments are loaded: their physical address, which differs for `.data` in flash."""
    try:
        head = _HEADER.unpack_from(data)
        if head[0][4:6] != bytes((_32_BIT, _LITTLE)):
            raise ConfigError(f"'{path.name}' is no ELF for a 32-bit little-endian processor")
        offset, size, count = head[5], head[9], head[10]
        segments = [_SEGMENT.unpack_from(data, offset + size * n) for n in range(count)]
    except struct.error as error:
        raise ConfigError(f"'{path.name}' is a damaged ELF: {error}") from error
    pieces = []
    for kind, at, _, address, length, *_ in segments:
        if kind == _LOAD:
            if at + length > len(data):
                raise ConfigError(f"'{path.name}' is a damaged ELF: it ends too early")
            pieces.append(Piece(address=address, data=data[at : at + length]))
    return tuple(pieces)
