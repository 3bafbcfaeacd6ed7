"""The same step over many analyses: which alert it is, and what the measurements say about it.

Change points move as a history grows, so an alert is not a position. An analysis that sees a step
in the same direction within `REACH` points of an alert's interval of revisions sees that alert.

Nothing here reads or writes anything: the same analysis on the same alerts gives the same alerts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from statistics import median

from farm.alerts import (
    FARM,
    JUDGED,
    Alert,
    Analysis,
    Shift,
    State,
    begun,
    by_direction,
    moved,
)

REACH = 5
"""Points by which a step may move between two analyses and be the same."""
CONFIRMING = 5
"""Points after a step that make it more than a first impression."""
ABSENCES = 3
"""Analyses in a row, each of other data, without the step, after which it is withdrawn."""
UNDONE = 0.75
"""The smallest part of a step that the step back must undo."""
UNTRIAGED = (State.NEW, State.CONFIRMED, State.IMPROVEMENT, State.ENVIRONMENT)
"""Nobody has said a word yet."""


def update(known: Iterable[Alert], analysis: Analysis, *, when: str) -> tuple[Alert, ...]:
    """The alerts of one series after an analysis of it.

    Data that were analysed before change nothing, except that a claim made since is judged.

    Args:
        known: its alerts so far.
        analysis: of the same series.
        when: ISO 8601 in UTC, for what moves.

    Returns:
        All of `known` in their order, then the new ones.
    """
    alerts = tuple(known)
    position = {label: index for index, label in enumerate(analysis.labels)}
    seen = _match(alerts, analysis.shifts, position)
    updated = [
        _judged(_observed(alert, seen.get(index), analysis, position), analysis, position, when)
        for index, alert in enumerate(alerts)
    ]
    fresh = [shift for shift in analysis.shifts if shift not in seen.values()]
    born = [begun(shift, analysis, when=when) for shift in fresh]
    return tuple(updated + [_judged(alert, analysis, position, when) for alert in born])


def _match(
    alerts: tuple[Alert, ...], shifts: tuple[Shift, ...], position: dict[str, int]
) -> dict[int, Shift]:
    """Which alert, by its place in `alerts`, is which step: one to one, the nearest first."""
    near = []
    for index, alert in enumerate(alerts):
        interval = _interval(alert, position)
        for order, shift in enumerate(shifts):
            if interval and alert.shift.rises == shift.rises:
                distance = _distance(interval, position[shift.revision])
                near.append((distance, alert.absences, index, order))
    seen: dict[int, Shift] = {}
    taken: set[int] = set()
    for distance, _, index, order in sorted(near):
        if distance <= REACH and index not in seen and order not in taken:
            seen[index] = shifts[order]
            taken.add(order)
    return seen


def _interval(alert: Alert, position: dict[str, int]) -> tuple[int, int] | None:
    """First and last place that an alert's new level may begin at; None when they are gone."""
    last = position.get(alert.shift.revision)
    earlier = position.get(alert.shift.earlier)
    first = last if earlier is None else earlier + 1
    last = first if last is None else last
    if first is None or last is None:
        return None
    return min(first, last), last


def _distance(interval: tuple[int, int], place: int) -> int:
    first, last = interval
    return max(first - place, place - last, 0)


def _observed(
    alert: Alert, shift: Shift | None, analysis: Analysis, position: dict[str, int]
) -> Alert:
    """An alert with what an analysis saw of it; an absence counts once for the same data."""
    silent = alert.digest == analysis.digest or alert.state is State.WITHDRAWN
    if shift is None and (silent or _interval(alert, position) is None):
        return alert
    return replace(
        alert,
        subject=analysis.subject,
        shift=shift or alert.shift,
        absences=0 if shift else alert.absences + 1,
        digest=analysis.digest,
        latest=analysis.labels[-1],
    )


