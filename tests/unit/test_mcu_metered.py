"""The runtime of microcontrollers beside a meter: what it says is when the board ran."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, pairwise
from pathlib import Path

import pytest

from drivers.mcu.wire import Kind
from drivers.runtimes.mcu import McuRuntime
from drivers.runtimes.mcu_metered import BATCH_S, QUIET_S, RUNS_PER_CHIP
from farm.errors import DeviceError, InfraError
from farm.metering import CHIPS_APART, MARK, ClockDomain, Metered, Span, SpanKind
from farm.model import Artifact, Load, Workload
from farm.record import Measured, TimeBasis
from tests.conftest import DIGITS
from tests.unit.mcu_fakes import FakeBoard, FakeLine, fake_line

S = 10**9
MODEL = Artifact.of(DIGITS / "int8.onnx")
LOAD = Load(min_duration_s=10, min_queries=20, max_duration_s=60, warmup_s=0.5)
WIRED = Metered(idle_s=2.5, wire=True)
MARKED = Metered(idle_s=2.5, chip_s=0.25)


class Exact:
    """A clock that passes when something happens, and at no other time."""

    def __init__(self) -> None:
        self.now = 5 * S

    def now_ns(self) -> int:
        return self.now

    def sleep(self, duration_s: float) -> None:
        self.now += round(duration_s * S)


class TimedLine(FakeLine):
    """A line that takes time, to a board that takes time; what comes is faster than what goes.

    Attributes:
        each_s: an inference.
        ran: from when to when the board ran a model, and how often.
        late: how many seconds some of those answers, by their number, stay away besides.
    """

    each_s = 0.01
    way_s, in_byte_s, out_byte_s = 0.002, 25e-6, 5e-6

    def __init__(self, line: FakeLine) -> None:
        super().__init__(line.device, line.board)
        self.clock = Exact()  # type: ignore[assignment]
        self.late: dict[int, float] = {}
        self.ran: list[tuple[int, int, int]] = []

    def exchange(self, request: bytes, *, timeout_s: float) -> bytes:
        self.clock.sleep(self.way_s + self.in_byte_s * len(request))
        answer = super().exchange(request, timeout_s=timeout_s)
        if request[0] == Kind.INFER:
            count, _ = struct.unpack("<II", request[1:])
            start = self.clock.now_ns()
            self.clock.sleep(count * self.each_s)
            self.clock.sleep(self.late.get(len(self.ran), 0))
            self.ran.append((start, start + round(count * self.each_s * S), count))
        self.clock.sleep(self.way_s + self.out_byte_s * len(answer))
        return answer


Start = Callable[..., TimedLine]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """A line to a new board."""

    def make(*, each_s: float = 0.01, max_payload: int = 16392, **options: str) -> TimedLine:
        board = FakeBoard(tmp_path / "board")
        board.told |= {"max_payload": max_payload}
        board.ticks = cycle([round(each_s * 1_000_000)])
        line = TimedLine(fake_line(tmp_path, board, **options))
        line.each_s = each_s
        return line

    return make


def measure(line: FakeLine, metered: Metered, load: Load = LOAD) -> Measured:
    bare = Workload(name="seeded-inputs", digest="0")
    deployment = McuRuntime(line).deploy(MODEL, bare, accelerator="cpu")
    return deployment.measure(load, metered=metered)


def inside(line: TimedLine, span: Span) -> list[tuple[int, int, int]]:
    return [ran for ran in line.ran if ran[0] < span.end_ns and ran[1] > span.start_ns]


def windows_of(measured: Measured) -> list[Span]:
    return [span for span in measured.spans if span.kind is SpanKind.WINDOW]


def test_windows_are_when_the_board_ran_and_rests_are_when_it_did_not(start: Start) -> None:
    line = start()
    measured = measure(line, WIRED)
    assert measured.span_clock is ClockDomain.HOST
    assert all(one.end_ns <= two.start_ns for one, two in pairwise(measured.spans))
    before, *windows, after = measured.spans
    assert {span.kind for span in windows} == {SpanKind.WINDOW}
    for window in windows:
        ((began, ended, count),) = inside(line, window)
        assert (window.start_ns, window.end_ns) == pytest.approx((began, ended), abs=300_000)
        assert window.inferences == count
    for rest in (before, after):
        assert rest.kind is SpanKind.IDLE
        assert not inside(line, rest)
        assert rest.end_ns - rest.start_ns >= 2.5 * S


@pytest.mark.parametrize(
    ("each_s", "max_payload", "requests"),
    [(0.01, 16392, 2), (0.0005, 16392, 21), (0.01, 1024, 9), (3.0, 16392, 1), (15.0, 16392, 1)],
)
def test_requests_are_as_long_as_the_board_allows_and_alike(
    start: Start, each_s: float, max_payload: int, requests: int
) -> None:
    line = start(each_s=each_s, max_payload=max_payload)
    windows = windows_of(measure(line, WIRED, replace(LOAD, min_queries=1)))
    lengths = [(w.end_ns - w.start_ns) / S for w in windows]
    assert len(windows) == requests
    assert min(lengths) >= 0.8 * max(lengths)
    assert sum(lengths) >= LOAD.min_duration_s * 0.9999
    assert max(lengths) <= max(BATCH_S, each_s) * 1.001


def test_enough_inferences_are_made_but_not_for_ever(start: Start) -> None:
    enough = windows_of(measure(start(), WIRED, replace(LOAD, min_queries=2500)))
    assert 2500 <= sum(w.inferences for w in enough) < 3000
    capped = replace(LOAD, min_queries=10**6, max_duration_s=12)
    many = windows_of(measure(start(), WIRED, capped))
    assert 12 * S <= sum(w.end_ns - w.start_ns for w in many) < 25 * S


def test_the_pin_rests_long_enough_before_a_window_to_be_told_apart(start: Start) -> None:
    line = start()
    windows = windows_of(measure(line, replace(WIRED, idle_s=0.1)))
    earlier = [ended for _, ended, _ in line.ran if ended < windows[0].start_ns]
    assert windows[0].start_ns - earlier[-1] >= QUIET_S * S


@pytest.mark.parametrize("each_s", [0.0005, 0.01, 0.2, 1.0])
def test_the_mark_is_the_load_that_it_says(start: Start, each_s: float) -> None:
    line = start(each_s=each_s)
    measured = measure(line, MARKED)
    kinds = [span.kind for span in measured.spans if span.kind is not SpanKind.WINDOW]
    assert kinds == [SpanKind.IDLE, SpanKind.MARK, SpanKind.MARK, SpanKind.IDLE]
    windows = windows_of(measured)
    marks = [span for span in measured.spans if span.kind is SpanKind.MARK]
    chip = (marks[0].end_ns - marks[0].start_ns) / len(MARK)
    assert chip >= max(0.25, RUNS_PER_CHIP * each_s) * S * 0.999
    assert windows[0].start_ns - marks[0].end_ns >= CHIPS_APART * chip
    assert marks[1].start_ns - windows[-1].end_ns >= CHIPS_APART * chip
    for mark in marks:
        for place, load in enumerate(MARK):
            low, high = (mark.start_ns + chip * (place + share) for share in (0, 1))
            busy = sum(max(0, min(high, e) - max(low, b)) for b, e, _ in line.ran) / chip
            assert busy == pytest.approx(load, abs=0.35 if load else 0.02), place


def test_on_a_real_board_the_windows_are_its_latencies_too(start: Start) -> None:
    line = start()
    measured = measure(line, WIRED)
    (latency,) = measured.traces
    assert set(latency.values) == {10_000_000}
    assert len(latency.values) == sum(w.inferences for w in windows_of(measured))
    facts = {fact.name: fact.value for fact in measured.facts}
    assert facts["warmup_settled"] == "true"
    assert "0.040 ms per inference" in facts["metered_line"]


def test_under_an_emulator_the_host_times_the_windows_and_latency_stays_unknown(
    start: Start,
) -> None:
    line = start(icount_shift="7")
    line.board.told |= {"tick_hz": 25_000_000, "ticks": "timer"}
    line.board.ticks = cycle([3_200_000])
    measured = measure(line, WIRED)
    assert measured.time_basis is TimeBasis.ICOUNT
    assert measured.traces == ()
    values = {m.metric: m.value for m in measured.scalars}
    assert values == {"compute.instructions": 1_000_000, "memory.stack_peak": 1444}
    assert sum(w.end_ns - w.start_ns for w in windows_of(measured)) >= 10 * S


def test_a_board_whose_seconds_fly_gets_enough_of_them(start: Start) -> None:
    line = start(icount_shift="7")
    line.board.ticks = cycle([3_000_000])  # three seconds of its own, ten milliseconds of ours
    limits: list[tuple[int, int]] = []
    really = line.exchange

    def exchange(request: bytes, *, timeout_s: float) -> bytes:
        if request[0] == Kind.INFER:
            limits.append(struct.unpack("<II", request[1:]))
        return really(request, timeout_s=timeout_s)

    line.exchange = exchange  # type: ignore[method-assign]
    measure(line, WIRED)
    assert all(limit_ms >= 3000 * count for count, limit_ms in limits[1:])


def test_a_request_whose_answer_was_late_is_no_window(start: Start) -> None:
    line = start()
    line.late = {9: 0.5}
    measured = measure(line, WIRED, replace(LOAD, min_duration_s=60))
    windows = windows_of(measured)
    late = line.ran[9]
    assert windows[0].end_ns < late[0] < late[1] < windows[-1].start_ns
    assert not any(late in inside(line, window) for window in windows)
    assert all((w.end_ns - w.start_ns) / w.inferences < 0.0101 * S for w in windows)
    assert sum(w.end_ns - w.start_ns for w in windows) >= 60 * S
    assert sum(w.inferences for w in windows) == len(measured.traces[0].values)


def test_answers_that_are_always_late_are_the_lines(start: Start) -> None:
    line = start()
    line.late = dict.fromkeys(range(5, 99), 0.5)
    with pytest.raises(InfraError, match=r"by the board's counter took"):
        measure(line, WIRED)


def test_a_counter_that_stands_still_is_refused_beside_a_meter_too(start: Start) -> None:
    line = start()
    line.board.ticks = cycle([0])
    with pytest.raises(DeviceError, match="less than a tick"):
        measure(line, WIRED)
