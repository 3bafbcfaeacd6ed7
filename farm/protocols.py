"""The interfaces between the core and its drivers, each with at least two implementations.

A driver is one class, registered under an entry point (`farm.transports`, `farm.platforms`,
`farm.runtimes`, `farm.power`). It translates its library's exceptions into `farm.errors` at its own
edge.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar, Protocol

from farm.errors import Evidence
from farm.model import Artifact, Device, Load, Scenario, Workload
from farm.record import Fact, Finding, Measured, Measurement, Output, Placement, Reading
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


class Transport(Shell, Protocol):
    """A shell and files on a device, and processes that outlive the connection.

    Made with the `Device`; connects in the constructor or raises `ConnectError`. A connection that
    breaks later is made again when the next command needs it.

    Attributes:
        platform: the platform that devices behind this transport have.
        runtime: what runs models there unless told otherwise.
        simulated: whether device or time are not real.
        host: what devices behind this transport share processor time with, unless told otherwise;
            empty for devices that are machines of their own.
        options: keys that a device behind it may have in the inventory.
        device: what it was made with.
        clock: time as the device's side has it.
        allowed_bytes: how much the content-addressed folder may hold.
        in_use: digests that this session has installed.
    """

    platform: ClassVar[str]
    runtime: ClassVar[str] = "ort_python"
    simulated: ClassVar[bool]
    host: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()
    device: Device
    clock: Clock
    allowed_bytes: int = 4 << 30
    in_use: set[str]

    @abstractmethod
    def __init__(self, device: Device) -> None:
        self.device = device
        self.in_use = set()

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

    @abstractmethod
    def close(self) -> None:
        """Let go of the device; closing twice is no error."""

    def install(self, artifact: Artifact) -> PurePosixPath:
        """Put a file into the device's content-addressed folder, as in `farm.shell`.

        Raises:
            TransferCorrupt: what arrived is not what was sent.
            OutOfSpace: no room on the device.
        """
        self.in_use.add(artifact.sha256)
        return install(self, artifact, allowed_bytes=self.allowed_bytes, in_use=self.in_use)


class Virtual(Protocol):
    """A device without hardware that speaks a true wire protocol on loopback.

    A production transport talks to it, so its attributes are those of a transport's class.
    """

    platform: ClassVar[str]
    runtime: ClassVar[str]
    simulated: ClassVar[bool] = True
    host: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def check(cls, device: Device) -> None:
        """As in `Transport`."""

    @classmethod
    def introduce(cls, device: Device, tell: Tell = silent) -> tuple[tuple[str, str], ...]:
        """As in `Transport`."""
        return ()

    @classmethod
    @abstractmethod
    def start(cls, device: Device) -> Device:
        """Switch it on, once per process; the same device at the address where it answers."""


class Power(Protocol):
    """A switchable port that feeds a device.

    Made with the `Device`; touches nothing before it is told to.

    Attributes:
        options: keys that a device fed by it may have in the inventory.
    """

    options: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def check(cls, device: Device) -> None:
        """As in `Transport`."""

    @abstractmethod
    def __init__(self, device: Device) -> None: ...

    @abstractmethod
    def on(self) -> None:
        """Feed the device; has a deadline of its own, and switching on twice is no error.

        Raises:
            InfraError: the port does not obey.
        """

    @abstractmethod
    def off(self) -> None:
        """Stop feeding the device, as in `on`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a device must satisfy before it is measured on.

    Attributes:
        max_temperature_c: hottest sensor at the start of a repeat.
        min_free_bytes: room for what is pushed.
        min_battery_pct: charge, where there is a battery.
    """

    max_temperature_c: float = 70.0
    min_free_bytes: int = 64 << 20
    min_battery_pct: float = 25.0


class Watch(Protocol):
    """Somebody who looks at a device once a second while something is measured on it."""

    def readings(self) -> tuple[Reading, ...]:
        """What was seen since the last call."""

    def close(self) -> None:
        """Look away; closing twice is no error."""


class Platform(Protocol):
    """What is particular to an operating system: facts, fitness, tuning, sampling, cleaning up.

    Made with the transport.

    Attributes:
        options: keys that a device of this platform may have in the inventory.
    """

    options: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def __init__(self, transport: Transport) -> None: ...

    @classmethod
    def check(cls, device: Device) -> None:
        """As in `Transport`."""

    @abstractmethod
    def facts(self) -> tuple[Fact, ...]:
        """Circumstances that may explain a change; `serial` and `boot_id` are among them."""

    @abstractmethod
    def preflight(self, limits: Limits) -> tuple[Finding, ...]:
        """What stands against measuring now."""

    def prepare(self) -> tuple[str, ...]:
        """Set what the inventory wants set; returns lines for people, of what was not allowed too.

        What undoes it lies on the device before the first setting is changed.
        """
        return ()

    def restore(self) -> tuple[str, ...]:
        """Undo what `prepare` changed, now or in a session that ended badly; names the settings."""
        return ()

    @abstractmethod
    def sample(self) -> tuple[Reading, ...]:
        """What the device tells of itself now.

        Names with a meaning to the core: `temperature` (degC), `throttled` (1 or 0).
        """

    @abstractmethod
    def watch(self) -> Watch:
        """Begin to sample once a second, without taking time from what is measured."""

    @abstractmethod
    def sweep(self) -> tuple[str, ...]:
        """End what earlier sessions left running; names what was ended."""

    def evidence(self, last_s: float) -> tuple[Evidence, ...]:
        """What the system wrote down in the last seconds: the kernel's messages."""
        return ()


