"""A device that means harm, before the transport that reaches real phones."""

from __future__ import annotations

import contextlib
import os
import random
import re
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from adb_shell.auth import keygen

from drivers.transports import adb_exec, adb_link, adb_phone, adb_sync, detached, posix
from drivers.transports.adb import AdbTransport
from farm.errors import FarmError
from farm.model import Address, Device

pytestmark = pytest.mark.system

FUZZ = int(os.environ.get("FARM_FUZZ", "100000" if os.environ.get("CI") else "10000"))
"""Messages that the device sends."""
WORKERS = 8
SHORT_S = 0.3
"""Every deadline of the transport, so that silence costs little."""
LONGEST_S = 60.0
"""No attempt takes longer, on a very busy machine; it is that of a dozen commands."""
MEMORY_KIB = 300 << 10
SERIAL = "FARM0001"
HEADER = struct.Struct("<4s4I4s")
NEWEST, OLD = 0x01000001, 0x01000000
FAMILIES = ("infra", "config", "device")
"""What may be said of it: `config` of another serial than was pinned, `device` of what it says that
it cannot do."""


class Devil:
    """A server that greets like a phone and then does what its dice say.

    Attributes:
        port: where it listens.
        sent: how many messages it sent.
    """

    def __init__(self, seed: str) -> None:
        self.sent = 0
        self._seed = seed
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port: int = self._listener.getsockname()[1]
        self._made = 0
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take nobody any more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def count(self, messages: int) -> None:
        """So many more were sent."""
        with self._lock:
            self.sent += messages

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                visitor, _ = self._listener.accept()
                self._made += 1
                talk = _Talk(self, visitor, random.Random(f"{self._seed} {self._made}"))
                threading.Thread(target=talk.talk, daemon=True).start()


