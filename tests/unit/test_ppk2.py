"""The driver of the PPK2 and its simulator, over a pseudo-terminal and in real time."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import pytest

from drivers.meters.kept_port import KeptPort
from drivers.meters.ppk2 import Ppk2
from drivers.virtual.machine import switch_all_off
from drivers.virtual.ppk2_meter import VirtualPpk2
from drivers.virtual.rail import Rail, rail_of
from farm.connection import Connection
from farm.errors import ConfigError, ConnectError, ConnectionLost, MeterGap
from farm.metering import Chunk, VoltageSource
from farm.model import Address, Device

PATIENCE_S = 60.0
IDLE_W, BUSY_W = 0.0066, 0.2
NOBODY = cast(Connection, None)


def device(options: str, *, name: str = "kit", scheme: str = "virtual-ppk2:") -> Device:
    address = Address.parse(f"{scheme}?{options}")
    return Device(name=name, type="kit", address=Address.parse("local:"), meter=address)


@dataclass(frozen=True, kw_only=True)
class Taken:
    """The samples of some chunks."""

    t_ns: np.ndarray
    power_w: np.ndarray
    logic: np.ndarray
    range: np.ndarray
    lost: int
    saturated: int


def take(meter: Ppk2, count: int, *, pause_s: float = 0.0) -> Taken:
    """So many samples or a few more, those that were lost included."""
    chunks, deadline = [Chunk.empty()], time.monotonic() + PATIENCE_S
    while sum(len(chunk.t_ns) + chunk.lost for chunk in chunks) < count:
        assert time.monotonic() < deadline, "the samples do not come"
        chunks.append(meter.read(timeout_s=1.0))
        time.sleep(pause_s)
    return Taken(
        t_ns=np.concatenate([chunk.t_ns for chunk in chunks]),
        power_w=np.concatenate([chunk.power_w for chunk in chunks]),
        logic=np.concatenate([chunk.logic for chunk in chunks]),
        range=np.concatenate([chunk.range for chunk in chunks]),
        lost=sum(chunk.lost for chunk in chunks),
        saturated=sum(chunk.saturated for chunk in chunks),
    )


@pytest.fixture
def meter() -> Iterator[Callable[..., Ppk2]]:
    """Switches a virtual meter on and opens it."""
    with ExitStack() as stack:
        stack.callback(switch_all_off)

        def open_it(options: str = "volts=3.3", *, name: str = "kit", again: bool = False) -> Ppk2:
            if not again:
                rail = rail_of(name, volts=3.3, idle_w=IDLE_W)
                rail.step(time.monotonic_ns() - 10**9, IDLE_W)
            asked = device(options, name=name)
            found = replace(asked, meter=VirtualPpk2.start(asked))
            return stack.enter_context(closing(Ppk2(found, NOBODY)))

        yield open_it


def pulses(rail: Rail) -> None:
    """Busy for 20 of every 40 ms from now on, with the pin high."""
    begin = time.monotonic_ns()
    times = [begin + 20_000_000 * turn for turn in range(1000)]
    rail.plan(times, [BUSY_W, IDLE_W] * 500, [True, False] * 500)


@pytest.mark.parametrize("sync", ["D0", "!D5"])
def test_energy_and_pin_are_those_of_the_rail(meter: Callable[..., Ppk2], sync: str) -> None:
    opened = meter(f"volts=3.3&sync={sync}", name=f"pulsed-{sync}")
    rail = rail_of(f"pulsed-{sync}")
    pulses(rail)
    opened.start()
    taken = take(opened, 100_000)
    opened.stop()
    assert (taken.lost, taken.saturated) == (0, 0)
    assert (np.diff(taken.t_ns) == 10_000).all()
    ups, downs = (np.flatnonzero(np.diff(taken.logic.astype(int)) == way) for way in (1, -1))
    assert 20 <= len(ups) <= 40
    assert np.abs(np.diff(ups) - 4000).max() <= 1
    first, last = ups[0] + 1, ups[-1] + 1
    whole = (len(ups) - 1) * (BUSY_W + IDLE_W) * 0.02
    assert taken.power_w[first:last].sum() * 1e-5 == pytest.approx(whole, rel=2e-3)
    busy = downs[downs > ups[0]][0]
    assert taken.power_w[first + 100 : busy - 100].mean() == pytest.approx(BUSY_W, rel=2e-3)
    assert (np.bincount(taken.range, minlength=5) > 1000).tolist() == [
        False,
        False,
        True,
        False,
        True,
    ]


def test_times_are_the_hosts_but_for_how_late_samples_come(meter: Callable[..., Ppk2]) -> None:
    opened = meter("volts=3.3&sync=D0", name="timed")
    began = time.monotonic_ns()
    opened.start()
    taken = take(opened, 20_000)
    assert began <= taken.t_ns[0]
    assert taken.t_ns[-1] <= time.monotonic_ns()


def test_a_meter_that_feeds_the_device_is_set_before_it_is_switched_on(
    meter: Callable[..., Ppk2],
) -> None:
    opened = meter("mode=source&volts=1.8")
    facts = opened.facts()
    assert (facts.voltage, facts.voltage_v) == (VoltageSource.SET, 1.8)
    assert (facts.meter_class, facts.regular, facts.rate_hz) == ("ppk2", True, 100_000)
    assert len(facts.calibration) == 16
    opened.start()
    taken = take(opened, 5000)
    # The rail tells a current at 3.3 V; the meter takes it at its own voltage.
    assert taken.power_w[-4000:].mean() == pytest.approx(IDLE_W / 3.3 * 1.8, rel=5e-3)
    opened.close()
    again = meter("mode=source&volts=1.8", again=True)
    assert again.facts() == facts


def test_a_start_forgets_what_was_before(meter: Callable[..., Ppk2]) -> None:
    opened = meter("volts=3.3")
    for _ in range(2):
        opened.start()
        time.sleep(0.3)  # nobody reads
    began = time.monotonic_ns()
    opened.start()
    assert take(opened, 3000).t_ns[0] > began
    opened.stop()
    while len(opened.read(timeout_s=0.2).t_ns):
        pass


# Leaves a meter as a controller does that is killed while it measures.
KILLED = """
import os, signal, sys
from drivers.meters.kept_port import KeptPort
port = KeptPort(sys.argv[1], "kit")
port.write(b"\\x06")
assert port.read(20.0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_meter_that_still_streams_is_calmed_down_first(meter: Callable[..., Ppk2]) -> None:
    opened = meter("volts=3.3", name="left")
    facts = opened.facts()
    path = opened._port.name
    opened.close()
    killed = subprocess.run([sys.executable, "-c", KILLED, path], check=False, timeout=PATIENCE_S)
    assert killed.returncode < 0
    again = meter("volts=3.3", name="left", again=True)
    assert again.facts() == facts
    again.start()
    assert take(again, 3000).lost == 0


@pytest.mark.parametrize("fault", ["fragmented:1", "stale:1", "stale:1,fragmented:2"])
def test_a_garbled_calibration_is_read_whole_in_the_end(
    meter: Callable[..., Ppk2], fault: str
) -> None:
    sound = meter("volts=3.3").facts().calibration
    assert meter(f"volts=3.3&fault={fault}").facts().calibration == sound


@pytest.mark.parametrize(("fault", "key"), [("nan", "GI0"), ("implausible", "R0")])
def test_a_damaged_calibration_is_refused(meter: Callable[..., Ppk2], fault: str, key: str) -> None:
    with pytest.raises(MeterGap, match=f"no good: {key} is "):
        meter(f"volts=3.3&fault={fault}:1")


@pytest.mark.parametrize("dropped", [1, 63, 65, 100])
def test_dropped_words_are_a_gap_in_time(meter: Callable[..., Ppk2], dropped: int) -> None:
    opened = meter(f"volts=3.3&fault=drop-{dropped}:5000")
    opened.start()
    taken = take(opened, 20_000)
    seen = dropped % 64
    assert taken.lost == seen
    gaps = np.diff(taken.t_ns) // 10_000 - 1
    assert gaps[gaps > 0].tolist() == [seen]


@pytest.mark.parametrize("dropped", [64, 128])
def test_dropped_multiples_of_64_are_found_by_the_clock(
    meter: Callable[..., Ppk2], dropped: int
) -> None:
    opened = meter(f"volts=3.3&fault=drop-{dropped}:180000,stall-50:250000")
    opened.start()
    taken = take(opened, 400_000)
    # A computer that is short of time for seconds on end looks the same, so at least.
    assert taken.lost >= dropped
    assert taken.lost % 64 == 0
    assert (np.diff(taken.t_ns) // 10_000 - 1).sum() == taken.lost


def test_a_dropped_byte_costs_some_words_and_nothing_else(meter: Callable[..., Ppk2]) -> None:
    opened = meter("volts=3.3&sync=D2&fault=slip:5000")
    opened.start()
    taken = take(opened, 20_000)
    assert 2 <= taken.lost <= 3
    assert np.ptp(taken.power_w[10:]) < 0.05 * IDLE_W
    assert not taken.logic.any()


def test_stalls_and_slow_readers_lose_nothing(meter: Callable[..., Ppk2]) -> None:
    opened = meter("volts=3.3&fault=stall-50:5000,stall-1000:20000")
    opened.start()
    taken = take(opened, 50_000, pause_s=0.2)
    time.sleep(1.0)
    more = take(opened, 100_000)
    assert taken.lost + more.lost == 0
    assert more.t_ns[0] - taken.t_ns[-1] == 10_000


def test_chatter_and_full_scale_are_told(meter: Callable[..., Ppk2]) -> None:
    opened = meter("volts=3.3&fault=chatter:5000,full-scale:15000")
    opened.start()
    taken = take(opened, 30_000)
    assert taken.saturated == 100
    assert 200 <= (np.diff(taken.range.astype(int)) != 0).sum() <= 260
    assert taken.lost == 0


def test_a_counter_that_stands_still_is_told(meter: Callable[..., Ppk2]) -> None:
    opened = meter("volts=3.3&fault=stuck:5000")
    opened.start()
    with pytest.raises(MeterGap, match="stands still"):
        take(opened, 10_000_000)


def test_a_meter_that_is_unplugged_is_told_and_found_again(meter: Callable[..., Ppk2]) -> None:
    options = "volts=3.3&fault=unplug:5000"
    opened = meter(options, name="pulled")
    opened.start()
    with pytest.raises(ConnectionLost, match="vanished"):
        take(opened, 10_000_000)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            again = meter(options, name="pulled", again=True)
            break
        except (ConnectError, ConnectionLost):
            assert time.monotonic() < deadline
    again.start()
    assert take(again, 3000).lost == 0


def test_gain_and_a_swapped_wire_are_seen(meter: Callable[..., Ppk2]) -> None:
    rail_of("other", volts=3.3, idle_w=0.1).step(time.monotonic_ns() - 10**9, 0.1)
    plain = meter("volts=3.3&gain=1.05")
    swapped = meter("volts=3.3&sees=other", name="swapped")
    for opened, power_w in ((plain, 1.05 * IDLE_W), (swapped, 0.1)):
        opened.start()
        assert take(opened, 8000).power_w[-5000:].mean() == pytest.approx(power_w, rel=5e-3)
        opened.stop()


def test_a_meter_is_one_drivers_at_a_time(meter: Callable[..., Ppk2]) -> None:
    opened = meter("volts=3.3")
    with pytest.raises(ConnectError, match="somebody else measures"):
        KeptPort(opened._port.name, "kit")


@pytest.mark.parametrize(
    ("place", "options", "wrong"),
    [
        ("E1B2C3D4", "", "volts ''"),
        ("E1B2C3D4", "volts=12", "volts '12'"),
        ("E1B2C3D4", "volts=nan", "volts 'nan'"),
        ("E1B2C3D4", "volts=3.3&mode=both", "mode 'both'"),
        ("host:123", "volts=3.3", "'host:123' names no meter"),
        ("", "volts=3.3", "'' names no meter"),
    ],
)
def test_addresses_that_can_never_work_are_refused(place: str, options: str, wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong) as caught:
        Ppk2.check(device(options, scheme=f"ppk2://{place}"))
    assert caught.value.device == "kit"
    assert caught.value.hint


def test_a_number_that_is_not_plugged_in_is_told() -> None:
    asked = device("volts=3.3", scheme="ppk2://NOSUCHNUMBER")
    Ppk2.check(asked)
    with pytest.raises(ConnectError, match="'NOSUCHNUMBER' is plugged in"):
        Ppk2(asked, NOBODY)


@pytest.mark.parametrize("options", ["fault=fire:1", "fault=slip", "gain=0", "seed=x"])
def test_what_a_virtual_meter_cannot_be_is_refused(options: str) -> None:
    with pytest.raises(ConfigError):
        VirtualPpk2.check(device(options))
