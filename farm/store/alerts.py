"""Alerts and their transitions, and what an analysis must know of the store beside its series."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from farm.alerts import Alert, Shift, State, Subject, Transition
from farm.errors import ConfigError
from farm.store import schema
from farm.store.database import DATABASE_NAME, Store, open_store
from farm.store.series import MAIN_LINE, series_name

Stamp = tuple[int, int]
"""Number of the last job and how many there are: it differs when the store has other results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What the results of a store are about.

    Attributes:
        stamp: of these results.
        revisions: those of the main line, by the start of their first run.
        subjects: its series.
    """

    stamp: Stamp
    revisions: tuple[str, ...]
    subjects: tuple[Subject, ...]


def open_kept(folder: Path) -> Store:
    """Open a store that is there, for writing.

    Raises:
        StoreUnavailable: there is none, or it cannot be written.
        SchemaMismatch: a newer farm wrote it.
    """
    return open_store(folder, read_only=not (folder / DATABASE_NAME).is_file())


def read_basis(store: Store) -> Basis:
    """The series of the main line and the order of its revisions."""
    run, job, measurement = schema.run, schema.job, schema.measurement
    main = (run.c.kind == "run", run.c.purpose.in_(MAIN_LINE))
    revision = sa.func.coalesce(sa.func.nullif(run.c.commit, ""), run.c.id).label("revision")
    revisions = (
        sa.select(revision)
        .where(*main)
        .group_by(revision)
        .order_by(sa.func.min(run.c.started), revision)
    )
    place = ("workload", "device", "runtime", "accelerator", "load_digest", "time_basis")
    columns = [job.c[name] for name in (*place, "simulated", "device_type")]
    subjects = (
        sa.select(*columns, measurement.c.metric)
        .join(run, run.c.id == job.c.run_id)
        .join(measurement, measurement.c.job_id == job.c.id)
        .where(*main, job.c.outcome == "COMPLETED", measurement.c.repeat_id.is_(None))
        .group_by(*columns, measurement.c.metric)
        .order_by(sa.func.max(job.c.id))
    )
    with store.reading() as connection:
        # A device that changed its type is in the pool of the latest: the last row of a name wins.
        found = {series_name(row): row for row in connection.execute(subjects)}
        return Basis(
            stamp=_read_stamp(connection),
            revisions=tuple(connection.execute(revisions).scalars()),
            subjects=tuple(
                Subject(
                    series=name,
                    metric=row.metric,
                    device=row.device,
                    device_type=row.device_type,
                    simulated=row.simulated,
                )
                for name, row in found.items()
            ),
        )


def revise(
    store: Store, decide: Callable[[tuple[Alert, ...], Stamp], tuple[Alert, ...]]
) -> tuple[tuple[Alert, ...], tuple[Alert, ...]]:
    """Change all alerts in one transaction, which begins before they are read.

    Args:
        store: where.
        decide: from the alerts and the stamp of the results to the alerts, new ones without a
            number; called once, while nobody else writes.

    Returns:
        Every alert as it was found, and as it is kept.
    """
    with store.transaction() as connection:
        found = _read(connection)
        known = {alert.id: alert for alert in found}
        for alert in decide(found, _read_stamp(connection)):
            _keep(connection, alert, known.get(alert.id))
        return found, _read(connection)


def change_alert(store: Store, alert_id: int, decide: Callable[[Alert], Alert]) -> Alert:
    """Change one alert in one transaction; returns it as it was left.

    Raises:
        ConfigError: there is no such alert; nothing is changed then, nor if `decide` refuses.
    """
    with store.transaction() as connection:
        found = _find(store, connection, alert_id)
        changed = decide(found)
        _keep(connection, changed, found)
    return changed


def find_alert(store: Store, alert_id: int) -> Alert:
    """One alert.

    Raises:
        ConfigError: there is no such alert.
    """
    with store.reading() as connection:
        return _find(store, connection, alert_id)


def _find(store: Store, connection: sa.Connection, alert_id: int) -> Alert:
    found = _read(connection, schema.alert.c.id == alert_id)
    if not found:
        raise ConfigError(
            f"the store {str(store.folder)!r} has no alert {alert_id}",
            hint="'farm alerts list --all' shows them",
        )
    return found[0]


def _read_stamp(connection: sa.Connection) -> Stamp:
    table = schema.job
    last, count = connection.execute(sa.select(sa.func.max(table.c.id), sa.func.count())).one()
    return last or 0, count


def _read(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> tuple[Alert, ...]:
    alert, move = schema.alert, schema.alert_transition
    moves: dict[int, list[Transition]] = {}
    chosen = sa.select(alert.c.id).where(*conditions)
    for row in connection.execute(
        sa.select(move).where(move.c.alert_id.in_(chosen)).order_by(move.c.id)
    ):
        moves.setdefault(row.alert_id, []).append(_transition(row))
    rows = connection.execute(sa.select(alert).where(*conditions).order_by(alert.c.id)).mappings()
    return tuple(
        Alert(
            id=row["id"],
            subject=Subject(**{key: row[key] for key in Subject.__dataclass_fields__}),
            shift=Shift(**{key: row[key] for key in Shift.__dataclass_fields__}),
            state=State(row["state"]),
            absences=row["absences"],
            digest=row["digest"],
            latest=row["latest"],
            transitions=tuple(moves.get(row["id"], ())),
        )
        for row in rows
    )


def _transition(row: Any) -> Transition:
    return Transition(
        source=State(row.source) if row.source else None,
        target=State(row.target),
        who=row.who,
        when=row.made,
        why=row.why,
        bound=row.bound,
        latest=row.latest,
    )


def _keep(connection: sa.Connection, alert: Alert, before: Alert | None) -> None:
    """Write what differs from what was there; transitions are only ever added."""
    if alert == before:
        return
    row = asdict(alert.subject) | asdict(alert.shift)
    row |= {key: getattr(alert, key) for key in ("state", "absences", "digest", "latest")}
    table, alert_id = schema.alert, alert.id
    if before:
        connection.execute(table.update().where(table.c.id == alert_id).values(**row))
    else:
        key = connection.execute(table.insert().values(**row)).inserted_primary_key
        alert_id = int(key[0]) if key else 0
    for made in alert.transitions[len(before.transitions) if before else 0 :]:
        connection.execute(
            schema.alert_transition.insert().values(
                alert_id=alert_id,
                source=made.source,
                target=made.target,
                who=made.who,
                made=made.when,
                why=made.why,
                bound=made.bound,
                latest=made.latest,
            )
        )
