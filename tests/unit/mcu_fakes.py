"""A microcontroller behind a line, for tests: requests and answers are the bytes of the protocol.

Its slots and its models are those of the virtual board in Python; it has no pseudo-terminal, no
thread and no time of its own, and goes wrong when it is told to.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from drivers.mcu.client import Refusal
from drivers.mcu.image import Cpu
from drivers.mcu.wire import ANSWER, Kind
from drivers.runtimes.mcu_updates import VIRTUAL_FAULT, VIRTUAL_HANG
from drivers.virtual.mcu_model import Model
from drivers.virtual.mcu_slots import Announced, Refuse, Slots
from farm.connection import Line
from farm.errors import CommandTimeout, DeviceRebooted, Evidence, InfraError
from farm.model import Address, Artifact, Device
from farm.protocols import Power

MAX_PAYLOAD = 16392
STACK_PEAK = 1444
FAULT_TOLD = {"pc": 0x21000101, "lr": 0, "cfsr": 1 << 16, "cause": "usage"}


class VirtualClock:
    """Passes by being slept through."""

    def __init__(self) -> None:
        self.now = 0

    def now_ns(self) -> int:
        self.now += 1_000_000
        return self.now

    def sleep(self, duration_s: float) -> None:
        self.now += int(duration_s * 1e9)


class FakeBoard:
    """A board with two slots; what it tells can be changed by `told`.

    Args:
        folder: keeps its slots.
        built_in: a model that is a part of its firmware, which then has no slots.

    Attributes:
        told: fields of HELLO that differ from the usual ones.
        ticks: what inferences take, in turn.
        trouble: what befalls a request, by its kind and number since the start: a `Refusal`, the
            cause of a restart, or `silent`.
        asked: every request's kind, in order.
    """

    def __init__(self, folder: Path, *, built_in: bytes = b"", sha256: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._slots = Slots(folder)
        self._built_in, self._sha256 = built_in, sha256
        self.told: dict[str, Any] = {}
        self.ticks: Iterator[int] = cycle([1000])
        self.trouble: dict[tuple[Kind, int], object] = {}
        self.asked: list[Kind] = []
        self.cause = "power"
        self.is_on = self.restarted = True
        self.last_fault: dict[str, Any] | None = None
        self.restart("power")

    def restart(self, cause: str) -> None:
        self.cause, self.restarted = cause, True
        self._model: Model | None = None
        self._input, self._output = bytearray(), b""
        self._slots.start()
        if cause == "fault":
            self.last_fault = FAULT_TOLD

    @property
    def state(self) -> tuple[int, int, int]:
        """Numbers of the running, the confirmed and the pending slot, -1 for none."""
        return self._slots.running, self._slots.state.confirmed, self._slots.state.pending

    def answer(self, kind: Kind, payload: bytes) -> bytes:
        """The answer; empty if the board restarted instead, or is silent."""
        self.asked.append(kind)
        trouble = self.trouble.get((kind, self.asked.count(kind)))
        if isinstance(trouble, Refusal):
            return _refused(trouble, "as the test wants it")
        if trouble:
            if trouble != "silent":
                self.restart(str(trouble))
            return b""
        try:
            return self._do(kind, payload)
        except Refuse as refuse:
            return _refused(refuse.refusal, str(refuse))

    def _do(self, kind: Kind, payload: bytes) -> bytes:
        slots, found = self._slots, b""
        match kind:
            case Kind.HELLO:
                found = json.dumps(self._hello()).encode()
            case Kind.BEGIN:
                slot, length, crc32, sha256 = struct.unpack("<B3xII32s", payload)
                slots.begin(slot, Announced(length=length, crc32=crc32, sha256=sha256.hex()))
            case Kind.DATA:
                slot, offset = struct.unpack_from("<B3xI", payload)
                slots.data(slot, offset, payload[8:])
            case Kind.COMMIT:
                slots.commit(payload[0])
            case Kind.CONFIRM:
                slots.confirm()
            case Kind.INPUT:
                (offset,) = struct.unpack_from("<I", payload)
                self._input[offset:] = payload[4:]
            case Kind.INFER:
                return self._infer(*struct.unpack("<II", payload))
            case Kind.OUTPUT:
                offset, length = struct.unpack("<II", payload)
                found = self._output[offset : offset + length]
            case Kind.ITEM:
                (timeout_ms,) = struct.unpack_from("<I", payload)
                self._input = bytearray(payload[4:])
                found = self._output if self._infer(1, timeout_ms) else b""
                if not found:
                    return b""
            case Kind.RESET:
                self.restart("reset")
        return bytes([kind | ANSWER]) + found

    def _infer(self, count: int, timeout_ms: int) -> bytes:
        code = self._built_in or self._slots.code
        if not code:
            raise Refuse(Refusal.NO_MODEL, "nothing runs")
        if code in (VIRTUAL_FAULT, VIRTUAL_HANG):
            self.restart("fault" if code == VIRTUAL_FAULT else "watchdog")
            return b""
        self._model = self._model or Model(code)
        self._output = self._model.run(bytes(self._input))
        ticks = [next(self.ticks) for _ in range(count)]
        return bytes([Kind.INFER | ANSWER]) + struct.pack(f"<II{count}Q", STACK_PEAK, 0, *ticks)

    def _hello(self) -> dict[str, Any]:
        told = self._slots.describe() | {
            "protocol": 1, "firmware": "farm-mcu 1", "board": "fake", "cpu": int(Cpu.VIRTUAL),
            "cpuid": "410fc240", "unit": "0a0b", "abi": 1, "tick_hz": 1_000_000,
            "ticks": "cycles", "max_payload": MAX_PAYLOAD, "max_input": 1 << 20,
            "max_output": 1 << 20, "stack": 1 << 16, "ram": {"address": 0, "bytes": 0}, "boot": 1,
            "cause": self.cause, "last_fault": self.last_fault,
        }  # fmt: skip
        if self._built_in:
            told |= {"slots": [], "model": "own", "model_sha256": self._sha256}
        return told | self.told


def _refused(refusal: Refusal, text: str) -> bytes:
    return bytes([Kind.ERROR]) + struct.pack("<i", refusal) + text.encode()


class FakeLine(Line):
    """A line to such a board; after a restart nothing is answered until HELLO was asked."""

    platform = "mcu"
    runtime = "mcu"
    simulated = True
    host = ""

    def __init__(self, device: Device, board: FakeBoard) -> None:
        super().__init__(device)
        self.board = board
        self.clock = VirtualClock()
        self.said = ""
        board.restarted = False

    def exchange(self, request: bytes, *, timeout_s: float) -> bytes:
        if not self.board.is_on:
            raise CommandTimeout("no answer")
        kind = Kind(request[0])
        if self.board.restarted and kind != Kind.HELLO:
            raise self._rebooted()
        answer = self.board.answer(kind, request[1:])
        if self.board.restarted and not answer:
            raise self._rebooted()
        if not answer:
            raise CommandTimeout(f"no answer in {timeout_s} s")
        if kind == Kind.HELLO:
            self.board.restarted = False
        return answer

    def _rebooted(self) -> DeviceRebooted:
        told = Evidence(name="boot", text=json.dumps({"cause": self.board.cause}))
        return DeviceRebooted("it restarted", evidence=[told])

    def console(self) -> str:
        return self.said

    @classmethod
    def bring_up(cls, device: Device, image: Artifact) -> None:
        raise NotImplementedError

    def flash(self, image: Artifact) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to close."""


class FakePower(Power):
    """Feeds such a board; `cuts` counts."""

    def __init__(self, board: FakeBoard, *, broken: bool = False) -> None:
        self.board, self.broken, self.cuts = board, broken, 0

    def on(self) -> None:
        self.board.is_on = True
        self.board.restart("power")

    def off(self) -> None:
        if self.broken:
            raise InfraError("the port does not obey")
        self.board.is_on = False
        self.cuts += 1


def fake_line(folder: Path, board: FakeBoard | None = None, **options: str) -> FakeLine:
    """A line to a new board, or to one that is there."""
    device = Device(
        name="mcu", type="fake", address=Address.parse("uart://fake"),
        options=tuple(options.items()),
    )  # fmt: skip
    return FakeLine(device, board or FakeBoard(folder))
