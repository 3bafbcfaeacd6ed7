"""What a job keeps, drops and does again."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from farm.harvest import Harvest, _disturbance
from farm.model import PAIR, Address, Arm, ArmModel, Artifact, Device, Job, Load, Measure, Workload
from farm.protocols import Limits
from farm.record import Reading, Repeat
from farm.runner import _conditions

NOW = datetime(2026, 1, 1, tzinfo=UTC)
QUIET, SLOW = 70.0, 110.0


def _harvest(*paces: float | None, rounds: int = 2) -> Harvest:
    model = Artifact(path=Path("m"), sha256="m", size_bytes=1)
    job = Job(
        workload=Workload(name="w", digest="d"), runtime="r", accelerator="cpu", load=Load(),
        device=Device(name="a", type="t", address=Address(scheme="local", place="")),
        measures=(Measure.LATENCY,), rounds=rounds,
        arms=tuple(ArmModel(arm=arm, name=arm, artifact=model) for arm in PAIR),
    )  # fmt: skip
    harvest = Harvest(job=job, started=NOW)
    for slot, pace in zip(job.slots(), paces, strict=False):
        harvest.repeats.append(
            Repeat(arm=slot.arm, block=slot.block, position=slot.position, started=NOW,
                   pace_ns=pace)
        )  # fmt: skip
        harvest.note_pace(pace)
    return harvest


def _blocks(harvest: Harvest) -> list[int]:
    return sorted({repeat.block for repeat in harvest.repeats})


def test_slots_are_done_in_order_until_none_is_left() -> None:
    harvest = _harvest(*[QUIET] * 5)
    slot = harvest.next_slot()
    assert slot is not None
    assert (slot.block, slot.position, slot.arm) == (1, 1, Arm.CANDIDATE)
    assert _harvest(*[QUIET] * 8).next_slot() is None


def test_a_torn_block_is_dropped_and_done_again() -> None:
    harvest = _harvest(*[QUIET] * 6)
    harvest.drop_torn_block()
    assert _blocks(harvest) == [0]
    slot = harvest.next_slot()
    assert slot is not None
    assert (slot.block, slot.position) == (1, 0)


@pytest.mark.parametrize("where", range(8))
def test_a_block_beside_other_work_is_done_again_wherever_it_was(where: int) -> None:
    paces = [QUIET] * 8
    paces[where] = SLOW
    harvest = _harvest(*paces)
    harvest.drop_disturbed_block()
    assert _blocks(harvest) == [1 - where // 4]
    assert harvest.redone == 1
    assert harvest.next_slot() is not None


def test_a_block_is_judged_only_when_all_are_there_to_compare_with() -> None:
    harvest = _harvest(SLOW, SLOW, SLOW, QUIET)
    harvest.drop_disturbed_block()
    assert _blocks(harvest) == [0]


def test_a_machine_that_is_slow_all_the_time_is_not_measured_for_ever() -> None:
    harvest = _harvest(*[SLOW] * 8)
    harvest.drop_disturbed_block()
    assert _blocks(harvest) == [0, 1]
    assert _disturbance(harvest) == ()


def test_the_budget_for_doing_again_ends_and_what_stays_is_told() -> None:
    harvest = _harvest(*[QUIET] * 7, SLOW)
    harvest.redone = 1
    harvest.drop_disturbed_block()
    assert _blocks(harvest) == [0, 1]
    (note,) = _disturbance(harvest)
    assert "1 blocks were done again, 1 of 8 repeats are disturbed" in note


def test_a_runtime_that_tells_no_pace_is_never_called_disturbed() -> None:
    harvest = _harvest(*[None] * 8)
    harvest.drop_disturbed_block()
    assert _blocks(harvest) == [0, 1]
    mixed = _harvest(*[None] * 4, *[QUIET] * 4)
    assert not any(mixed.disturbed(repeat) for repeat in mixed.repeats)


def test_heat_and_throttling_are_conditions_and_silence_is_none() -> None:
    hot = Reading(t_ns=0, name="temperature", unit="degC", value=90.0)
    throttled = Reading(t_ns=0, name="throttled", unit="flag", value=1.0)
    limits = Limits(max_temperature_c=70.0)
    assert _conditions((), (), limits) == ()
    assert _conditions((hot,), (), limits) == ("off_temperature",)
    assert _conditions((), (throttled,), limits) == ("throttled",)
    assert _conditions((replace(hot, value=60.0),), (replace(throttled, value=0.0),), limits) == ()
