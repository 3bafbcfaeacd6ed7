"""Boards that speak the text protocol of the MLPerf Tiny benchmark's test harness.

A command is ASCII, ended by `%` and by no line end; the board answers with lines and at last with
`m-ready`. Before that it must not be spoken to. Nothing numbers the commands, so a lost one cannot
be told from one that takes long: this line never asks again by itself.
"""

from __future__ import annotations

import time
from typing import ClassVar

from drivers.lines.serial_line import SerialLine
from farm.connection import Tell, silent
from farm.errors import (
    CommandTimeout,
    ConnectError,
    DeviceRebooted,
    Evidence,
    InfraError,
)
from farm.model import Device

READY = b"m-ready"
STARTED = b"m-init-done"
"""Belongs to what a board says when it starts, and to no answer."""
NAME = b"m-name-dut-["
END = b"%"
COMMAND_BYTES = 80
"""The board's buffer; what is longer overwrites its last byte, with the end of it."""
LONGEST_ANSWER = 256 << 10
DETECT_S = 2.0
"""Within which a board that listens answers `name`."""
SETTLE_S = 2.0
"""How long the end of an answer that was given up is waited for."""
QUIET_S = 0.2
"""A board that is silent for so long has nothing more to say."""


class MlperfTinyLine(SerialLine):
    """A board with a firmware for the MLPerf Tiny harness, without its power manager.

    Address: `mlperf-tiny://...`. Options are those of every serial line. There is no number that
    could be pinned: whatever board is plugged in is believed.
    """

    platform: ClassVar[str] = "mlperf_tiny"
    runtime: ClassVar[str] = "mlperf_tiny"

    def __init__(self, device: Device) -> None:
        self._unread = b""
        self._owed = False
        self._name = ""
        super().__init__(device)

    @classmethod
    def introduce(cls, device: Device, tell: Tell = silent) -> tuple[tuple[str, str], ...]:
        """Nothing that can be pinned, but the board's name for whoever looks."""
        line = cls(device)
        line.close()
        tell(f"{device.name}: '{line._name}' answers; it has no number that could be pinned")
        return ()

    def exchange(self, request: bytes, *, timeout_s: float) -> bytes:
        """Send a command without its end; the lines before `m-ready`, separated by CRLF.

        Raises:
            ValueError: the command is too long, or holds what ends a command.
        """
        if not request.isascii() or len(request) + len(END) > COMMAND_BYTES:
            raise ValueError(f"no command of at most {COMMAND_BYTES - 1} characters: {request!r}")
        if any(byte in b"%\r\n\0" for byte in request):
            raise ValueError(f"the command holds its own end: {request!r}")
        deadline = time.monotonic() + timeout_s
        self._ready(deadline)
        self._drain()
        if self._owed:
            self._settle(deadline)
        between, self._unread = self._unread, b""
        if STARTED in between:
            raise self._restarted(between)
        return b"\r\n".join(self._ask(request, deadline))

    def _meet(self, timeout_s: float) -> None:
        self._unread = b""
        deadline = time.monotonic() + timeout_s
        try:
            self._detect(deadline)
        except CommandTimeout as error:
            raise ConnectError(
                f"no board answers 'name' at {self.device.address.place}",
                device=self.device.name,
                hint="has it power, an MLPerf Tiny firmware and the right 'baud' (9600 in energy "
                "mode)?",
                evidence=error.evidence,
            ) from error

    def _hear(self, data: bytes) -> None:
        if not self._owed:
            self._said.add(data)
        self._keep(data)

    def _keep(self, data: bytes) -> None:
        self._unread = (self._unread + data)[-LONGEST_ANSWER:]

    def _detect(self, deadline: float) -> None:
        """Ask for the name until it is told; whatever else comes belongs to the past.

        A board that starts has not heard the question: it is asked again when it is ready.
        """
        self._owed = True
        tries = 0
        while time.monotonic() < deadline:
            self._send(b"name" + END, deadline)
            tries += 1
            patience = min(deadline, time.monotonic() + DETECT_S)
            name, started = b"", False
            while (line := self._line(patience)) is not None:
                name = line[len(NAME) :] if line.startswith(NAME) else name
                started = started or line == STARTED
                self._said.add_line(line)
                if line == READY and name:
                    self._name = name.rstrip(b"]").decode(errors="replace")
                    self._owed = False
                    while tries > 1 and self._line(time.monotonic() + QUIET_S) is not None:
                        pass  # all questions may have been heard in the end
                    return
                if line == READY and started:
                    break
        raise self._late("name")

    def _settle(self, deadline: float) -> None:
        """An answer is still owed: wait for its end; one that was lost is known by the name."""
        patience = min(deadline, time.monotonic() + SETTLE_S)
        while (line := self._line(patience)) is not None:
            self._said.add_line(line)
            if line == READY:
                self._owed = False
                return
        self._detect(deadline)

    def _ask(self, request: bytes, deadline: float) -> list[bytes]:
        self._owed = True
        self._send(request + END, deadline)
        lines: list[bytes] = []
        size = 0
        while (line := self._line(deadline)) != READY:
            if line is not None:
                lines.append(line)
                size += len(line)
            if line is None or line == STARTED or size > LONGEST_ANSWER:
                self._said.add_line(b"\r\n".join(lines))
                if line is None:
                    raise self._late(request.decode())
                if line == STARTED:
                    raise self._restarted(b"\r\n".join(lines))
                raise InfraError("the board does not stop talking", device=self.device.name)
        self._owed = False
        return lines

    def _restarted(self, told: bytes) -> DeviceRebooted:
        return DeviceRebooted(
            "the board restarted by itself, or somebody restarted it",
            device=self.device.name,
            evidence=[Evidence(name="boot", text=told.decode(errors="replace"))],
        )

    def _send(self, unsent: bytes, deadline: float) -> None:
        while unsent:
            if time.monotonic() >= deadline:
                raise self._late("what was sent")
            data, gone = self._turn(unsent, deadline - time.monotonic())
            self._keep(data)
            unsent = unsent[gone:]

    def _line(self, deadline: float) -> bytes | None:
        """The next whole line without its end, None when the time is over."""
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._keep(self._turn(b"", left)[0])
        line, _, self._unread = self._unread.partition(b"\n")
        return line.rstrip(b"\r")

    def _late(self, what: str) -> CommandTimeout:
        return CommandTimeout(
            f"'{what}' was not answered in time",
            device=self.device.name,
            evidence=[Evidence(name="console", text=self._said.text())],
        )
