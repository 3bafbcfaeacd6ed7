"""What can be asked of a board that speaks the farm's protocol (docs/mcu-protocol.md)."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from drivers.mcu.image import Cpu, Target
from drivers.mcu.wire import ANSWER, Kind
from farm.connection import Line
from farm.errors import ConnectError, DeviceError, DeviceRebooted, InfraError

PROTOCOL = 1
ANSWER_S = 5.0
"""A board answers at once, unless it erases flash memory or runs a model."""
ERASE_S = 30.0
BACK_S = 30.0
"""A board that restarted, or got its power back, answers within this time."""
KNOCK_S = 0.1
MAX_CHUNK_BYTES = 16 << 10
MIN_PAYLOAD_BYTES = 64
"""With less, not even BEGIN fits."""
MAX_COUNT = 1000
"""The most inferences that one INFER may ask for."""


class Refusal(IntEnum):
    """Codes of error frames."""

    BAD_REQUEST = -1
    STALE = -2
    BUSY = -3
    TOO_LONG = -4
    CORRUPT = -5
    WRONG_ABI = -6
    WRONG_CPU = -7
    WRONG_PLACE = -8
    NO_MODEL = -9
    NO_SLOTS = -10
    FLASH = -11


class Refused(DeviceError):
    """The board did not do what it was asked; callers say whose fault that is.

    Attributes:
        refusal: its code, as in `Refusal` or a number that nobody knows.
    """

    code = "refused"

    def __init__(self, refusal: int, text: str) -> None:
        super().__init__(f"the board refuses: {text or refusal}")
        self.refusal = refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotState:
    """One slot; length 0 where nothing whole lies."""

    address: int
    bytes: int
    length: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What a board says of itself; the fields of HELLO, slot numbers None for none."""

    firmware: str
    board: str
    cpu: int
    cpuid: str
    unit: str
    abi: int
    tick_hz: int
    ticks: str
    max_payload: int
    max_input: int
    max_output: int
    stack: int
    slots: tuple[SlotState, ...]
    ram_address: int
    ram_bytes: int
    running: int | None
    confirmed: int | None
    pending: int | None
    boot: int
    boots: int
    rollbacks: int
    cause: str
    last_fault: dict[str, Any] | None
    model: str
    model_sha256: str
    in_bytes: int
    out_bytes: int

    @classmethod
    def read(cls, text: bytes) -> Hello:
        """Read the answer to HELLO.

        Raises:
            ConnectError: it is not one, or of another protocol.
        """
        try:
            told: dict[str, Any] = json.loads(text)
            protocol = told.pop("protocol")
            if protocol == PROTOCOL:
                ram = told.pop("ram")
                told |= {"ram_address": ram["address"], "ram_bytes": ram["bytes"]}
                told["slots"] = tuple(SlotState(**slot) for slot in told["slots"])
                for key in ("running", "confirmed", "pending"):
                    told[key] = None if told[key] < 0 else told[key]
                _check(told)
                return cls(**{name: told[name] for name in cls.__dataclass_fields__})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConnectError(f"the board's hello cannot be read: {error!r}") from error
        raise ConnectError(
            f"the board speaks protocol {protocol}, this farm speaks {PROTOCOL}",
            hint="flash the firmware that belongs to this farm: docs/first-mcu.md",
        )

    @property
    def what_runs(self) -> str:
        """The slot that runs, as words: `slot 1 runs`."""
        return "nothing runs" if self.running is None else f"slot {self.running} runs"

    def target(self, slot: int) -> Target:
        """Where an image for one of its slots shall run.

        Raises:
            ConnectError: its processor is not known here.
        """
        if self.cpu not in set(Cpu):
            raise ConnectError(
                f"the board has a processor that this farm does not know: {self.cpu}"
            )
        return Target(
            cpu=Cpu(self.cpu),
            slot_address=self.slots[slot].address,
            slot_bytes=self.slots[slot].bytes,
            ram_address=self.ram_address,
            ram_bytes=self.ram_bytes,
        )


