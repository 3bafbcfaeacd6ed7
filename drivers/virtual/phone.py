"""A virtual phone behind a true ADB daemon: the production drivers reach it as they reach hardware.

Address: `virtual-adb://PROFILE?seed=N&root=/folder&fault=KIND:AT`, as in `drivers.virtual.device`,
and with faults and manners of its wire as in `VirtualPhone`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from drivers.virtual.device import FAULTS, read_faults
from drivers.virtual.machine import RUNTIME, Machine, check_machine, switch_on
from drivers.virtual.machine_files import MachineFiles
from drivers.virtual.phone_connection import Manners
from drivers.virtual.phone_keys import controller_key, write_private, write_public
from drivers.virtual.phone_server import PhoneServer
from drivers.virtual.phone_tools import MODEL, write_state, write_tools
from drivers.virtual.phone_tree import (
    Condition,
    cpufreq_links,
    phone_files,
    sensor_files,
    service_files,
)
from drivers.virtual.phone_wire import GREETING_BYTES, MOST_BYTES, NEWEST, WITH_CHECKSUMS
from farm.connection import Virtual
from farm.errors import ConfigError
from farm.model import Address, Device

WIRE_FAULTS = ("drop", "full", "unauthorized")
_NUMBERS = {
    "rate": (1, 1 << 40),
    "latency_ms": (0, 10_000),
    "max_payload": (GREETING_BYTES, MOST_BYTES),
    "version": (WITH_CHECKSUMS, NEWEST),
}
"""The options with a number, and what it may be."""


class VirtualPhone(Virtual):
    """An Android phone that exists for as long as the controller's process.

    Besides the faults of every virtual device it has those of a wire, as `fault=KIND:AT`:

    - `drop`: the connection breaks once AT bytes have been received in all.
    - `full`: AT bytes of each push find room.
    - `unauthorized`: from the AT-th connection on it trusts nobody, and nobody accepts a key.

    And it may have manners:

    - `rate=BYTES_PER_S`: so fast it reads.
    - `latency_ms=N`: so much later everything that it sends arrives.
    - `max_payload=N`: the longest payload that it takes, 4096 to 1048576 bytes.
    - `version=16777216`: it speaks the older protocol, with checksums.
    - `shell_v2=no`: it tells no exit statuses, as phones before Android 7.
    """

    platform: ClassVar[str] = "android"
    runtime: ClassVar[str] = RUNTIME
    simulated: ClassVar[bool] = True
    host: ClassVar[str] = "controller"

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse what cannot be read, and a runtime that has no physics here."""
        check_machine(device, Phone.faults)
        _read_manners(device.address)

    @classmethod
    def start(cls, device: Device) -> Device:
        """Switch it on, once per process; the same device at the address where it answers."""
        return switch_on(Phone, device)


class Phone(Machine):
    """One phone that is switched on.

    It keeps what `settings` were put and forgets the other settings, as phones do.
    """

    faults: ClassVar[tuple[str, ...]] = (*FAULTS, *WIRE_FAULTS)
    user: ClassVar[str] = "shell"

    def __init__(self, device: Device, folder: Path) -> None:
        super().__init__(device, folder)
        key = controller_key()
        model = {"name": "vphone", "model": MODEL, "device": "vphone"}
        self.server = PhoneServer(
            _read_manners(device.address),
            banner={f"ro.product.{name}": value for name, value in model.items()},
            known=key.public_key(),
            home=self.home,
            environment=self.environment,
            heard=self.hear,
            corrupts=lambda: self.unit.due("push", "corrupt"),
        )
        self.keep_secret("adbkey.pub", write_public(key.public_key(), "farm@controller"))
        self.address = Address(scheme="adb", place=f"127.0.0.1:{self.server.port}")
        self.options = (
            ("adb_key", str(self.keep_secret("adbkey", write_private(key)))),
            ("serial", self.serial),
            ("root", str(folder / "farm")),
        )

    def tap(self) -> bool:
        """A person accepts the key that the screen asks for; False if it asks for none."""
        return self.server.tap()

    def environment(self) -> dict[str, str]:
        """That of any machine, and the tools of a phone."""
        known = super().environment()
        return known | {"PATH": f"{self.volatile / 'tools'}:{known['PATH']}"}

    def describe(self, boot_id: str) -> None:
        """What it tells of itself when it has just started."""
        self._began_ns = self.unit.clock.now_ns()
        self._seen_s, self._fast_s, self._slow_s = self.unit.busy_s, 0.0, 0.0
        self.tree.write(phone_files(boot_id))
        for name, target in cpufreq_links().items():
            self.tree.link(name, target)
        (self.folder / "settings").mkdir(exist_ok=True)
        self._state = MachineFiles(self.volatile / "state")
        self._state.link("settings", str(self.folder / "settings"))
        write_state(self._state.folder, serial=self.serial, epoch_s=int(time.time()))
        write_tools(self.volatile / "tools", state=str(self._state.folder))

    def show(self, *, busy: bool, throttled: bool) -> None:
        """Heat, charge and frequencies."""
        now = self._condition(busy=busy, throttled=throttled)
        self.tree.tell(sensor_files(now))
        self._state.tell(service_files(now))

    def cut(self, kill: Callable[[], None]) -> None:
        """Break every connection, and kill what runs."""
        self.server.cut(kill)

    def stop_listening(self) -> None:
        """Serve nobody any more."""
        self.server.close()

    def _condition(self, *, busy: bool, throttled: bool) -> Condition:
        unit, profile = self.unit, self.unit.profile
        ran_s, self._seen_s = unit.busy_s - self._seen_s, unit.busy_s
        if throttled:
            self._slow_s += ran_s
        else:
            self._fast_s += ran_s
        return Condition(
            die_c=unit.body.temperature_c,
            room_c=profile.ambient_c,
            level_pct=unit.body.battery_pct if profile.battery_wh else None,
            capacity_wh=profile.battery_wh,
            gain_w=profile.charger_w - (profile.busy_w if busy else profile.idle_w),
            busy=busy,
            throttled=throttled,
            idle_s=(unit.clock.now_ns() - self._began_ns) // 1_000_000_000,
            busy_s=self._fast_s,
            slow_s=self._slow_s,
        )


def _read_manners(address: Address) -> Manners:
    """How a phone speaks.

    Raises:
        ConfigError: something cannot be read.
    """
    numbers = {name: _read_number(address, name) for name in _NUMBERS}
    if (v2 := address.option("shell_v2", "yes")) not in ("yes", "no"):
        raise ConfigError(
            f"shell_v2 '{v2}' cannot be read", hint="write shell_v2=yes or shell_v2=no"
        )
    faults = read_faults(address, Phone.faults)
    full = [at for kind, at in faults if kind == "full"]
    refuses = [at for kind, at in faults if kind == "unauthorized"]
    return Manners(
        version=numbers["version"] or NEWEST,
        max_payload=numbers["max_payload"] or MOST_BYTES,
        shell_v2=v2 == "yes",
        bytes_per_s=numbers["rate"] or 0,
        latency_s=(numbers["latency_ms"] or 0) / 1000,
        drops=tuple(at for kind, at in faults if kind == "drop"),
        full_after=min(full, default=None),
        refuses_from=min(refuses, default=None),
    )


def _read_number(address: Address, name: str) -> int | None:
    """An option of the address, None if it is not there."""
    text = address.option(name)
    least, most = _NUMBERS[name]
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise ConfigError(
            f"{name} '{text}' is no whole number from {least} to {most}",
            hint=f"write for example {name}={max(least, 1)}",
        )
    return int(text)
