"""What devices with a POSIX shell have in common, whatever the wire to it is."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shlex
import threading
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, Generic, Protocol, TypeVar

from drivers.transports.detached import ShellDetached, start_script
from farm.connection import Detached, Stream, Transport
from farm.errors import (
    CommandTimeout,
    ConfigError,
    ConnectError,
    DeviceError,
    InfraError,
    OutOfSpace,
)
from farm.model import Device
from farm.record import Fact
from farm.shell import COMMAND_S, Completed, script

STALL_S = 60.0
"""A transfer in which nothing moves for so long has failed."""
SIGNALS = range(129, 193)
"""Exit statuses by which a shell says that a signal ended its command."""
PULL_LIMIT = 4 << 30
"""More than that no file of ours has."""
MOST_LINES = 1_000_000
LONGEST_LINE = 1 << 20
"""More, or longer ones, that nobody has asked for yet end a stream."""
EXECS = 5
"""How many round trips an exec's time is the median of."""
SLOW_EXEC_S = 0.05

# What the start-up files of a shell print comes before this line, what the command prints after it.
MARK = re.compile(rb"(?:^|\n)farm-exec (\d+)\n")

_NO_ROOM = ("No space left", "Disk quota exceeded", "File too large")

# $1: the folder that the farm may fill, under the home if it is relative.
_ROOT = """
command -v setsid >/dev/null || exit 3
case $1 in /*) ;; *) cd || exit 1 ;; esac
umask 077 && mkdir -p -- "$1" && cd -- "$1" && pwd
"""
_NO_SETSID = 3

# Ends the process $1 with its group and with everything that descends from it: dropbear gives a
# command no group of its own.
_KILL = """
doomed=" $1 " found=1
while [ $found ]; do
  found=
  for stat in /proc/[0-9]*/stat; do
    read -r line <"$stat" || continue
    set -- "${line%% *}" ${line##*) }
    case $doomed in *" $1 "*) continue ;; *" $3 "*) doomed="$doomed$1 " found=1 ;; esac
  done
done 2>/dev/null
set -- $doomed
kill -9 -- "-$1" 2>/dev/null
kill -9 $doomed
"""


class Command(Protocol):
    """A command that runs on a device; its process group is known by its pid.

    Attributes:
        pid: of the group; 0 as long as it did not say.
    """

    pid: int

    def to_the_end(self, timeout_s: float, stdin: bytes = b"") -> Completed:
        """Send what it reads, and wait until it has ended.

        Raises:
            CommandTimeout: it did not end in time; it still runs.
            ConnectionLost: the connection broke meanwhile.
        """

    def line(self, timeout_s: float) -> str:
        """The next line that it prints; empty if it prints no more.

        Raises:
            CommandTimeout: none came in time.
        """

    def listen(self, timeout_s: float) -> Completed | None:
        """Wait for the end; None if it did not come, or the connection broke."""

    def chunks(self, stall_s: float | None) -> Iterator[bytes]:
        """What it prints, as it comes.

        Args:
            stall_s: how long nothing may come, None for ever.

        Raises:
            CommandTimeout: nothing came for too long.
        """

    def close(self) -> None:
        """Hang up; a command that still runs goes on."""


C = TypeVar("C", bound=Command)


