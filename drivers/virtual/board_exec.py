"""One command that a client of a virtual board runs: a process, and its bytes over a channel."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import paramiko

from drivers.virtual.machine_exec import NO_COMMAND, begin

CHUNK_BYTES = 32 << 10
LOOK_S = 1.0
"""How often it is seen that a client has gone which neither sends nor is sent anything."""
_GONE = (OSError, EOFError, paramiko.SSHException)
"""What it is told that sends something to a client which has gone."""


def run_command(
    channel: paramiko.Channel,
    command: bytes,
    *,
    environment: Mapping[str, str],
    folder: Path,
    arriving: Callable[[bytes], bytes],
) -> None:
    """Run a command by `sh` in a session of its own, and tell its end.

    When the client goes, its process loses its streams and lives on, as behind any SSH server.

    Args:
        channel: the client's.
        command: a line for the shell.
        environment: everything that the process knows of its surroundings.
        folder: where it begins.
        arriving: what bytes that are sent to the process become on their way.
    """
    try:
        process = begin(command, environment=environment, folder=folder)
    except (OSError, ValueError) as error:  # a line that no kernel takes
        with contextlib.suppress(*_GONE):
            channel.sendall_stderr(f"{error}\n".encode())
            channel.send_exit_status(NO_COMMAND)
            channel.close()
        return
    pump = _Pump(channel, process, arriving)
    try:
        pump.run()
    except _GONE:
        pass
    finally:
        pump.close()
    process.wait()


class _Pump:
    """Moves bytes while anything moves; what one side does not take stops the other."""

    def __init__(
        self,
        channel: paramiko.Channel,
        process: subprocess.Popen[bytes],
        arriving: Callable[[bytes], bytes],
    ) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._channel = channel
        self._process = process
        self._arriving = arriving
        self._pending = memoryview(b"")
        self._stdin = process.stdin
        self._outputs = {
            process.stdout.fileno(): (process.stdout, channel.sendall),
            process.stderr.fileno(): (process.stderr, channel.sendall_stderr),
        }
        self._exit = os.pidfd_open(process.pid)
        os.set_blocking(self._stdin.fileno(), False)
        self._poll = select.poll()
        for number in (channel.fileno(), self._exit, *self._outputs):
            self._poll.register(number, select.POLLIN)

    def run(self) -> None:
        """Until the process has ended and nobody can print any more, or the client has gone."""
        while self._outputs or self._exit >= 0:
            for number, _ in self._poll.poll(LOOK_S * 1000):
                self._move(number)
            if self._channel.closed:
                return
        self._channel.shutdown_write()

    def close(self) -> None:
        """Let go of both sides; a process that still runs goes on."""
        self._close_input()
        for file, _ in self._outputs.values():
            file.close()
        if self._exit >= 0:
            os.close(self._exit)
        with contextlib.suppress(*_GONE):
            self._channel.close()

    def _move(self, number: int) -> None:
        if number in self._outputs:
            self._take_output(number)
        elif number == self._exit:
            self._take_exit()
        elif not self._stdin.closed and number == self._stdin.fileno():
            self._give_input()
        else:
            self._take_input()

    def _take_output(self, number: int) -> None:
        file, send = self._outputs[number]
        if data := os.read(number, CHUNK_BYTES):
            send(data)
            return
        self._poll.unregister(number)
        del self._outputs[number]
        file.close()

    def _take_exit(self) -> None:
        """A process that was ended by a signal has no status to tell."""
        status = self._process.wait()
        self._poll.unregister(self._exit)
        os.close(self._exit)
        self._exit = -1
        if status >= 0:
            self._channel.send_exit_status(status)

    def _take_input(self) -> None:
        """What the client sends; nothing more until the process has taken it."""
        data = self._channel.recv(CHUNK_BYTES)
        if not data:
            self._poll.unregister(self._channel.fileno())
            self._close_input()
        elif not self._stdin.closed:
            self._pending = memoryview(self._arriving(data))
            self._poll.unregister(self._channel.fileno())
            self._poll.register(self._stdin.fileno(), select.POLLOUT)
            self._give_input()

    def _give_input(self) -> None:
        try:
            self._pending = self._pending[os.write(self._stdin.fileno(), self._pending) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # it reads no more: what still comes is for nobody
            self._pending = memoryview(b"")
            self._poll.unregister(self._stdin.fileno())
            self._poll.register(self._channel.fileno(), select.POLLIN)
            self._close_input()
            return
        if not self._pending:
            self._poll.unregister(self._stdin.fileno())
            self._poll.register(self._channel.fileno(), select.POLLIN)

    def _close_input(self) -> None:
        self._stdin.close()
