"""A virtual Joulescope JS220: it plays the maker's driver, as `drivers.joulescope_bus` says why.

Address: `virtual-joulescope://?rate=R&sync=0&seed=N&gain=G&fault=KIND:AT,KIND:AT`. Faults, AT so
many hundredths of a second after its streams began: `drop` (a hundredth is missing in every
stream), `drop-power` (in that of power only), `repeat` (it is sent twice), `stall` (nothing comes
for 2 s, then all of it), `unplug` (it vanishes for half a second).
"""

from __future__ import annotations

import threading
import time
import zlib
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from drivers.joulescope_bus import Heard, plug_in
from drivers.virtual.device import read_seed
from drivers.virtual.rail import rail_of
from drivers.virtual.serial_meter import (
    AWAY_S,
    BEHIND_NS,
    STALL_S,
    check_meter,
    read_gain,
    read_meter_faults,
    switched_on,
)
from farm.model import Address, Device
from farm.protocols import VirtualMeter

FAULTS = ("drop", "drop-power", "repeat", "stall", "unplug")
FIRMWARE = 1 << 24 | 3 << 16
ID_RATE = 2_000_000
ID_NS = 500
TICK_IDS = 20_000
"""A message of every stream holds a hundredth of a second."""
FIRST_ID = (1 << 32) - 2 * ID_RATE
"""Its counter of 32 bits begins anew two seconds after it was switched on."""
NOISE_W = 2e-5


