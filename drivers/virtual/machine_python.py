"""Answers the `python3` of a virtual board or phone: models really run, their times are physics."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

from drivers.virtual.device import INFER_LIMIT_S, VirtualDevice
from drivers.virtual.machine_listener import Listener
from farm.errors import DeviceRebooted

CHUNK_BYTES = 64 << 10
FACTS_LIMIT_S = 60
SHIM = Path(__file__).with_name("machine_shim.py")
COMMAND = f'#!/bin/sh\nexec {shlex.join((sys.executable, "-I", "-S", str(SHIM)))} "$@"\n'
"""The program `python3`. A shell in between takes any name of a folder, and costs 1 ms."""

Answer = tuple[int, bytes, bytes]
"""Exit status, and what was printed to both streams."""

_facts: dict[bytes, Answer] = {}


class MachinePython:
    """The physics behind `python3`, asked over a socket that is no file.

    Args:
        unit: the physics.
        lock: held while the unit is used.
        ran: called after every run, while the unit is held.
        restarted: called when a scripted restart strikes; it ends whoever asked.

    Attributes:
        name: where it listens, an abstract address: nothing to remove, and no path that is too
            long. Anybody on this machine may connect to it, so it asks who that is.
    """

    def __init__(
        self,
        unit: VirtualDevice,
        lock: threading.Lock,
        *,
        ran: Callable[[], None],
        restarted: Callable[[], None],
    ) -> None:
        self._unit = unit
        self._lock = lock
        self._ran = ran
        self._restarted = restarted
        self.name = f"farm-machine-{os.urandom(12).hex()}"
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        line.bind("\0" + self.name)
        self._listener = Listener(line, self._serve)

    def close(self) -> None:
        """Answer nobody any more."""
        self._listener.close()

    def _serve(self, line: socket.socket) -> None:
        threading.Thread(target=self._converse, args=(line,), daemon=True).start()

    def _converse(self, line: socket.socket) -> None:
        with line, contextlib.suppress(OSError):
            if _user(line) != os.geteuid():
                return
            request = b"".join(iter(lambda: line.recv(CHUNK_BYTES), b""))
            folder, *arguments = os.fsdecode(request).split("\0")
            try:
                answer = self._answer(Path(folder), *arguments)
            except DeviceRebooted:
                self._restarted()
                return
            except Exception:  # whatever it is, the one who asked must hear of it
                answer = (1, b"", traceback.format_exc().encode())
            if answer is None:
                _wait_until_gone(line)
                return
            status, out, err = answer
            line.sendall(b"%d %d %d\n" % (status, len(out), len(err)) + out + err)

    def _answer(self, folder: Path, program: str, what: str) -> Answer | None:
        """What the loadgen does with these arguments; None if it never ends."""
        if what == "--facts":
            return _facts_of(Path(program))
        with self._lock:
            ran = self._unit.execute(program, json.loads(what), folder)
            self._ran()
            if self._unit.hangs():
                return None
        return ran.returncode, ran.stdout.encode(), ran.stderr.encode()


def _facts_of(program: Path) -> Answer:
    """What a loadgen really tells of the runtime; asked once per process."""
    content = program.read_bytes()
    if content not in _facts:
        done = subprocess.run(
            [sys.executable, program, "--facts"],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=FACTS_LIMIT_S, check=False,
        )  # fmt: skip
        answer = (done.returncode, done.stdout, done.stderr)
        if done.returncode:
            return answer
        _facts[content] = answer
    return _facts[content]


def _wait_until_gone(line: socket.socket) -> None:
    """A process that hangs is there until somebody kills it."""
    ended = select.poll()
    ended.register(line, 0)  # only that the other end is closed
    ended.poll(INFER_LIMIT_S * 1000)


def _user(line: socket.socket) -> int:
    """Who is at the other end."""
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(user)
