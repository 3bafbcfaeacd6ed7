"""The promises of a power meter as tests, for whoever writes the driver of one.

A test class that inherits them has one fixture, a meter that is there and measures something:

    class TestMyMeter(MeterContract):
        @pytest.fixture
        def meter(self, ...):
            made = MyMeter(device, connection)  # device.meter is the meter's address
            yield made
            made.close()

`wired = True` says that its address names a logic input. Nothing here measures time: a test waits
for samples as long as it takes.
"""

from __future__ import annotations

import time
from typing import ClassVar

import numpy as np

from farm.metering import METER_CLASSES, Chunk, VoltageSource
from farm.protocols import Meter

ENOUGH = 8
"""Samples that a test waits for; a slow meter has them after some seconds."""
PATIENCE_S = 60.0
PAUSE_S = 0.2


class MeterContract:
    """Everything that `Meter` promises."""

    wired: ClassVar[bool] = False

    def test_it_says_what_it_is(self, meter: Meter) -> None:
        """Its class is known, and a voltage that is not measured is named."""
        facts = meter.facts()
        assert facts.meter_class in METER_CLASSES
        assert facts.model
        assert 0 < facts.rate_hz < 1e8
        assert facts.lag_s >= 0
        assert (facts.voltage_v is None) is (facts.voltage is VoltageSource.MEASURED)

    def test_samples_are_in_order_and_belong_together(self, meter: Meter) -> None:
        """Times rise, arrays have one length, and what may be missing is missing throughout."""
        chunks = self._some(meter)
        meter.stop()
        times = np.concatenate([chunk.t_ns for chunk in chunks])
        assert (np.diff(times) > 0).all()
        for chunk in chunks:
            assert len(chunk.power_w) == len(chunk.t_ns)
            assert len(chunk.logic) == (len(chunk.t_ns) if self.wired else 0)
            assert len(chunk.range) in (0, len(chunk.t_ns))
            assert set(np.unique(chunk.logic)) <= {0, 1}
            assert chunk.lost >= 0
            assert chunk.saturated >= 0

    def test_times_are_those_of_this_machine(self, meter: Meter) -> None:
        """Within what a line takes, and never in the future."""
        asked_ns = time.monotonic_ns()
        chunks = self._some(meter)
        meter.stop()
        assert asked_ns - 10**9 < int(chunks[0].t_ns[-1])
        assert int(chunks[-1].t_ns[-1]) < time.monotonic_ns() + 10**9

    def test_it_starts_again_and_forgets(self, meter: Meter) -> None:
        """What an earlier start left does not come again."""
        self._some(meter)
        meter.stop()
        time.sleep(PAUSE_S)
        restarted_ns = time.monotonic_ns()
        again = self._some(meter)
        meter.stop()
        assert int(again[0].t_ns[0]) > restarted_ns - PAUSE_S * 1e9 / 2

    def test_closing_twice_is_no_error(self, meter: Meter) -> None:
        """Nor is closing while it samples."""
        self._some(meter)
        meter.close()
        meter.close()

    def _some(self, meter: Meter) -> list[Chunk]:
        """Start it, and wait for samples."""
        meter.start()
        chunks: list[Chunk] = []
        deadline = time.monotonic() + PATIENCE_S
        while sum(len(chunk.t_ns) for chunk in chunks) < ENOUGH:
            assert time.monotonic() < deadline, "no samples came"
            chunk = meter.read(timeout_s=0.2)
            if len(chunk.t_ns):
                chunks.append(chunk)
        return chunks