class _Talk:
    """One connection: every answer that a phone would give, spoiled as often as was diced."""

    def __init__(self, devil: Devil, visitor: socket.socket, dice: random.Random) -> None:
        self._devil = devil
        self._visitor = visitor
        self._dice = dice
        self._evil = 0.0
        self._intent = dice.choice((0.0, 0.02, 0.1, 0.3, 0.9))
        self._good_opens = dice.choice((0, 0, 1, 2, 2, 2, 3))  # two go by until it is trusted
        self._opens = 0
        self._framed = dice.random() < 0.8
        self._stream = 1

    def talk(self) -> None:
        """To the end, which is soon."""
        self._visitor.settimeout(5)
        with contextlib.suppress(OSError), self._visitor:
            while True:
                command, first, _, data = self._read()
                if command == b"OPEN":
                    self._stream = first
                    self._opens += 1
                if self._opens > self._good_opens or not self._good_opens:
                    self._evil = self._intent
                answers = list(self._answers(command, data))
                for answer in answers:
                    self._say(answer)

    def _read(self) -> tuple[bytes, int, int, bytes]:
        command, first, second, length, _, _ = HEADER.unpack(self._take(HEADER.size))
        return command, first, second, self._take(length)

    def _take(self, count: int) -> bytes:
        taken = b""
        while len(taken) < count:
            part = self._visitor.recv(count - len(taken))
            if not part:
                raise ConnectionResetError
            taken += part
        return taken

    def _answers(self, command: bytes, data: bytes) -> Iterator[bytes]:
        """What a phone would answer."""
        if command == b"CNXN":
            features = b"shell_v2,cmd" if self._framed else b"cmd"
            version = self._dice.choice((NEWEST, OLD))
            size = self._dice.choice((4096, 4096, 1 << 18, 1 << 20))
            banner = b"device::ro.product.name=x;features=" + features
            yield packet(b"CNXN", version, size, banner)
        elif command == b"OPEN":
            service = data.rstrip(b"\0")
            if service == b"farm:":
                yield packet(b"CLSE", 0, self._stream)
                return
            yield packet(b"OKAY", 9, self._stream)
            if not service.startswith(b"sync:"):
                yield from self._split(self._printed(service))
                yield packet(b"CLSE", 9, self._stream)
        elif command == b"WRTE":
            yield packet(b"OKAY", 9, self._stream)
            for kind, answer in ((b"STAT", b"STAT" + bytes([0xED, 0x41]) + bytes(10)),
                                 (b"DONE", b"OKAY" + bytes(4))):  # fmt: skip
                if data.startswith(kind) or (kind == b"DONE" and data[-8:-4] == kind):
                    yield from self._split(self._spoiled_sync(answer))

    def _printed(self, service: bytes) -> bytes:
        """The whole output of a command."""
        out = self._dice.choice((b"", b"one\ntwo\n", self._dice.randbytes(99), b"x" * 70_000))
        if b"ro.serialno" in service:
            out = SERIAL.encode() if self._dice.random() < 0.98 else self._dice.randbytes(9)
        elif b"command -v setsid" in service:
            out = self._dice.choice((*(b"/data/farm\n",) * 9, b"/\0\n/"))
        elif b"farm-run" in service:
            out = b"started\nended 0\n" + out
        mark = b"\nfarm-exec 4242\n" if self._dice.random() > self._evil / 4 else b""
        status = self._dice.choice((0, 0, 0, 1, 255))  # 3 would tell of a missing setsid
        if self._framed:
            return self._frames(mark + out, status)
        (word,) = re.findall(rb"farm-end-[0-9a-f]+", service)[:1] or [b""]
        end = b"%b %d\n" % (word, status)
        if self._spoils():
            end = self._dice.choice(
                (word, b"", word + b" " + b"9" * 6000 + b"\n", word + end, end * 9)
            )
        return mark + out + end

    def _frames(self, out: bytes, status: int) -> bytes:
        frames = [(1, out[i : i + 4000]) for i in range(0, len(out), 4000)] + [(3, bytes([status]))]
        spoken = b""
        for kind, text in frames:
            length = len(text)
            if self._spoils():
                kind = self._dice.choice((0, 1, 2, 3, 4, 255))
            if self._spoils():
                length = self._dice.choice((0, 1, length + 1, 1 << 31, 0xFFFFFFFF))
            spoken += struct.pack("<BI", kind, length) + text
            if self._spoils():
                spoken += struct.pack("<BIB", 3, 1, 7) * self._dice.choice((1, 5000))
        return spoken

    def _spoiled_sync(self, answer: bytes) -> bytes:
        if not self._spoils():
            return answer
        return self._dice.choice((
            b"FAIL" + struct.pack("<I", self._dice.getrandbits(32)) + b"no",
            b"FAIL\x05\0\0\0gone\xff", b"DATA\xff\xff\xff\xff", answer * 3, answer[:3],
            self._dice.randbytes(16),
        ))  # fmt: skip

    def _split(self, text: bytes) -> Iterator[bytes]:
        """In packets of any size."""
        most = self._dice.choice((1, 5, 4096) if len(text) < 500 else (4096, 1 << 18))
        while text:
            yield packet(b"WRTE", 9, self._stream, text[:most])
            text = text[most:]

    def _spoils(self) -> bool:
        return self._dice.random() < self._evil / 3

    def _say(self, answer: bytes) -> None:
        """An answer, or what no phone says."""
        messages = 1
        if self._dice.random() < self._evil:
            answer, messages = self._harm(answer)
        self._visitor.sendall(answer)
        self._devil.count(messages)

    def _harm(self, answer: bytes) -> tuple[bytes, int]:
        dice, stream = self._dice, self._stream
        word, one, two, _, _, magic = HEADER.unpack(answer[: HEADER.size])
        data = answer[HEADER.size :]
        far = dice.choice((0, 1, 2, stream, stream + 1, dice.getrandbits(32)))
        lie = dice.choice((0, 1, len(data) + 1, 1 << 20, (1 << 20) + 1, 0xFFFFFFFF))
        other = dice.choice(
            (b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"WRTE", b"CLSE", b"STLS", b"????")
        )
        flood = packet(dice.choice((b"OKAY", b"WRTE", b"CLSE", b"AUTH")), 9, far)
        kind = dice.random()
        if kind < 0.01:
            time.sleep(2 * SHORT_S)  # silence
            return b"", 0
        if kind < 0.06:
            self._endless()
        return dice.choice((
            lambda: (dice.randbytes(dice.randint(1, 99)), 1),
            lambda: (answer[: dice.randrange(len(answer))], 1),
            lambda: (HEADER.pack(word, one, two, lie, 0, magic) + data, 1),
            lambda: (HEADER.pack(word, one, two, len(data), 0, dice.randbytes(4)) + data, 1),
            lambda: (HEADER.pack(word, one, two, len(data), 1, magic) + data, 1),
            lambda: (packet(word, dice.getrandbits(32), far, data), 1),
            lambda: (packet(other, dice.choice((0, 1, 2, 3)), far, data), 1),
            lambda: (packet(other, 1, far, bytes(20)) + answer, 2),
            lambda: (packet(other, 9, stream) * 3 + answer, 4),
            lambda: (answer * 2, 2),
            lambda: (b"", 0),
            lambda: (flood * 50 + answer, 51),
        ))()  # fmt: skip

    def _endless(self) -> NoReturn:
        """The same again and again until nobody listens any more; it counts once."""
        again = self._dice.choice((
            packet(b"OKAY", 9, self._stream),
            packet(b"WRTE", 9, self._stream),
            packet(b"WRTE", 9, self._stream + 1, b"x" * 4000),
            packet(b"WRTE", 9, self._stream, (b"\1\xa0\x0f\0\0" + b"x" * 4000)),
            packet(b"WRTE", 9, self._stream, b"\1\0\0\0\0" * 800),
            packet(b"WRTE", 9, self._stream, b"\3\1\0\0\0\7" * 600),
            packet(b"WRTE", 9, self._stream, b"\n" * 4000),
        ))  # fmt: skip
        self._devil.count(1)
        while True:
            self._visitor.sendall(again * 10)


