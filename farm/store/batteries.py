"""Looks at batteries, and the packs that are not to be trusted until a person says otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from farm.battery import RECENT, WINDOW, Look, Suspicion
from farm.store import schema
from farm.store.database import Store
from farm.store.rows import read_moment
from farm.store.writer import iso


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantine:
    """A device whose pack is not to be trusted: nothing is measured on it, nothing charges it.

    Attributes:
        began: when, ISO 8601 in UTC.
        saw: what was seen.
        act: what a person shall do.
    """

    device: str
    began: str
    saw: str
    act: str


def save_look(store: Store, device: str, look: Look) -> None:
    """Keep a look at a device's battery."""
    row = asdict(look) | {"device": device, "taken": iso(look.taken)}
    with store.transaction() as connection:
        connection.execute(schema.battery_look.insert().values(**row))


def read_looks(store: Store, device: str, now: datetime) -> tuple[Look, ...]:
    """The looks at a device's pack of the last `WINDOW`, earliest first.

    Of days before `RECENT` only three idle looks, so that no time of day speaks for all. What a
    person has cleared since counts no more: that may be a new pack.
    """
    table, cleared = schema.battery_look, schema.quarantine.c
    with store.reading() as connection:
        since = connection.execute(
            sa.select(sa.func.max(cleared.cleared)).where(cleared.device == device)
        ).scalar()
        counts = sa.and_(
            table.c.device == device, table.c.taken > max(iso(now - WINDOW), since or "")
        )
        newest = (
            sa.select(sa.func.max(table.c.id))
            .where(counts, table.c.idle)
            .group_by(sa.func.substr(table.c.taken, 1, len("2026-03-04T1")))  # tens of hours
        )
        whole = table.c.taken >= iso(now - RECENT)
        rows = connection.execute(
            sa.select(table)
            .where(counts, sa.or_(whole, table.c.id.in_(newest)))
            .order_by(table.c.taken, table.c.id)
        ).mappings()
        return tuple(_look(row) for row in rows)


def latest_looks(store: Store, devices: Iterable[str]) -> dict[str, Look]:
    """The last look at each of these devices that told its charge."""
    table = schema.battery_look
    found = {}
    with store.reading() as connection:
        for device in devices:
            row = (
                connection.execute(
                    sa.select(table)
                    .where(table.c.device == device, table.c.level_pct.is_not(None))
                    .order_by(table.c.taken.desc())
                    .limit(1)
                )
                .mappings()
                .first()
            )
            if row:
                found[device] = _look(row)
    return found


def devices_looked_at(store: Store) -> tuple[str, ...]:
    """Every device whose battery was ever looked at."""
    with store.reading() as connection:
        return tuple(
            connection.execute(sa.select(schema.battery_look.c.device).distinct()).scalars()
        )


def read_quarantines(store: Store) -> dict[str, Quarantine]:
    """The devices in quarantine."""
    table = schema.quarantine
    query = sa.select(table).where(table.c.cleared.is_(None)).order_by(table.c.id)
    with store.reading() as connection:
        return {
            row["device"]: Quarantine(
                **{name: row[name] for name in Quarantine.__dataclass_fields__}
            )
            for row in connection.execute(query).mappings()
        }


def begin_quarantine(store: Store, device: str, suspicions: Iterable[Suspicion]) -> Quarantine:
    """Put a device into quarantine, until `end_quarantine`."""
    suspicions = tuple(suspicions)
    made = Quarantine(
        device=device,
        began=iso(datetime.now(UTC)),
        saw="; ".join(suspicion.saw for suspicion in suspicions),
        act=suspicions[0].act,
    )
    with store.transaction() as connection:
        connection.execute(schema.quarantine.insert().values(**asdict(made)))
    return made


def end_quarantine(store: Store, device: str, *, who: str, why: str) -> bool:
    """Trust a device's pack again, and keep who said so and why; False if it was not mistrusted."""
    table = schema.quarantine
    with store.transaction() as connection:
        done = connection.execute(
            table.update()
            .where(table.c.device == device, table.c.cleared.is_(None))
            .values(cleared=iso(datetime.now(UTC)), who=who, why=why)
        )
    return done.rowcount > 0


def _look(row: Any) -> Look:
    fields = {name: row[name] for name in Look.__dataclass_fields__}
    return Look(**fields | {"taken": read_moment(row["taken"])})
