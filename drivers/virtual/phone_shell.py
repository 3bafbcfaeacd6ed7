"""The services of a phone that run a command: `shell` in both versions, and `exec`."""

from __future__ import annotations

import asyncio
import os
import struct
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from drivers.virtual.machine_exec import NO_COMMAND, begin
from drivers.virtual.phone_stream import Gone, Inbox, Stream

STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
"""What a packet of the second version is."""
CHUNK_BYTES = 64 << 10
PACKET_BYTES = 1 << 20
"""The longest packet that a client may send."""
_PACKET = struct.Struct("<BI")


async def run_command(
    stream: Stream,
    command: bytes,
    *,
    packets: bool,
    environment: Mapping[str, str],
    folder: Path,
) -> None:
    """Run a command, and tell its end.

    When the client goes, its process loses its streams and lives on, as on any phone.

    Args:
        stream: the client's.
        command: a line for the shell.
        packets: whether what is sent is cut into packets that say what they are.
        environment: everything that the process knows of its surroundings.
        folder: where it begins.
    """
    try:
        process = begin(command, environment=environment, folder=folder, merged=not packets)
    except (OSError, ValueError) as error:
        text = f"{error}\n".encode()
        await stream.send(_packet(STDERR, text) if packets else text)
        if packets:
            await stream.send(_packet(EXIT, bytes([NO_COMMAND])))
        return
    await _Command(stream, process, packets=packets).run()


class _Command:
    """A process, and the bytes between it and its client."""

    def __init__(self, stream: Stream, process: subprocess.Popen[bytes], *, packets: bool) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stream = stream
        self._process = process
        self._packets = packets
        self._stdin = process.stdin
        self._outputs = {STDOUT: process.stdout}
        if process.stderr:
            self._outputs[STDERR] = process.stderr
        self._exit = os.pidfd_open(process.pid)
        for file in (self._stdin, *self._outputs.values()):
            os.set_blocking(file.fileno(), False)

    async def run(self) -> None:
        """Until the process has ended and nobody can print any more; see to its end anyway."""
        try:
            async with asyncio.TaskGroup() as group:
                feeding = group.create_task(self._feed())
                pumps = [group.create_task(self._pump(kind)) for kind in self._outputs]
                await asyncio.wait(pumps)
                await self._tell_exit()
                feeding.cancel()
        except* Gone:
            pass
        finally:
            for file in (self._stdin, *self._outputs.values()):
                file.close()
            self._stream.close()
            await _wait(self._exit)
            os.close(self._exit)
            self._process.wait()

    async def _pump(self, kind: int) -> None:
        number = self._outputs[kind].fileno()
        while data := await _read(number):
            await self._stream.send(_packet(kind, data) if self._packets else data)

    async def _tell_exit(self) -> None:
        await _wait(self._exit)
        status = self._process.wait()
        if self._packets:
            await self._stream.send(_packet(EXIT, bytes([status if status >= 0 else 128 - status])))

    async def _feed(self) -> None:
        inbox = Inbox(self._stream)
        while not self._packets:
            await self._give(await inbox.some(CHUNK_BYTES))
        while True:
            kind, length = _PACKET.unpack(await inbox.exactly(_PACKET.size))
            if length > PACKET_BYTES:
                raise Gone
            async for part in inbox.parts(length):
                if kind == STDIN:
                    await self._give(part)
            if kind == CLOSE_STDIN:
                self._stdin.close()

    async def _give(self, data: memoryview) -> None:
        """What nobody reads any more is for nobody."""
        while data and not self._stdin.closed:
            try:
                data = data[os.write(self._stdin.fileno(), data) :]
            except BlockingIOError:
                await _wait(self._stdin.fileno(), writable=True)
            except BrokenPipeError:
                self._stdin.close()


def _packet(kind: int, data: bytes) -> bytes:
    return _PACKET.pack(kind, len(data)) + data


async def _read(number: int) -> bytes:
    """What there is, nothing at the end."""
    while True:
        with suppress(BlockingIOError):
            return os.read(number, CHUNK_BYTES)
        await _wait(number)


async def _wait(number: int, *, writable: bool = False) -> None:
    """Until something can be read from a file, or written to it."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    begin_looking: Callable[..., object] = loop.add_writer if writable else loop.add_reader
    begin_looking(number, _settle, ready)
    try:
        await ready
    finally:
        (loop.remove_writer if writable else loop.remove_reader)(number)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