def packet(command: bytes, first: int, second: int, data: bytes = b"") -> bytes:
    """An ADB message, as a phone sends it."""
    magic = bytes(byte ^ 0xFF for byte in command)
    return HEADER.pack(command, first, second, len(data), sum(data), magic) + data


@pytest.fixture
def devil(monkeypatch: pytest.MonkeyPatch) -> Iterator[Devil]:
    for module, names in (
        (adb_link, ("CONNECT_S", "ACCEPT_S")), (adb_phone, ("COMMAND_S", "STALL_S")),
        (adb_sync, ("STALL_S",)), (posix, ("COMMAND_S", "STALL_S")), (detached, ("COMMAND_S",)),
    ):  # fmt: skip
        for name in names:
            monkeypatch.setattr(module, name, SHORT_S)
    monkeypatch.setattr(adb_exec, "OUTPUT_LIMIT", 1 << 20)
    monkeypatch.setattr(posix, "PULL_LIMIT", 1 << 20)
    monkeypatch.setattr(posix, "LONGEST_LINE", 1 << 16)
    monkeypatch.setattr(posix, "MOST_LINES", 10_000)
    seed = os.environ.get("FARM_FUZZ_SEED", str(random.randrange(1 << 32)))
    print(f"FARM_FUZZ_SEED={seed} FARM_FUZZ={FUZZ} repeat this")
    made = Devil(seed)
    yield made
    made.close()


def test_whatever_a_device_sends_ends_soon_in_an_error_that_blames_it(
    devil: Devil, tmp_path: Path
) -> None:
    key = tmp_path / "adbkey"
    known = Device(name="devil", type="t", options=(("adb_key", str(key)), ("serial", SERIAL)),
                   address=Address(scheme="adb", place=f"127.0.0.1:{devil.port}"))  # fmt: skip
    keygen.keygen(str(key))
    source = tmp_path / "source"
    source.write_bytes(os.urandom(100_000))
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said: dict[str, int] = {}

    bugs: list[BaseException] = []
    moved = [time.monotonic()] * WORKERS

    def torment(number: int) -> None:
        dice = random.Random(number)
        try:
            while devil.sent < FUZZ and not bugs:
                word = _attempt(known, dice, source, tmp_path / f"back-{number}")
                moved[number] = time.monotonic()
                said[word] = said.get(word, 0) + 1
        except BaseException as bug:
            bugs.append(bug)

    workers = [threading.Thread(target=torment, args=(n,), daemon=True) for n in range(WORKERS)]
    for worker in workers:
        worker.start()
    for number, worker in enumerate(workers):
        while worker.is_alive():
            worker.join(0.1)
            assert time.monotonic() - moved[number] < LONGEST_S, "an attempt never ends"
    if bugs:
        raise bugs[0]
    print(devil.sent, sorted(said.items(), key=lambda item: -item[1]))
    assert said["done"] > 0, "no attempt ever gets through"
    assert len(said) > 5, "nothing is ever spoiled"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < MEMORY_KIB
    _settle(lambda: threading.active_count() <= threads + 1)
    _settle(lambda: len(os.listdir("/proc/self/fd")) <= files + 2)


def _attempt(device: Device, dice: random.Random, source: Path, back: Path) -> str:
    """A session of a few steps; how it ended."""
    try:
        with contextlib.closing(AdbTransport(device)) as transport:
            for _ in range(dice.randint(1, 4)):
                step = dice.randrange(6)
                if step == 0:
                    transport.run(("echo", "x"), timeout_s=SHORT_S, stdin=b"in")
                elif step == 1:
                    transport.push(source, transport.root / "file")
                elif step == 2:
                    transport.pull(transport.root / "file", back)
                elif step == 3:
                    stream = transport.stream(("cat",))
                    stream.lines()
                    stream.close()
                elif step == 4:
                    transport.start(("true",), folder=transport.root / "runs" / "1")
                else:
                    AdbTransport.introduce(device)
    except FarmError as error:
        return _judged(error)
    return "done"


def _judged(error: FarmError) -> str:
    """What was said, without what differs each time."""
    assert error.family in FAMILIES, f"{error.family}: {error}"
    assert error.message
    assert not error.message.endswith(": "), error.message
    return re.sub(r"'.*'|\d+|within.*|serial .*", "", error.message)[:60]


def _settle(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONGEST_S
    while not condition():
        assert time.monotonic() < deadline, "something is never let go of"
        time.sleep(0.05)
