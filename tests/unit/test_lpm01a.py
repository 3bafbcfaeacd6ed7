"""The LPM01A: its lines, and its driver against a virtual one.

There is no program of others for it that can be installed from a package index, so only our own
driver talks to the virtual one here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from drivers.meters.lpm01a import Lpm01a
from drivers.meters.lpm01a_stream import MAX_BAD, Stream
from drivers.virtual.lpm01a_meter import LOST, VirtualLpm01a
from farm.errors import ConfigError, ConnectError, ConnectionLost, InfraError, MeterGap
from farm.metering import METER_CLASSES, Chunk, ClockDomain, VoltageSource
from farm.model import Device
from tests.unit.serial_meters import metered, read_until

NOBODY: Any = None
MS = 1_000_000


@contextmanager
def switched_on(device: Device) -> Iterator[Lpm01a]:
    """The driver of a device's virtual meter."""
    VirtualLpm01a.check(device)
    with closing(Lpm01a(replace(device, meter=VirtualLpm01a.start(device)), NOBODY)) as meter:
        yield meter


def virtual(options: str = "") -> tuple[Device, Any]:
    return metered(f"virtual-lpm01a://?volts=3.0{options}", volts=3.0, idle_w=0.010)


def at_least(samples: int) -> Callable[[Chunk], bool]:
    return lambda chunk: len(chunk.t_ns) >= samples


def until(t_ns: int) -> Callable[[Chunk], bool]:
    """Long after that time, as samples are dated by their late arrival."""
    return lambda chunk: bool(len(chunk.t_ns)) and chunk.t_ns[-1] > t_ns + 200 * MS


class TestLines:
    def stream(self, lines: list[str], *, wired: bool = False) -> Chunk:
        made = Stream(1000, "d", wired=wired)
        for line in lines:
            made.hear(line)
        return made.take(10**9)

    def test_a_sample_is_four_digits_and_a_power_of_ten(self) -> None:
        chunk = self.stream(["6409-07", "0000-00", "1000-06", "1234+00"])
        assert chunk.power_w == pytest.approx([0.6409, 0.0, 1.0, 1234e3])
        assert chunk.t_ns.tolist() == [10**9 - 3 * MS, 10**9 - 2 * MS, 10**9 - MS, 10**9]
        assert not len(chunk.logic)

    def test_it_counts_its_samples_once_the_first_was_dated(self) -> None:
        made = Stream(1000, "d", wired=False)
        made.hear("1000-06")
        first = made.take(5 * 10**9)
        made.hear("1000-06")
        assert made.take(9 * 10**9).t_ns[0] - first.t_ns[0] == MS
        assert not len(made.take(9 * 10**9).t_ns)

    def test_its_clock_shows_what_is_missing(self) -> None:
        lines = ["1000-06"] * 1000 + ["TimeStamp: 001s 000ms, buff 00%"]
        lines += ["1000-06"] * 980 + ["TimeStamp: 002s 000ms, buff 12%", "1000-06"]
        chunk = self.stream(lines)
        assert chunk.lost == 20
        assert len(chunk.t_ns) == 1981
        gaps = np.diff(chunk.t_ns)
        assert gaps[-1] == 21 * MS
        assert np.all(gaps[:-1] == MS)

    def test_a_clock_that_begins_earlier_loses_nothing(self) -> None:
        lines = ["TimeStamp: 000s 002ms, buff 00%"] + ["1000-06"] * 1000
        assert self.stream([*lines, "TimeStamp: 001s 001ms, buff 00%", "1000-06"]).lost == 0

    def test_more_than_its_clock_allows_makes_no_sense(self) -> None:
        lines = ["TimeStamp: 000s 000ms, buff 00%"] + ["1000-06"] * 500
        with pytest.raises(MeterGap, match="more came than its clock allows"):
            self.stream([*lines, "TimeStamp: 000s 400ms, buff 00%"])

    def test_edges_by_their_numbers_open_and_close_windows(self) -> None:
        lines = ["1000-06", "event 00 ris", "1000-06", "1000-06", "event 01 ris", "1000-06"]
        assert self.stream(lines, wired=True).logic.tolist() == [0, 1, 1, 0]

    def test_an_edge_that_is_missing_does_not_turn_over_the_rest(self) -> None:
        lines = ["event 07 ris", "1000-06", "event 09 ris", "1000-06", "event 10 ris", "1000-06"]
        assert self.stream(lines, wired=True).logic.tolist() == [1, 1, 0]

    def test_the_numbers_of_edges_may_turn_over(self) -> None:
        lines = ["event 98 ris", "1000-06", "event 99 ris", "1000-06", "event 00 ris", "1000-06"]
        assert self.stream(lines, wired=True).logic.tolist() == [1, 0, 1]

    def test_a_torn_line_is_a_lost_sample(self) -> None:
        chunk = self.stream(["1000-06", "10-06", "1000-06"])
        assert chunk.lost == 1
        assert np.diff(chunk.t_ns).tolist() == [2 * MS]

    @pytest.mark.parametrize("line", ["error: overcurrent", "Acquisition completed"])
    def test_a_measurement_that_ends_by_itself_is_told(self, line: str) -> None:
        with pytest.raises(MeterGap, match=f"ended its measurement: {line}"):
            self.stream([line])

    def test_rubbish_without_end_is_told(self) -> None:
        with pytest.raises(MeterGap, match="cannot be understood"):
            self.stream(["?"] * (MAX_BAD + 1))


