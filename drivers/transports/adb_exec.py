"""One command on a phone, over one channel."""

from __future__ import annotations

import re
import secrets
import struct
import time
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Protocol

from drivers.transports.adb_wire import Block, Nonsense, Patience, Wire
from drivers.transports.posix import MARK, Command, command_line, returncode
from farm.errors import CommandTimeout, ConnectionLost, InfraError
from farm.shell import Completed

OUTPUT_LIMIT = 64 << 20
"""More than that no command of ours prints."""
GREETING_LIMIT = 1 << 20
"""More than that no shell says before it runs a command."""
LONGEST_LINE = 100_000
"""One argument of the kernel's has 128 KiB; a longer command comes as what the shell reads."""
BLOCK_BYTES = 64 << 10

_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)
_FRAME = struct.Struct("<BI")

# Here-documents need a folder, and a phone has no /tmp; one that is played by a computer has.
_TMPDIR = b': "${TMPDIR:=/data/local/tmp}"; [ -d "$TMPDIR" ] || TMPDIR=/tmp; export TMPDIR; '

_NO_STATUS = Nonsense("it ended without a status")

# Takes a line as long as it may be from what the shell reads; `read` alone takes no byte too many.
_END = secrets.token_hex(16).encode()
_END_OF_SCRIPT = b"\n" + _END + b"\n"
_READ_SCRIPT = (
    b's=; while IFS= read -r l && [ "$l" != ' + _END + b" ]; do s=$s$l'\n'; done; eval \"$s\""
)
_AROUND_BYTES = 512
"""What a service's name has besides the line."""

Heard = tuple[int, bytes]
"""Which stream, and some bytes of it; the exit status is text."""


class Exec(Command):
    """A command that runs while this object lives.

    Args:
        wire: the way to the phone.
        argv: the command; arrives verbatim.
        cwd: the folder that it works in.
        device: for messages.

    Raises:
        InfraError: the phone cannot be reached.
        ConfigError: no shell can be told this command.
    """

    def __init__(self, wire: Wire, argv: tuple[str, ...], cwd: PurePosixPath, device: str) -> None:
        self.pid = 0
        self._name = argv[0]
        self._device = device
        self._started = time.monotonic()
        self._output = bytearray()
        self._errors = bytearray()
        self._status = ""
        self._begun = False
        self._speech: _Speech = _Framed() if "shell_v2" in wire.features else _Plain()
        line = _TMPDIR + command_line(argv, cwd, device)
        self._script = b""
        if len(line) > min(LONGEST_LINE, wire.longest_name - _AROUND_BYTES):
            self._script, line = line + _END_OF_SCRIPT, _READ_SCRIPT
        self._channel = wire.open(self._speech.service(line))

    def to_the_end(self, timeout_s: float, stdin: bytes = b"") -> Completed:
        """Send what it reads, and wait until it has ended."""
        self._begin(stdin)
        patience = Patience(timeout_s)
        while not self._status and self._hear(patience, timeout_s):
            pass
        if not self._status.isdigit():
            raise lost(f"'{self._name}' ran", _NO_STATUS, self._device)
        return Completed(
            returncode=returncode(int(self._status)),
            stdout=self._output.decode(errors="replace"),
            stderr=self._errors.decode(errors="replace"),
            elapsed_s=time.monotonic() - self._started,
        )

    def listen(self, timeout_s: float) -> Completed | None:
        """Wait for the end; None if it did not come, or the connection broke."""
        try:
            return self.to_the_end(timeout_s)
        except InfraError:
            return None
        finally:
            self.close()

    def line(self, timeout_s: float) -> str:
        """The next line that it prints; empty if it prints no more."""
        self._begin()
        patience = Patience(timeout_s)
        while (self.pid == 0 or b"\n" not in self._output) and self._hear(patience, timeout_s):
            pass
        line, _, rest = self._output.partition(b"\n")
        self._output = rest
        return line.decode(errors="replace")

    def chunks(self, stall_s: float | None) -> Iterator[bytes]:
        """What it prints, as it comes."""
        self._begin()
        patience = Patience(stall_s, renewed=True)
        while not self._status and self._hear(patience, stall_s or 0.0):
            if self.pid and self._output:
                chunk, self._output = self._output, bytearray()
                yield bytes(chunk)
        if self._output:
            yield bytes(self._output)
            self._output.clear()

    def close(self) -> None:
        """Hang up; a command that still runs goes on."""
        self._channel.close()

    def _begin(self, stdin: bytes = b"") -> None:
        if not self._begun:
            self._begun = True
            self._channel.feed(self._speech.spoken(self._script + stdin))

    def _hear(self, patience: Patience, timeout_s: float) -> bool:
        """Take in what comes next; whether there may be more."""
        try:
            data = self._channel.receive(patience)
            for stream, part in self._speech.heard(data):
                if stream == _STDOUT:
                    self._output += part
                elif stream == _STDERR:
                    self._errors += part
                else:
                    self._status = part.decode()
        except TimeoutError:
            raise CommandTimeout(
                f"'{self._name}' did not end within {timeout_s:g} s", device=self._device
            ) from None
        except OSError as error:
            raise lost(f"'{self._name}' ran", error, self._device) from error
        if self.pid == 0 and (found := MARK.search(self._output)):
            self.pid = int(found[1])
            del self._output[: found.end()]
        limit = OUTPUT_LIMIT if self.pid else GREETING_LIMIT
        if len(self._output) + len(self._errors) > limit:
            raise InfraError(
                f"'{self._name}' prints more than {limit >> 20} MiB", device=self._device
            )
        return bool(data)


