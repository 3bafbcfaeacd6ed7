"""How devices are reached: shells and files, serial lines, and devices without hardware.

A connection is one class, registered under an entry point (`farm.transports`, `farm.lines`,
`farm.virtual`). It translates its library's exceptions into `farm.errors` at its own edge.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import ClassVar, Protocol

from farm.errors import ConfigError
from farm.model import Artifact, Device
from farm.record import Fact, TimeBasis
from farm.shell import Completed, Shell, install

Tell = Callable[[str], None]
"""Hears a line for people."""


def silent(line: str) -> None:
    """Tells nobody."""


class Clock(Protocol):
    """Time as the device's side has it: real, or virtual where the device is."""

    def now_ns(self) -> int:
        """Monotonic nanoseconds since an arbitrary origin."""

    def sleep(self, duration_s: float) -> None:
        """Let that many seconds pass."""


class SystemClock(Clock):
    """The time of this machine."""

    def now_ns(self) -> int:
        """Monotonic nanoseconds."""
        return time.monotonic_ns()

    def sleep(self, duration_s: float) -> None:
        """Sleep."""
        time.sleep(duration_s)


class Detached(Protocol):
    """A process in its own process group that outlives the connection it was started over.

    Attributes:
        id: attaches to it again, also from another process.
    """

    id: str

    def poll(self) -> Completed | None:
        """The ended process, None while it runs.

        Raises:
            InfraError: the device cannot be asked.
            DeviceRebooted: the device restarted since.
        """

    def wait(self, timeout_s: float) -> Completed:
        """Wait for its end; at the deadline its whole group is killed.

        Raises:
            CommandTimeout: it did not end in time.
            InfraError: the device cannot be asked.
            DeviceRebooted: the device restarted meanwhile.
        """

    def kill(self) -> None:
        """End the whole group; a group that is gone is no error."""


class Stream(Protocol):
    """A command that prints lines until it is told to stop."""

    def lines(self) -> tuple[str, ...]:
        """The whole lines that came since the last call; none once the device cannot be heard."""

    def close(self) -> None:
        """End the command; closing twice is no error."""


