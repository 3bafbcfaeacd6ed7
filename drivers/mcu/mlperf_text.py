"""What can be asked of a firmware that is built from the MLPerf Tiny reference code.

It speaks text: a request is words, an answer is lines: `m-...` is a message, `e-[...]` an error,
and a firmware may print anything besides. Nothing is protected by a checksum; so whatever can be
compared with what was asked is compared.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from farm.connection import Line
from farm.errors import (
    CommandTimeout,
    ConnectError,
    DeployFailed,
    Evidence,
    FarmError,
    InfraError,
    TransferCorrupt,
    WorkloadError,
    WrongOutput,
)

ANSWER_S = 5.0
LOAD_TRIES = 3
LAP_WRAPS = 1 << 32
"""Laps are microseconds in 32 bits: they begin again after 71.6 minutes."""
CHUNK_BYTES = 31
"""As upstream's runner sends them; behind its power manager 26 fit."""
MAX_CHUNK_BYTES = 38
"""`db ` and two digits per byte in a buffer of 80 characters; what is longer is cut off there."""

_NAME = re.compile(r"m-name-(.+)")
_PROFILE = re.compile(r"m-profile-\[(.*)\]")
_MODEL = re.compile(r"m-model-\[(.*)\]")
_LAP = re.compile(r"m-lap-us-(\d{1,10})")
_EXPECTING = re.compile(r"m-\[Expecting (\d+) bytes\]")
_WARMUP = re.compile(r"m-warmup-start-(\d+)")
_START = re.compile(r"m-infer-start-(\d+)")
_RESULTS = re.compile(r"m-results-\[(.*)\]")
_SIZE = re.compile(r"Input db has \d+ elem|Supplied buffer size")
"""Complaints that come without `e-`; the firmware then goes on with what it had before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a firmware says that it is: a free text, and the id of its model, such as `kws01`."""

    text: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inferred:
    """One `infer`.

    Attributes:
        laps_us: the counter before and after the inferences, in microseconds.
        results: what the last of them gave, three decimals as a rule.
    """

    laps_us: tuple[int, int]
    results: tuple[float, ...]

    @property
    def took_us(self) -> int:
        """Time between the laps; the first one is printed inside of it."""
        before, after = self.laps_us
        return (after - before) % LAP_WRAPS


