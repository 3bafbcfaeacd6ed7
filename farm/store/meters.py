"""Keeps what looks at meters found: whether each sees the device that it is bound to."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from farm.store import schema
from farm.store.database import Store
from farm.store.writer import iso


def save_check(
    store: Store, device: str, meter: str, complaints: tuple[str, ...], checked: datetime
) -> None:
    """Keep what was found about a device's meter.

    Args:
        store: where.
        device: its name.
        meter: model and serial number of the meter.
        complaints: what is wrong; none if all is well.
        checked: when.
    """
    with store.transaction() as connection:
        connection.execute(
            schema.meter_check.insert().values(
                device=device, meter=meter, complaints=list(complaints), checked=iso(checked)
            )
        )


def complaints_of(store: Store, device: str, meter: str) -> tuple[str, ...]:
    """What the last look at this meter found wrong; nothing if nobody looked."""
    table = schema.meter_check
    query = (
        sa.select(table.c.complaints)
        .where(table.c.device == device, table.c.meter == meter)
        .order_by(table.c.id.desc())
        .limit(1)
    )
    with store.reading() as connection:
        return tuple(connection.execute(query).scalar() or ())
