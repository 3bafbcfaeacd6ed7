"""Orders to an LPM01A, and the lines that it says."""

from __future__ import annotations

import re
import time
from collections import deque

from drivers.serial_ports.places import find_port
from drivers.serial_ports.port import Port
from farm.errors import ConnectError, ConnectionLost, InfraError
from farm.model import Address

BAUD = 921600
PROMPT = "PowerShield >"
REPLY_S = 3.0
"""Setting a voltage makes it calibrate itself, which takes longest."""
DETAIL_S = 0.3
QUIET_S = 0.2
TRIES = 3
"""The first words after it was opened are often taken for rubbish."""


class Orders:
    """Its port, and control over it: whatever ran there is stopped.

    Args:
        address: of the meter.
        device: the inventory name of what it measures.

    Attributes:
        lines: what it said and nobody looked at yet, without ends and prompts.

    Raises:
        ConnectError: it is not there, or something else is.
        InfraError: it does not obey.
    """

    def __init__(self, address: Address, device: str) -> None:
        self.lines: deque[str] = deque()
        self._device = device
        self._said = b""
        self._port = Port(find_port(address, device), BAUD, device)
        try:
            self.send("stop")
            self._drain()
            self.give("htc")
        except ConnectionLost as error:
            raise ConnectError(error.message, device=device, hint=error.hint) from error
        except BaseException:
            self.close()
            raise

    def give(self, order: str) -> str:
        """Give an order, again if it was not understood; the line that acknowledges it.

        Raises:
            ConnectError: it says nothing.
            InfraError: it refuses.
            ConnectionLost: it vanished.
        """
        answer = ""
        for _ in range(TRIES):
            self.send(order)
            answer = self.wait_for(rf"(ack {re.escape(order)}\b|error).*", REPLY_S)
            if answer.startswith("ack"):
                return answer
            if answer:
                answer = self.wait_for(r"Error detail.*", DETAIL_S) or answer
                self.send("status")  # asked for it, it forgets the error
                self.wait_for(r"ack status.*", DETAIL_S)
        if not answer:
            raise ConnectError(
                f"no LPM01A answers at {self._port.name}",
                device=self._device,
                hint="is it plugged in, and is this its port?",
            )
        raise InfraError(
            f"the meter refuses '{order}': {answer}",
            device=self._device,
            hint="see its display; firmware 1.0.6 is known to obey",
        )

    def send(self, order: str) -> None:
        """Send words, and wait for nothing."""
        unsent = f"{order}\n".encode()
        deadline = time.monotonic() + REPLY_S
        while unsent and (left := deadline - time.monotonic()) > 0:
            unsent = unsent[self._turn(unsent, left)[1] :]

    def wait_for(self, pattern: str, timeout_s: float) -> str:
        """The first line that fits, or nothing; lines before it are thrown away."""
        deadline = time.monotonic() + timeout_s
        while True:
            while self.lines:
                if re.fullmatch(pattern, line := self.lines.popleft()):
                    return line
            if (left := deadline - time.monotonic()) <= 0:
                return ""
            self.hear(left)

    def hear(self, timeout_s: float) -> None:
        """Wait until it says something."""
        self._turn(b"", timeout_s)

    def close(self) -> None:
        """Let go of the port; closing twice is no error."""
        self._port.close()

    def _drain(self) -> None:
        """Wait until it is silent."""
        deadline = time.monotonic() + REPLY_S
        while self._turn(b"", QUIET_S)[0] and time.monotonic() < deadline:
            self.lines.clear()
        self._said = b""
        self.lines.clear()

    def _turn(self, unsent: bytes, timeout_s: float) -> tuple[bool, int]:
        """Hear what it says; whether it said something, and how many bytes went to it."""
        data, gone = self._port.turn(unsent, timeout_s)
        *lines, self._said = (self._said + data).split(b"\n")
        for line in lines:
            text = line.decode("ascii", "replace").strip("\0\r ").removeprefix(PROMPT).strip()
            if text:
                self.lines.append(text)
        return bool(data), gone
