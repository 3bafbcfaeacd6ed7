"""Virtual microcontrollers: real firmware on an emulated processor, or a board played by Python.

Address: `virtual-mcu://BOARD?seed=N&engine=ENGINE&root=/folder`, everything optional. Engines:

- `qemu`: the farm's firmware in QEMU (`drivers.virtual.qemu_board`). `gdb=1` has it serve a
  debugger, through which it can be flashed.
- `python`: a simulation that needs nothing installed (`drivers.virtual.mcu_device`), with faults
  `fault=KIND:AT`.
- `auto`: QEMU if that and a compiler are there, else Python. The board's name says which.

Both show what they draw on a rail (`drivers.virtual.rail`): the power is made up, the times of the
pin are those of this machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Collection
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import ClassVar

from drivers.mcu.firmware import build_firmware
from drivers.mcu.toolchain import find_toolchain
from drivers.virtual.device import read_faults, read_seed
from drivers.virtual.machine import switch_on
from drivers.virtual.mcu_control import ControlSocket, Engine
from drivers.virtual.mcu_device import FAULTS, PythonBoard
from drivers.virtual.mcu_rail import BoardRail
from drivers.virtual.qemu_board import BOARDS, DEFAULT_BOARD, ICOUNT_SHIFT, QemuBoard, check_qemu
from farm.connection import Virtual
from farm.errors import ConfigError, ConnectError, nearest_hint
from farm.model import Address, Device
from farm.record import TimeBasis

ENGINES = ("auto", "qemu", "python")
OPTIONS = ("seed", "engine", "fault", "root", "gdb")
LOCK_S = 5.0
"""A board that was just killed is gone by then."""


class VirtualMcu(Virtual):
    """A microcontroller that exists for as long as the controller's process."""

    platform: ClassVar[str] = "mcu"
    runtime: ClassVar[str] = "mcu"
    simulated: ClassVar[bool] = True
    has_shell: ClassVar[bool] = False
    time_basis: ClassVar[str] = TimeBasis.ICOUNT
    host: ClassVar[str] = "controller"

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse an unknown board, engine, fault or option."""
        address = device.address
        _one_of("board", address.place or DEFAULT_BOARD, BOARDS)
        _one_of("engine", address.option("engine", "auto"), ENGINES)
        for name, _ in address.options:
            _one_of("option", name, OPTIONS)
        read_seed(address)
        faults = read_faults(address, FAULTS)
        if faults and address.option("engine") != "python":
            raise ConfigError(
                "only a board that Python plays has scripted faults", hint="add engine=python"
            )
        if address.option("gdb") and address.option("engine") != "qemu":
            raise ConfigError("only an emulated board serves a debugger", hint="add engine=qemu")
        _one_of("gdb", address.option("gdb", "0"), ("0", "1"))

    @classmethod
    def start(cls, device: Device) -> Device:
        """Switch it on, once per process; the same device at the address where it answers.

        Raises:
            ConfigError: what the engine needs is not installed.
            ConnectError: it does not start, or another process has it.
        """
        return switch_on(Unit, device)


class Unit:
    """One board that is switched on.

    Args:
        device: as the inventory has it.
        folder: keeps what a board keeps without power.

    Attributes:
        address: where it answers.
        options: what whoever connects there has to know.
    """

    def __init__(self, device: Device, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        link = folder / "uart"
        lock = _lock(folder, device.name)
        with ExitStack() as undo:
            undo.callback(os.close, lock)
            engine, known = _make_engine(device, folder, link, lock)
            undo.callback(engine.close)
            engine.on()
            control = ControlSocket(folder, engine)
            undo.callback(control.close)
            self._undo = undo.pop_all()
        self.address = Address(scheme="uart", place=str(link))
        self.options = (
            ("icount_shift", str(ICOUNT_SHIFT)),
            ("control", control.path),
            ("flash", "relaunch"),
            ("power", "virtual-mcu"),
            *known,
        )

    def switch_off(self) -> None:
        """Cut its power, and let somebody else have its folder."""
        self._undo.close()


def _make_engine(
    device: Device, folder: Path, link: Path, lock: int
) -> tuple[Engine, tuple[tuple[str, str], ...]]:
    """The board, and the options that go with it."""
    address = device.address
    board = address.place or DEFAULT_BOARD
    rail = BoardRail(device.name, folder)
    if _emulates(address.option("engine", "auto")):
        gdb = address.option("gdb") == "1"
        firmware = build_firmware(board)
        emulated = QemuBoard(board, firmware, folder, link, lock=lock, rail=rail, gdb=gdb)
        more = (("flash", "gdb"), ("gdb", emulated.gdb)) if gdb else ()
        return emulated, (("board", board), *more)
    known = f"{device.name} {read_seed(address)}"
    unit = hashlib.sha256(os.fsencode(known)).hexdigest()[:24]
    faults = read_faults(address, FAULTS)
    return PythonBoard(board, folder, link, unit=unit, rail=rail, faults=faults), (
        ("serial", unit),
    )


def _emulates(engine: str) -> bool:
    """Whether the engine is QEMU.

    Raises:
        ConfigError: it shall be, and something is not installed.
    """
    if engine == "python":
        return False
    try:
        check_qemu()
        find_toolchain()
    except ConfigError:
        if engine == "qemu":
            raise
        return False
    return True


def _one_of(what: str, word: str, words: Collection[str]) -> None:
    if word not in words:
        raise ConfigError(
            f"there is no {what} '{word}' of virtual microcontrollers",
            hint=nearest_hint(word, words),
        )


def _lock(folder: Path, name: str) -> int:
    """Keep other processes away from a folder for as long as the descriptor is open.

    Raises:
        ConnectError: one has it.
    """
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    ends = time.monotonic() + LOCK_S
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        if time.monotonic() > ends:
            os.close(lock)
            raise ConnectError(
                f"another process has switched it on, in {str(folder)!r}",
                device=name,
                hint="wait until that process has ended, or give this one a folder: ?root=/folder",
            )
        time.sleep(0.05)
