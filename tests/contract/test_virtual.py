"""Virtual devices keep what the interfaces promise, as far as nothing real can be seen on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from drivers.runtimes.ort_python import OrtPython
from drivers.virtual.platform import VirtualPlatform
from drivers.virtual.transport import VirtualTransport
from farm.connection import Transport
from farm.model import Address, Device
from farm.testing.platforms import PlatformContract
from farm.testing.runtimes import RuntimeContract
from farm.testing.transports import TransportContract


@pytest.fixture
def transport(tmp_path: Path) -> Iterator[Transport]:
    address = Address.parse(f"virtual://board?seed=1&root={tmp_path / 'device'}")
    transport = VirtualTransport(Device(name="board", type="t", address=address))
    yield transport
    transport.close()


class TestVirtualTransport(TransportContract):
    no_processes = "it starts models only: their time is simulated"
    no_streams = "there is no time in which a command could print"


class TestVirtualPlatform(PlatformContract):
    kind = VirtualPlatform
    no_watch = "the samples before and after a window tell all there is"
    no_processes = "nothing survives on it"


class TestOrtPythonOnVirtual(RuntimeContract):
    kind = OrtPython
