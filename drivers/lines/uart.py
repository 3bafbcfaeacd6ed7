"""Boards that speak the farm's own protocol over a serial line (docs/mcu-protocol.md)."""

from __future__ import annotations

import contextlib
import json
import math
import random
import struct
import time
from typing import ClassVar

from drivers.lines.serial_line import SerialLine, unpinned
from drivers.mcu.client import Hello
from drivers.mcu.firmware import BUILDS, build_firmware
from drivers.mcu.wire import ANSWER, MAX_PAYLOAD_BYTES, UNASKED, Decoder, Frame, Kind, encode
from farm.connection import Tell, silent
from farm.errors import (
    CommandTimeout,
    ConfigError,
    ConnectError,
    DeviceRebooted,
    Evidence,
    InfraError,
    nearest_hint,
)
from farm.model import Artifact, Device

PATIENCE_S = 0.25
"""An answer that is not there so long after the request went out may be lost; doubled each time."""
GAP_S = 0.3
"""A frame that has begun goes on within this time, or is torn."""
BITS_PER_BYTE = 10
SLACK = 1.5
"""How much longer than expected a request may be under way."""
WHY_S = 2.0
INFER_S = 10.0
"""How long a board runs a model if the request does not say."""
_INFER = struct.Struct("<II")
_ITEM = struct.Struct("<I")


