"""The Android platform keeps what the interfaces promise, on a phone of files and scripts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from drivers.platforms.android import AndroidPlatform
from drivers.transports.local import LocalTransport
from farm.connection import Transport
from farm.model import Address, Device
from farm.testing.platforms import PlatformContract
from tests.unit.test_android_phones import Phone


@pytest.fixture
def transport(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Transport]:
    """In a folder whose name a shell would maul, with everything asked for that can be set."""
    root = tmp_path / "it's a $(touch pwned) root"
    phone = Phone(tmp_path)
    monkeypatch.setenv("FARM_TREE", str(phone.folder))
    monkeypatch.setenv("PATH", str(phone.tools), prepend=":")
    address = Address(scheme="local", place="", options=(("root", str(root)),))
    options = (("fixed_performance", "yes"), ("governor", "performance"), ("max_khz", "1100000"))
    transport = LocalTransport(Device(name="phone", type="t", address=address, options=options))
    yield transport
    transport.close()


class TestAndroidPlatform(PlatformContract):
    kind = AndroidPlatform
