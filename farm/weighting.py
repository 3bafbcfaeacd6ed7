"""One effect over all device types, weighted by how much each is used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from farm.analysis.compare import weighted_effect
from farm.cells import Cell
from farm.metrics import Method
from farm.model import Arm
from farm.policy import Policy
from farm.record import Verdict
from farm.rules import Rule

ALL_TYPES = "all types by usage"


def weighted_cells(cells: Iterable[Cell], policy: Policy) -> tuple[Cell, ...]:
    """A cell for every rule with a `weighted_margin`, made of the cells of its types."""
    cells = tuple(cells)
    return tuple(
        _weighted(rule, cells, policy)
        for rule in policy.rules
        if rule.weighted_margin is not None and cells
    )


def _weighted(rule: Rule, cells: tuple[Cell, ...], policy: Policy) -> Cell:
    shares = {c.device_type: c.share for c in policy.coverage if c.share > 0}
    mine = {
        cell.device_type: cell
        for cell in cells
        if cell.rule.metric is rule.metric and cell.limit is None and cell.against is Arm.BASELINE
    }
    parts = [mine[name] for name in shares if name in mine]
    whole = replace(
        (parts or cells)[0],
        device_type=ALL_TYPES,
        rule=rule,
        margin=rule.weighted_margin,
        effect=None,
        verdict=Verdict.INVALID,
        units=tuple(unit for part in parts for unit in part.units),
        parts=tuple(part.group for part in parts),
        simulated=any(part.simulated for part in parts),
        reasons=(),
        limit=None,
        against=Arm.BASELINE,
    )
    missing = [name for name in shares if name not in mine or mine[name].effect is None]
    if missing:
        return replace(whole, reasons=(f"not_measured: {', '.join(missing)}",))
    effects = [(part.effect, shares[part.device_type]) for part in parts if part.effect]
    ratio = rule.metric.method is not Method.PAIRED_ITEMS
    return replace(whole, effect=weighted_effect(effects, whole.alpha, ratio=ratio))
