"""The loop of a gate: look, and if nothing is decided measure more blocks and look again.

The first look, its alpha and the number of looks are fixed by the policy before anything is
measured; that is what keeps the promised error rates. A failure over blocks is confirmed on fresh
blocks, which no look has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from farm.cells import Cell, group_of
from farm.comparing import compare
from farm.judging import GateVerdict, conclude, judge
from farm.metrics import Method
from farm.model import REPEATED, Arm, Job, Measure
from farm.policy import Policy
from farm.record import JobResult, Verdict
from farm.systems import system_changes

FRESH = 1_000_000
"""Indices of fresh blocks begin here, apart by look, so that no look takes them for its own."""

MeasureJobs = Callable[[tuple[Job, ...]], tuple[JobResult, ...]]


class SystemMoved(Exception):
    """A device has another system than when the earlier blocks of the question were measured.

    Each block compares within one session, but no gate compares across an update: which of two
    models is faster may depend on it. Says which device and what changed.
    """


def decide(
    policy: Policy,
    jobs: tuple[Job, ...],
    measure: MeasureJobs,
    *,
    recalled: tuple[JobResult, ...] = (),
    look_done: Callable[[int], None] = lambda number: None,
) -> GateVerdict:
    """Measure and look until the gate is decided or the looks are spent.

    Args:
        policy: margins and looks.
        jobs: every device of the plan, of which the blocks are still to be fixed.
        measure: does jobs and keeps their results before it returns.
        recalled: results of an earlier, interrupted asking of the same question.
        look_done: called with the number of each look.

    Raises:
        SystemMoved: results are of two systems of one device.
    """
    results = _added([], recalled)
    verdict = None
    for number, blocks in enumerate(policy.looks, 1):
        undecided = _undecided(verdict)
        if verdict and not undecided:  # no block can change what is open: items, or waived cells
            return conclude(policy, verdict.cells, last=True)
        wanted = [job for job in jobs if undecided is None or group_of(job) in undecided]
        results = _added(results, measure(tuple(_missing(wanted, results, range(blocks)))))
        verdict = judge(policy, compare(results, policy, blocks=range(blocks)), look=number)
        look_done(number)
        if verdict.verdict is Verdict.FAIL:
            verdict = _confirmed(verdict, jobs, results, measure, number)
        if verdict.verdict is not Verdict.INCONCLUSIVE:
            break
    assert verdict is not None
    return verdict


def _added(known: Iterable[JobResult], more: Iterable[JobResult]) -> list[JobResult]:
    """Results with more of them, all of each device of one system."""
    results = list(known)
    for result in more:
        for earlier in results:
            changes = system_changes(earlier.environment, result.environment)
            if changes and _same_place(earlier.job, result.job):
                raise SystemMoved(f"{result.job.device.name}: {', '.join(changes)}")
        results.append(result)
    return results


def _undecided(verdict: GateVerdict | None) -> set[tuple[str, ...]] | None:
    """The groups that more blocks could decide; None before the first look, when all need some."""
    if verdict is None:
        return None
    return {
        group
        for cell in verdict.cells
        if cell.rule.gate
        and not cell.waiver
        and cell.verdict is Verdict.INCONCLUSIVE
        and cell.rule.metric.method is Method.BLOCKS
        for group in cell.groups
    }


def _missing(jobs: Iterable[Job], results: list[JobResult], blocks: range) -> Iterable[Job]:
    """What is still to be measured to have these blocks; items are measured once."""
    for job in jobs:
        mine = [result for result in results if _same_place(result.job, job)]
        repeats = sum(repeat.block in blocks for result in mine for repeat in result.repeats)
        have = repeats // job.block_size
        scored = any(len(result.summary(Arm.CANDIDATE).correct) for result in mine)
        measures = tuple(m for m in job.measures if not (scored and m is Measure.ACCURACY))
        timed = bool(REPEATED & set(measures))
        if (timed and have < len(blocks)) or (measures and not timed):
            yield replace(
                job,
                measures=measures,
                first_block=blocks.start + have,
                rounds=len(blocks) - have,
            )


def _same_place(one: Job, other: Job) -> bool:
    return one.device.name == other.device.name and group_of(one) == group_of(other)


def _confirmed(
    verdict: GateVerdict,
    jobs: tuple[Job, ...],
    results: list[JobResult],
    measure: MeasureJobs,
    number: int,
) -> GateVerdict:
    """A verdict whose failures over blocks stand on fresh blocks too, or are undecided again.

    With one deciding cell the alpha of the look already bounds the error; with many, one of them
    would fail by chance more often than that, and a second, independent failure is asked for. A
    failure that no further block can change needs no confirmation, and makes any other moot.
    """
    deciding = [cell for cell in verdict.cells if cell.rule.gate and not cell.waiver]
    failed = [cell for cell in deciding if cell.verdict is Verdict.FAIL]
    suspects = [c for c in failed if c.rule.metric.method is Method.BLOCKS and c.effect]
    if len(deciding) < 2 or len(suspects) < len(failed):
        return verdict
    policy = verdict.policy
    first, count = FRESH * number, policy.looks[0]
    groups = {group for cell in suspects for group in cell.groups}
    suspected = tuple(job for job in jobs if group_of(job) in groups)
    missing = tuple(_missing(suspected, results, range(first, first + count)))
    results = _added(results, measure(missing))
    seen = judge(policy, compare(results, policy, blocks=range(first, first + count)), look=number)
    cells = tuple(
        _second_opinion(cell, seen.cells) if cell in suspects else cell for cell in verdict.cells
    )
    return conclude(policy, cells, last=number >= len(policy.looks))


def _second_opinion(cell: Cell, fresh: Iterable[Cell]) -> Cell:
    """A suspect cell after fresh blocks: FAIL, INCONCLUSIVE, or INVALID if they went wrong."""
    other = next((c for c in fresh if c.question == cell.question), None)
    if other is None or (other.effect is None and other.verdict is not Verdict.FAIL):
        reasons = other.reasons if other else ("not_measured: no fresh blocks",)
        return replace(cell, verdict=Verdict.INVALID, reasons=(*cell.reasons, *reasons))
    if other.effect is None:
        return replace(cell, reasons=(*cell.reasons, *other.reasons))
    effect = f"{100 * other.effect.estimate:+.2f} % on {other.effect.n} fresh blocks"
    if other.verdict is Verdict.FAIL:
        return replace(cell, reasons=(*cell.reasons, f"confirmed: {effect}"))
    reason = f"not_confirmed: {effect}"
    return replace(cell, verdict=Verdict.INCONCLUSIVE, reasons=(*cell.reasons, reason))
