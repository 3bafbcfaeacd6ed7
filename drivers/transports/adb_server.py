"""Phones that a running adb server owns, over USB or however it reaches them."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import ClassVar
from urllib.parse import urlsplit

from adbutils import AdbConnection, AdbError

from drivers.transports.adb_link import ACCEPT_S, CONNECT_S
from drivers.transports.adb_phone import PhoneTransport, PhoneWire, insist_on_serial, serial_of
from drivers.transports.adb_wire import Block, Channel, Patience
from drivers.transports.posix import quota_bytes
from farm.connection import Tell, silent
from farm.errors import ConfigError, ConnectError
from farm.model import Device
from farm.record import Fact

SERVER = "127.0.0.1:5037"
POLL_S = 0.5
BLOCK_BYTES = 256 << 10
LONGEST_NAME = 0xFFFF
"""The server reads its length as four digits."""
LONGEST_OLD_NAME = 4096
"""Of a packet that a phone before Android 7 takes."""


class AdbServerTransport(PhoneTransport):
    """A phone of `adb devices`.

    Address: `adb-server://SERIAL`, or `adb-server://SERIAL?server=HOST:PORT` for a server that is
    not this machine's own. Options: `serial`, which `farm enroll` shows (without it no command is
    run: what the server reaches by a number of the network may be another phone tomorrow); `root`,
    the folder that the farm may fill (`/data/local/tmp/farm`); `quota_mib`, how much of it pushed
    files may take.
    """

    options: ClassVar[tuple[str, ...]] = ("serial", "root", "quota_mib")

    def _make_wire(self, device: Device) -> PhoneWire:
        return _Server(device)

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse an address or a quota that cannot be read."""
        _place(device)
        quota_bytes(device)

    @classmethod
    def introduce(cls, device: Device, tell: Tell = silent) -> tuple[tuple[str, str], ...]:
        """Its serial number; the server shows its key to a phone, for somebody to accept.

        Raises:
            ConnectError: it cannot be reached, or nobody accepted.
        """
        line = f"{device.name}: accept this computer on the phone's screen ({ACCEPT_S:g} s)"
        asked_at = 0.0
        while True:
            try:
                return (("serial", serial_of(_Server(device, trusted=True), device.name)),)
            except _Unauthorized:
                if not asked_at:
                    tell(line)
                    asked_at = time.monotonic()
                elif time.monotonic() - asked_at > ACCEPT_S:
                    raise
            time.sleep(POLL_S)


class _Unauthorized(ConnectError):
    """The phone does not know the key of the server."""


class _Connection(AdbConnection):  # type: ignore[misc]  # the library has no types
    """Speaks with a server that runs; the library would start one of its own somewhere."""

    def __init__(self, place: tuple[str, int]) -> None:
        self._place = place
        super().__init__(*place)

    def _safe_connect(self) -> socket.socket:
        made = socket.create_connection(self._place, timeout=CONNECT_S)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made


