"""What can be asked of a board that speaks the farm's protocol (docs/mcu-protocol.md)."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from drivers.mcu.image import Cpu, Target
from drivers.mcu.wire import ANSWER, Kind
from farm.connection import Line
from farm.errors import ConnectError, FarmError

PROTOCOL = 1
ANSWER_S = 5.0
"""A board answers at once, unless it erases flash memory or runs a model."""
ERASE_S = 30.0
MAX_CHUNK_BYTES = 16 << 10


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


class Refused(FarmError):
    """The board did not do what it was asked; callers say whose fault that is.

    Attributes:
        refusal: its code, as in `Refusal` or a number that nobody knows.
    """

    family = "device"
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
                return cls(**{name: told[name] for name in cls.__dataclass_fields__})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConnectError(f"the board's hello cannot be read: {error!r}") from error
        raise ConnectError(
            f"the board speaks protocol {protocol}, this farm speaks {PROTOCOL}",
            hint="flash the firmware that belongs to this farm: docs/first-mcu.md",
        )

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

    def write(
        self, slot: int, image: bytes, *, max_payload: int,
        written: Callable[[int], None] = lambda count: None,
    ) -> None:  # fmt: skip
        """Put an image into a slot; it is not tried yet.

        Args:
            slot: its number.
            image: the whole image.
            max_payload: as the board's hello says.
            written: hears how many bytes have arrived, after each piece.
        """
        self.begin(slot, image)
        piece = min(MAX_CHUNK_BYTES, max_payload - 8)
        for offset in range(0, len(image), piece):
            self.data(slot, offset, image[offset : offset + piece])
            written(min(offset + piece, len(image)))

    def begin(self, slot: int, image: bytes) -> None:
        """Empty a slot and announce what will come."""
        digest = hashlib.sha256(image).digest()
        head = struct.pack("<B3xII", slot, len(image), zlib.crc32(image))
        self._ask(Kind.BEGIN, head + digest, timeout_s=ERASE_S)

    def data(self, slot: int, offset: int, piece: bytes) -> None:
        """A part of the image."""
        self._ask(Kind.DATA, struct.pack("<B3xI", slot, offset) + piece)

    def commit(self, slot: int) -> None:
        """Let the board check what arrived, and try it at its next start."""
        self._ask(Kind.COMMIT, struct.pack("<B3x", slot), timeout_s=ERASE_S)

    def reset(self) -> Hello:
        """Restart it; what it says afterwards."""
        self._ask(Kind.RESET)
        return self.hello()

    def confirm(self) -> None:
        """Let the running slot be the one that starts from now on."""
        self._ask(Kind.CONFIRM, timeout_s=ERASE_S)

    def infer(
        self, data: bytes, *, max_payload: int, count: int = 1, timeout_s: float = 10.0
    ) -> Inferred:
        """Run the model on one input, `count` times.

        Args:
            data: the bytes of one input.
            max_payload: as the board's hello says.
            count: how often; each run is timed for itself.
            timeout_s: for all runs; a board that takes longer restarts itself.
        """
        piece = max_payload - 4
        for offset in range(0, len(data), piece):
            self._ask(Kind.INPUT, struct.pack("<I", offset) + data[offset : offset + piece])
        request = struct.pack("<II", count, round(timeout_s * 1000))
        answer = self._ask(Kind.INFER, request, timeout_s=timeout_s + ANSWER_S)
        stack_peak, _ = struct.unpack_from("<II", answer)
        return Inferred(stack_peak=stack_peak, ticks=struct.unpack_from(f"<{count}Q", answer, 8))

    def output(self, size: int, *, max_payload: int) -> bytes:
        """What the last inference gave, `size` bytes."""
        pieces = [
            self._ask(Kind.OUTPUT, struct.pack("<II", offset, min(max_payload, size - offset)))
            for offset in range(0, size, max_payload)
        ]
        return b"".join(pieces)

    def _ask(self, kind: Kind, payload: bytes = b"", *, timeout_s: float = ANSWER_S) -> bytes:
        answer = self.line.exchange(bytes([kind]) + payload, timeout_s=timeout_s)
        if answer[0] == Kind.ERROR:
            (code,) = struct.unpack_from("<i", answer, 1)
            raise Refused(code, answer[5:].decode(errors="replace"))
        if answer[0] != kind | ANSWER:
            raise ConnectError(f"the board answers {answer[0]:#x} to {kind.name}")
        return answer[1:]
