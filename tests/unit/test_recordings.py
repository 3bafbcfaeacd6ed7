"""Recordings of others: what they say is read, what they lack is lost, what is broken is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drivers.recordings import csv_file
from drivers.recordings.recording import ForeignRecording
from farm.errors import ConfigError
from farm.metering import VoltageSource
from farm.plugins import open_recording

PROFILER = "Timestamp(ms),Current(uA),D0-D7\n"


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str, name: str = "recording.csv") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def energy_j(recording: ForeignRecording) -> float:
    """As everybody reckons it: a sample's power lasts since the sample before."""
    t_ns, power_w, _ = samples(recording)
    return float((power_w[1:] * np.diff(t_ns) / 1e9).sum())


def samples(recording: ForeignRecording) -> tuple[Any, Any, int]:
    chunks = list(recording.chunks())
    t_ns = np.concatenate([chunk.t_ns for chunk in chunks])
    return t_ns, np.concatenate([c.power_w for c in chunks]), sum(c.lost for c in chunks)


def test_what_the_power_profiler_exports(written: Callable[..., Path]) -> None:
    rows = [f"{n / 100:.3f},{1000 + n}.000,{'1X0' if n % 2 else '0-1'}00000" for n in range(100)]
    path = written(PROFILER + "\n".join(rows) + "\n")
    recording = open_recording(path, volts=3.0, sync="D0")
    facts = recording.facts
    assert (facts.meter_class, facts.model, facts.rate_hz) == ("ppk2", "PPK2", 100_000)
    assert (facts.voltage, facts.voltage_v, facts.regular) == (VoltageSource.DECLARED, 3.0, True)
    assert recording.inputs == ("D0", "D1", "D2", "D3", "D4", "D5", "D6", "D7")
    (chunk,) = recording.chunks()
    np.testing.assert_array_equal(chunk.t_ns, np.arange(100) * 10_000)
    np.testing.assert_allclose(chunk.power_w, (1000 + np.arange(100)) * 3e-6)
    np.testing.assert_array_equal(chunk.logic, np.arange(100) % 2)
    (low,) = open_recording(path, volts=3.0, sync="!D2").chunks()
    np.testing.assert_array_equal(low.logic, np.arange(100) % 2)
    (unsure,) = open_recording(path, volts=3.0, sync="D1").chunks()
    assert not unsure.logic.any(), "both, or unknown, is not high"


def test_inputs_in_columns_of_their_own(written: Callable[..., Path]) -> None:
    path = written(
        "Timestamp(ms),Current(uA),D0,D1,D2,D3,D4,D5,D6,D7\n"
        "0,5,0,0,0,0,0,0,0,0\n0.01,6,0,0,0,1,0,0,0,0\n0.02,7,0,0,0,0,0,0,0,0\n"
    )
    (chunk,) = open_recording(path, volts=1.0, sync="D3").chunks()
    assert chunk.logic.tolist() == [0, 1, 0]


def test_samples_that_are_missing_are_lost_and_not_filled_in(written: Callable[..., Path]) -> None:
    kept = [n for n in range(1000) if not 300 <= n < 317]
    path = written(PROFILER + "".join(f"{n / 100},1000,00000000\n" for n in kept))
    t_ns, _, lost = samples(open_recording(path, volts=1.0, sync=""))
    assert lost == 17
    assert len(t_ns) == 983
    assert t_ns.max() == 9_990_000


@pytest.mark.parametrize(
    ("header", "row", "watts"),
    [
        ("t,power", "{s},{w}", 1.0),
        ("time_s,power_mW", "{s},{mw}", 1.0),
        ("time (us);voltage (mV);current (mA);note", "{us};2000;500;x", 1.0),
        ("Timestamp[ns]\tU\tI [A]\tv", "{ns}\t9\t0.5\t2", 1.0),
        ("note,p_uw,time ms", "x,{uw},{ms}", 1.0),
    ],
)
def test_columns_by_many_names(
    written: Callable[..., Path], header: str, row: str, watts: float
) -> None:
    lines = [
        row.format(s=n / 50, ms=n * 20, us=n * 20e3, ns=n * 20_000_000, w=1, mw=1000, uw=1e6)
        for n in range(11)
    ]
    path = written("\n".join([header, *lines]) + "\n", name="some.txt")
    recording = open_recording(path, volts=None, sync="")
    assert recording.facts.meter_class == ""
    assert recording.facts.rate_hz == pytest.approx(50)
    assert energy_j(recording) == pytest.approx(0.2 * watts)