class Deployment(Protocol):
    """A model on a device, ready to run."""

    def prepare(self) -> tuple[Measurement, ...]:
        """Compile the model for its accelerator, once per model, unit and runtime version.

        Returns `compile.seconds` if that took any; has a deadline of its own.

        Raises:
            WorkloadError: the model cannot run here.
        """
        return ()

    def placement(self, load: Load) -> Placement | None:
        """Where the nodes run, looked at once; None if the runtime cannot tell.

        Raises:
            WrongAccelerator: elsewhere than was asked for.
            WorkloadError: the model cannot run here.
        """
        return None

    @abstractmethod
    def infer(self) -> tuple[Output, ...]:
        """Run every item of the workload once and return all outputs.

        Raises:
            WorkloadError: the model cannot run here, or its outputs are unusable.
        """

    @abstractmethod
    def measure(self, load: Load, *, quiet_pace_ns: float | None = None) -> Measured:
        """Run a load in a fresh process; the timed loop runs on the device.

        Args:
            load: what to run.
            quiet_pace_ns: the best `Measured.pace_ns` so far; a runtime that can tell its pace may
                wait a moment for it, so as not to measure beside other work.

        Raises:
            WorkloadError: the model cannot run here.
        """

    @abstractmethod
    def remove(self) -> None:
        """Remove what this deployment left besides the content-addressed files."""


class Runtime(Protocol):
    """An inference runtime on a device.

    Made with the transport.

    Attributes:
        formats: the model formats that it takes, preferred first.
        scenarios: the scenarios that it can produce.
        options: keys that a device may have in the inventory for it.
    """

    options: ClassVar[tuple[str, ...]] = ()
    formats: ClassVar[tuple[str, ...]]
    scenarios: ClassVar[tuple[Scenario, ...]]

    @abstractmethod
    def __init__(self, transport: Transport) -> None: ...

    @classmethod
    def check(cls, device: Device) -> None:
        """As in `Transport`."""

    @abstractmethod
    def facts(self) -> tuple[Fact, ...]:
        """Version, and the accelerators that are really there (`accelerators`, comma-separated).

        Raises:
            DeviceError: the runtime is not on the device.
        """

    @abstractmethod
    def deploy(self, model: Artifact, workload: Workload, *, accelerator: str) -> Deployment:
        """Put a model and its inputs on the device.

        Args:
            model: what to run.
            workload: its inputs.
            accelerator: `cpu`, or the name of an execution provider that must run every node;
                `tensorrt+cpu` lets the second run what the first cannot.

        Raises:
            WrongAccelerator: the device does not have what was asked for.
        """