class TestMeter:
    def test_it_tells_who_it_is(self) -> None:
        device, _ = virtual()
        with switched_on(device) as meter:
            facts = meter.facts()
        assert facts.meter_class in METER_CLASSES
        assert facts.firmware == "1.0.6"
        assert len(facts.serial) == 8
        assert facts.clock is ClockDomain.METER
        assert facts.regular
        assert facts.rate_hz == 1000
        assert facts.voltage is VoltageSource.SET
        assert facts.voltage_v == 3.0

    def test_its_energy_and_its_edges_are_those_of_the_rail(self) -> None:
        device, rail = virtual("&sync=D7&gain=1.1")
        with switched_on(device) as meter:
            meter.start()
            read_until(meter, at_least(100))
            now = time.monotonic_ns()
            steps = [now + at * MS for at in (700, 1100, 1300, 1400)]
            rail.plan(steps, [0.050, 0.010, 0.050, 0.010], [True, False, True, False])
            chunk = read_until(meter, until(steps[-1]))
            meter.stop()
        assert chunk.lost == 0
        assert np.all(np.diff(chunk.t_ns) == MS)
        assert int(np.abs(np.diff(chunk.logic.astype(int))).sum()) == 4
        high = chunk.logic == 1
        assert int(high.sum()) == pytest.approx(500, abs=3)
        energy_j = float(chunk.power_w[high].sum()) / 1000
        assert energy_j == pytest.approx(1.1 * 0.5 * 0.050, rel=0.01)
        assert chunk.power_w[~high].mean() == pytest.approx(0.011, rel=0.03)

    def test_missing_samples_are_counted(self) -> None:
        device, _ = virtual("&fault=lose:300")
        with switched_on(device) as meter:
            meter.start()
            chunk = read_until(meter, at_least(1200))
        assert chunk.lost == LOST

    def test_a_missing_edge_moves_one_window_only(self) -> None:
        device, rail = virtual("&sync=D7&fault=event:2")
        with switched_on(device) as meter:
            meter.start()
            now = time.monotonic_ns()
            steps = [now + at * MS for at in (700, 800, 900, 1000)]
            rail.plan(steps, [0.05, 0.01, 0.05, 0.01], [True, False, True, False])
            chunk = read_until(meter, until(steps[-1]))
        assert int(chunk.logic.sum()) == pytest.approx(300, abs=3)
        assert chunk.logic[-1] == 0

    @pytest.mark.parametrize("order", [2, 3, 9])
    def test_an_order_that_was_not_understood_is_given_again(self, order: int) -> None:
        device, _ = virtual(f"&fault=error:{order}")
        with switched_on(device) as meter:
            meter.start()
            assert len(read_until(meter, at_least(50)).t_ns)

    def test_one_that_refuses_for_ever_is_told(self) -> None:
        faults = ",".join(f"error:{order}" for order in range(3, 20))
        device, _ = virtual(f"&fault={faults}")
        with pytest.raises(InfraError, match=r"refuses 'powershield': Error detail"):
            Lpm01a(replace(device, meter=VirtualLpm01a.start(device)), NOBODY)

    def test_firmware_that_cannot_tell_both_edges_is_told(self) -> None:
        # stop, htc, powershield, version, volt and eight settings come before
        faults = ",".join(f"error:{order}" for order in (14, 16, 18))
        device, _ = virtual(f"&sync=D7&fault={faults}")
        with pytest.raises(ConfigError, match="does not tell both edges of D7") as caught:
            Lpm01a(replace(device, meter=VirtualLpm01a.start(device)), NOBODY)
        assert "marks" in caught.value.hint

    def test_one_that_has_become_warm_calibrates_itself_and_starts(self) -> None:
        device, _ = virtual("&fault=warm:18")
        with switched_on(device) as meter:
            for _ in range(2):
                meter.start()
                assert len(read_until(meter, at_least(50)).t_ns)
                meter.stop()

    def test_one_that_is_warm_and_cannot_calibrate_itself_does_not_start(self) -> None:
        device, _ = virtual("&fault=warm:18,error:20,error:22,error:24")
        with switched_on(device) as meter:
            meter.start()
            meter.stop()
            with pytest.raises(InfraError, match="refuses 'calib'"):
                meter.start()

    def test_too_much_current_ends_the_measurement(self) -> None:
        device, _ = virtual("&fault=over:100")
        with switched_on(device) as meter:
            meter.start()
            with pytest.raises(MeterGap, match="ended its measurement") as caught:
                read_until(meter, at_least(1000))
            assert "50 mA" in caught.value.hint

    def test_a_stall_loses_nothing(self) -> None:
        device, _ = virtual("&fault=stall:200")
        with switched_on(device) as meter:
            meter.start()
            chunk = read_until(meter, at_least(2200))
        assert chunk.lost == 0
        assert np.all(np.diff(chunk.t_ns) == MS)

    def test_one_that_vanishes_is_found_again(self) -> None:
        device, _ = virtual("&fault=unplug:100")
        with switched_on(device) as meter:
            meter.start()
            with pytest.raises(ConnectionLost):
                read_until(meter, at_least(1000))
            deadline = time.monotonic() + 30
            while True:
                try:
                    meter.start()
                    break
                except ConnectError:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            assert len(read_until(meter, at_least(50)).t_ns)

    def test_it_can_be_told_to_feed_the_board_no_more(self) -> None:
        device, _ = virtual()
        own = replace(device, meter=VirtualLpm01a.start(device))
        assert Lpm01a.release(own)

    def test_what_is_no_lpm01a_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("drivers.meters.lpm01a_orders.REPLY_S", 0.3)
        far, near = os.openpty()
        with pytest.raises(ConnectError, match="no LPM01A answers at /dev/pts/"):
            Lpm01a(metered(f"lpm01a://{os.ttyname(near)}?volts=3")[0], NOBODY)
        os.close(far)
        os.close(near)

    @pytest.mark.parametrize("volts", ["", "?volts=", "?volts=5", "?volts=1.7", "?volts=nan"])
    def test_a_voltage_that_it_cannot_give_is_refused(self, volts: str) -> None:
        with pytest.raises(ConfigError, match="no voltage that an LPM01A can give") as caught:
            Lpm01a.check(metered(f"lpm01a:///dev/ttyACM0{volts}")[0])
        assert "1.8 to 3.3" in caught.value.hint
        with pytest.raises(ConfigError, match="no voltage"):
            VirtualLpm01a.check(metered(f"virtual-lpm01a://{volts}")[0])