def _check(told: dict[str, Any]) -> None:
    """Refuse a hello whose numbers and words would be taken for others later.

    Raises:
        TypeError: a field is of another type.
        ValueError: a number is of no use.
    """
    for name, field in Hello.__dataclass_fields__.items():
        wanted = {"int": int, "str": str}.get(str(field.type))
        if wanted and not isinstance(told[name], wanted):
            raise TypeError(f"{name} is {told[name]!r}")
    if not isinstance(told["last_fault"], dict | None):
        raise TypeError(f"last_fault is {told['last_fault']!r}")
    if told["tick_hz"] < 1 or told["max_payload"] < MIN_PAYLOAD_BYTES:
        raise ValueError(f"tick_hz {told['tick_hz']}, max_payload {told['max_payload']}")
    numbers = [told[key] for key in ("running", "confirmed", "pending") if told["slots"]]
    if any(number is not None and number >= len(told["slots"]) for number in numbers):
        raise ValueError(f"a slot of {len(told['slots'])} is {max(filter(None, numbers))}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inferred:
    """One call of INFER.

    Attributes:
        stack_peak: bytes of stack that the model used.
        ticks: of the board's counter, one number per inference.
    """

    stack_peak: int
    ticks: tuple[int, ...]


class Board:
    """A board behind a line.

    Every method raises what `Line.exchange` raises, and `Refused`.
    """

    def __init__(self, line: Line) -> None:
        self.line = line

    def hello(self, *, timeout_s: float = ANSWER_S) -> Hello:
        """Who it is and what state it is in."""
        return Hello.read(self._ask(Kind.HELLO, timeout_s=timeout_s))

    def echo(self, data: bytes) -> bytes:
        """The same bytes again."""
        return self._ask(Kind.ECHO, data)

    def write(self, slot: int, image: bytes, *, max_payload: int) -> None:
        """Put a whole image into a slot; it is not tried yet.

        Args:
            slot: its number.
            image: its bytes.
            max_payload: as the board's hello says.
        """
        self.begin(slot, image)
        self.send(slot, image, range(len(image)), max_payload=max_payload)

    def send(self, slot: int, image: bytes, part: range, *, max_payload: int) -> None:
        """Send a part of an image that was announced; `part` are the offsets of its bytes."""
        piece = min(MAX_CHUNK_BYTES, max_payload - 8)
        for offset in range(part.start, part.stop, piece):
            self.data(slot, offset, image[offset : min(offset + piece, part.stop)])

    def begin(self, slot: int, image: bytes) -> None:
        """Empty a slot and announce what will come."""
        digest = hashlib.sha256(image).digest()
        head = struct.pack("<B3xII", slot, len(image), zlib.crc32(image))
        self._ask(Kind.BEGIN, head + digest, timeout_s=ERASE_S)

    def data(self, slot: int, offset: int, piece: bytes) -> None:
        """A part of the image; at 9600 baud one of 16 KiB is under way for 17 s."""
        self._ask(Kind.DATA, struct.pack("<B3xI", slot, offset) + piece, timeout_s=ERASE_S)

    def commit(self, slot: int) -> None:
        """Let the board check what arrived, and try it at its next start."""
        self._ask(Kind.COMMIT, struct.pack("<B3x", slot), timeout_s=ERASE_S)

    def reset(self) -> Hello:
        """Restart it; what it says afterwards."""
        with suppress(DeviceRebooted):  # which is what was asked for, its answer got lost
            self._ask(Kind.RESET)
        return self.back()

    def end_trial(self, hello: Hello) -> Hello:
        """Go back to the confirmed model, if another one runs or waits to be tried.

        Args:
            hello: the last one.

        Returns:
            What the board says afterwards; the same hello if there was nothing to end.
        """
        if not hello.slots or (hello.pending is None and hello.running == hello.confirmed):
            return hello
        if hello.confirmed is not None:
            self.commit(hello.confirmed)
        elif hello.running is None:
            self.reset()  # begins the trial: where nothing is confirmed, only that can end it
        return self.reset()

    def back(self) -> Hello:
        """Its hello after a restart that was expected; waits until it answers.

        Raises:
            InfraError: it did not come back.
            DeviceRebooted: it restarts again and again.
        """
        deadline = self.line.clock.now_ns() + int(BACK_S * 1e9)
        while True:
            try:
                return self.hello()
            except (DeviceRebooted, InfraError):
                if self.line.clock.now_ns() >= deadline:
                    raise
            self.line.clock.sleep(KNOCK_S)

    def confirm(self) -> None:
        """Let the running slot be the one that starts from now on."""
        self._ask(Kind.CONFIRM, timeout_s=ERASE_S)

    def give(self, data: bytes, *, max_payload: int) -> None:
        """Send the bytes of one input; they stay there for every `infer` that follows."""
        piece = min(MAX_CHUNK_BYTES, max_payload - 4)
        for offset in range(0, len(data), piece):
            self._ask(Kind.INPUT, struct.pack("<I", offset) + data[offset : offset + piece])

    def infer(self, *, count: int = 1, timeout_s: float = 10.0) -> Inferred:
        """Run the model on the input that was given, `count` times.

        Args:
            count: how often; each run is timed for itself.
            timeout_s: for all runs; a board that takes longer restarts itself.
        """
        request = struct.pack("<II", count, round(timeout_s * 1000))
        answer = self._ask(Kind.INFER, request, timeout_s=timeout_s + ANSWER_S)
        try:
            stack_peak, _ = struct.unpack_from("<II", answer)
            ticks = struct.unpack_from(f"<{count}Q", answer, 8)
        except struct.error as error:
            raise ConnectError(f"the board tells {len(answer)} bytes of {count} runs") from error
        return Inferred(stack_peak=stack_peak, ticks=ticks)

    def output(self, size: int, *, max_payload: int) -> bytes:
        """What the last inference gave, `size` bytes."""
        found = b"".join(
            self._ask(Kind.OUTPUT, struct.pack("<II", offset, min(max_payload, size - offset)))
            for offset in range(0, size, max_payload)
        )
        if len(found) != size:
            raise ConnectError(f"the board gives {len(found)} bytes of an output of {size}")
        return found

    def item(self, data: bytes, size: int, *, max_payload: int, timeout_s: float = 10.0) -> bytes:
        """One item through the model: the bytes of its input in, `size` bytes of output out.

        Args:
            data: a whole input.
            size: of the output.
            max_payload: as the board's hello says; what is longer goes in pieces.
            timeout_s: as of `infer`.
        """
        if len(data) + 4 > max_payload or size > max_payload:
            self.give(data, max_payload=max_payload)
            self.infer(timeout_s=timeout_s)
            return self.output(size, max_payload=max_payload)
        request = struct.pack("<I", round(timeout_s * 1000)) + data
        found = self._ask(Kind.ITEM, request, timeout_s=timeout_s + ERASE_S)
        if len(found) != size:
            raise ConnectError(f"the board gives {len(found)} bytes of an output of {size}")
        return found

    def _ask(self, kind: Kind, payload: bytes = b"", *, timeout_s: float = ANSWER_S) -> bytes:
        answer = self.line.exchange(bytes([kind]) + payload, timeout_s=timeout_s)
        if answer[0] == Kind.ERROR and len(answer) >= 5:
            (code,) = struct.unpack_from("<i", answer, 1)
            raise Refused(code, answer[5:].decode(errors="replace"))
        if answer[0] != kind | ANSWER:
            raise ConnectError(f"the board answers {answer[0]:#x} to {kind.name}")
        return answer[1:]
