"""A virtual board behind a real SSH server: the production drivers reach it as they reach hardware.

Address: `virtual-ssh://PROFILE?seed=N&root=/folder&fault=KIND:AT`, as in `drivers.virtual.device`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import paramiko

from drivers.virtual.board_exec import run_command
from drivers.virtual.board_server import USER, BoardServer
from drivers.virtual.board_tree import CORES, CPUS, board_files, sensor_files
from drivers.virtual.machine import RUNTIME, Machine, check_machine, switch_on
from farm.connection import Virtual
from farm.model import Address, Device


class VirtualBoard(Virtual):
    """A Linux board that exists for as long as the controller's process."""

    platform: ClassVar[str] = "linux"
    runtime: ClassVar[str] = RUNTIME
    simulated: ClassVar[bool] = True
    host: ClassVar[str] = "controller"

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse an unknown profile, seed or fault, and a runtime that has no physics here."""
        check_machine(device, Board.faults)

    @classmethod
    def start(cls, device: Device) -> Device:
        """Switch it on, once per process; the same device at the address where it answers."""
        return switch_on(Board, device)


class Board(Machine):
    """One board that is switched on."""

    user: ClassVar[str] = USER

    def __init__(self, device: Device, folder: Path) -> None:
        super().__init__(device, folder)
        self._server = BoardServer(self._execute, heard=self.hear)
        self.address = Address(scheme="ssh", place=f"{USER}@127.0.0.1:{self._server.port}")
        self.options = (
            ("host_key", self._server.fingerprint),
            ("key", str(self.keep_secret("key", self._server.client_key))),
            ("root", str(folder / "farm")),
        )

    def describe(self, boot_id: str) -> None:
        """Governor and frequencies are as the kernel sets them."""
        self.tree.write(board_files(boot_id, self.serial))
        for core in range(CORES):
            self.tree.link(f"{CPUS}/cpu{core}/cpufreq", "../cpufreq/policy0")

    def show(self, *, busy: bool, throttled: bool) -> None:
        """Temperature and frequency."""
        self.tree.tell(sensor_files(self.unit.body.temperature_c, throttled=throttled))

    def cut(self, kill: Callable[[], None]) -> None:
        """Break every connection, and kill what runs."""
        kill()
        self._server.drop_all()

    def stop_listening(self) -> None:
        """Serve nobody any more."""
        self._server.close()

    def _execute(self, channel: paramiko.Channel, command: bytes) -> None:
        run_command(
            channel,
            command,
            environment=self.environment(),
            folder=self.home,
            arriving=self._arrival(),
        )

    def _arrival(self) -> Callable[[bytes], bytes]:
        """What becomes of the bytes of one push; a scripted corruption flips one bit."""
        begun = False

        def arriving(data: bytes) -> bytes:
            nonlocal begun
            first, begun = not begun, True
            if first and self.unit.due("push", "corrupt"):
                return bytes([data[0] ^ 1]) + data[1:]
            return data

        return arriving
