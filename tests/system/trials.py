"""What every kind of device goes through: names that no shell likes, and a look at the store."""

from __future__ import annotations

from pathlib import Path

from farm.record import Outcome
from farm.store import reader, rows
from farm.store.database import open_store

HOSTILE_NAMES = (
    "a b",
    "it's",
    'say "x"',
    "two\nlines",
    "$(touch pwned)",
    "`touch pwned`",
    "-rf",
    "a;touch pwned",
    "\udcff\udcfe",  # bytes that are no UTF-8
    "ünï",
)
"""Of models, devices and folders."""


def assert_kept_once(store: Path, runs: int, moment: str) -> None:
    """One job per run, whole or with its error, every repeat in it once, and no lease is held."""
    with open_store(store, read_only=True) as opened:
        assert rows.read_holders(opened) == {}, moment
        table = reader.jobs(opened)
        assert len(table) == runs, moment
        for row in table.to_dict("records"):
            job = rows.read_job(opened, int(row["job_id"]))
            if job.outcome == Outcome.COMPLETED:
                blocks = reader.traces(opened, job.id).drop_duplicates(["block", "position"])
                assert sorted(blocks["block"]) == [0, 1], moment
