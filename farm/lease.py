"""Who may use a device: one row per device with a fencing token.

A lease that expired is not free: a process may still run on the device. On the holder's own
machine it is known whether the holder lives; a dead one is replaced at once, with the next token,
and the session that follows sweeps the device first. On another machine only its owner frees it.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import sqlalchemy as sa

from farm.errors import LeaseLost, LeaseTimeout
from farm.model import Device
from farm.store import schema
from farm.store.database import Store

TERM_S = 900.0
POLL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to use a device until it is taken over; every result is written under its token."""

    device: str
    token: int


_held: set[Lease] = set()
"""The leases that this process has not let go of."""


@contextmanager
def leased(store: Store, device: Device, holder: str, *, wait_s: float = 0.0) -> Iterator[Lease]:
    """Hold a device, and every device that shares its host, for the time of a `with` block.

    Args:
        store: where leases are kept.
        device: what to hold.
        holder: what to tell others, for example `job:<run>.<ordinal>`.
        wait_s: how long to wait for another holder.

    Raises:
        LeaseTimeout: somebody else holds it.
    """
    lease = _acquire(store, device, holder, wait_s)
    _held.add(lease)
    try:
        yield lease
    finally:
        _held.discard(lease)
        _release(store, lease)


def renew(store: Store, lease: Lease) -> None:
    """Extend a lease by its term.

    Raises:
        LeaseLost: it was taken over.
    """
    table = schema.lease
    with store.transaction() as connection:
        done = connection.execute(
            table.update()
            .where(table.c.device == lease.device, table.c.token == lease.token)
            .values(until=time.time() + TERM_S)
        )
    if done.rowcount == 0:
        raise LeaseLost(f"the lease {lease.token} was taken over", device=lease.device)


def _acquire(store: Store, device: Device, holder: str, wait_s: float) -> Lease:
    deadline = time.monotonic() + wait_s
    while True:
        with store.transaction() as connection:
            blocker = _blocker(connection, device)
            if blocker is None:
                return _take(connection, device, holder)
        if time.monotonic() >= deadline:
            raise LeaseTimeout(
                f"in use by {blocker}", device=device.name, hint="wait for it: --wait 600"
            )
        time.sleep(POLL_S)


def _blocker(connection: sa.Connection, device: Device) -> str | None:
    """Who stands in the way: a live holder of the device, or of another one on the same host."""
    table = schema.lease
    rows = connection.execute(
        sa.select(table).where(
            sa.or_(table.c.device == device.name, table.c.host == device.host),
            table.c.holder.is_not(None),
        )
    ).mappings()
    for row in rows:
        if row["node"] != platform.node():
            state = "" if row["until"] > time.time() else ", lost: only its own machine frees it"
            return f"{row['holder']} on {row['node']}{state}"
        ours = row["pid"] == os.getpid()
        if ours and Lease(device=row["device"], token=row["token"]) not in _held:
            continue  # an earlier release of ours could not be written
        if (row["boot_id"], row["process_start"]) == (_boot_id(), _process_start(row["pid"])):
            return f"{row['holder']} (process {row['pid']}, {row['device']})"
    return None


def _take(connection: sa.Connection, device: Device, holder: str) -> Lease:
    table = schema.lease
    found = connection.execute(
        sa.select(table.c.token).where(table.c.device == device.name)
    ).scalar()
    token = (found or 0) + 1
    row = {
        "device": device.name,
        "host": device.host,
        "token": token,
        "holder": holder,
        "until": time.time() + TERM_S,
        "node": platform.node(),
        "boot_id": _boot_id(),
        "pid": os.getpid(),
        "process_start": _process_start(os.getpid()),
    }
    if found is None:
        connection.execute(table.insert().values(**row))
    else:
        connection.execute(table.update().where(table.c.device == device.name).values(**row))
    return Lease(device=device.name, token=token)


def _release(store: Store, lease: Lease) -> None:
    table = schema.lease
    with store.transaction() as connection:
        connection.execute(
            table.update()
            .where(table.c.device == lease.device, table.c.token == lease.token)
            .values(holder=None)
        )


@cache
def _boot_id() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def _process_start(pid: int) -> str:
    """When a process began, in kernel ticks; empty if there is none. Tells reused numbers apart."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]
