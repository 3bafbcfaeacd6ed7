"""Our serial lines keep what the interface promises, before boards that a thread plays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from drivers.lines.mlperf_tiny import MlperfTinyLine
from drivers.lines.uart import UartLine
from drivers.mcu.wire import Kind
from farm.connection import Line
from farm.model import Address, Device
from farm.testing.lines import LineContract
from tests.system.serial_boards import UNIT, Board, FrameBoard, PtyHost, TcpHost, TextBoard


class PlayedBench:
    """A line, and the board that it talks to."""

    def __init__(
        self, kind: type[Line], host: PtyHost | TcpHost, request: bytes, **options: str
    ) -> None:
        self._host = host
        self.request = request
        address = Address(scheme="x", place=host.place)
        device = Device(name="b", type="t", address=address, options=tuple(options.items()))
        self.line = kind(device)

    def mute(self) -> None:
        self._host.board.muted = True

    def unmute(self) -> None:
        self._host.board.muted = False

    def chatter(self, data: bytes) -> None:
        self._host.say(data)

    def unplug(self) -> None:
        self._host.unplug()

    def plug(self) -> None:
        self._host.plug()


ECHO = bytes([Kind.ECHO]) + b"hello"
NOT_ALONE = "a serial server decides for itself how many visitors it takes"


def ended(bench: PlayedBench) -> Iterator[PlayedBench]:
    yield bench
    bench.line.close()
    bench.unplug()


def behind(transport: str, board: Board, folder: Path) -> PtyHost | TcpHost:
    return TcpHost(board) if transport == "tcp" else PtyHost(board, folder / "line")


class TestUartLine(LineContract):
    @pytest.fixture
    def bench(self, tmp_path: Path) -> Iterator[PlayedBench]:
        host = behind("pty", FrameBoard(), tmp_path)
        yield from ended(PlayedBench(UartLine, host, ECHO, serial=UNIT))


class TestUartLineOverTcp(LineContract):
    shared = NOT_ALONE

    @pytest.fixture
    def bench(self, tmp_path: Path) -> Iterator[PlayedBench]:
        host = behind("tcp", FrameBoard(), tmp_path)
        yield from ended(PlayedBench(UartLine, host, ECHO, serial=UNIT))


class TestMlperfTinyLine(LineContract):
    @pytest.fixture
    def bench(self, tmp_path: Path) -> Iterator[PlayedBench]:
        host = behind("pty", TextBoard(), tmp_path)
        yield from ended(PlayedBench(MlperfTinyLine, host, b"profile"))


class TestMlperfTinyLineOverTcp(LineContract):
    shared = NOT_ALONE

    @pytest.fixture
    def bench(self, tmp_path: Path) -> Iterator[PlayedBench]:
        host = behind("tcp", TextBoard(), tmp_path)
        yield from ended(PlayedBench(MlperfTinyLine, host, b"profile"))