class _Server(PhoneWire):
    """One connection to the server for each service.

    Args:
        device: the phone.
        trusted: whether it may be any phone.
    """

    def __init__(self, device: Device, *, trusted: bool = False) -> None:
        self._device = device
        self._server = _place(device)
        self._serial = device.address.place.encode()
        self._trusted = trusted
        self._number = b""
        self._channels: set[_SocketChannel] = set()
        self.block_bytes = BLOCK_BYTES
        self._meet()

    def open(self, service: bytes) -> _SocketChannel:
        with self._asked(b"host:tport:serial:" + self._serial) as connection:
            number = connection.read_exact(8)  # another one when it was plugged in again
            if number != self._number or b":" in self._serial:  # by network the server keeps it
                self._meet()
                self._number = number
            connection.conn.sendall(_request(service))
            connection.check_okay()
            channel = _SocketChannel(connection.conn, self._channels.discard)
        self._channels.add(channel)
        return channel

    def banner(self) -> tuple[Fact, ...]:
        with self._asked(b"host:version") as connection, contextlib.closing(connection.conn):
            version = int(connection.read_string_block(), 16)
        return (
            Fact(name="adb server", value=f"version {version}"),
            Fact(name="adb", value=",".join(sorted(self.features))),
        )

    def close(self) -> None:
        for channel in tuple(self._channels):
            channel.close()

    def _meet(self) -> None:
        """Look who is there."""
        ask = b"host-serial:%b:features" % self._serial
        with self._asked(ask) as connection, contextlib.closing(connection.conn):
            self.features = frozenset(connection.read_string_block().split(","))
        self.longest_name = LONGEST_NAME if "shell_v2" in self.features else LONGEST_OLD_NAME
        if not self._trusted:
            insist_on_serial(_Server(self._device, trusted=True), self._device)

    @contextlib.contextmanager
    def _asked(self, request: bytes) -> Iterator[_Connection]:
        """A connection on which the server agreed to something."""
        where = ":".join(map(str, self._server))
        try:
            connection = _Connection(self._server)
        except OSError as error:
            raise ConnectError(
                f"no adb server answers at {where}: {error.strerror or error}",
                device=self._device.name,
                hint="adb start-server",
            ) from error
        try:
            connection.conn.sendall(_request(request))
            connection.check_okay()
            yield connection
        except (AdbError, EOFError, ValueError, OSError) as error:
            connection.conn.close()
            raise self._refused(str(error)) from error
        except BaseException:
            connection.conn.close()
            raise

    def _refused(self, reason: str) -> ConnectError:
        name, serial = self._device.name, self._device.address.place
        if "authoriz" in reason:
            message = f"'{serial}' does not know the computer of the adb server"
            return _Unauthorized(message, device=name, hint=f"farm enroll {name}")
        message, hint = f"the adb server cannot reach '{serial}': {reason}", "adb devices"
        if "offline" in reason:
            message, hint = f"'{serial}' is offline", "plug it in again, or: adb reconnect offline"
        elif "not found" in reason:
            message, hint = f"the adb server has no '{serial}'", "see what it has: adb devices"
        return ConnectError(message, device=name, hint=hint)


class _SocketChannel(Channel):
    """A service behind a socket of its own, which ends with it."""

    def __init__(self, made: socket.socket, done: Callable[[_SocketChannel], None]) -> None:
        made.setblocking(False)
        self._socket = made
        self._done = done
        self._blocks: Iterator[Block] = iter(())
        self._rest = memoryview(b"")

    def feed(self, blocks: Iterator[Block]) -> None:
        """Send these while `receive` waits."""
        self._blocks = blocks
        self._refill()

    def receive(self, patience: Patience) -> bytes:
        """The next bytes that come, none when the service has ended."""
        while True:
            left = patience.left()
            poll = select.poll()
            wanted = select.POLLIN | (select.POLLOUT if self._rest else 0)
            try:
                poll.register(self._socket, wanted)
            except ValueError:  # it was closed under us
                raise ConnectionAbortedError(errno.ECONNABORTED, "it was hung up") from None
            ready = poll.poll(None if left is None else 1000 * left)
            if not ready:
                raise TimeoutError
            patience.moved()
            if ready[0][1] & ~select.POLLOUT:
                return self._socket.recv(BLOCK_BYTES)
            try:
                self._rest = self._rest[self._socket.send(self._rest) :]
                self._refill()
            except ConnectionError:  # it reads no more; what it says about that is still to come
                self._rest, self._blocks = memoryview(b""), iter(())

    def close(self) -> None:
        """Hang up, also under somebody who waits."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._done(self)

    def _refill(self) -> None:
        while not self._rest and (block := next(self._blocks, None)) is not None:
            self._rest = memoryview(block)


def _request(text: bytes) -> bytes:
    return b"%04x%b" % (len(text), text)


def _place(device: Device) -> tuple[str, int]:
    """Where the server listens.

    Raises:
        ConfigError: that cannot be read, or the address names no phone.
    """
    serial, text = device.address.place, device.address.option("server", SERVER)
    if not serial or not serial.isprintable() or " " in serial:
        raise ConfigError(
            f"'{serial}' is no serial of 'adb devices'",
            device=device.name,
            hint="write for example adb-server://8A1X0DAPK",
        )
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or parts.path:
        raise ConfigError(
            f"'{text}' names no adb server",
            device=device.name,
            hint=f"write for example ?server={SERVER}",
        )
    return host, port
