"""One ADB connection over TCP, for one service at a time.

The library packs packets, signs and makes keys. The sending, the waiting and the ends are ours: its
own transport drops the rest of a packet that the network does not take at once, takes the end of a
connection for silence, and gives up after ten seconds whatever it was asked.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator

import numpy as np
from adb_shell import constants
from adb_shell.adb_message import AdbMessage

from drivers.transports.adb_keys import Signer
from drivers.transports.adb_wire import Block, Channel, Nonsense, Patience, Wire
from farm.errors import one_line

CONNECT_S = 15.0
ACCEPT_S = 60.0
"""How long somebody may think about the question on the phone's screen."""
SILENCE_S = 20
"""A peer that acknowledges nothing for so long is gone."""
VERSION = 0x01000001
"""From here on nobody looks at checksums; TCP has its own."""
MAX_DATA = constants.MAX_ADB_DATA
LEAST_DATA = 1024
LONGEST_BANNER = 4096
STRAYS = 1000
"""So many packets that bring nothing may come in a row."""
PROOF_S = 1.0
"""A connection that was idle for so long is tried before a command is trusted to it."""

_BANNER = b"host::features=shell_v2,cmd,stat_v2\0"
_STLS = 0x534C5453
_HEADER = struct.Struct(constants.MESSAGE_FORMAT)

Packet = tuple[bytes, int, int, bytes]
"""Command, two numbers, data."""


class Unknown(Exception):
    """The phone does not know our key."""


class WantsTls(Nonsense):
    """The phone speaks with paired computers only."""

    def __str__(self) -> str:
        return "it wants TLS"


class Link(Wire):
    """A connection to a phone, authenticated.

    Args:
        place: host and port.
        signer: gives our key when it is asked for.
        offer: called before an unknown key is shown to the phone, which then asks its owner; None
            to show it never.

    Raises:
        Unknown: the phone does not know our key, and was not shown it.
        WantsTls: it does not speak without TLS.
        OSError: it cannot be reached, or is no phone.
    """

    def __init__(
        self,
        place: tuple[str, int],
        signer: Callable[[], Signer],
        *,
        offer: Callable[[], None] | None = None,
    ) -> None:
        self.features = frozenset()
        self.longest_name = self.block_bytes = LEAST_DATA
        self.banner = ""
        self.used_at = time.monotonic()
        self._summed = True
        self._streams = 0
        self._unread = bytearray()
        self._socket = socket.create_connection(place, timeout=CONNECT_S)
        try:
            _tune(self._socket)
            self._greet(signer, offer)
        except BaseException:
            self.close()
            raise

    def open(self, service: bytes, done: Callable[[Link], None] | None = None) -> LinkChannel:
        """Ask for a service; `done` hears when the connection may serve for another.

        Raises:
            OSError: the connection broke, or the phone refuses.
        """
        self._streams += 1
        return LinkChannel(self, self._streams, service, done or (lambda link: None))

    def alive(self) -> bool:
        """Whether it can be trusted with a command."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        try:
            while poll.poll(0):  # what is left of the service before, and perhaps the end
                self._unread += self._socket.recv(MAX_DATA) or _raise_end()
                if len(self._unread) > MAX_DATA:
                    raise Nonsense("it sends what nobody asked for")
            if time.monotonic() - self.used_at > PROOF_S:
                self._prove()
        except OSError:
            self.close()
            return False
        return True

    def send(
        self, command: bytes, first: int, second: int, data: Block, patience: Patience
    ) -> None:
        """Send a whole packet at once."""
        header = _Message(command, first, second, data, summed=self._summed).pack()
        rest = [memoryview(header), memoryview(data)] if len(data) else [memoryview(header)]
        try:
            while rest:
                self._socket.settimeout(patience.left())
                sent = self._socket.sendmsg(rest)
                patience.moved()
                while rest and sent >= len(rest[0]):
                    sent -= len(rest.pop(0))
                if sent:
                    rest[0] = rest[0][sent:]
        except OSError as error:
            self.close()  # half a packet may be under way
            raise _silence(error) from error

    def packet(self, patience: Patience) -> Packet:
        """The next packet; whatever its header says, no more is taken in than we allowed."""
        code, first, second, length, _, magic = _HEADER.unpack(self._take(_HEADER.size, patience))
        if code ^ magic != 0xFFFFFFFF or length > MAX_DATA:
            self.close()
            raise Nonsense("this is no ADB packet")
        if code == _STLS:
            raise WantsTls
        data = self._take(length, patience)
        self.used_at = time.monotonic()
        return constants.WIRE_TO_ID.get(code, b""), first, second, data

    def close(self) -> None:
        """Hang up, also under somebody who waits; closing twice is no error."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    @property
    def closed(self) -> bool:
        """Whether it was hung up here."""
        return self._socket.fileno() < 0

    def _take(self, count: int, patience: Patience) -> bytes:
        try:
            while len(self._unread) < count:
                self._socket.settimeout(patience.left())
                self._unread += self._socket.recv(MAX_DATA) or _raise_end()
                patience.moved()
        except OSError as error:
            raise _silence(error) from error
        taken = bytes(memoryview(self._unread)[:count])
        del self._unread[:count]
        return taken

    def _greet(self, signer: Callable[[], Signer], offer: Callable[[], None] | None) -> None:
        patience = Patience(CONNECT_S)
        self.send(constants.CNXN, VERSION, MAX_DATA, _BANNER, patience)
        tried = False
        while True:
            command, first, second, data = self.packet(patience)
            if command == constants.CNXN:
                self._understand(first, second, data)
                return
            if command != constants.AUTH or first != constants.AUTH_TOKEN or len(data) != 20:
                raise Nonsense("this is no answer to a greeting")
            if not tried:
                signed = signer().Sign(data)
                self.send(constants.AUTH, constants.AUTH_SIGNATURE, 0, signed, patience)
                tried = True
            elif offer is None:
                raise Unknown
            else:
                offer()
                offer, patience = None, Patience(ACCEPT_S)
                shown = signer().GetPublicKey() + b"\0"
                self.send(constants.AUTH, constants.AUTH_RSAPUBLICKEY, 0, shown, patience)

    def _understand(self, version: int, max_data: int, data: bytes) -> None:
        if max_data < LEAST_DATA:
            raise Nonsense(f"it takes packets of {max_data} bytes only")
        self._summed = version < VERSION
        self.longest_name = self.block_bytes = min(max_data, MAX_DATA)
        self.banner = one_line(data.rstrip(b"\0")[:LONGEST_BANNER].decode(errors="replace"))
        for part in self.banner.partition("::")[2].split(";"):
            name, _, value = part.partition("=")
            if name == "features":
                self.features = frozenset(value.split(","))

    def _prove(self) -> None:
        """Ask for a service that no phone has; a connection that died silently does not refuse."""
        with contextlib.suppress(ConnectionRefusedError):
            self.open(b"farm:").close()