class UartLine(SerialLine):
    """A board with the farm's firmware.

    A request that is not answered is sent again with the same number, until its time is over: the
    board answers it again and does nothing twice. How long an answer is waited for follows what
    the line has shown of its speed.

    Address: `uart://...`. Options besides those of every serial line: `serial`, the board's unique
    number, which `farm enroll` shows; another board is refused; `board`, which the farm's own
    firmware is built for.
    """

    platform: ClassVar[str] = "mcu"
    runtime: ClassVar[str] = "mcu"
    options: ClassVar[tuple[str, ...]] = (*SerialLine.options, "serial", "board")

    def __init__(self, device: Device) -> None:
        self._decoder = Decoder()
        self._sequence = random.randrange(1, 1 << 16)
        self._boot = 0
        self._unit = ""
        self._restart: bytes | None = None
        self._fault = b""
        self._leftover = memoryview(b"")
        self._longest = MAX_PAYLOAD_BYTES
        self._pace_s = 0.0
        self._slowest_s = 0.0
        super().__init__(device)

    @classmethod
    def check(cls, device: Device) -> None:
        """As of every serial line; and refuse a board that the farm has no firmware for."""
        super().check(device)
        board = device.option("board")
        if board and board not in BUILDS:
            raise ConfigError(
                f"the farm has no firmware for the board '{board}'",
                device=device.name,
                hint=nearest_hint(board, BUILDS),
            )

    @classmethod
    def introduce(cls, device: Device, tell: Tell = silent) -> tuple[tuple[str, str], ...]:
        """The unique number of its chip, if it has one."""
        line = cls(unpinned(device))
        line.close()
        if not line._unit:
            tell(f"{device.name}: the board has no number of its own, nothing is pinned")
            return ()
        return (("serial", line._unit),)

    def exchange(self, request: bytes, *, timeout_s: float) -> bytes:
        """Send a kind and a payload; the kind and the payload of the answer.

        An error frame is an answer as well. HELLO also tells this line which start of the board is
        talked to; after a restart every other request fails until it was asked.
        """
        deadline = time.monotonic() + timeout_s
        self._ready(deadline)
        self._drain()
        if self._restart is not None and request[0] != Kind.HELLO:
            raise self._rebooted()
        try:
            answer = self._ask(request, deadline, timeout_s)
        except DeviceRebooted:
            if self._restart is not None:
                raise
            self._ask_why()  # what it said of its start was lost
            raise self._rebooted() from None
        if request[0] == Kind.HELLO and answer.kind != Kind.ERROR:
            self._learn(answer.boot)
        return bytes([answer.kind]) + answer.payload

    @classmethod
    def own_firmware(cls, device: Device) -> Artifact:
        """The farm's firmware for the `board` that the inventory names."""
        board = device.option("board")
        if not board:
            return super().own_firmware(device)
        return Artifact.of(build_firmware(board))

    def flash(self, image: Artifact) -> None:
        """As of every serial line; a new firmware counts its starts anew."""
        self._boot = 0
        super().flash(image)

    def _meet(self, timeout_s: float) -> None:
        self._decoder = Decoder()
        self._leftover = memoryview(b"")
        try:
            answer = self._ask(bytes([Kind.HELLO]), time.monotonic() + timeout_s, timeout_s)
        except CommandTimeout as error:
            raise ConnectError(
                f"no board answers at {self.device.address.place}",
                device=self.device.name,
                hint="has it power, the farm's firmware and the right 'baud'? docs/first-mcu.md",
                evidence=[Evidence(name="console", text=self._said.text())],
            ) from error
        try:
            hello = Hello.read(answer.payload)
        except ConnectError as error:
            error.device = self.device.name
            raise
        self._unit, self._longest = hello.unit, max(len(answer.payload), hello.max_payload)
        pinned = self.device.option("serial")
        if pinned and self._unit != pinned:
            raise ConnectError(
                f"another board is there: {self._unit or 'one without a number'}, not {pinned}",
                device=self.device.name,
                hint=f"plug in the right one, or take this one: farm enroll {self.device.name}",
            )
        if not self._boot:  # else the next request shall be told of a restart
            self._learn(answer.boot)

    def _ask_why(self) -> None:
        """Let HELLO tell what BOOT and FAULT would have told; a board that does not is left."""
        with contextlib.suppress(InfraError):
            deadline = time.monotonic() + WHY_S
            hello = Hello.read(self._ask(bytes([Kind.HELLO]), deadline, WHY_S).payload)
            self._restart = json.dumps({"boot": hello.boot, "cause": hello.cause}).encode()
            if hello.cause == "fault" and not self._fault:
                self._fault = json.dumps(hello.last_fault).encode()

    def _learn(self, boot: int) -> None:
        if boot != self._boot:
            self._slowest_s = 0.0  # another model may run
        self._boot = boot
        self._restart = None
        self._fault = b""

    def _ask(self, request: bytes, deadline: float, timeout_s: float) -> Frame:
        """Send a request, again and again until it is answered."""
        self._sequence = self._sequence % 0xFFFF + 1
        asked = Frame(
            kind=request[0], sequence=self._sequence, boot=self._boot, payload=request[1:]
        )
        wire = encode(asked)
        patience_s = self._patience_s(asked, wire)
        started, tries = time.monotonic(), 0
        while True:
            answer = self._await(asked, wire, patience_s, deadline)
            tries += 1
            now = time.monotonic()
            if answer is not None:
                if tries == 1:
                    self._remember(asked, len(wire) + len(answer.payload), now - started)
                return answer
            if now >= deadline:
                raise CommandTimeout(
                    f"no answer to {_name(asked.kind)} in {timeout_s:g} s, asked {tries} times",
                    device=self.device.name,
                    hint="look at cable, supply and 'baud'; what it printed is kept as evidence",
                    evidence=[Evidence(name="console", text=self._said.text())],
                )
            patience_s *= 2

    def _await(self, asked: Frame, wire: bytes, patience_s: float, deadline: float) -> Frame | None:
        """Send a request once and wait for its answer, None if patience or time ended.

        A frame that was begun is always finished: a torn one would swallow the next.
        """
        unsent = memoryview(bytes(self._leftover) + wire)
        quiet_at, torn_at = time.monotonic() + patience_s, math.inf
        try:
            while (now := time.monotonic()) < (deadline if unsent else min(deadline, quiet_at)):
                left = (deadline if unsent else min(deadline, quiet_at)) - now
                begun = self._decoder.begun
                data, gone = self._turn(unsent, min(left, GAP_S) if begun else left)
                now = time.monotonic()
                if gone:
                    unsent = unsent[gone:]
                    quiet_at = now + patience_s
                frames = self._decoder.feed(data)
                if (begun and not data and not gone) or now >= torn_at:
                    frames += self._decoder.give_up()
                elif data and self._decoder.begun:
                    quiet_at = max(quiet_at, now + PATIENCE_S)
                on_its_way = self._decoder.begun and not frames
                torn_at = min(torn_at, now + self._longest_s()) if on_its_way else math.inf
                restarted = self._restart
                answer = self._sort(frames, asked)
                if answer is not None:
                    return answer
                if asked.kind == Kind.HELLO:
                    if self._restart is not restarted:
                        return None  # it cannot have heard us, and listens now
                elif self._restart is not None:
                    raise self._rebooted()
        finally:
            self._leftover = unsent
        return None

    def _sort(self, frames: list[Frame], asked: Frame) -> Frame | None:
        """The answer among some frames; the others are noted or too late."""
        self._said.add(self._decoder.take_console())
        answer = None
        for frame in frames:
            if frame.kind in UNASKED:
                self._note(frame)
            elif frame.sequence == asked.sequence and frame.kind in (
                asked.kind | ANSWER,
                Kind.ERROR,
            ):
                answer = frame
        if answer is not None and asked.kind != Kind.HELLO and answer.boot != self._boot:
            raise self._rebooted()
        return answer

    def _note(self, frame: Frame) -> None:
        """What it says by itself."""
        self._said.add_line(frame.payload)
        if frame.kind == Kind.FAULT:
            self._fault = frame.payload
        if frame.kind == Kind.BOOT and frame.boot != self._boot:
            self._restart = frame.payload

    def _hear(self, data: bytes) -> None:
        frames = self._decoder.feed(data)
        self._said.add(self._decoder.take_console())
        for frame in frames:
            if frame.kind in UNASKED:
                self._note(frame)

    def _rebooted(self) -> DeviceRebooted:
        told = (("fault", self._fault), ("boot", self._restart or b""))
        evidence = [
            Evidence(name=name, text=text.decode(errors="replace")) for name, text in told if text
        ]
        why = "after a fault" if self._fault else "by itself, or somebody restarted it"
        return DeviceRebooted(
            f"the board restarted {why}",
            device=self.device.name,
            hint="a weak supply, a loose cable or its firmware; what it said is kept as evidence",
            evidence=evidence,
        )

    def _patience_s(self, asked: Frame, wire: bytes) -> float:
        """How long after a request went out its answer may take to begin."""
        patience_s = PATIENCE_S + SLACK * self._pace() * len(wire)
        if runs := _runs(asked):
            # Asking again would interrupt what is being timed, so it is done late.
            count, limit_s = runs
            patience_s += min(limit_s, 3 * count * self._slowest_s) if self._slowest_s else limit_s
        return patience_s

    def _longest_s(self) -> float:
        """How long a frame may be on its way, also on a line that is never silent."""
        return GAP_S + SLACK * self._pace() * self._longest

    def _pace(self) -> float:
        """Seconds that a byte takes.

        That short requests were answered sooner than a line of this speed allows says nothing of
        long ones: what is sent may be much slower than what comes, as in an emulator.
        """
        return max(self._pace_s, BITS_PER_BYTE / self._baud)

    def _remember(self, asked: Frame, size: int, took_s: float) -> None:
        """Learn how fast line and model are from an answer to a single request."""
        if runs := _runs(asked):
            count, _ = runs
            self._slowest_s = max(self._slowest_s, took_s / max(count, 1))
        pace_s = took_s / size
        self._pace_s = min(self._pace_s or pace_s, pace_s)


def _runs(asked: Frame) -> tuple[int, float] | None:
    """How often a request runs the model, and for how many seconds at most."""
    if asked.kind == Kind.INFER and len(asked.payload) == _INFER.size:
        count, limit_ms = _INFER.unpack(asked.payload)
    elif asked.kind == Kind.ITEM and len(asked.payload) >= _ITEM.size:
        count, (limit_ms,) = 1, _ITEM.unpack_from(asked.payload)
    else:
        return None
    return count, limit_ms / 1000 or INFER_S


def _name(kind: int) -> str:
    return Kind(kind).name if kind in set(Kind) else f"request {kind:#x}"
