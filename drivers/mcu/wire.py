"""Frames on a serial line to a microcontroller, as docs/mcu-protocol.md defines them.

    A5 5A | kind u8 | sequence u16 | boot u16 | length u32 | payload | crc32 of kind to payload

Little-endian. Whatever lies between frames is what the device prints: its console.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

SYNC = b"\xa5\x5a"
_HEAD = struct.Struct("<BHHI")
_CRC = struct.Struct("<I")
OVERHEAD_BYTES = len(SYNC) + _HEAD.size + _CRC.size
MAX_PAYLOAD_BYTES = 1 << 17
"""The longest payload that anybody may announce; a longer one is a damaged length."""
CONSOLE_BYTES = 64 << 10
"""So much of what came between frames waits to be taken, the end of it."""


class Kind(IntEnum):
    """What a frame is; an answer has the kind of its request and `ANSWER`."""

    HELLO = 0x01
    ECHO = 0x02
    BEGIN = 0x03
    DATA = 0x04
    COMMIT = 0x05
    RESET = 0x06
    CONFIRM = 0x07
    INPUT = 0x08
    INFER = 0x09
    OUTPUT = 0x0A
    ITEM = 0x0B
    BOOT = 0xB0
    LOG = 0xC0
    FAULT = 0xEE
    ERROR = 0xFF


ANSWER = 0x80
UNASKED = frozenset({Kind.BOOT, Kind.LOG, Kind.FAULT})
"""Frames that a device sends by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One whole frame.

    Attributes:
        kind: as on the wire; an unknown one is the reader's to refuse.
        sequence: number of the request, also in its answer; 0 in what nobody asked for.
        boot: which start of the device it belongs to.
        payload: what it carries.
    """

    kind: int
    sequence: int
    boot: int
    payload: bytes


def encode(frame: Frame) -> bytes:
    """A frame as it goes over the line."""
    head = _HEAD.pack(frame.kind, frame.sequence, frame.boot, len(frame.payload))
    body = head + frame.payload
    return SYNC + body + _CRC.pack(zlib.crc32(body))


class Decoder:
    """Finds frames in what a line brings; damage costs the frame that it hit, never the next one.

    What it keeps is bounded: one frame of the longest kind, and the end of the console.

    Args:
        max_payload_bytes: a longer frame is damaged.
    """

    def __init__(self, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        self._most = max_payload_bytes
        self._buffer = bytearray()
        self._console = bytearray()

    @property
    def begun(self) -> bool:
        """Whether what came last looks like a frame of which more must come."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that these bytes complete."""
        self._buffer += data
        frames: list[Frame] = []
        while True:
            self._skip_to_sync()
            step = self._take()
            if step is None:
                return frames
            if isinstance(step, Frame):
                frames.append(step)

    def give_up(self) -> list[Frame]:
        """The line was silent for too long: what looks like a torn frame is none.

        Returns:
            Frames that the torn one had hidden.
        """
        frames: list[Frame] = []
        while self._buffer and not frames:
            self._spit(1)
            frames = self.feed(b"")
        return frames

    def take_console(self) -> bytes:
        """What came outside of frames since the last call."""
        taken = bytes(self._console)
        self._console.clear()
        return taken

    def _skip_to_sync(self) -> None:
        at = self._buffer.find(SYNC)
        if at < 0:
            at = len(self._buffer) - self._buffer.endswith(SYNC[:1])
        self._spit(at)

    def _spit(self, count: int) -> None:
        kept = self._buffer[max(0, count - CONSOLE_BYTES) : count]
        self._console += kept
        del self._console[:-CONSOLE_BYTES]
        del self._buffer[:count]

    def _take(self) -> Frame | bool | None:
        """The frame at the start of the buffer; False if it is damaged, None if more must come."""
        start = len(SYNC)
        if len(self._buffer) < start + _HEAD.size:
            return None
        kind, sequence, boot, length = _HEAD.unpack_from(self._buffer, start)
        end = start + _HEAD.size + length
        if length > self._most:
            self._spit(1)
            return False
        if len(self._buffer) < end + _CRC.size:
            return None
        (crc,) = _CRC.unpack_from(self._buffer, end)
        if zlib.crc32(memoryview(self._buffer)[start:end]) != crc:
            self._spit(1)
            return False
        payload = bytes(self._buffer[start + _HEAD.size : end])
        del self._buffer[: end + _CRC.size]
        return Frame(kind=kind, sequence=sequence, boot=boot, payload=payload)
