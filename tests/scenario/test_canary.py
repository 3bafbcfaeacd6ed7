"""A device that is no longer itself makes a gate INVALID, whatever the models did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import farm
from farm.record import Verdict
from farm.store import reader, rows
from farm.store.canaries import canary_history
from farm.store.database import open_store

Write = Callable[..., Path]


def test_a_device_out_of_band_is_invalid_and_stays_out_of_its_history(
    digits: Path, suite: Write, inventory: Write, tmp_path: Path
) -> None:
    watched = suite(extra=f"canary: {digits}\n")
    store = tmp_path / "store"

    def ask(address: str, why: str) -> Verdict:
        return farm.gate(
            str(watched), candidate=digits, baseline=digits, fresh=why,
            inventory=inventory(b=address), store=store,
        ).verdict  # fmt: skip

    for time in range(5):
        assert ask("virtual://board?seed=1", f"day {time}") is Verdict.PASS
    # A processor of another pace under the old name: nothing throttles, both models agree.
    assert ask("virtual://camera?seed=1", "day 6") is Verdict.INVALID
    with open_store(store) as opened:
        last = rows.read_jobs(opened, rows.find_run(opened).id)[0]
        assert any(note.startswith("canary_out_of_band: ") for note in last.notes)
        assert "canary" not in set(reader.repeats(opened, last.id)["arm"])
    assert ask("virtual://board?seed=1", "day 7") is Verdict.PASS


def test_the_history_of_a_canary_holds_two_values_per_gate(
    digits: Path, suite: Write, inventory: Write, tmp_path: Path
) -> None:
    watched = suite(extra=f"canary: {digits}\n")
    devices = inventory(b="virtual://board?seed=1")
    farm.gate(
        str(watched), candidate=digits, baseline=digits, inventory=devices,
        store=tmp_path / "store",
    )  # fmt: skip
    from farm.model import Arm
    from farm.request import Where, resolve
    from farm.suite import read_suite

    arms = ((Arm.BASELINE, digits), (Arm.CANDIDATE, digits))
    where = Where(inventory=devices)
    (job,) = resolve(read_suite(str(watched)), arms, None, None, where, rounds=5).jobs
    with open_store(tmp_path / "store") as store:
        values = canary_history(store, job, ())
    assert len(values) == 2
    assert all(value > 0 for value in values)
