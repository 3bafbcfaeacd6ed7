"""One client of a virtual phone: who it is, and its streams."""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

from cryptography.hazmat.primitives.asymmetric import rsa

from drivers.virtual.phone_keys import is_signed, read_public
from drivers.virtual.phone_stream import Stream
from drivers.virtual.phone_wire import (
    AUTH,
    CLSE,
    CNXN,
    GREETING_BYTES,
    HEADER,
    MOST_BYTES,
    NEWEST,
    OKAY,
    OPEN,
    PUBLIC_KEY,
    SIGNATURE,
    TOKEN,
    WITH_CHECKSUMS,
    WRTE,
    Header,
    Malformed,
    Payload,
    checksum,
    write_header,
)  # fmt: skip

TOKEN_BYTES = 20
JOINED_BYTES = 64 << 10
"""A payload up to this size goes in one piece with its header."""
UNSENT_BYTES = 2 << 20
"""While more than this waits to be sent, nothing more is heard from the client."""
MOST_STREAMS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Manners:
    """How a phone speaks, and what is wrong with it.

    Attributes:
        version: of the protocol.
        max_payload: the longest payload that it takes, in bytes.
        shell_v2: whether it tells exit statuses.
        bytes_per_s: so fast it reads; 0 if as fast as it can.
        latency_s: so much later everything that it sends arrives.
        drops: after so many received bytes in all, the connection breaks.
        full_after: so many bytes of a push find room; None if all do.
        refuses_from: from this connection on it trusts nobody; None if it never does that.
    """

    version: int = NEWEST
    max_payload: int = MOST_BYTES
    shell_v2: bool = True
    bytes_per_s: int = 0
    latency_s: float = 0.0
    drops: tuple[int, ...] = ()
    full_after: int | None = None
    refuses_from: int | None = None


class Owner(Protocol):
    """What a connection asks of its phone.

    Attributes:
        manners: how it speaks.
        banner: what it says of itself.
    """

    manners: Manners
    banner: bytes

    @abstractmethod
    def join(self, connection: Connection) -> None:
        """Somebody has come."""

    @abstractmethod
    def leave(self, connection: Connection) -> None:
        """Somebody has gone."""

    @abstractmethod
    def take(self, n: int) -> bool:
        """So many bytes have come; False if a scripted drop is due."""

    @abstractmethod
    def knows(self, is_its: Callable[[rsa.RSAPublicKey], bool]) -> bool:
        """Whether something comes from the owner of a key that is trusted."""

    @abstractmethod
    def hear(self) -> bool:
        """A service is asked for; False if a scripted disconnect is due."""

    @abstractmethod
    def serve(self, stream: Stream, service: bytes) -> bool:
        """Begin a service; False if there is none of that name."""


