"""From the results of a gate to cells: one metric on one device type, with its effect.

Pure: the same results give the same cells, today and in a year.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from farm.analysis.budgets import Level, floor, level_bound
from farm.analysis.compare import (
    Effect,
    block_effect,
    exact_effect,
    mcnemar_p,
    paired_effect,
)
from farm.analysis.energy_budget import across_units
from farm.analysis.items import clustered_effect
from farm.cells import Cell, Group, Unit, group_of
from farm.metering import ENERGY_CONDITIONS, METER_CLASSES
from farm.metrics import METRICS, Direction, Method, Metric
from farm.model import Arm, Measure, Workload
from farm.policy import MIN_BLOCKS, Policy
from farm.record import ErrorRecord, JobResult, Repeat, TimeBasis, Verdict
from farm.rules import Rule

SICKENING = frozenset({"throttled", "off_temperature"})
"""Conditions that make a repeat unusable; others, such as `disturbed`, only add noise."""

GUILT_ALPHA = 0.05
"""How unlikely it must be that a condition hit only the candidate's repeats by chance."""


def compare(
    results: Iterable[JobResult], policy: Policy, *, blocks: Container[int] | None = None
) -> tuple[Cell, ...]:
    """One cell per device type, runtime, accelerator and rule, not yet judged.

    Results of one type are pooled as blocks; a device that has no whole block, or whose repeats
    were disturbed, is left out and named. A cell without any evidence stays INVALID.

    Args:
        results: of all looks so far; several of one device are taken together.
        policy: names the metrics and their alpha.
        blocks: indices of the blocks to look at; all of them if left out.
    """
    groups: dict[Group, list[JobResult]] = defaultdict(list)
    for result in _merged(results, blocks):
        groups[group_of(result.job)].append(result)
    return tuple(
        cell
        for group in groups.values()
        for rule in policy.rules
        for question in _questions(group, rule, policy)
        if (cell := _answer(question, group, len(policy.looks))) is not None
    )


def _questions(group: list[JobResult], rule: Rule, policy: Policy) -> Iterable[Cell]:
    """What a rule asks of a group: its margin, the margin of the anchor, its limit."""
    first = group[0].job
    cell = Cell(
        workload=first.workload.name,
        device_type=first.device.type,
        runtime=first.runtime,
        accelerator=first.accelerator,
        load_digest=first.load.digest(),
        scenario=first.load.scenario,
        time_basis=_time_basis(group),
        simulated=any(result.simulated for result in group),
        rule=rule,
        units=(),
        alpha=policy.alpha_per_look if rule.metric.method is Method.BLOCKS else policy.alpha,
    )
    if rule.margin is not None or rule.weighted_margin is not None:
        yield replace(cell, margin=rule.margin)  # without a margin it is only weighed
    if rule.anchor_margin is not None:
        yield replace(cell, margin=rule.anchor_margin, against=Arm.ANCHOR)
    if rule.limit is not None:
        yield replace(cell, limit=rule.limit)


def _merged(results: Iterable[JobResult], blocks: Container[int] | None) -> Iterable[JobResult]:
    """One result per device and group: its repeats of all looks, its items, its last error."""
    found: dict[tuple[str, Group], JobResult] = {}
    for result in results:
        key = result.job.device.name, group_of(result.job)
        wanted = tuple(r for r in result.repeats if blocks is None or r.block in blocks)
        before = found.get(key)
        if before is None:
            found[key] = replace(result, repeats=wanted)
        else:
            found[key] = replace(
                before,
                repeats=before.repeats + wanted,
                arms=before.arms if len(before.summary(Arm.CANDIDATE).correct) else result.arms,
                error=result.error or before.error,
                unfit=before.unfit or result.unfit,
            )
    return found.values()


