"""Virtual devices do what their constants say."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from drivers.virtual.cost import work_units
from drivers.virtual.physics import PROFILES, Body, Noise, Profile
from drivers.virtual.transport import VirtualTransport
from farm.errors import CommandTimeout, ConfigError
from farm.model import Address, Device

PHONE = PROFILES["phone"]


def _device(address: str, name: str = "v") -> Device:
    return Device(name=name, type="t", address=Address.parse(address))


def test_the_level_has_the_variance_and_the_share_it_was_given() -> None:
    profile = Profile(
        seconds_per_unit=1, level_cv=0.1, shared=0.8, spread_cv=0, tail_rate=0, tail_factor=1
    )
    noise = Noise(profile, seed=1)
    levels = np.log([[noise.next_level() for _ in range(4)] for _ in range(4000)])
    assert levels.std() == pytest.approx(0.0998, rel=0.03)
    between = levels.mean(axis=1).var() - levels.var(axis=1, ddof=1).mean() / 4
    assert between / levels.var() == pytest.approx(0.8, abs=0.02)


def test_the_spread_has_a_median_of_one_and_the_tail_it_was_given() -> None:
    profile = Profile(
        seconds_per_unit=1, level_cv=0, shared=0, spread_cv=0.01, tail_rate=0.05, tail_factor=3
    )
    spread = Noise(profile, seed=2).spread(100_000)
    assert np.median(spread) == pytest.approx(1, abs=0.005)
    assert (spread > 2).mean() == pytest.approx(0.05, abs=0.005)


def test_the_same_seed_gives_the_same_noise() -> None:
    one, two = Noise(PHONE, seed=3), Noise(PHONE, seed=3)
    assert [one.next_level() for _ in range(9)] == [two.next_level() for _ in range(9)]


def test_heat_rises_to_its_steady_state_and_falls_back() -> None:
    body = Body(PHONE, temperature_c=PHONE.ambient_c)
    body.pass_time(PHONE.heat_time_s, PHONE.busy_w)
    rise = PHONE.heat_c_per_w * PHONE.busy_w
    assert body.temperature_c == pytest.approx(PHONE.ambient_c + rise * (1 - np.exp(-1)))
    body.pass_time(100 * PHONE.heat_time_s, 0.0)
    assert body.temperature_c == pytest.approx(PHONE.ambient_c)


def test_a_battery_charges_and_never_leaves_its_bounds() -> None:
    body = Body(PHONE, temperature_c=25, battery_pct=50)
    body.pass_time(3600, 0.0)
    assert body.battery_pct == pytest.approx(50 + 100 * PHONE.charger_w / PHONE.battery_wh)
    body.pass_time(10**6, 0.0)
    assert body.battery_pct == 100


def test_work_is_counted_from_the_graph(digits: Path) -> None:
    base, slow = (
        work_units(digits / "int8.onnx"),
        work_units(digits / "candidates" / "int8_slow.onnx"),
    )
    assert 117 < base < 180  # 117,760 multiply-accumulates and ten nodes
    assert slow > 2 * base
    assert work_units(digits / "candidates" / "int8_ruined.onnx") == base


def _measure(
    transport: VirtualTransport, digits: Path, name: str, **load: float
) -> tuple[np.ndarray, dict[str, object]]:
    loadgen = Path("drivers/ondevice/loadgen.py").resolve()
    spec = {
        "mode": "measure", "model": str(digits / name), "inputs": None, "dimensions": {},
        "accelerator": "cpu",
        "load": {"min_duration_s": 0.0, "min_queries": 100, "max_duration_s": 60.0,
                 "warmup_s": 0.0, "threads": 1, **load},
    }  # fmt: skip
    folder = transport.root / "runs" / f"{transport.clock.now_ns()}"
    argv = ("python3", str(loadgen), json.dumps(spec))
    transport.start(argv, folder=PurePosixPath(folder)).wait(100)
    result = json.loads((Path(folder) / "result.json").read_text())
    return np.load(Path(folder) / "latency.npy"), result


def test_time_is_work_times_speed_and_the_truth_is_told(digits: Path, tmp_path: Path) -> None:
    transport = VirtualTransport(_device(f"virtual://camera?root={tmp_path / 'd'}"))
    (starts, durations), _ = _measure(transport, digits, "int8.onnx", min_queries=2000)
    (truth,) = transport.unit.truth
    expected = work_units(digits / "int8.onnx") * PROFILES["camera"].seconds_per_unit * 1e9
    assert np.median(durations) == pytest.approx(expected * truth.level, rel=0.01)
    assert np.median(durations) == pytest.approx(truth.p50_ns)
    assert (starts[1:] == starts[:-1] + durations[:-1]).all()
    told = (tmp_path / "d" / "truth.jsonl").read_text()
    assert json.loads(told)["p50_ns"] == truth.p50_ns


def test_a_hot_device_throttles(digits: Path, tmp_path: Path) -> None:
    transport = VirtualTransport(_device(f"virtual://phone?root={tmp_path / 'd'}"))
    transport.unit.body.temperature_c = 90
    _measure(transport, digits, "int8.onnx")
    assert transport.unit.throttled
    assert transport.unit.truth[0].throttled


def test_virtual_time_passes_only_when_somebody_waits(digits: Path, tmp_path: Path) -> None:
    transport = VirtualTransport(_device(f"virtual://phone?root={tmp_path / 'd'}"))
    before = transport.clock.now_ns()
    assert transport.clock.now_ns() == before
    transport.clock.sleep(1.5)
    assert transport.clock.now_ns() == before + 1_500_000_000
    _measure(transport, digits, "int8.onnx", min_duration_s=30.0)
    assert transport.clock.now_ns() > before + 31_000_000_000


def test_a_deadline_in_virtual_time_is_a_timeout(digits: Path, tmp_path: Path) -> None:
    transport = VirtualTransport(_device(f"virtual://phone?root={tmp_path / 'd'}&fault=hang:1"))
    with pytest.raises(CommandTimeout):
        _measure(transport, digits, "int8.onnx")


@pytest.mark.parametrize("address", ["virtual://fone", "virtual://phone?fault=melt:1"])
def test_an_address_that_cannot_be_is_refused_with_what_can(address: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        VirtualTransport(_device(f"{address}{'&' if '?' in address else '?'}root={tmp_path}"))
    assert caught.value.hint
