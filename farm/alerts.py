"""The words of alerts, and the states that they go through.

An alert is a step to the worse in one series, between the last revision with the old level and the
first with the new one. Its state goes from one to the next along `NEXT`, by what people say or by
what the measurements show, and every move is kept with who, when and why. Which step is which alert
when it is seen again is for `tracking` to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from farm.errors import ConfigError
from farm.metrics import METRICS, Direction

JUDGED = 5
"""Points at the end of a series by which a claim that it is resolved is judged."""
FARM = "farm"
"""Who moved an alert when no person did."""


class State(StrEnum):
    """Where an alert stands."""

    NEW = "new"
    CONFIRMED = "confirmed"
    ACKNOWLEDGED = "acknowledged"
    INVALID = "invalid"
    """No regression: noise, or the lab's doing."""
    WONTFIX = "wontfix"
    """The new level is the baseline from now on."""
    FIXING = "fixing"
    CLAIMED = "resolved-claimed"
    """Somebody says that it is fixed; the measurements decide."""
    RESOLVED = "resolved"
    FIX_FAILED = "fix-failed"
    WITHDRAWN = "withdrawn"
    """With more points there was no step, before anybody said a word about it."""
    IMPROVEMENT = "improvement"
    """A step to the better: kept, but no alert."""
    ENVIRONMENT = "environment"
    """The system of the device changed and moved it, to the worse or the better: no alert."""


OPEN = (State.NEW, State.CONFIRMED, State.FIX_FAILED)
"""Somebody has to act."""
NO_ALERT = (State.WITHDRAWN, State.IMPROVEMENT, State.ENVIRONMENT)
"""Nobody has to do anything, and nobody ever said a word."""
LIVE = (*OPEN, State.ACKNOWLEDGED, State.FIXING, State.CLAIMED)
"""Open, or somebody is at it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """Where a state may go: by the word of a person, and by what is measured."""

    person: tuple[State, ...] = ()
    evidence: tuple[State, ...] = ()


NEXT: dict[State, Next] = {
    State.NEW: Next(
        person=(State.ACKNOWLEDGED, State.INVALID, State.WONTFIX),
        evidence=(State.CONFIRMED, State.WITHDRAWN, State.ENVIRONMENT),
    ),
    State.CONFIRMED: Next(
        person=(State.ACKNOWLEDGED, State.INVALID, State.WONTFIX),
        evidence=(State.WITHDRAWN, State.ENVIRONMENT),
    ),
    State.ACKNOWLEDGED: Next(
        person=(State.INVALID, State.WONTFIX, State.FIXING, State.CLAIMED),
        evidence=(State.CONFIRMED,),
    ),
    State.INVALID: Next(person=(State.ACKNOWLEDGED, State.WONTFIX)),
    State.WONTFIX: Next(person=(State.ACKNOWLEDGED, State.INVALID, State.FIXING)),
    State.FIXING: Next(person=(State.ACKNOWLEDGED, State.INVALID, State.WONTFIX, State.CLAIMED)),
    State.CLAIMED: Next(
        person=(State.INVALID, State.WONTFIX, State.FIXING),
        evidence=(State.RESOLVED, State.FIX_FAILED),
    ),
    State.FIX_FAILED: Next(
        person=(State.ACKNOWLEDGED, State.INVALID, State.WONTFIX, State.FIXING, State.CLAIMED)
    ),
    State.RESOLVED: Next(),
    State.WITHDRAWN: Next(evidence=(State.NEW, State.IMPROVEMENT)),
    State.IMPROVEMENT: Next(evidence=(State.WITHDRAWN, State.ENVIRONMENT)),
    State.ENVIRONMENT: Next(evidence=(State.NEW, State.IMPROVEMENT, State.WITHDRAWN)),
}
"""Every legal transition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The series that an alert is about.

    Attributes:
        series: its name, which identifies it.
        metric: a declared metric.
        device: the unit it is measured on.
        device_type: the pool that the unit belongs to.
        simulated: whether device or time are not real.
    """

    series: str
    metric: str
    device: str
    device_type: str
    simulated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """A step as one analysis saw it; levels in the metric's unit, effects as fractions.

    Attributes:
        earlier: the last revision with the old level.
        revision: the first revision with the new level.
        before: the old level.
        after: the new level.
        effect: after / before - 1, positive when the values rise; infinite from a level of 0.
        lo: lower bound of its 95 % interval.
        hi: upper bound.
        n_before: points that `before` stands on.
        n_after: points that `after` stands on.
        floor: the smallest change of the level that is worth a word, in the metric's unit.
        slack: how far a level may be from `before` and still be the old one, in its unit.
    """

    earlier: str
    revision: str
    before: float
    after: float
    effect: float
    lo: float
    hi: float
    n_before: int
    n_after: int
    floor: float
    slack: float

    @property
    def rises(self) -> bool:
        """The direction, which belongs to the identity of an alert."""
        return self.after > self.before

    @property
    def bound(self) -> float:
        """The level beyond which it is worse than was known: by the floor, and by the interval."""
        if self.rises:
            end = self.before + self.hi * abs(self.before) if self.before else self.after
            return max(self.after + self.floor, end)
        end = self.before + self.lo * abs(self.before) if self.before else self.after
        return min(self.after - self.floor, end)

    def is_undone_by(self, level: float) -> bool:
        """Whether a level is inside the band of the old one, or better still."""
        if self.rises:
            return level <= self.before + self.slack
        return level >= self.before - self.slack


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One move of an alert.

    Attributes:
        source: the state before, None where the alert begins.
        target: the state after.
        who: a person, or `FARM`.
        when: ISO 8601 in UTC.
        why: in words.
        bound: what `Shift.bound` was then, in the metric's unit.
        latest: the last revision of the series that was known then.
    """

    source: State | None
    target: State
    who: str
    when: str
    why: str
    bound: float
    latest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One step over all the analyses that saw it.

    Attributes:
        id: its number, 0 until it is kept.
        subject: what moved.
        shift: how, by the last analysis that saw it.
        state: where it stands.
        absences: analyses in a row that did not see it.
        digest: of the data of the last analysis that counted.
        latest: the last revision of that data.
        transitions: all its moves, oldest first.
    """

    id: int = 0
    subject: Subject
    shift: Shift
    state: State
    absences: int = 0
    digest: str
    latest: str
    transitions: tuple[Transition, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AtBoundary:
    """What is known of a step where the system of the device changed.

    Attributes:
        environment: whether that change moved the level, None while nobody can tell.
        why: in words.
    """

    environment: bool | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What the history engine says about one series.

    Attributes:
        subject: the series.
        labels: its revisions, oldest first, each once.
        recent: the values of the last `JUDGED` revisions, in the metric's unit.
        digest: of labels and values.
        shifts: the steps, in order.
        boundaries: what is known of those at a change of the device's system, by revision.
    """

    subject: Subject
    labels: tuple[str, ...]
    recent: tuple[float, ...]
    digest: str
    shifts: tuple[Shift, ...]
    boundaries: Mapping[str, AtBoundary] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """How often the alerts of a metric were real, by what people and further points said."""

    metric: str
    real: int
    false: int


