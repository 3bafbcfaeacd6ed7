"""Serial lines over pseudo terminals: bad cables, restarts, hostile boards, and QEMU's debugger."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import resource
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drivers.lines import flashing
from drivers.lines.mlperf_tiny import MlperfTinyLine
from drivers.lines.uart import UartLine
from drivers.mcu.firmware import build_firmware
from drivers.mcu.wire import ANSWER, SYNC, Frame, Kind, encode
from farm.errors import (
    CommandTimeout,
    ConnectError,
    DeviceRebooted,
    FarmError,
    InfraError,
)
from farm.model import Address, Artifact, Device
from farm.testing.lines import LineContract
from tests.system.serial_boards import UNIT, FrameBoard, PtyHost, TcpHost, TextBoard
from tests.system.serial_proxy import SerialProxy

pytestmark = pytest.mark.system

ASK_S = 30.0
FUZZED_BYTES = 10_000_000
MEMORY_KIB = 100 << 10


def device(place: object, **options: str) -> Device:
    address = Address(scheme="uart", place=str(place))
    return Device(name="b", type="t", address=address, options=tuple(options.items()))


def ask(line: UartLine, kind: int, payload: bytes = b"", timeout_s: float = ASK_S) -> bytes:
    return line.exchange(bytes([kind]) + payload, timeout_s=timeout_s)


@pytest.fixture
def board() -> FrameBoard:
    return FrameBoard()


@pytest.fixture
def host(board: FrameBoard, tmp_path: Path) -> Iterator[PtyHost]:
    host = PtyHost(board, tmp_path / "line")
    yield host
    host.unplug()


@pytest.fixture
def line(host: PtyHost) -> Iterator[UartLine]:
    with contextlib.closing(UartLine(device(host.place))) as line:
        yield line


@pytest.fixture
def proxy(host: PtyHost, tmp_path: Path) -> Iterator[SerialProxy]:
    with contextlib.closing(SerialProxy(host.link, tmp_path / "proxied", seed=3)) as proxy:
        yield proxy


class TestBadCables:
    def test_everything_is_done_once_though_frames_are_lost_damaged_and_doubled(
        self, board: FrameBoard, proxy: SerialProxy, tmp_path: Path
    ) -> None:
        with contextlib.closing(UartLine(device(tmp_path / "proxied"))) as line:
            proxy.drop = proxy.corrupt = proxy.duplicate = 0.05
            asked = [(Kind.ECHO, os.urandom(n % 300)) for n in range(80)]
            for kind, payload in asked:
                assert ask(line, kind, payload) == bytes([kind | ANSWER]) + payload
        assert board.done == asked

    def test_a_long_frame_passes_a_slow_line_without_being_asked_twice(
        self, board: FrameBoard, proxy: SerialProxy, tmp_path: Path
    ) -> None:
        with contextlib.closing(UartLine(device(tmp_path / "proxied"))) as line:
            proxy.bytes_per_s = 2000
            ask(line, Kind.HELLO)  # shows the line how slow it is
            heard = board.heard
            ask(line, Kind.DATA, bytes(16 << 10), timeout_s=60)
            assert board.heard == heard + 1

    def test_a_line_that_takes_its_time_is_no_bad_one(
        self, board: FrameBoard, proxy: SerialProxy, tmp_path: Path
    ) -> None:
        proxy.delay_s = 0.4
        with contextlib.closing(UartLine(device(tmp_path / "proxied"))) as line:
            for n in range(3):
                assert ask(line, Kind.ECHO, bytes([n]))[1:] == bytes([n])
        assert [payload for _, payload in board.done] == [bytes([n]) for n in range(3)]

    def test_a_cable_that_comes_loose_in_the_middle_of_a_request(
        self, board: FrameBoard, host: PtyHost, line: UartLine
    ) -> None:
        board.muted = True
        timer = threading.Timer(0.2, host.unplug)
        timer.start()
        with pytest.raises(InfraError, match="vanished"):
            ask(line, Kind.ECHO, b"x", timeout_s=60)
        timer.join()
        board.muted = False
        back = threading.Timer(0.3, host.plug)
        back.start()
        assert ask(line, Kind.ECHO, b"y")[1:] == b"y"
        back.join()
        assert board.done == [(Kind.ECHO, b"y")]


class TestRestarts:
    def test_a_restart_since_the_last_request_is_told_with_its_reason(
        self, board: FrameBoard, host: PtyHost, line: UartLine
    ) -> None:
        host.say(board.restart("fault", fault=True))
        for _ in range(2):  # until somebody has asked who is there now
            with pytest.raises(DeviceRebooted) as caught:
                ask(line, Kind.ECHO, b"x")
            evidence = {one.name: json.loads(one.text) for one in caught.value.evidence}
            assert evidence["fault"]["cause"] == "bus"
            assert evidence["boot"] == {"boot": 8, "cause": "fault", "rolled_back": False}
        assert board.done == []
        ask(line, Kind.HELLO)
        assert ask(line, Kind.ECHO, b"x")[1:] == b"x"

    def test_a_restart_that_nobody_heard_of_is_told_by_the_next_answer(
        self, board: FrameBoard, line: UartLine
    ) -> None:
        board.restart()
        with pytest.raises(DeviceRebooted) as caught:
            ask(line, Kind.ECHO, b"x")
        (boot,) = caught.value.evidence
        assert json.loads(boot.text) == {"boot": 8, "cause": "power"}
        assert board.done == []

    def test_a_restart_while_waiting_is_told_at_once(
        self, board: FrameBoard, host: PtyHost, line: UartLine
    ) -> None:
        board.muted = True

        def restart() -> None:
            host.say(board.restart("watchdog"))

        timer = threading.Timer(0.1, restart)
        timer.start()
        with pytest.raises(DeviceRebooted):
            ask(line, Kind.ECHO, b"x", timeout_s=110)
        timer.join()

    def test_a_restart_behind_a_pulled_cable_is_told(
        self, board: FrameBoard, host: PtyHost, line: UartLine
    ) -> None:
        host.unplug()
        with pytest.raises(InfraError):
            ask(line, Kind.ECHO, b"x")
        board.restart()
        host.plug()
        with pytest.raises(DeviceRebooted):
            ask(line, Kind.ECHO, b"x")
        ask(line, Kind.HELLO)
        assert ask(line, Kind.ECHO, b"x")[1:] == b"x"

    def test_a_restart_that_was_asked_for_is_none(self, board: FrameBoard, line: UartLine) -> None:
        assert ask(line, Kind.RESET)[0] == Kind.RESET | ANSWER
        assert json.loads(ask(line, Kind.HELLO)[1:])["boot"] == 8
        assert ask(line, Kind.ECHO, b"x")[1:] == b"x"

    def test_answers_and_starts_of_the_past_are_nothing(
        self, board: FrameBoard, host: PtyHost, line: UartLine
    ) -> None:
        host.say(board.frame(Kind.BOOT, b"{}") + board.frame(Kind.ECHO | ANSWER, b"old", 5))
        assert ask(line, Kind.ECHO, b"x")[1:] == b"x"

    def test_an_error_is_an_answer(self, line: UartLine) -> None:
        assert ask(line, Kind.DATA)[0] == Kind.ERROR


class TestWhoIsThere:
    def test_the_number_is_introduced_and_another_board_refused(self, host: PtyHost) -> None:
        assert UartLine.introduce(device(host.place, serial="other")) == (("serial", UNIT),)
        UartLine(device(host.place, serial=UNIT)).close()
        with pytest.raises(ConnectError, match="another board") as caught:
            UartLine(device(host.place, serial="other"))
        assert "farm enroll b" in caught.value.hint

    def test_a_board_without_a_number_is_not_pinned(self, board: FrameBoard, host: PtyHost) -> None:
        board.unit = ""
        told: list[str] = []
        assert UartLine.introduce(device(host.place), told.append) == ()
        assert "nothing is pinned" in told[0]

    def test_another_board_at_the_same_name_is_refused_when_it_comes_back(
        self, board: FrameBoard, host: PtyHost
    ) -> None:
        with contextlib.closing(UartLine(device(host.place, serial=UNIT))) as line:
            host.unplug()
            with pytest.raises(InfraError):
                ask(line, Kind.ECHO)
            board.unit = "another"
            host.plug()
            with pytest.raises(ConnectError, match="another board"):
                ask(line, Kind.ECHO)
        assert board.done == []

    def test_silence_is_nobody(
        self, board: FrameBoard, host: PtyHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("drivers.lines.serial_line.MEET_S", 0.3)
        board.muted = True
        with pytest.raises(ConnectError, match="no board answers"):
            UartLine(device(host.place))

    def test_a_model_that_runs_is_not_interrupted(self, board: FrameBoard, line: UartLine) -> None:
        board.infer_s = 1.5
        heard = board.heard
        answer = ask(line, Kind.INFER, (1).to_bytes(4, "little") + (5000).to_bytes(4, "little"))
        assert answer[0] == Kind.INFER | ANSWER
        assert board.heard == heard + 1


class TestHostileBoards:
    def test_ten_million_bytes_of_nonsense_do_no_harm(
        self, board: FrameBoard, line: UartLine
    ) -> None:
        """Fed where bytes arrive, so that the time of a terminal is not spent."""
        dice = random.Random(5)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        size = 0
        while size < FUZZED_BYTES:
            noise = bytearray(dice.randbytes(60_000))
            for _ in range(20):
                kind = dice.choice((*Kind, 0x81, 0x82, 0x77))
                frame = Frame(
                    kind=kind,
                    sequence=dice.randrange(1 << 16),
                    boot=board.boot,
                    payload=dice.randbytes(50),
                )
                noise[dice.randrange(len(noise)) :] += encode(frame) + SYNC
            line._hear(bytes(noise))
            size += len(noise)
        assert len(line.console().encode()) <= 64 << 10
        assert all(text.isprintable() for text in line.console().split("\n"))
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY_KIB
        assert ask(line, Kind.ECHO, b"x")[1:] == b"x"

    @pytest.mark.parametrize("kind", [UartLine, MlperfTinyLine])
    def test_one_who_never_stops_talking_ends_at_the_deadline(
        self, kind: type[UartLine] | type[MlperfTinyLine], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("drivers.lines.serial_line.MEET_S", 0.5)
        talker = Talker()
        host = TcpHost(talker)
        with pytest.raises(ConnectError):
            kind(device(host.place))
        host.unplug()

    def test_one_who_hangs_up_at_once_is_nobody(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            thread = threading.Thread(target=lambda: listener.accept()[0].close())
            thread.start()
            with pytest.raises(ConnectError, match="vanished"):
                UartLine(device(f"127.0.0.1:{port}"))
            thread.join()

    def test_an_answer_to_hello_that_is_none(self, board: FrameBoard, host: PtyHost) -> None:
        board.hello = lambda: b'{"protocol": "\x1b[2J"}'  # type: ignore[method-assign]
        with pytest.raises(ConnectError) as caught:
            UartLine(device(host.place))
        assert caught.value.message.isprintable()


class Talker(FrameBoard):
    """Answers whatever comes with a megabyte of heads."""

    def hear(self, data: bytes, *, torn: bool) -> bytes:
        return (SYNC + b"\x81\1\0\1\0\0\1\0\0spam\n") * 50_000


class TestText:
    @pytest.fixture
    def texts(self) -> TextBoard:
        return TextBoard()

    @pytest.fixture
    def text_host(self, texts: TextBoard, tmp_path: Path) -> Iterator[PtyHost]:
        host = PtyHost(texts, tmp_path / "text")
        yield host
        host.unplug()

    @pytest.fixture
    def text_line(self, text_host: PtyHost) -> Iterator[MlperfTinyLine]:
        with contextlib.closing(MlperfTinyLine(device(text_host.place))) as line:
            yield line

    def test_lines_before_ready_are_the_answer(self, text_line: MlperfTinyLine) -> None:
        answer = text_line.exchange(b"profile", timeout_s=ASK_S)
        assert answer.split(b"\r\n")[1:] == [b"m-model-[kws01]"]
        error = text_line.exchange(b"bogus", timeout_s=ASK_S)
        assert error == b"e-[Unknown command: bogus]"

    @pytest.mark.parametrize("command", [b"x" * 80, b"a%b", b"a\r", b"a\n", "ü".encode()])
    def test_what_cannot_be_a_command_is_not_sent(
        self, texts: TextBoard, text_line: MlperfTinyLine, command: bytes
    ) -> None:
        heard = list(texts.heard)
        with pytest.raises(ValueError, match="command"):
            text_line.exchange(command, timeout_s=ASK_S)
        assert texts.heard == heard
        text_line.exchange(b"x" * 79, timeout_s=ASK_S)

    def test_a_late_answer_is_not_that_of_the_next_command(
        self, texts: TextBoard, text_host: PtyHost, text_line: MlperfTinyLine
    ) -> None:
        texts.late = {b"infer 1 0"}
        with pytest.raises(CommandTimeout):
            text_line.exchange(b"infer 1 0", timeout_s=0.2)
        texts.late = set()
        timer = threading.Timer(0.3, lambda: text_host.say(texts.release()))
        timer.start()
        assert b"m-model" in text_line.exchange(b"profile", timeout_s=ASK_S)
        timer.join()
        assert texts.heard.count(b"infer 1 0") == 1
        assert "m-results" in text_line.console()

    @pytest.mark.parametrize("while_asked", [False, True])
    def test_a_restart_is_told(
        self, texts: TextBoard, text_host: PtyHost, text_line: MlperfTinyLine, while_asked: bool
    ) -> None:
        texts.late = {b"infer 1 0"}
        timer = threading.Timer(0.2, lambda: text_host.say(TextBoard.BANNER))
        timer.start()
        if not while_asked:
            timer.join()
        with pytest.raises(DeviceRebooted) as caught:
            text_line.exchange(b"infer 1 0", timeout_s=ASK_S)
        assert "m-timestamp-mode" in caught.value.evidence[0].text
        timer.join()
        assert b"m-model" in text_line.exchange(b"profile", timeout_s=ASK_S)

    def test_the_name_is_told_to_whoever_looks(self, text_host: PtyHost) -> None:
        told: list[str] = []
        assert MlperfTinyLine.introduce(device(text_host.place), told.append) == ()
        assert "'played'" in told[0]

    def test_a_board_that_starts_is_waited_for(self, texts: TextBoard, text_host: PtyHost) -> None:
        texts.muted = True

        def wake() -> None:
            texts.muted = False
            text_host.say(TextBoard.BANNER)

        timer = threading.Timer(0.3, wake)
        timer.start()
        with contextlib.closing(MlperfTinyLine(device(text_host.place))) as line:
            assert b"m-model" in line.exchange(b"profile", timeout_s=ASK_S)
        timer.join()


SOURCE = """
    .syntax unified
    .cpu cortex-m4
    .thumb
    .section .text
    .word 0x20010000
    .word start
    .thumb_func