def block_differences(
    repeats: Iterable[Repeat], metric: str, against: Arm = Arm.BASELINE
) -> list[float]:
    """mean(log candidate) - mean(log other) of every whole block that has the metric.

    A block counts only if both arms stand at the same mean position in it, as in A B B A: in any
    other order, A A B B say, a drift of the device would be taken for the model's.
    """
    blocks: dict[int, dict[Arm, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for repeat in repeats:
        value = repeat.value(metric)
        if value is not None and value > 0:
            blocks[repeat.block][repeat.arm].append((repeat.position, math.log(value)))
    differences = []
    for _, arms in sorted(blocks.items()):
        ours, theirs = np.array(arms[Arm.CANDIDATE]), np.array(arms[against])
        if len(ours) == len(theirs) == 2 and ours[:, 0].sum() == theirs[:, 0].sum():
            differences.append(float(ours[:, 1].mean() - theirs[:, 1].mean()))
    return differences


def _answer(cell: Cell, group: list[JobResult], looks: int) -> Cell | None:
    """The evidence on one question; None if it only informs and there is nothing to say."""
    rule, measures = cell.rule, {str(measure) for measure in group[0].job.measures}
    asked = group[0].job.workload.metric
    if rule.metric.family == Measure.ACCURACY and asked and asked != rule.metric.name:
        return None  # the task has another metric
    if not rule.metric.exists_in(cell.time_basis):
        return None  # it does not exist there, so it is not missing
    if rule.metric.family not in measures | {"size", "drift"}:
        return replace(cell, reasons=(_not_measured(rule),)) if rule.gate else None
    guilt = _candidates_doing(group, rule.metric.method, looks)
    if guilt:
        units = tuple(Unit(device=r.job.device.name, blocks=0, effect=None) for r in group)
        return replace(cell, units=units, verdict=Verdict.FAIL, reasons=guilt)
    if cell.limit is not None:
        return _against_limit(cell, group)
    if not rule.gate and not _told(group, rule.metric.name):
        return None
    match rule.metric.method:
        case Method.BLOCKS:
            return _from_blocks(cell, group)
        case Method.PAIRED_ITEMS:
            return _from_items(cell, group)
        case _:
            return _from_number(cell, group)


def _told(group: list[JobResult], metric: str) -> bool:
    """Whether any unit told a metric, or broke before it could."""
    of_items = METRICS[metric].method is Method.PAIRED_ITEMS
    return any(
        result.error
        or (of_items and len(result.summary(Arm.CANDIDATE).correct))
        or _number(result, Arm.CANDIDATE, metric) is not None
        or any(repeat.value(metric) is not None for repeat in result.repeats)
        for result in group
    )


def _from_blocks(cell: Cell, group: list[JobResult]) -> Cell:
    metric = cell.rule.metric
    sign = 1 if metric.direction is Direction.LOWER else -1
    pooled: list[float] = []
    units, reasons = [], []
    for result in group:
        differences = block_differences(result.repeats, metric.name, cell.against)
        found = [sign * difference for difference in differences]
        sick = _sickness(result, metric)
        if sick:
            reasons.append(sick)
            found = []
        elif result.error:  # what was whole before the lab failed is as good as any
            reasons.append(_reason(result.error, result.job.device.name))
        effect = math.expm1(float(np.mean(found))) if found else None
        units.append(Unit(device=result.job.device.name, blocks=len(found), effect=effect))
        pooled += found
    cell = replace(cell, units=tuple(units), reasons=tuple(reasons))
    if len(pooled) < MIN_BLOCKS:
        return replace(cell, reasons=(*reasons, _too_little(cell, len(pooled))))
    over_blocks = block_effect(np.array(pooled), cell.alpha)
    meters = {result.meter.meter_class for result in group if result.meter}
    if cell.rule.across_units and meters:
        over_blocks = across_units(
            over_blocks, max(meters, key=lambda name: METER_CLASSES[name].gain)
        )
    return replace(cell, effect=over_blocks)


def _from_items(cell: Cell, group: list[JobResult]) -> Cell:
    """Accuracy needs no blocks: the same items are judged once per unit, the worst unit counts."""
    worst: tuple[Effect, str] | None = None
    units, reasons = [], []
    for result in group:
        baseline = result.summary(cell.against).correct
        candidate = result.summary(Arm.CANDIDATE).correct
        name = result.job.device.name
        if len(baseline) == 0 or len(baseline) != len(candidate):
            reasons.append(_reason(result.error, name) or f"not_measured: {name} has no items")
            units.append(Unit(device=name, blocks=0, effect=None))
            continue
        effect = _item_effect(result.job.workload, baseline, candidate, cell.alpha)
        lost, won = int((baseline & ~candidate).sum()), int((~baseline & candidate).sum())
        note = (
            f"items: {name} lost {lost} and won {won} of {effect.n}, "
            f"McNemar p {mcnemar_p(baseline, candidate):.3g}"
        )
        units.append(Unit(device=name, blocks=0, effect=effect.estimate))
        if worst is None or effect.hi > worst[0].hi:
            worst = effect, note
    cell = replace(cell, units=tuple(units), reasons=tuple(reasons))
    if worst is None:
        return cell
    return replace(cell, effect=worst[0], reasons=(*reasons, worst[1]))


def _against_limit(cell: Cell, group: list[JobResult]) -> Cell:
    """The candidate's own level: over repeats of all units, or of the unit with the worst items."""
    metric = cell.rule.metric
    units, reasons, values = [], [], list[float]()
    items: list[Level] = []
    for result in group:
        name, sick = result.job.device.name, _sickness(result, metric)
        found = _block_levels(result.repeats, metric.name)
        correct = result.summary(Arm.CANDIDATE).correct
        if sick:
            reasons.append(sick)
        elif metric.method is Method.PAIRED_ITEMS and len(correct):
            items.append(floor(int(correct.sum()), len(correct), cell.alpha))
            units.append(Unit(device=name, blocks=0, effect=items[-1].estimate))
            continue
        elif metric.method is Method.BLOCKS and found:
            values += found
            units.append(Unit(device=name, blocks=0, effect=float(np.mean(found))))
            continue
        elif (number := _number(result, Arm.CANDIDATE, metric.name)) is not None:
            items.append(Level(estimate=number, lo=number, hi=number, n=1))
            units.append(Unit(device=name, blocks=0, effect=number))
            continue
        units.append(Unit(device=name, blocks=0, effect=None))
    cell = replace(cell, units=tuple(units), reasons=tuple(reasons))
    if len(values) >= MIN_BLOCKS:
        items.append(level_bound(np.array(values), cell.alpha))
    if not items:
        return replace(cell, reasons=(*cell.reasons, _too_little(cell, len(values))))
    sign = 1 if metric.direction is Direction.LOWER else -1
    worst = max(items, key=lambda level: sign * level.estimate)
    effect = Effect(estimate=worst.estimate, lo=worst.lo, hi=worst.hi, n=worst.n, mde=0.0)
    return replace(cell, effect=effect)


def _block_levels(repeats: Iterable[Repeat], metric: str) -> list[float]:
    """The candidate's level per block: its repeats in one block have too much in common for two."""
    blocks: dict[int, list[float]] = defaultdict(list)
    for repeat in repeats:
        value = repeat.value(metric)
        if repeat.arm is Arm.CANDIDATE and value is not None and value > 0:
            blocks[repeat.block].append(math.log(value))
    return [math.exp(float(np.mean(logs))) for logs in blocks.values()]


def _number(result: JobResult, arm: Arm, metric: str) -> float | None:
    """A metric without noise of one model on one unit, None if it has none there."""
    if metric == "size.model_bytes":  # known without running it
        return next((float(a.artifact.size_bytes) for a in result.job.arms if a.arm is arm), None)
    if METRICS[metric].method is not Method.EXACT:
        return None
    return next((m.value for m in result.summary(arm).measurements if m.metric == metric), None)


def _time_basis(group: list[JobResult]) -> TimeBasis:
    """What the devices of a group count; one that measured nothing cannot tell."""
    return next((r.time_basis for r in group if r.repeats), group[0].time_basis)


def _too_little(cell: Cell, have: int) -> str:
    """Why there are not enough values of a metric."""
    metric = cell.rule.metric
    if metric.min_samples > 1 and not have:
        return f"too_few_samples: {metric.name} needs {metric.min_samples} inferences per repeat"
    return f"too_few_blocks: {have} whole blocks, {MIN_BLOCKS} needed"


def _item_effect(
    workload: Workload,
    baseline: npt.NDArray[np.bool_],
    candidate: npt.NDArray[np.bool_],
    alpha: float,
) -> Effect:
    """The loss on the same items; by clusters where the workload says which items hang together."""
    if workload.clusters is None:
        return paired_effect(baseline, candidate, alpha)
    return clustered_effect(baseline, candidate, np.load(workload.clusters.path), alpha)


def _from_number(cell: Cell, group: list[JobResult]) -> Cell:
    for result in group:  # the size of a file that no runtime can load says nothing
        if result.error and result.error.family == "workload":
            return replace(cell, reasons=(_reason(result.error, result.job.device.name),))
    metric = cell.rule.metric
    better = metric.direction is Direction.HIGHER
    units, reasons, effects = [], [], list[Effect]()
    for result in group:
        name = result.job.device.name
        before = _number(result, cell.against, metric.name)
        after = _number(result, Arm.CANDIDATE, metric.name)
        effect = None
        if before is None or after is None:
            reasons.append(_reason(result.error, name) or f"not_measured: {metric.name} on {name}")
        elif before == 0 != after:
            reasons.append(f"no_ratio: {metric.name} went from 0 to {after:g} on {name}")
        else:
            effect = exact_effect(before, after, more_is_better=better)
            effects.append(effect)
        units.append(Unit(device=name, blocks=0, effect=effect.estimate if effect else None))
    cell = replace(cell, units=tuple(units), reasons=tuple(reasons))
    worst = max(effects, key=lambda effect: effect.estimate, default=None)
    return cell if worst is None else replace(cell, effect=worst)


def _candidates_doing(group: list[JobResult], method: Method, looks: int) -> tuple[str, ...]:
    """Reasons to fail the candidate before any number is looked at.

    Its model could not run where the baseline's did, in the same session; or a condition struck its
    repeats, again and again, and never the baseline's.
    """
    reasons = []
    for result in group:
        error, name = result.error, result.job.device.name
        if error and error.arm is Arm.CANDIDATE and error.other_arm_ran:
            reasons.append(f"workload_{error.code}: {error.message}")
        ours, theirs = (_placed_share(result, arm) for arm in (Arm.CANDIDATE, Arm.BASELINE))
        if ours is not None and theirs is not None and ours < theirs:
            reasons.append(
                f"candidate_falls_back: {100 * ours:.0f} % of its nodes run on "
                f"{result.job.accelerator.partition('+')[0]} of {name}, "
                f"{100 * theirs:.0f} % of the baseline's"
            )
        for condition, (mine, others) in _conditions(result).items():
            chance = 0.5**mine * len(group) * looks  # one of them could have had bad luck
            if method is Method.BLOCKS and others == 0 and chance < GUILT_ALPHA:
                reasons.append(
                    f"candidate_{condition}: {mine} repeats on {name}, the baseline none"
                )
    return tuple(reasons)


def _placed_share(result: JobResult, arm: Arm) -> float | None:
    """The share of a model's nodes on the accelerator asked for, None if nobody told."""
    measured = result.summary(arm).measurements
    return next((m.value for m in measured if m.metric == "placement.nodes"), None)


def _conditions(
    result: JobResult, harmful: frozenset[str] = SICKENING
) -> dict[str, tuple[int, int]]:
    """How many repeats of the candidate and of the baseline each harmful condition struck."""
    counts: dict[str, tuple[int, int]] = {}
    for repeat in result.repeats:
        for condition in sorted(harmful & set(repeat.conditions)):
            mine, others = counts.get(condition, (0, 0))
            candidate = repeat.arm is Arm.CANDIDATE
            counts[condition] = (mine + candidate, others + (not candidate))
    return counts


def _sickness(result: JobResult, metric: Metric) -> str:
    """Why a device's values of a metric cannot be used, empty if they can."""
    name = result.job.device.name
    if result.error and result.error.family == "workload":
        return _reason(result.error, name)
    if result.unfit:
        return f"{result.unfit} ({name})"
    harmful = SICKENING | (ENERGY_CONDITIONS if metric.family == Measure.ENERGY else frozenset())
    for condition, (mine, others) in _conditions(result, harmful).items():
        return f"{condition}: {mine + others} of {len(result.repeats)} repeats on {name}"
    return ""


def _reason(error: ErrorRecord | None, device: str) -> str:
    return f"{error.code}: {error.message} ({device})" if error else ""


def _not_measured(rule: Rule) -> str:
    return f"not_measured: the suite or the workload does not measure {rule.metric.name}"