def is_worse(metric: str, *, rises: bool) -> bool:
    """Whether values that rise, or fall, are a regression of a declared metric."""
    return rises == (METRICS[metric].direction is Direction.LOWER)


def by_direction(metric: str, shift: Shift) -> State:
    """What a step is while nothing but its direction is known."""
    return State.NEW if is_worse(metric, rises=shift.rises) else State.IMPROVEMENT


def mark(alert: Alert, target: State, *, who: str, when: str, why: str) -> Alert:
    """An alert after the word of a person.

    Raises:
        ConfigError: nobody may say that of it now; the hint names what may be said.
    """
    legal = NEXT[alert.state].person
    if target not in legal:
        raise ConfigError(
            f"alert {alert.id} is {alert.state}, it cannot become {target}",
            hint=f"from {alert.state} a person may make it: {', '.join(legal) or 'nothing else'}",
        )
    return moved(alert, target, who=who, when=when, why=why)


def confirm(alert: Alert, *, who: str, when: str, why: str) -> Alert:
    """An alert after a bisect or a gate measured the same; nothing changes once it is past new."""
    if alert.state is not State.NEW:
        return alert
    return moved(alert, State.CONFIRMED, who=who, when=when, why=why)


def begun(shift: Shift, analysis: Analysis, *, when: str) -> Alert:
    """The alert about a step that nobody knew; to the better, it is an improvement."""
    state = by_direction(analysis.subject.metric, shift)
    alert = Alert(
        subject=analysis.subject, shift=shift, state=state, digest=analysis.digest,
        latest=analysis.labels[-1],
    )  # fmt: skip
    told = analysis.boundaries.get(shift.revision)
    why = f"a step was found where the system changed: {told.why}" if told else "a step was found"
    first = _transition(alert, None, state, who=FARM, when=when, why=why)
    return replace(alert, transitions=(first,))


def moved(alert: Alert, target: State, *, who: str, when: str, why: str) -> Alert:
    """An alert one move on, whether the move is legal or not."""
    made = _transition(alert, alert.state, target, who=who, when=when, why=why)
    return replace(alert, state=target, transitions=(*alert.transitions, made))


def precision(alerts: Iterable[Alert]) -> tuple[Precision, ...]:
    """Per metric: real is what was confirmed and never called invalid, false what was."""
    counts: dict[str, list[int]] = {}
    for alert in alerts:
        count = counts.setdefault(alert.subject.metric, [0, 0])
        if alert.state is State.INVALID:
            count[1] += 1
        elif alert.state not in (State.NEW, *NO_ALERT):
            count[0] += 1
    return tuple(
        Precision(metric=metric, real=real, false=false)
        for metric, (real, false) in sorted(counts.items())
        if real + false
    )


def _transition(
    alert: Alert, source: State | None, target: State, *, who: str, when: str, why: str
) -> Transition:
    return Transition(
        source=source, target=target, who=who, when=when, why=why, bound=alert.shift.bound,
        latest=alert.latest,
    )  # fmt: skip