class PosixTransport(Transport, Generic[C]):
    """Commands by one shell line each, processes by `detached`; the wire is the subclass's."""

    @abstractmethod
    def _execute(self, argv: tuple[str, ...], cwd: PurePosixPath, *, apart: bool = False) -> C:
        """Start a command.

        Args:
            argv: the command; arrives verbatim.
            cwd: the folder that it works in.
            apart: whether it is listened to while others run, and reads nothing.

        Raises:
            InfraError: the device cannot be reached.
            ConfigError: no shell can be told this command.
        """

    def _make_root(self, wanted: str) -> PurePosixPath:
        """The folder that the farm may fill, made for nobody else to read."""
        with self._executed(script(_ROOT, wanted), PurePosixPath(".")) as command:
            made = command.to_the_end(COMMAND_S)
        if made.returncode == _NO_SETSID:
            raise DeviceError(
                "there is no setsid there",
                device=self.device.name,
                hint="install it: util-linux, busybox and toybox have one",
            )
        if made.returncode or not made.stdout.startswith("/") or "\0" in made.stdout:
            raise ConnectError(
                f"cannot make the folder {wanted!r} there: {_complaint(made)}",
                device=self.device.name,
                hint="give a writable one in the inventory: root: /folder",
            )
        return PurePosixPath(made.stdout.rstrip("\n"))

    def run(
        self,
        argv: tuple[str, ...],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        cwd: PurePosixPath | None = None,
    ) -> Completed:
        """Run a command to its end; at the deadline its whole group is killed."""
        with self._executed(argv, cwd or self.root) as command:
            return command.to_the_end(timeout_s, stdin)

    def pull(self, source: PurePosixPath, target: Path) -> None:
        """Fetch a file through `cat`."""
        argv = script('cat <"$1"', str(source))
        with opened(target, "wb") as file, self._executed(argv, self.root) as command:
            for chunk in command.chunks(STALL_S):
                file.write(chunk)
                if file.tell() > PULL_LIMIT:
                    raise InfraError(f"{str(source)!r} never ends", device=self.device.name)
            done = command.to_the_end(STALL_S)
        if done.returncode:
            raise InfraError(
                f"cannot read {str(source)!r}: {_complaint(done)}", device=self.device.name
            )

    def start(self, argv: tuple[str, ...], *, folder: PurePosixPath) -> Detached:
        """Start a process group that lives on without us; this exec hears when it ends."""
        command = self._execute(start_script(argv, folder), self.root)
        with contextlib.ExitStack() as stack:
            stack.callback(command.close)
            if command.line(COMMAND_S) != "started":
                ended = command.to_the_end(COMMAND_S)
                raise DeviceError(
                    f"cannot start a process there: {_complaint(ended)}",
                    device=self.device.name,
                    hint="check its free space and its process limits",
                )
            stack.pop_all()
        return ShellDetached(self, folder, device=self.device.name, listen=command.listen)

    def attach(self, id: str) -> Detached:
        """The process that works in that folder."""
        return ShellDetached(self, PurePosixPath(id), device=self.device.name)

    def stream(self, argv: tuple[str, ...]) -> Stream:
        """A command on a connection of its own, with a thread that reads it."""
        return _Lines(self._execute(argv, self.root, apart=True), self)

    def kill_group(self, pid: int) -> None:
        """End a command that was started over any connection."""
        argv = script(_KILL, str(pid))
        with (
            contextlib.suppress(InfraError),
            contextlib.closing(self._execute(argv, PurePosixPath("/"))) as command,
        ):
            command.to_the_end(COMMAND_S)

    def _exec_cost(self, suspect: str) -> Fact:
        """What a command costs at least; names what to look at if that is much."""
        times = [self.run((":",), timeout_s=COMMAND_S).elapsed_s for _ in range(EXECS)]
        median_s = sorted(times)[EXECS // 2]
        slow = f"; {suspect}" if median_s > SLOW_EXEC_S else ""
        return Fact(name="exec", value=f"{1000 * median_s:.0f} ms a command{slow}")

    def _refused(self, target: PurePosixPath, complaint: str) -> OutOfSpace | InfraError:
        """Why a file could not be written there."""
        kind = OutOfSpace if any(word in complaint for word in _NO_ROOM) else InfraError
        complaint = complaint.strip()[:200]
        return kind(f"cannot write {str(target)!r}: {complaint}", device=self.device.name)

    @contextlib.contextmanager
    def _executed(self, argv: tuple[str, ...], cwd: PurePosixPath) -> Iterator[C]:
        command = self._execute(argv, cwd)
        try:
            yield command
        except CommandTimeout:
            if command.pid:
                self.kill_group(command.pid)
            raise
        finally:
            command.close()


class _Lines(Stream):
    """The lines of a command, collected by a thread; another connection ends it."""

    def __init__(self, command: Command, transport: PosixTransport[Any]) -> None:
        self._command = command
        self._transport = transport
        self._closed = False
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def lines(self) -> tuple[str, ...]:
        """The whole lines since the last call."""
        return tuple(self._lines.get() for _ in range(self._lines.qsize()))

    def close(self) -> None:
        """End the command."""
        if self._closed:
            return
        self._closed = True
        self._command.close()
        self._reader.join()
        if self._command.pid:
            self._transport.kill_group(self._command.pid)

    def _read(self) -> None:
        rest = b""
        with contextlib.suppress(OSError, InfraError):
            for chunk in self._command.chunks(None):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._lines.put(line.decode(errors="replace"))
                if len(rest) > LONGEST_LINE or self._lines.qsize() > MOST_LINES:
                    return  # what it says more, it keeps


def command_line(argv: tuple[str, ...], cwd: PurePosixPath, device: str) -> bytes:
    """A line for a shell: every word in quotes, and a mark that tells the process group.

    The shell stays, so that the end of a command by a signal is told as a status.

    Raises:
        ConfigError: no shell can be told this command.
    """
    # by `echo`, which is a part of every shell; mksh would start another process for `printf`
    line = f"echo '\nfarm-exec '$$; cd {shlex.quote(str(cwd))} && {shlex.join(argv)}; exit $?"
    if "\0" in line:
        raise ConfigError("a command cannot hold a null byte", device=device)
    return os.fsencode(line)


def _complaint(ended: Completed) -> str:
    return ended.stderr.strip()[:200] or f"it ended with {ended.returncode} and says nothing"


def returncode(status: int) -> int:
    """The exit status of a shell, negative if a signal ended its command."""
    return 128 - status if status in SIGNALS else status


@contextlib.contextmanager
def opened(path: Path, mode: str) -> Iterator[IO[bytes]]:
    """A file of this machine; what is wrong with it is no fault of the device."""
    try:
        with path.open(mode) as file:
            yield file
    except OSError as error:
        raise InfraError(f"cannot use {str(path)!r}: {error.strerror or error}") from error


def quota_bytes(device: Device) -> int:
    """How much pushed files may take there, from the option `quota_mib`; 0 if it is not said.

    Raises:
        ConfigError: it cannot be read.
    """
    text = device.option("quota_mib", "0")
    if not text.isdigit():
        raise ConfigError(f"quota_mib '{text}' is no whole number", hint="write quota_mib: '2048'")
    return int(text) << 20
