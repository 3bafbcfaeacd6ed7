"""What a policy says of one metric: margins, limits, and what a meter can support."""

from __future__ import annotations

import re
from dataclasses import dataclass

from farm.document import Table
from farm.errors import ConfigError, nearest_hint
from farm.metrics import Direction, Method, Metric, find_metric

_MARGIN = re.compile(r"(\d{1,4}(?:\.\d{1,4})?)\s*(%|points)")
MAX_MARGIN = {Method.BLOCKS: 10.0, Method.EXACT: 10.0, Method.PAIRED_ITEMS: 1.0}
METER_FLOORS = {
    "js220": 0.005,
    "lpm01a": 0.01,
    "km003c": 0.01,
    "c3": 0.01,
    "fnb58": 0.02,
    "tc66c": 0.02,
    "ina": 0.02,
    "ppk2": 0.02,
    "odpm": 0.03,
    "gauge": 0.05,
}
"""The smallest margin that a class of meter can support on one unit in one range.

From data sheets and published comparisons, before any data of one's own: a PPK2 drifts by 2 %, a
battery gauge by 5 %. No number of blocks averages a calibration away.
"""

LIMIT_UNITS = {
    "J": {"mJ": 1e-3, "uJ": 1e-6, "J": 1.0},
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
    """

    metric: Metric
    gate: bool
    margin: float | None = None
    weighted_margin: float | None = None
    limit: float | None = None
    anchor_margin: float | None = None
    exact: bool = False


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
    )
    _check_meter(table, rule)
    table.done()
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


def _check_meter(table: Table, rule: Rule) -> None:
    """Refuse a margin on energy that the meter cannot support, whatever the data say."""
    if rule.metric.family != "energy":
        return
    meter = table.text("meter")
    if meter not in METER_FLOORS:
        raise table.error(
            f"unknown meter '{meter}'", key="meter", hint=nearest_hint(meter, METER_FLOORS)
        )
    margin, least = rule.margin, METER_FLOORS[meter]
    if margin is not None and margin < least:
        raise table.error(
            f"a margin of {100 * margin:g} % is below what a {meter} can tell, {100 * least:g} %",
            key="margin",
            hint="widen the margin, or measure with a better meter",
        )


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
