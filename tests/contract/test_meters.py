"""Our power meters keep what the interface promises, each before its virtual twin."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import ClassVar, cast

import numpy as np
import pytest

from drivers.meters import polled
from drivers.meters.tc66c import Tc66c
from drivers.meters.um25c import Um25c
from drivers.virtual.hwmon_meter import switch_all_off as remove_files
from drivers.virtual.machine import switch_all_off
from drivers.virtual.rail import rail_of
from farm.connection import Connection
from farm.metering import METER_CLASSES, Chunk
from farm.model import Address, Device
from farm.plugins import find_meter, open_meter
from farm.protocols import Meter
from farm.testing.meters import ENOUGH, MeterContract

VOLTS, WATTS = 3.0, 0.6
PERIOD_S, READ_S = 0.02, 0.1
"""A virtual meter answers as often as it is asked, and nobody waits for a second's worth."""
SETTLED_S, SLOW_S = 0.15, 0.05
"""By then a meter shows a new level, unless it is one of the slow ones."""
NO_CONNECTION = cast("Connection", None)
"""These meters need nothing of the device."""


class VirtualTwin(MeterContract):
    """A production driver before a virtual meter, whose device draws power."""

    address: ClassVar[str]

    @pytest.fixture
    def device(self, monkeypatch: pytest.MonkeyPatch) -> Device:
        for slow in (Tc66c, Um25c):
            monkeypatch.setattr(slow, "period_s", PERIOD_S)
        monkeypatch.setattr(polled, "FULL_S", READ_S)
        name = f"dut-{uuid.uuid4().hex[:12]}"  # nobody else has its rail
        rail_of(name, volts=VOLTS, idle_w=WATTS)
        meter = Address.parse(self.address)
        return Device(name=name, type="t", address=Address.parse("local:"), meter=meter)

    @pytest.fixture
    def meter(self, device: Device) -> Iterator[Meter]:
        assert device.meter is not None
        find_meter(device.meter.scheme).check(device)
        with closing(open_meter(device, NO_CONNECTION)) as made:
            yield made
        switch_all_off()
        remove_files()

    def test_from_each_start_on_it_shows_what_the_device_draws(
        self, meter: Meter, device: Device
    ) -> None:
        """As well as its class promises, nothing of before, and a pause is no loss."""
        facts = meter.facts()
        gain = METER_CLASSES[facts.meter_class].gain
        for watts in (WATTS, WATTS if facts.lag_s > SLOW_S else 2 * WATTS):
            rail_of(device.name).step(time.monotonic_ns(), watts)
            time.sleep(SETTLED_S)
            chunks = self._some(meter)
            meter.stop()
            meter.stop()
            found = np.concatenate([chunk.power_w for chunk in chunks])
            assert found[:ENOUGH].mean() == pytest.approx(watts, rel=gain)
            assert np.nanmean(found) == pytest.approx(watts, rel=gain)
            if facts.regular:  # what the others miss on a busy machine is lost as well
                assert chunks[0].lost == 0
                _assert_nothing_is_filled_in(chunks, facts.rate_hz)


def _assert_nothing_is_filled_in(chunks: list[Chunk], rate_hz: float) -> None:
    """Samples are whole intervals apart, and every one that is missing is counted as lost."""
    steps = np.diff(np.concatenate([chunk.t_ns for chunk in chunks])) * rate_hz / 1e9
    assert np.allclose(steps, np.rint(steps), atol=1e-3)
    assert np.rint(steps - 1).sum() == sum(chunk.lost for chunk in chunks[1:])


class TestPpk2(VirtualTwin):
    address = "virtual-ppk2://?mode=ampere&volts=3"


class TestPpk2Wired(VirtualTwin):
    address = "virtual-ppk2://?mode=ampere&volts=3&sync=!D3"
    wired = True


class TestTc66c(VirtualTwin):
    address = "virtual-tc66c://"


class TestUm25c(VirtualTwin):
    address = "virtual-um25c://UM34C"


class TestLpm01a(VirtualTwin):
    address = "virtual-lpm01a://?volts=3.0"


class TestLpm01aWired(VirtualTwin):
    address = "virtual-lpm01a://?volts=3.0&sync=D7"
    wired = True


class TestHwmon(VirtualTwin):
    address = "virtual-hwmon://"


class TestJoulescope(VirtualTwin):
    address = "virtual-joulescope://?rate=1000"


class TestJoulescopeWired(VirtualTwin):
    address = "virtual-joulescope://?rate=1000&sync=!2"
    wired = True


class TestScpi(VirtualTwin):
    address = "virtual-scpi://"
