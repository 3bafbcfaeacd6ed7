"""Boots the board that `tests.board.build` made, and stops it.

    with booted() as board:
        subprocess.run(board.ssh("uname -m"))

The disk is a snapshot: every board starts alike, and nothing that is written on it stays. The
processor is emulated, many times slower than a real one: no time measured on it means anything.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.board.build import USER, Image, image

HOST = "127.0.0.1"
RUN_NEEDS = {
    "qemu-system-aarch64": "qemu-system-arm",
    "setpriv": "util-linux",
    "ssh-keygen": "openssh-client",
}
EMULATOR_WITHIN_S = 20.0
SSH_WITHIN_S = 120.0

Found = TypeVar("Found")


class BootFailed(Exception):
    """The board cannot be reached; the message holds what it said last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A running board.

    Attributes:
        key: the file with the private key that opens it.
        host_key: its public host key, as known_hosts writes it behind the name.
        fingerprint: the same as ssh shows it, SHA256:...
        known_hosts: a file that knows this board alone.
        console: what its kernel and its sshd have said so far.
        pid: the emulator's process.
    """

    host: str
    port: int
    user: str
    key: Path
    host_key: str
    fingerprint: str
    known_hosts: Path
    console: Path
    pid: int

    def ssh(self, command: str) -> list[str]:
        """The words that run `command` by the system's ssh, whatever the user's own settings."""
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "20",
            "IdentitiesOnly": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(self.known_hosts),
        }
        return [
            *("ssh", "-F", "none", "-i", str(self.key), "-p", str(self.port)),
            *(f"-o{name}={value}" for name, value in options.items()),
            *(f"{self.user}@{self.host}", command),
        ]


@contextlib.contextmanager
def booted() -> Iterator[Board]:
    """A board that answers SSH."""
    missing = [name for name in RUN_NEEDS if not shutil.which(name)]
    if missing:
        raise BootFailed(f"{missing[0]} is missing; install: {' '.join(RUN_NEEDS.values())}")
    made = image()
    if not made.folder.exists():
        raise BootFailed("the board has no image yet; run: python -m tests.board.build")
    with tempfile.TemporaryDirectory(prefix="board-") as name, _emulator(made, Path(name)) as qemu:
        folder = Path(name)
        port = qemu.forwarded_port()
        qemu.wait_for(lambda: _greets(port), SSH_WITHIN_S, "SSH")
        host_key = made.host_key.with_suffix(".pub").read_text().rsplit(maxsplit=1)[0]
        known_hosts = folder / "known_hosts"
        known_hosts.write_text(f"[{HOST}]:{port} {host_key}\n")
        yield Board(
            host=HOST,
            port=port,
            user=USER,
            key=made.key,
            host_key=host_key,
            fingerprint=_fingerprint(made.host_key),
            known_hosts=known_hosts,
            console=qemu.console,
            pid=qemu.process.pid,
        )


@dataclass(frozen=True, slots=True)
class _Emulator:
    """QEMU, with what it answers and what the board says kept in files."""

    process: subprocess.Popen[bytes]
    monitor: Path
    console: Path

    def forwarded_port(self) -> int:
        """The port of this machine that leads to the board's 22."""
        pattern = re.compile(rb"HOST_FORWARD\]\s+\d+\s+\S+\s+(\d+)")
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):  # it has ended: wait_for says what it said
            self.process.stdin.write(b"info usernet\n")
        found = self.wait_for(
            lambda: pattern.search(self.monitor.read_bytes()), EMULATOR_WITHIN_S, "its port"
        )
        return int(found[1])

    def wait_for(self, look: Callable[[], Found | None], within_s: float, what: str) -> Found:
        """Look until there is something, the time is over or the emulator has ended."""
        deadline = time.monotonic() + within_s
        while not (found := look()):
            ended = self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                how = "the emulator has ended" if ended else f"waited {within_s:g} s"
                said = (self.monitor.read_bytes() + self.console.read_bytes())[-2000:]
                raise BootFailed(f"no {what}: {how}; last words:\n{said.decode(errors='replace')}")
            time.sleep(0.1)
        return found


@contextlib.contextmanager
def _emulator(made: Image, folder: Path) -> Iterator[_Emulator]:
    monitor, console = folder / "monitor", folder / "console"
    console.touch()
    command = [
        # It would outlive a test run that is killed; this ends it with us, however we end.
        *("setpriv", "--pdeathsig", "KILL"),
        *("qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72", "-smp", "2", "-m", "1024"),
        *("-nodefaults", "-display", "none", "-snapshot"),
        *("-monitor", "stdio", "-serial", f"file:{console}"),
        *("-kernel", str(made.kernel), "-initrd", str(made.initrd)),
        # A kernel that panics restarts at once, and a restart ends the emulator.
        *("-no-reboot", "-append", "console=ttyAMA0 quiet panic=-1"),
        # An empty romfile: the firmware to boot from a device is in a package of its own.
        *("-drive", f"file={made.disk},format=raw,if=none,id=disk"),
        *("-device", "virtio-blk-pci,drive=disk,romfile="),
        # With port 0 the emulator takes a free one. The board can call nobody, only be called.
        *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:{HOST}:0-:22"),
        *("-device", "virtio-net-pci,netdev=net,romfile="),
    ]
    with monitor.open("wb") as answers:
        # Unbuffered: what a dead emulator has not taken must not be sent again when it is closed.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=answers, stderr=subprocess.STDOUT, bufsize=0
        )
    with process:
        try:
            yield _Emulator(process, monitor, console)
        finally:
            process.kill()


def _greets(port: int) -> bool:
    """Whether an SSH server speaks; the emulator takes connections long before there is one."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=2) as client:
        return client.recv(4) == b"SSH-"
    return False


def _fingerprint(host_key: Path) -> str:
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", host_key], check=True, capture_output=True, text=True
    )
    return shown.stdout.split()[1]
