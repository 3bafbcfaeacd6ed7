"""A virtual bench supply that speaks SCPI over TCP, and feeds a virtual device.

Address: `virtual-scpi://?query=Q&serial=S&seed=N&gain=G&fault=KIND:AT,KIND:AT`. Faults, at the
AT-th measurement that it is asked for: `silent` (no answer), `late` (one that comes after its time,
for whoever listens then), `nan` (the number that SCPI has for none), `garbage`, `cut` (the
connection is cut), `off` (nobody listens any more).
"""

from __future__ import annotations

import socket
import socketserver
import threading
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from drivers.virtual.device import read_seed
from drivers.virtual.rail import rail_of
from drivers.virtual.serial_meter import (
    BEHIND_NS,
    Lagging,
    check_meter,
    read_gain,
    read_meter_faults,
    switched_on,
)
from farm.errors import ConnectError
from farm.model import Address, Device
from farm.protocols import VirtualMeter

FAULTS = ("silent", "late", "nan", "garbage", "cut", "off")
LAG_S, RENEWED_S = 0.02, 0.02
NOISE = 1e-3
"""Of a reading, of its value."""
LATE_S = 1.5
MAX_LINE = 256
MAX_ERRORS = 20
NO_ERROR = '+0,"No error"'


class VirtualScpi(VirtualMeter):
    """A supply that exists for as long as the controller's process."""

    options: ClassVar[tuple[str, ...]] = ("query", "serial", "seed", "fault", "gain")
    meter_class: ClassVar[str] = "supply"

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse a seed, a gain and faults that are none."""
        check_meter(device.metered_by, FAULTS)

    @classmethod
    def start(cls, device: Device) -> Address:
        """Switch it on; the port where the production meter finds it."""
        return switched_on(Supply, device)


class Supply:
    """One supply that is switched on.

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
        self._shown = Lagging(self._rail, LAG_S, RENEWED_S)
        self._gain = read_gain(told)
        self._due = read_meter_faults(told, FAULTS)
        number = zlib.crc32(f"{device.name} {told!r}".encode())
        self._noise = np.random.default_rng([read_seed(told), number])
        self._identity = f"Farm,Virtual supply (simulated),SIM{number:08X},1.0"
        self._lock = threading.Lock()
        self._errors: list[str] = []
        self._asked = 0
        self.off = threading.Event()
        try:
            self._server = _Server(("127.0.0.1", 0), _Client)
        except OSError as error:
            raise ConnectError(f"no port for a supply: {error}", device=device.name) from error
        self._server.supply = self
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="scpi", daemon=True
        )
        kept = tuple(pair for pair in told.options if pair[0] in ("query", "serial"))
        port = self._server.server_address[1]
        self.address = Address(scheme="scpi", place=f"127.0.0.1:{port}", options=kept)

    def on(self) -> Self:
        """Let it listen."""
        self._thread.start()
        return self

    def switch_off(self) -> None:
        """Hang up on everybody."""
        if not self.off.is_set():
            self.off.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def obey(self, line: str) -> tuple[str | None, str]:
        """The answer to a line, None for no answer; and the fault that strikes."""
        header, _, channel = line.strip().upper().partition(" ")
        with self._lock:
            if header == "*IDN?":
                return self._identity, ""
            if header in ("SYST:ERR?", "SYSTEM:ERROR?"):
                return (self._errors.pop(0) if self._errors else NO_ERROR), ""
            if header == "*CLS":
                self._errors.clear()
                return None, ""
            value = self._measure(header)
            if value is None or channel not in ("", "CH1", "(@1)"):
                complaint = '-113,"Undefined header"' if value is None else '-224,"Illegal value"'
                self._errors = [*self._errors[: MAX_ERRORS - 1], complaint]
                return None, ""
            self._asked += 1
            kind = next((kind for kind, due in self._due.items() if self._asked in due), "")
        answers = {"silent": None, "nan": "9.91E37", "garbage": "\x1f?!"}
        return answers.get(kind, f"{value:.6E}"), kind

    def _measure(self, header: str) -> float | None:
        """What the display shows, None for a question that it does not know."""
        words = [word[:4] for word in header.removesuffix("?").removeprefix(":").split(":")]
        if words[:1] != ["MEAS"] or not header.endswith("?") or len(words) < 2:
            return None
        volts = self._rail.volts
        power_w = self._shown.power_w(time.monotonic_ns() - BEHIND_NS)
        power_w *= 1 + NOISE * float(self._noise.standard_normal())
        shown = {"POW": power_w, "POWE": power_w, "VOLT": volts, "CURR": power_w / volts}
        value = shown.get(words[-1] if words[-1] != "DC" else words[-2])
        return value if value is None or words[1] == "VOLT" else value * self._gain


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    supply: Supply


class _Client(socketserver.StreamRequestHandler):
    """Somebody who is connected."""

    server: _Server

    def handle(self) -> None:
        """Answer line by line; nobody is heard once the supply is off."""
        supply = self.server.supply
        self.connection.settimeout(0.2)
        said = b""
        with suppress(OSError):
            while not supply.off.is_set():
                with suppress(TimeoutError):
                    data = self.connection.recv(MAX_LINE)
                    if not data:
                        return
                    said += data
                while b"\n" in said:
                    line, _, said = said.partition(b"\n")
                    if not self._answer(line[:MAX_LINE].decode("ascii", "replace")):
                        return
                said = said[:MAX_LINE]

    def _answer(self, line: str) -> bool:
        """Whether the connection goes on."""
        supply = self.server.supply
        answer, fault = supply.obey(line)
        if fault == "off":
            threading.Thread(target=supply.switch_off, daemon=True).start()
            supply.off.wait()
        if fault in ("cut", "off"):
            self.connection.shutdown(socket.SHUT_RDWR)
            return False
        if fault == "late":
            supply.off.wait(LATE_S)
        if answer is not None:
            self.connection.sendall(answer.encode("latin-1") + b"\n")
        return True
