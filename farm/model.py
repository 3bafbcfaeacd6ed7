"""The nouns of the farm as frozen data: what is measured, where, with which load.

Nothing here does anything; readers make these from what people write, the planner combines them,
drivers receive them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from farm.errors import ConfigError

CHUNK_BYTES = 1 << 20


MAX_CORES = 1024
_CORES = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?", re.ASCII)


def read_cores(text: str) -> tuple[int, ...]:
    """Cores as people and the kernel list them: `0-3,6`, or `0 1 2 3 6`.

    Raises:
        ValueError: the text is no such list.
    """
    found: set[int] = set()
    for part in text.replace(",", " ").split():
        run = _CORES.fullmatch(part)
        cores = range(int(run[1]), int(run[2] or run[1]) + 1) if run else range(0)
        if not cores or cores[-1] >= MAX_CORES:
            raise ValueError(f"no list of cores: {text!r}")
        found.update(cores)
    return tuple(sorted(found))


class DeviceState(StrEnum):
    """What the lab wants of a device."""

    ACTIVE = "active"
    MAINTENANCE = "maintenance"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a device is: `scheme://place?option=value`; the order of options means nothing.

    Attributes:
        scheme: name of the transport.
        place: host, profile or nothing, in the transport's own terms.
        options: option names and values, sorted by name.
    """

    scheme: str
    place: str
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address.

        Raises:
            ConfigError: it has no scheme or cannot be split.
        """
        try:
            parts = urlsplit(text)
            pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
            options = tuple(sorted(pairs, key=lambda pair: pair[0]))
        except ValueError as error:
            raise ConfigError(f"address {text!r} cannot be read: {error}") from error
        if not parts.scheme:
            raise ConfigError(
                f"address {text!r} has no scheme",
                hint="write for example 'local:' or 'virtual://phone'",
            )
        return cls(scheme=parts.scheme, place=parts.netloc or parts.path, options=options)

    def option(self, name: str, default: str = "") -> str:
        """The last value given for an option."""
        return dict(self.options).get(name, default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One physical or virtual unit as the inventory describes it.

    Attributes:
        name: unique in the inventory.
        type: units of one type are interchangeable for a release decision.
        address: how to reach it.
        tags: free words to select by.
        location: where a person finds it.
        owner: who to ask about it.
        state: what the lab wants of it.
        host: what it shares processor time with; jobs on one host never overlap.
        runtime: what runs models there, unless a suite asks for certain runtimes.
        simulated: whether its time is not real: a virtual device, or a board in an emulator.
        meter: where the meter is that measures what it draws, None without one.
        options: what its drivers want to know besides the address; may hold secrets.
    """

    name: str
    type: str
    address: Address
    tags: tuple[str, ...] = ()
    location: str = ""
    owner: str = ""
    state: DeviceState = DeviceState.ACTIVE
    host: str = ""
    runtime: str = "ort_python"
    simulated: bool = False
    meter: Address | None = None
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def option(self, name: str, default: str = "") -> str:
        """What the inventory says of an option, beside the address or inside it."""
        return dict(self.options).get(name) or self.address.option(name, default)

    @property
    def metered_by(self) -> Address:
        """Where its meter is.

        Raises:
            ConfigError: it has none.
        """
        if self.meter is None:
            raise ConfigError("it has no meter", device=self.name, hint="bind one: docs/power.md")
        return self.meter

    @property
    def wired(self) -> bool:
        """Whether one of its pins is wired to a logic input of its meter."""
        return self.meter is not None and bool(self.meter.option("sync"))

    def cpus(self) -> tuple[int, ...]:
        """The cores that models shall run on, from the option `cpus`; empty for all.

        Raises:
            ConfigError: it is no list of cores.
        """
        text = self.option("cpus")
        try:
            cores = read_cores(text)
        except ValueError:
            cores = ()
        if text and not cores:
            raise ConfigError(
                f"cpus '{text}' is no list of cores",
                device=self.name,
                hint="write for example 'cpus: 4-7' or 'cpus: 0,2'",
            )
        return cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file, identified by its content.

    Attributes:
        path: where the controller finds it.
        sha256: hexadecimal digest of its bytes.
        size_bytes: its length.
    """

    path: Path
    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, path: Path) -> Artifact:
        """Hash a file.

        Raises:
            ConfigError: it is missing or cannot be read.
        """
        digest = hashlib.sha256()
        size = 0
        try:
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
                    size += len(chunk)
        except OSError as error:
            raise ConfigError(f"cannot read {str(path)!r}: {error.strerror}") from error
        except ValueError as error:  # a null byte in the name
            raise ConfigError(f"cannot read {str(path)!r}: {error}") from error
        return cls(path=path, sha256=digest.hexdigest(), size_bytes=size)

    @property
    def name(self) -> str:
        """The file's name without its folder; for people only, never part of a command."""
        return self.path.name


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """One file of a model in one format, `onnx` for example."""

    format: str
    artifact: Artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """The files, one per format, that stand in for a workload's model."""

    name: str
    files: tuple[ModelFile, ...]

    def in_format(self, formats: tuple[str, ...]) -> Artifact | None:
        """The first file in one of these formats."""
        return next((file.artifact for file in self.files if file.format in formats), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A task to run a model on: inputs and, where known, what is right.

    The identity is name and digest of inputs and oracle, never of the model, so that a series goes
    on when the model changes.

    Attributes:
        name: for people and series.
        digest: sha256 over inputs and oracle (or over the recipe of seeded inputs).
        inputs: an .npz with one array per model input, first axis the items; None for a bare
            model, whose inputs are then seeded on the device from the declared shapes.
        labels: an .npy with one integer class per item.
        clusters: an .npy with one whole number per item; items of one number (the frames of a
            video, the words of a speaker) are not independent and are judged together.
        reference: an .npz with the float model's outputs, one array per output.
        golden: an .npz with the very bits that the workload's own model shall give, from a runtime
            that computes as the devices do; they belong to it and are no part of the identity.
        metric: the task's metric.
        model: the workload's own model, the default candidate.
        dimensions: sizes for free dimensions of a bare model.
    """

    name: str
    digest: str
    inputs: Artifact | None = None
    labels: Artifact | None = None
    clusters: Artifact | None = None
    reference: Artifact | None = None
    golden: Artifact | None = None
    metric: str = ""
    model: Candidate | None = None
    dimensions: tuple[tuple[str, int], ...] = ()


class Scenario(StrEnum):
    """How queries arrive, as MLPerf LoadGen defines it."""

    SINGLE_STREAM = "single_stream"
    MULTI_STREAM = "multi_stream"
    SERVER = "server"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How a model is exercised inside one repeat.

    Attributes:
        scenario: how queries arrive.
        min_duration_s: the timed window lasts at least this long ...
        min_queries: ... and has at least this many inferences.
        max_duration_s: it ends here whatever was reached.
        warmup_s: warm-up goes on until two adjacent windows agree, at most this long.
        threads: threads of the runtime inside one inference.
    """

    scenario: Scenario = Scenario.SINGLE_STREAM
    min_duration_s: float = 1.0
    min_queries: int = 64
    max_duration_s: float = 60.0
    warmup_s: float = 1.0
    threads: int = 1

    def digest(self) -> str:
        """Sixteen hexadecimal digits that identify the load in a series."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Measure(StrEnum):
    """A family of metrics that a suite asks for."""

    LATENCY = "latency"
    ACCURACY = "accuracy"
    MEMORY = "memory"
    COLDSTART = "coldstart"
    PLACEMENT = "placement"
    ENERGY = "energy"
    COMPUTE = "compute"
    UPDATE = "update"


REPEATED = frozenset(Measure) - {Measure.ACCURACY, Measure.PLACEMENT, Measure.UPDATE}
"""Families with one value per repeat; items, nodes and updates are looked at once."""


class Arm(StrEnum):
    """Which side of a comparison."""

    BASELINE = "baseline"
    CANDIDATE = "candidate"
    ANCHOR = "anchor"
    """A pinned older release, so that many small losses cannot creep by one at a time."""
    CANARY = "canary"
    """The fixed model that watches the device."""


PAIR = (Arm.BASELINE, Arm.CANDIDATE)
"""The arms of a comparison without an anchor, in the order they run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmModel:
    """The model file that one arm runs, and the name that people know it by."""

    arm: Arm
    name: str
    artifact: Artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A fixed model on fixed inputs: if it changes its pace, the device has changed."""

    workload: Workload
    artifact: Artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One repeat to be done: which arm, in which block, at which position of the block."""

    block: int
    position: int
    arm: Arm


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Workload x device x runtime x accelerator x load x arms: the smallest thing that is queued.

    Attributes:
        measures: the families to measure.
        arms: one model to run it; to compare, the anchor if there is one, the baseline and last
            the candidate.
        rounds: repeats of a single model, or ABBA blocks of two.
        first_block: index of the first of them.
        canary: what tells whether the device is still itself, measured before and after.
    """

    workload: Workload
    device: Device
    runtime: str
    accelerator: str
    load: Load
    measures: tuple[Measure, ...]
    arms: tuple[ArmModel, ...]
    rounds: int
    first_block: int = 0
    canary: Canary | None = None

    @property
    def compares(self) -> bool:
        """Whether this job compares two models."""
        return len(self.arms) > 1

    @property
    def block_size(self) -> int:
        """Repeats that count together or not at all."""
        return 2 * len(self.arms) if self.compares else 1

    def slots(self) -> Iterator[Slot]:
        """The repeats in the order they run.

        Two models run as A B B A inside each block, three as R A B B A R: a drift that is linear
        over the block adds the same to each and cancels.
        """
        arms = [arm.arm for arm in self.arms]
        order = (*arms, *reversed(arms)) if self.compares else tuple(arms)
        for block in range(self.first_block, self.first_block + self.rounds):
            for position, arm in enumerate(order):
                yield Slot(block=block, position=position, arm=arm)
