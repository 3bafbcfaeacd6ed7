"""The microcontroller that Python plays: its rules, its faults, its switch, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
import pytest

from drivers.lines.uart import UartLine
from drivers.mcu.client import Board, Refusal, Refused
from drivers.mcu.image import HEADER_BYTES, Cpu, Header
from drivers.mcu.wire import ANSWER, UNASKED, Decoder, Frame, Kind, encode
from drivers.virtual import mcu
from drivers.virtual.machine import switch_all_off
from drivers.virtual.mcu import Unit, VirtualMcu
from drivers.virtual.mcu_control import control
from drivers.virtual.mcu_model import Model
from drivers.virtual.mcu_power import VirtualMcuPower
from farm.errors import (
    CommandTimeout,
    ConfigError,
    ConnectError,
    ConnectionLost,
    DeviceRebooted,
    InfraError,
)
from farm.model import Address, Device

ADDRESS = "virtual-mcu://mps2-an386?engine=python"
ANSWER_S = 10.0
SILENCE_S = 0.3
MAX_PAYLOAD = 16392


def mcu_device(address: str = ADDRESS, name: str = "m4") -> Device:
    return Device(name=name, type="t", address=Address.parse(address))


def image_of(code: bytes, *, in_bytes: int = 4, out_bytes: int = 4, **changes: Any) -> bytes:
    header = Header(
        cpu=Cpu.VIRTUAL, total_bytes=HEADER_BYTES + len(code), base=0, entry=0, data_address=0,
        data_load_address=0, data_bytes=0, bss_address=0, bss_bytes=0, in_bytes=in_bytes,
        out_bytes=out_bytes, arena_bytes=0, model_sha256=hashlib.sha256(code).digest(), name="m",
    )  # fmt: skip
    return replace(header, **changes).pack() + code


class Make(Protocol):
    def __call__(self, faults: str = "", *, folder: str = "board") -> Unit: ...


class Host:
    """The host's end of the line, without a retry: what a test wants to see is not repaired."""

    def __init__(self, unit: Unit) -> None:
        self._port = os.open(unit.address.place, os.O_RDWR | os.O_NOCTTY)
        self._decoder = Decoder()
        self.sequence = random.randrange(1, 0xFFFF)
        self.boot = 0
        self.heard: list[Frame] = []
        self.ask(Kind.HELLO)

    def close(self) -> None:
        os.close(self._port)

    def write(self, data: bytes) -> None:
        os.write(self._port, data)

    def frames(self, limit_s: float = SILENCE_S) -> list[Frame]:
        """What comes next; nothing if nothing comes in time."""
        frames: list[Frame] = []
        while not frames and select.select([self._port], [], [], limit_s)[0]:
            try:
                data = os.read(self._port, 1 << 16)
            except OSError:
                data = b""
            if not data:
                raise ConnectionLost("hung up")
            frames = self._decoder.feed(data)
        self.heard += frames
        return frames

    def ask(self, kind: int, payload: bytes = b"", limit_s: float = ANSWER_S) -> Frame:
        """One request and the next answer, whatever it answers."""
        self.sequence = self.sequence % 0xFFFF + 1
        request = Frame(kind=kind, sequence=self.sequence, boot=self.boot, payload=payload)
        self.write(encode(request))
        while frames := self.frames(limit_s):
            for frame in frames:
                if frame.kind not in UNASKED:
                    self.boot = frame.boot
                    return frame
        raise CommandTimeout("no answer")

    def refuses(self, kind: int, payload: bytes = b"") -> int:
        """The code of the error that a request is answered with."""
        answer = self.ask(kind, payload)
        assert answer.kind == Kind.ERROR
        return int(struct.unpack_from("<i", answer.payload)[0])


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Switches boards on, and off again at the end."""
    made: list[Unit] = []

    def switch_on(faults: str = "", *, folder: str = "board") -> Unit:
        made.append(Unit(mcu_device(ADDRESS + faults), tmp_path / folder))
        return made[-1]

    yield switch_on
    for unit in made:
        unit.switch_off()


@contextmanager
def connected(unit: Unit) -> Iterator[Board]:
    """The board through the production line."""
    device = replace(mcu_device(), address=unit.address, options=unit.options)
    with closing(UartLine(device)) as line:
        yield Board(line)


@contextmanager
def listening(unit: Unit) -> Iterator[Host]:
    """The board through a line that repairs nothing; it knows the start that it talks to."""
    deadline = time.monotonic() + ANSWER_S
    while not Path(unit.address.place).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    with closing(Host(unit)) as host:
        yield host


def push(board: Board, slot: int, image: bytes) -> None:
    board.write(slot, image, max_payload=MAX_PAYLOAD)
    board.commit(slot)


def install(board: Board, slot: int, image: bytes) -> None:
    push(board, slot, image)
    board.reset()
    board.confirm()


def refusal(work: Callable[[], object]) -> int:
    with pytest.raises(Refused) as caught:
        work()
    return caught.value.refusal


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("virtual-mcu://mps2-an368", "mps2-an386"),
        ("virtual-mcu://?engine=qmeu", "qemu"),
        ("virtual-mcu://?baudrate=9", "known:"),
        ("virtual-mcu://?seed=x", "seed=1"),
        ("virtual-mcu://?engine=python&fault=explode:1", "drop, corrupt"),
        ("virtual-mcu://?engine=python&fault=drop", "KIND:AT"),
        ("virtual-mcu://?fault=drop:1", "engine=python"),
        ("virtual-mcu://?engine=python&gdb=1", "engine=qemu"),
        ("virtual-mcu://?engine=qemu&gdb=maybe", "known: 0, 1"),
    ],
)
def test_an_address_that_can_never_work_is_refused_with_a_hint(address: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        VirtualMcu.check(mcu_device(address))
    assert hint in caught.value.hint


@pytest.mark.parametrize("place", ["", "mps2-an385", "mps2-an386", "mps2-an500", "mps3-an547"])
def test_every_board_is_accepted(place: str) -> None:
    VirtualMcu.check(mcu_device(f"virtual-mcu://{place}?seed=3&engine=auto&root=/folder"))


def test_it_says_what_it_is(make: Make) -> None:
    unit = make()
    with connected(unit) as board:
        hello = board.hello()
        assert hello.board == "simulated (mps2-an386)"
        assert hello.cpu == Cpu.VIRTUAL
        assert (hello.running, hello.confirmed, hello.pending) == (None, None, None)
        assert (hello.boots, hello.boot, hello.cause) == (1, 1, "power")
        assert dict(unit.options)["serial"] == hello.unit
        assert board.echo(b"\xa5\x5a" * 8000) == b"\xa5\x5a" * 8000


def test_a_model_gives_what_it_gives_everywhere_and_takes_the_same_instructions(
    make: Make, digits: Path
) -> None:
    unit = make()
    code = (digits / "int8.onnx").read_bytes()
    inputs = np.load(digits / "inputs.npz")
    (name,) = inputs.files
    items = inputs[name][:3]
    session = onnxruntime.InferenceSession(code, providers=["CPUExecutionProvider"])
    expected = [session.run(None, {name: item[None]})[0] for item in items]
    shift = int(dict(unit.options)["icount_shift"])
    with connected(unit) as board:
        push(board, 0, image_of(code, in_bytes=items[0].nbytes, out_bytes=expected[0].nbytes))
        hello = board.reset()
        assert (hello.running, hello.pending, hello.confirmed) == (0, 0, None)
        for item, want in zip(items, expected, strict=True):
            board.give(item.tobytes(), max_payload=64)
            ran = board.infer(count=3)
            assert board.output(want.nbytes, max_payload=16) == want.tobytes()
            instructions = {round(t / hello.tick_hz * 1e9 / 2**shift) for t in ran.ticks}
            assert instructions == {Model(code).instructions}


def test_a_trial_must_be_confirmed_or_the_next_start_goes_back(make: Make) -> None:
    with connected(make()) as board:
        install(board, 0, image_of(b"first"))
        push(board, 1, image_of(b"second"))
        trial = board.reset()
        assert (trial.running, trial.confirmed, trial.pending) == (1, 0, 1)
        back = board.reset()
        assert (back.running, back.confirmed, back.pending, back.rollbacks) == (0, 0, None, 1)
        assert '"rolled_back": true' in board.line.console().splitlines()[-1]
        board.commit(1)  # what lies there is still whole
        board.commit(0)  # to commit the confirmed slot takes the trial back
        assert board.hello().pending is None
        board.commit(1)
        assert board.reset().running == 1
        board.confirm()
        board.confirm()
        assert board.reset().confirmed == 1


def test_what_cannot_run_is_refused_and_the_slot_stays_empty(make: Make) -> None:
    good = image_of(b"code")
    with connected(make()) as board:
        for image, code in (
            (b"no image at all", Refusal.WRONG_ABI),
            (image_of(b"code", abi=2), Refusal.WRONG_ABI),
            (image_of(b"code", total_bytes=1), Refusal.CORRUPT),
            (image_of(b"code", cpu=Cpu.CORTEX_M7), Refusal.WRONG_CPU),
            (image_of(b"code", base=0x21000000), Refusal.WRONG_PLACE),
        ):
            board.write(0, image, max_payload=MAX_PAYLOAD)
            assert refusal(lambda: board.commit(0)) == code
        board.begin(0, good)
        board.data(0, 0, good[:-1] + b"x")
        assert refusal(lambda: board.commit(0)) == Refusal.CORRUPT
        assert refusal(lambda: board.data(0, len(good), b"x")) == Refusal.BAD_REQUEST
        assert refusal(lambda: board.commit(1)) == Refusal.CORRUPT
        assert refusal(lambda: board.commit(2)) == Refusal.BAD_REQUEST
        assert refusal(lambda: board.begin(0, bytes((2 << 20) + 1))) == Refusal.TOO_LONG
        assert refusal(board.confirm) == Refusal.NO_MODEL
        assert {slot.length for slot in board.hello().slots} == {0}


def test_the_running_and_the_confirmed_slot_are_not_written(make: Make) -> None:
    with connected(make()) as board:
        install(board, 0, image_of(b"first"))
        push(board, 1, image_of(b"second"))
        board.reset()
        for slot in (0, 1):
            assert refusal(lambda slot=slot: board.begin(slot, b"x")) == Refusal.BUSY
            assert refusal(lambda slot=slot: board.data(slot, 0, b"x")) == Refusal.BUSY


def test_requests_that_make_no_sense_are_refused(make: Make) -> None:
    unit = make()
    with listening(unit) as host:
        one = struct.pack("<II", 1, 0)
        assert host.refuses(0x42) == Refusal.BAD_REQUEST
        assert host.refuses(Kind.BEGIN, b"\0") == Refusal.BAD_REQUEST
        assert host.refuses(Kind.RESET, b"\0") == Refusal.BAD_REQUEST
        assert host.refuses(Kind.INFER, one) == Refusal.NO_MODEL
        assert host.refuses(Kind.INPUT, b"\0\0\0\0x") == Refusal.NO_MODEL
        assert host.refuses(Kind.OUTPUT, one) == Refusal.NO_MODEL
        assert host.refuses(Kind.ECHO, bytes(MAX_PAYLOAD + 1)) == Refusal.BAD_REQUEST
    with connected(unit) as board:
        install(board, 0, image_of(b"code"))
    with listening(unit) as host:
        assert host.refuses(Kind.INFER, struct.pack("<II", 0, 0)) == Refusal.BAD_REQUEST
        assert host.refuses(Kind.INFER, struct.pack("<II", 1001, 0)) == Refusal.BAD_REQUEST
        assert host.refuses(Kind.INPUT, struct.pack("<I", 1) + bytes(4)) == Refusal.TOO_LONG
        assert host.refuses(Kind.OUTPUT, struct.pack("<II", 1, 4)) == Refusal.TOO_LONG


def test_a_request_for_an_earlier_start_is_stale(make: Make) -> None:
    with listening(make()) as host:
        before = host.boot
        host.ask(Kind.RESET)
        host.ask(Kind.HELLO)
        host.boot = before
        assert host.refuses(Kind.ECHO, b"late") == Refusal.STALE


def test_a_repeated_request_is_answered_again_and_done_once(make: Make) -> None:
    with listening(make()) as host:
        image = image_of(b"code")
        digest = hashlib.sha256(image).digest()
        host.ask(Kind.BEGIN, struct.pack("<B3xII", 0, len(image), zlib.crc32(image)) + digest)
        host.ask(Kind.DATA, bytes(8) + image)
        commit = Frame(kind=Kind.COMMIT, sequence=7, boot=host.boot, payload=bytes(4))
        host.write(encode(commit))
        host.write(encode(commit))
        answers = [*host.frames(ANSWER_S), *host.frames()]
        assert [frame.kind for frame in answers] == [Kind.COMMIT | ANSWER] * 2
        for payload in (b"new", b"two"):  # as long as the last one, and another
            echo = Frame(kind=Kind.ECHO, sequence=7, boot=host.boot, payload=payload)
            host.write(encode(echo))
            assert host.frames(ANSWER_S)[0].payload == payload


@pytest.mark.parametrize("seed", range(3))
def test_damage_is_never_answered_and_costs_no_later_request(make: Make, seed: int) -> None:
    with listening(make()) as host:
        whole = encode(Frame(kind=Kind.ECHO, sequence=9, boot=host.boot, payload=bytes(100)))
        for damaged in (
            whole[:-1] + bytes([whole[-1] ^ 1]),
            whole[:50],
            b"\xa5\x5a" + b"\xff" * 40,
            b"\xa5",
            random.Random(seed).randbytes(500),
        ):
            host.write(damaged)
            assert host.frames() == []
            assert host.ask(Kind.ECHO, b"still there").payload == b"still there"


def test_a_model_that_faults_says_so_and_the_board_goes_back(make: Make) -> None:
    with connected(make()) as board:
        install(board, 0, image_of(b"first"))
        push(board, 1, image_of(b"fault"))
        board.reset()
        with pytest.raises(DeviceRebooted) as caught:
            board.infer()
        told = {exhibit.name: json.loads(exhibit.text) for exhibit in caught.value.evidence}
        assert told["boot"]["cause"] == "fault"
        assert told["boot"]["rolled_back"] is True
        hello = board.hello()
        assert (hello.running, hello.rollbacks, hello.cause) == (0, 1, "fault")
        assert hello.last_fault == told["fault"]


def test_a_model_that_hangs_is_ended_by_the_watchdog(make: Make) -> None:
    with connected(make()) as board:
        push(board, 0, image_of(b"hang"))
        board.reset()
        with pytest.raises(DeviceRebooted):
            board.infer(timeout_s=0.01)
        hello = board.hello()
        assert (hello.running, hello.cause) == (None, "watchdog")


def test_the_power_can_be_cut_while_a_model_hangs(make: Make) -> None:
    unit = make()
    with connected(unit) as board:
        push(board, 0, image_of(b"hang"))
        board.reset()
    with listening(unit) as host:
        with pytest.raises(CommandTimeout):
            host.ask(Kind.INFER, struct.pack("<II", 1, 10_000), 0.0)
        control(dict(unit.options)["control"], {"power": "cycle"})
    with connected(unit) as board:
        assert board.hello().cause == "power"


def test_a_power_cycle_keeps_the_confirmed_slot_and_hangs_up(make: Make) -> None:
    unit = make()
    power = VirtualMcuPower(replace(mcu_device(), options=unit.options))
    with connected(unit) as board:
        install(board, 0, image_of(b"first"))
        before = board.hello()
        power.off()
        with pytest.raises(ConnectionLost):
            board.echo(b"lost")
        assert not Path(unit.address.place).is_symlink()
        power.off()
        power.on()
        power.on()
        again = board.back()
    assert (again.running, again.confirmed, again.cause) == (0, 0, "power")
    assert again.boots == before.boots + 1
    assert again.slots == before.slots


def test_slots_outlive_the_controller_and_damaged_ones_do_not_start(
    make: Make, tmp_path: Path
) -> None:
    unit = Unit(mcu_device(), tmp_path / "board")
    with connected(unit) as board:
        install(board, 0, image_of(b"first"))
        push(board, 1, image_of(b"second"))
    unit.switch_off()
    (tmp_path / "board" / "slot-1").write_bytes(b"damaged")
    with connected(make()) as board:
        hello = board.hello()
    assert (hello.running, hello.rollbacks) == (0, 1)


@pytest.mark.parametrize("text", ["", "[]", '{"whole": [{}], "other": 1}', '{"whole": 3}'])
def test_a_state_that_nobody_can_read_is_that_of_a_new_board(
    make: Make, tmp_path: Path, text: str
) -> None:
    (tmp_path / "board").mkdir()
    (tmp_path / "board" / "state.json").write_text(text)
    with connected(make()) as board:
        assert board.hello().boots == 1


def test_faults_of_the_line_befall_the_answer_of_the_request_that_they_name(make: Make) -> None:
    with listening(make("&fault=drop:2&fault=corrupt:3&fault=duplicate:4")) as host:
        for _ in range(2):
            with pytest.raises(CommandTimeout):
                host.ask(Kind.ECHO, b"lost", SILENCE_S)
        first = host.ask(Kind.ECHO, b"twice")
        host.frames()
        assert host.heard.count(first) == 2
        assert host.ask(Kind.ECHO, b"once").payload == b"once"


def test_the_line_repairs_what_can_be_repaired(make: Make) -> None:
    faults = "&fault=drop:1&fault=corrupt:3&fault=duplicate:4"
    with connected(make(faults)) as board:
        for number in range(5):
            assert board.echo(b"%d" % number) == b"%d" % number


def test_a_line_that_vanishes_comes_back_and_nothing_is_done_twice(make: Make) -> None:
    unit = make("&fault=vanish:2")
    with listening(unit) as host, pytest.raises(ConnectionLost):
        host.ask(Kind.ECHO, b"lost")
    with listening(unit) as again:
        assert again.boot == host.boot
        again.sequence = host.sequence - 1
        assert again.ask(Kind.ECHO, b"lost").payload == b"lost"


def test_a_power_cut_comes_before_the_work(make: Make) -> None:
    unit = make("&fault=power:2")
    with listening(unit) as host, pytest.raises(ConnectionLost):
        host.ask(Kind.ECHO, b"lost")
    with listening(unit) as again:
        assert again.boot == host.boot + 1


@pytest.mark.parametrize("name", ["..", "a/../../b", "a,b;c d'\"$(id)", "ü\n\t", "x" * 150, "-M"])
def test_any_name_of_a_device_is_a_folder(name: str) -> None:
    device = VirtualMcu.start(mcu_device(name=name))
    assert device.address.scheme == "uart"
    assert Path(device.address.place).is_symlink()
    control(device.option("control"), {"power": "cycle"})
    assert VirtualMcu.start(mcu_device(name=name)) == device
    switch_all_off()
    assert not Path(device.address.place).is_symlink()


def test_a_folder_that_cannot_be_used_is_two_lines(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ConnectError) as caught:
        VirtualMcu.start(mcu_device(f"{ADDRESS}&root={blocked}"))
    assert str(blocked) in caught.value.message
    assert "?root=" in caught.value.hint


def test_a_board_that_another_process_has_is_not_taken(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make()
    monkeypatch.setattr(mcu, "LOCK_S", 0.0)
    with pytest.raises(ConnectError, match="another process") as caught:
        VirtualMcu.start(mcu_device(f"{ADDRESS}&root={tmp_path / 'board'}"))
    assert "?root=" in caught.value.hint


def test_without_an_emulator_python_plays_the_board_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    unit = Unit(mcu_device("virtual-mcu://mps2-an500"), tmp_path / "board")
    with connected(unit) as board:
        assert board.hello().board == "simulated (mps2-an500)"
    unit.switch_off()
    with pytest.raises(ConfigError, match="not installed") as caught:
        VirtualMcu.start(mcu_device("virtual-mcu://?engine=qemu"))
    assert "engine=python" in caught.value.hint


@pytest.mark.parametrize("nonsense", [b"", b"{", b"[]", b'"power"', b'{"power": "up"}', b"\xff"])
def test_the_control_socket_answers_nonsense_with_an_error(make: Make, nonsense: bytes) -> None:
    unit = make()
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(dict(unit.options)["control"])
        line.sendall(nonsense + b"\n")
        answer = json.loads(line.makefile().readline())
    assert answer["ok"] is False
    assert answer["error"]
    with connected(unit) as board:
        assert board.echo(b"still on") == b"still on"


def test_python_runs_no_firmware(make: Make) -> None:
    path = dict(make().options)["control"]
    with pytest.raises(InfraError, match="cannot run"):
        control(path, {"kernel": "/nowhere.elf"})


def test_a_switch_without_a_board_says_so(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="started"):
        VirtualMcuPower(mcu_device()).on()
    with pytest.raises(InfraError, match="does not answer"):
        control(str(tmp_path / "nothing"), {"power": "on"})
