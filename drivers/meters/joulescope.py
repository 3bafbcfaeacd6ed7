"""Joulescopes JS220 and JS110: current and voltage at once, a million times a second and more.

Driven through the maker's `pyjoulescope_driver` and not the package `joulescope` above it: the one
hands out what comes, with the ids of the samples, so that what is missing shows; the other keeps it
in a buffer that it fills up with NaN, and brings a file format, a plotter and windows along.
"""

from __future__ import annotations

import queue
import re
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, TypeVar

import numpy as np

from drivers.joulescope_bus import bus_of, is_played
from drivers.meters.joulescope_blocks import Blocks, last, mean
from farm.connection import Connection
from farm.errors import ConfigError, ConnectError, ConnectionLost, InfraError, MeterGap
from farm.metering import Chunk, ClockDomain, MeterFacts
from farm.model import Address, Device
from farm.protocols import Meter

RATES = ("1000", "2000", "5000", "10000", "20000", "50000", "100000")
DEFAULT_RATE = "100000"
"""A window is bounded within 10 us, and a day of it still fits onto a disk."""
GPI = {"0": 0, "1": 1, "2": 2, "3": 3, "trigger": 7}
JS110_INPUTS = ("0", "1")
SETTINGS: dict[str, tuple[tuple[str, Any], ...]] = {
    "js220": (
        ("h/fs", 1_000_000),
        ("s/i/range/mode", "auto"),
        ("s/v/range/select", "15 V"),
        ("s/v/range/mode", "manual"),
    ),
    "js110": (("h/fs", 2_000_000), ("s/i/range/select", "auto"), ("s/v/range/select", "15 V")),
}
KEPT = 4096
"""Messages that wait for being read, about half a minute; what comes then is lost, and missed."""
AT_ONCE = 60
REMOVED = "@/!remove"
_PLACE = re.compile(r"(JS110|JS220)-([0-9A-Z]+)", re.ASCII | re.IGNORECASE)

T = TypeVar("T")
Message = tuple[str, int, Any]
"""Name of a stream, when the message came, and what it holds; of no stream once it is unplugged."""


