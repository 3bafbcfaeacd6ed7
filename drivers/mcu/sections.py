"""Symbols and loaded bytes of an ELF file for a 32-bit little-endian processor."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

_SYMBOLS, _NOTHING = 2, 8  # kinds of sections: a table of symbols; one without bytes in the file
_ALLOCATED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A section of a file.

    Attributes:
        name: `.text` and the like.
        address: where it is in memory.
        length: in memory.
        data: its content, empty if it is only cleared.
        allocated: whether it is in memory at all.
    """

    name: str
    address: int
    length: int
    data: bytes
    allocated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Elf:
    """A linked program.

    Attributes:
        sections: by name.
        symbols: their values, by name.
    """

    sections: dict[str, Section]
    symbols: dict[str, int]


def read_elf(path: Path) -> Elf:
    """Read a linked program.

    Raises:
        ValueError: it is none, or broken.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x01\x01":
        raise ValueError(f"{path.name} is no 32-bit little-endian ELF file")
    try:
        (table,) = struct.unpack_from("<I", data, 32)
        size, count, names = struct.unpack_from("<HHH", data, 46)
        heads = [struct.unpack_from("<10I", data, table + size * n) for n in range(count)]
        strings = [data[head[4] : head[4] + head[5]] for head in heads]
        sections = [
            Section(
                name=_text(strings[names], head[0]),
                address=head[3],
                length=head[5],
                data=b"" if head[1] == _NOTHING else content,
                allocated=bool(head[2] & _ALLOCATED),
            )
            for head, content in zip(heads, strings, strict=True)
        ]
        symbols: dict[str, int] = {}
        for head, content in zip(heads, strings, strict=True):
            if head[1] == _SYMBOLS:
                symbols |= _symbols(content, strings[head[6]])
    except (struct.error, IndexError) as error:
        raise ValueError(f"{path.name} is a broken ELF file") from error
    return Elf(sections={section.name: section for section in sections}, symbols=symbols)


def _symbols(table: bytes, strings: bytes) -> dict[str, int]:
    """Names and values of the symbols that have both."""
    entries = struct.iter_unpack("<IIIBBH", table[: len(table) // 16 * 16])
    return {_text(strings, name): value for name, value, _, _, _, place in entries if place}


def _text(strings: bytes, at: int) -> str:
    return strings[at : strings.find(b"\0", at)].decode(errors="replace")
