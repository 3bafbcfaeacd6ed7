"""The machine itself keeps what the interfaces promise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from drivers.platforms.linux import LinuxPlatform
from drivers.runtimes.ort_python import OrtPython
from drivers.transports.local import LocalTransport
from farm.connection import Transport
from farm.model import Address, Device
from farm.testing.platforms import PlatformContract
from farm.testing.runtimes import RuntimeContract
from farm.testing.transports import TransportContract


@pytest.fixture
def transport(tmp_path: Path) -> Iterator[Transport]:
    """In a folder whose name a shell would maul."""
    root = tmp_path / "it's a $(touch pwned) root"
    address = Address(scheme="local", place="", options=(("root", str(root)),))
    transport = LocalTransport(Device(name="here", type="t", address=address))
    yield transport
    transport.close()


class TestLocalTransport(TransportContract):
    pass


class TestLinuxOnLocal(PlatformContract):
    kind = LinuxPlatform


class TestOrtPythonOnLocal(RuntimeContract):
    kind = OrtPython
