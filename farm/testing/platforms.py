"""The promises of a platform as tests, for whoever writes one.

A test class that inherits them names the platform and has one fixture, a transport to a device
whose folder belongs to the test alone.

    class TestSerialPlatform(PlatformContract):
        kind = SerialPlatform

        @pytest.fixture
        def transport(self, tmp_path): ...  # as for farm.testing.transports

Where a device by nature shows nothing while it is measured, keeps no process that could be swept,
has no files, or tells nothing that a limit could be held against, it is said with a reason:
`no_watch = "..."`, `no_processes = "..."`, `no_files = "..."`, `no_limits = "..."`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import pytest

from farm.connection import Transport
from farm.errors import Evidence
from farm.protocols import Limits, Platform
from farm.record import Reading
from farm.testing.probes import (
    FAMILY,
    again,
    names,
    new_folder,
    read_pid,
    wait_until,
    wait_until_gone,
    write,
)

IMPOSSIBLE = Limits(max_temperature_c=-300.0, min_free_bytes=1 << 62, min_battery_pct=101.0)
GENEROUS = Limits(max_temperature_c=1e6, min_free_bytes=0, min_battery_pct=0.0)
UNITS = {"temperature": "degC"}


class PlatformContract:
    """Everything that `Platform` promises."""

    kind: ClassVar[type[Platform]]
    no_watch: ClassVar[str] = ""
    no_processes: ClassVar[str] = ""
    no_files: ClassVar[str] = ""
    no_limits: ClassVar[str] = ""

    @pytest.fixture
    def platform(self, transport: Transport) -> Platform:
        """The platform behind the transport."""
        return self.kind(transport)

    def test_facts_name_the_boot_and_hold_no_empty_value(self, platform: Platform) -> None:
        """One line each, under a name of its own."""
        facts = platform.facts()
        known = [fact.name for fact in facts]
        assert "boot_id" in known  # and `serial`, on devices that have one
        assert len(known) == len(set(known))
        assert all(fact.name and fact.value.strip() for fact in facts)
        assert not any("\n" in fact.value for fact in facts)

    def test_a_later_session_sees_the_same_boot(
        self, platform: Platform, transport: Transport
    ) -> None:
        """The identity of the boot is not that of the session."""
        later = again(transport)
        assert _boot(self.kind(later)) == _boot(platform)
        later.close()

    def test_limits_that_nothing_meets_are_found(self, platform: Platform) -> None:
        """With a line that says why."""
        if self.no_limits:
            assert not [f for f in platform.preflight(IMPOSSIBLE) if f.blocking]
            pytest.skip(self.no_limits)
        found = [finding for finding in platform.preflight(IMPOSSIBLE) if finding.blocking]
        assert found
        for finding in found:
            assert finding.code
            assert finding.message
            assert "\n" not in finding.message

    def test_limits_that_everything_meets_forbid_nothing(self, platform: Platform) -> None:
        """What is left are notes."""
        assert not [f for f in platform.preflight(GENEROUS) if f.blocking]

    def test_readings_have_units_and_a_time(self, platform: Platform) -> None:
        """On the device's own clock, which does not go back."""
        first, second = platform.sample(), platform.sample()
        assert first
        _check_readings((*first, *second))
        assert max(r.t_ns for r in first) <= min(r.t_ns for r in second)

    def test_a_watch_sees_the_device_until_it_looks_away(self, platform: Platform) -> None:
        """The readings of a sample, each once; closing twice is no error."""
        watch = platform.watch()
        seen: list[Reading] = []

        def sees() -> bool:
            seen.extend(watch.readings())
            return bool(seen)

        if not self.no_watch:
            wait_until(sees, "nothing is ever seen")
        _check_readings((*seen, *watch.readings()))
        watch.close()
        watch.close()
        _check_readings(watch.readings())
        if self.no_watch:
            pytest.skip(self.no_watch)

    def test_what_is_prepared_is_restored(self, platform: Platform) -> None:
        """Once: a second time there is nothing to undo; preparing twice loses nothing."""
        platform.restore()
        before = platform.facts()
        told = (*platform.prepare(), *platform.prepare())
        assert all(line and "\n" not in line for line in told)
        platform.restore()
        assert platform.facts() == before
        assert platform.restore() == ()

    def test_a_later_session_restores_what_an_earlier_one_prepared(
        self, platform: Platform, transport: Transport
    ) -> None:
        """It needs nothing but the device."""
        platform.restore()
        before = platform.facts()
        platform.prepare()
        transport.close()
        later = again(transport)
        restorer = self.kind(later)
        restorer.restore()
        assert restorer.facts() == before
        later.close()

    def test_a_clean_device_has_nothing_to_sweep(self, platform: Platform) -> None:
        """A second time neither."""
        platform.sweep()
        assert platform.sweep() == ()

    @pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
    def test_what_an_earlier_session_left_is_swept(
        self, platform: Platform, transport: Transport, tmp_path: Path
    ) -> None:
        """The process with its children, its folder, and what never arrived whole."""
        if self.no_processes:
            pytest.skip(self.no_processes)
        runs, store = transport.root / "runs", transport.root / "store"
        folder = runs / "stray"
        transport.start(("sh", "-c", FAMILY), folder=folder)
        pids = [read_pid(transport, folder / name, tmp_path) for name in ("parent", "child")]
        transport.run(("mkdir", "-p", str(store)), timeout_s=60)
        write(transport, store / f"{'0' * 64}.part", b"torn", tmp_path)
        transport.close()
        later = again(transport)
        sweeper = self.kind(later)
        assert len(sweeper.sweep()) == 1
        wait_until_gone(later, *pids)
        assert names(later, runs) == set()
        assert names(later, store) == set()
        assert sweeper.sweep() == ()
        later.close()

    def test_sweeping_leaves_files_alone(
        self, platform: Platform, transport: Transport, tmp_path: Path
    ) -> None:
        """What is whole is used again."""
        if self.no_files:
            pytest.skip(self.no_files)
        store = transport.root / "store"
        transport.run(("mkdir", "-p", str(store)), timeout_s=60)
        write(transport, store / ("1" * 64), b"whole", tmp_path)
        other = new_folder(transport)
        platform.sweep()
        assert "1" * 64 in names(transport, store)
        assert other.name in names(transport, transport.root)

    def test_evidence_is_told_and_never_an_error(self, platform: Platform) -> None:
        """Also where the kernel's messages may not be read."""
        for exhibit in platform.evidence(10.0):
            assert isinstance(exhibit, Evidence)
            assert exhibit.name


def _boot(platform: Platform) -> list[str]:
    return [fact.value for fact in platform.facts() if fact.name == "boot_id"]


def _check_readings(readings: tuple[Reading, ...]) -> None:
    for reading in readings:
        assert reading.name
        assert reading.unit
        assert math.isfinite(reading.value)
        assert reading.t_ns >= 0
        assert reading.unit == UNITS.get(reading.name, reading.unit)
        if reading.name == "throttled":
            assert reading.value in (0.0, 1.0)
