"""A virtual board keeps what the interfaces promise, behind the drivers that reach hardware."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from drivers.platforms.linux import LinuxPlatform
from drivers.runtimes.ort_python import OrtPython
from drivers.virtual.machine import switch_all_off
from farm.connection import Transport
from farm.model import Address, Device
from farm.plugins import connect
from farm.testing.platforms import PlatformContract
from farm.testing.runtimes import RuntimeContract
from farm.testing.transports import TransportContract


@pytest.fixture
def transport(tmp_path: Path) -> Iterator[Transport]:
    """In a folder whose name a shell would maul, under a name that it would maul as well."""
    root = tmp_path / "it's a $(touch pwned) root"
    address = Address(scheme="virtual-ssh", place="board", options=(("root", str(root)),))
    options = (("governor", "performance"), ("max_khz", "1500000"))
    device = Device(name="b '1'\n$(touch pwned)", type="t", address=address, options=options)
    transport = connect(device)
    yield transport
    transport.close()
    switch_all_off()


class TestSshOnVirtualBoard(TransportContract):
    pass


class TestLinuxOnVirtualBoard(PlatformContract):
    kind = LinuxPlatform


class TestOrtPythonOnVirtualBoard(RuntimeContract):
    kind = OrtPython
