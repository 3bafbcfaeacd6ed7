"""The road to a virtual device: in this process, with a link that takes time and can break."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import ClassVar

from drivers.virtual.device import (
    Ran,
    VirtualDevice,
    find_profile,
    read_faults,
    read_seed,
    switch_on,
)
from farm.connection import Detached, Stream, Transport
from farm.errors import CommandTimeout, ConnectError, InfraError, OutOfSpace
from farm.model import Device
from farm.shell import Completed, cache_folder

PYTHON = "python3"


class VirtualTransport(Transport):
    """Files in a folder of the controller, commands in virtual time.

    Ordinary commands really run on the controller; the loadgen runs in the device's physics.
    """

    platform: ClassVar[str] = "virtual"
    simulated: ClassVar[bool] = True
    host: ClassVar[str] = "controller"

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        root = Path(device.address.option("root") or cache_folder() / device.name).resolve()
        try:
            self.unit = switch_on(device, root)
        except OSError as error:
            raise ConnectError(
                f"cannot use the folder {str(root)!r}: {error.strerror}",
                device=device.name,
                hint="give a writable one in the inventory: address: virtual://phone?root=/folder",
            ) from error
        self.clock = self.unit.clock
        self.root = PurePosixPath(root)

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse an unknown profile, seed or fault."""
        find_profile(device.address)
        read_seed(device.address)
        read_faults(device.address)

    def run(
        self,
        argv: tuple[str, ...],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        cwd: PurePosixPath | None = None,
    ) -> Completed:
        """Run a command really, and let the link take its time."""
        self.unit.operate()
        command = (sys.executable, *argv[1:]) if argv[0] == PYTHON else argv
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(
                command,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                cwd=cwd or self.root,
                start_new_session=True,
            )
        except OSError as error:
            return Completed(returncode=127, stdout="", stderr=str(error), elapsed_s=0.0)
        with process:
            try:
                stdout, stderr = process.communicate(stdin, timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise CommandTimeout(f"'{argv[0]}' did not end within {timeout_s:g} s") from None
        return Completed(
            returncode=process.returncode,
            stdout=stdout.decode(errors="replace"),
            stderr=stderr.decode(errors="replace"),
            elapsed_s=self.unit.profile.link_s,
        )

    def push(self, source: Path, target: PurePosixPath) -> None:
        """Copy a file in; scripted faults may break the link or a bit."""
        self.unit.operate(bytes_moved=source.stat().st_size)
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            kind = OutOfSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else InfraError
            raise kind(f"cannot write {str(target)!r}: {error.strerror}") from error
        self.unit.receive(Path(target))

    def pull(self, source: PurePosixPath, target: Path) -> None:
        """Copy a file out."""
        try:
            self.unit.operate(bytes_moved=Path(source).stat().st_size)
            shutil.copyfile(source, target)
        except OSError as error:
            raise InfraError(f"cannot read {str(source)!r}: {error.strerror}") from error

    def start(self, argv: tuple[str, ...], *, folder: PurePosixPath) -> Detached:
        """Start the loadgen; it has ended already, in a future that `wait` brings about."""
        self.unit.operate()
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        ran = self.unit.execute(argv[1], json.loads(argv[2]), place)
        hangs = self.unit.hangs()
        return VirtualDetached(str(folder), self.unit, None if hangs else ran)

    def attach(self, id: str) -> Detached:
        """Nothing survives on a virtual device, so a process of another session has been killed."""
        return VirtualDetached(
            id, self.unit, Ran(returncode=-9, stdout="", stderr="", duration_s=0)
        )

    def stream(self, argv: tuple[str, ...]) -> Stream:
        """There is no time in which it could print."""
        return Silence()

    def close(self) -> None:
        """Nothing is held."""


class Silence(Stream):
    """A command that never says anything."""

    def lines(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def close(self) -> None:
        """Nothing to end."""


class VirtualDetached(Detached):
    """A process whose end is known; None for one that hangs."""

    def __init__(self, id: str, device: VirtualDevice, ran: Ran | None) -> None:
        self.id = id
        self._device = device
        self._ran = ran
        self._ends_ns = device.clock.now_ns() + round((ran.duration_s if ran else 0.0) * 1e9)

    def poll(self) -> Completed | None:
        """The ended process, None while virtual time has not come that far."""
        self._device.operate()
        if self._ran is None or self._device.clock.now_ns() < self._ends_ns:
            return None
        return self._completed(self._ran)

    def wait(self, timeout_s: float) -> Completed:
        """Let virtual time pass until its end, or until the deadline."""
        clock = self._device.clock
        left_s = max(0.0, (self._ends_ns - clock.now_ns()) / 1e9)
        if self._ran is None or left_s > timeout_s:
            clock.sleep(timeout_s)
            raise CommandTimeout(f"the run did not end within {timeout_s:g} s")
        clock.advance(left_s)
        self._device.operate()
        return self._completed(self._ran)

    def kill(self) -> None:
        """Nothing runs between two calls."""

    def _completed(self, ran: Ran) -> Completed:
        return Completed(
            returncode=ran.returncode,
            stdout=ran.stdout,
            stderr=ran.stderr,
            elapsed_s=ran.duration_s,
        )
