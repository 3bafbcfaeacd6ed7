"""Joulescopes: streams become samples, gaps stay gaps, and what is played is the maker's driver."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from drivers import joulescope_bus
from drivers.meters.joulescope import Joulescope
from drivers.meters.joulescope_blocks import WRAP, Blocks, last, mean
from drivers.virtual.joulescope_meter import VirtualJoulescope
from drivers.virtual.machine import switch_all_off
from drivers.virtual.rail import Rail, rail_of
from farm.connection import Connection
from farm.errors import ConfigError, ConnectError, ConnectionLost, MeterGap
from farm.metering import Chunk
from farm.model import Address, Device

NO_CONNECTION = cast(Connection, None)
PATIENCE_S = 40.0
_numbers = itertools.count()


def a_device(meter: str, name: str = "dut") -> Device:
    return Device(name=name, type="t", address=Address.parse("local:"), meter=Address.parse(meter))


@pytest.fixture
def played() -> Iterator[Callable[[str], tuple[Joulescope, Rail]]]:
    """Switches a virtual one on, on a rail of its own that idles at 0.5 W, and opens it."""
    opened: list[Joulescope] = []

    def play(options: str = "") -> tuple[Joulescope, Rail]:
        device = a_device(f"virtual-joulescope://{options}", f"dut-{next(_numbers)}")
        rail = rail_of(device.name, volts=5.0, idle_w=0.5)
        VirtualJoulescope.check(device)
        device = replace(device, meter=VirtualJoulescope.start(device))
        opened.append(Joulescope(device, NO_CONNECTION))
        return opened[-1], rail

    yield play
    for meter in opened:
        meter.close()
    switch_all_off()


def read_until(meter: Joulescope, enough: Callable[[list[Chunk]], bool]) -> list[Chunk]:
    """Chunks until there are enough, however slow this machine is."""
    chunks: list[Chunk] = []
    patience = time.monotonic() + PATIENCE_S
    while time.monotonic() < patience:
        chunks.append(meter.read(timeout_s=0.2))
        if enough(chunks):
            return chunks
    raise AssertionError("it does not send what is waited for")


def some(chunks: list[Chunk]) -> bool:
    return bool(len(chunks[-1].t_ns))


def never(_: list[Chunk]) -> bool:
    return False


def pulse_seen(chunks: list[Chunk]) -> bool:
    """Whether the input was high, and is low again."""
    logic = joined(chunks, "logic")
    return bool(logic.any() and not logic[-1])


def joined(chunks: list[Chunk], field: str) -> Any:
    return np.concatenate([getattr(chunk, field) for chunk in chunks])


# --- blocks ---


def message(first: int, step: int) -> dict[str, Any]:
    return {"sample_id": first, "sample_rate": 2_000_000, "decimate_factor": step}


@pytest.mark.parametrize("first", [0, 12_340, WRAP - 4_000])
def test_streams_in_any_portions_become_the_same_blocks(first: int) -> None:
    seed = int(np.random.default_rng().integers(1 << 32))
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    n = 4000
    power = random.random(n, np.float32)
    pin = random.integers(0, 2, 2 * n, np.uint8)
    blocks = Blocks(100_000, {"power": mean, "logic": last})
    sent = {"power": 0, "logic": 0}
    numbers: list[int] = []
    got: dict[str, list[float]] = {"power": [], "logic": []}
    while sent["power"] < n or sent["logic"] < 2 * n:
        name, step, source = [("power", 2, power), ("logic", 1, pin)][int(random.integers(2))]
        at = sent[name]
        part = source[at : at + int(random.integers(1, 300))]
        if len(part):
            blocks.add(name, message((first + at * step) % WRAP, step), part)
            sent[name] += len(part)
        found, values, lost = blocks.take()
        assert lost == 0
        numbers += found.tolist()
        for one in got:
            got[one] += values[one].tolist()
    skipped = -first % 20  # a block is twenty ids
    whole = (2 * n - skipped) // 20
    assert np.diff(numbers).tolist() == [1] * (whole - 1)
    expected = power[skipped // 2 :][: whole * 10].reshape(-1, 10).astype(float).mean(axis=1)
    np.testing.assert_allclose(got["power"], expected)
    np.testing.assert_array_equal(got["logic"], pin[skipped:][19 : whole * 20 : 20])


def test_a_gap_in_one_stream_loses_the_blocks_that_it_touches() -> None:
    blocks = Blocks(100_000, {"power": mean, "logic": last})
    blocks.add("power", message(0, 2), np.ones(105, np.float32))
    blocks.add("power", message(2 * 125, 2), np.ones(375, np.float32))
    blocks.add("logic", message(0, 1), np.zeros(1000, np.uint8))
    numbers, values, lost = blocks.take()
    assert numbers.tolist() == [*range(10), *range(13, 50)]
    assert lost == 3
    assert len(values["logic"]) == len(values["power"]) == 47


@pytest.mark.parametrize("again", [0, 5, 40, 95, 100])
def test_what_is_sent_twice_counts_once(again: int) -> None:
    values = np.arange(200, dtype=np.float32)
    blocks = Blocks(100_000, {"power": mean})
    blocks.add("power", message(0, 2), values[:105])
    blocks.add("power", message(2 * (100 - again), 2), values[100 - again : 105])
    blocks.add("power", message(2 * (105 - min(again, 103)), 2), values[105 - min(again, 103) :])
    numbers, found, lost = blocks.take()
    assert (numbers.tolist(), lost) == (list(range(20)), 0)
    np.testing.assert_allclose(found["power"], np.arange(200).reshape(20, 10).mean(axis=1))


def test_a_gap_of_less_than_a_block_loses_one() -> None:
    blocks = Blocks(1000, {"power": mean})
    blocks.add("power", message(0, 2), np.ones(2500, np.float32))
    blocks.add("power", message(2 * 2501, 2), np.ones(100, np.float32))
    blocks.add("power", message(2 * 2601, 2), np.ones(2399, np.float32))
    numbers, _, lost = blocks.take()
    assert (numbers.tolist(), lost) == ([0, 1, 3, 4], 1)


def test_a_sample_that_is_no_number_makes_its_block_none() -> None:
    blocks = Blocks(100_000, {"power": mean})
    values = np.ones(30, np.float32)
    values[14] = np.nan
    blocks.add("power", message(0, 2), values)
    _, found, lost = blocks.take()
    assert np.isnan(found["power"]).tolist() == [False, True, False]
    assert lost == 0


# --- the meter, on one that is played ---


def test_energy_and_edges_are_those_of_the_rail(played: Callable[..., Any]) -> None:
    meter, rail = played("?sync=0")
    facts = meter.facts()
    assert (facts.meter_class, facts.firmware, facts.rate_hz) == ("js220", "1.3.0", 100_000)
    assert facts.simulated
    meter.start()
    begin = time.monotonic_ns() + 300_000_000
    rail.plan([begin, begin + 200_000_000], [3.0, 0.5], [True, False])
    chunks = read_until(meter, pulse_seen)
    logic, power_w = joined(chunks, "logic"), joined(chunks, "power_w")
    assert len(logic) == len(power_w) == len(joined(chunks, "range"))
    high = np.flatnonzero(logic)
    assert len(high) == pytest.approx(20_000, abs=1)
    assert power_w[high].sum() * 1e-5 == pytest.approx(0.6, rel=2e-4)
    assert power_w[: high[0] - 1].mean() == pytest.approx(0.5, rel=1e-4)
    assert (np.diff(joined(chunks, "t_ns")) == 10_000).all()
    assert sum(chunk.lost for chunk in chunks) == 0


def test_a_low_input_a_gain_and_a_slow_rate(played: Callable[..., Any]) -> None:
    meter, rail = played("?sync=!trigger&gain=1.05&rate=1000")
    meter.start()
    begin = time.monotonic_ns() + 200_000_000
    rail.plan([begin, begin + 100_000_000], [2.0, 0.5], [True, False])
    chunks = read_until(meter, pulse_seen)
    high = np.flatnonzero(joined(chunks, "logic"))
    assert len(high) == pytest.approx(100, abs=1)
    assert joined(chunks, "power_w")[high[1:-1]].mean() == pytest.approx(2.1, rel=1e-4)
    assert (np.diff(joined(chunks, "t_ns")) == 1_000_000).all()


def test_what_is_missing_is_lost_and_leaves_a_gap(played: Callable[..., Any]) -> None:
    meter, _ = played("?sync=1&fault=drop:10,repeat:15,drop-power:20,stall:30")
    meter.start()
    chunks = read_until(meter, lambda chunks: sum(len(one.t_ns) for one in chunks) > 40_000)
    assert sum(chunk.lost for chunk in chunks) == 2000
    steps = np.diff(joined(chunks, "t_ns"))
    assert np.flatnonzero(steps != 10_000).size == 2
    assert steps.max() == 10_010_000


def test_it_can_be_started_again(played: Callable[..., Any]) -> None:
    meter, _ = played()
    for _ in range(2):
        meter.start()
        chunks = read_until(meter, some)
        assert sum(chunk.lost for chunk in chunks) == 0
        assert not len(joined(chunks, "logic"))
        meter.stop()
    assert not len(meter.read(timeout_s=0.1).t_ns)


def test_one_that_is_unplugged_is_told_and_found_again(played: Callable[..., Any]) -> None:
    meter, _ = played("?fault=unplug:10")
    meter.start()
    with pytest.raises(ConnectionLost, match="JS220 vanished"):
        read_until(meter, never)
    patience = time.monotonic() + PATIENCE_S
    while True:
        try:
            meter.start()
            break
        except ConnectError:
            assert time.monotonic() < patience
    read_until(meter, some)


def test_one_that_another_has_cannot_be_opened(played: Callable[..., Any]) -> None:
    meter, _ = played()
    label = f"joulescope://JS220-{meter.facts().serial}"
    with pytest.raises(ConnectError, match="IN_USE") as caught:
        Joulescope(a_device(label), NO_CONNECTION)
    assert "Joulescope UI" in caught.value.hint


def test_a_rate_that_does_not_fit_is_a_gap(played: Callable[..., Any]) -> None:
    meter, _ = played()
    meter.start()
    odd = {"sample_id": 0, "sample_rate": 1_999_999, "decimate_factor": 2, "data": np.ones(10)}
    meter._heard.put(("power", time.monotonic_ns(), odd))
    with pytest.raises(MeterGap, match="no multiple of 100000"):
        read_until(meter, never)


# --- addresses, and the maker's package ---


@pytest.mark.parametrize(
    ("meter", "said"),
    [
        ("joulescope://", "'' is no label"),
        ("joulescope://JS320-1", "'JS320-1' is no label"),
        ("joulescope://JS220-../1", "is no label"),
        ("joulescope://JS110-1?sync=!2", "a JS110 has no input '2'"),
        ("joulescope://JS110-1?sync=trigger", "a JS110 has no input 'trigger'"),
        ("joulescope://JS220-1?rate=12345", "'12345' is no rate"),
        ("joulescope://JS220-1?rate=", "'' is no rate"),
    ],
)
def test_addresses_that_can_never_work(meter: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Joulescope.check(a_device(meter))


def test_addresses_that_can() -> None:
    Joulescope.check(a_device("joulescope://js220-001234?sync=!3&rate=1000"))


@pytest.mark.parametrize("options", ["?gain=x", "?seed=-1", "?fault=melt:1", "?fault=drop"])
def test_a_virtual_one_refuses_what_it_cannot_play(options: str) -> None:
    with pytest.raises(ConfigError):
        VirtualJoulescope.check(a_device(f"virtual-joulescope://{options}"))


def test_the_package_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyjoulescope_driver", None)
    joulescope_bus._makers.cache_clear()
    with pytest.raises(ConfigError, match="pyjoulescope_driver") as caught:
        Joulescope(a_device("joulescope://JS220-001234"), NO_CONNECTION)
    assert "verdict-farm[joulescope]" in caught.value.hint


def test_with_the_makers_driver_and_nothing_plugged_in(lacks: Callable[[str], None]) -> None:
    try:
        import pyjoulescope_driver
    except ModuleNotFoundError:
        lacks("pyjoulescope_driver is not installed: pip install 'verdict-farm[joulescope]'")
    for name, method in vars(joulescope_bus.Bus).items():
        if callable(method) and not name.startswith("_"):
            assert callable(getattr(pyjoulescope_driver.Driver, name)), name
    with pytest.raises(ConnectError, match="no JS220-0NONE is plugged in"):
        Joulescope(a_device("joulescope://JS220-0NONE"), NO_CONNECTION)
