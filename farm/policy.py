"""Reads policies: which metrics decide a release, and by how much they may get worse."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from farm.document import Table, read_document
from farm.errors import ConfigError
from farm.metrics import Method, Metric, find_metric
from farm.model import Artifact

MIN_BLOCKS = 5
"""With fewer blocks no interval deserves trust; a policy that asks for fewer is refused."""

_MARGIN = re.compile(r"(\d+(?:\.\d+)?)\s*(%|points)")
MAX_MARGIN = {Method.BLOCKS: 10.0, Method.EXACT: 10.0, Method.PAIRED_ITEMS: 1.0}
_UNITS = {Method.BLOCKS: "%", Method.EXACT: "%", Method.PAIRED_ITEMS: "points"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a policy says of one metric.

    Attributes:
        gate: whether it decides; otherwise it informs.
        margin: how much worse is still good: a fraction (0.15 is 15 %, or 15 points).
    """

    metric: Metric
    gate: bool
    margin: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a release is judged by.

    Attributes:
        sha256: digest of the file, kept with every verdict.
        alpha: one-sided chance, per cell, of passing a model that is worse by the whole margin.
        blocks: ABBA blocks per device.
        rules: one per metric, in the order written.
    """

    path: Path
    sha256: str
    alpha: float
    blocks: int
    rules: tuple[Rule, ...]


def read_policy(path: Path) -> Policy:
    """Read a policy file.

    Raises:
        ConfigError: with file and line: unknown key or metric, a margin of the wrong unit, too few
            blocks, a metric that cannot be gated, or none that is.
    """
    document = read_document(path, "farm.policy/1")
    alpha = document.number("alpha", default=0.05)
    if not 0 < alpha < 0.5:
        raise document.error("alpha must lie between 0 and 0.5", key="alpha")
    blocks = document.integer("blocks", default=10)
    if blocks < MIN_BLOCKS:
        raise document.error(f"'blocks' must be at least {MIN_BLOCKS}", key="blocks")
    metrics = document.table("metrics")
    rules = tuple(_read_rule(metrics, name, table) for name, table in metrics.tables())
    document.done()
    if not any(rule.gate for rule in rules):
        raise document.error(
            "no metric decides", key="metrics", hint="mark at least one with 'gate: true'"
        )
    return Policy(
        path=path, sha256=Artifact.of(path).sha256, alpha=alpha, blocks=blocks, rules=rules
    )


def _read_rule(metrics: Table, name: str, table: Table) -> Rule:
    try:
        metric = find_metric(name)
    except ConfigError as error:
        raise metrics.error(error.message, key=name, hint=error.hint) from error
    if metric.method is Method.NONE:
        raise metrics.error(f"'{name}' has no method of comparison yet", key=name)
    unit = _UNITS[metric.method]
    text = table.text("margin")
    match = _MARGIN.fullmatch(text)
    if not match or match[2] != unit:
        raise table.error(
            f"margin '{text}' does not fit {name}",
            key="margin",
            hint=f"write for example '5 {unit}'",
        )
    rule = Rule(metric=metric, gate=table.flag("gate", default=False), margin=float(match[1]) / 100)
    table.done()
    if not 0 < rule.margin <= MAX_MARGIN[metric.method]:
        most = f"{100 * MAX_MARGIN[metric.method]:.0f} {unit}"
        raise table.error(f"a margin must be above zero and at most {most}", key="margin")
    return rule
