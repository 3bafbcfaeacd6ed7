"""Alerts on the history of a store: found anew with every result, judged by people and evidence."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from farm import alerts as states
from farm.alerts import JUDGED, OPEN, Alert, Analysis, AtBoundary, Shift, State, Subject
from farm.analysis.boundaries import Cause
from farm.analysis.changepoint import MIN_EFFECT, MIN_MADS, Step, find_changes
from farm.errors import ConfigError, as_utf8
from farm.history import Series, explain, stored_series
from farm.incidents import Group, Pool, group_alerts
from farm.metrics import METRICS
from farm.store.alerts import Basis, Stamp, change_alert, find_alert, open_kept, read_basis, revise
from farm.store.database import Store
from farm.store.writer import iso
from farm.tracking import update

Floats = npt.NDArray[np.float64]

BAND_MADS = 2.5
"""Half the band of an old level in median absolute deviations: three standard errors of the median
of `JUDGED` points, 3 * 1.2533 * 1.4826 / sqrt(5)."""
BLAMED = {Cause.MODEL: False, Cause.ENVIRONMENT: True, Cause.UNDECIDED: None}
"""Whether a cause is the system of the device."""
MAX_WHY = 2000
"""Characters of a reason."""
MAX_WHO = 100
"""Characters of a name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """All alerts of a store after a refresh.

    Attributes:
        alerts: every one, improvements and withdrawn ones included.
        groups: the same, as they belong together.
        changed: numbers of those that this refresh moved to another state, new ones included.
    """

    alerts: tuple[Alert, ...]
    groups: tuple[Group, ...]
    changed: frozenset[int]

    @property
    def open(self) -> int:
        """How many alerts somebody has to act on."""
        return sum(alert.state in OPEN for alert in self.alerts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """One look at the results of a store."""

    basis: Basis
    analyses: tuple[Analysis, ...]


def refresh(folder: Path) -> Board:
    """Analyse every series of the main line and bring the alerts up to date, in one transaction.

    The analysis runs before the transaction. When results came in meanwhile it runs again inside,
    so what is written is always about the results that the store holds.

    Raises:
        StoreUnavailable: there is no store, or it cannot be read or written.
    """
    with open_kept(folder) as store:
        look = _look(store)

        def decide(known: tuple[Alert, ...], stamp: Stamp) -> tuple[Alert, ...]:
            nonlocal look
            if look.basis.stamp != stamp:
                look = _look(store)
            return _updated(known, look.analyses)

        found, kept = revise(store, decide)
    before = {alert.id: len(alert.transitions) for alert in found}
    counts = Counter(analysis.subject.device_type for analysis in look.analyses)
    pools = [Pool(device_type=name, series=count) for name, count in sorted(counts.items())]
    return Board(
        alerts=kept,
        groups=group_alerts(kept, look.basis.revisions, pools),
        changed=frozenset(a.id for a in kept if len(a.transitions) != before.get(a.id)),
    )


def show(folder: Path, alert_id: int) -> Alert:
    """One alert as the last refresh or the last word left it.

    Raises:
        ConfigError: there is no such alert.
        StoreUnavailable: there is no store, or it cannot be read.
    """
    with open_kept(folder) as store:
        return find_alert(store, alert_id)


def mark(folder: Path, alert_id: int, target: State, *, who: str | None, why: str) -> Alert:
    """Keep the word of a person about an alert.

    Args:
        folder: of the store.
        alert_id: its number.
        target: what it is from now on.
        who: says so, None for the user of this process.
        why: in words.

    Raises:
        ConfigError: no such alert, nobody may say that of it now, or nobody or nothing is named.
        StoreUnavailable: there is no store, or it cannot be written.
    """
    person, reason, now = _person(who), _reason(why), iso(datetime.now(UTC))
    return _change(
        folder, alert_id, lambda a: states.mark(a, target, who=person, when=now, why=reason)
    )


def confirm(folder: Path, alert_id: int, *, who: str, why: str) -> Alert:
    """Keep that a bisect or a gate measured the same as the history shows.

    Args:
        folder: of the store.
        alert_id: its number.
        who: what confirms it, such as `gate 20260304-050607-aaaaaa`.
        why: in words.

    Raises:
        ConfigError: no such alert.
        StoreUnavailable: there is no store, or it cannot be written.
    """
    who, why, now = _person(who), _reason(why), iso(datetime.now(UTC))
    return _change(folder, alert_id, lambda a: states.confirm(a, who=who, when=now, why=why))


def analyse(series: Series, subject: Subject) -> Analysis:
    """What the history engine says about one series; blanks are left out."""
    present = np.flatnonzero(np.isfinite(series.values))
    values = series.values[present]
    labels = tuple(series.labels[index] for index in present)
    systems = tuple(series.systems[index] for index in present) if series.systems else ()
    series = replace(series, values=values, labels=labels, systems=systems)
    steps = find_changes(values, exact=series.exact).steps
    text = json.dumps([labels, values.tolist()])
    return Analysis(
        subject=subject,
        labels=labels,
        recent=tuple(values[-JUDGED:].tolist()),
        digest=hashlib.sha256(text.encode()).hexdigest()[:16],
        shifts=tuple(
            _shift(step, labels, values[step.index - step.n_before : step.index]) for step in steps
        ),
        boundaries={
            labels[index]: AtBoundary(environment=BLAMED[told.cause], why=told.why)
            for index, told in explain(series, steps).items()
        },
    )


def _shift(step: Step, labels: tuple[str, ...], old: Floats) -> Shift:
    """A step between revisions; the band of the old level never reaches half of the step."""
    mad = float(np.median(np.abs(old - step.before)))
    least = MIN_EFFECT * abs(step.before)
    return Shift(
        earlier=labels[step.index - 1],
        revision=labels[step.index],
        before=step.before,
        after=step.after,
        effect=step.effect,
        lo=step.lo,
        hi=step.hi,
        n_before=step.n_before,
        n_after=step.n_after,
        floor=max(least, MIN_MADS * mad),
        slack=min(max(least, BAND_MADS * mad), abs(step.after - step.before) / 2),
    )


def _look(store: Store) -> _Look:
    basis = read_basis(store)
    place = {revision: index for index, revision in enumerate(basis.revisions)}
    subjects = {subject.series: subject for subject in basis.subjects}
    return _Look(
        basis=basis,
        analyses=tuple(
            analyse(_ordered(series, place), subjects[series.name])
            for series in sorted(stored_series(store.folder), key=lambda series: series.name)
            if series.name in subjects and subjects[series.name].metric in METRICS
        ),
    )


def _ordered(series: Series, place: dict[str, int]) -> Series:
    """A series by the start of its revisions' first runs, in whatever order the results came in."""
    order = sorted(
        range(len(series.labels)),
        key=lambda index: (place.get(series.labels[index], len(place)), series.labels[index]),
    )
    return replace(
        series,
        labels=tuple(series.labels[index] for index in order),
        values=series.values[order],
        systems=tuple(series.systems[index] for index in order) if series.systems else (),
    )


def _updated(known: Iterable[Alert], analyses: Iterable[Analysis]) -> tuple[Alert, ...]:
    now = iso(datetime.now(UTC))
    by_series: dict[str, list[Alert]] = {}
    for alert in known:
        by_series.setdefault(alert.subject.series, []).append(alert)
    return tuple(
        alert
        for analysis in analyses
        for alert in update(by_series.get(analysis.subject.series, ()), analysis, when=now)
    )


def _change(folder: Path, alert_id: int, decide: Callable[[Alert], Alert]) -> Alert:
    with open_kept(folder) as store:
        return change_alert(store, alert_id, decide)


def _person(who: str | None) -> str:
    name = as_utf8(who if who is not None else os.environ.get("USER", "")).strip()
    if not name:
        raise ConfigError("nobody is named who says so", hint="name yourself with --who")
    if len(name) > MAX_WHO:
        raise ConfigError(f"--who is longer than {MAX_WHO} characters", hint="a name is enough")
    return name


def _reason(why: str) -> str:
    reason = as_utf8(why).strip()
    if not reason:
        raise ConfigError("--why is empty", hint="say in a sentence why, for those who come later")
    if len(reason) > MAX_WHY:
        raise ConfigError(
            f"--why is longer than {MAX_WHY} characters", hint="say it shortly, link the rest"
        )
    return reason
