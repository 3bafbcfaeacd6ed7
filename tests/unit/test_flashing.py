"""Ways to put a firmware on a board, and what goes wrong on them."""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from drivers.lines import flashing, gdb_remote, serial_line
from drivers.lines.firmware_file import Piece, read_firmware
from drivers.lines.gdb_remote import GdbError, GdbRemote
from drivers.lines.uart import UartLine
from farm.errors import ConfigError, InfraError
from farm.model import Address, Artifact, Device
from tests.system.serial_boards import FrameBoard, PtyHost

NAME = "it's a $(touch pwned) {port} firmware.elf"


def device(place: object = "/dev/null", **options: str) -> Device:
    address = Address(scheme="uart", place=str(place))
    return Device(name="b", type="t", address=address, options=tuple(options.items()))


@pytest.fixture
def image(tmp_path: Path) -> Artifact:
    (tmp_path / NAME).write_bytes(b"firmware")
    return Artifact.of(tmp_path / NAME)


@pytest.fixture
def tool(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a program; `$told` is a file where it may write down what it was told."""

    def write(text: str) -> Path:
        path = tmp_path / "tool"
        path.write_text(f"#!/bin/sh\ntold={tmp_path}/told\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return write


class TestChecking:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"flash": "magic"}, "no way to flash"),
            ({"flash": "command"}, "flash_command is missing"),
            ({"flash": "command", "flash_command": "tool image.elf"}, "does not name {image}"),
            ({"flash": "command", "flash_command": "tool '{image}"}, "cannot be split"),
            ({"flash": "command", "flash_command": "tool {image}\0"}, "cannot be split"),
            ({"flash": "command", "flash_command": "'' {image}"}, "missing"),
            ({"flash": "gdb"}, "no HOST:PORT"),
            ({"flash": "gdb", "gdb": "localhost:99999"}, "no HOST:PORT"),
            ({"flash": "gdb", "gdb": "h:1", "flash_address": "start"}, "is no address"),
            ({"flash": "relaunch"}, "for virtual boards"),
        ],
    )
    def test_a_way_that_cannot_work_is_refused(self, options: dict[str, str], message: str) -> None:
        with pytest.raises(ConfigError, match=message) as caught:
            UartLine.check(device(**options))
        assert caught.value.hint
        assert caught.value.device == "b"

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"flash": "command", "flash_command": "openocd -c 'program {{image}} verify'"},
            {"flash": "gdb", "gdb": "[::1]:3333", "flash_address": "0x08000000"},
            {"flash": "relaunch", "control": "/run/board"},
        ],
    )
    def test_ways_that_can_work_are_accepted(self, options: dict[str, str]) -> None:
        UartLine.check(device(**options))


class TestCommand:
    def test_every_word_stays_one_word(
        self, image: Artifact, tool: Callable[[str], Path], tmp_path: Path
    ) -> None:
        path = tool('printf "%s\\n" "$@" >"$told"')
        template = f"{path} --port {{port}} -c 'program {{{{image}}}} verify' {{image}}"
        flashing.flash(device("/dev/x y", flash="command", flash_command=template), image)
        told = (tmp_path / "told").read_text().splitlines()
        assert told[:3] == ["--port", "/dev/x y", "-c"]
        assert told[3] == f"program {{{image.path}}} verify"
        assert told[4] == str(image.path)
        assert not (tmp_path / "pwned").exists()

    def test_a_tool_that_fails_is_told_with_its_last_words(
        self, image: Artifact, tool: Callable[[str], Path]
    ) -> None:
        path = tool("echo connecting; echo 'no chip answers' >&2; exit 3")
        with pytest.raises(InfraError, match="failed, status 3: no chip answers") as caught:
            flashing.flash(device(flash="command", flash_command=f"{path} {{image}}"), image)
        (output,) = caught.value.evidence
        assert output.text == "connecting\nno chip answers"

    def test_a_tool_that_is_missing_is_told(self, image: Artifact) -> None:
        with pytest.raises(InfraError, match="'no-such-tool' cannot be run") as caught:
            flashing.flash(device(flash="command", flash_command="no-such-tool {image}"), image)
        assert "install it" in caught.value.hint

    def test_a_tool_that_hangs_is_ended_with_its_children(
        self,
        image: Artifact,
        tool: Callable[[str], Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(flashing, "COMMAND_S", 0.5)
        path = tool('trap "" TERM; sleep 600 & echo $! >"$told"; wait')
        with pytest.raises(InfraError, match=r"did not end in 0\.5 s"):
            flashing.flash(device(flash="command", flash_command=f"{path} {{image}}"), image)
        child = int((tmp_path / "told").read_text())
        while _lives(child):
            time.sleep(0.01)

    def test_the_port_is_free_meanwhile_and_the_board_answers_afterwards(
        self, image: Artifact, tool: Callable[[str], Path], tmp_path: Path
    ) -> None:
        path = tool('flock -n "$2" true && echo free >"$told"')
        board = FrameBoard()
        host = PtyHost(board, tmp_path / "line")
        options = {"flash": "command", "flash_command": f"{path} {{image}} {{port}}"}
        with closing(UartLine(device(host.place, **options))) as line:
            board.restart()
            line.flash(image)
            assert (tmp_path / "told").read_text() == "free\n"
            assert line.exchange(b"\x02x", timeout_s=20)[1:] == b"x"
        host.unplug()

    def test_a_board_that_is_silent_afterwards_is_told(
        self,
        image: Artifact,
        tool: Callable[[str], Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(serial_line, "FLASHED_S", 0.3)
        board = FrameBoard()
        host = PtyHost(board, tmp_path / "line")
        options = {"flash": "command", "flash_command": f"{tool('true')} {{image}}"}
        with closing(UartLine(device(host.place, **options))) as line:
            board.muted = True
            with pytest.raises(InfraError, match="does not answer after it was flashed"):
                line.flash(image)
            board.muted = False
            assert line.exchange(b"\x02x", timeout_s=20)[1:] == b"x"
        host.unplug()


class TestRelaunch:
    @pytest.fixture
    def control(self, tmp_path: Path) -> Iterator[Callable[[bytes], tuple[Device, list[bytes]]]]:
        """A control socket that gives one answer."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "c"))
        listener.listen()
        heard: list[bytes] = []

        def serve(answer: bytes) -> None:
            with suppress(OSError):
                made, _ = listener.accept()
                with made, made.makefile("rb") as lines:
                    heard.append(lines.readline())
                    made.sendall(answer)

        def start(answer: bytes) -> tuple[Device, list[bytes]]:
            threading.Thread(target=serve, args=(answer,), daemon=True).start()
            return device(flash="relaunch", control=str(tmp_path / "c")), heard

        yield start
        listener.close()

    def test_the_board_is_told_the_file(
        self, control: Callable[[bytes], tuple[Device, list[bytes]]], image: Artifact
    ) -> None:
        board, heard = control(b'{"ok": true}\n')
        flashing.flash(board, image)
        assert [json.loads(line) for line in heard] == [{"kernel": str(image.path)}]

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (b'{"ok": false, "error": "no ELF"}\n', "refuses .*: no ELF"),
            (b"", "cannot be told"),
            (b"[]\n", "cannot be told"),
            (b"{}\n", "cannot be told"),
        ],
    )
    def test_a_refusal_is_told(
        self,
        control: Callable[[bytes], tuple[Device, list[bytes]]],
        image: Artifact,
        answer: bytes,
        message: str,
    ) -> None:
        board, _ = control(answer)
        with pytest.raises(InfraError, match=message):
            flashing.flash(board, image)

    def test_nobody_there_is_told(self, image: Artifact, tmp_path: Path) -> None:
        board = device(flash="relaunch", control=str(tmp_path / "none"))
        with pytest.raises(InfraError, match="cannot be told"):
            flashing.flash(board, image)