class Connection(asyncio.BufferedProtocol):
    """Reads messages into buffers of their size, and answers them.

    What breaks the rules ends the connection; what only makes no sense is ignored, as by any phone.

    Args:
        phone: which it belongs to.

    Attributes:
        max_payload: the longest payload that the client takes.
        offered: the key that the screen asks a person about.
    """

    def __init__(self, phone: Owner) -> None:
        self.max_payload = GREETING_BYTES
        self.offered: rsa.RSAPublicKey | None = None
        self._phone = phone
        self._transport: asyncio.Transport
        self._header: Header | None = None
        self._buffer = memoryview(bytearray(HEADER.size))
        self._filled = 0
        self._summed = False
        self._online = False
        self._token = b""
        self._streams: dict[int, Stream] = {}
        self._next = 1
        self._pauses = 0
        self._due_s = 0.0

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody has come."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=UNSENT_BYTES)
        self._phone.join(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The services notice, and see to their ends."""
        self._phone.leave(self)
        self._end_streams()

    def pause_writing(self) -> None:
        """A client that does not read is not heard."""
        self._pause()

    def resume_writing(self) -> None:
        """It reads again."""
        self._resume()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: what there is of a header or payload is filled first."""
        return self._buffer[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come."""
        self._filled += nbytes
        if not self._phone.take(nbytes):
            self.drop()
            return
        if rate := self._phone.manners.bytes_per_s:
            self._pause()
            asyncio.get_running_loop().call_later(nbytes / rate, self._resume)
        if self._filled == len(self._buffer):
            try:
                self._take_whole()
            except Malformed:
                self.drop()

    # What the phone calls

    def drop(self) -> None:
        """Break it, as a cable does that is pulled."""
        self._transport.abort()

    def welcome(self) -> None:
        """Whoever this is may do everything."""
        self._online = True
        self.offered = None
        manners = self._phone.manners
        self.send(CNXN, manners.version, manners.max_payload, self._phone.banner)

    def send(self, command: int, first: int, second: int, payload: Payload = b"") -> None:
        """Send a message; how much waits to be sent is bounded by those who send."""
        header = write_header(command, first, second, payload, summed=self._summed)
        if latency_s := self._phone.manners.latency_s:
            loop = asyncio.get_running_loop()
            # Messages of one moment keep their order.
            self._due_s = max(self._due_s + 1e-6, loop.time() + latency_s)
            loop.call_at(self._due_s, self._transport.write, header + bytes(payload))
        elif len(payload) <= JOINED_BYTES:
            self._transport.write(header + payload)
        else:
            self._transport.write(header)
            self._transport.write(payload)

    def forget(self, local: int) -> None:
        """A stream is closed."""
        self._streams.pop(local, None)

    # Messages

    def _take_whole(self) -> None:
        """A header or a payload is complete."""
        whole, header = self._buffer, self._header
        if header is None:
            limit = self._phone.manners.max_payload if self._online else GREETING_BYTES
            header = Header.read(whole, limit=limit)
            if header.length:
                self._expect(header.length, header)
                return
            whole = memoryview(b"")
        self._expect(HEADER.size, None)
        if self._summed and header.command != CNXN and checksum(whole) != header.checksum:
            raise Malformed
        self._answer(header, whole)

    def _expect(self, length: int, header: Header | None) -> None:
        self._buffer, self._filled, self._header = memoryview(bytearray(length)), 0, header

    def _answer(self, header: Header, payload: memoryview) -> None:
        if header.command == CNXN:
            self._greet(header)
        elif header.command == AUTH and not self._online:
            self._authenticate(header.first, bytes(payload))
        elif header.command == OPEN and self._online:
            self._open(header.first, bytes(payload).rstrip(b"\0"))
        elif stream := self._streams.get(header.second):
            if header.command == WRTE:
                stream.deliver(payload)
            elif header.command == OKAY:
                stream.confirm()
            elif header.command == CLSE:
                stream.close()

    def _greet(self, header: Header) -> None:
        """Whoever this is has to prove it, also when the client begins anew."""
        manners = self._phone.manners
        self._end_streams()
        self._online = False
        self._summed = min(header.first, manners.version) <= WITH_CHECKSUMS
        self.max_payload = min(header.second, manners.max_payload)
        if not self.max_payload:
            raise Malformed
        self._challenge()

    def _challenge(self) -> None:
        self._token = os.urandom(TOKEN_BYTES)
        self.send(AUTH, TOKEN, 0, self._token)

    def _authenticate(self, kind: int, payload: bytes) -> None:
        """A key that is unknown is asked for again; then the client may show it to a person."""
        if not self._token:
            return
        if kind == SIGNATURE:
            if self._phone.knows(lambda key: is_signed(self._token, payload, key)):
                self.welcome()
            else:
                self._challenge()
        elif kind == PUBLIC_KEY:
            try:
                self.offered = read_public(payload)
            except ValueError as error:
                raise Malformed from error

    def _open(self, remote: int, service: bytes) -> None:
        if not remote:
            return
        if not self._phone.hear():
            self.drop()
            return
        local, self._next = self._next, self._next % 0xFFFFFFFF + 1
        stream = Stream(self, local, remote)
        if len(self._streams) >= MOST_STREAMS or local in self._streams:
            self.send(CLSE, 0, remote)
            return
        self._streams[local] = stream
        self.send(OKAY, local, remote)
        if not self._phone.serve(stream, service):
            stream.close()

    def _end_streams(self) -> None:
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.end()

    def _pause(self) -> None:
        self._pauses += 1
        self._transport.pause_reading()

    def _resume(self) -> None:
        self._pauses -= 1
        if not self._pauses:
            self._transport.resume_reading()
