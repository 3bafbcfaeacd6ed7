"""The service of a phone that moves files: `sync`, in its first version."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from drivers.virtual.phone_stream import Gone, Inbox, Stream

DATA_BYTES = 64 << 10
"""The longest DATA."""
PATH_BYTES = 1024
_REQUEST = struct.Struct("<4sI")
_STAT = struct.Struct("<4s3I")
_ENTRY = struct.Struct("<4s4I")
_BATCH = 15
"""So many DATA go in one payload of the largest size."""


class Refused(Exception):
    """What the client is told in a FAIL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """Where files go, and what is wrong with it.

    Attributes:
        folder: where paths begin that do not begin at the root.
        full_after: so many bytes of a push find room; None if all do.
        corrupts: asked at every push, whether one of its bits flips.
    """

    folder: Path
    full_after: int | None
    corrupts: Callable[[], bool]


async def serve_sync(stream: Stream, storage: Storage) -> None:
    """Answer requests until the client has no more, or makes no sense."""
    inbox = Inbox(stream)
    while True:
        name, length = _REQUEST.unpack(await inbox.exactly(_REQUEST.size))
        if name == b"QUIT":
            return
        if name not in _ANSWERS or length > PATH_BYTES:
            reason = "path too long" if name in _ANSWERS else f"unknown request {name!r}"
            await _fail(stream, reason)
            return
        path = await inbox.exactly(length)
        try:
            await _ANSWERS[name](stream, inbox, storage, path)
        except Refused as refused:
            await _fail(stream, str(refused))


async def _stat(stream: Stream, inbox: Inbox, storage: Storage, path: bytes) -> None:
    """A file that is not there is all zeros."""
    fields = (0, 0, 0)
    with contextlib.suppress(OSError, ValueError):
        fields = _fields(os.lstat(_path(storage, path)))
    await stream.send(_STAT.pack(b"STAT", *fields))


async def _list(stream: Stream, inbox: Inbox, storage: Storage, path: bytes) -> None:
    """A folder that cannot be read has nothing in it."""
    with contextlib.suppress(OSError, ValueError):
        for entry in os.scandir(_path(storage, path)):
            fields = _fields(entry.stat(follow_symlinks=False))
            await stream.send(_ENTRY.pack(b"DENT", *fields, len(entry.name)) + entry.name)
    await stream.send(_ENTRY.pack(b"DONE", 0, 0, 0, 0))


async def _receive(stream: Stream, inbox: Inbox, storage: Storage, path: bytes) -> None:
    """Send a file to the client."""
    with _told("open failed"):
        number = os.open(_path(storage, path), os.O_RDONLY | os.O_NONBLOCK)
    try:
        while True:
            with _told("read failed"):
                batch = _read_batch(number)
            if not batch:
                break
            await stream.send(batch)
    finally:
        os.close(number)
    await stream.send(_REQUEST.pack(b"DONE", 0))


def _read_batch(number: int) -> bytearray:
    batch = bytearray()
    for _ in range(_BATCH):
        data = os.read(number, DATA_BYTES)
        if not data:
            break
        batch += _REQUEST.pack(b"DATA", len(data))
        batch += data
    return batch


async def _send(stream: Stream, inbox: Inbox, storage: Storage, request: bytes) -> None:
    """Take a file from the client, who sends all of it even when that fails; it hears at once."""
    push = _Push(storage, request)
    telling: asyncio.Task[None] | None = None
    try:
        while True:
            if push.failure and not telling:
                telling = asyncio.create_task(_fail(stream, push.failure))
            name, length = _REQUEST.unpack(await inbox.exactly(_REQUEST.size))
            if name == b"DONE":
                break
            if name != b"DATA" or length > DATA_BYTES:
                raise Gone  # nobody knows what comes next
            async for part in inbox.parts(length):
                push.write(part)
        if not telling:
            push.finish(modified_s=length)
            answer = _REQUEST.pack(b"OKAY", 0)
            await (_fail(stream, push.failure) if push.failure else stream.send(answer))
    finally:
        push.close()
        if telling:
            await telling


class _Push:
    """A file that arrives.

    Attributes:
        failure: why it cannot be had; empty while it can.
    """

    def __init__(self, storage: Storage, request: bytes) -> None:
        self.failure = ""
        self._left = storage.full_after
        self._corrupts = storage.corrupts()
        self._file = -1
        self._done = False
        name, _, mode = request.rpartition(b",")
        try:
            self._path = _path(storage, name)
            self._mode = int(mode) & 0o777
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK
            self._file = os.open(self._path, flags, self._mode | 0o200)
        except OSError as error:
            self.failure = f"couldn't create file: {error.strerror}"
        except ValueError:
            self.failure = "bad mode or path"

    def write(self, part: memoryview) -> None:
        """Keep what came, unless this has failed already."""
        if self.failure:
            return
        if self._corrupts:
            self._corrupts = False
            part[0] ^= 1
        if self._left is not None:
            self._left -= len(part)
            if self._left < 0:
                self.failure = f"write failed: {os.strerror(errno.ENOSPC)}"
                return
        try:
            while part:
                part = part[os.write(self._file, part) :]
        except OSError as error:
            self.failure = f"write failed: {error.strerror}"

    def finish(self, *, modified_s: int) -> None:
        """It is whole."""
        try:
            os.fchmod(self._file, self._mode)
            os.utime(self._file, (modified_s, modified_s))
            self._done = True
        except OSError as error:
            self.failure = f"cannot set its time: {error.strerror}"

    def close(self) -> None:
        """What is not whole goes away."""
        if self._file >= 0:
            os.close(self._file)
            if not self._done:
                with contextlib.suppress(OSError):
                    os.unlink(self._path)


async def _fail(stream: Stream, reason: str) -> None:
    text = reason.encode()
    await stream.send(_REQUEST.pack(b"FAIL", len(text)) + text)


def _path(storage: Storage, name: bytes) -> bytes:
    return os.path.join(os.fsencode(storage.folder), name)


def _fields(status: os.stat_result) -> tuple[int, int, int]:
    """Mode, size and time; what is too large for 32 bits loses its upper ones."""
    return status.st_mode, status.st_size & 0xFFFFFFFF, int(status.st_mtime) & 0xFFFFFFFF


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Refused(f"{what}: {reason}") from error


_ANSWERS = {b"STAT": _stat, b"LIST": _list, b"RECV": _receive, b"SEND": _send}