def lost(work: str, error: OSError, device: str) -> ConnectionLost:
    """What is told of a connection that broke while some work was done."""
    return ConnectionLost(
        f"the connection broke while {work}: {error.strerror or str(error) or 'it is silent'}",
        device=device,
        hint="check power and network; 'farm doctor' tells whether it is back",
    )


class _Speech(Protocol):
    """How status and streams of a command share a channel."""

    @abstractmethod
    def service(self, line: bytes) -> bytes:
        """The service that runs a line."""

    @abstractmethod
    def spoken(self, stdin: bytes) -> Iterator[Block]:
        """What is sent so that the command reads this and then an end."""

    @abstractmethod
    def heard(self, data: bytes) -> Iterator[Heard]:
        """What came, taken apart; without data the last of it."""


class _Framed(_Speech):
    """Shell protocol version 2: every piece says what it is, and how long."""

    def __init__(self) -> None:
        self._unread = bytearray()
        self._stream = 0
        self._left = 0

    def service(self, line: bytes) -> bytes:
        return b"shell,v2,raw:" + line

    def spoken(self, stdin: bytes) -> Iterator[Block]:
        for start in range(0, len(stdin), BLOCK_BYTES):
            block = stdin[start : start + BLOCK_BYTES]
            yield _FRAME.pack(_STDIN, len(block)) + block
        yield _FRAME.pack(_CLOSE_STDIN, 0)

    def heard(self, data: bytes) -> Iterator[Heard]:
        self._unread += data
        while self._left or len(self._unread) >= _FRAME.size:
            if not self._left:
                self._stream, self._left = _FRAME.unpack_from(self._unread)
                del self._unread[: _FRAME.size]
                if not _STDOUT <= self._stream <= _EXIT or not self._left:
                    raise Nonsense("this is no output of a shell")
            part = bytes(memoryview(self._unread)[: self._left])
            if self._stream == _EXIT and part:
                yield _EXIT, b"%d" % part[0]
                return
            if part:
                yield self._stream, part
            del self._unread[: len(part)]
            self._left -= len(part)
            if not part and self._left:
                return


class _Plain(_Speech):
    """For phones before Android 7: one stream both ways, and what ends it is a word of ours."""

    def __init__(self) -> None:
        self._word = f"farm-end-{secrets.token_hex(8)}".encode()
        self._unread = bytearray()
        self._status = b""

    def service(self, line: bytes) -> bytes:
        # The input's length comes first, for its end cannot be sent. The subshell may exit. What it
        # complains about waits in a file without a name.
        return b"".join(
            (
                b"exec:" + _TMPDIR + b"read -r n; f=$TMPDIR/.farm-$$; ",
                b'exec 5>"$f" 6<"$f"; rm -f "$f"; ',
                b'{ dd bs=1 count="$n" 2>/dev/null || head -c "$n"; } | ( ',
                line + b"\n) 2>&5; echo " + self._word + b" $?; cat <&6",
            )
        )

    def spoken(self, stdin: bytes) -> Iterator[Block]:
        yield b"%d\n" % len(stdin) + stdin

    def heard(self, data: bytes) -> Iterator[Heard]:
        self._unread += data
        if not self._status:
            end = re.search(self._word + rb" (\d{1,3})\n", bytes(self._unread))
            sure = end.start() if end else self._without_word(bool(data))
            yield _STDOUT, bytes(self._unread[:sure])
            del self._unread[: end.end() if end else sure]
            if not end:
                return
            self._status = end[1]
        yield _STDERR, bytes(self._unread)
        self._unread.clear()
        if not data:
            yield _EXIT, self._status

    def _without_word(self, more: bool) -> int:
        """How many of the bytes are no part of the word."""
        whole = self._unread.find(self._word)
        if whole >= 0:
            if len(self._unread) - whole > len(self._word) + len(b" 255\n"):
                raise _NO_STATUS
            return whole
        longest = min(len(self._word), len(self._unread)) if more else 0
        parts = (size for size in range(longest, 0, -1) if self._unread.endswith(self._word[:size]))
        return len(self._unread) - next(parts, 0)
