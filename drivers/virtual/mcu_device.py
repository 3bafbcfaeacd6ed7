"""A microcontroller played by Python: the protocol is real, and so are the outputs of models.

For computers without an emulator or a compiler, and for faults of the line. Speaks
docs/mcu-protocol.md over a pseudo-terminal. Code that is `hang` never ends; code that is no model
either, such as `fault`, ends in a fault.
"""

from __future__ import annotations

import json
import os
import select
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from drivers.mcu.client import PROTOCOL, Refusal
from drivers.mcu.image import ABI, Cpu
from drivers.mcu.wire import ANSWER, Decoder, Frame, Kind, encode
from drivers.virtual.mcu_model import HANG, INSTRUCTIONS_PER_S, STACK_BYTES, TICK_HZ, Model
from drivers.virtual.mcu_rail import BoardRail
from drivers.virtual.mcu_slots import Announced, Refuse, Slots
from drivers.virtual.mcu_terminal import Terminal
from farm.errors import ConfigError

FAULTS = ("drop", "corrupt", "duplicate", "vanish", "power")
MAX_PAYLOAD = 16392
CHECKSUM_BYTES = 4
GAP_S = 0.1
"""A silence of that length inside a frame ends it."""
DEFAULT_LIMIT_S = 10.0
LONGEST_HANG_S = 0.5
"""A model that hangs need not waste the time of whoever waits for the watchdog."""
MOST_RUNS = 1000


class _Restart(Exception):
    """The board restarts; the text is the cause."""


class _Off(Exception):
    """The power is gone."""


