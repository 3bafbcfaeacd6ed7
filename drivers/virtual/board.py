"""A virtual board behind a real SSH server: the production drivers reach it as they reach hardware.

Address: `virtual-ssh://PROFILE?seed=N&root=/folder&fault=KIND:AT`, as in `drivers.virtual.device`.
Every command is a real process of this machine in an environment of its own; only `python3` is the
physics, and the files that describe hardware are made up.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import paramiko

from drivers.virtual.board_exec import run_command
from drivers.virtual.board_python import COMMAND, BoardPython
from drivers.virtual.board_server import USER, BoardServer
from drivers.virtual.board_tree import BoardTree
from drivers.virtual.device import VirtualDevice, find_profile, read_faults, read_seed
from farm.errors import ConfigError, ConnectError
from farm.model import Address, Device
from farm.protocols import Virtual
from farm.shell import cache_folder

SIMULATED = "latency, memory, heat and charge are simulated; outputs are real"
RELEASE_S = 2.0
"""So long after its last run a throttled board is back at full speed."""


class VirtualBoard(Virtual):
    """A Linux board that exists for as long as the controller's process."""

    platform: ClassVar[str] = "linux"
    runtime: ClassVar[str] = "ort_python"
    simulated: ClassVar[bool] = True
    host: ClassVar[str] = "controller"

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse an unknown profile, seed or fault, and a runtime that has no physics here."""
        if device.runtime != cls.runtime:
            raise ConfigError(
                f"only {cls.runtime} has simulated times here, {device.runtime} would measure"
                " the controller",
                hint=f"leave out 'runtime', or write runtime: {cls.runtime}",
            )
        find_profile(device.address)
        read_seed(device.address)
        read_faults(device.address)

    @classmethod
    def start(cls, device: Device) -> Device:
        """Switch it on, once per process; the same device at the address where it answers."""
        folder = _folder(device)
        key = (device.name, repr(device.address), folder)
        with _switch:
            if key not in _boards:
                try:
                    _boards[key] = Board(device, folder)
                except OSError as error:
                    raise ConnectError(
                        f"cannot use the folder {str(folder)!r}: {error.strerror}",
                        device=device.name,
                        hint="give a writable one: address: virtual-ssh://board?root=/folder",
                    ) from error
            board = _boards[key]
        return replace(device, address=board.address, options=(*device.options, *board.options))


class Board:
    """One unit that is switched on.

    Args:
        device: as the inventory has it.
        folder: keeps what a board keeps without power.
    """

    def __init__(self, device: Device, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
        self._folder = folder
        self._unit = VirtualDevice(device, folder)
        self._lock = threading.Lock()
        self._last_run_s = -RELEASE_S
        self._volatile = Path(tempfile.mkdtemp(prefix=f"boot-{os.getpid()}-", dir=folder))
        self._tree = BoardTree(self._volatile / "tree")
        self._boot()
        self._home = folder / "home"
        self._home.mkdir(exist_ok=True)
        _write_program(folder / "bin" / "python3")
        self._python = BoardPython(
            self._unit, self._lock, ran=self._has_run, restarted=self._restart
        )
        self._server = BoardServer(self._execute, heard=self._hear)
        key = self._volatile / "key"
        key.touch(mode=0o600)
        key.write_text(self._server.client_key)
        self.address = Address(scheme="ssh", place=f"{USER}@127.0.0.1:{self._server.port}")
        self.options = (
            ("host_key", self._server.fingerprint),
            ("key", str(key)),
            ("root", str(folder / "farm")),
        )

    def switch_off(self) -> None:
        """End whatever runs on it."""
        self._server.close()
        self._python.close()
        self._kill_all()
        shutil.rmtree(self._volatile, ignore_errors=True)

    @property
    def _environment(self) -> dict[str, str]:
        return {
            "HOME": str(self._home),
            "USER": USER,
            "SHELL": "/bin/sh",
            "PATH": f"{self._folder / 'bin'}:/usr/bin:/bin",
            "FARM_TREE": str(self._tree.folder),
            "FARM_SIMULATED": SIMULATED,
            "FARM_BOARD": self._python.name,
        }

    def _hear(self) -> bool:
        """A command has come; False if a scripted disconnect is due."""
        return not self._unit.due("operation", "disconnect")

    def _execute(self, channel: paramiko.Channel, command: bytes) -> None:
        if self._lock.acquire(blocking=False):  # while a model runs, that sets the temperature
            try:
                self._let_time_pass()
            finally:
                self._lock.release()
        run_command(
            channel,
            command,
            environment=self._environment,
            folder=self._home,
            arriving=self._arrival(),
        )

    def _arrival(self) -> Callable[[bytes], bytes]:
        """What becomes of the bytes of one push; a scripted corruption flips one bit."""
        begun = False

        def arriving(data: bytes) -> bytes:
            nonlocal begun
            first, begun = not begun, True
            if first and self._unit.due("push", "corrupt"):
                return bytes([data[0] ^ 1]) + data[1:]
            return data

        return arriving

    def _let_time_pass(self) -> None:
        """A board has the time of this machine, and cools while nobody looks."""
        clock = self._unit.clock
        clock.sleep(max(0, time.monotonic_ns() - clock.now_ns()) / 1e9)
        self._tell()

    def _has_run(self) -> None:
        self._last_run_s = time.monotonic()
        self._tell()

    def _tell(self) -> None:
        recent = time.monotonic() - self._last_run_s < RELEASE_S
        self._tree.tell(
            temperature_c=self._unit.body.temperature_c,
            throttled=self._unit.throttled and recent,
        )

    def _boot(self) -> None:
        known = os.fsencode(f"{self._unit.name} {self._unit.seed}")
        serial = f"virtual-{hashlib.sha256(known).hexdigest()[:16]}"
        boot_id = uuid.uuid5(uuid.NAMESPACE_OID, f"{serial} {self._unit.boots}")
        self._tree.boot(boot_id=str(boot_id), serial=serial)
        self._let_time_pass()

    def _restart(self) -> None:
        """Everything that ran is gone, and so is every connection."""
        with self._lock:
            self._boot()
        self._kill_all()
        self._server.drop_all()

    def _kill_all(self) -> None:
        """Kill what was started here, whatever session it is in: its surroundings tell."""
        mark = f"FARM_BOARD={self._python.name}\0".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (folder / "environ").read_bytes():
                    os.kill(int(folder.name), signal.SIGKILL)


_boards: dict[tuple[str, str, Path], Board] = {}
_switch = threading.Lock()


@atexit.register
def switch_all_off() -> None:
    """No board outlives the process that plays it."""
    with _switch:
        while _boards:
            _boards.popitem()[1].switch_off()


def _folder(device: Device) -> Path:
    """Where a board keeps its files: by its name, as far as a folder can be called that."""
    if root := device.address.option("root"):
        return Path(root).resolve()
    name = re.sub(r"[^A-Za-z0-9._-]", "-", device.name)
    if name != device.name or not name.strip("."):
        name += f"-{hashlib.sha256(os.fsencode(device.name)).hexdigest()[:8]}"
    return (cache_folder() / name).resolve()


def _remove_stale(folder: Path) -> None:
    """Remove what boards have left here whose process was killed."""
    for left in folder.glob("boot-*-*"):
        pid = left.name.split("-")[1]
        if not pid.isdigit() or not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True)


def _write_program(path: Path) -> None:
    """In one go: another process may play the same board, and run it."""
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f"{path.name}-{uuid.uuid4().hex}")
    part.write_text(COMMAND)
    part.chmod(0o755)
    part.replace(path)
