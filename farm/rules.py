"""What a policy says of one metric: margins, limits, and what a meter can support."""

from __future__ import annotations

import re
from dataclasses import dataclass

from farm.document import Table
from farm.errors import ConfigError, nearest_hint
from farm.metering import METER_CLASSES
from farm.metrics import Direction, Method, Metric, find_metric

_MARGIN = re.compile(r"(\d{1,4}(?:\.\d{1,4})?)\s*(%|points)")
MAX_MARGIN = {Method.BLOCKS: 10.0, Method.EXACT: 10.0, Method.PAIRED_ITEMS: 1.0}
LIMIT_UNITS = {
    "J": {"mJ": 1e-3, "uJ": 1e-6, "J": 1.0},
    "W": {"mW": 1e-3, "uW": 1e-6, "W": 1.0},
    "h": {"h": 1.0, "days": 24.0},
    "1/J": {"1/J": 1.0},
    "ns": {"ms": 1e6, "us": 1e3, "ns": 1.0, "s": 1e9},
    "bytes": {"MiB": 2.0**20, "KiB": 2.0**10, "GiB": 2.0**30, "bytes": 1.0},
    "ratio": {"%": 0.01},
    "instructions": {"M": 1e6, "k": 1e3, "instructions": 1.0},
    "cycles": {"M": 1e6, "k": 1e3, "cycles": 1.0},
}
"""Units in which a limit may be written, by the metric's own unit."""
_LIMIT = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([A-Za-z%]+)")
_UNITS = {Method.BLOCKS: "%", Method.EXACT: "%", Method.PAIRED_ITEMS: "points"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a policy says of one metric.

    Attributes:
        gate: whether it decides; otherwise it informs.
        margin: how much worse than the baseline is still good: a fraction (0.15 is 15 %, or 15
            points); None if only the limit counts.
        weighted_margin: how much worse is still good over all device types, weighted by usage.
        limit: what the candidate must keep whatever the baseline does, in the metric's unit: at
            most, or for a metric of which more is better at least.
        anchor_margin: how much worse than the anchor is still good, over all releases since.
        exact: any change for the worse fails; for numbers without noise only.
        meter: the class of meter that an energy is measured with; empty for any that can support
            the margin, which is known when the devices are.
        across_units: whether the verdict shall hold for other units and meters too: what the
            readings of two of them may differ by then counts.
    """

    metric: Metric
    gate: bool
    margin: float | None = None
    weighted_margin: float | None = None
    limit: float | None = None
    anchor_margin: float | None = None
    exact: bool = False
    meter: str = ""
    across_units: bool = False


def read_rule(metrics: Table, name: str, table: Table) -> Rule:
    """Read the entry of one metric.

    Raises:
        ConfigError: with file and line: unknown metric or key, a margin or limit of the wrong unit,
            or one that the meter cannot support.
    """
    try:
        metric = find_metric(name)
    except ConfigError as error:
        raise metrics.error(error.message, key=name, hint=error.hint) from error
    if metric.method is Method.NONE:
        raise metrics.error(f"'{name}' has no method of comparison yet", key=name)
    exact = _read_exact(table, metric)
    rule = Rule(
        metric=metric,
        gate=table.flag("gate", default=False),
        margin=0.0 if exact else _read_margin(table, metric, "margin"),
        exact=exact,
        anchor_margin=_read_margin(table, metric, "anchor_margin"),
        weighted_margin=_read_margin(table, metric, "weighted_margin"),
        limit=_read_limit(table, metric),
        meter=_read_meter(table, metric),
        across_units=metric.family == "energy" and table.flag("across_units", default=False),
    )
    table.done()
    if rule.meter and (why := undecidable(rule, rule.meter)):
        raise table.error(
            why, key="margin", hint="widen the margin, or measure with a better meter"
        )
    asked = (rule.margin, rule.limit, rule.anchor_margin, rule.weighted_margin)
    if all(question is None for question in asked):
        raise table.error("'margin' is missing", hint="or a limit: at_most, at_least")
    return rule


def _read_exact(table: Table, metric: Metric) -> bool:
    exact = table.flag("exact", default=False)
    if exact and metric.method is not Method.EXACT:
        raise table.error(
            f"{metric.name} has noise: no change of it is exact",
            key="exact",
            hint="give it a margin",
        )
    if exact and table.has("margin"):
        raise table.error("'exact' leaves no margin", key="margin")
    return exact


def _read_meter(table: Table, metric: Metric) -> str:
    if metric.family != "energy":
        return ""
    name = table.text("meter", default="")
    if name and name not in METER_CLASSES:
        raise table.error(
            f"unknown meter '{name}'", key="meter", hint=nearest_hint(name, METER_CLASSES)
        )
    return name


def undecidable(rule: Rule, meter_class: str) -> str:
    """Why no data of such a meter can support a rule, whatever they say; empty if they can.

    Args:
        rule: of a metric of energy.
        meter_class: a name of `METER_CLASSES`.
    """
    kind = METER_CLASSES[meter_class]
    least = kind.across_units if rule.across_units else kind.same_unit
    where = "between units" if rule.across_units else "on one unit"
    if least is None:
        return f"a {meter_class} can support no margin {where}"
    if rule.margin is not None and rule.margin < least:
        return (
            f"a margin of {100 * rule.margin:g} % is below what a {meter_class} can tell {where}, "
            f"{100 * least:g} %"
        )
    return ""


def _read_margin(table: Table, metric: Metric, key: str) -> float | None:
    if not table.has(key):
        return None
    text = table.text(key)
    unit = _UNITS[metric.method]
    match = _MARGIN.fullmatch(text)
    if not match or match[2] != unit:
        raise table.error(
            f"{key} '{text}' does not fit {metric.name}",
            key=key,
            hint=f"write for example '5 {unit}'",
        )
    margin = float(match[1]) / 100
    if not 0 < margin <= MAX_MARGIN[metric.method]:
        most = f"{100 * MAX_MARGIN[metric.method]:.0f} {unit}"
        raise table.error(f"a margin must be above zero and at most {most}", key=key)
    return margin


def _read_limit(table: Table, metric: Metric) -> float | None:
    """`at_most: 50 ms` or `at_least: 90 %`, whichever the metric's direction allows."""
    key = "at_most" if metric.direction is Direction.LOWER else "at_least"
    text = table.text(key, default="")
    if not text:
        return None
    units = LIMIT_UNITS[metric.unit]
    match = _LIMIT.fullmatch(text)
    if not match or match[2] not in units:
        raise table.error(
            f"{key} '{text}' does not fit {metric.name}",
            key=key,
            hint=f"write for example '50 {next(iter(units))}'",
        )
    return float(match[1]) * units[match[2]]
