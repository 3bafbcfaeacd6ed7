"""A model image: native code, linked for one slot of one board, behind a header that says so.

The header is what the loader of the firmware reads (`farm_image.h`); little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

MAGIC = 0x314D4946  # "FIM1"
ABI = 1
_HEADER = struct.Struct("<I HH 13I 32s 32s")
HEADER_BYTES = _HEADER.size


class Cpu(IntEnum):
    """What the code of an image runs on; the number is the one in its header."""

    CORTEX_M3 = 1
    CORTEX_M4F = 2
    """With a single-precision unit."""
    CORTEX_M7 = 3
    """With a double-precision unit."""
    CORTEX_M55 = 4
    CORTEX_M4 = 5
    """Without a floating-point unit."""
    CORTEX_M33 = 6
    VIRTUAL = 0xFF
    """No processor at all: the code is the ONNX file, run by the controller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where an image shall run.

    Attributes:
        cpu: the processor.
        slot_address: where the slot begins, which is where the image is linked for.
        slot_bytes: how long the slot is.
        ram_address: where the model's data and arena go ...
        ram_bytes: ... and how much room there is.
    """

    cpu: Cpu
    slot_address: int
    slot_bytes: int
    ram_address: int
    ram_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What an image says of itself.

    Attributes:
        cpu: a number of `Cpu`.
        total_bytes: length of the image, header included.
        base: address that it is linked for.
        entry: address of `void infer(const void *in, void *out)`; odd for Thumb.
        data_address: where `.data` belongs ...
        data_load_address: ... where it lies in the image ...
        data_bytes: ... and its length, a multiple of 4.
        bss_address: where `.bss`, the arena among it, is cleared ...
        bss_bytes: ... and its length, a multiple of 4.
        in_bytes: size of one input.
        out_bytes: size of one output.
        arena_bytes: the part of `.bss` that holds the tensors.
        model_sha256: digest of the ONNX file, 32 bytes.
        name: for people, at most 31 bytes of UTF-8.
    """

    cpu: int
    total_bytes: int
    base: int
    entry: int
    data_address: int
    data_load_address: int
    data_bytes: int
    bss_address: int
    bss_bytes: int
    in_bytes: int
    out_bytes: int
    arena_bytes: int
    model_sha256: bytes
    name: str
    abi: int = ABI

    def pack(self) -> bytes:
        """The bytes at the start of the image."""
        name = self.name.encode(errors="replace")[:31].decode(errors="ignore").encode()
        return _HEADER.pack(
            MAGIC, self.abi, HEADER_BYTES, self.cpu, self.total_bytes, self.base, self.entry,
            self.data_address, self.data_load_address, self.data_bytes, self.bss_address,
            self.bss_bytes, self.in_bytes, self.out_bytes, self.arena_bytes, 0,
            self.model_sha256, name,
        )  # fmt: skip

    @classmethod
    def unpack(cls, image: bytes) -> Header:
        """Read the header of an image.

        Raises:
            ValueError: it is no image.
        """
        if len(image) < HEADER_BYTES:
            raise ValueError(f"{len(image)} bytes are no image")
        (
            magic, abi, header_bytes, cpu, total, base, entry, data, load, data_bytes, bss,
            bss_bytes, in_bytes, out_bytes, arena, _, sha256, name,
        ) = _HEADER.unpack_from(image)  # fmt: skip
        if magic != MAGIC or header_bytes != HEADER_BYTES:
            raise ValueError("no image of a model")
        return cls(
            cpu=cpu, total_bytes=total, base=base, entry=entry, data_address=data,
            data_load_address=load, data_bytes=data_bytes, bss_address=bss, bss_bytes=bss_bytes,
            in_bytes=in_bytes, out_bytes=out_bytes, arena_bytes=arena, model_sha256=sha256,
            name=name.rstrip(b"\0").decode(errors="replace"), abi=abi,
        )  # fmt: skip
