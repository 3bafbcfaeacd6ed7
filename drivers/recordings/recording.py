"""What was recorded with programs of others, in the farm's words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from farm.errors import ConfigError, nearest_hint
from farm.metering import Chunk, MeterFacts, VoltageSource


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignRecording:
    """A file with the samples of a meter; it may be longer than what fits into memory.

    Attributes:
        facts: what the file tells of the meter; its class is empty where it does not tell.
        inputs: the logic inputs that it has.
        chunks: reads it from the beginning, some ten thousand samples at a time; their times are
            nanoseconds since the file's own zero. What the meter has lost is a jump there. Raises
            `ConfigError` where the file is damaged.
    """

    facts: MeterFacts
    inputs: tuple[str, ...]
    chunks: Callable[[], Iterator[Chunk]]


def source_of(path: Path, *, measured: bool, volts: float | None) -> VoltageSource:
    """Where the voltage behind a recording's power comes from.

    Args:
        path: of the recording.
        measured: whether it has voltage, or power.
        volts: what a person says of it.

    Raises:
        ConfigError: nobody knows it, or two do.
    """
    if measured and volts is not None:
        raise ConfigError(f"{path.name} has the voltage", hint="leave out --volts")
    if not measured and volts is None:
        raise ConfigError(
            f"{path.name} has a current, and nothing tells its voltage",
            hint="say it, for example --volts 3.3",
        )
    return VoltageSource.MEASURED if measured else VoltageSource.DECLARED


def find_input(path: Path, wanted: str, inputs: tuple[str, ...]) -> str:
    """The input that a person means, without the `!`; empty if none is wanted.

    Raises:
        ConfigError: the recording has no such input.
    """
    name = wanted.removeprefix("!")
    if not name or name in inputs:
        return name
    raise ConfigError(
        f"{path.name} has no logic input '{name}'",
        hint=nearest_hint(name, inputs, otherwise=f"it has: {', '.join(inputs) or 'none'}"),
    )
