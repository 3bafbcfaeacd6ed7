"""Windows beside a power meter, as the Python loadgen runs and tells them."""

from __future__ import annotations

import dataclasses
import itertools
import json
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest

from drivers.ondevice import loadgen, metered
from drivers.runtimes.native_build import SOURCES
from drivers.runtimes.ort_deployment import MAX_CHIP_S
from drivers.runtimes.ort_python import LOADGEN, METERED, OrtPython
from drivers.transports.local import LocalTransport
from farm import metering
from farm.connection import Detached
from farm.errors import DeviceError
from farm.metering import ClockDomain, Metered, Span, SpanKind
from farm.model import Address, Artifact, Device, Load, Workload

ALONE = {"program": str(METERED), "idle_s": 0.03, "chip_s": 0.0, "gpio": ""}
MARKED = {**ALONE, "chip_s": 0.01}
LOAD = {"min_duration_s": 0.02, "min_queries": 11, "max_duration_s": 5.0}
SECOND_NS = 1_000_000_000


def _rest(names: object, feed: object) -> None:
    time.sleep(0.001)


def _window(
    asked: dict[str, Any], run: loadgen.Run = _rest
) -> tuple[np.ndarray, list[tuple[str, int, int, int]], list[dict[str, Any]]]:
    """A window over a model in plain Python: samples, spans, and what every loop was told."""
    told: list[dict[str, Any]] = []

    def loop(**bounds: Any) -> np.ndarray:
        told.append(bounds)
        return loadgen.timed_loop(run, [], [{}], **bounds)

    beside = metered.Beside(asked)
    samples = beside.window(loop, LOAD)
    return samples, beside.spans, told


def test_all_sides_know_the_same_mark() -> None:
    assert (metered.MARK, metered.CHIPS_APART) == (metering.MARK, metering.CHIPS_APART)
    native = (SOURCES / "metered.c").read_text()
    assert f"MARK[] = {{{', '.join(map(str, metering.MARK))}}};" in native
    assert f"CHIPS_APART = {metering.CHIPS_APART}," in native


def test_without_a_mark_the_window_lies_between_two_rests() -> None:
    samples, spans, told = _window(ALONE)
    assert [kind for kind, *_ in spans] == ["idle", "window", "idle"]
    assert len(told) == 1
    assert spans[1][3] == samples.shape[1] >= 11
    assert spans[1][2] - spans[1][1] == samples[0, -1] + samples[1, -1] - samples[0, 0]


def test_with_a_mark_everything_comes_in_its_order_and_takes_its_time() -> None:
    _, spans, told = _window(MARKED)
    assert [kind for kind, *_ in spans] == ["idle", "mark", "window", "mark", "idle"]
    assert all(end >= start for _, start, end, _ in spans)
    assert all(after[1] >= before[2] for before, after in itertools.pairwise(spans))
    chip_ns, lengths = 10_000_000, [end - start for _, start, end, _ in spans]
    assert min(lengths[0], lengths[4]) >= 30_000_000
    assert min(lengths[1], lengths[3]) >= len(metered.MARK) * chip_ns
    # The rests beside the window belong to nothing.
    assert spans[2][1] - spans[1][2] >= metered.CHIPS_APART * chip_ns
    assert spans[3][1] - spans[2][2] >= metered.CHIPS_APART * chip_ns
    assert [n for *_, n in spans] == [0, 0, spans[2][3], 0, 0]
    assert 3 <= len(told) <= 2 * sum(metered.MARK) + 2  # one more tells how long it takes


