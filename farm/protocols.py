"""The interfaces between the core and what its drivers do on a device, once it is reached.

A driver is one class, registered under an entry point (`farm.platforms`, `farm.runtimes`,
`farm.power`). It translates its library's exceptions into `farm.errors` at its own edge.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

from farm.connection import Connection, Virtual
from farm.errors import Evidence
from farm.metering import Chunk, Metered, MeterFacts
from farm.model import Address, Artifact, Device, Load, Scenario, Workload
from farm.record import Fact, Finding, Measured, Measurement, Output, Placement, Reading


class Power(Protocol):
    """A switchable port that feeds a device.

    Made with the `Device`; touches nothing before it is told to.

    Attributes:
        options: keys that a device fed by it may have in the inventory.
    """

    options: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def check(cls, device: Device) -> None:
        """As in `Connection`."""

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


class Meter(Protocol):
    """What measures the power that one device draws.

    Made with the device, whose `meter` is the meter's own address (`ppk2://SERIAL?sync=D0`), and a
    connection to that device, for meters that sit on it; finds and opens the meter, and refuses one
    that is not the one meant. The option `sync` of an address names the logic input that a pin of
    the device is wired to; with `!` before it, low means high.

    Attributes:
        options: the options that its address may have besides `sync`.
        meter_class: a name of `farm.metering.METER_CLASSES`; empty where only the meter can tell.
        inputs: the logic inputs that it has.
    """

    options: ClassVar[tuple[str, ...]] = ()
    meter_class: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse an address that can never work; touches no meter.

        Raises:
            ConfigError: something is wrong.
        """

    @classmethod
    def release(cls, device: Device) -> bool:
        """Let go of what holds the meter between jobs; whether anything did.

        A meter that feeds the device stops feeding it.
        """
        return False

    @abstractmethod
    def __init__(self, device: Device, connection: Connection) -> None: ...

    @abstractmethod
    def facts(self) -> MeterFacts:
        """What it is and how it is set."""

    @abstractmethod
    def start(self) -> None:
        """Begin to sample; what an earlier start left is forgotten.

        Raises:
            InfraError: it does not obey.
            PreflightFailed: it could not tell what the device draws now.
        """

    @abstractmethod
    def read(self, *, timeout_s: float) -> Chunk:
        """What came since the last call; waits for something, and returns nothing at the deadline.

        Whoever records calls again at once; a second's delay must lose nothing of what a meter
        sends by itself.

        Raises:
            MeterGap: it sends what cannot be understood.
            ConnectionLost: it vanished.
        """

    @abstractmethod
    def stop(self) -> None:
        """Sample no more; a meter that feeds the device goes on feeding it."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the meter; closing twice is no error."""


class VirtualMeter(Protocol):
    """A meter without hardware that speaks a true wire protocol and sees what a device does.

    A production meter talks to it.

    Attributes:
        options, meter_class, inputs: as in `Meter`.
    """

    options: ClassVar[tuple[str, ...]] = ()
    meter_class: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def check(cls, device: Device) -> None:
        """As in `Meter`."""

    @classmethod
    def release(cls, device: Device) -> bool:
        """As in `Meter`."""
        return False

    @classmethod
    @abstractmethod
    def start(cls, device: Device) -> Address:
        """Switch it on, once per process; the address where the production meter finds it.

        Raises:
            InfraError: it cannot be switched on.
        """


class RecordingFile(Protocol):
    """A recording of a meter that another program made."""

    @property
    def facts(self) -> MeterFacts:
        """What the file tells of the meter; its class is empty where it does not tell."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The logic inputs that it has."""

    @property
    def chunks(self) -> Callable[[], Iterator[Chunk]]:
        """Reads it from the beginning; times begin with the file.

        Raises:
            ConfigError: the file is broken; with the place.
        """


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

    Made with the connection.

    Attributes:
        options: keys that a device of this platform may have in the inventory.
    """

    options: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def __init__(self, connection: Connection) -> None: ...

    @classmethod
    def check(cls, device: Device) -> None:
        """As in `Connection`."""

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
    def measure(
        self, load: Load, *, quiet_pace_ns: float | None = None, metered: Metered | None = None
    ) -> Measured:
        """Run a load in a fresh process; the timed loop runs on the device.

        Args:
            load: what to run.
            quiet_pace_ns: the best `Measured.pace_ns` so far; a runtime that can tell its pace may
                wait a moment for it, so as not to measure beside other work.
            metered: how to run it beside a meter, the result then has `spans`; never given to a
                runtime that does not say `meterable`.

        Raises:
            WorkloadError: the model cannot run here.
        """

    def try_updates(self, power: Power | None) -> tuple[Measurement, ...]:
        """Let updates of the device go wrong on purpose; the model must answer after each.

        Args:
            power: the port that feeds the device; None leaves out what needs it.

        Returns:
            `update.*`, shares of the tries that ended as they should; nothing where there is no
            update path of the farm's.
        """
        return ()

    def notes(self) -> tuple[str, ...]:
        """Lines for people about what was done so far, such as which update did not end well."""
        return ()

    @abstractmethod
    def remove(self) -> None:
        """Remove what this deployment left besides the content-addressed files."""


class Runtime(Protocol):
    """An inference runtime on a device.

    Made with the connection.

    Attributes:
        platforms: the platforms that it runs on; empty for all that have a shell.
        formats: the model formats that it takes, preferred first.
        scenarios: the scenarios that it can produce.
        meterable: whether its windows can be told apart beside a meter.
        options: keys that a device may have in the inventory for it.
    """

    options: ClassVar[tuple[str, ...]] = ()
    platforms: ClassVar[tuple[str, ...]] = ()
    meterable: ClassVar[bool] = False
    formats: ClassVar[tuple[str, ...]]
    scenarios: ClassVar[tuple[Scenario, ...]]

    @abstractmethod
    def __init__(self, connection: Connection) -> None: ...

    @classmethod
    def check(cls, device: Device) -> None:
        """As in `Connection`."""

    @classmethod
    def fits(cls, road: type[Connection] | type[Virtual] | Connection) -> bool:
        """Whether it runs on devices that are reached so."""
        return road.platform in cls.platforms if cls.platforms else road.has_shell

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
