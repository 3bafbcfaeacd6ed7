"""Boards played by a thread: one that speaks frames, one that speaks the text of MLPerf Tiny."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path

from drivers.mcu.wire import ANSWER, Decoder, Frame, Kind, encode
from tests.system.serial_proxy import Terminal

UNIT = "00112233aabbccdd"
GAP_S = 0.1
STALE, BAD_REQUEST = -2, -1


class Board(ABC):
    """What a board does with bytes that come.

    Attributes:
        muted: whether it hears nothing.
    """

    muted = False
    _heard_at = 0.0

    def feed(self, data: bytes) -> bytes:
        """What it says to that."""
        torn = time.monotonic() - self._heard_at > GAP_S
        self._heard_at = time.monotonic()
        return b"" if self.muted else self.hear(data, torn=torn)

    @abstractmethod
    def hear(self, data: bytes, *, torn: bool) -> bytes:
        """As `feed`; `torn` where there was a gap before."""


class FrameBoard(Board):
    """Speaks docs/mcu-protocol.md, as far as a line needs it.

    Attributes:
        boot: its start.
        done: kind and payload of what it did, repetitions left out.
        heard: how many whole frames came.
        infer_s: how long INFER takes.
    """

    def __init__(self) -> None:
        self.boot = 7
        self.done: list[tuple[int, bytes]] = []
        self.heard = 0
        self.unit = UNIT
        self.infer_s = 0.0
        self._decoder = Decoder()
        self._last: tuple[int, bytes, bytes] = (0, b"", b"")

    def hear(self, data: bytes, *, torn: bool) -> bytes:
        if torn:
            self._decoder = Decoder()
        return b"".join(self._answer(frame) for frame in self._decoder.feed(data))

    def restart(self, cause: str = "power", *, fault: bool = False) -> bytes:
        """Start anew; what it says of that."""
        told = b""
        if fault:
            told += self.frame(Kind.FAULT, json.dumps({"pc": 1, "cause": "bus"}).encode())
        self.boot += 1
        self._decoder = Decoder()
        self._last = (0, b"", b"")
        boot = {"boot": self.boot, "cause": cause, "rolled_back": False}
        return told + self.frame(Kind.BOOT, json.dumps(boot).encode())

    def frame(self, kind: int, payload: bytes = b"", sequence: int = 0) -> bytes:
        """A frame of this start."""
        return encode(Frame(kind=kind, sequence=sequence, boot=self.boot, payload=payload))

    def _answer(self, asked: Frame) -> bytes:
        self.heard += 1
        if asked.kind == Kind.HELLO:
            return self.frame(Kind.HELLO | ANSWER, self.hello(), asked.sequence)
        if asked.boot != self.boot:
            return self._refuse(asked, STALE)
        key = encode(asked)
        if (asked.sequence, key) == self._last[:2]:
            return self._last[2]
        self.done.append((asked.kind, asked.payload))
        if asked.kind == Kind.ECHO:
            answer = self.frame(asked.kind | ANSWER, asked.payload, asked.sequence)
        elif asked.kind == Kind.INFER:
            time.sleep(self.infer_s)
            count, _ = struct.unpack("<II", asked.payload)
            told = struct.pack(f"<II{count}Q", 64, 0, *range(count))
            answer = self.frame(asked.kind | ANSWER, told, asked.sequence)
        elif asked.kind == Kind.RESET:
            return self.frame(asked.kind | ANSWER, b"", asked.sequence) + self.restart("reset")
        else:
            answer = self._refuse(asked, BAD_REQUEST)
        self._last = (asked.sequence, key, answer)
        return answer

    def _refuse(self, asked: Frame, code: int) -> bytes:
        return self.frame(Kind.ERROR, struct.pack("<i", code) + b"no", asked.sequence)

    def hello(self) -> bytes:
        told = {
            "protocol": 1, "firmware": "test 1", "board": "played", "cpu": 0, "cpuid": "0",
            "unit": self.unit, "abi": 1, "tick_hz": 1, "ticks": "timer", "max_payload": 16384,
            "max_input": 1, "max_output": 1, "stack": 1, "slots": [],
            "ram": {"address": 0, "bytes": 0}, "running": -1, "confirmed": -1, "pending": -1,
            "boot": self.boot, "boots": self.boot, "rollbacks": 0, "cause": "power",
            "last_fault": None, "model": "", "model_sha256": "", "in_bytes": 0, "out_bytes": 0,
        }  # fmt: skip
        return json.dumps(told).encode()


class TextBoard(Board):
    """Speaks the text of MLPerf Tiny, as far as a line needs it.

    Attributes:
        heard: the commands that came.
        late: commands that are not answered before `release`.
    """

    BANNER = b"m-timestamp-mode-performance\r\nm-lap-us-1\r\nm-init-done\r\nm-ready\r\n"

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.late: set[bytes] = set()
        self._command = b""
        self._held = b""

    def hear(self, data: bytes, *, torn: bool) -> bytes:
        self._command += data
        *commands, self._command = self._command.split(b"%")
        return b"".join(self._answer(command) for command in commands)

    def release(self) -> bytes:
        """The answers that were held back."""
        told, self._held = self._held, b""
        return told

    def _answer(self, command: bytes) -> bytes:
        self.heard.append(command)
        answers = {
            b"name": b"m-name-dut-[played]\r\n",
            b"profile": b"m-profile-[ULPMark for tinyML Firmware V0.0.1]\r\nm-model-[kws01]\r\n",
            b"infer 1 0": b"m-infer-start-1\r\nm-infer-done\r\nm-results-[1.000,0.000]\r\n",
        }
        unknown = b"e-[Unknown command: " + command + b"]\r\n"
        answer = answers.get(command, unknown) + b"m-ready\r\n"
        if command in self.late:
            self._held += answer
            return b""
        return answer


class PtyHost:
    """Lets a board live behind a pseudo terminal."""

    def __init__(self, board: Board, link: Path) -> None:
        self.board = board
        self.link = link
        self.place = str(link)
        self._terminal: Terminal | None = None
        self.plug()

    def plug(self) -> None:
        self._terminal = Terminal(self.link)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(self._terminal,), daemon=True)
        self._thread.start()

    def unplug(self) -> None:
        if self._terminal is not None:
            self._over.set()
            self._thread.join()
            self._terminal.close()
            self._terminal = None

    def say(self, data: bytes) -> None:
        assert self._terminal is not None
        self._terminal.write(data)

    def _serve(self, terminal: Terminal) -> None:
        while not self._over.is_set():
            if data := terminal.read(0.02):
                terminal.write(self.board.feed(data))


class TcpHost:
    """Lets a board live behind a serial server on loopback."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self._port = 0
        self._made: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.plug()
        self.place = f"127.0.0.1:{self._port}"

    def plug(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def unplug(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for made in self._made:
            with contextlib.suppress(OSError):
                made.shutdown(socket.SHUT_RDWR)
        self._made.clear()

    def say(self, data: bytes) -> None:
        for made in self._made:
            with contextlib.suppress(OSError):
                made.sendall(data)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                made, _ = listener.accept()
                self._made.append(made)
                threading.Thread(target=self._serve, args=(made,), daemon=True).start()

    def _serve(self, made: socket.socket) -> None:
        with made, contextlib.suppress(OSError, ValueError):
            while select.select((made,), (), ()) and (data := made.recv(4096)):
                made.sendall(self.board.feed(data))
