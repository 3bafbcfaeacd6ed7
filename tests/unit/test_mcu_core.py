"""The firmware's core, compiled for this machine: every refusal, restarts, power cuts, fuzz."""

from __future__ import annotations

import hashlib
import os
import select
import shutil
import struct
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drivers.mcu.client import Board, Hello, Refusal, Refused
from drivers.mcu.firmware import SOURCES, build_firmware
from drivers.mcu.image import Cpu, Header
from drivers.mcu.wire import Decoder, Frame, Kind, encode
from farm.connection import SystemClock
from farm.errors import ConfigError

CORE = Path(__file__).parent / "mcu_core"
EXAMPLE = Path(__file__).parent / "mcu_example"
SLOT, SLOT_BYTES, RAM, RAM_BYTES = 0x10000, 8192, 0x30000, 4096
FUZZED_BYTES = 10_000_000
LOW, HIGH = 0, 1


class Process:
    """A board that is a process; speaks without repeating anything by itself."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._decoder = Decoder()
        self.sequence = 7
        self.boot = 0
        self.clock = SystemClock()
        self.unasked: list[Frame] = []

    def write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def read(self, timeout_s: float = 20.0) -> Frame | None:
        """The next frame that answers something."""
        assert self._process.stdout is not None
        out = self._process.stdout.fileno()
        while True:
            if not select.select([out], [], [], timeout_s)[0]:
                return None
            data = os.read(out, 65536)
            answers = []
            for frame in self._decoder.feed(data):
                (answers if frame.sequence else self.unasked).append(frame)
            if answers:
                (answer,) = answers
                return answer
            if not data:
                return None

    def frame(self, kind: int, payload: bytes = b"") -> bytes:
        return encode(Frame(kind=kind, sequence=self.sequence, boot=self.boot, payload=payload))

    def exchange(self, request: bytes, *, timeout_s: float) -> bytes:
        self.sequence += 1
        self.write(self.frame(request[0], request[1:]))
        answer = self.read()
        assert answer is not None
        assert answer.sequence == self.sequence
        if request[0] == Kind.HELLO:
            self.boot = answer.boot
        return bytes([answer.kind]) + answer.payload

    def end(self) -> int:
        """No more input; its exit status."""
        if self._process.returncode is None:
            self._process.communicate(timeout=20)
        return self._process.returncode


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compiles for this machine, with everything that watches memory."""
    flags = "-std=c11 -D_GNU_SOURCE -O1 -g -Wall -Wextra -Werror"
    watch = "-fsanitize=address,undefined -fno-sanitize-recover=all"
    made: dict[tuple[Path, ...], Path] = {}

    def compile_(*folders: Path) -> Path:
        if folders not in made:
            target = tmp_path_factory.mktemp("core") / "board"
            sources = [str(path) for folder in folders for path in sorted(folder.glob("*.c"))]
            core = [str(path) for path in sorted(SOURCES.glob("farm_*.c"))]
            include = [f"-I{folder}" for folder in (SOURCES, *folders)]
            command = ["gcc", *flags.split(), *watch.split(), *include, *sources, *core]
            subprocess.run([*command, "-o", str(target)], check=True)
            made[folders] = target
        return made[folders]

    return compile_


