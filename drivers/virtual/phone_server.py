"""The daemon of a virtual phone that speaks ADB, for all phones of the process in one thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric import rsa

from drivers.virtual.phone_connection import Connection, Manners, Owner
from drivers.virtual.phone_shell import run_command
from drivers.virtual.phone_stream import Gone, Stream
from drivers.virtual.phone_sync import Storage, serve_sync

T = TypeVar("T")


class PhoneServer(Owner):
    """Listens on an ephemeral port of this machine's loopback.

    Args:
        manners: how it speaks.
        banner: the properties that it greets with.
        known: the key that it trusts from the beginning.
        home: where commands begin, and paths that do not begin at the root.
        environment: what a command that begins now knows of its surroundings.
        heard: called with every service that is asked for; False drops the connection instead.
        corrupts: asked at every push, whether one of its bits flips.

    Attributes:
        port: where it listens.
    """

    def __init__(
        self,
        manners: Manners,
        *,
        banner: Mapping[str, str],
        known: rsa.RSAPublicKey,
        home: Path,
        environment: Callable[[], Mapping[str, str]],
        heard: Callable[[], bool],
        corrupts: Callable[[], bool],
    ) -> None:
        self.manners = manners
        self._heard = heard
        features = "shell_v2" if manners.shell_v2 else ""
        words = {**banner, "features": features}.items()
        self.banner = ("device::" + ";".join(f"{name}={value}" for name, value in words)).encode()
        self._known = [known]
        self._home = home
        self._environment = environment
        self._storage = Storage(folder=home, full_after=manners.full_after, corrupts=corrupts)
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._received = 0
        self._met = 0
        self._server = _in_loop(self._listen())
        self.port = int(self._server.sockets[0].getsockname()[1])

    def tap(self) -> bool:
        """A person accepts what the screen asks; False if it asks nothing."""
        return _in_loop(self._tap())

    def cut(self, kill: Callable[[], None]) -> None:
        """Break every connection, then kill what runs; nobody hears of that, or comes meanwhile."""
        _in_loop(self._cut(kill))

    def close(self) -> None:
        """Serve nobody any more."""
        _in_loop(self._close())

    # What a connection asks, in the thread of the loop.

    def join(self, connection: Connection) -> None:
        """Somebody has come."""
        self._connections.add(connection)
        self._met += 1

    def leave(self, connection: Connection) -> None:
        """Somebody has gone."""
        self._connections.discard(connection)

    def take(self, n: int) -> bool:
        """So many bytes have come; False if a scripted drop is due."""
        before, self._received = self._received, self._received + n
        return not any(before < drop <= self._received for drop in self.manners.drops)

    def knows(self, is_its: Callable[[rsa.RSAPublicKey], bool]) -> bool:
        """Whether something comes from the owner of a key that is trusted."""
        return not self._refuses and any(map(is_its, self._known))

    def hear(self) -> bool:
        """A service is asked for; False if a scripted disconnect is due."""
        return self._heard()

    def serve(self, stream: Stream, service: bytes) -> bool:
        """Begin a service; False if there is none of that name."""
        kind, _, rest = service.partition(b":")
        name, *arguments = kind.split(b",")
        work: Coroutine[Any, Any, None]
        if name == b"sync":
            work = serve_sync(stream, self._storage)
        elif name in (b"shell", b"exec"):
            packets = name == b"shell" and b"v2" in arguments
            if packets and not self.manners.shell_v2:
                return False
            work = run_command(
                stream, rest, packets=packets, environment=self._environment(), folder=self._home
            )
        else:
            return False
        task = asyncio.get_running_loop().create_task(_see_to(stream, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _listen(self) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: Connection(self), "127.0.0.1", 0)

    @property
    def _refuses(self) -> bool:
        begin = self.manners.refuses_from
        return begin is not None and self._met >= begin

    async def _tap(self) -> bool:
        asking = [] if self._refuses else [c for c in self._connections if c.offered]
        for connection in asking:
            if connection.offered:
                self._known.append(connection.offered)
                connection.welcome()
        return bool(asking)

    async def _cut(self, kill: Callable[[], None]) -> None:
        for connection in list(self._connections):
            connection.drop()
        kill()

    async def _close(self) -> None:
        self._server.close()
        await self._cut(lambda: None)


async def _see_to(stream: Stream, work: Coroutine[Any, Any, None]) -> None:
    try:
        with contextlib.suppress(Gone):
            await work
    finally:
        stream.close()


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """The loop that all phones share; it runs as long as the process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name="virtual phones").start()
    return loop


def _in_loop(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(work, _loop()).result()
