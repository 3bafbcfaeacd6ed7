"""Reads suites: what to measure, under which load, on which runtimes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from farm.document import Table, read_document
from farm.errors import ConfigError, nearest_hint
from farm.model import Load, Measure, Scenario
from farm.plugins import find_runtime, find_suites

Word = TypeVar("Word", bound=str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A named set of measurements.

    Attributes:
        name: what people call it.
        description: one sentence for people.
        path: the file that it was read from; its policy lies beside it.
        workload: folder of its workload, None where the model brings its own.
        measures: families of metrics.
        runtimes: names of runtimes, each makes jobs of its own; none for each device's own one.
        accelerators: where models shall run, each makes jobs of its own.
        canary: folder of the workload whose own model watches the device during gates, None for
            no watch.
        load: how a model is exercised inside one repeat.
        repeats: fresh processes per job of a run; a gate takes its blocks from the policy.
    """

    name: str
    description: str
    path: Path
    workload: Path | None
    measures: tuple[Measure, ...]
    runtimes: tuple[str, ...]
    accelerators: tuple[str, ...]
    canary: Path | None = None
    load: Load
    repeats: int

    @property
    def policy_path(self) -> Path:
        """The default policy: `<suite>.policy.yaml` beside the suite."""
        return self.path.with_suffix(".policy.yaml")


def read_suite(name: str) -> Suite:
    """Read an installed suite by name, or any suite by the path of its file.

    Raises:
        ConfigError: no such suite, or its file is wrong.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        installed = find_suites()
        if name not in installed:
            raise ConfigError(f"unknown suite '{name}'", hint=nearest_hint(name, installed))
        path = installed[name]
    document = read_document(path, "farm.suite/1")
    workload = document.text("workload", default="")
    canary = document.text("canary", default="")
    suite = Suite(
        name=document.text("name"),
        description=document.text("description"),
        path=path,
        workload=path.parent / workload if workload else None,
        measures=_some(document, "measure", document.choices("measure", Measure)),
        runtimes=_read_runtimes(document),
        accelerators=_some(
            document, "accelerators", document.texts("accelerators", default=("cpu",))
        ),
        canary=path.parent / canary if canary else None,
        load=_read_load(document.table("load")),
        repeats=_positive(document, "repeats", 5),
    )
    document.done()
    return suite


def _read_load(table: Table) -> Load:
    default = Load()
    load = Load(
        scenario=table.choice("scenario", Scenario, default=default.scenario),
        min_duration_s=table.number("min_duration_s", default=default.min_duration_s),
        min_queries=_positive(table, "min_queries", default.min_queries),
        max_duration_s=table.number("max_duration_s", default=default.max_duration_s),
        warmup_s=table.number("warmup_s", default=default.warmup_s),
        threads=_positive(table, "threads", default.threads),
    )
    table.done()
    if not 0 < load.min_duration_s <= load.max_duration_s:
        raise table.error("min_duration_s must be above 0 and at most max_duration_s")
    if load.warmup_s < 0:
        raise table.error("'warmup_s' must not be negative", key="warmup_s")
    return load


def _read_runtimes(document: Table) -> tuple[str, ...]:
    if not document.has("runtimes"):
        return ()
    names = _some(document, "runtimes", document.texts("runtimes"))
    for name in names:
        try:
            find_runtime(name)
        except ConfigError as error:
            raise document.error(error.message, key="runtimes", hint=error.hint) from error
    return names


def _some(document: Table, key: str, values: tuple[Word, ...]) -> tuple[Word, ...]:
    if not values:
        raise document.error(f"'{key}' must not be empty", key=key)
    return values


def _positive(table: Table, key: str, default: int) -> int:
    value = table.integer(key, default=default)
    if value < 1:
        raise table.error(f"'{key}' must be at least 1", key=key)
    return value
