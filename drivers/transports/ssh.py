"""Boards over SSH: every command is one exec, every file goes through `cat`.

That needs nothing on the board but a POSIX shell and `cat`: no sftp-server, no scp. It is also the
fastest way that was measured, and an exec takes one round trip.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import ClassVar

from drivers.transports.posix import STALL_S, PosixTransport, opened, quota_bytes
from drivers.transports.ssh_exec import Exec
from drivers.transports.ssh_link import Link, endpoints, shown_keys
from farm.connection import SystemClock, Tell, silent
from farm.model import Device
from farm.record import Fact
from farm.shell import script


class SshTransport(PosixTransport[Exec]):
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
        self.allowed_bytes = quota_bytes(device) or self.allowed_bytes
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

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse an address, a fingerprint or a quota that cannot be read."""
        endpoints(device)
        quota_bytes(device)

    @classmethod
    def introduce(cls, device: Device, tell: Tell = silent) -> tuple[tuple[str, str], ...]:
        """The fingerprints of the host keys, of the jump host first."""
        return shown_keys(device)

    def describe(self) -> tuple[Fact, ...]:
        """Cipher, and what an exec costs; a heavy start-up file of the shell adds to each."""
        cost = self._exec_cost("look at the shell's start-up files there")
        return (Fact(name="cipher", value=self._links[0].cipher()), cost)

    def push(self, source: Path, target: PurePosixPath) -> None:
        """Send a file through `cat`."""
        argv = script('cat >"$1"', str(target))
        with opened(source, "rb") as file, self._executed(argv, self.root) as command:
            command.feed(file)
            done = command.to_the_end(STALL_S)
        if done.returncode:
            raise self._refused(target, done.stderr)

    def close(self) -> None:
        """Hang up every connection; what was started goes on."""
        for link in (self._second, *self._links):
            link.close()

    def _execute(self, argv: tuple[str, ...], cwd: PurePosixPath, *, apart: bool = False) -> Exec:
        if apart:
            command = Exec(self._second, argv, cwd, self.device.name)
            command.send(b"")
            return command
        link = next((link for link in self._links if link.takes_another()), None)
        if link is None:
            link = Link(self.device)
            self._links.append(link)
        return Exec(link, argv, cwd, self.device.name)