def test_uneven_times_and_marks_of_byte_order(written: Callable[..., Path]) -> None:
    path = written("\ufefft,p\n0,1\n0.1,1\n0.35,2\n1.0,1\n")
    recording = open_recording(path, volts=None, sync="")
    assert not recording.facts.regular
    assert energy_j(recording) == pytest.approx(0.1 + 0.5 + 0.65)
    assert samples(recording)[2] == 0, "nobody knows what a meter without a rate has lost"


def test_no_number_is_no_power(written: Callable[..., Path]) -> None:
    (chunk,) = open_recording(written("t,p\n0,1\n1,\n2,nan\n3,4\n"), volts=None, sync="").chunks()
    assert np.isnan(chunk.power_w).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no columns for time"),
        ("t,p\n", "fewer than two samples"),
        ("t,p\n0,1\n", "fewer than two samples"),
        ("a,b\n1,2\n", "has no columns for time"),
        ("t,p,power\n1,2,3\n", "a second column for power: 'power'"),
        ("t(min),p\n1,2\n", "has no columns for time"),
        ("t_v,p\n1,2\n", "an unknown unit for time: 't_v'"),
        ("t,p\n0,1\n1,oops\n", "line 3: "),
        ("t,p\n0,1\n1\n", "line 3: Expected 2 columns, got 1"),
        ("t,p\n0,1\n1,1\n1,1\n", "line 4: its time is not after"),
        ("t,p\n0,1\n,1\n", "line 3: its time is not after"),
        ("t,p\n0,1\n2,1\n1,1\n", "line 4: its time is not after"),
    ],
)
def test_broken_files_name_the_line(written: Callable[..., Path], text: str, said: str) -> None:
    path = written(text)
    with pytest.raises(ConfigError, match=said) as caught:
        list(open_recording(path, volts=None, sync="").chunks())
    assert "recording.csv" in caught.value.message


def test_a_broken_line_far_down(
    written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_file, "BLOCK_BYTES", 1000)
    lines = [f"{n},1" for n in range(1000)]
    lines[800] = "800,1,7"
    recording = open_recording(written("t,p\n" + "\n".join(lines)), volts=None, sync="")
    with pytest.raises(ConfigError, match="line 802: Expected 2 columns, got 3"):
        list(recording.chunks())
    lines[800] = "799,1"
    recording = open_recording(written("t,p\n" + "\n".join(lines)), volts=None, sync="")
    with pytest.raises(ConfigError, match="line 802: its time"):
        list(recording.chunks())


def test_voltage_has_one_source(written: Callable[..., Path]) -> None:
    current = written("t,current_a\n0,1\n1,1\n", "current.csv")
    power = written("t,p\n0,1\n1,1\n", "power.csv")
    with pytest.raises(ConfigError, match="nothing tells its voltage"):
        open_recording(current, volts=None, sync="")
    with pytest.raises(ConfigError, match="has the voltage"):
        open_recording(power, volts=3.3, sync="")
    assert energy_j(open_recording(current, volts=3.3, sync="")) == pytest.approx(3.3)


def test_an_input_that_is_not_there(written: Callable[..., Path]) -> None:
    path = written("t,p,D1\n0,1,0\n1,1,1\n")
    with pytest.raises(ConfigError, match="no logic input 'D0'") as caught:
        open_recording(path, volts=None, sync="!D0")
    assert "D1" in caught.value.hint


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read none\.csv"):
        open_recording(tmp_path / "none.csv", volts=None, sync="")


@pytest.fixture
def pyjls(lacks: Callable[[str], None]) -> Any:
    try:
        import pyjls
    except ModuleNotFoundError:
        lacks("pyjls is not installed: pip install 'verdict-farm[joulescope]'")
    return pyjls


