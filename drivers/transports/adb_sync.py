"""Files for a phone by the sync service of its adbd, straight to where they belong."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO

from adb_shell import constants

from drivers.transports.adb_wire import Block, Channel, Nonsense, Patience, Wire
from drivers.transports.posix import STALL_S

MODE = 0o100600
_CHUNK_BYTES = constants.MAX_CHUNK_SIZE
_LONGEST_REASON = 4096
_ITEM = struct.Struct("<4sI")
_STAT_BYTES = 16


class Refused(Exception):
    """The phone does not take the file; says why."""


def send_file(wire: Wire, file: IO[bytes], target: PurePosixPath) -> None:
    """Write a file there.

    Raises:
        Refused: by the phone, with its reason.
        TimeoutError: nothing moved for too long.
        OSError: the connection broke, or what came is nonsense.
    """
    channel = wire.open(b"sync:")
    try:
        answers = _Answers(channel)
        folder = os.fsencode(target.parent) + b"/."  # what a link points to, not the link
        channel.feed(iter([_item(constants.STAT, folder)]))
        if not answers.mode():
            raise Refused("No such directory")  # it would be made, for everybody to see
        channel.feed(_blocks(file, os.fsencode(target), wire.block_bytes))
        answers.okay()
    finally:
        channel.close()


def _item(kind: bytes, text: bytes) -> bytes:
    return _ITEM.pack(kind, len(text)) + text


def _blocks(file: IO[bytes], target: bytes, size: int) -> Iterator[Block]:
    """The file in pieces of 64 KiB, as many in one block as go; a block is good until the next."""
    block = bytearray(size)
    view = memoryview(block)
    head = _item(constants.SEND, target + b",%d" % MODE)
    used = len(head)
    if used + 2 * _ITEM.size > size:
        yield head
        used = 0
    view[:used] = head[:used]
    while True:
        starts = range(used + _ITEM.size, size, _CHUNK_BYTES + _ITEM.size)
        pieces = [view[start : start + _CHUNK_BYTES] for start in starts]
        count = os.readv(file.fileno(), pieces)
        if not count:
            break
        for start, piece in zip(starts, pieces, strict=True):
            length = min(count, len(piece))
            if not length:
                break
            _ITEM.pack_into(block, start - _ITEM.size, constants.DATA, length)
            used = start + length
            count -= length
        if size - used <= _ITEM.size:
            yield view[:used]
            used = 0
    _ITEM.pack_into(block, used, constants.DONE, int(time.time()))
    yield view[: used + _ITEM.size]


class _Answers:
    """What the phone says meanwhile."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._unread = bytearray()
        self._patience = Patience(STALL_S, renewed=True)

    def mode(self) -> int:
        """Of the file that was asked for; 0 if there is none."""
        kind, mode = _ITEM.unpack(self._take(_ITEM.size))
        if kind != constants.STAT:
            raise self._no(kind, mode)
        self._take(_STAT_BYTES - _ITEM.size)
        return int(mode)

    def okay(self) -> None:
        """Wait until the file is there."""
        kind, length = _ITEM.unpack(self._take(_ITEM.size))
        if kind != constants.OKAY:
            raise self._no(kind, length)

    def _no(self, kind: bytes, length: int) -> Exception:
        if kind != constants.FAIL or length > _LONGEST_REASON:
            return Nonsense("this is no answer about a file")
        return Refused(self._take(length).decode(errors="replace"))

    def _take(self, count: int) -> bytes:
        while len(self._unread) < count:
            data = self._channel.receive(self._patience)
            if not data:
                raise ConnectionResetError("it hung up")
            self._unread += data
        taken = bytes(self._unread[:count])
        del self._unread[:count]
        return taken