class Joulescope(Meter):
    """A Joulescope on USB.

    Address: `joulescope://JS220-001234`, as on its label. Options: `rate` in samples per second, of
    `RATES`. A JS110 may cut the current of the device for a moment when it is opened.

    It finds its range of current by itself. It marks no samples at full scale, so none are told: do
    not draw more than its label allows.
    """

    options: ClassVar[tuple[str, ...]] = ("rate",)
    meter_class: ClassVar[str] = ""
    inputs: ClassVar[tuple[str, ...]] = tuple(GPI)

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse what is no label, an input that the model lacks, and another rate."""
        address = _address(device)
        model, _ = _label(device)
        pin = address.option("sync").removeprefix("!")
        if model == "js110" and pin and pin not in JS110_INPUTS:
            raise ConfigError(
                f"a JS110 has no input '{pin}'",
                device=device.name,
                hint=f"it has: {', '.join(JS110_INPUTS)}",
            )
        if (rate := address.option("rate", DEFAULT_RATE)) not in RATES:
            raise ConfigError(
                f"'{rate}' is no rate of a Joulescope",
                device=device.name,
                hint=f"one of: {', '.join(RATES)}",
            )

    def __init__(self, device: Device, connection: Connection) -> None:
        self.check(device)  # nobody has, if a virtual one led here
        address = _address(device)
        self._device = device.name
        self._model, self._serial = _label(device)
        self._path = f"u/{self._model}/{self._serial}"
        self._rate = int(address.option("rate", DEFAULT_RATE))
        pin = address.option("sync")
        self._low = pin.startswith("!")
        self._topics = {"power": "s/p", "range": "s/i/range"}
        if pin:
            self._topics["logic"] = f"s/gpi/{GPI[pin.removeprefix('!')]}"
        self._bus = bus_of(self._path)
        self._undo: list[Callable[[], object]] = []
        """What ends the streams, in the order in which they began."""
        self._is_open = False
        self._open()

    def facts(self) -> MeterFacts:
        """From its label, and the version that it tells."""
        firmware = ""
        with suppress(RuntimeError, TimeoutError):  # a JS110 tells none
            version = int(self._bus.query(f"{self._path}/c/fw/version"))
            firmware = f"{version >> 24}.{version >> 16 & 0xFF}.{version & 0xFFFF}"
        return MeterFacts(
            meter_class=self._model,
            model=self._model.upper(),
            serial=self._serial,
            firmware=firmware,
            clock=ClockDomain.METER,
            rate_hz=self._rate,
            regular=True,
            simulated=is_played(self._path),
        )

    def start(self) -> None:
        """Begin to stream; one that had vanished is looked for again."""
        self.stop()
        if not self._is_open:
            self._open()
        reducers = {"power": mean, "range": last, "logic": last}
        self._blocks = Blocks(self._rate, {name: reducers[name] for name in self._topics})
        self._zero_ns: int | None = None
        self._told = False
        self._heard: queue.Queue[Message] = queue.Queue(KEPT)
        for name, topic in (*self._topics.items(), ("", "")):
            self._listen(name, f"{self._path}/{topic}/!data" if topic else REMOVED, self._heard)
        for topic in self._topics.values():
            switch = partial(self._bus.publish, f"{self._path}/{topic}/ctrl")
            self._undo.append(partial(switch, 0))
            self._do("start", partial(switch, 1))

    def read(self, *, timeout_s: float) -> Chunk:
        """Samples that are complete in every stream; those with a gap in one are lost."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            messages: list[Message] = []
            with suppress(queue.Empty):
                messages.append(self._heard.get(timeout=left))
                while len(messages) < AT_ONCE:
                    messages.append(self._heard.get_nowait())
            for message in messages:
                self._take(*message)
            chunk = self._chunk()
            if len(chunk.t_ns) or chunk.lost:
                return chunk
        return Chunk.empty()

    def stop(self) -> None:
        """Stream no more; the device goes on being fed."""
        while self._undo:
            with suppress(RuntimeError, TimeoutError):
                self._undo.pop()()

    def close(self) -> None:
        """Let go of it."""
        self.stop()
        if self._is_open:
            self._is_open = False
            with suppress(RuntimeError, TimeoutError):
                self._bus.close(self._path)

    def _open(self) -> None:
        there = self._do("list", self._bus.device_paths)
        if self._path not in there:
            labels = ("-".join(path.split("/")[1:]).upper() for path in there)
            raise ConnectError(
                f"no {self._model.upper()}-{self._serial} is plugged in",
                device=self._device,
                hint=f"there is: {', '.join(sorted(labels)) or 'none'}",
            )
        self._do("open", partial(self._bus.open, self._path, "restore"))
        self._is_open = True
        try:
            for topic, value in SETTINGS[self._model]:
                self._do("set", partial(self._bus.publish, f"{self._path}/{topic}", value))
        except InfraError:
            self.close()
            raise

    def _listen(self, name: str, topic: str, heard: queue.Queue[Message]) -> None:
        """Have the driver put messages there: a queue of an earlier start hears nothing new."""

        def hear(_: str, value: Any) -> None:
            with suppress(queue.Full):
                heard.put_nowait((name, time.monotonic_ns(), value))

        self._do("listen", partial(self._bus.subscribe, topic, "pub", hear))
        self._undo.append(partial(self._bus.unsubscribe, topic, hear))

    def _take(self, name: str, came_ns: int, message: Any) -> None:
        if not name:
            if message == self._path:
                self.close()
                raise ConnectionLost(
                    f"the {self._model.upper()} vanished",
                    device=self._device,
                    hint="was it unplugged?",
                )
            return
        values = message["data"]
        if name == "logic":
            values = np.unpackbits(values, bitorder="little")
        try:
            self._blocks.add(name, message, values)
        except ValueError as error:
            raise MeterGap(
                f"the {self._model.upper()} sends {error}, no multiple of {self._rate}",
                device=self._device,
                hint="close other programs that use it, and unplug it and plug it in again",
            ) from error
        if not self._told:  # the least delayed message tells best when the first sample was
            zero_ns = came_ns - self._blocks.age_ns(message, len(values))
            self._zero_ns = min(zero_ns, self._zero_ns or zero_ns)

    def _chunk(self) -> Chunk:
        numbers, values, lost = self._blocks.take()
        if not len(numbers):
            return Chunk(t_ns=Chunk.empty().t_ns, power_w=Chunk.empty().power_w, lost=lost)
        self._told = True
        logic = values.get("logic", np.empty(0)).astype(np.uint8)
        return Chunk(
            t_ns=(self._zero_ns or 0) + (numbers + 1) * (10**9 // self._rate),
            power_w=values["power"],
            logic=logic ^ np.uint8(1) if self._low else logic,
            range=values["range"].astype(np.uint8),
            lost=lost,
        )

    def _do(self, what: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except (RuntimeError, TimeoutError) as error:
            kind = ConnectError if what in ("list", "open") else InfraError
            raise kind(
                f"cannot {what} the {self._model.upper()}-{self._serial}: {error}",
                device=self._device,
                hint="close the Joulescope UI if it is open there; else plug it in again",
            ) from error


def _address(device: Device) -> Address:
    return device.metered_by


def _label(device: Device) -> tuple[str, str]:
    """Model and serial number, as paths have them.

    Raises:
        ConfigError: the place of the meter is no label.
    """
    place = _address(device).place
    if not (found := _PLACE.fullmatch(place)):
        raise ConfigError(
            f"'{place}' is no label of a Joulescope",
            device=device.name,
            hint="write for example joulescope://JS220-001234",
        )
    return found[1].lower(), found[2]
