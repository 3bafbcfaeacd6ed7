"""The promises of a serial line as tests, for whoever writes one.

A test class that inherits them needs one fixture: a bench with a line on it, and a device at its
other end that a test can silence and unplug.

    import pytest

    from farm.testing.lines import LineContract


    class TestMyLine(LineContract):
        @pytest.fixture
        def bench(self, tmp_path):
            bench = MyBench(tmp_path)
            yield bench
            bench.line.close()
            bench.unplug()

A later session is `type(line)(line.device)`. A line that several may open by nature says so with a
reason: `shared = "a TCP server takes any number of visitors"`; that test is skipped.
With `pytest.register_assert_rewrite("farm.testing")` in `conftest.py` pytest explains what failed.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol

import pytest

from farm.connection import Line
from farm.errors import CommandTimeout, ConfigError, ConnectError, ConnectionLost
from farm.model import Artifact, Device

ASK_S = 20.0
"""Deadline of a request that is expected to be answered at once; only a broken line meets it."""
SHORT_S = 0.5
"""Deadline of a request that nobody answers."""
LONG_S = 60.0
"""Deadline of a request whose failure must be known long before."""
CONSOLE_BYTES = 64 << 10
HOSTILE = b"\x1b[2J\x07\x00\xff\xfe\x9b1m\x7f \xe2\x80\xae"
"""Clears a screen, rings, ends strings, is no UTF-8, turns the direction of writing."""


class Bench(Protocol):
    """A line and the device at its other end.

    Attributes:
        line: connected.
        request: what the device answers at once.
    """

    line: Line
    request: bytes

    def mute(self) -> None:
        """The device hears and answers nothing any more."""

    def unmute(self) -> None:
        """It answers what it hears from now on."""

    def chatter(self, data: bytes) -> None:
        """The device says this by itself."""

    def unplug(self) -> None:
        """The port vanishes; unplugging twice is no error."""

    def plug(self) -> None:
        """It is there again, under the name that it had; the device did not restart."""


class LineContract:
    """Everything that `Line` promises. A line is not used again after it was closed."""

    shared: ClassVar[str] = ""

    def test_its_class_says_what_is_behind_it(self, bench: Bench) -> None:
        """What the inventory and the planner ask before anything is connected."""
        kind = type(bench.line)
        assert kind.platform
        assert kind.runtime
        assert isinstance(kind.simulated, bool)
        assert isinstance(kind.host, str)
        assert all(isinstance(option, str) for option in kind.options)

    def test_it_knows_its_device_and_accepts_it(self, bench: Bench) -> None:
        """A device that works is no device that can never work."""
        assert isinstance(bench.line.device, Device)
        type(bench.line).check(bench.line.device)

    def test_what_it_introduces_are_options(self, bench: Bench) -> None:
        """So that they can be written into the inventory."""
        bench.line.close()
        introduced = type(bench.line).introduce(bench.line.device)
        assert {name for name, _ in introduced} <= set(type(bench.line).options)
        assert all(value for _, value in introduced)

    def test_it_tells_how_the_device_is_reached(self, bench: Bench) -> None:
        """For people, each fact with a name and a value."""
        assert all(fact.name and str(fact.value) for fact in bench.line.describe())

    def test_its_clock_goes_forward(self, bench: Bench) -> None:
        """By what was slept at least, in the device's own time."""
        before = bench.line.clock.now_ns()
        bench.line.clock.sleep(0.01)
        assert bench.line.clock.now_ns() - before >= 10_000_000

    def test_a_request_is_answered(self, bench: Bench) -> None:
        """As often as it is asked."""
        answers = {bench.line.exchange(bench.request, timeout_s=ASK_S) for _ in range(3)}
        assert len(answers) == 1
        assert answers != {b""}

    def test_silence_ends_at_the_deadline_and_the_line_is_good_afterwards(
        self, bench: Bench
    ) -> None:
        """What the device was not asked then is not answered later instead of something else."""
        expected = bench.line.exchange(bench.request, timeout_s=ASK_S)
        bench.mute()
        with pytest.raises(CommandTimeout) as caught:
            bench.line.exchange(bench.request, timeout_s=SHORT_S)
        assert caught.value.device == bench.line.device.name
        bench.unmute()
        for _ in range(2):
            assert bench.line.exchange(bench.request, timeout_s=ASK_S) == expected

    def test_a_port_that_vanishes_is_told_at_once(self, bench: Bench) -> None:
        """Long before the deadline, and the line is good again when the port is."""
        expected = bench.line.exchange(bench.request, timeout_s=ASK_S)
        bench.unplug()
        with pytest.raises(ConnectionLost) as caught:
            bench.line.exchange(bench.request, timeout_s=LONG_S)
        assert caught.value.device == bench.line.device.name
        bench.plug()
        assert bench.line.exchange(bench.request, timeout_s=ASK_S) == expected

    def test_a_port_that_stays_away_is_told(self, bench: Bench) -> None:
        """After some patience, within the time that there is."""
        bench.unplug()
        with pytest.raises((ConnectionLost, ConnectError)):
            bench.line.exchange(bench.request, timeout_s=SHORT_S)
        with pytest.raises((ConnectionLost, ConnectError)):
            bench.line.exchange(bench.request, timeout_s=SHORT_S)

    def test_nobody_is_reached_where_nobody_is(self, bench: Bench) -> None:
        """The constructor says so."""
        bench.line.close()
        bench.unplug()
        with pytest.raises(ConnectError) as caught:
            type(bench.line)(bench.line.device)
        assert caught.value.hint

    def test_the_port_is_one_sessions_alone(self, bench: Bench) -> None:
        """Two that read one line would each get half of every answer."""
        if self.shared:
            pytest.skip(self.shared)
        with pytest.raises(ConnectError) as caught:
            type(bench.line)(bench.line.device)
        assert caught.value.hint
        bench.line.exchange(bench.request, timeout_s=ASK_S)

    def test_a_closed_port_is_anybodys(self, bench: Bench) -> None:
        """A later session begins where this one ended."""
        bench.line.close()
        later = type(bench.line)(bench.line.device)
        try:
            assert later.exchange(bench.request, timeout_s=ASK_S)
        finally:
            later.close()

    def test_what_it_says_besides_is_kept_and_harmless(self, bench: Bench) -> None:
        """Whatever bytes they are, nothing of them moves a cursor of whoever reads them."""
        bench.chatter(b"\nbefore " + HOSTILE + b" behind\n")
        assert bench.line.exchange(bench.request, timeout_s=ASK_S)
        console = bench.line.console()
        assert "before" in console
        assert "behind" in console
        assert all(line.isprintable() for line in console.split("\n"))

    def test_a_console_does_not_grow_without_end(self, bench: Bench) -> None:
        """The end is kept, at most 64 KiB of it, though what cannot be printed takes more room."""
        for _ in range(60):
            bench.chatter(b"\x01" * 2000 + b"\n")
            bench.line.console()
        bench.chatter(b"the last line\n")
        assert bench.line.exchange(bench.request, timeout_s=ASK_S)
        console = bench.line.console()
        assert len(console.encode()) <= CONSOLE_BYTES
        assert "the last line" in console

    def test_flashing_needs_a_way(self, bench: Bench, tmp_path: Path) -> None:
        """That is a matter of the inventory, not of the device."""
        if bench.line.device.option("flash"):
            pytest.skip("the device has one")
        with pytest.raises(ConfigError, match="no way to put a firmware"):
            bench.line.flash(Artifact(path=tmp_path / "firmware", sha256="0" * 64, size_bytes=0))

    def test_closing_twice_is_no_error(self, bench: Bench) -> None:
        """Whoever cleans up need not know who did before."""
        bench.line.close()
        bench.line.close()
