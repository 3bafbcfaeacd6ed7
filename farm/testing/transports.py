"""The promises of a transport as tests, for whoever writes one.

A test class that inherits them needs one fixture: the transport, connected to a device whose
folder belongs to the test alone.

    import pytest

    from farm.model import Address, Device
    from farm.testing.transports import TransportContract
    from serial_farm import SerialTransport


    class TestSerialTransport(TransportContract):
        @pytest.fixture
        def transport(self, tmp_path):
            address = Address.parse(f"serial:/dev/ttyUSB0?root={tmp_path}")
            transport = SerialTransport(Device(name="board", type="t", address=address))
            yield transport
            transport.close()

The device needs a POSIX shell with `cat`, `ls`, `mkdir`, `rm`, `sleep` and `touch`. A later session
is `type(transport)(transport.device)`. What a transport cannot do by nature it says with a reason:
`no_processes = "it has no commands of its own"`, `no_streams = "..."`; those tests are skipped.
With `pytest.register_assert_rewrite("farm.testing")` in `conftest.py` pytest explains what failed.
"""

from __future__ import annotations

from farm.connection import Transport
from farm.model import Device
from farm.testing.artifacts import ArtifactContract
from farm.testing.commands import CommandContract, FileContract
from farm.testing.probes import ASK_S, again
from farm.testing.processes import ProcessContract, StreamContract


class TransportContract(
    CommandContract, FileContract, ArtifactContract, ProcessContract, StreamContract
):
    """Everything that `Transport` promises. A transport is not used again after it was closed."""

    def test_its_class_says_what_is_behind_it(self, transport: Transport) -> None:
        """What the inventory and the planner ask before anything is connected."""
        kind = type(transport)
        assert kind.platform
        assert kind.runtime
        assert isinstance(kind.simulated, bool)
        assert isinstance(kind.host, str)
        assert all(isinstance(option, str) for option in kind.options)

    def test_it_knows_its_device_and_accepts_it(self, transport: Transport) -> None:
        """A device that works is no device that can never work."""
        assert isinstance(transport.device, Device)
        type(transport).check(transport.device)

    def test_what_it_introduces_are_options(self, transport: Transport) -> None:
        """So that they can be written into the inventory."""
        introduced = type(transport).introduce(transport.device)
        assert {name for name, _ in introduced} <= set(type(transport).options)
        assert all(value for _, value in introduced)

    def test_its_clock_goes_forward(self, transport: Transport) -> None:
        """By what was slept at least, in the device's own time."""
        before = transport.clock.now_ns()
        transport.clock.sleep(0.01)
        assert transport.clock.now_ns() - before >= 10_000_000

    def test_its_folder_is_there(self, transport: Transport) -> None:
        """From the first command on."""
        assert transport.root.is_absolute()
        found = transport.run(("ls", "-A", str(transport.root)), timeout_s=ASK_S)
        assert found.returncode == 0

    def test_it_begins_with_nothing_in_use(self, transport: Transport) -> None:
        """Also beside another session on the same device."""
        other = again(transport)
        transport.in_use.add("0" * 64)
        assert other.in_use == set()
        other.close()

    def test_closing_twice_is_no_error(self, transport: Transport) -> None:
        """Whoever cleans up need not know who did before."""
        transport.close()
        transport.close()