class LinkChannel(Channel):
    """One service on a connection."""

    def __init__(
        self, link: Link, number: int, service: bytes, done: Callable[[Link], None]
    ) -> None:
        self._link = link
        self._number = number
        self._remote = 0
        self._done = done
        self._blocks: Iterator[Block] = iter(())
        self._rest = memoryview(b"")
        self._acknowledged = False
        self._ended = False
        self._waited_for = False
        self._strays = 0
        patience = Patience(CONNECT_S)
        link.send(constants.OPEN, number, 0, service + b"\0", patience)
        while not self._acknowledged:
            command, remote, _, _ = self._packet(patience)
            if command == constants.CLSE:
                raise ConnectionRefusedError(errno.ECONNREFUSED, "it does not know this service")
            self._remote = remote

    def feed(self, blocks: Iterator[Block]) -> None:
        """Send these while `receive` waits."""
        self._blocks = iter(blocks)
        self._refill()

    def receive(self, patience: Patience) -> bytes:
        """The next bytes that come, none when the service has ended."""
        self._waited_for = True
        while not self._ended:
            if self._acknowledged and self._rest:
                size = self._link.block_bytes
                self._acknowledged = False
                self._strays = 0
                self._send(constants.WRTE, self._rest[:size], patience)
                self._rest = self._rest[size:]
                self._refill()  # while the phone writes the last one down
            command, _, _, data = self._packet(patience)
            if command == constants.CLSE:
                self._ended = True
                self._send(constants.CLSE, b"", patience)
            elif command == constants.WRTE:
                self._send(constants.OKAY, b"", patience)
                if data:
                    self._waited_for = False
                    self._strays = 0
                    return data
        self._waited_for = False
        return b""

    def close(self) -> None:
        """Also while another thread receives, or after that failed; then the phone loses us."""
        done, self._done = self._done, lambda link: None
        ended, self._ended = self._ended, True  # before we look whether somebody waits
        if self._waited_for:
            self._link.close()
        elif not ended and not self._link.closed:
            with contextlib.suppress(OSError):
                self._send(constants.CLSE, b"", Patience(CONNECT_S))
        done(self._link)

    def _refill(self) -> None:
        while not self._rest and (block := next(self._blocks, None)) is not None:
            self._rest = memoryview(block)

    def _send(self, command: bytes, data: Block, patience: Patience) -> None:
        self._link.send(command, self._number, self._remote, data, patience)

    def _packet(self, patience: Patience) -> Packet:
        """The next packet of this service; those of services that we left are nobody's."""
        while True:
            command, remote, number, data = self._link.packet(patience)
            self._strays += 1
            if self._strays > STRAYS:  # they would keep a patience alive that is renewed
                raise Nonsense("it sends what nobody asked for")
            if number != self._number:
                continue
            if command == constants.OKAY:
                self._acknowledged = True
            return command, remote, number, data


class _Message(AdbMessage):  # type: ignore[misc]  # the library has no types
    """A packet whose checksum is quick, or left out where nobody looks at it."""

    def __init__(
        self, command: bytes, first: int, second: int, data: Block, *, summed: bool
    ) -> None:
        super().__init__(command, first, second, data)
        self._summed = summed

    @property
    def checksum(self) -> int:
        """The sum of all bytes; the library's own is most of the time that a push takes."""
        if not self._summed or not len(self.data):
            return 0
        return int(np.frombuffer(self.data, np.uint8).sum(dtype=np.uint32))


def _tune(made: socket.socket) -> None:
    """Send at once and notice a dead peer; without that every command takes 40 ms."""
    for level, option, value in (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENCE_S // 2),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENCE_S // 4),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_S * 1000),
    ):
        made.setsockopt(level, option, value)


def _silence(error: OSError) -> OSError:
    """The kernel's complaint of a silent peer is not that our patience ended."""
    if error.errno == errno.ETIMEDOUT:
        return ConnectionAbortedError(errno.ECONNABORTED, "it is silent")
    return error


def _raise_end() -> bytes:
    raise ConnectionResetError(errno.ECONNRESET, "it hung up")
