"""The rehearsal of updates: they go wrong on purpose, and the confirmed model must survive each.

Everything happens in the free slot, with images that are made from the model's own. Power is cut
between two requests; a cut while one page of flash memory is written is left to chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from drivers.mcu.building import Built
from drivers.mcu.client import Board, Hello, Refusal, Refused
from drivers.mcu.image import HEADER_BYTES, Cpu
from drivers.runtimes.mcu_slots import Images
from drivers.runtimes.mcu_window import INFER_S
from farm.errors import CommandTimeout, DeviceRebooted, InfraError
from farm.protocols import Power
from farm.record import Measurement

HANG_S = 3.0
"""What the watchdog gives an image that hangs."""
UDF, BRANCH_TO_ITSELF = b"\x00\xde", b"\xfe\xe7"
"""Thumb code: an undefined instruction, and one that never ends."""
VIRTUAL_FAULT, VIRTUAL_HANG = b"fault", b"hang"
"""The same for a board without a processor."""
UNSENT_BYTES = 16
STEPS = ("BEGIN", "half of the image", "the whole image", "COMMIT", "RESET", "CONFIRM")
"""Of an update, in order."""
_THUMB = 1

Attempt = Callable[[], str]
"""Tries something; says what went wrong, nothing if all was as it should be."""


class _Lost(Exception):
    """Nothing more can be tried; the text says why."""


@dataclass(slots=True)
class _Tries:
    """How often something was tried, and lines for people on those that went wrong."""

    count: int = 0
    failures: list[str] = field(default_factory=list)


class Rehearsal:
    """Updates of a board that end badly.

    Args:
        board: runs the model, and has a slot besides.
        images: of the model; it becomes the confirmed one.
        item: the bytes of an input; its output tells whether the model is still the same.
        power: the port that feeds the board; None leaves out what needs it.
    """

    def __init__(self, board: Board, images: Images, item: bytes, power: Power | None) -> None:
        self._board = board
        self._images = images
        self._item = item
        self._power = power
        self._tries: dict[str, _Tries] = {}
        board.confirm()
        self._hello = board.hello()
        self._output = self._answer(self._hello, INFER_S)
        self._home = self._hello.confirmed
        self._free = next(n for n in range(len(self._hello.slots)) if n != self._home)

    def run(self) -> tuple[Measurement, ...]:
        """Try everything; the share of tries that ended as they should, for each kind.

        Raises:
            InfraError: the line or the power does not do what it should.
            DeviceRebooted: the board restarted when nobody expected it.
        """
        try:
            for metric, what, attempt in self._attempts():
                self._try(metric, what, attempt)
        except _Lost:
            pass  # told among the failures
        return tuple(
            Measurement(
                metric=metric,
                unit="ratio",
                value=1 - len(tries.failures) / tries.count,
                n=tries.count,
            )
            for metric, tries in self._tries.items()
        )

    @property
    def failures(self) -> tuple[str, ...]:
        """One line for people per try that did not end as it should."""
        return tuple(line for tries in self._tries.values() for line in tries.failures)

    def _try(self, metric: str, what: str, attempt: Attempt) -> None:
        tries = self._tries.setdefault(metric, _Tries())
        tries.count += 1
        try:
            problem = attempt()
            lost = self._changed()
        except _Lost as error:
            problem, lost = "", str(error)
        if problem or lost:
            tries.failures.append(f"update: {what}: {problem or lost}")
        if lost:
            raise _Lost(lost)

    def _attempts(self) -> Iterator[tuple[str, str, Attempt]]:
        """Metric, name and try of everything, in an order in which each finds what it needs."""
        built = self._images.built(self._hello, self._free)
        for what, image in _damaged(built.image):
            yield "update.corrupt_refused", what, self._refused(built.image, image, Refusal.CORRUPT)
        for what, image, wanted in _mismatched(built):
            yield "update.mismatch_refused", what, self._refused(image, image, wanted)
        fault, hang = _dying(built)
        yield "update.fault_rolls_back", "an image that faults", self._dies(fault, "fault")
        yield "update.hang_rolls_back", "an image that hangs", self._dies(hang, "watchdog")
        if self._power:
            for last, name in enumerate(STEPS):
                attempt = self._cut(self._power, built.image, last)
                yield "update.power_cut_survived", f"power cut after {name}", attempt

    def _refused(self, announced: bytes, sent: bytes, wanted: Refusal) -> Attempt:
        """Send an image that the board must not take."""

        def attempt() -> str:
            board, slot = self._board, self._free
            board.begin(slot, announced)
            part = range(len(sent))
            board.send(slot, sent, part, max_payload=self._hello.max_payload)
            try:
                board.commit(slot)
            except Refused as refused:
                right = refused.refusal == wanted
                return "" if right else f"not refused as {wanted.name}: {refused.message}"
            return "the board took it"

        return attempt

    def _dies(self, image: bytes, cause: str) -> Attempt:
        """Let an image be tried that does not survive its first inference."""

        def attempt() -> str:
            board, slot = self._board, self._free
            board.write(slot, image, max_payload=self._hello.max_payload)
            board.commit(slot)
            hello = board.reset()
            if hello.running != slot:
                return "it was not tried"
            try:
                self._answer(hello, HANG_S)
            except DeviceRebooted:
                hello = self._back()
            except CommandTimeout:
                if self._power:
                    self._cycle(self._power)
                return "nothing restarted the board"
            else:
                return "it answered"
            if hello.running != self._home:
                return f"{hello.what_runs} after it"
            return "" if hello.cause == cause else f"ended by {hello.cause}, not by {cause}"

        return attempt

    def _cut(self, power: Power, image: bytes, last: int) -> Attempt:
        """Cut the power after one of the steps of an update that is all right."""

        def attempt() -> str:
            board, slot, half = self._board, self._free, len(image) // 2
            most = self._hello.max_payload
            steps: tuple[Callable[[], object], ...] = (
                lambda: board.begin(slot, image),
                lambda: board.send(slot, image, range(half), max_payload=most),
                lambda: board.send(slot, image, range(half, len(image)), max_payload=most),
                lambda: board.commit(slot),
                board.reset,
                board.confirm,
            )
            for step in steps[: last + 1]:
                step()
            if STEPS[last] == "CONFIRM":
                self._home = slot
            allowed = {self._home, slot} if STEPS[last] == "COMMIT" else {self._home}
            hello = self._cycle(power)
            return "" if hello.running in allowed else f"{hello.what_runs} after it"

        return attempt

    def _cycle(self, power: Power) -> Hello:
        power.off()
        power.on()
        return self._back()

    def _back(self) -> Hello:
        try:
            return self._board.back()
        except (InfraError, DeviceRebooted) as error:
            raise _Lost(f"the board did not come back: {error.message}") from error

    def _changed(self) -> str:
        """What is not as it was before the try, after a trial that nobody confirmed is ended."""
        hello = self._board.end_trial(self._back())
        if (hello.running, hello.confirmed) != (self._home, self._home):
            return f"{hello.what_runs}, the confirmed one was slot {self._home}"
        same = self._answer(hello, INFER_S) == self._output
        return "" if same else "the confirmed model answers something else"

    def _answer(self, hello: Hello, limit_s: float) -> bytes:
        """The output of whatever runs."""
        return self._board.item(
            self._item, hello.out_bytes, max_payload=hello.max_payload, timeout_s=limit_s
        )


def _damaged(image: bytes) -> Iterator[tuple[str, bytes]]:
    """What an image may become on its way."""
    for at in (0, len(image) // 2, len(image) - 1):
        flipped = bytearray(image)
        flipped[at] ^= 1
        yield f"byte {at} of {len(image)} is another", bytes(flipped)
    yield "the end never came", image[:-UNSENT_BYTES]


def _mismatched(built: Built) -> Iterator[tuple[str, bytes, Refusal]]:
    """Whole images that belong to another board, and why each must be refused."""
    header, code = built.header, built.image[HEADER_BYTES:]
    other = Cpu.CORTEX_M4F if header.cpu != Cpu.CORTEX_M4F else Cpu.CORTEX_M3
    for what, wrong, wanted in (
        ("another ABI", replace(header, abi=header.abi + 1), Refusal.WRONG_ABI),
        ("another processor", replace(header, cpu=other), Refusal.WRONG_CPU),
        ("another address", replace(header, base=header.base + 0x1000), Refusal.WRONG_PLACE),
        ("memory elsewhere", replace(header, bss_address=0, bss_bytes=4), Refusal.WRONG_PLACE),
    ):
        yield what, wrong.pack() + code, wanted
    yield "no image", bytes(HEADER_BYTES) + code, Refusal.WRONG_ABI


def _dying(built: Built) -> tuple[bytes, bytes]:
    """An image that faults in its first inference, and one that hangs there."""
    header = built.header
    if header.cpu == Cpu.VIRTUAL:
        fault, hang = (
            replace(header, total_bytes=HEADER_BYTES + len(code)).pack() + code
            for code in (VIRTUAL_FAULT, VIRTUAL_HANG)
        )
        return fault, hang
    at = (header.entry & ~_THUMB) - header.base
    fault, hang = (
        built.image[:at] + code + built.image[at + len(code) :] for code in (UDF, BRANCH_TO_ITSELF)
    )
    return fault, hang
