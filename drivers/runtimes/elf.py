"""What a shared library tells of the machine that it is made for."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

MACHINES = {62: "x86_64", 183: "aarch64", 40: "armv7l"}
"""The numbers that ELF files have for architectures."""

_LONGEST_NAME = 256
_LOAD, _DYNAMIC = 1, 2
_END, _NEEDED, _NAMES = 0, 1, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedLibrary:
    """The head of an ELF file.

    Attributes:
        architecture: empty if it is none that the farm knows.
        needed: the libraries that it needs, the C library among them.
    """

    architecture: str
    needed: tuple[str, ...]


def read_shared_library(path: Path) -> SharedLibrary | None:
    """The head of a file, None if it is no ELF file or a broken one.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[:4] != b"\x7fELF":
                return None
            (machine,) = struct.unpack_from("<H", data, 18)
            architecture = MACHINES.get(machine, "")
            return SharedLibrary(architecture=architecture, needed=tuple(_needed(data)))
    except (struct.error, ValueError):  # it ends too early, or is empty
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segment:
    """A part of the file, at a place in memory."""

    kind: int
    offset: int
    address: int
    size: int


def _needed(data: mmap.mmap) -> Iterator[str]:
    """The names under which the dynamic section of a little-endian file asks for libraries."""
    wide = data[4] == 2
    segments = list(_segments(data, wide=wide))
    dynamic = next((segment for segment in segments if segment.kind == _DYNAMIC), None)
    if dynamic is None:
        return
    pair = struct.Struct("<QQ" if wide else "<II")
    section = data[dynamic.offset : dynamic.offset + dynamic.size]
    whole = len(section) // pair.size * pair.size
    entries = list(takewhile(lambda entry: entry[0] != _END, pair.iter_unpack(section[:whole])))
    names = dict(entries).get(_NAMES, 0)
    for tag, value in entries:
        if tag == _NEEDED:
            at = _offset(segments, names + value)
            name = data[at : at + _LONGEST_NAME].partition(b"\0")[0]
            yield name.decode("utf-8", "replace")


def _segments(data: mmap.mmap, *, wide: bool) -> Iterator[_Segment]:
    table: int
    if wide:
        (table,) = struct.unpack_from("<Q", data, 32)
        size, count = struct.unpack_from("<HH", data, 54)
    else:
        (table,) = struct.unpack_from("<I", data, 28)
        size, count = struct.unpack_from("<HH", data, 42)
    for start in range(table, table + size * count, size or 1):
        entry = data[start : start + 40]
        if wide:
            kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", entry)
        else:
            kind, offset, address, _, length = struct.unpack_from("<IIIII", entry)
        yield _Segment(kind=kind, offset=offset, address=address, size=length)


def _offset(segments: list[_Segment], address: int) -> int:
    """Where in the file lies what is loaded at an address."""
    for segment in segments:
        if segment.kind == _LOAD and 0 <= address - segment.address < segment.size:
            return segment.offset + address - segment.address
    raise ValueError(address)
