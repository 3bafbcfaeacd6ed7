"""One window of inferences on a board: instructions where they can be counted, else ticks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from drivers.mcu.client import MAX_COUNT, Board, Hello, Inferred
from farm.errors import DeviceError
from farm.model import Load
from farm.record import Fact, Measured, Measurement, TimeBasis, Trace

INFER_S = 120.0
"""An inference that takes longer is taken for endless. Under an emulator these are virtual seconds,
which pass the faster the more the processor has to do."""
BATCH_S = 1.0
"""A board that runs a model answers nobody, so no single request lasts much longer than that."""
ICOUNT_RUNS = 3
"""One would do where counts are exact; three show that they are."""
WARMUP_S = 0.025
WARMUP_TOLERANCE = 0.02
"""As for every runtime: warm-up ends when the medians of two adjacent windows agree."""
FIRST_ITEM = Fact(
    name="measured_input",
    value="the first item; where arithmetic is done in software others may take a little longer",
)

Run = Callable[[int], Inferred]
"""Runs the model so many times on the input that the board has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticks:
    """What a board's counter said of a window.

    Attributes:
        taken: by each inference, shape [n].
        stack_peak: in bytes, the largest.
        settled: whether the warm-up did, where there was one.
    """

    taken: npt.NDArray[np.int64]
    stack_peak: int
    settled: bool = True


def count_instructions(board: Board, hello: Hello, shift: int) -> Measured:
    """What one inference takes, under an emulator that lets 2^shift ns pass per instruction."""
    ran = board.infer(count=ICOUNT_RUNS, timeout_s=INFER_S)
    taken = np.array(ran.ticks, np.int64)
    return as_instructions(Ticks(taken=taken, stack_peak=ran.stack_peak), hello, shift)


def as_instructions(ticks: Ticks, hello: Hello, shift: int) -> Measured:
    """What is known of a window under such an emulator."""
    counts = np.rint(ticks.taken / hello.tick_hz * 1e9 / 2**shift).astype(np.int64)
    facts = [FIRST_ITEM]
    if counts.min() != counts.max():
        vary = f"from {counts.min()} to {counts.max()} on the same input; the largest counts"
        facts.append(Fact(name="instructions_vary", value=vary))
    return Measured(
        traces=(),
        scalars=(
            _measured("compute.instructions", "instructions", counts.max()),
            _measured("memory.stack_peak", "bytes", ticks.stack_peak),
        ),
        accelerator="cpu",
        time_basis=TimeBasis.ICOUNT,
        facts=tuple(facts),
    )


def time_inferences(board: Board, hello: Hello, load: Load) -> Measured:
    """A window on a real board: latency by its own counter, and cycles if that counts them.

    Raises:
        DeviceError: its counter is too slow for this model, or stands still.
    """

    def run(count: int) -> Inferred:
        return board.infer(count=count, timeout_s=INFER_S)

    return as_times(_window(run, hello, load), hello)


def as_times(ticks: Ticks, hello: Hello) -> Measured:
    """What is known of a window on a real board."""
    cycles = hello.ticks == "cycles"
    scalars = [_measured("memory.stack_peak", "bytes", ticks.stack_peak)]
    if cycles:
        median = float(np.median(ticks.taken))
        scalars.append(_measured("compute.cycles", "cycles", median, n=len(ticks.taken)))
    durations = np.rint(ticks.taken * (1e9 / hello.tick_hz)).astype(np.int64)
    settled = str(ticks.settled).lower()
    return Measured(
        traces=(Trace(name="latency", unit="ns", values=durations),),
        scalars=tuple(scalars),
        accelerator="cpu",
        time_basis=TimeBasis.CYCLES if cycles else TimeBasis.WALL,
        facts=(FIRST_ITEM, Fact(name="warmup_settled", value=settled)),
    )


def _window(run: Run, hello: Hello, load: Load) -> Ticks:
    first = first_run(run, hello)
    each_s = first.ticks[0] / hello.tick_hz
    most = min(most_runs(hello), max(1, int(BATCH_S / each_s)))
    settled = warm_up(run, first, hello, load.warmup_s)
    taken: list[int] = []
    stack_peak, spent_s = first.stack_peak, 0.0
    while spent_s < load.max_duration_s:
        missing_s = max(load.min_duration_s - spent_s, (load.min_queries - len(taken)) * each_s)
        if missing_s <= 0:
            break
        missing = math.ceil(min(missing_s, load.max_duration_s - spent_s) / each_s)
        ran = run(min(most, missing))
        taken += ran.ticks
        stack_peak = max(stack_peak, ran.stack_peak)
        spent_s += _seconds(ran, hello.tick_hz)
    return Ticks(taken=np.array(taken, np.int64), stack_peak=stack_peak, settled=settled)


def most_runs(hello: Hello) -> int:
    """The most inferences that a board can be asked for at once."""
    return min(MAX_COUNT, (hello.max_payload - 8) // 8)


def first_run(run: Run, hello: Hello) -> Inferred:
    """The first inference, which tells whether the board's counter is of any use.

    Raises:
        DeviceError: it is not.
    """
    first = run(1)
    if not first.ticks[0]:
        raise DeviceError(
            f"an inference takes less than a tick of the board's counter ({hello.tick_hz} Hz)",
            hint="measure with a firmware whose ticks are cycles",
        )
    return first


def warm_up(run: Run, first: Inferred, hello: Hello, limit_s: float) -> bool:
    """Run until two adjacent windows agree; False if they never did in time."""
    count = min(most_runs(hello), max(1, int(WARMUP_S * hello.tick_hz / first.ticks[0])))
    spent_s, previous = 0.0, None
    while spent_s < limit_s:
        ran = run(count)
        spent_s += _seconds(ran, hello.tick_hz)
        median = float(np.median(ran.ticks))
        if previous is not None and abs(median - previous) <= WARMUP_TOLERANCE * previous:
            return True
        previous = median
    return False


def _seconds(ran: Inferred, tick_hz: int) -> float:
    """How long runs took, a tick each at least, so that a counter may stand still."""
    return sum(max(1, ticks) for ticks in ran.ticks) / tick_hz


def _measured(metric: str, unit: str, value: float, n: int = 1) -> Measurement:
    return Measurement(metric=metric, unit=unit, value=float(value), n=n)
