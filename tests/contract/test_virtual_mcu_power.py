"""The power switch of virtual microcontrollers keeps the promises of a switchable port."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from drivers.virtual.mcu import Unit
from drivers.virtual.mcu_power import VirtualMcuPower
from farm.model import Address, Device
from farm.testing.powers import Feeds, PowerContract

DEVICE = Device(
    name="m4", type="t", address=Address.parse("virtual-mcu://mps2-an386?engine=python")
)


class TestVirtualMcuPower(PowerContract):
    """A board that is on has a line."""

    kind = VirtualMcuPower

    @pytest.fixture
    def unit(self, tmp_path: Path) -> Iterator[Unit]:
        unit = Unit(DEVICE, tmp_path)
        yield unit
        unit.switch_off()

    @pytest.fixture
    def device(self, unit: Unit) -> Device:
        return replace(DEVICE, options=(("control", dict(unit.options)["control"]),))

    @pytest.fixture
    def feeds(self, unit: Unit) -> Feeds:
        return Path(unit.address.place).exists
