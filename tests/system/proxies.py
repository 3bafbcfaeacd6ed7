"""A TCP proxy on loopback that breaks, stalls and slows what passes through it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

CHUNK = 16 << 10
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER on, zero seconds: the other side sees a reset, as when a cable's far end restarts."""

T = TypeVar("T")


@dataclass(eq=False)
class _Way:
    """One direction of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    up: bool


class Proxy:
    """Forwards connections to a port of loopback.

    Attributes:
        port: where it listens.
        sent: bytes that went to the server.
        received: bytes that came from it.
        connections: how many were made in all.
        latency_s: how long every byte is under way, in each direction; bandwidth is not limited.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.sent = 0
        self.received = 0
        self.connections = 0
        self.latency_s = 0.0
        self._refusing = False
        self._limit: tuple[bool, int] | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        self._wait_for(self._listen())

    def close(self) -> None:
        """Break everything and listen no more."""
        self._wait_for(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def settled(self) -> int:
        """Bytes that have passed in both directions, once the last packets under way have."""
        while True:
            seen = self.sent + self.received
            time.sleep(0.1)
            if self.sent + self.received == seen:
                return seen

    def cut(self) -> None:
        """Reset every connection now; new ones are made as before."""
        self._call(self._cut)

    def cut_after(self, count: int, *, up: bool = True) -> None:
        """Reset every connection once that many more bytes went up (or came down); once."""

        def limit() -> None:
            self._limit = (up, count)

        self._call(limit)

    def refuse(self) -> None:
        """Reset new connections as soon as they are made; those that are stay."""
        self._refusing = True

    def accept(self) -> None:
        """Take connections again."""
        self._refusing = False

    def stall(self) -> None:
        """Forward nothing more, and close nothing: a cable is out."""
        self._call(self._flowing.clear)

    def resume(self) -> None:
        """Forward again, also what was held back."""
        self._call(self._flowing.set)

    def _call(self, function: Callable[[], object]) -> None:
        """Run a function in the loop's thread, to its end."""

        async def called() -> None:
            function()

        self._wait_for(called())

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> None:
        self._flowing.set()
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        self._cut()
        mine = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not mine]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _take(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(back)
        if self._refusing:
            self._reset(back)
            return
        try:
            far, onward = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            self._reset(back)
            return
        self._open.add(onward)
        for writer in (back, onward):
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with contextlib.suppress(asyncio.CancelledError):  # the streams would complain of it
                await asyncio.gather(
                    self._forward(_Way(near, onward, up=True)),
                    self._forward(_Way(far, back, up=False)),
                )
        finally:
            for writer in (back, onward):
                self._open.discard(writer)
                writer.close()

    async def _forward(self, way: _Way) -> None:
        """Read as fast as it comes, deliver when its time has come."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=256)
        delivering = asyncio.ensure_future(self._deliver(way, under_way))
        try:
            with contextlib.suppress(OSError):
                while data := await way.reader.read(CHUNK):
                    await under_way.put((self._loop.time() + self.latency_s, data))
            await under_way.put((self._loop.time() + self.latency_s, b""))
            await delivering
        finally:
            delivering.cancel()

    async def _deliver(self, way: _Way, under_way: asyncio.Queue[tuple[float, bytes]]) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = await under_way.get()
                if (early := due - self._loop.time()) > 0:
                    await asyncio.sleep(early)
                await self._flowing.wait()
                if not data:
                    if way.writer.can_write_eof():
                        way.writer.write_eof()
                    return
                if way.writer.is_closing():
                    return
                data, last = self._allowed(way.up, data)
                self._count(way.up, len(data))
                way.writer.write(data)
                await way.writer.drain()
                if last:
                    self._cut()
                    return

    def _allowed(self, up: bool, data: bytes) -> tuple[bytes, bool]:
        """What may pass of some data, and whether everything is cut after it."""
        if self._limit is None or self._limit[0] is not up:
            return data, False
        left = self._limit[1]
        if len(data) < left:
            self._limit = (up, left - len(data))
            return data, False
        self._limit = None
        return data[:left], True

    def _count(self, up: bool, count: int) -> None:
        if up:
            self.sent += count
        else:
            self.received += count

    def _cut(self) -> None:
        for writer in list(self._open):
            self._reset(writer)

    def _reset(self, writer: asyncio.StreamWriter) -> None:
        self._open.discard(writer)
        endpoint = writer.get_extra_info("socket")
        if endpoint is not None:
            with contextlib.suppress(OSError):
                endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()


@contextlib.contextmanager
def proxied(target: int) -> Iterator[Proxy]:
    """A proxy before a port; afterwards nothing of it is open."""
    proxy = Proxy(target)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.close()
