"""Files of this machine that tell a power or an energy, looked at again and again."""

from __future__ import annotations

import errno
import os
import queue
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from farm.errors import ConnectError, ConnectionLost, FarmError

MOST_BYTES = 4096
"""No file of sysfs holds more."""
LATER = frozenset({errno.EAGAIN, errno.ENODATA, errno.ETIMEDOUT, errno.EIO, errno.EREMOTEIO})
"""The driver has nothing now, or the bus was disturbed: the next look may find it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What some files told at one moment.

    Attributes:
        t_ns: when, on the host's monotonic clock.
        values: a number per file, in the order asked; None where there was none to be had.
    """

    t_ns: int
    values: tuple[int | None, ...]


class Files(Protocol):
    """Files of a machine."""

    def tell(self, patterns: Iterable[str]) -> dict[str, str]:
        """The first lines of files by their paths; empty for those that cannot be read.

        Args:
            patterns: paths with `*`, as shells know them.

        Raises:
            InfraError: the machine cannot be asked.
        """

    def start(self, paths: tuple[str, ...], period_s: float) -> None:
        """Look at files again and again.

        Raises:
            ConnectError: they cannot be read.
        """

    def looks(self, *, timeout_s: float) -> tuple[Look, ...]:
        """The looks since the last call, in the order of time; waits for one until the deadline.

        Raises:
            ConnectionLost: a file has vanished.
        """

    def stop(self) -> None:
        """Look no more; stopping twice is no error."""


class HostFiles(Files):
    """Files of this machine, looked at by a thread, so that whoever records may be late.

    Args:
        device: the inventory name of what they measure.
        fix: what gives the right to read them, for people.
    """

    def __init__(self, device: str, fix: str) -> None:
        self._device = device
        self._fix = fix
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._found: queue.SimpleQueue[Look | FarmError] = queue.SimpleQueue()

    def tell(self, patterns: Iterable[str]) -> dict[str, str]:
        """The first lines of the files that match."""
        told = {}
        for pattern in patterns:
            for path in sorted(Path("/").glob(pattern.lstrip("/"))):
                told[str(path)] = _first_line(path)
        return told

    def start(self, paths: tuple[str, ...], period_s: float) -> None:
        """Begin with looks; the first of them is made here, so that whoever waits hears why not."""
        self.stop()
        self._ended = threading.Event()
        self._found = queue.SimpleQueue()
        try:
            self._found.put(self._look(paths))
        except ConnectionLost as error:
            raise ConnectError(error.message, device=self._device, hint=error.hint) from error
        self._thread = threading.Thread(
            target=self._watch,
            args=(paths, period_s, self._found, self._ended),
            name="files",
            daemon=True,
        )
        self._thread.start()

    def looks(self, *, timeout_s: float) -> tuple[Look, ...]:
        """What the thread found."""
        try:
            found = [self._found.get(timeout=timeout_s)]
        except queue.Empty:
            return ()
        found += [self._found.get() for _ in range(self._found.qsize())]
        looks = tuple(item for item in found if isinstance(item, Look))
        for item in found:
            if isinstance(item, FarmError):
                if not looks:
                    raise item
                self._found.put(item)  # what came before it counts
        return looks

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _watch(
        self,
        paths: tuple[str, ...],
        period_s: float,
        found: queue.SimpleQueue[Look | FarmError],
        ended: threading.Event,
    ) -> None:
        due = time.monotonic()
        while True:
            # who is late looks on from now: a burst of looks would tell nothing new
            due = max(due + period_s, time.monotonic())
            if ended.wait(max(0.0, due - time.monotonic())):
                return
            try:
                found.put(self._look(paths))
            except FarmError as error:
                found.put(error)
                return

    def _look(self, paths: tuple[str, ...]) -> Look:
        """One look; its time is the middle between the first question and the last answer."""
        asked_ns = time.monotonic_ns()
        values = tuple(self._number(path) for path in paths)
        return Look(t_ns=(asked_ns + time.monotonic_ns()) // 2, values=values)

    def _number(self, path: str) -> int | None:
        try:
            return read_whole(_read(path))
        except OSError as error:
            if error.errno in LATER:
                return None
            raise self._refusal(path, error) from error

    def _refusal(self, path: str, error: OSError) -> FarmError:
        if error.errno in (errno.EACCES, errno.EPERM):
            return ConnectError(f"no right to read {path}", device=self._device, hint=self._fix)
        return ConnectionLost(
            f"{path} cannot be read: {error.strerror}",
            device=self._device,
            hint="is the meter plugged in, and its kernel driver loaded?",
        )


def read_whole(text: bytes) -> int | None:
    """A whole number that a line tells; None for a line without its end: half of a number."""
    number, end, _ = text.partition(b"\n")
    digits = number.strip()
    return int(digits) if end and digits.removeprefix(b"-").isdigit() else None


def _read(path: str) -> bytes:
    """The bytes of a file now; never waits."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, MOST_BYTES)
    finally:
        os.close(descriptor)


def _first_line(path: Path) -> str:
    try:
        return _read(str(path)).decode(errors="replace").partition("\n")[0].strip()
    except OSError:
        return ""