class Connection(Protocol):
    """What every road to a device has.

    Made with the `Device`; connects in the constructor or raises `ConnectError`. A connection that
    breaks later is made again when the next command needs it.

    Attributes:
        platform: the platform that devices behind it have.
        runtime: what runs models there unless told otherwise.
        simulated: whether device or time are not real.
        host: what devices behind it share processor time with, unless told otherwise; empty for
            devices that are machines of their own.
        has_shell: whether commands can be run there.
        time_basis: what devices behind it count, as in `farm.record.TimeBasis`; empty where only
            the device itself can tell.
        options: keys that a device behind it may have in the inventory.
        device: what it was made with.
        clock: time as the device's side has it.
    """

    platform: ClassVar[str]
    runtime: ClassVar[str] = "ort_python"
    simulated: ClassVar[bool]
    host: ClassVar[str]
    has_shell: ClassVar[bool] = True
    time_basis: ClassVar[str] = TimeBasis.WALL
    options: ClassVar[tuple[str, ...]] = ()
    device: Device
    clock: Clock

    @abstractmethod
    def __init__(self, device: Device) -> None:
        self.device = device

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse an address or options that can never work; touches no device.

        Raises:
            ConfigError: something is wrong.
        """

    @classmethod
    def introduce(cls, device: Device, tell: Tell = silent) -> tuple[tuple[str, str], ...]:
        """What a device shows before it is trusted, as options for the inventory: a host key.

        Args:
            device: as the inventory has it.
            tell: hears lines for the person who stands before it, such as what to touch there.

        Raises:
            InfraError: it cannot be reached.
        """
        return ()

    def describe(self) -> tuple[Fact, ...]:
        """How the device is reached, for people who look after it."""
        return ()

    @abstractmethod
    def close(self) -> None:
        """Let go of the device; closing twice is no error."""


class Line(Connection, Protocol):
    """A serial line: one request, one answer.

    What wraps them on the wire is the line's own business: frames with a checksum, or a text
    protocol's ends of line.
    """

    has_shell: ClassVar[bool] = False
    time_basis: ClassVar[str] = ""

    @abstractmethod
    def exchange(self, request: bytes, *, timeout_s: float) -> bytes:
        """Ask something and wait for the answer.

        A line whose protocol can tell a repeated request from a new one asks again when an answer
        is lost; the device does what was asked at most once.

        Raises:
            CommandTimeout: no answer came.
            ConnectionLost: the line vanished.
            DeviceRebooted: the device restarted meanwhile, or since the last request; the evidence
                has what it said of that.
        """

    @abstractmethod
    def console(self) -> str:
        """The last 64 KiB of what the device said besides its answers."""

    @classmethod
    def own_firmware(cls, device: Device) -> Artifact:
        """The farm's own firmware for this board, built when it is needed.

        Raises:
            ConfigError: there is none for it.
        """
        raise ConfigError(
            "the farm has no firmware of its own for it",
            device=device.name,
            hint=f"name the image: farm flash {device.name} IMAGE",
        )

    @classmethod
    @abstractmethod
    def bring_up(cls, device: Device, image: Artifact) -> None:
        """Put a whole firmware on a board, by the way that the inventory names with `flash`.

        The board is asked for nothing before: it may be blank.

        Raises:
            ConfigError: the inventory names no way.
            InfraError: it did not arrive.
        """

    @abstractmethod
    def flash(self, image: Artifact) -> None:
        """Put another firmware on the board that answers here, and meet it again.

        Raises:
            ConfigError: the inventory names no way.
            InfraError: it did not arrive, or does not answer.
        """


class Transport(Shell, Connection, Protocol):
    """A shell and files on a device, and processes that outlive the connection.

    Attributes:
        allowed_bytes: how much the content-addressed folder may hold.
        in_use: digests that this session has installed.
    """

    allowed_bytes: int = 4 << 30
    in_use: set[str]

    @abstractmethod
    def __init__(self, device: Device) -> None:
        Connection.__init__(self, device)  # a Protocol's super() would find the Shell's
        self.in_use = set()

    @abstractmethod
    def start(self, argv: tuple[str, ...], *, folder: PurePosixPath) -> Detached:
        """Start a process that is independent of this connection, working in `folder`.

        The folder is made; while the process runs it holds `out` and `err`.
        """

    @abstractmethod
    def attach(self, id: str) -> Detached:
        """The process that an earlier `start` named."""

    @abstractmethod
    def stream(self, argv: tuple[str, ...]) -> Stream:
        """Start a command whose lines are read while it runs, on a connection of its own."""

    def install(self, artifact: Artifact) -> PurePosixPath:
        """Put a file into the device's content-addressed folder, as in `farm.shell`.

        Raises:
            TransferCorrupt: what arrived is not what was sent.
            OutOfSpace: no room on the device.
        """
        self.in_use.add(artifact.sha256)
        return install(self, artifact, allowed_bytes=self.allowed_bytes, in_use=self.in_use)


class Virtual(Protocol):
    """A device without hardware that speaks a true wire protocol on loopback or a terminal.

    A production connection talks to it, so its attributes are those of a connection's class.
    """

    platform: ClassVar[str]
    runtime: ClassVar[str]
    simulated: ClassVar[bool] = True
    host: ClassVar[str]
    has_shell: ClassVar[bool] = True
    time_basis: ClassVar[str] = TimeBasis.WALL
    options: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def check(cls, device: Device) -> None:
        """As in `Connection`."""

    @classmethod
    def introduce(cls, device: Device, tell: Tell = silent) -> tuple[tuple[str, str], ...]:
        """As in `Connection`."""
        return ()

    @classmethod
    @abstractmethod
    def start(cls, device: Device) -> Device:
        """Switch it on, once per process; the same device at the address where it answers."""
