"""Hosts work side by side, and stop together."""

from __future__ import annotations

import threading

import pytest

from farm import execution
from farm.errors import StoreUnavailable

PATIENCE_S = 60


def test_works_run_at_the_same_time() -> None:
    meeting = threading.Barrier(3, timeout=PATIENCE_S)
    execution._side_by_side([meeting.wait] * 3, threading.Event())
    assert not meeting.broken


def test_a_single_work_runs_in_the_callers_thread() -> None:
    threads: list[threading.Thread] = []
    execution._side_by_side([lambda: threads.append(threading.current_thread())], threading.Event())
    assert threads == [threading.current_thread()]


def test_the_first_error_stops_the_others_and_is_the_one_that_is_raised() -> None:
    stop = threading.Event()

    def fail() -> None:
        raise StoreUnavailable("the disk is full")

    def go_on_until_told() -> None:
        assert stop.wait(PATIENCE_S)
        raise KeyboardInterrupt

    with pytest.raises(StoreUnavailable, match="full"):
        execution._side_by_side([go_on_until_told, fail], stop)


def test_nothing_to_do_is_done() -> None:
    execution._side_by_side([], threading.Event())