@pytest.fixture
def jls(pyjls: Any, tmp_path: Path) -> Callable[..., Path]:
    """Writes signals of one JS220: first id, rate, and runs of samples or lengths of gaps."""

    def write(**signals: tuple[int, int, list[Any]]) -> Path:
        path = tmp_path / "recording.jls"
        with pyjls.Writer(str(path)) as writer:
            writer.source_def(
                source_id=1, name="JS220-001234", vendor="Jetperch", model="JS220",
                version="1.3.0", serial_number="001234",
            )  # fmt: skip
            for number, (name, (first, rate, runs)) in enumerate(signals.items(), 1):
                bits = name.startswith("gpi")
                writer.signal_def(
                    signal_id=number, source_id=1, sample_rate=rate,
                    signal_type=pyjls.SignalType.FSR,
                    data_type=pyjls.DataType.U1 if bits else pyjls.DataType.F32,
                    name="gpi[0]" if bits else name,
                )  # fmt: skip
                at = first
                for run in runs:
                    if isinstance(run, int):
                        at += run
                        continue
                    values = np.packbits(run, bitorder="little") if bits else run
                    writer.fsr(number, at, values)
                    at += len(run)
        return path

    return write


def test_a_jls_file_with_current_voltage_and_an_input(jls: Callable[..., Path]) -> None:
    rate, n = 10_000, 150_000
    random = np.random.default_rng(1)
    current = random.random(n, np.float32)
    pin = np.zeros(2 * n + 400, np.uint8)
    pin[80_000:200_000] = 1
    path = jls(
        current=(5000, rate, [current]),
        voltage=(5000, rate, [np.full(n, 3, np.float32)]),
        gpi0=(9600, 2 * rate, [pin]),
    )
    recording = open_recording(path, volts=None, sync="0")
    facts = recording.facts
    assert (facts.meter_class, facts.model, facts.serial) == ("js220", "JS220", "001234")
    assert (facts.rate_hz, recording.inputs) == (rate, ("0",))
    chunks = list(recording.chunks())
    assert len(chunks) == 3, "it is read in parts"
    t_ns = np.concatenate([chunk.t_ns for chunk in chunks])
    np.testing.assert_array_equal(t_ns, np.arange(1, n + 1) * 100_000)
    power_w = np.concatenate([chunk.power_w for chunk in chunks])
    np.testing.assert_array_equal(power_w, current.astype(float) * 3)
    logic = np.concatenate([chunk.logic for chunk in chunks])
    high = np.flatnonzero(logic)
    assert (high[0], high[-1]) == (39_800, 99_799), "each stands where its input does at its end"
    (low, *_) = open_recording(path, volts=None, sync="!0").chunks()
    np.testing.assert_array_equal(low.logic, 1 - chunks[0].logic)


def test_an_input_that_is_high_to_the_end_of_a_jls_file(jls: Callable[..., Path]) -> None:
    n = 66_000
    path = jls(
        power=(0, 1000, [np.ones(n, np.float32)]), gpi0=(0, 2000, [np.ones(2 * n, np.uint8)])
    )
    chunks = list(open_recording(path, volts=None, sync="0").chunks())
    assert np.concatenate([chunk.logic for chunk in chunks]).sum() == n


def test_a_gap_in_a_jls_file_is_lost(jls: Callable[..., Path]) -> None:
    run = np.ones(2000, np.float32)
    path = jls(power=(0, 1000, [run, 500, run]))
    t_ns, power_w, lost = samples(open_recording(path, volts=None, sync=""))
    assert (len(t_ns), lost) == (4000, 500)
    assert np.diff(t_ns).max() == 501_000_000
    assert (power_w == 1).all()


def test_a_jls_file_with_a_current_only(jls: Callable[..., Path]) -> None:
    path = jls(current=(0, 1000, [np.full(1001, 0.5, np.float32)]))
    with pytest.raises(ConfigError, match="nothing tells its voltage"):
        open_recording(path, volts=None, sync="")
    recording = open_recording(path, volts=4.0, sync="")
    assert recording.facts.voltage is VoltageSource.DECLARED
    assert energy_j(recording) == pytest.approx(2.0)


def test_what_is_no_jls_file(pyjls: Any, written: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=r"cannot read recording\.jls"):
        open_recording(written("t,p\n", "recording.jls"), volts=None, sync="")


def test_jls_files_need_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyjls", None)
    monkeypatch.delitem(__import__("sys").modules, "drivers.recordings.jls_file", raising=False)
    with pytest.raises(ConfigError, match="needs the module 'pyjls'") as caught:
        open_recording(tmp_path / "a.jls", volts=None, sync="")
    assert "verdict-farm[joulescope]" in caught.value.hint