class FakeServer:
    """A debugger's server over a memory of 64 KiB.

    Attributes:
        memory: what it holds.
        packets: what was asked.
        answers: what it says to commands that begin so, instead of what it should.
    """

    def __init__(self) -> None:
        self.memory = bytearray(64 << 10)
        self.packets: list[bytes] = []
        self.answers: dict[bytes, list[bytes]] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(20)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                made, _ = self._listener.accept()
                with made, suppress(OSError):
                    self._talk(made)

    def _talk(self, made: socket.socket) -> None:
        unread = b""
        while data := made.recv(64 << 10):
            unread = (unread + data).lstrip(b"+")
            while b"#" in unread[:-2]:
                packet, _, unread = unread[1:].partition(b"#")
                unread = unread[2:].lstrip(b"+")
                self.packets.append(packet)
                for answer in self._answers(packet):
                    raw = answer if answer.startswith(b"$") else _packed(answer)
                    made.sendall(b"+" + raw)

    def _answers(self, packet: bytes) -> list[bytes]:
        for begin, answers in self.answers.items():
            if packet.startswith(begin):
                return answers
        if packet.startswith(b"qSupported"):
            return [b"PacketSize=200;qXfer:features:read+"]
        if packet == b"?":
            return [b"S05"]
        if packet[:1] in (b"M", b"m"):
            place, _, data = packet[1:].partition(b":")
            at, size = (int(word, 16) for word in place.split(b","))
            if packet[:1] == b"m":
                return [self.memory[at : at + size].hex().encode()]
            self.memory[at : at + size] = bytes.fromhex(data.decode())
        return [b"OK"]


