"""From cells to a verdict one can defend.

Pure: the same cells and the same policy give the same verdict, today and in a year.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from farm.analysis.compare import items_needed
from farm.cells import Cell
from farm.metrics import Direction, Method
from farm.model import Arm
from farm.policy import FailRule, OnInconclusive, Policy
from farm.record import Skip, Verdict
from farm.weighting import weighted_cells

EXIT_CODES = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 3, Verdict.INVALID: 4}
"""Exit code of a gate by its verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateVerdict:
    """The answer of a gate.

    Attributes:
        verdict: one for all cells that decide.
        policy: what they were held against.
        cells: each with its own.
        notes: what bears on the whole answer, for people; each begins with a code.
        skips: what was left out of the plan, and why.
        run_id: the run that measured, empty outside of one.
        candidate, baseline: names of the models.
    """

    verdict: Verdict
    policy: Policy
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()
    skips: tuple[Skip, ...] = ()
    run_id: str = ""
    candidate: str = ""
    baseline: str = ""

    @property
    def exit_code(self) -> int:
        """What the command line exits with."""
        return EXIT_CODES[self.verdict]


def judge(policy: Policy, cells: Iterable[Cell], *, look: int | None = None) -> GateVerdict:
    """Hold every cell against its margin, and all of them against the release.

    Args:
        policy: the margins and demands.
        cells: from `compare`.
        look: which look this is, from 1; the last one if left out.
    """
    number = look or len(policy.looks)
    cells = tuple(cells)
    asked = (*(c for c in cells if c.margin is not None or c.limit is not None),
             *weighted_cells(cells, policy))  # fmt: skip
    judged = tuple(_settled(cell, policy, number) for cell in asked)
    return conclude(policy, judged, last=number >= len(policy.looks))


def conclude(policy: Policy, cells: tuple[Cell, ...], *, last: bool) -> GateVerdict:
    """One answer for cells that have theirs.

    The gate passes if every deciding cell does: an intersection, which needs no correction for
    many cells.

    Args:
        policy: the demands.
        cells: judged.
        last: whether the looks are spent, so that the policy speaks on what is undecided.
    """
    deciding = {cell.verdict for cell in cells if _decides(cell, policy)}
    notes = [
        f"waived: {cell.rule.metric.name} on {cell.device_type} until {cell.waiver.expires} by "
        f"{cell.waiver.owner}: {cell.waiver.reason}"
        for cell in cells
        if cell.waiver
    ]
    present = {group[0] for cell in cells for group in cell.groups}
    for demand in policy.coverage:
        if not demand.optional and demand.device_type not in present:
            notes.append(f"not_covered: no device of the type {demand.device_type} was measured")
            deciding.add(Verdict.INVALID)
    order = (Verdict.FAIL, Verdict.INVALID, Verdict.INCONCLUSIVE, Verdict.PASS)
    verdict = next((v for v in order if v in deciding), Verdict.INVALID)
    if verdict is Verdict.INCONCLUSIVE and last:
        notes.append(f"looks_spent: undecided to the end; the policy says {policy.on_inconclusive}")
        if policy.on_inconclusive is OnInconclusive.FAIL:
            verdict = Verdict.FAIL
    return GateVerdict(verdict=verdict, policy=policy, cells=cells, notes=tuple(notes))


def _decides(cell: Cell, policy: Policy) -> bool:
    """Whether a cell has a say: a waived one has not, nor an optional type that is not there."""
    if not cell.rule.gate or cell.waiver:
        return False
    return cell.verdict is not Verdict.INVALID or not policy.demand(cell.device_type).optional


def _settled(cell: Cell, policy: Policy, look: int) -> Cell:
    """A cell with its verdict, its quorum checked and its waiver attached."""
    judged = _judged(replace(cell, looks=look), policy)
    healthy = sum(unit.effect is not None for unit in judged.units)
    demand = policy.demand(cell.device_type)
    if judged.effect is not None and healthy < demand.units:
        short = f"under_quorum: {healthy} healthy units, {demand.units} demanded"
        judged = replace(judged, verdict=Verdict.INVALID, reasons=(*judged.reasons, short))
    if judged.verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE):
        name = cell.rule.metric.name
        waiver = next((w for w in policy.waivers if w.covers(name, cell.device_type)), None)
        judged = replace(judged, waiver=waiver)
    return judged


def _within_limit(cell: Cell, limit: float) -> Cell:
    """A cell held against a limit that counts whatever the baseline does."""
    assert cell.effect is not None
    lo, hi = cell.effect.lo, cell.effect.hi
    if cell.rule.metric.direction is Direction.HIGHER:
        lo, hi, limit = -hi, -lo, -limit
    if hi <= limit:
        return replace(cell, verdict=Verdict.PASS)
    if lo > limit:
        return replace(cell, verdict=Verdict.FAIL)
    reason = "undecided: the limit lies inside the interval"
    return replace(cell, verdict=Verdict.INCONCLUSIVE, reasons=(*cell.reasons, reason))


def _judged(cell: Cell, policy: Policy) -> Cell:
    effect, margin = cell.effect, cell.margin
    if effect is None:
        return cell  # compare has said FAIL or INVALID, and why
    if cell.limit is not None:
        return _within_limit(cell, cell.limit)
    assert margin is not None
    if cell.rule.exact and cell.against is Arm.BASELINE:
        return replace(cell, verdict=Verdict.FAIL if effect.estimate > 0 else Verdict.PASS)
    if effect.hi < margin:
        return replace(cell, verdict=Verdict.PASS)
    bound = margin if policy.fail_rule is FailRule.STRICT else 0.0
    if effect.lo > bound and effect.estimate >= margin:
        return replace(cell, verdict=Verdict.FAIL)
    if cell.rule.metric.method is Method.PAIRED_ITEMS:
        need = f"{items_needed(effect, margin)} items"
    else:
        need = f"about {math.ceil(effect.n * (effect.mde / margin) ** 2)} blocks"
    reason = f"undecided: {need} would decide about an unchanged model"
    return replace(cell, verdict=Verdict.INCONCLUSIVE, reasons=(*cell.reasons, reason))
