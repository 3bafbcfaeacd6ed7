"""What every way to a phone gives: bytes to and from the services of its adbd."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator
from typing import Protocol

Block = bytes | bytearray | memoryview


class Nonsense(ConnectionError):
    """The other side sends what no phone sends."""


class Patience:
    """How long one waits: so many seconds in all, or so many after the last thing that moved.

    Args:
        seconds: that many; None for ever.
        renewed: whether they begin anew when something moves.
    """

    def __init__(self, seconds: float | None, *, renewed: bool = False) -> None:
        self._seconds = seconds
        self._renewed = renewed
        self._began = time.monotonic()

    def left(self) -> float | None:
        """Seconds from now on; None for ever.

        Raises:
            TimeoutError: there are none.
        """
        if self._seconds is None:
            return None
        left = self._began + self._seconds - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def moved(self) -> None:
        """Something moved."""
        if self._renewed:
            self._began = time.monotonic()


class Channel(Protocol):
    """A service of a phone, and what goes to and comes from it."""

    @abstractmethod
    def feed(self, blocks: Iterator[Block]) -> None:
        """Send these while `receive` waits; a block is asked for when the one before is sent."""

    @abstractmethod
    def receive(self, patience: Patience) -> bytes:
        """The next bytes that come, none when the service has ended.

        Raises:
            TimeoutError: nothing came in time.
            OSError: the connection broke, or what came is nonsense.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of it, from any thread; closing twice is no error."""


class Wire(Protocol):
    """A way to a phone.

    Attributes:
        features: what its adbd knows besides the oldest protocol.
        longest_name: bytes that the name of a service may have.
        block_bytes: how much it takes at once.
    """

    features: frozenset[str]
    longest_name: int
    block_bytes: int

    @abstractmethod
    def open(self, service: bytes) -> Channel:
        """Ask for a service, on a connection that nobody else uses meanwhile.

        Raises:
            ConnectError: the phone cannot be reached.
            ConnectionLost: it was reached and is gone.
            ConfigError: it is another phone than the one that was pinned.
        """
