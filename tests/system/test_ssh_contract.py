"""Boards behind real servers keep what the interfaces promise: OpenSSH, dropbear, busybox alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from drivers.platforms.linux import LinuxPlatform
from drivers.transports.ssh import SshTransport
from farm.connection import Transport
from farm.testing.platforms import PlatformContract
from farm.testing.transports import TransportContract
from tests.system.servers import Server

pytestmark = pytest.mark.system

SERVERS = ("sshd", "dropbear", "busybox_board")


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def transport(server: Server) -> Iterator[Transport]:
    transport = SshTransport(server.device("a board's $(touch pwned)"))
    yield transport
    transport.close()
    server.assert_nothing_is_left()


class TestSshTransport(TransportContract):
    pass


class TestLinuxOnSsh(PlatformContract):
    kind = LinuxPlatform
