"""The noise budgets of devices; the latest of each counts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

import sqlalchemy as sa

from farm.store import schema
from farm.store.database import Store
from farm.store.rows import facts_of, last_system
from farm.store.writer import iso
from farm.systems import system_changes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredNoise:
    """The noise of one metric on one device, as it was measured.

    Attributes:
        measured: when, ISO 8601 in UTC.
        run_id: the A/A run that it comes from.
        outdated: what has changed of the device's system since; it tells nothing of the new one.
    The rest is as in `farm.analysis.noise.Noise`.
    """

    device: str
    runtime: str
    accelerator: str
    load_digest: str
    metric: str
    run_id: str
    blocks: int
    repeat_cv: float
    shared: float
    autocorrelation: float | None
    block_sd: float
    false_alarm: float
    measured: str = ""
    outdated: tuple[str, ...] = ()


def save_noise(store: Store, noise: StoredNoise) -> None:
    """Keep a budget beside the earlier ones."""
    row = {key: value for key, value in asdict(noise).items() if key in schema.noise.c}
    row |= {"measured": iso(datetime.now(UTC))}
    with store.transaction() as connection:
        connection.execute(schema.noise.insert().values(**row))


def latest_noise(store: Store, *, load_digest: str | None = None) -> tuple[StoredNoise, ...]:
    """The latest budget of every device, runtime, accelerator, load and metric."""
    table = schema.noise
    newest = sa.select(sa.func.max(table.c.id)).group_by(
        table.c.device, table.c.runtime, table.c.accelerator, table.c.load_digest, table.c.metric
    )
    query = sa.select(table).where(table.c.id.in_(newest)).order_by(table.c.device, table.c.metric)
    if load_digest is not None:
        query = query.where(table.c.load_digest == load_digest)
    with store.reading() as connection:
        rows = connection.execute(query).mappings().all()
    kept = [key for key in StoredNoise.__dataclass_fields__ if key in table.c]
    budgets = (StoredNoise(**{key: row[key] for key in kept}) for row in rows)
    return tuple(replace(budget, outdated=_changed_since(store, budget)) for budget in budgets)


def _changed_since(store: Store, noise: StoredNoise) -> tuple[str, ...]:
    """How the system that the device had last differs from that of the A/A run."""
    job = schema.job
    query = sa.select(job.c.environment).where(
        job.c.run_id == noise.run_id,
        job.c.device == noise.device,
        job.c.runtime == noise.runtime,
        job.c.accelerator_asked == noise.accelerator,
    )
    with store.reading() as connection:
        kept = connection.execute(query).scalars().first()
    _, system = last_system(store, noise.device, noise.runtime, noise.accelerator)
    return system_changes(facts_of(kept or {}), system)