def _judged(alert: Alert, analysis: Analysis, position: dict[str, int], when: str) -> Alert:
    """An alert after what the measurements say about it."""
    for rule in RULES:
        verdict = rule(alert, analysis, position)
        if verdict:
            target, why = verdict
            alert = moved(alert, target, who=FARM, when=when, why=why)
    return alert


Verdict = tuple[State, str] | None


def _seen_again(alert: Alert, analysis: Analysis, position: dict[str, int]) -> Verdict:
    if alert.state is not State.WITHDRAWN or alert.absences:
        return None
    return by_direction(alert.subject.metric, alert.shift), "the step was seen again"


def _explained(alert: Alert, analysis: Analysis, position: dict[str, int]) -> Verdict:
    """What the device's system did is no alert, until somebody has said something about it."""
    told = analysis.boundaries.get(alert.shift.revision)
    if told is None or not told.environment or alert.absences or alert.state not in UNTRIAGED:
        return None
    return None if alert.state is State.ENVIRONMENT else (State.ENVIRONMENT, told.why)


def _unexplained(alert: Alert, analysis: Analysis, position: dict[str, int]) -> Verdict:
    told = analysis.boundaries.get(alert.shift.revision)
    if alert.state is not State.ENVIRONMENT or alert.absences or (told and told.environment):
        return None
    why = told.why if told else "the step is not where the system of the device changed"
    return by_direction(alert.subject.metric, alert.shift), why


def _outlasted(alert: Alert, analysis: Analysis, position: dict[str, int]) -> Verdict:
    if alert.state is not State.NEW or alert.absences or alert.shift.n_after < CONFIRMING:
        return None
    told = analysis.boundaries.get(alert.shift.revision)
    if told and told.environment is None:
        return None
    why = f"{alert.shift.n_after} points have the new level"
    return State.CONFIRMED, f"{why}; {told.why}" if told else why


def _worsened(alert: Alert, analysis: Analysis, position: dict[str, int]) -> Verdict:
    if alert.state is not State.ACKNOWLEDGED:
        return None
    level, bound = alert.shift.after, alert.transitions[-1].bound
    if not (level > bound if alert.shift.rises else level < bound):
        return None
    return State.CONFIRMED, f"worse than what was acknowledged: {level:.6g}, beyond {bound:.6g}"


def _gone(alert: Alert, analysis: Analysis, position: dict[str, int]) -> Verdict:
    if alert.state not in UNTRIAGED or alert.absences < ABSENCES:
        return None
    return State.WITHDRAWN, f"{alert.absences} analyses in a row did not see it"


def _mended(alert: Alert, analysis: Analysis, position: dict[str, int]) -> Verdict:
    if alert.state is not State.CLAIMED or not _is_back(alert, analysis):
        return None
    place = position.get(alert.shift.revision, -1)
    size = abs(alert.shift.after - alert.shift.before)
    for back in analysis.shifts:
        undone = abs(back.after - back.before)
        if (
            back.rises != alert.shift.rises
            and position[back.revision] > place
            and undone >= UNDONE * size
        ):
            return State.RESOLVED, f"a step back at {back.revision} undid {undone / size:.0%} of it"
    return None


def _unmended(alert: Alert, analysis: Analysis, position: dict[str, int]) -> Verdict:
    if alert.state is not State.CLAIMED:
        return None
    last = len(analysis.labels) - 1
    further = last - position.get(alert.transitions[-1].latest, last)
    if further < JUDGED or _is_back(alert, analysis):
        return None
    return State.FIX_FAILED, f"{further} points after the claim the old level is not back"


def _is_back(alert: Alert, analysis: Analysis) -> bool:
    recent = analysis.recent
    return len(recent) >= JUDGED and alert.shift.is_undone_by(median(recent))


RULES = (
    _seen_again, _explained, _unexplained, _outlasted, _worsened, _gone, _mended, _unmended,
)  # fmt: skip
"""What measurements may say, in the order in which it is asked."""
