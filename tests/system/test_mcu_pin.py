"""The pin of the firmware on emulated boards: it moves when it should, and the rail follows it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from drivers.lines.uart import UartLine
from drivers.mcu.client import Board
from drivers.mcu.toolchain import find_toolchain
from drivers.runtimes.mcu import McuRuntime
from drivers.virtual.mcu import Unit
from drivers.virtual.mcu_rail import BUSY_W, IDLE_W
from drivers.virtual.qemu_board import BOARDS, check_qemu
from drivers.virtual.rail import Rail, rail_of
from farm.errors import ConfigError, DeviceRebooted
from farm.metering import Metered, SpanKind
from farm.model import Address, Artifact, Device, Load, Workload
from tests.system.test_mcu_firmware import FAULTS, HANGS, LONG_LOOP, TIMEOUT_S, try_out

pytestmark = pytest.mark.system

S = 10**9
SLACK_NS = 50_000_000
"""As far as the host's times of a request may be off; that it stalls only makes them longer."""


@pytest.fixture(autouse=True)
def _parts(lacks: Callable[[str], None]) -> None:
    try:
        check_qemu()
        find_toolchain()
    except ConfigError as error:
        lacks(f"{error.message}: {error.hint}")


class Watched:
    """An emulated board, its line, and what its rail shows."""

    def __init__(self, device: Device, unit: Unit, folder: Path) -> None:
        self.unit = unit
        self.rail: Rail = rail_of(device.name)
        self.folder = folder
        options = dict(unit.options) | {"toolchain": device.option("toolchain")}
        self.line = UartLine(replace(device, address=unit.address, options=tuple(options.items())))
        self.board = Board(self.line)

    def pulses(self, since_ns: int) -> list[tuple[int, int]]:
        """From when to when the pin was high since then."""
        time.sleep(0.1)  # the trace arrives late
        times = np.arange(since_ns, time.monotonic_ns(), 20_000)
        edges = np.diff(self.rail.pin_at(times).astype(int), prepend=0, append=0)
        rises, falls = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        return list(zip(times[rises].tolist(), times[falls].tolist(), strict=True))

    def is_low(self) -> bool:
        """Whether the pin stands low, once the trace has told the last edge."""
        deadline = time.monotonic() + 20
        while self.rail.pin_at(np.array([time.monotonic_ns()], np.int64))[0]:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


@pytest.fixture
def watch(tmp_path: Path) -> Callable[..., object]:
    """Switches a board on whose rail is nobody else's."""

    @contextmanager
    def watch_(board: str) -> Iterator[Watched]:
        address = Address.parse(f"virtual-mcu://{board}?engine=qemu")
        device = Device(name=f"{tmp_path} {board}", type="t", address=address)
        unit = Unit(device, tmp_path / board)
        try:
            watched = Watched(device, unit, tmp_path / board)
            with closing(watched.line):
                yield watched
        finally:
            unit.switch_off()

    return watch_


@pytest.mark.parametrize("name", BOARDS)
def test_the_pin_rises_once_for_each_request_and_never_stays_high(
    name: str, watch: Callable[..., object]
) -> None:
    with watch(name) as watched:  # type: ignore[attr-defined]
        board = watched.board
        begun_ns = time.monotonic_ns()
        try_out(board, 0, LONG_LOOP)
        board.confirm()
        assert watched.pulses(begun_ns) == []
        for count in (1000, 500):
            board.infer(count=count)
        assert len(watched.pulses(begun_ns)) == 2

        try_out(board, 1, FAULTS)
        begun_ns = time.monotonic_ns()
        with pytest.raises(DeviceRebooted):
            board.infer()
        assert watched.is_low()
        assert len(watched.pulses(begun_ns)) == 1
        board.hello()
        try_out(board, 1, HANGS)
        with pytest.raises(DeviceRebooted):
            board.infer(timeout_s=TIMEOUT_S)
        assert watched.is_low()
    assert watched.rail.energy_j(time.monotonic_ns(), time.monotonic_ns() + S) == 0


def test_what_the_runtime_says_beside_a_meter_is_when_the_pin_was_high(
    watch: Callable[..., object], digits: Path
) -> None:
    load = Load(min_duration_s=0.5, min_queries=20, max_duration_s=30, warmup_s=0.01)
    model = Artifact.of(digits / "int8.onnx")
    with watch("mps2-an386") as watched:  # type: ignore[attr-defined]
        runtime = McuRuntime(watched.line)
        bare = Workload(name="seeded-inputs", digest="0")
        deployment = runtime.deploy(model, bare, accelerator="cpu")
        deployment.prepare()
        plain = deployment.measure(load)
        measured = deployment.measure(load, metered=Metered(idle_s=0.2, wire=True))
        assert watched.is_low()
        before, *windows, after = measured.spans
        pulses = watched.pulses(before.start_ns)
        rail = watched.rail
    assert measured.scalars == plain.scalars  # instructions do not know of the meter
    assert (before.kind, after.kind) == (SpanKind.IDLE, SpanKind.IDLE)
    assert len(pulses) == len(windows)
    for window, (rise_ns, fall_ns) in zip(windows, pulses, strict=True):
        assert window.start_ns - SLACK_NS < rise_ns < fall_ns < window.end_ns + SLACK_NS
    rest_s = (after.end_ns - after.start_ns) / S
    assert rail.energy_j(after.start_ns, after.end_ns) == pytest.approx(IDLE_W * rest_s, rel=0.05)

    lines = (watched.folder / "energy.jsonl").read_text().splitlines()
    truths = [json.loads(line) for line in lines][-len(windows) :]
    for truth, (rise_ns, fall_ns) in zip(truths, pulses, strict=True):
        assert truth["energy_j"] == pytest.approx(BUSY_W * (fall_ns - rise_ns) / S, rel=0.01)
