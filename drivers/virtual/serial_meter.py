"""What virtual meters behind a pseudo-terminal share: a thread, faults, and lag.

They measure the rail of the device whose meter they are. A simulated meter is switched on once per
process, and off when that ends.
"""

from __future__ import annotations

import os
import select
import threading
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Protocol, Self

import numpy as np

from drivers.virtual.device import read_seed
from drivers.virtual.machine import Switched, switch_on
from drivers.virtual.mcu_terminal import Terminal
from drivers.virtual.rail import Rail, rail_of
from farm.errors import ConfigError
from farm.model import Address, Device

BEHIND_NS = 30_000_000
"""What a device has done is on its rail no later than this."""
FIFO_BYTES = 64 << 10
"""What nobody reads is kept up to here; a terminal alone holds 4095 bytes."""
STALL_S = 2.0
"""How long a meter is silent that a fault stalls."""
AWAY_S = 0.5
"""How long it is away when it is unplugged."""
READ_BYTES = 4096
GRID_NS = 10_000_000


class SerialMeter(ABC):
    """One meter that is switched on.

    Args:
        device: whose meter it is, with the meter's address for its own.
        folder: where its link may lie.

    Attributes:
        scheme: of the production meter that talks to it.
        faults: the kinds that its address may name.
        address, options: where the production meter finds it.
        turn_s: how long it waits for orders before it looks at the time; None for ever.
    """

    scheme: ClassVar[str]
    faults: ClassVar[tuple[str, ...]]
    options: tuple[tuple[str, str], ...] = ()
    turn_s: float | None = None

    def __init__(self, device: Device, folder: Path) -> None:
        told = device.address
        self.rail: Rail = rail_of(device.name)
        self.gain = read_gain(told)
        self.seed = zlib.crc32(f"{device.name} {read_seed(told)}".encode())
        self.noise = np.random.default_rng(self.seed)
        self._due = read_meter_faults(told, self.faults)
        folder.mkdir(parents=True, exist_ok=True)
        self._link = folder / f"{self.scheme}-{os.getpid()}"
        own = ("seed", "fault", "gain", "root")
        kept = tuple(pair for pair in told.options if pair[0] not in own)
        self.address = Address(scheme=self.scheme, place=str(self._link), options=kept)
        self._out = b""
        self._off = threading.Event()
        self._wake = os.eventfd(0)
        self._terminal = self._plug_in()
        self._thread = threading.Thread(target=self._live, name=self.scheme, daemon=True)

    def on(self) -> Self:
        """Let it live; the last step, when all of it is there."""
        self._thread.start()
        return self

    def switch_off(self) -> None:
        """Let nothing of it be left."""
        self._off.set()
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._terminal.close()
        os.close(self._wake)

    @abstractmethod
    def hear(self, data: bytes) -> None:
        """Bytes came, or none: some time has passed."""

    def say(self, data: bytes) -> None:
        """Send bytes; what nobody reads for too long is lost."""
        if len(self._out) + len(data) <= FIFO_BYTES:
            self._out += data

    def strikes(self, kind: str, at: int) -> bool:
        """Whether a fault is due by now; it strikes once."""
        due = next((n for n in self._due.get(kind, ()) if n <= at), None)
        if due is None:
            return False
        self._due[kind].remove(due)
        return True

    @staticmethod
    def now_ns() -> int:
        """The time that it has reached: of the past, so that the rail is complete."""
        return time.monotonic_ns() - BEHIND_NS

    def stall(self) -> None:
        """Be silent for a while; what comes meanwhile is heard later."""
        self._off.wait(STALL_S)

    def unplug(self) -> None:
        """Vanish, and come back as another terminal behind the same link."""
        self._terminal.close()
        self._out = b""
        self._off.wait(AWAY_S)
        self._terminal = self._plug_in()

    def _plug_in(self) -> Terminal:
        terminal = Terminal(self._link)
        os.set_blocking(terminal.far, False)
        terminal.show()
        return terminal

    def _live(self) -> None:
        while not self._off.is_set():
            far = self._terminal.far
            writers = (far,) if self._out else ()
            readable, writable, _ = select.select((far, self._wake), writers, (), self.turn_s)
            with suppress(BlockingIOError):
                if writable:
                    self._out = self._out[os.write(far, self._out) :]
                self.hear(os.read(far, READ_BYTES) if far in readable else b"")


class Lagging:
    """What a meter shows of a rail that follows it like a capacitor, and is renewed now and then.

    Args:
        rail: what it measures.
        lag_s: its time constant.
        renewed_s: how often it shows something new.
    """

    def __init__(self, rail: Rail, lag_s: float, renewed_s: float) -> None:
        self._rail = rail
        self._lag_ns = lag_s * 1e9
        self._renewed_ns = round(renewed_s * 1e9)
        self._shown_w = 0.0
        self._at_ns = 0

    def power_w(self, now_ns: int) -> float:
        """What it shows at a time, which is no earlier than the one before."""
        now_ns -= now_ns % self._renewed_ns
        since_ns = max(self._at_ns, now_ns - round(20 * self._lag_ns))
        if since_ns >= now_ns:
            return self._shown_w
        edges = np.append(np.arange(since_ns, now_ns, GRID_NS), now_ns)
        for power_w, width_ns in zip(self._rail.mean_power_w(edges), np.diff(edges), strict=True):
            self._shown_w += -np.expm1(-width_ns / self._lag_ns) * (power_w - self._shown_w)
        self._at_ns = now_ns
        return float(self._shown_w)


class Played(Switched, Protocol):
    """A meter of this process that can be switched on."""

    def on(self) -> Self:
        """Itself, at work."""


def switched_on(kind: Callable[[Device, Path], Played], device: Device) -> Address:
    """Switch a meter on, once per process; where the production meter finds it.

    Raises:
        ConnectError: its folder cannot be used.
    """

    def made(own: Device, folder: Path) -> Played:
        return kind(own, folder).on()

    return switch_on(made, replace(device, address=device.metered_by)).address


def check_meter(address: Address, faults: tuple[str, ...]) -> None:
    """Refuse a seed, a gain and faults that are none.

    Raises:
        ConfigError: one of them is none.
    """
    read_seed(address)
    read_gain(address)
    read_meter_faults(address, faults)


def read_gain(address: Address) -> float:
    """What a meter shows for every watt, from its option `gain`.

    Raises:
        ConfigError: it is no number above zero.
    """
    text = address.option("gain", "1")
    try:
        gain = float(text)
    except ValueError:
        gain = 0.0
    if not 0 < gain < 100:
        raise ConfigError(f"gain '{text}' is no factor", hint="write for example gain=1.05")
    return gain


def read_meter_faults(address: Address, kinds: tuple[str, ...]) -> dict[str, list[int]]:
    """When faults of each kind are due, from the option `fault`: a list of KIND:AT.

    Raises:
        ConfigError: one cannot be read.
    """
    due: dict[str, list[int]] = {}
    for word in filter(None, address.option("fault").split(",")):
        kind, _, at = word.partition(":")
        if kind not in kinds or not (at.isascii() and at.isdigit()):
            raise ConfigError(
                f"fault '{word}' cannot be read",
                hint=f"write KIND:AT with KIND one of {', '.join(kinds)}",
            )
        due.setdefault(kind, []).append(int(at))
    return due
