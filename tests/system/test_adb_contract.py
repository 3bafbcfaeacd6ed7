"""Phones behind a real adbd keep what the interface promises, however they are reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drivers.transports.adb import AdbTransport
from drivers.transports.adb_server import AdbServerTransport
from drivers.virtual.machine import switch_all_off
from farm.connection import Transport
from farm.model import Address, Device
from farm.plugins import connect
from farm.testing.transports import TransportContract
from tests.system.phones import AdbServer, Phone

pytestmark = pytest.mark.system


class TestAdbTransport(TransportContract):
    @pytest.fixture(params=[0, 1500], ids=["mtu_65536", "mtu_1500"])
    def transport(
        self, request: pytest.FixtureRequest, start_phone: Callable[..., Phone]
    ) -> Iterator[Transport]:
        phone = start_phone(mtu=request.param)
        transport = AdbTransport(phone.device("a phone's $(touch pwned)"))
        yield transport
        transport.close()
        phone.assert_nothing_is_left()


class TestAdbServerTransport(TransportContract):
    @pytest.fixture
    def transport(self, phone: Phone, server_of_adb: AdbServer) -> Iterator[Transport]:
        server_of_adb.attach(phone)
        transport = AdbServerTransport(server_of_adb.device(phone, "a phone's $(touch pwned)"))
        yield transport
        transport.close()
        phone.assert_nothing_is_left()


class TestAdbOnAnOldPhone(TransportContract):
    """One before Android 7: small packets with checksums, and a shell that tells no status."""

    @pytest.fixture
    def transport(self, tmp_path: Path) -> Iterator[Transport]:
        old = "version=16777216&max_payload=4096&shell_v2=no"
        address = Address.parse(f"virtual-adb://phone?{old}&root={tmp_path / 'root'}")
        transport = connect(Device(name="p", type="t", address=address))
        yield transport
        transport.close()
        switch_all_off()
