"""Which alerts belong together: those of one revision, and those that the lab has made.

One change of the code moves several series; one change of the lab (an OS update, a new room) moves
a pool of devices, to the better and to the worse. Where a fixed model has shown that the system of
a device did it, one device is enough. A change point is known to a point or so, so neighbouring
revisions count as one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from farm.alerts import Alert, State

NEIGHBOURS = 1
"""Revisions on each side that count as the same."""
POOL_SHARE = 0.20
"""More of a pool's series than this move together: the lab did it."""
POOL_SERIES = 3
"""The fewest series that make an incident."""


class Kind(StrEnum):
    """What a group of alerts is."""

    REVISION = "revision"
    ENVIRONMENT = "environment"
    """One incident of the lab rather than many regressions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """How many series the devices of one type have."""

    device_type: str
    series: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Alerts that belong together.

    Attributes:
        kind: what they are.
        revision: where most of them are.
        device_type: the pool of an incident, empty for a revision.
        moved: series of the pool that moved, in any direction; 0 for a revision.
        pool: series that it has; 0 for a revision.
        alerts: in the order of their numbers, improvements included.
    """

    kind: Kind
    revision: str
    device_type: str = ""
    moved: int = 0
    pool: int = 0
    alerts: tuple[Alert, ...]


def group_alerts(
    alerts: Iterable[Alert], revisions: tuple[str, ...], pools: Iterable[Pool]
) -> tuple[Group, ...]:
    """Every alert in one group, the latest revision first.

    Args:
        alerts: all alerts and improvements; what was withdrawn, or not seen of late, counts for no
            incident.
        revisions: those of the main line, oldest first.
        pools: the series of each device type, those that never moved included.
    """
    place = {revision: index for index, revision in enumerate(revisions)}
    left = sorted(alerts, key=lambda alert: alert.id)
    groups = []
    for pool in pools:
        for group in _incidents(left, place, pool):
            groups.append(group)
            left = [alert for alert in left if alert not in group.alerts]
    groups += [
        Group(kind=Kind.REVISION, revision=_main_revision(found), alerts=found)
        for found in _clusters(left, place)
    ]
    return tuple(
        sorted(groups, key=lambda g: (-place.get(g.revision, -1), g.revision, g.device_type))
    )


def _incidents(alerts: list[Alert], place: dict[str, int], pool: Pool) -> Iterator[Group]:
    moving = [
        alert
        for alert in alerts
        if alert.subject.device_type == pool.device_type
        and alert.state is not State.WITHDRAWN
        and not alert.absences
    ]
    for found in _clusters(moving, place):
        moved = len({alert.subject.series for alert in found})
        if moved >= POOL_SERIES and moved > POOL_SHARE * pool.series:
            yield _incident(found, pool)
            moving = [alert for alert in moving if alert not in found]
    shown = [alert for alert in moving if alert.state is State.ENVIRONMENT]
    yield from (_incident(found, pool) for found in _clusters(shown, place))


def _incident(alerts: tuple[Alert, ...], pool: Pool) -> Group:
    return Group(
        kind=Kind.ENVIRONMENT,
        revision=_main_revision(alerts),
        device_type=pool.device_type,
        moved=len({alert.subject.series for alert in alerts}),
        pool=pool.series,
        alerts=alerts,
    )


def _clusters(alerts: Iterable[Alert], place: dict[str, int]) -> Iterator[tuple[Alert, ...]]:
    """Alerts at one revision and its neighbours, the fullest first; unknown revisions alone."""
    by_place: dict[int, list[Alert]] = {}
    lost: dict[str, list[Alert]] = {}
    for alert in alerts:
        where = place.get(alert.shift.revision)
        if where is None:
            lost.setdefault(alert.shift.revision, []).append(alert)
        else:
            by_place.setdefault(where, []).append(alert)
    counts = Counter({where: len(found) for where, found in by_place.items()})
    while counts:
        centre = max(counts, key=lambda where: (_around(counts, where), counts[where], -where))
        near = [w for w in range(centre - NEIGHBOURS, centre + NEIGHBOURS + 1) if w in counts]
        yield tuple(sorted((a for w in near for a in by_place[w]), key=lambda alert: alert.id))
        for where in near:
            del counts[where]
    yield from (tuple(found) for found in lost.values())


def _around(counts: Counter[int], where: int) -> int:
    return sum(counts[where + offset] for offset in range(-NEIGHBOURS, NEIGHBOURS + 1))


def _main_revision(alerts: tuple[Alert, ...]) -> str:
    return Counter(alert.shift.revision for alert in alerts).most_common(1)[0][0]
