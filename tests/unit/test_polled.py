"""Meters that are asked: times, retries, and what is counted as lost."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from drivers.meters.polled import MAX_BAD, BadAnswer, NoAnswer, Poller
from farm.errors import MeterGap
from farm.metering import Chunk


class Script:
    """Answers one after the other: watts, or an exception; the last one for ever."""

    def __init__(self, *answers: float | Exception) -> None:
        self._answers: Iterator[float | Exception] = iter(answers)
        self._last: float | Exception = 0.0
        self.asked_ns: list[tuple[int, int]] = []

    def __call__(self) -> float:
        began = time.monotonic_ns()
        self._last = next(self._answers, self._last)
        time.sleep(0.002)
        self.asked_ns.append((began, time.monotonic_ns()))
        if isinstance(self._last, Exception):
            raise self._last
        return self._last


def read(poller: Poller, samples: int) -> tuple[list[float], int, list[int]]:
    """At least so many samples: watts, what was lost, and times."""
    chunks: list[Chunk] = []
    deadline = time.monotonic() + 30
    while sum(len(c.t_ns) for c in chunks) < samples:
        assert time.monotonic() < deadline
        chunks.append(poller.read(0.05))
    watts = np.concatenate([c.power_w for c in chunks]).tolist()
    times = np.concatenate([c.t_ns for c in chunks]).tolist()
    return watts, sum(c.lost for c in chunks), times


def test_a_sample_is_dated_between_question_and_answer() -> None:
    ask = Script(1.0, 2.0, 3.0)
    watts, lost, times = read(Poller(ask, 0.01, "d"), 3)
    assert watts[:3] == [1.0, 2.0, 3.0]
    assert not lost
    for (asked, answered), when in zip(ask.asked_ns, times, strict=False):
        assert asked <= when <= answered
    assert all(np.diff(times) > 0)


def test_one_bad_answer_is_asked_again_at_once_and_counted() -> None:
    poller = Poller(Script(BadAnswer("torn"), 2.0), 3600.0, "d")  # the next turn never comes
    watts, lost, _ = read(poller, 1)
    assert watts == [2.0]
    assert lost == 1


def test_what_is_lost_is_told_with_the_sample_after_the_gap() -> None:
    poller = Poller(Script(1.0, NoAnswer("nothing"), NoAnswer("nothing"), 5.0), 0.001, "d")
    first = poller.read(0.0005)
    while not len(first.t_ns):
        first = poller.read(0.0005)
    while not len((chunk := poller.read(0.0005)).t_ns):
        assert chunk.lost == 0
    assert chunk.lost >= 2
    assert chunk.power_w[0] == 5.0


def test_a_silent_meter_yields_nothing_for_as_long_as_it_likes() -> None:
    poller = Poller(Script(NoAnswer("nothing")), 0.001, "d")
    for _ in range(2 * MAX_BAD):
        chunk = poller.read(0.005)
        assert not len(chunk.t_ns)
        assert chunk.lost == 0


def test_a_meter_that_says_only_rubbish_is_given_up() -> None:
    poller = Poller(Script(BadAnswer("block 1 is damaged")), 0.001, "d")
    with pytest.raises(MeterGap, match=r"cannot be understood: block 1 is damaged") as caught:
        read(poller, 1)
    assert caught.value.device == "d"
    assert caught.value.hint


def test_a_new_start_forgets_what_was_lost() -> None:
    poller = Poller(Script(NoAnswer("nothing"), 1.0), 10.0, "d")
    poller.read(0.001)
    poller.restart()
    assert read(poller, 1)[1] == 0
