"""What a virtual board and a virtual phone share: a computer that is played by this one.

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
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Protocol

from drivers.virtual.device import FAULTS, VirtualDevice, find_profile, read_faults, read_seed
from drivers.virtual.machine_files import MachineFiles, remove_stale, write_program
from drivers.virtual.machine_python import COMMAND, MachinePython
from farm.errors import ConfigError, ConnectError
from farm.model import Address, Device
from farm.shell import cache_folder

SIMULATED = "latency, memory, heat and charge are simulated; outputs are real"
RUNTIME = "ort_python"
"""The runtime that has physics here."""
RELEASE_S = 2.0
"""So long after its last run a throttled machine is back at full speed."""


class Machine(ABC):
    """One unit that is switched on.

    Args:
        device: as the inventory has it.
        folder: keeps what a machine keeps without power.

    Attributes:
        faults: the kinds that its address may name.
        user: who its commands run as.
        address: where it answers.
        options: what whoever connects there has to know.
        folder: keeps what a machine keeps without power.
        volatile: is removed when it is switched off.
        home: where commands begin.
        tree: describes its hardware.
        serial: its serial number.
        unit: its physics.
    """

    faults: ClassVar[tuple[str, ...]] = FAULTS
    user: ClassVar[str]
    address: Address
    options: tuple[tuple[str, str], ...]

    def __init__(self, device: Device, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale(folder)
        self.folder = folder
        self.unit = VirtualDevice(device, folder, kinds=self.faults)
        self.unit.clock.advance(time.monotonic())  # it was not charged before it was there
        body, profile = self.unit.body, self.unit.profile
        body.temperature_c = body.steady_c(profile.idle_w)  # but it has been on for a while
        known = os.fsencode(f"{self.unit.name} {self.unit.seed}")
        self.serial = f"virtual-{hashlib.sha256(known).hexdigest()[:16]}"
        self._lock = threading.Lock()
        self._last_run_s = -RELEASE_S
        self.volatile = Path(tempfile.mkdtemp(prefix=f"boot-{os.getpid()}-", dir=folder))
        self.tree = MachineFiles(self.volatile / "tree")
        self._boot()
        self.home = folder / "home"
        self.home.mkdir(exist_ok=True)
        write_program(folder / "bin" / "python3", COMMAND)
        self._python = MachinePython(
            self.unit, self._lock, ran=self._has_run, restarted=self._restart
        )

    @abstractmethod
    def describe(self, boot_id: str) -> None:
        """Write anew what tells of the hardware: it was switched on, and settings are forgotten."""

    @abstractmethod
    def show(self, *, busy: bool, throttled: bool) -> None:
        """Write what sensors show now; `busy` says that something ran just now."""

    @abstractmethod
    def cut(self, kill: Callable[[], None]) -> None:
        """Break every connection, and kill what runs, as when the power fails."""

    @abstractmethod
    def stop_listening(self) -> None:
        """Serve nobody any more."""

    def switch_off(self) -> None:
        """End whatever runs on it."""
        self.stop_listening()
        self._python.close()
        self._kill_all()
        shutil.rmtree(self.volatile, ignore_errors=True)

    def hear(self) -> bool:
        """A command has come; False if a scripted disconnect is due."""
        return not self.unit.due("operation", "disconnect")

    def keep_secret(self, name: str, text: str) -> Path:
        """A file for this user's eyes that is gone when the machine is switched off."""
        path = self.volatile / name
        path.touch(mode=0o600)
        path.write_text(text)
        return path

    def environment(self) -> dict[str, str]:
        """What a command that begins now knows of its surroundings; the sensors are up to date."""
        if self._lock.acquire(blocking=False):  # while a model runs, that sets the temperature
            try:
                self._let_time_pass()
            finally:
                self._lock.release()
        return {
            "HOME": str(self.home),
            "USER": self.user,
            "SHELL": "/bin/sh",
            "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
            "FARM_TREE": str(self.tree.folder),
            "FARM_SIMULATED": SIMULATED,
            "FARM_MACHINE": self._python.name,
        }

    def _let_time_pass(self) -> None:
        """A machine has the time of this computer, and cools while nobody looks."""
        clock = self.unit.clock
        clock.sleep(max(0, time.monotonic_ns() - clock.now_ns()) / 1e9)
        self._show()

    def _has_run(self) -> None:
        self._last_run_s = time.monotonic()
        self._show()

    def _show(self) -> None:
        recent = time.monotonic() - self._last_run_s < RELEASE_S
        self.show(busy=recent, throttled=self.unit.throttled and recent)

    def _boot(self) -> None:
        self.describe(str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self.serial} {self.unit.boots}")))
        self._let_time_pass()

    def _restart(self) -> None:
        """Everything that ran is gone, and so is every connection."""
        with self._lock:
            self._boot()
        self.cut(self._kill_all)

    def _kill_all(self) -> None:
        """Kill what was started here, whatever session it is in: its surroundings tell."""
        mark = f"FARM_MACHINE={self._python.name}\0".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (folder / "environ").read_bytes():
                    os.kill(int(folder.name), signal.SIGKILL)


def check_machine(device: Device, kinds: tuple[str, ...]) -> None:
    """Refuse a runtime that has no physics here, and an unknown profile, seed or fault.

    Args:
        device: as the inventory has it.
        kinds: of faults that there are.

    Raises:
        ConfigError: something is wrong.
    """
    if device.runtime != RUNTIME:
        raise ConfigError(
            f"only {RUNTIME} has simulated times here, {device.runtime} would measure"
            " the controller",
            hint=f"leave out 'runtime', or write runtime: {RUNTIME}",
        )
    find_profile(device.address)
    read_seed(device.address)
    read_faults(device.address, kinds)


class Switched(Protocol):
    """Something that is on.

    Attributes:
        address: where it answers.
        options: what whoever connects there has to know.
    """

    address: Address
    options: tuple[tuple[str, str], ...]

    def switch_off(self) -> None:
        """Let nothing of it be left in this process."""


_machines: dict[tuple[str, str, Path], Switched] = {}
_switch = threading.Lock()


def switch_on(kind: Callable[[Device, Path], Switched], device: Device) -> Device:
    """Switch a machine on, once per process; the same device at the address where it answers.

    Raises:
        ConnectError: its folder cannot be used.
    """
    folder = _folder(device)
    key = (device.name, repr(device.address), folder)
    with _switch:
        if key not in _machines:
            try:
                _machines[key] = kind(device, folder)
            except OSError as error:
                place = f"{device.address.scheme}://{device.address.place}"
                raise ConnectError(
                    f"cannot use the folder {str(folder)!r}: {error.strerror}",
                    device=device.name,
                    hint=f"give a writable one: address: {place}?root=/folder",
                ) from error
        machine = _machines[key]
    return replace(device, address=machine.address, options=(*device.options, *machine.options))


@atexit.register
def switch_all_off() -> None:
    """No machine outlives the process that plays it."""
    with _switch:
        while _machines:
            _machines.popitem()[1].switch_off()


def _folder(device: Device) -> Path:
    """Where a machine keeps its files: by its name, as far as a folder can be called that."""
    if root := device.address.option("root"):
        return Path(root).resolve()
    name = re.sub(r"[^A-Za-z0-9._-]", "-", device.name)
    if name != device.name or not name.strip("."):
        name += f"-{hashlib.sha256(os.fsencode(device.name)).hexdigest()[:8]}"
    return (cache_folder() / name).resolve()
