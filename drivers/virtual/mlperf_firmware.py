"""The text dialect of the MLPerf Tiny reference code, with its traps.

What it prints, and what it forgets to check, is what the reference code prints and forgets.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from drivers.virtual.mlperf_model import TinyModel
from drivers.virtual.physics import Noise, Profile

PROFILE = "virtual firmware with the text protocol of MLPerf Tiny"
MCU = Profile(
    seconds_per_unit=4e-5, level_cv=0.002, shared=0.0, spread_cv=0.0005, tail_rate=0.0,
    tail_factor=1.0,
)  # fmt: skip
COMMAND_CHARACTERS = 80
BUFFER_BYTES = 96 * 96 * 3
CHARACTERS_PER_S = 11520
"""At 115200 baud; the firmware waits while it prints, also between the laps."""
LAP_BITS = 32


class ReferenceFirmware:
    """A firmware that runs.

    Args:
        model: what it infers.
        id: of the model.
        vendor: part of its name.
        noise: of its times; they are simulated.
    """

    def __init__(self, model: TinyModel, id: str, *, vendor: str, noise: Noise) -> None:
        self._model = model
        self._id = id
        self._vendor = vendor
        self._noise = noise
        self._started_s = time.monotonic()
        self._simulated_s = 0.0
        self._command = bytearray()
        self._buffer = bytearray()
        self._expected = 0

    def boot(self) -> bytes:
        """What it says when it starts."""
        lines = ["m-timestamp-mode-performance", self._lap(), "m-init-done", "m-ready"]
        return "".join(f"{line}\r\n" for line in lines).encode()

    def hear(self, data: bytes) -> Iterator[bytes]:
        """Characters arrive; the answers to the commands that they end.

        A command that is too long is cut off at its end, silently.
        """
        for character in data:
            if character != ord("%"):
                if len(self._command) < COMMAND_CHARACTERS:
                    self._command.append(character)
                continue
            words = self._command.decode("latin-1").split(" ")
            self._command.clear()
            yield ("".join(self._answer([word for word in words if word])) + "m-ready\r\n").encode()

    def _answer(self, words: list[str]) -> Iterator[str]:
        match words:
            case ["name", *_]:
                yield f"m-name-dut-[{self._vendor}]\r\n"
            case ["timestamp", *_]:
                yield f"{self._lap()}\r\n"
            case ["profile", *_]:
                yield f"m-profile-[{PROFILE}]\r\nm-model-[{self._id}]\r\n"
            case ["help", *_]:
                yield f"{PROFILE}\r\n\r\n"
                yield "infer N [W=0]: Load input, execute N inferences after W warmup loops\r\n"
            case ["db", *rest]:
                yield from self._db(rest)
            case ["infer", *rest]:
                yield from self._infer(rest)
            case ["results", *_]:
                yield self._results()
            case _:
                yield f"e-[Unknown command: {(words or [''])[0]}]\r\n"

    def _db(self, words: list[str]) -> Iterator[str]:
        match words:
            case []:
                yield "e-[Command 'db' requires a subcommand]\r\n"
            case ["load"]:
                yield "e-[Command 'db load' requires the # of bytes]\r\n"
            case ["load", size, *_]:
                yield self._expect(_whole(size))
            case ["print", *_]:
                for start in range(0, len(self._buffer), 8):
                    yield f"m-buffer-{self._buffer[start : start + 8].hex('-')}\r\n"
            case [digits, *_]:
                yield self._take(digits)

    def _expect(self, size: int) -> str:
        self._expected = size
        if size <= 0:
            return "e-[Command 'db load' must be >0 bytes]\r\n"
        self._buffer.clear()
        if size > BUFFER_BYTES:  # this line alone ends without a carriage return
            return f"Supplied buffer size {size} exceeds maximum of {BUFFER_BYTES}\n"
        return f"m-[Expecting {size} bytes]\r\n"

    def _take(self, digits: str) -> str:
        if len(digits) % 2:
            return "e-[Insufficent number of hex digits]\r\n"
        for at in range(0, len(digits), 2):
            pair = digits[at : at + 2]
            if not re.fullmatch("[0-9A-Fa-f]{2}", pair):
                return f"e-[Invalid hex digit '{pair}']\r\n"
            if len(self._buffer) < BUFFER_BYTES:  # where the reference writes beyond its end
                self._buffer.append(int(pair, 16))
            if len(self._buffer) == self._expected:
                return "m-load-done\r\n"
        return ""

    def _infer(self, words: list[str]) -> Iterator[str]:
        numbers = [_whole(word) for word in words[:2]]
        count, warmup = (*numbers, *(1, 10)[len(numbers) :])  # its help says 0, not 10
        if count <= 0:
            yield "e-[Inference iterations must be >0]\r\n"
            return
        if warmup < 0:
            yield "e-[Inference warmup must be >=0]\r\n"
            return
        yield self._model.load(bytes(self._buffer))
        yield f"m-warmup-start-{warmup}\r\n"
        level = self._noise.next_level()
        self._pass_time(warmup, level)
        yield f"m-warmup-done\r\nm-infer-start-{count}\r\n"
        lap = f"{self._lap()}\r\n"
        yield lap
        self._simulated_s += len(lap) / CHARACTERS_PER_S
        self._pass_time(count, level)
        yield f"{self._lap()}\r\nm-infer-done\r\n"
        self._model.infer()
        yield self._results()

    def _pass_time(self, count: int, level: float) -> None:
        expected_s = self._model.work * MCU.seconds_per_unit * level
        self._simulated_s += float(self._noise.spread(count).sum()) * expected_s

    def _results(self) -> str:
        return f"m-results-[{self._model.results()}]\r\n"

    def _lap(self) -> str:
        """Microseconds since it started: real ones, and those that are simulated."""
        now_s = time.monotonic() - self._started_s + self._simulated_s
        return f"m-lap-us-{int(now_s * 1e6) % (1 << LAP_BITS)}"


def _whole(text: str) -> int:
    """As C's `atoi` reads it: what does not begin with a number is 0."""
    found = re.match(r"[+-]?\d{1,9}", text)
    return int(found[0]) if found else 0
