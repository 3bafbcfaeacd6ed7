"""The machine that the controller runs on, used as a device like any other."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path, PurePosixPath
from typing import ClassVar

from farm.connection import Detached, Stream, SystemClock, Transport
from farm.errors import CommandTimeout, ConnectError, InfraError, OutOfSpace
from farm.model import Device
from farm.shell import Completed, cache_folder

OUTPUT_LIMIT = 64 << 10
"""Bytes kept of what a detached process prints, from the end."""

# $1: folder. The process group is the script's own. `pid` (with the moment it began, for numbers
# are used again) and `rc` appear whole or not at all.
_DETACH = """
cd "$1" && shift
echo $$ "$(cut -d' ' -f22 /proc/$$/stat)" >pid.part && mv pid.part pid
"$@" >out 2>err
echo $? >rc.part && mv rc.part rc
"""


class LocalTransport(Transport):
    """Commands as child processes, files as copies.

    Address: `local://`, or `local://?root=/folder` for the folder that the farm may fill
    (`~/.cache/farm/<device>` otherwise).
    """

    platform: ClassVar[str] = "linux"
    simulated: ClassVar[bool] = False
    host: ClassVar[str] = "controller"

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.clock = SystemClock()
        self._root = Path(device.address.option("root") or cache_folder() / device.name).resolve()
        try:
            self._root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConnectError(
                f"cannot make the folder {str(self._root)!r}: {error.strerror}",
                device=device.name,
                hint="give a writable one in the inventory: address: local://?root=/folder",
            ) from error
        self.root = PurePosixPath(self._root)

    def run(
        self,
        argv: tuple[str, ...],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        cwd: PurePosixPath | None = None,
    ) -> Completed:
        """Run a command to its end; at the deadline its whole group is killed."""
        started = time.monotonic()
        pipe = subprocess.PIPE
        try:
            process = _spawn(argv, stdin=pipe, stdout=pipe, stderr=pipe, cwd=cwd or self.root)
        except OSError as error:
            return Completed(returncode=127, stdout="", stderr=str(error), elapsed_s=0.0)
        with process:
            try:
                stdout, stderr = process.communicate(stdin, timeout_s)
            except subprocess.TimeoutExpired:
                _kill_group(process.pid)
                raise CommandTimeout(f"'{argv[0]}' did not end within {timeout_s:g} s") from None
        return Completed(
            returncode=process.returncode,
            stdout=stdout.decode(errors="replace"),
            stderr=stderr.decode(errors="replace"),
            elapsed_s=time.monotonic() - started,
        )

    def push(self, source: Path, target: PurePosixPath) -> None:
        """Copy a file into place."""
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            kind = OutOfSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else InfraError
            raise kind(f"cannot write {str(target)!r}: {error.strerror}") from error

    def pull(self, source: PurePosixPath, target: Path) -> None:
        """Copy a file out."""
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise InfraError(f"cannot read {str(source)!r}: {error.strerror}") from error

    def start(self, argv: tuple[str, ...], *, folder: PurePosixPath) -> Detached:
        """Start a process in a session of its own; files in its folder tell of it."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        (place / "owner").write_text(_owner())
        null = subprocess.DEVNULL
        command = ("sh", "-c", _DETACH, "farm-run", str(folder), *argv)
        process = _spawn(command, stdin=null, stdout=null, stderr=null, cwd=folder)
        while not (place / "pid").exists() and process.poll() is None:
            time.sleep(0.001)  # from here on anybody can find it, whatever becomes of us
        return LocalDetached(place, process)

    def attach(self, id: str) -> Detached:
        """The process that works in that folder."""
        return LocalDetached(Path(id), None)

    def stream(self, argv: tuple[str, ...]) -> Stream:
        """A child process with a thread that reads it."""
        return LocalStream(argv, self.root)

    def close(self) -> None:
        """Nothing is held."""


class LocalStream(Stream):
    """A child process and what it printed."""

    def __init__(self, argv: tuple[str, ...], cwd: PurePosixPath) -> None:
        null = subprocess.DEVNULL
        shell = ("sh", "-c", 'exec "$@"', "farm", *argv)  # it finds out that there is no command
        self._process = _spawn(shell, stdin=null, stdout=subprocess.PIPE, stderr=null, cwd=cwd)
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def lines(self) -> tuple[str, ...]:
        """The whole lines since the last call."""
        return tuple(self._lines.get() for _ in range(self._lines.qsize()))

    def close(self) -> None:
        """Kill it."""
        _kill_group(self._process.pid)
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                self._lines.put(line.decode(errors="replace").rstrip("\n"))


class LocalDetached(Detached):
    """A process group, known by its folder."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes] | None) -> None:
        self.id = str(folder)
        self._folder = folder
        self._process = process  # None when attached: then it is no child of ours
        self._started = time.monotonic()

    def poll(self) -> Completed | None:
        """The ended process, None while it runs."""
        if self._alive():
            return None
        try:
            returncode = int((self._folder / "rc").read_text())
        except (OSError, ValueError):
            returncode = -signal.SIGKILL  # the group was killed before it could say
        return Completed(
            returncode=returncode,
            stdout=_tail(self._folder / "out"),
            stderr=_tail(self._folder / "err"),
            elapsed_s=time.monotonic() - self._started,
        )

    def wait(self, timeout_s: float) -> Completed:
        """Wait for its end; at the deadline its whole group is killed."""
        deadline = time.monotonic() + timeout_s
        pause = 0.002
        while (done := self.poll()) is None:
            if time.monotonic() > deadline:
                self.kill()
                raise CommandTimeout(f"the run did not end within {timeout_s:g} s")
            if self._process:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(min(1.0, max(0.0, deadline - time.monotonic())))
            else:
                time.sleep(pause)
                pause = min(2 * pause, 0.1)
        return done

    def kill(self) -> None:
        """End the whole group."""
        pid, began = self._identity()
        if pid and _began(pid) == began:
            _kill_group(pid)
        if self._process:
            self._process.wait()

    def _alive(self) -> bool:
        if self._process:
            return self._process.poll() is None
        pid, began = self._identity()
        return bool(pid) and _began(pid) == began and not (self._folder / "rc").exists()

    def _identity(self) -> tuple[int, str]:
        """Number and beginning of the process; 0 if it never came to say."""
        try:
            pid, began = (self._folder / "pid").read_text().split()
            return int(pid), began
        except (OSError, ValueError):
            return 0, ""


def _spawn(
    argv: tuple[str, ...], *, stdin: int, stdout: int, stderr: int, cwd: PurePosixPath
) -> subprocess.Popen[bytes]:
    """A child that leads a process group of its own."""
    return subprocess.Popen(
        argv,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd,
        env=_environment(),
        start_new_session=True,
    )


def _environment() -> dict[str, str]:
    """The controller's environment with its own Python first, so that `python3` is this one."""
    python = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{python}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}


def _owner() -> str:
    """This process, such that a later one with the same number is not taken for it."""
    return f"{os.getpid()} {_began(os.getpid())}\n"


def _began(pid: int) -> str:
    """When a process began, in kernel ticks; empty if there is none, or only its corpse."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - OUTPUT_LIMIT))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
