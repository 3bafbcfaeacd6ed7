"""What the canary of a device has shown so far."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from farm.model import Arm, Job
from farm.record import Fact
from farm.store import schema
from farm.store.database import Store
from farm.store.rows import facts_of
from farm.systems import system_changes

MAX_VALUES = 200


def canary_history(store: Store, job: Job, environment: Iterable[Fact]) -> tuple[float, ...]:
    """Earlier p50 in ns of this job's canary on this device under this load, oldest first.

    Values of jobs that it called out of band are left out: they describe a sick device. So are
    those of another system: after an update the band is learnt anew.

    Args:
        store: where they are.
        job: whose canary.
        environment: the device's, now.
    """
    system = tuple(environment)
    if job.canary is None:
        return ()
    jobs, repeat, measurement = schema.job, schema.repeat, schema.measurement
    query = (
        sa.select(measurement.c.value, repeat.c.facts, jobs.c.notes, jobs.c.environment)
        .join(repeat, repeat.c.id == measurement.c.repeat_id)
        .join(jobs, jobs.c.id == repeat.c.job_id)
        .where(
            jobs.c.device == job.device.name,
            jobs.c.runtime == job.runtime,
            jobs.c.load_digest == job.load.digest(),
            repeat.c.arm == Arm.CANARY,
            measurement.c.metric == "latency.p50",
        )
        .order_by(measurement.c.id.desc())
        .limit(MAX_VALUES)
    )
    with store.reading() as connection:
        rows = connection.execute(query).all()
    return tuple(
        row.value
        for row in reversed(rows)
        if row.facts.get("canary") == job.canary.artifact.sha256
        and not any(note.startswith(OUT_OF_BAND) for note in row.notes)
        and not system_changes(facts_of(row.environment), system)
    )


OUT_OF_BAND = "canary_out_of_band"
"""How the note of a job begins whose canary was out of band."""
