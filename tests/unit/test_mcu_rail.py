"""Virtual microcontrollers show on their rail what they do, and know what it was worth."""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drivers.mcu.wire import Frame, Kind, encode
from drivers.virtual.mcu import Unit
from drivers.virtual.mcu_rail import BUSY_W, IDLE_W, VOLTS, BoardRail
from drivers.virtual.qemu_pin import PinWatch
from drivers.virtual.rail import Rail, rail_of
from tests.unit.test_virtual_mcu import connected, image_of, install, listening, mcu_device

S = 10**9


def power_w(rail: Rail, t_ns: int) -> float:
    return rail.energy_j(t_ns, t_ns + 1) * S


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[Unit]:
    """A board of Python whose rail is nobody else's."""
    made = Unit(mcu_device(name=f"{tmp_path}"), tmp_path / "board")
    yield made
    made.switch_off()


def truths(folder: Path) -> list[dict[str, Any]]:
    path = folder / "energy.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_the_pin_is_high_for_as_long_as_the_runs_take(
    unit: Unit, digits: Path, tmp_path: Path
) -> None:
    rail = rail_of(f"{tmp_path}")
    assert rail.volts == VOLTS
    code = (digits / "int8.onnx").read_bytes()
    with connected(unit) as board:
        install(board, 0, image_of(code, in_bytes=64, out_bytes=40))
        board.item(bytes(64), 40, max_payload=16392)
        assert truths(tmp_path / "board") == []  # only runs that are timed raise it
        asked_ns = time.monotonic_ns()
        board.infer(count=100)
        answered_ns = time.monotonic_ns()
    (truth,) = truths(tmp_path / "board")
    times = np.arange(asked_ns, answered_ns, 100_000)
    pins = rail.pin_at(times)
    length_s = (truth["end_ns"] - truth["start_ns"]) / S
    assert np.count_nonzero(np.diff(pins.astype(int), prepend=0, append=0)) == 2
    assert pins.sum() * 1e-4 == pytest.approx(length_s, abs=2e-4)
    assert truth["energy_j"] == pytest.approx(BUSY_W * length_s)
    assert rail.energy_j(asked_ns, answered_ns) == pytest.approx(
        truth["energy_j"] + IDLE_W * ((answered_ns - asked_ns) / S - length_s), rel=1e-6
    )


def test_a_power_cut_ends_the_pulse_and_all_that_is_drawn(
    unit: Unit, digits: Path, tmp_path: Path
) -> None:
    rail = rail_of(f"{tmp_path}")
    code = (digits / "int8.onnx").read_bytes()
    with connected(unit) as board:
        install(board, 0, image_of(code, in_bytes=64, out_bytes=40))
    with listening(unit) as host:
        host.ask(Kind.HELLO)
        payload = struct.pack("<II", 1000, 0)
        host.write(encode(Frame(kind=Kind.INFER, sequence=9, boot=host.boot, payload=payload)))
        deadline = time.monotonic() + 30
        while not rail.pin_at(np.array([time.monotonic_ns()], np.int64))[0]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        unit.switch_off()
    now_ns = time.monotonic_ns()
    assert power_w(rail, now_ns) == 0.0
    assert not rail.pin_at(np.array([now_ns], np.int64))[0]
    assert len(truths(tmp_path / "board")) == 1


def test_the_edges_in_a_trace_are_told_with_their_times_and_nothing_else_is() -> None:
    moved: list[tuple[int, bool]] = []
    watch = PinWatch(lambda t_ns, high: moved.append((t_ns, high)))
    wall_s, lag_ns = int(time.time()) - 3, time.time_ns() - time.monotonic_ns()
    lines = [
        f"77@{wall_s}.000001:mps2_fpgaio_reset MPS2 FPGAIO: reset",
        f"77@{wall_s}.250000:mps2_fpgaio_write MPS2 FPGAIO write: offset 0x0 data 0x1 size 4",
        f"77@{wall_s}.260000:mps2_fpgaio_write MPS2 FPGAIO write: offset 0x0 data 0x1 size 4",
        f"77@{wall_s}.300000:mps2_fpgaio_write MPS2 FPGAIO write: offset 0x4c data 0x0 size 4",
        "2026-07-01T00:00:00.000000Z qemu-system-arm: warning: nothing",
        f"77@{wall_s}.500000:mps2_fpgaio_write MPS2 FPGAIO write: offset 0x0 data 0x0 size 4",
        f"77@{wall_s}.600000:mps2_fpgaio_write MPS2 FPGAIO write: offset 0x0 data 0x3 size 4",
        f"77@{wall_s}.700000:mps2_fpgaio_reset MPS2 FPGAIO: reset",
    ]
    os.write(watch.descriptor, "\n".join([*lines, "77@1"]).encode())
    os.close(watch.descriptor)
    watch.join()
    assert [high for _, high in moved] == [True, False, True, False]
    told_s = [(t_ns + lag_ns) / S - wall_s for t_ns, _ in moved]
    assert told_s == pytest.approx([0.25, 0.5, 0.6, 0.7], abs=0.01)


def test_a_board_that_restarts_under_a_model_has_its_pin_low(tmp_path: Path) -> None:
    supply, rail = BoardRail(f"{tmp_path}", tmp_path), rail_of(f"{tmp_path}")
    supply.switch(on=True)
    begun_ns = time.monotonic_ns()
    supply.set_pin(begun_ns, high=True)
    supply.set_pin(begun_ns + S, high=False)  # as the reset of an emulated one does
    supply.set_pin(begun_ns + 2 * S, high=False)
    assert [round(t["energy_j"], 9) for t in truths(tmp_path)] == [round(BUSY_W, 9)]
    assert power_w(rail, begun_ns + 3 * S) == pytest.approx(IDLE_W, rel=1e-3)
