"""A window on a board beside a power meter: requests whose places in time the host knows.

A board has no clock that anybody else knows, so the host's times the requests. What the line takes
of that is measured before, and taken off: a window begins when the request has arrived, and ends
when its answer begins to leave.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from drivers.mcu.client import Board, Hello, Inferred
from drivers.mcu.wire import Kind
from drivers.runtimes.mcu_window import INFER_S, Ticks, first_run, most_runs, warm_up
from farm.errors import InfraError
from farm.metering import CHIPS_APART, MARK, Metered, Span, SpanKind
from farm.model import Load
from farm.record import Fact

BATCH_S = 20.0
"""As long as one request may be: each has edges, where a slow meter and the line blur the power."""
LEAST_S = 1.0
PACE_S = 0.3
"""A request of that length tells well enough how long an inference takes."""
AIM = 1.05
"""So much more than is missing, so that no short request has to follow."""
QUIET_S = 1.5
"""Rest after what ran before, for which the pin rose too: nobody shall take that for the window."""
RUNS_PER_CHIP = 4
"""An element of the mark ends at the end of an inference, so several of them have to fit in."""
LATE_S, LATE = 0.1, 0.02
"""An answer is late that comes so much after the board's own counter says that it was done, in
seconds and as a share: it was lost and sent again, or this machine was busy."""
MOST_LATE = 3
SURE = 1.02
"""So much longer than asked for, as the pin is high for a little less than the host believes."""
MOST_OFF = 0.9
"""An exchange that nearly seems to consist of the line alone is a mistake about the line."""
TRIES = 5
ANSWER_S = 5.0
RUN_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What the line takes of an exchange.

    Attributes:
        way_s: one way of a frame with nothing in it.
        run_s: eight bytes more, which an answer has for each inference.
    """

    way_s: float
    run_s: float

    @property
    def request_s(self) -> float:
        """How long INFER is on its way, which has eight bytes."""
        return self.way_s + self.run_s

    def answer_s(self, count: int) -> float:
        """How long the answer to so many runs is on its way; it has eight bytes besides."""
        return self.way_s + (count + 1) * self.run_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What a board did beside a meter.

    Attributes:
        ticks: as of any window.
        spans: on the host's clock.
        fact: what the line took.
    """

    ticks: Ticks
    spans: tuple[Span, ...]
    fact: Fact


def run_beside_meter(
    board: Board, hello: Hello, load: Load, metered: Metered, *, emulated: bool
) -> Beside:
    """One window as a meter needs it (`farm.metering.Metered`).

    The pin, if the board has one, is high during each request, also of the warm-up and of a mark.

    Args:
        board: with the input that is measured.
        hello: its last one.
        load: what to run.
        metered: how.
        emulated: whether the board's seconds are not the host's.

    Raises:
        DeviceError: as `time_inferences`.
        InfraError: answers come late again and again.
    """
    requests = _Requests(board, hello, time_exchange(board), emulated=emulated)
    first = first_run(requests.run, hello)
    settled = warm_up(requests.run, first, hello, load.warmup_s)
    requests.find_pace()
    requests.rest(max(metered.idle_s, QUIET_S))
    chip_s = requests.chip_s(metered.chip_s)
    if chip_s:
        requests.mark(chip_s)
        board.line.clock.sleep(CHIPS_APART * chip_s)
    ran = requests.infer(load)
    if chip_s:
        board.line.clock.sleep(CHIPS_APART * chip_s)
        requests.mark(chip_s)
    requests.rest(metered.idle_s)
    ticks = Ticks(
        taken=np.array([ticks for one in ran for ticks in one.ticks], np.int64),
        stack_peak=max(one.stack_peak for one in ran),
        settled=settled,
    )
    return Beside(ticks=ticks, spans=tuple(requests.spans), fact=requests.fact())


def time_exchange(board: Board) -> Exchange:
    """Ask for nothing, and for something longer: the quickest of several answers to each counts.

    What a board sends may be much faster than what it takes, so a long echo would not do.
    """
    clock = board.line.clock

    def ask(request: bytes) -> tuple[float, int]:
        begun_ns = clock.now_ns()
        answer = board.line.exchange(request, timeout_s=ANSWER_S)
        return (clock.now_ns() - begun_ns) / 1e9, len(answer)

    short_s, short = min(ask(bytes([Kind.ECHO])) for _ in range(TRIES))
    long_s, long = min(ask(bytes([Kind.HELLO])) for _ in range(TRIES))
    byte_s = max(0.0, long_s - short_s) / max(1, long - short)
    return Exchange(way_s=short_s / 2, run_s=byte_s * RUN_BYTES)


class _Requests:
    """The requests of one window, and when they ran."""

    def __init__(self, board: Board, hello: Hello, exchange: Exchange, *, emulated: bool) -> None:
        self._emulated = emulated
        self._board = board
        self._clock = board.line.clock
        self._hello = hello
        self._exchange = exchange
        self._most = most_runs(hello)
        self._slowest_s = 0.0
        self._each_s = 0.0
        self.spans: list[Span] = []

    def run(self, count: int) -> Inferred:
        """Run the model; under an emulator a board's seconds pass faster than the host's."""
        ran = self._board.infer(count=count, timeout_s=INFER_S + count * self._slowest_s)
        self._slowest_s = max(self._slowest_s, max(ran.ticks) / self._hello.tick_hz)
        return ran

    def find_pace(self) -> None:
        """Learn how long an inference takes by the host's clock."""
        count, length_s = 1, _length_s(self._timed(1)[1])
        while length_s < PACE_S and count < self._most:
            count = min(self._most, max(2 * count, int(count * PACE_S / length_s)))
            length_s = _length_s(self._timed(count)[1])
        self._each_s = length_s / count

    def rest(self, duration_s: float) -> None:
        """The host sleeps, and the board waits for bytes."""
        start_ns = self._clock.now_ns()
        self._clock.sleep(duration_s)
        self._add(SpanKind.IDLE, start_ns, self._clock.now_ns())

    def chip_s(self, wanted_s: float) -> float:
        """The length of an element of the mark; 0 for no mark."""
        return wanted_s and max(wanted_s, RUNS_PER_CHIP * self._one_s)

    def mark(self, chip_s: float) -> None:
        """Load and rest in turn, on a grid that no request is late for by more than a part."""
        start_ns = self._clock.now_ns()
        for chip, load in enumerate(MARK, start=1):
            ends_ns = start_ns + round(chip * chip_s * 1e9)
            while load and (left_s := self._left_s(ends_ns)) > self._one_s:
                each_s = self._each_s + self._exchange.run_s
                fit = (left_s - self._exchange.request_s - self._exchange.answer_s(0)) / each_s
                self.run(min(self._most, max(1, int(fit))))
            self._clock.sleep(max(0.0, self._left_s(ends_ns)))
        self._add(SpanKind.MARK, start_ns, ends_ns)

    def infer(self, load: Load) -> list[Inferred]:
        """Requests as long as one may be, and about alike, until there are enough inferences.

        One whose answer was late is no window: it seems longer than it was.
        """
        ran: list[Inferred] = []
        spent_s, late = 0.0, 0
        while spent_s < load.max_duration_s:
            missing = load.min_queries - sum(len(one.ticks) for one in ran)
            missing_s = max(SURE * load.min_duration_s - spent_s, missing * self._each_s)
            if missing_s <= 0:
                break
            count = self._share(min(missing_s, load.max_duration_s - spent_s))
            one, span = self._timed(count)
            if self._is_late(one, span):
                late += 1
                if late > MOST_LATE:
                    raise _complaint(self._board_s(one), span)
                continue
            ran.append(one)
            self.spans.append(span)
            spent_s += _length_s(span)
            self._each_s = _length_s(span) / count
        return ran

    def _is_late(self, ran: Inferred, span: Span) -> bool:
        board_s = self._board_s(ran)
        return not self._emulated and _length_s(span) > board_s + LATE_S + LATE * board_s

    def _board_s(self, ran: Inferred) -> float:
        return sum(ran.ticks) / self._hello.tick_hz

    def _share(self, missing_s: float) -> int:
        """How many inferences the next of the requests has that are still to come."""
        longest = min(self._most, max(1, int(BATCH_S / self._each_s)))
        wanted = max(1.0, AIM * missing_s / self._each_s)
        share = math.ceil(wanted / math.ceil(wanted / longest))
        return max(share, min(longest, math.ceil(LEAST_S / self._each_s)))

    def fact(self) -> Fact:
        """What was taken off."""
        exchange = self._exchange
        short_ms = 1e3 * (exchange.request_s + exchange.answer_s(0))
        run_ms = 1e3 * exchange.run_s
        told = f"{short_ms:.1f} ms, and {run_ms:.3f} ms per inference, were taken off each request"
        return Fact(name="metered_line", value=told)

    @property
    def _one_s(self) -> float:
        """A request for one inference, there and back."""
        return self._exchange.request_s + self._each_s + self._exchange.answer_s(1)

    def _left_s(self, until_ns: int) -> float:
        return (until_ns - self._clock.now_ns()) / 1e9

    def _timed(self, count: int) -> tuple[Inferred, Span]:
        """One request, and when the board ran it."""
        asked_ns = self._clock.now_ns()
        ran = self.run(count)
        answered_ns = self._clock.now_ns()
        before_s, after_s = self._exchange.request_s, self._exchange.answer_s(count)
        most_s = MOST_OFF * (answered_ns - asked_ns) / 1e9
        share = min(1.0, most_s / max(before_s + after_s, 1e-9))
        return ran, Span(
            kind=SpanKind.WINDOW,
            start_ns=asked_ns + round(share * before_s * 1e9),
            end_ns=answered_ns - round(share * after_s * 1e9),
            inferences=count,
        )

    def _add(self, kind: SpanKind, start_ns: int, end_ns: int) -> None:
        self.spans.append(Span(kind=kind, start_ns=start_ns, end_ns=end_ns))


def _complaint(board_s: float, span: Span) -> InfraError:
    return InfraError(
        f"a request of {board_s:.3f} s by the board's counter took {_length_s(span):.3f} s",
        hint="the line loses answers, this machine is busy, or the board's clock is set wrongly",
    )


def _length_s(span: Span) -> float:
    return (span.end_ns - span.start_ns) / 1e9