start:
    ldr r0, =0x40004000
    movs r1, #1
    str r1, [r0, #8]
    ldr r1, =16
    str r1, [r0, #16]
    movs r1, #3
    str r1, [r0, #8]
again:
    ldr r1, =message
next:
    ldrb r2, [r1], #1
    cmp r2, #0
    beq again
    str r2, [r0]
full:
    ldr r3, [r0, #4]
    lsls r3, r3, #31
    bmi full
    b next
    .ltorg
message:
    .asciz "m-name-dut-[MARK]\\r\\nm-ready\\r\\n"
"""
"""A firmware that never stops to tell its name."""


class TestQemuDebugger:
    @pytest.fixture
    def qemu(self, lacks: Callable[[str], None], tmp_path: Path) -> Iterator[tuple[Path, int]]:
        if not shutil.which("qemu-system-arm") or not shutil.which("arm-none-eabi-gcc"):
            lacks("no QEMU for ARM, or no compiler: apt install qemu-system-arm gcc-arm-none-eabi")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = int(free.getsockname()[1])
        command = ("qemu-system-arm", "-M", "mps2-an386", "-display", "none", "-monitor", "none")
        command += ("-serial", "pty", "-S", "-gdb", f"tcp:127.0.0.1:{port}")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as run:
            try:
                assert run.stdout is not None
                found = re.search(rb"/dev/pts/\d+", run.stdout.readline())
                assert found
                link = tmp_path / "qemu"
                link.symlink_to(found[0].decode())
                yield link, port
            finally:
                run.kill()

    def firmware(self, folder: Path, mark: str) -> Path:
        source, elf = folder / f"{mark}.s", folder / f"{mark}.elf"
        source.write_text(SOURCE.replace("MARK", mark))
        tool = ("arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-nostdlib", "-Wl,-Ttext=0")
        subprocess.run((*tool, "-Wl,-e,0", "-o", elf, source), check=True)
        return elf

    def test_firmware_after_firmware_runs(self, qemu: tuple[Path, int], tmp_path: Path) -> None:
        link, port = qemu
        board = device(link, flash="gdb", gdb=f"127.0.0.1:{port}", flash_address="0")
        flash_first(board, Artifact.of(self.firmware(tmp_path, "one")))
        with contextlib.closing(MlperfTinyLine(board)) as line:
            assert "one" in line.console()
            line.flash(Artifact.of(self.firmware(tmp_path, "two")))
            time.sleep(0.1)
            assert "two" in line.console()
            raw = tmp_path / "raw.bin"
            copy = ("arm-none-eabi-objcopy", "-O", "binary")
            subprocess.run((*copy, tmp_path / "one.elf", raw), check=True)
            line.flash(Artifact.of(raw))
            nowhere = tmp_path / "nowhere.bin"
            nowhere.write_bytes(b"x" * 100)
            lost = device(link, **{**dict(board.options), "flash_address": "0xF0000000"})
            with pytest.raises(FarmError, match="0xf0000000"):
                flash_first(lost, Artifact.of(nowhere))


class QemuBench:
    """A line to the farm's own firmware in QEMU, through a proxy that can be silenced."""

    def __init__(self, target: Path, link: Path) -> None:
        self.request = bytes([Kind.ECHO]) + b"hello"
        self._target, self._link = target, link
        self._proxy: SerialProxy | None = None
        self.plug()
        self.line = UartLine(device(link))

    def mute(self) -> None:
        assert self._proxy is not None
        self._proxy.drop = 1.0

    def unmute(self) -> None:
        assert self._proxy is not None
        self._proxy.drop = 0.0

    def chatter(self, data: bytes) -> None:
        assert self._proxy is not None
        self._proxy.say(data)

    def unplug(self) -> None:
        if self._proxy is not None:
            self._proxy.close()
            self._proxy = None

    def plug(self) -> None:
        self._proxy = SerialProxy(self._target, self._link)

    def close(self) -> None:
        self.line.close()
        self.unplug()


@pytest.fixture(scope="module")
def board_in_qemu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if not shutil.which("qemu-system-arm") or not shutil.which("arm-none-eabi-gcc"):
        message = "no QEMU for ARM, or no compiler: apt install qemu-system-arm"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(message)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        firmware = build_firmware("mps2-an386")
    command = ("qemu-system-arm", "-M", "mps2-an386", "-display", "none", "-monitor", "none")
    command += ("-serial", "pty", "-icount", "shift=5", "-kernel", str(firmware))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as run:
        try:
            assert run.stdout is not None
            found = re.search(rb"/dev/pts/\d+", run.stdout.readline())
            assert found
            held = os.open(found[0], os.O_RDWR | os.O_NOCTTY)  # QEMU looks for visitors rarely
            yield Path(found[0].decode())
            os.close(held)
        finally:
            run.kill()


class TestUartLineBeforeRealFirmware(LineContract):
    @pytest.fixture
    def bench(self, board_in_qemu: Path, tmp_path: Path) -> Iterator[QemuBench]:
        with contextlib.closing(QemuBench(board_in_qemu, tmp_path / "line")) as bench:
            yield bench


def flash_first(board: Device, image: Artifact) -> None:
    """As a line does it, before anything is there that could answer."""
    flashing.flash(board, image)
