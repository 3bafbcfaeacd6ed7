"""Writing memory through a debugger's server: QEMU's, or that of a debug probe.

The GDB remote serial protocol over TCP. Tried with QEMU, whose memory is simply written. Servers of
real probes speak the same, and were NOT tried; what is known to differ from their manuals:

- OpenOCD and pyOCD write flash memory by `vFlashErase`, `vFlashWrite` and `vFlashDone`, and not by
  `M`. So `M` into flash is refused or does nothing, which reading back shows. Use `flash: command`
  with their own programs for flash memory.
- `monitor` commands have other names: `reset halt` for OpenOCD and pyOCD, `reset` for J-Link.
- J-Link's server programs flash behind `M` by itself.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator

from drivers.lines.firmware_file import Piece

CONNECT_S = 5.0
ANSWER_S = 10.0
DEFAULT_PACKET_BYTES = 1024
MAX_PACKET_BYTES = 16 << 10
LONGEST_REPLY = 1 << 20
RESETS = (b"system_reset", b"reset halt", b"reset")
"""Of QEMU, OpenOCD and pyOCD, J-Link; the first that is understood is taken."""
_PACKET = re.compile(rb"\$([^#]*)#([0-9a-fA-F]{2})", re.DOTALL)
_RUN = re.compile(rb"(.)\*(.)", re.DOTALL)
_ESCAPED = re.compile(rb"\}(.)", re.DOTALL)


class GdbError(Exception):
    """The server refuses, or what it says makes no sense."""


class GdbRemote:
    """A connection to a debugger's server; the processor stands while it is open.

    Args:
        host: where it listens.
        port: its TCP port.

    Raises:
        OSError: it cannot be reached.
        GdbError: it is no such server.
    """

    def __init__(self, host: str, port: int) -> None:
        self._unread = b""
        self._socket = socket.create_connection((host, port), timeout=CONNECT_S)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            told = self.ask(b"qSupported")
            size = re.search(rb"PacketSize=([0-9a-fA-F]{1,8})", told)
            self._packet = min(int(size[1], 16), MAX_PACKET_BYTES) if size else DEFAULT_PACKET_BYTES
            self.ask(b"?")
        except BaseException:
            self.close()
            raise

    def write(self, piece: Piece) -> None:
        """Write memory."""
        step = max(1, (self._packet - 32) // 2)
        for offset in range(0, len(piece.data), step):
            data = piece.data[offset : offset + step]
            at = piece.address + offset
            told = self.ask(b"M%x,%x:%b" % (at, len(data), data.hex().encode()))
            if told != b"OK":
                raise GdbError(f"writing {len(data)} bytes at {at:#x} is refused: {_text(told)}")

    def read(self, address: int, length: int) -> bytes:
        """Read memory."""
        step = max(1, (self._packet - 32) // 2)
        found = b""
        while len(found) < length:
            wanted = min(step, length - len(found))
            told = self.ask(b"m%x,%x" % (address + len(found), wanted))
            try:
                got = bytes.fromhex(told.decode("ascii"))
            except ValueError:
                got = b""
            if not got or len(got) > wanted:
                raise GdbError(f"reading at {address + len(found):#x} is refused: {_text(told)}")
            found += got
        return found

    def insist_on(self, piece: Piece) -> None:
        """Memory holds what was written."""
        if self.read(piece.address, len(piece.data)) != piece.data:
            raise GdbError(f"what was written at {piece.address:#x} reads back differently")

    def reset(self) -> None:
        """Restart the processor, and let it stand where it starts."""
        said: list[str] = []
        for command in RESETS:
            told, output = self._answer(b"qRcmd," + command.hex().encode())
            # QEMU says "unknown command" and OK; it says nothing where it obeys.
            if told == b"OK" and not (output and b"nknown" in output):
                return
            said.append(_text(output or told))
        raise GdbError(f"it knows no way to reset: {said[0]}")

    def detach(self) -> None:
        """Let the processor run, and leave."""
        told = self.ask(b"D")
        if told != b"OK":
            raise GdbError(f"it does not let the processor run: {_text(told)}")

    def close(self) -> None:
        """Hang up; closing twice is no error."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def ask(self, command: bytes) -> bytes:
        """Send a packet; the answer to it, empty where the server does not know it."""
        return self._answer(command)[0]

    def _answer(self, command: bytes) -> tuple[bytes, bytes]:
        """Send a packet; the answer, and what a monitor command printed before it."""
        deadline = time.monotonic() + ANSWER_S
        self._socket.sendall(b"$%b#%02x" % (command, sum(command) & 0xFF))
        output = b""
        for packet in self._packets(deadline):
            if packet.startswith((b"S", b"T")) and command != b"?":
                continue  # that it stands now, which a processor that ran tells by itself
            if not packet.startswith(b"O") or packet == b"OK":
                return packet, output
            with contextlib.suppress(ValueError):
                output += bytes.fromhex(packet[1:].decode("ascii", "replace"))
        raise GdbError("it hung up")

    def _packets(self, deadline: float) -> Iterator[bytes]:
        """Whole packets, each acknowledged; TCP loses none, so a damaged one is nonsense."""
        while True:
            if found := _PACKET.search(self._unread):
                self._unread = self._unread[found.end() :]
                if sum(found[1]) & 0xFF != int(found[2], 16):
                    raise GdbError("a checksum is wrong")
                self._socket.sendall(b"+")
                yield _plain(found[1])
                continue
            if len(self._unread) > LONGEST_REPLY:
                raise GdbError("it sends what is no packet")
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self._socket.settimeout(left)
            data = self._socket.recv(64 << 10)
            if not data:
                return
            self._unread += data


def _plain(packet: bytes) -> bytes:
    """A packet without what shortens runs and what escapes bytes."""
    whole = _RUN.sub(lambda run: run[1] * (run[2][0] - 28), packet)
    return _ESCAPED.sub(lambda escaped: bytes([escaped[1][0] ^ 0x20]), whole)


def _text(told: bytes) -> str:
    return told.decode(errors="replace").strip() or "it does not know the command"