class VirtualJoulescope(VirtualMeter):
    """A JS220 that exists for as long as the controller's process."""

    options: ClassVar[tuple[str, ...]] = ("rate", "seed", "fault", "gain")
    meter_class: ClassVar[str] = "js220"
    inputs: ClassVar[tuple[str, ...]] = ("0", "1", "2", "3", "trigger")

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse a seed, a gain and faults that are none."""
        check_meter(device.metered_by, FAULTS)

    @classmethod
    def start(cls, device: Device) -> Address:
        """Switch it on; the label where the production meter finds it."""
        return switched_on(PlayedJoulescope, device)


class PlayedJoulescope:
    """One JS220 that is switched on, and the driver that finds nothing else.

    Args:
        device: whose meter it is, with the meter's address for its own.
        folder: nothing of it lies in files.

    Attributes:
        address, options: where the production meter finds it.
    """

    options: tuple[tuple[str, str], ...] = ()

    def __init__(self, device: Device, folder: Path) -> None:
        told = device.address
        self._rail = rail_of(device.name)
        self._gain = read_gain(told)
        self._due = read_meter_faults(told, FAULTS)
        number = zlib.crc32(f"{device.name} {told!r}".encode())
        self._noise = np.random.default_rng([read_seed(told), number])
        self._path = f"u/js220/SIM{number:08X}"
        pin = told.option("sync")
        self._wired = {"0": 0, "1": 1, "2": 2, "3": 3, "trigger": 7}.get(pin.removeprefix("!"))
        self._low = pin.startswith("!")
        kept = tuple(pair for pair in told.options if pair[0] in ("rate", "sync"))
        self.address = Address(scheme="joulescope", place=f"JS220-SIM{number:08X}", options=kept)
        self._lock = threading.Lock()
        self._there, self._taken = True, False
        self._set: dict[str, Any] = {"c/fw/version": FIRMWARE}
        self._hearers: list[tuple[str, Heard]] = []
        self._on_ns = time.monotonic_ns()
        self._began = self._next = FIRST_ID
        self._off = threading.Event()
        self._thread = threading.Thread(target=self._live, name="joulescope", daemon=True)

    def on(self) -> Self:
        """Let it live, and be found."""
        plug_in(self._path, self)
        self._thread.start()
        return self

    def switch_off(self) -> None:
        """End its thread."""
        self._off.set()
        self._thread.join()

    def device_paths(self) -> list[str]:
        """Itself, unless it is unplugged."""
        return [self._path] if self._there else []

    def open(self, device_prefix: str, mode: str | None = None) -> None:
        """Be taken, by one at a time."""
        if not self._there:
            raise TimeoutError(f"jsdrv_open timed out | {device_prefix}")
        if self._taken:
            raise RuntimeError(f"jsdrv_open failed 11 IN_USE | {device_prefix}")
        self._taken = True

    def close(self, device_prefix: str) -> None:
        """Be let go of."""
        self._taken = False
        self._silence()

    def publish(self, topic: str, value: Any) -> None:
        """Begin or end a stream, or keep a setting."""
        self._check(topic)
        name = topic.removeprefix(self._path + "/")
        with self._lock:
            if value and name.endswith("/ctrl") and not self._streams():
                now = FIRST_ID + (time.monotonic_ns() - BEHIND_NS - self._on_ns) // ID_NS
                self._began = self._next = -(-now // TICK_IDS) * TICK_IDS  # nothing from before
            self._set[name] = value

    def query(self, topic: str) -> Any:
        """What was set."""
        self._check(topic)
        name = topic.removeprefix(self._path + "/")
        if name not in self._set:
            raise RuntimeError(f"jsdrv_query failed 16 NOT_FOUND | {topic}")
        return self._set[name]

    def subscribe(self, topic: str, flags: str, fn: Heard) -> None:
        """Tell a hearer of a topic from now on."""
        with self._lock:
            self._hearers.append((topic, fn))

    def unsubscribe(self, topic: str, fn: Heard) -> None:
        """Tell it no more."""
        with self._lock:
            self._hearers.remove((topic, fn))

    def _check(self, topic: str) -> None:
        if not self._taken:
            raise RuntimeError(f"jsdrv_publish failed 14 CLOSED | {topic}")

    def _streams(self) -> list[str]:
        """The streams that are on."""
        names = [name for name, value in self._set.items() if name.endswith("/ctrl") and value]
        return [name.removesuffix("/ctrl") for name in names]

    def _silence(self) -> None:
        with self._lock:
            for name in self._streams():
                self._set[f"{name}/ctrl"] = 0

    def _tell(self, topic: str, value: Any) -> None:
        with self._lock:
            hearers = [hear for known, hear in self._hearers if known == topic]
        for hear in hearers:
            hear(topic, value)

    def _live(self) -> None:
        while not self._off.wait(TICK_IDS * ID_NS / 1e9 / 2):
            with self._lock:
                streams = self._streams()
            now = FIRST_ID + (time.monotonic_ns() - BEHIND_NS - self._on_ns) // ID_NS
            while streams and self._next + TICK_IDS <= now and not self._off.is_set():
                self._tick(streams)
                with self._lock:
                    streams = self._streams()

    def _tick(self, streams: list[str]) -> None:
        """Send a hundredth of a second, or what has become of it."""
        at = (self._next - self._began) // TICK_IDS
        first, self._next = self._next, self._next + TICK_IDS
        kind = next((kind for kind, due in self._due.items() if at in due), "")
        if kind:
            self._due[kind].remove(at)
        if kind == "unplug":
            self._unplug()
            return
        if kind == "stall":
            self._off.wait(STALL_S)
        for name in streams:
            if kind == "drop" or (kind == "drop-power" and name == "s/p"):
                continue
            message = self._message(name, first)
            for _ in range(2 if kind == "repeat" else 1):
                self._tell(f"{self._path}/{name}/!data", message)

    def _message(self, name: str, first: int) -> dict[str, Any]:
        """What a stream says of a tick: what the farm uses of what the maker's driver hands out."""
        start_ns = self._on_ns + (first - FIRST_ID) * ID_NS
        edges = start_ns + np.arange(0, TICK_IDS + 2, 2, dtype=np.int64) * ID_NS
        data: npt.NDArray[Any] = np.zeros(TICK_IDS, np.uint8)
        step = 1
        if name == "s/p":
            noise = self._noise.standard_normal(TICK_IDS // 2, np.float32)
            power_w = self._rail.mean_power_w(edges) * self._gain + NOISE_W * noise
            data, step = power_w.astype(np.float32), 2
        elif name.startswith("s/gpi/"):
            if name == f"s/gpi/{self._wired}":
                data = np.repeat(self._rail.pin_at(edges[1:]) ^ self._low, 2)
            data = np.packbits(data, bitorder="little")
        return {
            "sample_id": first % (1 << 32),
            "sample_rate": ID_RATE,
            "decimate_factor": step,
            "data": data,
        }

    def _unplug(self) -> None:
        self._there = self._taken = False
        self._silence()
        self._tell("@/!remove", self._path)
        self._off.wait(AWAY_S)
        self._there = True
