"""The promises of a switchable port as tests, for whoever writes a driver for one.

A test class that inherits them names the driver and has two fixtures: a device that the port feeds,
and what tells whether the port really feeds it.

    class TestRelay(PowerContract):
        kind = RelayPower

        @pytest.fixture
        def device(self, relay): ...

        @pytest.fixture
        def feeds(self, relay):
            return relay.is_closed
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from farm.model import Device
from farm.protocols import Power

Feeds = Callable[[], bool]


class PowerContract:
    """Everything that `Power` promises."""

    kind: ClassVar[type[Power]]

    def test_its_device_is_accepted(self, device: Device) -> None:
        """And names its options, as the inventory asks for them."""
        self.kind.check(device)
        assert {name for name, _ in device.options} <= set(self.kind.options)

    def test_it_touches_nothing_before_it_is_told_to(self, device: Device, feeds: Feeds) -> None:
        """Somebody who only asks what a device is must not cut it off."""
        before = feeds()
        self.kind(device)
        assert feeds() == before

    def test_it_switches_both_ways(self, device: Device, feeds: Feeds) -> None:
        """When it returns, the port has obeyed."""
        power = self.kind(device)
        for on in (False, True, False, True):
            (power.on if on else power.off)()
            assert feeds() is on

    def test_switching_twice_is_no_error(self, device: Device, feeds: Feeds) -> None:
        """Nobody knows what an earlier session left."""
        for on in (True, False):
            for power in (self.kind(device), self.kind(device)):
                (power.on if on else power.off)()
                assert feeds() is on
