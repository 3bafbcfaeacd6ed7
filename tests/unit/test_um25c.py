"""The UM25C and its siblings: the driver against virtual ones, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from drivers.meters.um25c import Um25c
from drivers.virtual.um25c_meter import VirtualUm25c
from farm.errors import ConfigError, ConnectionLost
from farm.metering import METER_CLASSES, ClockDomain
from farm.model import Device
from tests.unit.serial_meters import metered, read_until

NOBODY: Any = None


@contextmanager
def switched_on(device: Device) -> Iterator[Um25c]:
    """The driver of a device's virtual meter."""
    VirtualUm25c.check(device)
    with closing(Um25c(replace(device, meter=VirtualUm25c.start(device)), NOBODY)) as meter:
        yield meter


@pytest.mark.parametrize("model", ["UM24C", "UM25C", "UM34C"])
def test_every_model_is_told_and_read_in_its_own_units(model: str) -> None:
    device, _ = metered(f"virtual-um25c://{model}?gain=0.9", idle_w=2.0)
    with switched_on(device) as meter:
        facts = meter.facts()
        meter.start()
        chunk = read_until(meter, lambda c: len(c.t_ns) >= 3)
        meter.stop()
    assert facts.meter_class in METER_CLASSES
    assert facts.model == model
    assert facts.clock is ClockDomain.HOST
    assert facts.lag_s > 0
    assert not facts.serial
    assert chunk.lost == 0
    assert chunk.power_w == pytest.approx(1.8, abs=0.006)


def test_a_frame_out_of_step_is_found() -> None:
    device, _ = metered("virtual-um25c://?fault=shift:3,shift:4")
    with switched_on(device) as meter:
        meter.start()
        chunk = read_until(meter, lambda c: len(c.t_ns) >= 6)
    assert chunk.power_w == pytest.approx(1.5, abs=0.006)


@pytest.mark.parametrize(
    ("model", "fault"), [("UM25C", "damaged:4"), ("UM34C", "damaged:4"), ("UM25C", "short:4")]
)
def test_damaged_answers_are_lost_and_counted(model: str, fault: str) -> None:
    device, _ = metered(f"virtual-um25c://{model}?fault={fault}")
    with switched_on(device) as meter:
        meter.start()
        chunk = read_until(meter, lambda c: len(c.t_ns) >= 5)
    assert chunk.lost >= 1
    assert np.all(chunk.power_w < 1.6)
    assert np.all(chunk.power_w > 1.4)


def test_one_that_vanishes_is_told() -> None:
    device, _ = metered("virtual-um25c://?fault=unplug:4")
    with switched_on(device) as meter:
        meter.start()
        with pytest.raises(ConnectionLost):
            read_until(meter, lambda c: len(c.t_ns) >= 20)


def test_what_can_never_work_is_refused() -> None:
    with pytest.raises(ConfigError, match="names no serial port"):
        Um25c.check(metered("um25c://")[0])
    with pytest.raises(ConfigError, match="no virtual meter 'UM26C'") as caught:
        VirtualUm25c.check(metered("virtual-um25c://UM26C")[0])
    assert "UM2" in caught.value.hint
