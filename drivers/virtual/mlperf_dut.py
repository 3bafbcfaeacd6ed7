"""A virtual board behind a terminal whose firmware speaks the MLPerf Tiny text protocol.

Address: `virtual-mlperf-tiny://MODEL?model=/path.onnx&seed=N` with MODEL one of kws01, vww01, ic01
and ad01. Outputs are real, laps are simulated.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import zlib
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from drivers.virtual.device import read_seed
from drivers.virtual.machine import switch_on
from drivers.virtual.mcu_control import ControlSocket, Engine
from drivers.virtual.mcu_terminal import Terminal
from drivers.virtual.mlperf_firmware import MCU, ReferenceFirmware
from drivers.virtual.mlperf_model import TinyModel
from drivers.virtual.physics import Noise
from farm.connection import Virtual
from farm.errors import ConfigError, nearest_hint
from farm.model import Address, Device

MODELS = ("ad01", "ic01", "kws01", "vww01")
READ_BYTES = 4096


class VirtualMlperfTiny(Virtual):
    """A board that exists for as long as the controller's process.

    It is flashed like any board: an image for it is the ONNX file of a model, called `.bin`.
    """

    platform: ClassVar[str] = "mlperf_tiny"
    runtime: ClassVar[str] = "mlperf_tiny"
    simulated: ClassVar[bool] = True
    has_shell: ClassVar[bool] = False
    host: ClassVar[str] = "controller"

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse an unknown model id, a seed that is none, and a board without a model."""
        address = device.address
        if address.place not in MODELS:
            raise ConfigError(
                f"there is no virtual firmware '{address.place}'",
                hint=nearest_hint(address.place, MODELS),
            )
        read_seed(address)
        if not address.option("model"):
            raise ConfigError(
                "a virtual firmware needs a model",
                hint=f"write for example virtual-mlperf-tiny://{address.place}?model=/path.onnx",
            )

    @classmethod
    def start(cls, device: Device) -> Device:
        """Switch it on, once per process; the same device at the terminal where it answers."""
        cls.check(device)
        return switch_on(Board, device)


class Board(Engine):
    """One board that is switched on.

    Attributes:
        address: where it answers.
        options: how it is flashed.
    """

    def __init__(self, device: Device, folder: Path) -> None:
        address = device.address
        self._id = address.place
        self._image = Path(address.option("model"))
        self._firmware: ReferenceFirmware | None = None
        known = f"{device.name} {read_seed(address)}".encode("utf-8", "backslashreplace")
        self._noise = Noise(MCU, zlib.crc32(known))
        self._model = TinyModel(self._image, self._id)
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix="on-", dir=folder))
        link = self._folder / "tty"
        self._terminal = Terminal(link)
        self._terminal.show()
        self._socket = ControlSocket(self._folder, self)
        self.address = Address(scheme="mlperf-tiny", place=str(link))
        self.options: tuple[tuple[str, str], ...] = (
            ("flash", "relaunch"),
            ("control", self._socket.path),
        )
        self.on()
        threading.Thread(target=self._listen, daemon=True).start()

    def on(self) -> None:
        """Start its firmware; no error if it runs."""
        with self._lock:
            if self._firmware is None:
                self._firmware = ReferenceFirmware(
                    self._model, self._id, vendor="virtual", noise=self._noise
                )
                self._say(self._firmware.boot())

    def off(self) -> None:
        """It says nothing any more."""
        with self._lock:
            self._firmware = None

    def launch(self, kernel: Path) -> None:
        """Flash it; a file that is no model is refused, as a programmer would refuse it."""
        self._model = TinyModel(kernel, self._id)
        self.off()
        self.on()

    def close(self) -> None:
        """Switch it off for good."""
        self.off()
        self._socket.close()
        self._terminal.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    switch_off = close

    def _listen(self) -> None:
        with suppress(OSError):  # closed
            while data := os.read(self._terminal.far, READ_BYTES):
                with self._lock:
                    for answer in self._firmware.hear(data) if self._firmware else ():
                        self._say(answer)

    def _say(self, text: bytes) -> None:
        while text:
            text = text[os.write(self._terminal.far, text) :]
