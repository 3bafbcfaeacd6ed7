"""Keeps one serial port open for life and passes its bytes on: a process of its own.

A meter that feeds a device cuts it off when its port is closed, so the port must outlive whoever
measures. Reads at once what comes, because a terminal holds ten milliseconds of samples only; each
piece goes on with the time at which it came. Run as `python port_keeper.py PORT FOLDER`; needs
nothing but the standard library, to be there quickly and to outlive an upgrade of everything else.

The socket `FOLDER/NAME.sock` is for one client at a time. It sends `TALK` and then bytes for the
port, or `RELEASE`: the port shall be closed. It receives pieces with a head of `HEAD`: a kind, the
length of what follows, and when that came on the monotonic clock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import termios
import time
import tty
from collections import deque
from contextlib import suppress

HEAD = struct.Struct("<IIQ")
READY, BUSY, DATA, LOST, GONE = range(5)
"""It is yours; somebody else has it; bytes; so many bytes were lost (a number); it vanished."""
TALK, RELEASE = b"T", b"R"
LOST_BYTES = struct.Struct("<Q")
KEPT_BYTES = 8 << 20
"""What a slow client may leave unread: 20 s of samples."""
READ_BYTES = 64 << 10
SEND_BYTES = 256 << 10
LAST_WORDS_S = 2.0


def socket_name(port: str) -> str:
    """What the socket of a port is called in its folder."""
    return os.path.realpath(port).strip("/").replace("/", "-") + ".sock"


class Client:
    """Who listens: what waits to be sent to it, and what it wants written."""

    def __init__(self, line: socket.socket) -> None:
        self.line = line
        self.talks = False
        self.wanted = b""  # for the port
        self._unsent: deque[bytes] = deque()
        self._size = 0
        self._lost = 0

    @property
    def waits(self) -> bool:
        """Whether something is to be sent to it."""
        return bool(self._unsent)

    def give(self, kind: int, payload: bytes) -> None:
        """Have something sent; what there is no room for is lost, and told as soon as there is."""
        if kind == DATA and (self._lost or self._size + len(payload) > KEPT_BYTES):
            self._lost += len(payload)
        else:
            self._put(kind, payload)

    def send(self) -> None:
        """Send what it takes."""
        pieces = []
        size = 0
        while self._unsent and size < SEND_BYTES:
            pieces.append(self._unsent.popleft())
            size += len(pieces[-1])
        batch = b"".join(pieces)
        try:
            sent = self.line.send(batch)
        except BlockingIOError:
            sent = 0
        self._size -= sent
        if sent < len(batch):
            self._unsent.appendleft(batch[sent:])
        if self._lost and self._size < KEPT_BYTES // 2:
            self._put(LOST, LOST_BYTES.pack(self._lost))
            self._lost = 0

    def _put(self, kind: int, payload: bytes) -> None:
        piece = HEAD.pack(kind, len(payload), time.monotonic_ns()) + payload
        self._unsent.append(piece)
        self._size += len(piece)


class Keeper:
    """Owns the port and the socket.

    Args:
        port: descriptor of the port, open.
        listener: the socket, listening.
    """

    def __init__(self, port: int, listener: socket.socket) -> None:
        self._port = port
        self._listener = listener
        self._client: Client | None = None
        self._ended = False

    def end(self, *_: object) -> None:
        """Stop at the next turn."""
        self._ended = True

    def live(self) -> None:
        """Pass bytes on until the port vanishes or is to be released."""
        while not self._ended:
            self._turn()
        if self._client is not None:
            self._client.give(GONE, b"")
            self._client.line.settimeout(LAST_WORDS_S)
            with suppress(OSError):
                while self._client.waits:
                    self._client.send()

    def _turn(self) -> None:
        client = self._client
        readers: list[int | socket.socket] = [self._port, self._listener]
        writers: list[int | socket.socket] = []
        if client is not None:
            if len(client.wanted) < READ_BYTES:
                readers.append(client.line)
            if client.waits:
                writers.append(client.line)
            if client.wanted:
                writers.append(self._port)
        readable, writable, _ = select.select(readers, writers, (), 1.0)
        if self._port in readable:
            self._read_port()
        if client is not None and self._port in writable:
            client.wanted = client.wanted[self._write_port(client.wanted) :]
        if client is not None:
            self._serve(client, client.line in readable, client.line in writable)
        if self._listener in readable:
            self._welcome()

    def _read_port(self) -> None:
        try:
            data = os.read(self._port, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.end()  # it vanished
        elif self._client is not None:
            self._client.give(DATA, data)

    def _write_port(self, data: bytes) -> int:
        try:
            return os.write(self._port, data)
        except BlockingIOError:
            return 0
        except OSError:
            self.end()
            return 0

    def _serve(self, client: Client, says: bool, takes: bool) -> None:
        try:
            if takes:
                client.send()
            if not says:
                return
            data = client.line.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._part()
        elif client.talks:
            client.wanted += data
        elif data[:1] == RELEASE:
            self._part()
            self.end()
        else:
            client.talks = True
            client.wanted += data[1:]

    def _welcome(self) -> None:
        try:
            line = self._listener.accept()[0]
        except OSError:
            return
        line.setblocking(False)
        guest = Client(line)
        guest.give(READY if self._client is None else BUSY, b"")
        with suppress(OSError):  # it may be gone already, which is noticed when it is served
            guest.send()
        if self._client is None:
            self._client = guest
        else:
            line.close()

    def _part(self) -> None:
        if self._client is not None:
            self._client.line.close()
            self._client = None


def open_port(path: str) -> int:
    """Open a port for ourselves alone, as raw bytes; closing it does not lower its lines.

    Raises:
        OSError: it is not there, not allowed, or in use.
    """
    port = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        fcntl.flock(port, fcntl.LOCK_EX | fcntl.LOCK_NB)
        tty.setraw(port, termios.TCSANOW)
        attributes = termios.tcgetattr(port)
        attributes[2] = (attributes[2] | termios.CLOCAL) & ~termios.HUPCL
        termios.tcsetattr(port, termios.TCSANOW, attributes)
    except termios.error as error:
        os.close(port)
        raise OSError(*error.args) from error
    except OSError:
        os.close(port)
        raise
    return port


def listen(name: str) -> socket.socket:
    """A socket of that name in the current folder, for this user alone."""
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        if os.path.lexists(name):
            os.unlink(name)  # of a keeper that is no more: we hold the lock
        listener.bind(name)
    finally:
        os.umask(mask)
    listener.listen()
    listener.setblocking(False)
    return listener


def main(path: str, folder: str) -> int:
    """Take the port over, and live on in the background once clients can come.

    Returns:
        0 when a keeper is there, be it this one or an earlier one; else the number of the error.
    """
    os.chdir(folder)  # a socket's path may not be long
    name = socket_name(path)
    lock = os.open(f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    try:
        port = open_port(path)
        listener = listen(name)
    except OSError as error:
        return error.errno or errno.EIO
    if os.fork():
        os._exit(0)
    os.setsid()
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())  # for people
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    keeper = Keeper(port, listener)
    signal.signal(signal.SIGTERM, keeper.end)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        keeper.live()
    finally:
        os.unlink(name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
