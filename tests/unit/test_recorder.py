"""Recording a meter: everything goes to the disk, whatever the meter does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from farm.errors import ConnectionLost, FarmBug, MeterGap, StoreUnavailable
from farm.metering import Chunk, ClockDomain, MeterFacts
from farm.protocols import Meter
from farm.recorder import Recorder
from farm.store import samples
from farm.store.samples import SampleWriter, read_samples, spool


def chunk(first: int, n: int, *, lost: int = 0, wire: bool = False) -> Chunk:
    t_ns = (first + np.arange(n, dtype=np.int64)) * 10_000
    logic = (np.arange(n) % 2).astype(np.uint8) if wire else np.empty(0, np.uint8)
    return Chunk(t_ns=t_ns, power_w=np.sin(t_ns / 1e6) + 2, logic=logic, lost=lost)


class TestSamples:
    def test_what_is_written_is_read_back(self, tmp_path: Path) -> None:
        writer = SampleWriter(tmp_path)
        written = [chunk(0, 1000, wire=True), chunk(1064, 500, lost=64, wire=True)]
        for one in written:
            writer.write(one)
        recording = writer.finish()
        read = list(read_samples(recording.path))
        for name in ("t_ns", "power_w", "logic", "range"):
            expected = np.concatenate([getattr(one, name) for one in written])
            assert np.array_equal(np.concatenate([getattr(one, name) for one in read]), expected)
        assert sum(one.lost for one in read) == recording.lost == 64
        assert recording.samples == 1500

    def test_losses_before_any_sample_are_not_forgotten(self, tmp_path: Path) -> None:
        writer = SampleWriter(tmp_path)
        writer.write(Chunk(t_ns=np.empty(0, np.int64), power_w=np.empty(0), lost=5))
        writer.write(chunk(10, 3))
        recording = writer.finish()
        assert recording.lost == sum(one.lost for one in read_samples(recording.path)) == 5

    def test_the_energy_of_a_gap_is_unknown_and_not_made_up(self, tmp_path: Path) -> None:
        writer = SampleWriter(tmp_path)
        second = 10**9
        times = np.array([0, second, 2 * second], np.int64)
        writer.write(Chunk(t_ns=times, power_w=np.ones(3)))
        writer.write(Chunk(t_ns=times + 9 * second, power_w=np.ones(3), lost=6))
        assert writer.finish().energy_j == pytest.approx(4.0)

    def test_a_preview_has_the_extremes_at_any_length(self, tmp_path: Path) -> None:
        writer = SampleWriter(tmp_path)
        values = np.random.default_rng(5).normal(1.0, 0.1, 70_000)
        values[31_234] = 9.0
        for part in np.split(values, 7):
            times = np.arange(len(part), dtype=np.int64)
            writer.write(Chunk(t_ns=times, power_w=part))
        preview = writer.finish().preview
        assert samples.PARTS / 4 < len(preview) <= samples.PARTS
        assert preview[:, 2].max() == 9.0
        assert preview[:, 0].min() == values.min()
        assert preview[:, 1].mean() == pytest.approx(values.mean(), rel=0.01)

    def test_a_recording_of_an_hour_needs_no_more_memory_than_one_of_a_second(
        self, tmp_path: Path
    ) -> None:
        writer = SampleWriter(tmp_path)
        for second in range(60):
            writer.write(chunk(second * 20_000, 20_000))
            assert writer._rows < samples.GROUP_ROWS
            assert len(writer._preview._done) < samples.PARTS
        assert writer.finish().samples == 1_200_000

    def test_a_broken_file_is_told_in_two_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "broken.parquet"
        path.write_bytes(b"PAR1 nothing")
        with pytest.raises(StoreUnavailable, match="cannot read the samples") as caught:
            list(read_samples(path))
        assert caught.value.hint

    def test_a_full_disk_is_told_in_two_lines(self, tmp_path: Path) -> None:
        with pytest.raises(StoreUnavailable, match="cannot keep raw samples") as caught:
            SampleWriter(tmp_path / "not-there")
        assert "room" in caught.value.hint
        with pytest.raises(StoreUnavailable), spool(tmp_path / "no-store"):
            pass


class Scripted(Meter):
    """Sends what a test says, at its own pace."""

    meter_class = "ppk2"

    def __init__(self, send: Callable[[int], Chunk]) -> None:
        self.send = send
        self.starts = self.stops = self.reads = 0

    def facts(self) -> MeterFacts:
        return MeterFacts(meter_class="ppk2", model="m", clock=ClockDomain.HOST, rate_hz=100.0)

    def start(self) -> None:
        self.starts += 1

    def read(self, *, timeout_s: float) -> Chunk:
        self.reads += 1
        return self.send(self.reads)

    def stop(self) -> None:
        self.stops += 1

    def close(self) -> None:
        pass


def now(number: int) -> Chunk:
    time.sleep(0.005)
    return Chunk(t_ns=np.array([time.monotonic_ns()], np.int64), power_w=np.array([float(number)]))


class TestRecorder:
    def test_everything_until_the_end_is_kept(self, tmp_path: Path) -> None:
        meter = Scripted(now)
        with Recorder(meter, tmp_path) as recorder:
            time.sleep(0.05)
            asked_ns = time.monotonic_ns()
            recording = recorder.finish()
        last = list(read_samples(recording.path))[-1]
        assert last.t_ns[-1] >= asked_ns
        assert recording.samples == meter.reads
        assert meter.starts == 1
        assert meter.stops >= 1

    def test_what_is_not_finished_leaves_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(KeyError), Recorder(Scripted(now), tmp_path):
            raise KeyError
        assert not list(tmp_path.iterdir())

    def test_a_meter_that_sends_nothing_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("farm.recorder.FIRST_S", 0.05)
        monkeypatch.setattr("farm.recorder.DRAIN_S", 0.01)

        def silence(number: int) -> Chunk:
            time.sleep(0.005)
            return Chunk.empty()

        with (
            pytest.raises(MeterGap, match="sent nothing") as caught,
            Recorder(Scripted(silence), tmp_path),
        ):
            pass
        assert caught.value.hint
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("error", "told"),
        [(ConnectionLost("gone"), ConnectionLost), (ValueError("odd"), FarmBug)],
    )
    def test_a_meter_that_breaks_is_told_at_the_end(
        self, error: Exception, told: type[Exception], tmp_path: Path
    ) -> None:
        def breaks(number: int) -> Chunk:
            raise error

        meter = Scripted(breaks)
        with pytest.raises(told), Recorder(meter, tmp_path) as recorder:
            recorder.finish()
        assert not list(tmp_path.iterdir())

    def test_a_meter_that_stalls_ends_by_itself(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("farm.recorder.DRAIN_S", 0.05)
        with Recorder(
            Scripted(lambda number: now(number) if number < 5 else Chunk.empty()), tmp_path
        ) as recorder:
            time.sleep(0.05)
            recording = recorder.finish()
        assert recording.samples == 4

    def test_somebody_hears_how_far_it_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("farm.recorder.TELL_S", 0.01)
        heard: list[float] = []
        with Recorder(Scripted(now), tmp_path, lambda s, w: heard.append(w)) as recorder:
            while len(heard) < 2:
                time.sleep(0.01)
            recorder.finish()
        assert heard == sorted(heard)
