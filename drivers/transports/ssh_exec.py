"""One command on a board, over one channel of a connection."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO

import paramiko

from drivers.transports.posix import MARK, STALL_S, Command, command_line, returncode
from drivers.transports.ssh_link import Link
from farm.errors import CommandTimeout, ConnectionLost
from farm.shell import Completed

CHUNK_BYTES = 32 << 10
"""What fits one SSH packet."""


class Exec(Command):
    """A command that runs while this object lives; its process group is known by its pid.

    Args:
        link: the connection.
        argv: the command; arrives verbatim.
        cwd: the folder that it works in.
        device: for messages.

    Raises:
        InfraError: the board cannot be reached.
        ConfigError: no shell can be told this command.
    """

    def __init__(self, link: Link, argv: tuple[str, ...], cwd: PurePosixPath, device: str) -> None:
        self.pid = 0
        self._name = argv[0]
        self._device = device
        self._started = time.monotonic()
        self._unread = b""
        self._errors = bytearray()
        command = command_line(argv, cwd, device)
        self._channel = link.channel()
        try:
            self._channel.settimeout(STALL_S)
            self._channel.exec_command(command)
        except (paramiko.SSHException, EOFError, OSError) as error:
            self.close()
            raise self._lost() from error
        self._listener = threading.Thread(target=self._hear_errors, daemon=True)
        self._listener.start()

    def to_the_end(self, timeout_s: float, stdin: bytes = b"") -> Completed:
        """Send what it reads, and wait until it has ended.

        Raises:
            CommandTimeout: it did not end in time; it still runs.
            ConnectionLost: the connection broke meanwhile.
        """
        deadline = time.monotonic() + timeout_s
        if stdin:  # it may print before it has read all
            threading.Thread(target=self.send, args=(stdin,), daemon=True).start()
        else:
            self.send(b"")
        output = b"".join(self._read_until(deadline, timeout_s))
        if not self._channel.status_event.wait(max(0.0, deadline - time.monotonic())):
            raise self._late(timeout_s)
        self._listener.join()
        status = self._channel.exit_status
        if status < 0:  # a command that ends always says how
            raise self._lost()
        return Completed(
            returncode=returncode(status),
            stdout=output.decode(errors="replace"),
            stderr=self._errors.decode(errors="replace"),
            elapsed_s=time.monotonic() - self._started,
        )

    def listen(self, timeout_s: float) -> Completed | None:
        """Wait for the end; None if it did not come, or the connection broke."""
        try:
            return self.to_the_end(timeout_s)
        except (CommandTimeout, ConnectionLost):
            return None
        finally:
            self.close()

    def send(self, data: bytes) -> None:
        """Send all of what the command reads; how it ends, the command tells."""
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            self._channel.sendall(data)
            self._channel.shutdown_write()

    def feed(self, file: IO[bytes]) -> None:
        """Send a file as what the command reads; how it ends, the command tells.

        Raises:
            CommandTimeout: nothing moved for too long.
        """
        while chunk := file.read(CHUNK_BYTES):
            try:
                self._channel.sendall(chunk)
            except TimeoutError:
                raise self._late(STALL_S) from None
            except (paramiko.SSHException, EOFError, OSError):
                return  # it ended before it had read all, or the connection did

    def line(self, timeout_s: float) -> str:
        """The next line that it prints; empty if it prints no more.

        Raises:
            CommandTimeout: none came in time.
        """
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            chunk = self._receive(max(0.001, deadline - time.monotonic()))
            if not chunk:
                break
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode(errors="replace")

    def chunks(self, stall_s: float | None) -> Iterator[bytes]:
        """What it prints, as it comes.

        Args:
            stall_s: how long nothing may come, None for ever.

        Raises:
            CommandTimeout: nothing came for too long.
        """
        while chunk := self._receive(stall_s):
            yield chunk

    def close(self) -> None:
        """Hang up; a command that still runs goes on."""
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            self._channel.close()

    def _read_until(self, deadline: float, timeout_s: float) -> Iterator[bytes]:
        yield self._unread
        while True:
            try:
                chunk = self._receive(max(0.001, deadline - time.monotonic()))
            except CommandTimeout:
                raise self._late(timeout_s) from None
            if not chunk:
                return
            yield chunk

    def _receive(self, timeout_s: float | None) -> bytes:
        """Some bytes of its output behind the mark, none at the end."""
        self._channel.settimeout(timeout_s)
        try:
            if self.pid == 0:
                return self._after_mark()
            return self._channel.recv(CHUNK_BYTES)
        except TimeoutError:
            raise self._late(timeout_s or 0.0) from None

    def _after_mark(self) -> bytes:
        noise = b""
        while chunk := self._channel.recv(CHUNK_BYTES):
            noise += chunk
            if found := MARK.search(noise):
                self.pid = int(found[1])
                return noise[found.end() :] or self._channel.recv(CHUNK_BYTES)
        return b""

    def _hear_errors(self) -> None:
        """Take what it complains about; unread, it would block the command."""
        with contextlib.suppress(OSError):
            while chunk := self._channel.in_stderr_buffer.read(CHUNK_BYTES, None):
                self._errors += chunk

    def _late(self, timeout_s: float) -> CommandTimeout:
        return CommandTimeout(
            f"'{self._name}' did not end within {timeout_s:g} s", device=self._device
        )

    def _lost(self) -> ConnectionLost:
        return ConnectionLost(
            f"the connection broke while '{self._name}' ran",
            device=self._device,
            hint="check power and network; 'farm doctor' tells whether it is back",
        )
