"""The interfaces between the core and its drivers, each with at least two implementations.

A driver is one class, registered under an entry point (`farm.transports`, `farm.platforms`,
`farm.runtimes`). It translates its library's exceptions into `farm.errors` at its own edge.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar, Protocol

from farm.errors import OutOfSpace, TransferCorrupt
from farm.model import Address, Artifact, Device, Load, Scenario, Workload
from farm.record import Fact, Finding, Measured, Output, Reading


class Clock(Protocol):
    """Time as the device's side has it: real, or virtual where the device is."""

    def now_ns(self) -> int:
        """Monotonic nanoseconds since an arbitrary origin."""

    def sleep(self, duration_s: float) -> None:
        """Let that many seconds pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A command that ended.

    Attributes:
        returncode: its exit status; negative for a signal.
        stdout: what it printed.
        stderr: what it complained about.
        elapsed_s: how long it took, seen from the controller.
    """

    returncode: int
    stdout: str
    stderr: str
    elapsed_s: float


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


class Transport(Protocol):
    """A shell and files on a device.

    Made with the `Device`; connects in the constructor or raises `ConnectError`. argv lists only:
    quoting, where a shell is in between, is the transport's duty.

    Attributes:
        platform: the platform that devices behind this transport have unless told otherwise.
        simulated: whether device or time are not real.
        host: what devices behind this transport share processor time with, unless told otherwise;
            empty for devices that are machines of their own.
        clock: time as the device's side has it.
        root: the folder on the device that the farm may fill.
    """

    platform: ClassVar[str]
    simulated: ClassVar[bool]
    host: ClassVar[str]
    clock: Clock
    root: PurePosixPath

    @abstractmethod
    def __init__(self, device: Device) -> None: ...

    @classmethod
    def check(cls, address: Address) -> None:
        """Refuse an address that can never work; touches no device.

        Raises:
            ConfigError: the address is wrong.
        """

    @abstractmethod
    def run(
        self,
        argv: tuple[str, ...],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        cwd: PurePosixPath | None = None,
    ) -> Completed:
        """Run a command to its end.

        Raises:
            CommandTimeout: it did not end in time; it was killed.
            InfraError: the device cannot be reached.
        """

    @abstractmethod
    def push(self, source: Path, target: PurePosixPath) -> None:
        """Copy a file to the device; its folder must exist.

        Raises:
            OutOfSpace: no room on the device.
            InfraError: the device cannot be reached.
        """

    @abstractmethod
    def pull(self, source: PurePosixPath, target: Path) -> None:
        """Copy a file from the device.

        Raises:
            InfraError: the device cannot be reached, or has no such file.
        """

    @abstractmethod
    def start(self, argv: tuple[str, ...], *, folder: PurePosixPath) -> Detached:
        """Start a process that is independent of this connection, working in `folder`."""

    @abstractmethod
    def attach(self, id: str) -> Detached:
        """The process that an earlier `start` named."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the device; closing twice is no error."""

    def install(self, artifact: Artifact) -> PurePosixPath:
        """Put a file into the device's content-addressed folder, unless it is there already.

        The name on the device is the digest, so no name that a person gave reaches a shell. The
        device itself hashes what it received before the file gets its final name: whatever stops
        the transfer, a file under its digest is whole.

        Raises:
            TransferCorrupt: what arrived is not what was sent.
            OutOfSpace: no room on the device.
        """
        folder = self.root / "store"
        target = folder / artifact.sha256
        if self._digest(target) == artifact.sha256:
            return target
        part = folder / f"{artifact.sha256}.part"
        made = self.run(("mkdir", "-p", str(folder)), timeout_s=30)
        if made.returncode:
            raise OutOfSpace(f"cannot make the folder {folder}: {made.stderr.strip()}")
        self.push(artifact.path, part)
        arrived = self._digest(part)
        if arrived != artifact.sha256:
            self.run(("rm", "-f", str(part)), timeout_s=30)
            raise TransferCorrupt(
                f"sent {artifact.sha256[:12]}, the device has {arrived[:12] or 'nothing'}",
                hint="the transfer is repeated; if this goes on, check cable and storage",
            )
        self.run(("mv", "-f", str(part), str(target)), timeout_s=30)
        return target

    def _digest(self, path: PurePosixPath) -> str:
        done = self.run(("sha256sum", str(path)), timeout_s=120)
        return done.stdout.lstrip("\\").split(" ")[0] if done.returncode == 0 else ""


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


class Platform(Protocol):
    """What is particular to an operating system: facts, fitness, sampling, cleaning up.

    Made with the transport.
    """

    @abstractmethod
    def __init__(self, transport: Transport) -> None: ...

    @abstractmethod
    def facts(self) -> tuple[Fact, ...]:
        """Circumstances that may explain a change; `serial` and `boot_id` are among them."""

    @abstractmethod
    def preflight(self, limits: Limits) -> tuple[Finding, ...]:
        """What stands against measuring now."""

    @abstractmethod
    def sample(self) -> tuple[Reading, ...]:
        """What the device tells of itself now.

        Names with a meaning to the core: `temperature` (degC), `throttled` (1 or 0).
        """

    @abstractmethod
    def sweep(self) -> tuple[str, ...]:
        """End what earlier sessions left running; names what was ended."""


class Deployment(Protocol):
    """A model on a device, ready to run."""

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
    """

    formats: ClassVar[tuple[str, ...]]
    scenarios: ClassVar[tuple[Scenario, ...]]

    @abstractmethod
    def __init__(self, transport: Transport) -> None: ...

    @abstractmethod
    def facts(self) -> tuple[Fact, ...]:
        """Version, and the accelerators that are really there (`accelerators`, comma-separated).

        Raises:
            DeviceError: the runtime is not on the device.
        """

    @abstractmethod
    def deploy(self, model: Artifact, workload: Workload, *, accelerator: str) -> Deployment:
        """Put a model and its inputs on the device.

        Raises:
            WrongAccelerator: the device does not have what was asked for.
        """
