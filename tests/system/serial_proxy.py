"""Pseudo terminals with stable names, and a proxy between two that loses, damages and slows."""

from __future__ import annotations

import contextlib
import os
import pty
import random
import select
import termios
import threading
import time
import tty
from pathlib import Path

PIECE_BYTES = 4096
SLOW_PIECES = 50
"""Under a throttle bytes pass in so many pieces a second, as through a small FIFO."""


class Terminal:
    """The device's end of a line; the other end is what a link's path names.

    Attributes:
        link: where whoever talks to the device opens it.
        fd: what the device reads and writes.
    """

    def __init__(self, link: Path) -> None:
        self.link = link
        self.fd, self._far = pty.openpty()
        tty.setraw(self._far, termios.TCSANOW)
        link.unlink(missing_ok=True)
        link.symlink_to(os.ttyname(self._far))

    def read(self, timeout_s: float) -> bytes:
        """What came, nothing after a while without any."""
        readable, _, _ = select.select((self.fd,), (), (), timeout_s)
        return os.read(self.fd, PIECE_BYTES) if readable else b""

    def write(self, data: bytes, deadline_s: float = 30.0) -> None:
        """Write everything; what nobody reads for so long is lost."""
        deadline = time.monotonic() + deadline_s
        while data and (left := deadline - time.monotonic()) > 0:
            if select.select((), (self.fd,), (), left)[1]:
                data = data[os.write(self.fd, data[:PIECE_BYTES]) :]

    def close(self) -> None:
        """Both ends are gone, and so is the name."""
        with contextlib.suppress(FileNotFoundError):
            self.link.unlink()
        os.close(self._far)
        os.close(self.fd)


class SerialProxy:
    """Passes bytes between a device's terminal and one of its own.

    All faults may be changed while it runs; they hit both directions.

    Args:
        target: path of the device's terminal.
        link: where the proxy's own terminal shall be.
        seed: of its dice.

    Attributes:
        drop: share of pieces (what comes at once, at most 4 KiB) that are lost.
        corrupt: share of pieces of which one byte is changed.
        duplicate: share of pieces that come twice.
        delay_s: how long every piece is under way.
        bytes_per_s: how many pass in a second, in each direction; 0 for any number.
        passed: bytes that went through, both directions.
        harmed: how many pieces were lost, changed or doubled, or took longer than they need.
    """

    def __init__(self, target: Path, link: Path, *, seed: int = 0) -> None:
        self.drop = self.corrupt = self.duplicate = 0.0
        self.delay_s = 0.0
        self.bytes_per_s = 0.0
        self.passed = self.harmed = 0
        self._dice = random.Random(seed)
        self._over = threading.Event()
        self._near = Terminal(link)
        self._target = os.open(target, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self._target, termios.TCSANOW)
        ways = ((self._near.fd, self._target), (self._target, self._near.fd))
        self._threads = [threading.Thread(target=self._pass, args=way, daemon=True) for way in ways]
        for thread in self._threads:
            thread.start()

    def heal(self) -> None:
        """From now on everything passes as it is."""
        self.drop = self.corrupt = self.duplicate = self.delay_s = self.bytes_per_s = 0.0

    def say(self, data: bytes) -> None:
        """As if the device had said it."""
        self._near.write(data)

    def hear(self, data: bytes) -> None:
        """As if somebody else had said it to the device."""
        self._write(self._target, data)

    def close(self) -> None:
        """Its terminal vanishes; the device's stays."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._near.close()
        os.close(self._target)

    def _pass(self, source: int, target: int) -> None:
        with contextlib.suppress(OSError):
            while not self._over.is_set():
                if not select.select((source,), (), (), 0.05)[0]:
                    continue
                slow = max(1, round(self.bytes_per_s / SLOW_PIECES))
                data = os.read(source, slow if self.bytes_per_s else PIECE_BYTES)
                if self.bytes_per_s:
                    self._over.wait(len(data) / self.bytes_per_s)
                if self.delay_s:
                    self._over.wait(self.delay_s)
                harmed = self._harmed(data)
                self.harmed += bool(self.bytes_per_s or self.delay_s or harmed != data)
                self._write(target, harmed)

    def _harmed(self, data: bytes) -> bytes:
        if self._dice.random() < self.drop:
            return b""
        if self._dice.random() < self.corrupt:
            at = self._dice.randrange(len(data))
            data = data[:at] + bytes([data[at] ^ self._dice.randrange(1, 256)]) + data[at + 1 :]
        return data * 2 if self._dice.random() < self.duplicate else data

    def _write(self, target: int, data: bytes) -> None:
        self.passed += len(data)
        while data and not self._over.is_set():
            if select.select((), (target,), (), 0.05)[1]:
                data = data[os.write(target, data) :]