class Firmware:
    """A firmware behind a line.

    Every method raises what `Line.exchange` raises, and `TransferCorrupt` where the firmware did
    not get what was sent.

    Args:
        line: carries words one way and lines the other.
        chunk_bytes: how many bytes of an input go into one command.
    """

    def __init__(self, line: Line, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._line = line
        self._chunk_bytes = chunk_bytes

    def name(self, *, timeout_s: float = ANSWER_S) -> str:
        """What its maker calls it: `dut-[VENDOR]`.

        Raises:
            ConnectError: something else answers.
        """
        return self._told("name", _NAME, timeout_s=timeout_s)

    def profile(self) -> Profile:
        """What it is built for.

        Raises:
            ConnectError: something else answers.
        """
        lines = self._ask("profile", refused=ConnectError)
        text, model = _first(_PROFILE, lines), _first(_MODEL, lines)
        if text is None or model is None:
            raise self._strange("profile", lines)
        return Profile(text=text, model=model)

    def lap_us(self) -> int | None:
        """Its counter in microseconds; None if it is built to measure energy: a pin moves then."""
        found = _first(_LAP, self._ask("timestamp", refused=ConnectError))
        return None if found is None else int(found)

    def load(self, data: bytes) -> None:
        """Bring the bytes of one input; if characters got lost, from the beginning again.

        Raises:
            DeployFailed: they are more than the firmware has room for.
        """
        for left in reversed(range(LOAD_TRIES)):
            try:
                self._load(data)
            except (TransferCorrupt, CommandTimeout):
                if not left:
                    raise
            else:
                return

    def _load(self, data: bytes) -> None:
        lines = self._ask(f"db load {len(data)}", refused=TransferCorrupt)
        if _first(_EXPECTING, lines) != str(len(data)):
            raise TransferCorrupt(
                f"{len(data)} bytes were announced, the firmware answers {_shown(lines)}",
                device=self._line.device.name,
            )
        done = []
        for offset in range(0, len(data), self._chunk_bytes):
            piece = data[offset : offset + self._chunk_bytes]
            lines = self._ask(f"db {piece.hex()}", refused=TransferCorrupt)
            done.append("m-load-done" in lines)
        if not done[-1] or any(done[:-1]):
            raise TransferCorrupt(
                f"{len(data)} bytes were sent, and the firmware did not get them all",
                device=self._line.device.name,
                hint="characters get lost: a lower 'baud', or 'mlperf_chunk: 26'",
            )

    def infer(self, count: int, *, warmup: int, timeout_s: float) -> Inferred:
        """Run the model `count` times on the input, after `warmup` times that do not count.

        Both numbers are always sent: without the second one the firmware warms up ten times, also
        where its help says that it does not.

        Raises:
            WorkloadError: it refuses, has no laps, or its results cannot be read.
        """
        command = f"infer {count} {warmup}"
        lines = self._ask(command, refused=WorkloadError, timeout_s=timeout_s)
        heard = (_first(_START, lines), _first(_WARMUP, lines))
        if heard != (str(count), str(warmup)):
            raise TransferCorrupt(
                f"'{command}' was sent, the firmware answers {_shown(lines)}",
                device=self._line.device.name,
            )
        laps = [int(found[1]) for line in lines if (found := _LAP.fullmatch(line))]
        results = _first(_RESULTS, lines[::-1])
        if len(laps) != 2 or results is None or "m-infer-done" not in lines:
            raise self._unusable(f"'{command}' gave no two laps and results", lines)
        return Inferred(laps_us=(laps[0], laps[1]), results=self._numbers(results, lines))

    def _numbers(self, text: str, lines: list[str]) -> tuple[float, ...]:
        """Results; one reference prints a comma behind the last one."""
        try:
            numbers = tuple(float(field) for field in text.split(",") if field.strip())
        except ValueError:
            numbers = ()
        if not numbers or not all(map(math.isfinite, numbers)):
            raise self._unusable(f"results are no finite numbers: [{text}]", lines)
        return numbers

    def _told(self, command: str, pattern: re.Pattern[str], *, timeout_s: float) -> str:
        lines = self._ask(command, refused=ConnectError, timeout_s=timeout_s)
        found = _first(pattern, lines)
        if found is None:
            raise self._strange(command, lines)
        return found

    def _ask(
        self, command: str, *, refused: type[FarmError], timeout_s: float = ANSWER_S
    ) -> list[str]:
        answer = self._line.exchange(command.encode("ascii"), timeout_s=timeout_s)
        text = answer.decode("ascii", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        complaint = next((line for line in lines if line.startswith("e-[")), "")
        if "Unknown command" in complaint:
            refused = TransferCorrupt  # every reference firmware knows what is asked here
        if complaint:
            raise refused(
                f"the firmware answers {complaint} to '{command[:20]}'",
                device=self._line.device.name,
                evidence=[Evidence(name="answer", text=text)],
            )
        size = next((line for line in lines if _SIZE.match(line)), "")
        if size:
            raise DeployFailed(
                f"the input has not the size that the firmware wants: {size}",
                device=self._line.device.name,
                hint="the workload belongs to another model",
            )
        return lines

    def _strange(self, command: str, lines: list[str]) -> InfraError:
        return ConnectError(
            f"'{command}' is answered by {_shown(lines)}",
            device=self._line.device.name,
            hint="is that a firmware built from the MLPerf Tiny reference code?",
        )

    def _unusable(self, message: str, lines: list[str]) -> WorkloadError:
        return WrongOutput(
            message,
            device=self._line.device.name,
            evidence=[Evidence(name="answer", text="\n".join(lines))],
        )


def _first(pattern: re.Pattern[str], lines: list[str]) -> str | None:
    """What the first line of that form tells."""
    return next((found[1] for line in lines if (found := pattern.fullmatch(line))), None)


def _shown(lines: list[str]) -> str:
    return repr(" ".join(lines)[:80]) if lines else "nothing"
