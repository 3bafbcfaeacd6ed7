"""Virtual devices beside a meter: what they say they did is what their rail shows, in real time."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest

from drivers.virtual.physics import PROFILES
from drivers.virtual.rail import Rail, rail_of
from drivers.virtual.real_time import plan_window
from drivers.virtual.transport import VirtualTransport
from farm.metering import CHIPS_APART, MARK, SpanKind
from farm.model import Address, Device

S = 10**9
CAMERA = PROFILES["camera"]
LOADGEN = Path("drivers/ondevice/loadgen.py").resolve()
METERED = {"idle_s": 0.1, "chip_s": 0.02, "gpio": "/dev/gpiochip0:17"}
LOAD = {"min_duration_s": 0.3, "min_queries": 70, "max_duration_s": 60, "warmup_s": 0, "threads": 1}


def spec_of(model: Path, metered: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "mode": "measure", "model": str(model), "inputs": None, "dimensions": {},
        "accelerator": "cpu", "load": LOAD, "metered": metered,
    }  # fmt: skip


def measure(transport: VirtualTransport, spec: dict[str, Any]) -> dict[str, Any]:
    folder = Path(transport.root) / "run"
    argv = ("python3", str(LOADGEN), json.dumps(spec))
    transport.start(argv, folder=PurePosixPath(folder)).wait(100)
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def camera(tmp_path: Path) -> VirtualTransport:
    address = Address.parse(f"virtual://camera?root={tmp_path / 'd'}")
    return VirtualTransport(Device(name=f"{tmp_path}", type="t", address=address))


def test_a_window_takes_real_time_and_its_energy_is_the_truth(digits: Path, tmp_path: Path) -> None:
    transport = camera(tmp_path)
    rail = rail_of(transport.device.name)
    before_ns, clock_ns = time.time_ns(), transport.clock.now_ns()
    spans = measure(transport, spec_of(digits / "int8.onnx", METERED))["spans"]
    after_ns, passed_ns = time.time_ns(), transport.clock.now_ns() - clock_ns
    assert [kind for kind, *_ in spans] == ["idle", "mark", "window", "mark", "idle"]
    assert before_ns < spans[0][1]
    assert spans[-1][2] <= after_ns
    told_ns = spans[-1][2] - spans[0][1]
    assert told_ns < passed_ns < told_ns + 2 * S, "its own time is that of everybody"
    assert all(one[2] <= two[1] for one, two in pairwise(spans))

    durations = np.load(tmp_path / "d" / "run" / "latency.npy")[1]
    _, start_ns, end_ns, inferences = spans[2]
    assert inferences == len(durations)
    assert end_ns - start_ns == durations.sum() >= 0.3 * S
    (line,) = (tmp_path / "d" / "energy.jsonl").read_text().splitlines()
    truth = json.loads(line)
    assert (truth["start_ns"], truth["end_ns"]) == (start_ns, end_ns)
    assert (truth["inferences"], truth["model_sha256"]) == (inferences, "int8.onnx")
    host_ns = time.time_ns() - time.monotonic_ns()
    edges = np.linspace(start_ns - host_ns, end_ns - host_ns, 501).astype(np.int64)
    energy = float((rail.mean_power_w(edges) * np.diff(edges) / S).sum())
    assert truth["energy_j"] == pytest.approx(energy, rel=0.02)  # the two clocks are read in turn
    assert truth["energy_j"] / durations.sum() * S == pytest.approx(CAMERA.busy_w, rel=0.02)
    assert truth["idle_w"] == CAMERA.idle_w


def test_without_a_meter_nothing_waits_and_nothing_is_drawn(digits: Path, tmp_path: Path) -> None:
    transport = camera(tmp_path)
    spec = spec_of(digits / "int8.onnx", None)
    result = measure(transport, {**spec, "load": {**LOAD, "min_duration_s": 50}})
    assert not result.get("spans")
    assert not (tmp_path / "d" / "energy.jsonl").exists()
    now_ns = time.monotonic_ns()
    rail = rail_of(transport.device.name)
    assert rail.energy_j(now_ns, now_ns + 50 * S) == pytest.approx(50 * CAMERA.idle_w)


@pytest.mark.parametrize(("gpio", "chip_s"), [("/dev/gpiochip0:17", 0.0), ("", 0.25)])
def test_the_rail_shows_each_span_where_it_is_said_to_be(gpio: str, chip_s: float) -> None:
    durations = np.full(3000, 1_111_111, np.int64)
    metered = {"idle_s": 2.0, "chip_s": chip_s, "gpio": gpio}
    spec = {"metered": metered, "load": {"warmup_s": 0.5}}
    timeline = plan_window(10 * S, CAMERA, spec, durations, np.random.default_rng(7))
    rail = Rail(volts=5.0, idle_w=CAMERA.idle_w)
    timeline.happen(rail)
    spans = {span.kind: span for span in timeline.spans}
    window, idle = spans[SpanKind.WINDOW], timeline.spans[0]
    for span in timeline.spans:
        inside = np.arange(span.start_ns, span.end_ns, S // 1000)
        assert (rail.pin_at(inside) == (bool(gpio) and span.kind is SpanKind.WINDOW)).all()
    outside = np.array([window.start_ns - 1, window.end_ns, timeline.end_ns], np.int64)
    assert not rail.pin_at(outside).any()
    assert rail.energy_j(idle.start_ns, idle.end_ns) == pytest.approx(2 * CAMERA.idle_w)
    assert window.end_ns - window.start_ns == durations.sum()
    if not chip_s:
        assert len(timeline.spans) == 3
        return
    mark = spans[SpanKind.MARK]
    edges = mark.start_ns + np.arange(len(MARK) + 1) * S // 4
    chips = rail.mean_power_w(edges)
    assert chips == pytest.approx(np.where(MARK, CAMERA.busy_w, CAMERA.idle_w))
    apart = int(CHIPS_APART * chip_s * S)
    gaps = [two.start_ns - one.end_ns for one, two in pairwise(timeline.spans)]
    assert gaps == [0, apart, apart, 0]


def test_a_long_window_is_no_heavier_than_its_time(tmp_path: Path) -> None:
    spec = {"metered": {**METERED, "chip_s": 0}, "load": {"warmup_s": 0}}
    durations = np.full(100_000, 10_000, np.int64)  # a second of inferences of ten microseconds
    timeline = plan_window(0, CAMERA, spec, durations, np.random.default_rng(1))
    assert len(timeline._t_ns) < 600
    slow = plan_window(0, CAMERA, spec, np.full(5, S, np.int64), np.random.default_rng(1))
    assert len(slow._t_ns) == 2 + 1 + 5 + 1
