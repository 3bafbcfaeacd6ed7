"""The TC66C: its driver against a virtual one, byte for byte."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from drivers.meters.tc66c import Tc66c
from drivers.virtual.rail import Rail
from drivers.virtual.serial_meter import Lagging
from drivers.virtual.tc66c_meter import VirtualTc66c
from farm.errors import ConfigError, ConnectError, ConnectionLost
from farm.metering import METER_CLASSES, ClockDomain, VoltageSource
from farm.model import Address, Device
from tests.unit.serial_meters import metered, read_until

NOBODY: Any = None


@contextmanager
def switched_on(device: Device) -> Iterator[Tc66c]:
    """The driver of a device's virtual meter."""
    VirtualTc66c.check(device)
    with closing(Tc66c(replace(device, meter=VirtualTc66c.start(device)), NOBODY)) as meter:
        yield meter


def test_it_tells_who_it_is() -> None:
    device, _ = metered("virtual-tc66c://?seed=3")
    with switched_on(device) as meter:
        facts = meter.facts()
    assert facts.meter_class in METER_CLASSES
    assert (facts.model, facts.firmware) == ("TC66", "1.14")
    assert int(facts.serial) > 0
    assert facts.clock is ClockDomain.HOST
    assert facts.voltage is VoltageSource.MEASURED
    assert facts.lag_s == 0.5
    assert not facts.regular


def test_its_power_is_that_of_the_rail_after_it_has_followed() -> None:
    device, rail = metered("virtual-tc66c://?gain=1.05", idle_w=1.0)
    with switched_on(device) as meter:
        meter.start()
        first = read_until(meter, lambda c: len(c.t_ns) >= 2)
        rail.step(time.monotonic_ns(), 4.0)
        chunk = read_until(meter, lambda c: len(c.t_ns) >= 18)
        meter.stop()
    assert first.power_w == pytest.approx(1.05, rel=2e-3)
    assert chunk.lost == 0
    assert not len(chunk.logic)
    assert np.all(np.diff(chunk.t_ns) > 0)
    assert np.all(np.diff(chunk.power_w) > -0.01)
    assert chunk.power_w[-1] == pytest.approx(4.2, rel=2e-3)


def test_it_follows_a_step_like_a_capacitor() -> None:
    rail = Rail(volts=5.0, idle_w=1.0)
    at = 100 * 10**9
    rail.step(at, 2.0)
    shown = Lagging(rail, 0.16, 0.02)
    after_s = np.array([0.0, 0.08, 0.16, 0.32, 1.6])
    watts = [shown.power_w(at + round(s * 1e9)) for s in after_s]
    assert watts == pytest.approx(2 - np.exp(-after_s / 0.16), abs=1e-3)
    assert shown.power_w(at + 1_610_000_000) == watts[-1]  # nothing new yet


@pytest.mark.parametrize(("fault", "least"), [("crc:5,crc:9", 2), ("short:6", 1)])
def test_damaged_answers_are_lost_and_counted(fault: str, least: int) -> None:
    device, _ = metered(f"virtual-tc66c://?fault={fault}")
    with switched_on(device) as meter:
        meter.start()
        chunk = read_until(meter, lambda c: len(c.t_ns) >= 10)
    assert chunk.lost >= least
    assert chunk.power_w == pytest.approx(1.5, rel=2e-3)


def test_a_stalled_meter_yields_nothing_and_then_goes_on() -> None:
    device, _ = metered("virtual-tc66c://?fault=stall:3")
    with switched_on(device) as meter:
        meter.start()
        chunk = read_until(meter, lambda c: c.lost > 0 and len(c.t_ns) >= 5)
    assert chunk.lost >= 5
    assert np.diff(chunk.t_ns).max() > 1e9


def test_one_that_vanishes_is_found_again_by_the_next_start() -> None:
    device, _ = metered("virtual-tc66c://?fault=unplug:4")
    with switched_on(device) as meter:
        meter.start()
        with pytest.raises(ConnectionLost):
            read_until(meter, lambda c: len(c.t_ns) >= 20)
        with pytest.raises(ConnectionLost):
            meter.read(timeout_s=0.1)
        deadline = time.monotonic() + 30
        while True:
            try:
                meter.start()
                break
            except ConnectError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        assert len(read_until(meter, lambda c: len(c.t_ns) >= 3).t_ns) >= 3
        meter.close()
        meter.close()


def test_another_meter_than_the_one_meant_is_refused() -> None:
    device, _ = metered("virtual-tc66c://")
    with switched_on(device) as meter:
        serial = meter.facts().serial
    place = VirtualTc66c.start(device)
    right = Address(scheme="tc66c", place=place.place, options=(("serial", serial),))
    Tc66c(replace(device, meter=right), NOBODY).close()
    wrong = replace(right, options=(("serial", "7"),))
    with pytest.raises(ConnectError, match=f"another meter is there: {serial}, not 7") as caught:
        Tc66c(replace(device, meter=wrong), NOBODY)
    assert "serial" in caught.value.hint


def test_what_is_no_tc66c_is_refused() -> None:
    far, near = os.openpty()
    device, _ = metered(f"tc66c://{os.ttyname(near)}")
    with pytest.raises(ConnectError, match="no TC66C answers at /dev/pts/"):
        Tc66c(device, NOBODY)
    os.close(far)
    os.close(near)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("tc66c://two words", "names no serial port"),
        ("tc66c:///dev/ttyACM0?serial=ab", "no serial number of a TC66C"),
        ("tc66c:///dev/ttyACM0?serial=%C2%B2", "no serial number of a TC66C"),
        ("tc66c:///dev/ttyACM0?serial=4294967296", "no serial number of a TC66C"),
    ],
)
def test_addresses_that_can_never_work_are_refused(address: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Tc66c.check(metered(address)[0])
    assert caught.value.hint
    Tc66c.check(metered("tc66c:///dev/serial/by-id/usb-TC66?serial=1234")[0])


@pytest.mark.parametrize(
    "option",
    ["serial=x", "fault=crc", "fault=flood:3", "fault=crc:x", "gain=0", "gain=big", "seed=-1"],
)
def test_wishes_that_no_virtual_meter_fulfils_are_refused(option: str) -> None:
    with pytest.raises(ConfigError):
        VirtualTc66c.check(metered(f"virtual-tc66c://?{option}")[0])
