"""One stream of an ADB connection: a service of the phone at one end, a client at the other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Protocol

from drivers.virtual.phone_wire import CLSE, OKAY, WRTE, Malformed, Payload


class Gone(Exception):
    """The client closed the stream, or has gone as a whole."""


class Line(Protocol):
    """The connection that a stream is a part of.

    Attributes:
        max_payload: the longest payload that the client takes.
    """

    max_payload: int

    def send(self, command: int, first: int, second: int, payload: Payload = b"") -> None:
        """Send a message; how much waits to be sent is bounded by those who send."""

    def forget(self, local: int) -> None:
        """A stream is closed."""


class Stream:
    """Bytes both ways; each side has one message under way until the other confirms it.

    Args:
        line: the connection.
        local: the stream's number here.
        remote: its number at the client.
    """

    def __init__(self, line: Line, local: int, remote: int) -> None:
        self._line = line
        self._local = local
        self._remote = remote
        self._arrived: deque[memoryview] = deque()
        self._news = asyncio.Event()
        self._confirmed = asyncio.Event()
        self._sending = asyncio.Lock()
        self._gone = False

    def deliver(self, payload: memoryview) -> None:
        """A message has come.

        Raises:
            Malformed: the one before was not confirmed yet; what waits here must not grow.
        """
        if self._arrived:
            raise Malformed
        self._arrived.append(payload)
        self._news.set()

    def confirm(self) -> None:
        """The client is ready for more."""
        self._confirmed.set()

    def end(self) -> None:
        """The client is there no more."""
        self._gone = True
        self._news.set()
        self._confirmed.set()

    async def receive(self) -> memoryview:
        """The next payload; the client may send another while it is looked at.

        Raises:
            Gone: there is none, and nobody who could send one.
        """
        while not self._arrived:
            if self._gone:
                raise Gone
            self._news.clear()
            await self._news.wait()
        payload = self._arrived.popleft()
        if not self._gone:
            self._line.send(OKAY, self._local, self._remote)
        return payload

    async def send(self, data: Payload) -> None:
        """Send bytes, and wait until the client has taken them.

        Raises:
            Gone: nobody is there to take them.
        """
        view = memoryview(data)
        async with self._sending:
            while view:
                if self._gone:
                    raise Gone
                self._confirmed.clear()
                part, view = view[: self._line.max_payload], view[self._line.max_payload :]
                self._line.send(WRTE, self._local, self._remote, part)
                await self._confirmed.wait()

    def close(self) -> None:
        """Tell the client that this was all; closing twice is no error."""
        if not self._gone:
            self.end()
            self._line.send(CLSE, self._local, self._remote)
            self._line.forget(self._local)


class Inbox:
    """What comes on a stream, cut as the one who reads wants it."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._rest = memoryview(b"")

    async def some(self, most: int) -> memoryview:
        """Up to so many bytes, at least one.

        Raises:
            Gone: as in `Stream.receive`.
        """
        while not self._rest:
            self._rest = await self._stream.receive()
        part, self._rest = self._rest[:most], self._rest[most:]
        return part

    async def parts(self, length: int) -> AsyncIterator[memoryview]:
        """So many bytes in parts as they come."""
        while length:
            part = await self.some(length)
            length -= len(part)
            yield part

    async def exactly(self, length: int) -> bytes:
        """So many bytes in one."""
        if len(self._rest) >= length:
            part, self._rest = self._rest[:length], self._rest[length:]
            return bytes(part)
        return b"".join([bytes(part) async for part in self.parts(length)])