class Clock:
    """Time that passes only by inferences, which take as long as they are told to, and sleep."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, inference_ns: int) -> None:
        self.now_ns = 10**15
        self.inference_ns = inference_ns
        self.loads: list[tuple[int, int]] = []
        monkeypatch.setattr(time, "perf_counter_ns", lambda: self.now_ns)
        monkeypatch.setattr(time, "sleep", self._sleep)

    def _sleep(self, duration_s: float) -> None:
        self.now_ns += round(duration_s * 1e9)

    def loop(self, *, max_duration_ns: int, **more: Any) -> np.ndarray:
        begin, starts = self.now_ns, []
        while not starts or self.now_ns < begin + max_duration_ns:
            starts.append(self.now_ns)
            self.now_ns += self.inference_ns
        if self.loads and self.loads[-1][1] == begin:
            begin = self.loads.pop()[0]
        self.loads.append((begin, self.now_ns))
        return np.array([starts, [self.inference_ns] * len(starts)])


CHIP_NS = 250_000_000


@pytest.mark.parametrize("inference_ms", [1, 7, 40, 110, 160, 600, 3000])
def test_the_load_of_a_mark_is_where_it_belongs_up_to_half_an_inference(
    monkeypatch: pytest.MonkeyPatch, inference_ms: int
) -> None:
    """Its elements are longer for a model that takes longer, up to a bound."""
    clock = Clock(monkeypatch, inference_ms * 1_000_000)
    beside = runpy.run_path(str(METERED))["Beside"]({**ALONE, "idle_s": 1.0, "chip_s": 0.25})
    beside.window(clock.loop, {**LOAD, "max_duration_s": 10.0})
    monkeypatch.undo()
    del clock.loads[0]  # the one that tells how long an inference takes
    _, before, window, after, _ = beside.spans
    ahead = window[1] - clock.loads[-1 - len(clock.loads) // 2][0]
    chip_ns = min(metered.MAX_CHIP_NS, max(CHIP_NS, 2 * clock.inference_ns))
    edges = np.flatnonzero(np.diff([0, *metered.MARK, 0])).reshape(-1, 2) * chip_ns
    for mark in (before, after):
        assert mark[2] - mark[1] == len(metered.MARK) * chip_ns
        loads = [
            (begin + ahead - mark[1], end + ahead - mark[1])
            for begin, end in clock.loads
            if mark[1] <= begin + ahead < mark[2]
        ]
        if 2 * clock.inference_ns <= chip_ns:
            assert [begin for begin, _ in loads] == [begin for begin, _ in edges]
            off_ns = np.abs(np.array(loads)[:, 1] - edges[:, 1])
            assert off_ns.max() <= clock.inference_ns / 2
        assert all(begin % chip_ns == 0 for begin, _ in loads)


def test_spans_are_on_the_wall_clock() -> None:
    before = time.time_ns()
    _, spans, _ = _window(ALONE)
    after = time.time_ns()
    assert before - SECOND_NS < spans[0][1] < spans[-1][2] < after + SECOND_NS


def test_the_signal_frames_the_queries_and_nothing_else() -> None:
    seen: list[object] = []
    loadgen.timed_loop(
        lambda names, feed: seen.append("query"), [], [{}],
        min_duration_ns=0, min_queries=3, max_duration_ns=SECOND_NS, signal=seen.append,
    )  # fmt: skip
    assert seen == [True, "query", "query", "query", False]


def test_a_model_that_fails_in_the_window_lowers_the_signal() -> None:
    seen: list[bool] = []
    with pytest.raises(ZeroDivisionError):
        loadgen.timed_loop(
            lambda names, feed: 1 / 0, [], [{}],
            min_duration_ns=0, min_queries=3, max_duration_ns=SECOND_NS, signal=seen.append,
        )  # fmt: skip
    assert seen == [True, False]


# The loadgen as a program


def _loadgen(folder: Path, model: Path, asked: object) -> subprocess.CompletedProcess[str]:
    spec = {
        "mode": "measure", "model": str(model), "inputs": None, "dimensions": {},
        "accelerator": "cpu", "load": {**LOAD, "warmup_s": 0.01}, "metered": asked,
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, LOADGEN, json.dumps(spec)],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_window_beside_a_meter_is_one_piece(tmp_path: Path, digits: Path) -> None:
    done = _loadgen(tmp_path, digits / "float.onnx", MARKED)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    starts, durations = np.load(tmp_path / "latency.npy")
    (window,) = (span for span in result["spans"] if span[0] == "window")
    assert window[3] == len(starts) >= 11
    assert window[2] - window[1] == starts[-1] + durations[-1] - starts[0]
    assert result["pace_ns"] > 0


def test_without_a_meter_there_are_no_spans(tmp_path: Path, digits: Path) -> None:
    assert _loadgen(tmp_path, digits / "float.onnx", None).returncode == 0
    assert json.loads((tmp_path / "result.json").read_text())["spans"] == []


def test_a_pin_that_cannot_be_had_makes_the_device_unfit(tmp_path: Path, digits: Path) -> None:
    done = _loadgen(tmp_path, digits / "float.onnx", {**ALONE, "gpio": "/dev/no-such-chip:3"})
    assert (done.returncode, "there is no such chip" in done.stderr) == (30, True)
    assert not (tmp_path / "result.json").exists()


# The runtime


class Noting(LocalTransport):
    """Notes the deadlines of what it starts."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.limits: list[float] = []

    def start(self, argv: tuple[str, ...], *, folder: PurePosixPath) -> Detached:
        process = super().start(argv, folder=folder)
        wait = process.wait

        def noting(timeout_s: float) -> Any:
            self.limits.append(timeout_s)
            return wait(timeout_s)

        process.wait = noting  # type: ignore[method-assign]
        return process


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Callable[..., Noting]]:
    opened = []

    def connect(**options: str) -> Noting:
        address = Address(scheme="local", place="", options=(("root", str(tmp_path / "root")),))
        device = Device(name="b", type="t", address=address, options=tuple(options.items()))
        opened.append(Noting(device))
        return opened[-1]

    yield connect
    for transport in opened:
        transport.close()


QUICK = Load(min_duration_s=0.02, min_queries=11, warmup_s=0.01)


def test_the_runtime_tells_spans_and_waits_longer(
    connect: Callable[..., Noting], digits: Path
) -> None:
    assert OrtPython.meterable
    transport = connect(sync_gpio="/dev/no-such-chip:3")
    workload = Workload(name="w", digest="0" * 64)
    deployment = OrtPython(transport).deploy(
        Artifact.of(digits / "float.onnx"), workload, accelerator="cpu"
    )
    asked = Metered(idle_s=0.03, chip_s=0.01)
    measured = deployment.measure(QUICK, metered=asked)  # no wire: the pin is left alone
    assert measured.span_clock is ClockDomain.DEVICE
    assert all(isinstance(span, Span) for span in measured.spans)
    kinds = [span.kind for span in measured.spans]
    assert kinds == [*map(SpanKind, ("idle", "mark", "window", "mark", "idle"))]
    assert measured.spans[2].inferences == len(measured.traces[0].values)
    assert deployment.measure(QUICK).spans == ()
    longer, usual = transport.limits
    assert longer - usual == pytest.approx(2 * (0.03 + 17 * MAX_CHIP_S))
    with pytest.raises(DeviceError, match=r"/dev/no-such-chip:3: there is no such chip"):
        deployment.measure(QUICK, metered=dataclasses.replace(asked, wire=True))
