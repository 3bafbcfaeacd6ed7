"""Reads policies: which metrics decide a release, by how much they may get worse, and who says so.

A policy is data beside its suite; its digest is kept with every verdict.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from itertools import pairwise
from pathlib import Path

from farm.document import Table, read_document
from farm.errors import ConfigError
from farm.metrics import find_metric
from farm.model import Artifact
from farm.rules import Rule, read_rule

MIN_BLOCKS = 5
"""With fewer blocks no interval deserves trust; a policy that asks for fewer is refused."""

MAX_BLOCKS = 1000
SHARE_TOLERANCE = 1e-6
MAX_LOOKS = 10
DEFAULT_LOOKS = (5, 9, 13)


class FailRule(StrEnum):
    """When a metric fails."""

    MARGIN = "margin"
    """Certainly worse than before, and by the estimate worse than the margin."""
    STRICT = "strict"
    """Certainly worse than the margin."""


class OnInconclusive(StrEnum):
    """What becomes of a gate whose looks are spent and that still is undecided."""

    FAIL = "fail"
    HOLD = "hold"
    WARN = "warn"


class OnUndecidable(StrEnum):
    """What becomes of a gate whose margin is below what its devices can detect."""

    REFUSE = "refuse"
    INFORM = "inform"


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """A pinned release that every candidate is held against as well; moving it takes a decision.

    Attributes:
        model: its file.
        sha256: what that file must be; the policy's reviewer approves this.
        owner: who decided.
        reason: why this release.
        decided: when.
    """

    model: Path
    sha256: str
    owner: str
    reason: str
    decided: date


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What a policy demands of one device type.

    Attributes:
        units: how many healthy units its verdict must rest on.
        optional: whether the release can do without it; its FAIL still is one.
        share: how much of the usage is on this type, 0 to 1; weighs a `weighted_margin`.
    """

    device_type: str
    units: int = 1
    optional: bool = False
    share: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """A known failure that somebody answers for until a date.

    Attributes:
        metric: the metric's name.
        device_type: where; empty for every type.
        owner: who answers for it.
        reason: why it is acceptable.
        expires: the last day on which it holds.
    """

    metric: str
    device_type: str
    owner: str
    reason: str
    expires: date

    def covers(self, metric: str, device_type: str) -> bool:
        """Whether it speaks of this metric on this type."""
        return self.metric == metric and self.device_type in ("", device_type)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a release is judged by.

    Attributes:
        sha256: digest of the file, kept with every verdict.
        alpha: one-sided chance, per cell and over all looks, of passing a model that is worse by
            the whole margin.
        looks: ABBA blocks per device at which the gate may decide, rising.
        fail_rule: when a metric fails.
        on_inconclusive: what an undecided gate comes to when the looks are spent.
        on_undecidable: whether a gate may start that its devices are known to be too noisy for.
        rules: one per metric, in the order written.
        coverage: demands on device types; a type that is not named needs one healthy unit.
        waivers: live ones; an expired waiver is an error.
        anchor: the pinned release, if there is one.
    """

    path: Path
    sha256: str
    alpha: float
    looks: tuple[int, ...]
    rules: tuple[Rule, ...]
    fail_rule: FailRule = FailRule.MARGIN
    on_inconclusive: OnInconclusive = OnInconclusive.HOLD
    on_undecidable: OnUndecidable = OnUndecidable.REFUSE
    coverage: tuple[Coverage, ...] = ()
    waivers: tuple[Waiver, ...] = ()
    anchor: Anchor | None = None

    @property
    def alpha_per_look(self) -> float:
        """The chance of error that one look may spend on metrics over blocks.

        The split is even (Bonferroni): it needs no assumption about how the looks hang together.
        """
        return self.alpha / len(self.looks)

    def demand(self, device_type: str) -> Coverage:
        """What is demanded of a type."""
        return next(
            (c for c in self.coverage if c.device_type == device_type),
            Coverage(device_type=device_type),
        )


def read_policy(path: Path, *, today: date | None = None) -> Policy:
    """Read a policy file.

    Args:
        path: the file.
        today: the day on which waivers must hold; today in UTC if left out.

    Raises:
        ConfigError: with file and line: unknown key or metric, a margin of the wrong unit, too few
            blocks, looks that do not rise, a metric that cannot be gated, none that is, or a
            waiver that has expired.
    """
    document = read_document(path, "farm.policy/1")
    alpha = document.number("alpha", default=0.05)
    if not 0 < alpha < 0.5:
        raise document.error("alpha must lie between 0 and 0.5", key="alpha")
    looks = _read_looks(document)
    fail_rule = document.choice("fail_rule", FailRule, default=FailRule.MARGIN)
    on_inconclusive = document.choice(
        "on_inconclusive", OnInconclusive, default=OnInconclusive.HOLD
    )
    on_undecidable = document.choice("on_undecidable", OnUndecidable, default=OnUndecidable.REFUSE)
    metrics = document.table("metrics")
    rules = tuple(read_rule(metrics, name, table) for name, table in metrics.tables())
    coverage = tuple(_read_coverage(document.table("coverage")))
    waivers = tuple(_read_waivers(document, today or datetime.now(UTC).date()))
    anchor = _read_anchor(document) if document.has("anchor") else None
    document.done()
    _check_rules(document, rules, anchor, coverage)
    return Policy(
        path=path,
        sha256=Artifact.of(path).sha256,
        alpha=alpha,
        looks=looks,
        fail_rule=fail_rule,
        on_inconclusive=on_inconclusive,
        on_undecidable=on_undecidable,
        rules=rules,
        coverage=coverage,
        waivers=waivers,
        anchor=anchor,
    )


def _check_rules(
    document: Table,
    rules: tuple[Rule, ...],
    anchor: Anchor | None,
    coverage: tuple[Coverage, ...],
) -> None:
    """Refuse rules that lack what they refer to."""
    for rule in rules:
        if rule.anchor_margin is not None and anchor is None:
            raise document.error(
                f"{rule.metric.name} has an anchor_margin, but there is no anchor",
                key="metrics",
                hint="pin a release: anchor: {model, sha256, owner, reason, decided}",
            )
    weighs = any(rule.weighted_margin is not None for rule in rules)
    if weighs and abs(sum(c.share for c in coverage) - 1) > SHARE_TOLERANCE:
        raise document.error(
            "a weighted_margin needs usage shares that add up to 1",
            key="coverage",
            hint="coverage: {pixel: {share: 0.7}, tablet: {share: 0.3}}",
        )
    if not any(rule.gate for rule in rules):
        raise document.error(
            "no metric decides", key="metrics", hint="mark at least one with 'gate: true'"
        )


def _read_looks(document: Table) -> tuple[int, ...]:
    """`looks: [5, 9, 13]`, or `blocks: 10` for a single look."""
    if document.has("blocks"):
        if document.has("looks"):
            raise document.error("give either 'blocks' or 'looks'", key="blocks")
        looks: tuple[int, ...] = (document.integer("blocks"),)
        key = "blocks"
    else:
        looks = document.integers("looks", default=DEFAULT_LOOKS)
        key = "looks"
    if not looks or looks[0] < MIN_BLOCKS:
        raise document.error(f"'{key}' must be at least {MIN_BLOCKS}", key=key)
    if looks[-1] > MAX_BLOCKS or len(looks) > MAX_LOOKS:
        raise document.error(f"at most {MAX_BLOCKS} blocks and {MAX_LOOKS} looks", key=key)
    if any(later <= earlier for earlier, later in pairwise(looks)):
        raise document.error("looks must rise", key=key, hint="write for example [5, 9, 13]")
    return looks


def _read_anchor(document: Table) -> Anchor:
    table = document.table("anchor")
    anchor = Anchor(
        model=document.path.parent / table.text("model"),
        sha256=table.text("sha256"),
        owner=table.text("owner"),
        reason=table.text("reason"),
        decided=table.day("decided"),
    )
    table.done()
    found = Artifact.of(anchor.model).sha256
    if found != anchor.sha256:
        raise table.error(
            f"the anchor {anchor.model.name!r} is {found[:12]}, not {anchor.sha256[:12]}",
            key="sha256",
            hint="an anchor is moved by a decision: change sha256, reason and date together",
        )
    return anchor


def _read_coverage(table: Table) -> Iterator[Coverage]:
    for device_type, entry in table.tables():
        coverage = Coverage(
            device_type=device_type,
            units=entry.integer("units", default=1),
            optional=entry.flag("optional", default=False),
            share=entry.number("share", default=0.0),
        )
        entry.done()
        if not 0 <= coverage.share <= 1:
            raise entry.error("'share' must lie between 0 and 1", key="share")
        if coverage.units < 1:
            raise entry.error("'units' must be at least 1", key="units")
        yield coverage


def _read_waivers(document: Table, today: date) -> Iterator[Waiver]:
    for entry in document.list_of_tables("waivers"):
        metric = entry.text("metric")
        try:
            find_metric(metric)
        except ConfigError as error:
            raise entry.error(error.message, key="metric", hint=error.hint) from error
        waiver = Waiver(
            metric=metric,
            device_type=entry.text("device_type", default=""),
            owner=entry.text("owner"),
            reason=entry.text("reason"),
            expires=entry.day("expires"),
        )
        entry.done()
        if waiver.expires < today:
            raise entry.error(
                f"the waiver of {waiver.owner} for {metric} expired on {waiver.expires}",
                key="expires",
                hint="remove it, or have it renewed by its owner",
            )
        yield waiver