def _packed(data: bytes) -> bytes:
    return b"$%b#%02x" % (data, sum(data) & 0xFF)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with closing(FakeServer()) as server:
        yield server


class TestGdb:
    def flashed(self, server: FakeServer, image: Artifact) -> None:
        place = f"127.0.0.1:{server.port}"
        flashing.flash(device(flash="gdb", gdb=place, flash_address="0x100"), image)

    def test_memory_is_written_and_read_back_after_the_reset(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        path = tmp_path / "raw.bin"
        path.write_bytes(os.urandom(3000))
        self.flashed(server, Artifact.of(path))
        assert server.memory[0x100 : 0x100 + 3000] == path.read_bytes()
        kinds = [packet[:1] for packet in server.packets]
        assert kinds.index(b"m") > kinds.index(b"q", 1) > kinds.index(b"M")
        assert server.packets[-1] == b"D"
        assert max(map(len, server.packets)) <= 0x200

    def test_the_word_for_a_reset_is_found(self, server: FakeServer, image: Artifact) -> None:
        unknown = b"O" + b"unknown command".hex().encode()
        server.answers[b"qRcmd," + b"system_reset".hex().encode()] = [unknown, b"OK"]
        server.answers[b"qRcmd," + b"reset halt".hex().encode()] = [b"E01"]
        self.flashed(server, image)
        asked = [bytes.fromhex(p[6:].decode()) for p in server.packets if p.startswith(b"qRcmd")]
        assert asked == [b"system_reset", b"reset halt", b"reset"]

    def test_runs_and_escapes_are_undone(self, server: FakeServer) -> None:
        server.answers[b"m0"] = [b"0* 1*!"]  # 0000 and 11111, without what would end a packet
        server.answers[b"m1"] = [b"}\x16}\x16"]
        with closing(GdbRemote("127.0.0.1", server.port)) as remote:
            assert remote.ask(b"m0,4") == b"0000" + b"11111"
            assert remote.ask(b"m1,1") == b"66"

    @pytest.mark.parametrize(
        ("begin", "answers", "message"),
        [
            (b"M", [b"E14"], "is refused: E14"),
            (b"m", [b"E14"], "reading at 0x100 is refused"),
            (b"m", [b"0102030405060708"], "reads back differently"),
            (b"qRcmd", [b""], "knows no way to reset"),
            (b"D", [b"E01"], "does not let the processor run"),
            (b"M", [b"$OK#00"], "checksum"),
        ],
    )
    def test_what_a_server_refuses_is_told(
        self,
        server: FakeServer,
        image: Artifact,
        begin: bytes,
        answers: list[bytes],
        message: str,
    ) -> None:
        server.answers[begin] = answers
        with pytest.raises(InfraError, match=message) as caught:
            self.flashed(server, image)
        assert "flash: command" in caught.value.hint

    def test_silence_and_nobody_are_told(
        self, server: FakeServer, image: Artifact, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gdb_remote, "ANSWER_S", 0.2)
        server.answers[b"qSupported"] = []
        with pytest.raises(InfraError, match="timed out"):
            self.flashed(server, image)
        server.close()
        with pytest.raises(InfraError, match="refused"):
            self.flashed(server, image)

    def test_what_is_no_packet_does_not_fill_the_memory(
        self, server: FakeServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gdb_remote, "LONGEST_REPLY", 1000)
        server.answers[b"qSupported"] = [b"$" + b"x" * 100_000]
        with pytest.raises(GdbError, match="no packet"):
            GdbRemote("127.0.0.1", server.port)


def elf(*segments: tuple[int, int, int, bytes], word: int = 1, cut: int | None = None) -> bytes:
    """An ELF with segments: kind, virtual and physical address, bytes."""
    at = 52 + 32 * len(segments)
    heads, bodies = b"", b""
    for kind, virtual, physical, data in segments:
        place = at + len(bodies)
        heads += struct.pack("<8I", kind, place, virtual, physical, len(data), len(data), 5, 4)
        bodies += data
    ident = b"\x7fELF" + bytes([word, 1, 1]) + bytes(9)
    head = struct.pack("<HHIIIIIHHHHHH", 2, 40, 1, 0, 52, 0, 0, 52, 32, len(segments), 0, 0, 0)
    return (ident + head + heads + bodies)[:cut]


class TestFirmwareFiles:
    def pieces(self, folder: Path, data: bytes, address: int | None = None) -> tuple[Piece, ...]:
        path = folder / "firmware"
        path.write_bytes(data)
        return read_firmware(path, address=address)

    def test_an_elf_is_written_where_it_is_loaded(self, tmp_path: Path) -> None:
        segments = [
            (1, 0x0, 0x0, b"text"), (1, 0x20000000, 0x4000, b"data"), (1, 0x20001000, 0x5000, b""),
            (4, 0, 0, b"note"),
        ]  # fmt: skip
        pieces = self.pieces(tmp_path, elf(*segments), address=0x99)
        found = [(piece.address, piece.data) for piece in pieces]
        assert found == [(0, b"text"), (0x4000, b"data")]

    def test_a_raw_file_is_written_where_the_inventory_says(self, tmp_path: Path) -> None:
        assert self.pieces(tmp_path, b"raw", 0x8000000) == (Piece(address=0x8000000, data=b"raw"),)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"raw", "does not say where it belongs"),
            (elf((1, 0, 0, b"text"), word=2), "32-bit"),
            (elf((1, 0, 0, b"text"), cut=70), "damaged"),
            (elf((1, 0, 0, b"text"), cut=30), "damaged"),
            (elf((1, 0, 0, b"text"), cut=-1), "ends too early"),
            (elf((4, 0, 0, b"note")), "nothing that could be written"),
        ],
        ids=["no_address", "64_bit", "no_segments", "no_head", "cut", "empty"],
    )
    def test_what_is_no_firmware_is_refused(
        self, tmp_path: Path, data: bytes, message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message):
            self.pieces(tmp_path, data)

    def test_a_file_that_went_away_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot read"):
            read_firmware(tmp_path / "none", address=0)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (OSError, IndexError):
        return False
