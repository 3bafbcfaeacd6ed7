"""A serial port that a keeper owns, seen from whoever measures (see `port_keeper`)."""

from __future__ import annotations

import errno
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from drivers.meters import port_keeper
from drivers.meters.port_keeper import (
    BUSY,
    DATA,
    GONE,
    HEAD,
    LOST,
    LOST_BYTES,
    READY,
    RELEASE,
    TALK,
    socket_name,
)
from farm.errors import ConnectError, ConnectionLost, InfraError, MeterGap
from farm.shell import cache_folder

START_S = 20.0
ANSWER_S = 10.0
READ_BYTES = 256 << 10
PARTING_S = 0.5
"""A keeper knows by then that the one before us has left."""
LOOK_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Bytes that came together.

    Attributes:
        arrived_ns: when, on the monotonic clock: before anybody who measures was waited for.
    """

    data: bytes
    arrived_ns: int


class KeptPort:
    """A port that stays open when this is closed; it is ours alone meanwhile.

    Args:
        port: its path.
        device: the inventory name of the device whose meter is behind it.

    Raises:
        ConnectError: it is not there, not allowed, or in use.
    """

    def __init__(self, port: str, device: str) -> None:
        self.name = port
        self._device = device
        self._received = bytearray()
        self._line, kind = self._meet()
        if kind != READY:
            self.close()
            raise ConnectError(
                f"somebody else measures with {port}",
                device=device,
                hint="wait until they are done",
            )
        self.write(TALK)

    def write(self, data: bytes) -> None:
        """Have bytes sent.

        Raises:
            ConnectionLost: the port vanished, or its keeper did.
        """
        try:
            self._line.sendall(data)
        except OSError as error:
            raise self._vanished() from error

    def read(self, timeout_s: float) -> list[Piece]:
        """What came; waits for something, and returns nothing at the deadline.

        Raises:
            MeterGap: bytes were lost, because nobody read for too long.
            ConnectionLost: the port vanished, or its keeper did.
        """
        pieces: list[Piece] = []
        try:
            if select.select((self._line,), (), (), max(0.0, timeout_s))[0]:
                data = self._line.recv(READ_BYTES)
                self._received += data
                if not data:
                    raise ConnectionResetError(errno.ECONNRESET, "its keeper ended")
        except (OSError, ValueError) as error:
            raise self._vanished() from error
        while (told := self._next()) is not None:
            kind, payload, arrived_ns = told
            if kind == DATA:
                pieces.append(Piece(data=payload, arrived_ns=arrived_ns))
            elif kind == LOST:
                raise MeterGap(
                    f"{LOST_BYTES.unpack(payload)[0]} bytes of {self.name} were not read in time",
                    device=self._device,
                    hint="run less beside it on this computer",
                )
            elif kind == GONE:
                raise self._vanished()
        return pieces

    def close(self) -> None:
        """Leave the port to its keeper; closing twice is no error."""
        self._line.close()

    def _next(self) -> tuple[int, bytes, int] | None:
        """The next thing that came whole: kind, payload, time."""
        if len(self._received) < HEAD.size:
            return None
        kind, size, arrived_ns = HEAD.unpack_from(self._received)
        end = HEAD.size + size
        if len(self._received) < end:
            return None
        payload = bytes(self._received[HEAD.size : end])
        del self._received[:end]
        return kind, payload, arrived_ns

    def _meet(self) -> tuple[socket.socket, int]:
        """A connection and what its keeper says first; one is started if there is none.

        Another one may be just ending or beginning, so it is tried for a while.
        """
        begun = time.monotonic()
        while True:
            waited_s = time.monotonic() - begun
            if (line := _connect(self.name)) is not None:
                try:
                    kind = _welcome(line)
                    if kind == READY or waited_s > PARTING_S:
                        return line, kind
                    why = "somebody else measures with it"
                except OSError as error:
                    why = str(error)
                line.close()
            else:
                self._launch()
                why = "its keeper is not there"
            if waited_s > ANSWER_S:
                raise self._unopened(why, "end its keeper; this names it: fuser -v {port}")
            time.sleep(LOOK_S)

    def _launch(self) -> None:
        folder = _folder()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            program = (sys.executable, "-I", "-S", port_keeper.__file__, self.name, str(folder))
            done = subprocess.run(
                program, stdin=subprocess.DEVNULL, capture_output=True, timeout=START_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise self._unopened(str(error), "") from error
        if done.returncode:
            raise self._unopened(os.strerror(done.returncode), _HINTS.get(done.returncode, ""))

    def _unopened(self, why: str, hint: str) -> ConnectError:
        return ConnectError(
            f"{self.name} cannot be opened: {why}",
            device=self._device,
            hint=hint.format(port=self.name) or "check the cable, and try again",
        )

    def _vanished(self) -> ConnectionLost:
        return ConnectionLost(
            f"{self.name} vanished",
            device=self._device,
            hint="was the meter unplugged? what it feeds has no power until it is opened again",
        )


_HINTS = {
    errno.ENOENT: "plug it in; see: ls -l /dev/serial/by-id",
    errno.EACCES: 'sudo usermod -aG dialout "$USER", and log in again',
    errno.EPERM: 'sudo usermod -aG dialout "$USER", and log in again',
    errno.EBUSY: "close what holds it; this names it: fuser -v {port}",
    errno.EAGAIN: "close what holds it; this names it: fuser -v {port}",
}


def release(port: str, device: str) -> bool:
    """Have a port closed; what its meter feeds may lose its power.

    Returns:
        Whether it was open.

    Raises:
        InfraError: somebody measures with it, or its keeper does not answer.
    """
    line = _connect(port)
    if line is None:
        return False
    with line:
        try:
            busy = _welcome(line) == BUSY
            if not busy:
                line.sendall(RELEASE)
                line.recv(1)
                _await_end(port)
        except OSError as error:
            raise InfraError(f"the keeper of {port} does not answer", device=device) from error
    if busy:
        raise InfraError(
            f"somebody measures with {port}", device=device, hint="wait until they are done"
        )
    return True


def _await_end(port: str) -> None:
    """Wait until nobody has the port any more."""
    deadline = time.monotonic() + ANSWER_S
    while (line := _connect(port)) is not None:
        line.close()
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(LOOK_S)


def _welcome(line: socket.socket) -> int:
    """What a keeper says to a new client: `READY` or `BUSY`."""
    head = b""
    while len(head) < HEAD.size:
        data = line.recv(HEAD.size - len(head))
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "it ended")
        head += data
    kind: int = HEAD.unpack(head)[0]
    return kind


def _folder() -> Path:
    return cache_folder() / "meters"


def _connect(port: str) -> socket.socket | None:
    """A connection to the keeper of a port, None if there is none."""
    with _short(_folder()) as folder:
        line = socket.socket(socket.AF_UNIX)
        try:
            line.settimeout(ANSWER_S)
            line.connect(f"{folder}/{socket_name(port)}")
        except OSError:
            line.close()
            return None
    return line


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """A short path of a folder, because a socket's may not be long."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield str(folder)
        return
    try:
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)
