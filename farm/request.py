"""What a person asked for, resolved: which models on which devices, and how to ask again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from farm.errors import ConfigError, as_utf8
from farm.inventory import read_inventory
from farm.model import REPEATED, Arm, Canary, Candidate
from farm.planning import Plan, make_plan
from farm.suite import Suite
from farm.workload import read_workload, resolve_candidate, resolve_workload

DEFAULT_INVENTORY = "inventory.yaml"
DEFAULT_STORE = ".farm"

PathLike = str | Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """On which devices of which inventory, and where results are kept."""

    inventory: PathLike = DEFAULT_INVENTORY
    store: PathLike = DEFAULT_STORE
    devices: Sequence[str] = ()
    tags: Sequence[str] = ()
    wait_s: float = 0.0


def resolve(
    suite: Suite,
    arms: tuple[tuple[Arm, Path], ...],
    workload: PathLike | None,
    shape: Mapping[str, int] | None,
    where: Where,
    *,
    rounds: int,
) -> Plan:
    """Combine what was named into a plan.

    Args:
        suite: what to measure.
        arms: paths of the models; none for the workload's own.
        workload: folder of the workload, if it was named.
        shape: sizes of free dimensions of a model without a workload.
        where: devices and store.
        rounds: repeats of one model, or blocks of two.

    Raises:
        ConfigError: something that a person wrote is wrong.
    """
    devices = read_inventory(Path(where.inventory)).select(tuple(where.devices), tuple(where.tags))
    task = resolve_workload(
        tuple(path for _, path in arms),
        explicit=Path(workload) if workload else None,
        suite=suite.workload,
        dimensions=tuple((shape or {}).items()),
    )
    models: tuple[tuple[Arm, Candidate], ...] = tuple(
        (arm, resolve_candidate(path)) for arm, path in arms
    )
    if not models:
        if task.model is None:
            raise ConfigError("there is no model to run", hint="name one with --model")
        models = ((Arm.CANDIDATE, task.model),)
    canary = _canary(suite) if len(models) > 1 else None
    return make_plan(suite, devices, task, models, rounds=rounds, canary=canary)


def _canary(suite: Suite) -> Canary | None:
    """The suite's canary: the own model of its canary workload."""
    if suite.canary is None or not REPEATED & set(suite.measures):
        return None
    workload = read_workload(suite.canary)
    if workload.model is None:
        raise ConfigError(f"the canary workload {str(suite.canary)!r} names no model")
    return Canary(workload=workload, artifact=workload.model.files[0].artifact)


def refuse_nothing(made: Plan) -> None:
    """Refuse a plan that does nothing.

    Raises:
        ConfigError: with the reasons for which everything was left out.
    """
    if not made.jobs:
        reasons = dict.fromkeys(f"{skip.what} skipped: {skip.reason}" for skip in made.skips)
        raise ConfigError("nothing is left to do", hint="; ".join(reasons))


def command_line(
    verb: str,
    suite: str,
    where: Where,
    **options: PathLike | Mapping[str, int] | None,
) -> str:
    """The command line that repeats a request; options that were not given stay away."""
    words = ["farm", verb, suite]
    for name, value in options.items():
        if isinstance(value, Mapping):
            words += [w for key, size in value.items() for w in (f"--{name}", f"{key}={size}")]
        elif value is not None:
            words += [f"--{name}", str(value)]
    words += _repeated("--device", where.devices) + _repeated("--tag", where.tags)
    for name, value, default in (
        ("--inventory", where.inventory, DEFAULT_INVENTORY),
        ("--store", where.store, DEFAULT_STORE),
    ):
        words += [name, str(value)] if str(value) != default else []
    return as_utf8(shlex.join(words))


def _repeated(option: str, values: Iterable[str]) -> list[str]:
    return [word for value in values for word in (option, value)]