@pytest.fixture
def core(compiled: Callable[..., Path], lacks: Callable[[str], None]) -> Path:
    if not shutil.which("gcc"):
        lacks("gcc compiles the core for this machine: apt install gcc")
    return compiled(CORE)


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Starts boards; all have ended when the test has."""
    started: list[Process] = []

    def start_(*command: object) -> Process:
        started.append(Process(*map(str, command)))
        return started[-1]

    yield start_
    for process in started:
        process.end()


@pytest.fixture
def line(core: Path, start: Callable[..., Process], tmp_path: Path) -> Iterator[Process]:
    process = start(core, "serve", tmp_path / "flash")
    yield process
    assert process.end() == 0


def image(slot: int, code: bytes = b".", name: str = "m", **changes: object) -> bytes:
    """An image for the board that is a process; the first byte of its code says what it does."""
    base = SLOT + slot * SLOT_BYTES
    body = code.ljust(200, b"\0")
    fields = {
        "cpu": Cpu.CORTEX_M4F, "total_bytes": 124 + len(body), "base": base, "entry": base + 125,
        "data_address": RAM, "data_load_address": base + 128, "data_bytes": 8,
        "bss_address": RAM + 8, "bss_bytes": RAM_BYTES - 8, "in_bytes": 3000, "out_bytes": 8,
        "arena_bytes": 64, "model_sha256": b"\x11" * 32, "name": name,
    }  # fmt: skip
    return Header(**(fields | changes)).pack() + body  # type: ignore[arg-type]


def put(board: Board, slot: int, data: bytes) -> None:
    board.write(slot, data, max_payload=board.hello().max_payload)
    board.commit(slot)


def install(board: Board, slot: int, data: bytes) -> Hello:
    put(board, slot, data)
    board.reset()
    board.confirm()
    return board.hello()


def refusal(act: Callable[[], object]) -> Refusal:
    with pytest.raises(Refused) as caught:
        act()
    assert str(caught.value) != f"the board refuses: {caught.value.refusal}"  # it says why
    return Refusal(caught.value.refusal)


def test_a_board_says_hello_echoes_and_runs_what_was_pushed(line: Process) -> None:
    board = Board(line)
    fresh = board.hello()
    assert (fresh.boots, fresh.running, fresh.confirmed, fresh.pending) == (1, None, None, None)
    assert [slot.address for slot in fresh.slots] == [SLOT, SLOT + SLOT_BYTES]
    assert board.echo(b"\xa5\x5a" * 500) == b"\xa5\x5a" * 500
    data = image(0, name='caf\u00e9 "\\')
    put(board, 0, data)
    assert board.hello().pending == 0
    assert board.hello().running is None
    tried = board.reset()
    assert (tried.running, tried.confirmed, tried.pending, tried.boot) == (0, None, 0, 2)
    assert (tried.model, tried.model_sha256) == ('caf\u00e9 "\\', "11" * 32)
    assert tried.slots[0].sha256 == hashlib.sha256(data).hexdigest()
    board.confirm()
    board.confirm()
    again = board.reset()
    assert (again.running, again.confirmed, again.pending, again.rollbacks) == (0, 0, None, 0)
    board.give(bytes([41]) * 3000, max_payload=2048)
    ran = board.infer(count=5)
    assert ran.ticks == (7,) * 5
    assert board.output(8, max_payload=3)[:1] == b"\x2a"
    assert refusal(lambda: board.item(b"short", 8, max_payload=2048)) == Refusal.TOO_LONG


def test_every_refusal(line: Process) -> None:
    board = Board(line)
    board.hello()
    ask = line.exchange
    data = image(0)
    assert refusal(board.confirm) == Refusal.NO_MODEL
    assert refusal(lambda: board.infer()) == Refusal.NO_MODEL
    assert refusal(lambda: board.item(b"x", 4, max_payload=2048)) == Refusal.NO_MODEL
    assert refusal(lambda: board.output(4, max_payload=2048)) == Refusal.NO_MODEL
    assert refusal(lambda: board.data(0, 0, b"x")) == Refusal.BAD_REQUEST  # nothing announced
    assert refusal(lambda: board.begin(2, data)) == Refusal.BAD_REQUEST
    assert refusal(lambda: board.commit(1)) == Refusal.WRONG_ABI
    assert refusal(lambda: board.begin(0, bytes(SLOT_BYTES + 1))) == Refusal.TOO_LONG
    for request in (
        b"\x0b", b"\x02" + bytes(2049), b"\x03" + bytes(43), b"\x04" + bytes(7), b"\x05\x00\x01",
        b"\x05\x00\x01\x00\x00", b"\x06x", b"\x07x", b"\x08abc", b"\x09" + bytes(8), b"\x0a1",
        b"\x01x",
    ):  # fmt: skip
        answer = ask(request, timeout_s=5)
        assert answer[:5] == b"\xff" + struct.pack("<i", Refusal.BAD_REQUEST), request
    board.begin(0, data)
    assert refusal(lambda: board.data(0, len(data), b"x")) == Refusal.BAD_REQUEST
    assert refusal(lambda: board.data(1, 0, b"x")) == Refusal.BAD_REQUEST
    board.data(0, 0, data[:-1])
    assert refusal(lambda: board.commit(0)) == Refusal.CORRUPT
    board.data(0, len(data) - 1, data[-1:])
    board.commit(0)
    install(board, 0, data)
    assert refusal(lambda: board.begin(0, data)) == Refusal.BUSY
    assert refusal(lambda: board.data(0, 0, data)) == Refusal.BUSY
    board.commit(0)
    long = struct.pack("<I", 2999) + b"ab"
    assert ask(b"\x08" + long, timeout_s=5)[1:5] == struct.pack("<i", Refusal.TOO_LONG)
    for count in (0, 256, 1001):
        request = b"\x09" + struct.pack("<II", count, 0)
        assert ask(request, timeout_s=5)[1:5] == struct.pack("<i", Refusal.BAD_REQUEST)
    beyond = b"\x0a" + struct.pack("<II", 4, 5)
    assert ask(beyond, timeout_s=5)[1:5] == struct.pack("<i", Refusal.BAD_REQUEST)
    line.boot += 1
    assert refusal(lambda: board.echo(b"x")) == Refusal.STALE


def test_a_digest_that_only_sha256_sees(line: Process) -> None:
    board = Board(line)
    board.hello()
    data = image(0)
    announced = struct.pack("<B3xII", 0, len(data), zlib.crc32(data)) + bytes(32)
    assert line.exchange(b"\x03" + announced, timeout_s=5) == b"\x83"
    board.data(0, 0, data)
    assert refusal(lambda: board.commit(0)) == Refusal.CORRUPT


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"abi": 2}, Refusal.WRONG_ABI),
        ({"cpu": Cpu.CORTEX_M3}, Refusal.WRONG_CPU),
        ({"total_bytes": 125}, Refusal.CORRUPT),
        ({"in_bytes": 3001}, Refusal.TOO_LONG),
        ({"out_bytes": 3001}, Refusal.TOO_LONG),
        ({"base": SLOT + SLOT_BYTES}, Refusal.WRONG_PLACE),
        ({"entry": SLOT + 124}, Refusal.WRONG_PLACE),
        ({"entry": SLOT + 1}, Refusal.WRONG_PLACE),
        ({"entry": SLOT + 325}, Refusal.WRONG_PLACE),
        ({"data_address": RAM - 4}, Refusal.WRONG_PLACE),
        ({"data_address": RAM + RAM_BYTES - 4}, Refusal.WRONG_PLACE),
        ({"data_load_address": SLOT + 320}, Refusal.WRONG_PLACE),
        ({"data_load_address": SLOT - 4}, Refusal.WRONG_PLACE),
        ({"data_bytes": 0xFFFFFFFC}, Refusal.WRONG_PLACE),
        ({"bss_bytes": RAM_BYTES - 4}, Refusal.WRONG_PLACE),
        ({"bss_address": 0x20000}, Refusal.WRONG_PLACE),
        ({"bss_bytes": 6}, Refusal.WRONG_PLACE),
    ],
)
def test_images_that_cannot_run_here(
    line: Process, changes: dict[str, object], expected: Refusal
) -> None:
    board = Board(line)
    board.hello()
    assert refusal(lambda: put(board, 0, image(0, **changes))) == expected
    assert board.hello().slots[0].length == 0


def test_no_image_at_all(line: Process) -> None:
    board = Board(line)
    board.hello()
    for data in (b"", b"FIM1", bytes(400), b"\xff" * 400):
        assert refusal(lambda: put(board, 0, data)) == Refusal.WRONG_ABI  # noqa: B023


def test_a_repeated_request_is_answered_again_and_done_once(line: Process) -> None:
    board = Board(line)
    board.hello()
    install(board, 0, image(0))
    line.sequence += 1
    request = line.frame(Kind.INFER, struct.pack("<II", 1, 0))
    answers = []
    for _ in range(3):
        line.write(request)
        answers.append(line.read())
        line.write(encode(Frame(kind=Kind.HELLO, sequence=9, boot=0, payload=b"")))
        assert line.read() is not None
    assert answers[0] == answers[1] == answers[2]
    assert board.output(8, max_payload=2048)[4:] == struct.pack("<I", 1)


def test_a_trial_that_nobody_confirms_goes_back(line: Process) -> None:
    board = Board(line)
    board.hello()
    install(board, 0, image(0, name="old"))
    put(board, 1, image(1, name="new"))
    assert board.reset().model == "new"
    back = board.reset()
    assert (back.model, back.rollbacks, back.pending) == ("old", 1, None)
    assert back.slots[1].length  # whole, and can be tried again
    board.commit(1)
    board.commit(0)  # of the confirmed slot: no trial
    assert board.reset().model == "old"
    assert board.hello().rollbacks == 1
    boots = [frame.payload for frame in line.unasked if frame.kind == Kind.BOOT]
    assert sum(b'"rolled_back":true' in boot for boot in boots) == 1


@pytest.mark.parametrize(("code", "cause"), [(b"f", "fault"), (b"h", "watchdog")])
def test_a_trial_that_dies_goes_back(line: Process, code: bytes, cause: str) -> None:
    board = Board(line)
    board.hello()
    install(board, 0, image(0, name="old"))
    put(board, 1, image(1, code=code, name="new"))
    board.reset()
    line.write(line.frame(Kind.INFER, struct.pack("<II", 1, 0)))
    assert line.read(timeout_s=0.2) is None
    back = board.hello()
    assert (back.model, back.rollbacks, back.cause) == ("old", 1, cause)
    faults = [frame for frame in line.unasked if frame.kind == Kind.FAULT]
    assert len(faults) == (cause == "fault")
    assert (back.last_fault is not None) == (cause == "fault")


def test_a_power_cycle_keeps_the_model_and_counts(
    core: Path, start: Callable[..., Process], tmp_path: Path
) -> None:
    for round_ in range(12):  # more records than one bank has cells
        line = start(core, "serve", tmp_path / "flash")
        board = Board(line)
        told = board.hello()
        if round_ == 0:
            install(board, 0, image(0, name="kept"))
        else:
            assert (told.model, told.boots, told.cause) == ("kept", round_ + 2, "power")
        assert line.end() == 0


def test_a_slot_that_rots_is_not_started(
    core: Path, start: Callable[..., Process], tmp_path: Path
) -> None:
    flash = tmp_path / "flash"
    line = start(core, "serve", flash)
    board = Board(line)
    board.hello()
    install(board, 0, image(0))
    put(board, 1, image(1))
    line.end()
    data = bytearray(flash.read_bytes())
    data[200] ^= 1
    data[SLOT_BYTES + 200] ^= 1
    flash.write_bytes(data)
    line = start(core, "serve", flash)
    told = Board(line).hello()
    assert (told.running, told.rollbacks, told.pending) == (None, 1, None)
    line.end()


def test_memory_that_takes_nothing_is_refused(
    core: Path, start: Callable[..., Process], tmp_path: Path
) -> None:
    line = start(core, "serve", tmp_path / "flash", "broken")
    board = Board(line)
    board.hello()
    assert refusal(lambda: board.begin(0, image(0))) == Refusal.FLASH
    assert board.echo(b"alive") == b"alive"
    line.end()


def test_damage_and_silence_cost_one_frame(line: Process) -> None:
    board = Board(line)
    board.hello()
    line.sequence = 100
    whole = line.frame(Kind.ECHO, b"payload")
    for broken in (whole[:-1] + bytes([whole[-1] ^ 1]), b"noise \xa5", b"\xa5\xa5"):
        line.write(broken + whole)
        answer = line.read()
        assert answer is not None
        assert answer.payload == b"payload"
    line.write(whole[:9])
    time.sleep(0.15)
    line.write(whole)
    answer = line.read()
    assert answer is not None
    assert answer.payload == b"payload"
    too_long = b"\xa5\x5a" + struct.pack("<BHHI", Kind.ECHO, 101, line.boot, 2048 + 17)
    line.write(too_long + whole)
    assert line.read() is not None


def test_hostile_bytes(core: Path) -> None:
    done = subprocess.run(
        [core, "fuzz", str(FUZZED_BYTES)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    count, restarts = map(int, done.stdout.split())
    assert count >= FUZZED_BYTES
    assert restarts > 100


def test_a_power_cut_at_every_byte_leaves_the_old_state_or_the_new_one(core: Path) -> None:
    done = subprocess.run([core, "cut"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 1000  # cuts, one for every byte that was written


@pytest.mark.usefixtures("core")
def test_the_example_is_a_whole_board(
    compiled: Callable[..., Path], start: Callable[..., Process]
) -> None:
    line = start(compiled(SOURCES / "ports" / "example", EXAMPLE))
    board = Board(line)
    told = board.hello()
    assert (told.board, told.slots, told.model, told.in_bytes) == ("my-board", (), "my model", 16)
    assert refusal(lambda: board.begin(0, b"")) == Refusal.NO_SLOTS
    assert refusal(board.confirm) == Refusal.NO_SLOTS
    board.give(bytes(range(16)), max_payload=told.max_payload)
    ran = board.infer(count=3)
    assert len(ran.ticks) == 3
    assert board.output(4, max_payload=told.max_payload) == bytes([0, 2, 4, HIGH])
    assert board.item(bytes(range(16)), 4, max_payload=told.max_payload)[3] == LOW
    line.sequence += 1
    line.write(line.frame(Kind.RESET))
    assert line.read() is not None
    assert line.end() == 3


def test_a_board_that_nobody_knows() -> None:
    with pytest.raises(ConfigError, match="no firmware for the board 'stm32f400'") as caught:
        build_firmware("stm32f400")
    assert caught.value.hint == "did you mean 'stm32f405'?"