class PythonBoard:
    """One board.

    Args:
        board: the name of the board that it stands for.
        folder: keeps its flash memory.
        link: names the serial line while the board is on.
        unit: its unique number, in hex.
        rail: feeds it.
        faults: kind and moment, the number of a request since it was made: `drop`, `corrupt` and
            `duplicate` befall the answer, `vanish` hangs up in its place, `power` cuts the power
            before the request is looked at.
    """

    def __init__(
        self, board: str, folder: Path, link: Path, *, unit: str, rail: BoardRail,
        faults: tuple[tuple[str, int], ...] = (),
    ) -> None:  # fmt: skip
        self._board = board
        self._link = link
        self._unit = unit
        self._rail = rail
        self._faults = faults
        self._requests = 0
        self._slots = Slots(folder)
        self._thread: threading.Thread | None = None
        self._wake, self._switch = os.pipe()
        self._forget()

    def on(self) -> None:
        """Start it; no error if it is on."""
        if self._thread is None:
            self._terminal = Terminal(self._link)
            os.set_blocking(self._terminal.far, False)
            self._rail.switch(on=True)
            self._start("power")
            self._thread = threading.Thread(target=self._live, daemon=True)
            self._thread.start()
            self._terminal.show()

    def off(self) -> None:
        """Cut the power: whatever it does, it does no more."""
        if self._thread:
            os.write(self._switch, b"\0")
            self._thread.join()
            os.read(self._wake, 1)
            self._rail.switch(on=False)
            self._terminal.close()
            self._thread = None

    def launch(self, kernel: Path) -> None:
        """There is no processor for a firmware.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"a board that Python plays cannot run {str(kernel)!r}", hint="write engine=qemu"
        )

    def close(self) -> None:
        """Switch it off for good."""
        self.off()
        os.close(self._wake)
        os.close(self._switch)

    def _live(self) -> None:
        with suppress(_Off):
            while True:
                try:
                    self._listen()
                except _Restart as restart:
                    self._start(str(restart))

    def _start(self, cause: str) -> None:
        self._forget()
        self._cause = cause
        self._slots.start()
        boots = self._slots.state.boots
        self._boot = (boots - 1) % 0xFFFF + 1
        self._say(
            Kind.BOOT,
            {"boot": self._boot, "cause": cause, "rolled_back": self._slots.rolled_back},
        )

    def _forget(self) -> None:
        """What lies in RAM is gone."""
        self._boot, self._cause = 0, ""
        self._decoder = Decoder(MAX_PAYLOAD + 16)
        self._last: tuple[tuple[int, bytes], bytes] | None = None
        self._model: Model | None = None
        self._input, self._output = bytearray(), b""

    def _listen(self) -> None:
        while True:
            self._decoder.take_console()
            limit_s = GAP_S if self._decoder.begun else None
            came = self._wait(reading=True, limit_s=limit_s)
            data = os.read(self._terminal.far, 1 << 16) if came else b""
            for frame in self._decoder.feed(data) if came else self._decoder.give_up():
                self._hear(frame)

    def _wait(self, *, reading: bool, limit_s: float | None = None) -> bool:
        """Wait until the line has something, or takes something; False when that lasts too long."""
        far = self._terminal.far
        ready = select.select(
            [self._wake, far] if reading else [self._wake], [] if reading else [far], [], limit_s
        )
        if self._wake in ready[0]:
            raise _Off
        return far in ready[0] + ready[1]

    def _hear(self, frame: Frame) -> None:
        if frame.kind & ANSWER:
            return
        self._requests += 1
        if self._due("power"):
            self._hang_up()
            raise _Restart("power")
        known = (frame.sequence, encode(frame)[-CHECKSUM_BYTES:])
        if self._last and self._last[0] == known and frame.kind != Kind.HELLO:
            answer = self._last[1]
        else:
            kind, payload = self._answer(frame)
            answer = self._frame(kind, payload, frame.sequence)
            self._last = known, answer
        self._reply(answer)
        if frame.kind == Kind.RESET and answer[2] == Kind.RESET | ANSWER:
            raise _Restart("reset")

    def _reply(self, answer: bytes) -> None:
        """Send an answer, as far as no fault is due."""
        if self._due("corrupt"):
            answer = answer[:-1] + bytes([answer[-1] ^ 1])
        if self._due("vanish"):
            self._hang_up()
        elif not self._due("drop"):
            self._send(answer * (2 if self._due("duplicate") else 1))

    def _due(self, kind: str) -> bool:
        return (kind, self._requests) in self._faults

    def _hang_up(self) -> None:
        """As if somebody pulled the cable and put it back."""
        self._terminal.close()
        self._terminal = Terminal(self._link)
        os.set_blocking(self._terminal.far, False)
        self._terminal.show()

    def _say(self, kind: int, told: dict[str, Any]) -> None:
        self._send(self._frame(kind, json.dumps(told).encode()))

    def _frame(self, kind: int, payload: bytes, sequence: int = 0) -> bytes:
        return encode(Frame(kind=kind, sequence=sequence, boot=self._boot, payload=payload))

    def _send(self, data: bytes) -> None:
        while data:
            self._wait(reading=False)
            data = data[os.write(self._terminal.far, data) :]

    def _answer(self, frame: Frame) -> tuple[int, bytes]:
        """Kind and payload of the answer to a request."""
        try:
            return frame.kind | ANSWER, self._do(frame.kind, frame.payload, frame.boot)
        except Refuse as refuse:
            text = str(refuse).encode()
            return Kind.ERROR, struct.pack("<i", refuse.refusal) + text
        except struct.error:
            text = b"the length is wrong"
            return Kind.ERROR, struct.pack("<i", Refusal.BAD_REQUEST) + text

    def _do(self, kind: int, payload: bytes, boot: int) -> bytes:
        if boot != self._boot and kind != Kind.HELLO:
            raise Refuse(Refusal.STALE, f"meant for start {boot}")
        if len(payload) > MAX_PAYLOAD:
            raise Refuse(Refusal.BAD_REQUEST, f"more than {MAX_PAYLOAD} bytes")
        match kind:
            case Kind.HELLO:
                return json.dumps(self._describe()).encode()
            case Kind.ECHO:
                return payload
            case Kind.BEGIN:
                slot, length, crc32, sha256 = struct.unpack("<B3xII32s", payload)
                announced = Announced(length=length, crc32=crc32, sha256=sha256.hex())
                self._slots.begin(slot, announced)
            case Kind.DATA:
                slot, offset = struct.unpack_from("<B3xI", payload)
                self._slots.data(slot, offset, payload[8:])
            case Kind.COMMIT:
                self._slots.commit(*struct.unpack("<B3x", payload))
            case Kind.RESET:
                struct.unpack("", payload)
            case Kind.CONFIRM:
                struct.unpack("", payload)
                self._slots.confirm()
            case Kind.INPUT:
                (offset,) = struct.unpack_from("<I", payload)
                self._take_input(offset, payload[4:])
            case Kind.INFER:
                count, timeout_ms = struct.unpack("<II", payload)
                answer = self._infer(count, timeout_ms)
                self._take_time(count)
                return answer
            case Kind.OUTPUT:
                return self._give_output(*struct.unpack("<II", payload))
            case Kind.ITEM:
                (timeout_ms,) = struct.unpack_from("<I", payload)
                return self._answer_item(timeout_ms, payload[4:])
            case _:
                raise Refuse(Refusal.BAD_REQUEST, f"no request is called {kind}")
        return b""

    def _describe(self) -> dict[str, Any]:
        return self._slots.describe() | {
            "protocol": PROTOCOL,
            "firmware": "python 1",
            "board": f"simulated ({self._board})",
            "cpu": int(Cpu.VIRTUAL),
            "cpuid": "",
            "unit": self._unit,
            "abi": ABI,
            "tick_hz": TICK_HZ,
            "ticks": "timer",
            "max_payload": MAX_PAYLOAD,
            "max_input": 1 << 20,
            "max_output": 1 << 20,
            "stack": 1 << 16,
            "ram": {"address": 0, "bytes": 0},
            "boot": self._boot,
            "cause": self._cause,
        }

    def _take_input(self, offset: int, piece: bytes) -> None:
        header = self._slots.header
        if header is None:
            raise Refuse(Refusal.NO_MODEL, "nothing runs")
        if offset + len(piece) > header.in_bytes:
            raise Refuse(Refusal.TOO_LONG, f"the input has {header.in_bytes} bytes")
        self._input = self._input or bytearray(header.in_bytes)
        self._input[offset : offset + len(piece)] = piece

    def _give_output(self, offset: int, length: int) -> bytes:
        header = self._slots.header
        if header is None:
            raise Refuse(Refusal.NO_MODEL, "nothing runs")
        if length > MAX_PAYLOAD or offset + length > header.out_bytes:
            raise Refuse(Refusal.TOO_LONG, f"the output has {header.out_bytes} bytes")
        return self._output.ljust(header.out_bytes, b"\0")[offset : offset + length]

    def _answer_item(self, timeout_ms: int, data: bytes) -> bytes:
        header = self._slots.header
        if header and len(data) != header.in_bytes:
            raise Refuse(Refusal.TOO_LONG, f"the input has {header.in_bytes} bytes")
        self._input = bytearray(data)
        self._infer(1, timeout_ms)
        return self._output

    def _infer(self, count: int, timeout_ms: int) -> bytes:
        header, code = self._slots.header, self._slots.code
        if header is None:
            raise Refuse(Refusal.NO_MODEL, "nothing runs")
        if not 1 <= count <= MOST_RUNS or 8 + 8 * count > MAX_PAYLOAD:
            raise Refuse(Refusal.BAD_REQUEST, f"1 to {MOST_RUNS} runs")
        if code == HANG:
            self._hang(timeout_ms / 1000 or DEFAULT_LIMIT_S)
        try:
            self._model = self._model or Model(code)
            self._output = self._model.run(bytes(self._input).ljust(header.in_bytes, b"\0"))
        except Exception as error:  # on a processor, whatever goes wrong there is a fault
            fault = {"pc": 0, "lr": 0, "cfsr": 0, "cause": "usage"}
            self._slots.write_down(fault)
            self._say(Kind.FAULT, fault)
            raise _Restart("fault") from error
        ticks = self._model.instructions
        return struct.pack(f"<II{count}Q", STACK_BYTES, 0, *[ticks] * count)

    def _take_time(self, count: int) -> None:
        """As long as so many runs take, with the pin high."""
        assert self._model is not None
        begun_ns = time.monotonic_ns()
        ends_ns = begun_ns + round(count * self._model.instructions / INSTRUCTIONS_PER_S * 1e9)
        self._rail.set_pin(begun_ns, high=True)
        while (left_ns := ends_ns - time.monotonic_ns()) > 0:
            if select.select([self._wake], [], [], left_ns / 1e9)[0]:
                raise _Off
        self._rail.set_pin(time.monotonic_ns(), high=False)

    def _hang(self, limit_s: float) -> None:
        """Hear nothing until the watchdog bites."""
        ends = time.monotonic() + min(limit_s, LONGEST_HANG_S)
        while (left := ends - time.monotonic()) > 0:
            if select.select([self._wake], [], [], left)[0]:
                raise _Off
        raise _Restart("watchdog")
