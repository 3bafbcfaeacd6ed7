"""Boards over SSH: every command is one exec, every file goes through `cat`.

That needs nothing on the board but a POSIX shell and `cat`: no sftp-server, no scp. It is also the
fastest way that was measured, and an exec takes one round trip.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, ClassVar

from drivers.transports.clock import SystemClock
from drivers.transports.detached import ShellDetached, start_script
from drivers.transports.ssh_exec import STALL_S, Exec, ExecStream
from drivers.transports.ssh_link import Link, endpoints, shown_keys
from farm.errors import (
    CommandTimeout,
    ConfigError,
    ConnectError,
    DeviceError,
    InfraError,
    OutOfSpace,
)
from farm.model import Device
from farm.protocols import Detached, Stream, Transport
from farm.record import Fact
from farm.shell import COMMAND_S, Completed, script

EXECS = 5
"""How many round trips `describe` takes the median of."""
SLOW_EXEC_S = 0.05

_NO_ROOM = ("No space left", "Disk quota exceeded", "File too large")

# $1: the folder that the farm may fill, under the home if it is relative.
_ROOT = """
command -v setsid >/dev/null || exit 3
cd && umask 077 && mkdir -p -- "$1" && cd -- "$1" && pwd
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


class SshTransport(Transport):
    """A board behind an SSH server, OpenSSH or dropbear.

    Address: `ssh://[user@]host[:port]`. Options: `host_key`, the fingerprint that `farm enroll`
    shows (without it no connection is made); `key`, a private key's file, and its `passphrase`;
    `password`; else the agent and the user's own keys; `jump`, an SSH server on the way, and its
    `jump_host_key`; `root`, the folder that the farm may fill (`~/.cache/farm/NAME`); `quota_mib`,
    how much of it pushed files may take.
    """

    platform: ClassVar[str] = "linux"
    runtime: ClassVar[str] = "ort_native"
    simulated: ClassVar[bool] = False
    host: ClassVar[str] = ""
    options: ClassVar[tuple[str, ...]] = (
        "host_key",
        "key",
        "passphrase",
        "password",
        "jump",
        "jump_host_key",
        "root",
        "quota_mib",
    )

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.clock = SystemClock()
        self.allowed_bytes = _quota_bytes(device) or self.allowed_bytes
        self._links = [Link(device)]
        self._second = Link(device)
        self.root = PurePosixPath(".")
        name = re.sub(r"[^A-Za-z0-9._-]", "-", device.name)
        wanted = device.option("root") or f".cache/farm/{name}"
        try:
            self.root = self._make_root(wanted)
        except BaseException:
            self.close()
            raise

    def _make_root(self, wanted: str) -> PurePosixPath:
        made = self.run(script(_ROOT, wanted), timeout_s=COMMAND_S)
        if made.returncode == _NO_SETSID:
            raise DeviceError(
                "there is no setsid there",
                device=self.device.name,
                hint="install it: util-linux and busybox have one",
            )
        if made.returncode or not made.stdout.startswith("/"):
            raise ConnectError(
                f"cannot make the folder {wanted!r} there: {made.stderr.strip()[:200]}",
                device=self.device.name,
                hint="give a writable one in the inventory: root: /folder",
            )
        return PurePosixPath(made.stdout.rstrip("\n"))

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse an address, a fingerprint or a quota that cannot be read."""
        endpoints(device)
        _quota_bytes(device)

    @classmethod
    def introduce(cls, device: Device) -> tuple[tuple[str, str], ...]:
        """The fingerprints of the host keys, of the jump host first."""
        return shown_keys(device)

    def describe(self) -> tuple[Fact, ...]:
        """Cipher, and what an exec costs; a heavy start-up file of the shell adds to each."""
        times = []
        for _ in range(EXECS):
            times.append(self.run((":",), timeout_s=COMMAND_S).elapsed_s)
        median_s = sorted(times)[EXECS // 2]
        slow = "; look at the shell's start-up files there" if median_s > SLOW_EXEC_S else ""
        return (
            Fact(name="cipher", value=self._links[0].cipher()),
            Fact(name="exec", value=f"{1000 * median_s:.0f} ms a command{slow}"),
        )

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

    def push(self, source: Path, target: PurePosixPath) -> None:
        """Send a file through `cat`."""
        argv = script('cat >"$1"', str(target))
        with _opened(source, "rb") as file, self._executed(argv, self.root) as command:
            command.feed(file)
            done = command.to_the_end(STALL_S)
        if done.returncode:
            complaint = done.stderr.strip()[:200]
            kind = OutOfSpace if any(word in complaint for word in _NO_ROOM) else InfraError
            raise kind(f"cannot write {str(target)!r}: {complaint}", device=self.device.name)

    def pull(self, source: PurePosixPath, target: Path) -> None:
        """Fetch a file through `cat`."""
        argv = script('cat <"$1"', str(source))
        with _opened(target, "wb") as file, self._executed(argv, self.root) as command:
            for chunk in command.chunks(STALL_S):
                file.write(chunk)
            done = command.to_the_end(STALL_S)
        if done.returncode:
            complaint = done.stderr.strip()[:200]
            raise InfraError(f"cannot read {str(source)!r}: {complaint}", device=self.device.name)

    def start(self, argv: tuple[str, ...], *, folder: PurePosixPath) -> Detached:
        """Start a process group that lives on without us; this exec hears when it ends."""
        command = self._execute(start_script(argv, folder), self.root)
        if command.line(COMMAND_S) != "started":
            complaint = command.to_the_end(COMMAND_S).stderr.strip()[:200]
            raise DeviceError(
                f"cannot start a process there: {complaint}",
                device=self.device.name,
                hint="check its free space and its process limits",
            )
        return ShellDetached(self, folder, device=self.device.name, listen=command.listen)

    def attach(self, id: str) -> Detached:
        """The process that works in that folder."""
        return ShellDetached(self, PurePosixPath(id), device=self.device.name)

    def stream(self, argv: tuple[str, ...]) -> Stream:
        """An exec on the second connection, with a thread that reads it."""
        command = Exec(self._second, argv, self.root, self.device.name)
        return SshStream(command, self)

    def close(self) -> None:
        """Hang up every connection; what was started goes on."""
        for link in (self._second, *self._links):
            link.close()

    def kill_group(self, pid: int) -> None:
        """End a command that was started over either connection."""
        argv = script(_KILL, str(pid))
        with (
            contextlib.suppress(InfraError),
            contextlib.closing(self._execute(argv, PurePosixPath("/"))) as command,
        ):
            command.to_the_end(COMMAND_S)

    @contextlib.contextmanager
    def _executed(self, argv: tuple[str, ...], cwd: PurePosixPath) -> Iterator[Exec]:
        command = self._execute(argv, cwd)
        try:
            yield command
        except CommandTimeout:
            if command.pid:
                self.kill_group(command.pid)
            raise
        finally:
            command.close()

    def _execute(self, argv: tuple[str, ...], cwd: PurePosixPath) -> Exec:
        link = next((link for link in self._links if link.takes_another()), None)
        if link is None:
            link = Link(self.device)
            self._links.append(link)
        return Exec(link, argv, cwd, self.device.name)


class SshStream(ExecStream):
    """Lines that come over the second connection; the first one ends them."""

    def __init__(self, command: Exec, transport: SshTransport) -> None:
        super().__init__(command)
        self._transport = transport
        self._closed = False

    def close(self) -> None:
        """End the command."""
        if self._closed:
            return
        self._closed = True
        super().close()
        if self.pid:
            self._transport.kill_group(self.pid)


@contextlib.contextmanager
def _opened(path: Path, mode: str) -> Iterator[IO[bytes]]:
    """A file of this machine; what is wrong with it is no fault of the board."""
    try:
        with path.open(mode) as file:
            yield file
    except OSError as error:
        raise InfraError(f"cannot use {str(path)!r}: {error.strerror or error}") from error


def _quota_bytes(device: Device) -> int:
    text = device.option("quota_mib", "0")
    if not text.isdigit():
        raise ConfigError(f"quota_mib '{text}' is no whole number", hint="write quota_mib: '2048'")
    return int(text) << 20
