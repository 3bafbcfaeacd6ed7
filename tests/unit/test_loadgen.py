"""The timed loop that runs on devices."""

from __future__ import annotations

import gc
import itertools
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from drivers.ondevice import loadgen


def _loop(run: loadgen.Run, **bounds: int) -> np.ndarray:
    defaults = {"min_duration_ns": 0, "min_queries": 1, "max_duration_ns": 10**10}
    return loadgen.timed_loop(run, [], [{}], **{**defaults, **bounds})


def test_the_loop_ends_when_both_minima_are_reached() -> None:
    assert _loop(lambda names, feed: None, min_queries=500).shape == (2, 500)
    long = _loop(lambda names, feed: None, min_duration_ns=20_000_000)
    assert long[0, -1] + long[1, -1] - long[0, 0] >= 19_000_000  # the window began a little before


def test_the_loop_ends_at_the_maximum_whatever_was_reached() -> None:
    samples = _loop(lambda names, feed: None, min_queries=10**9, max_duration_ns=10_000_000)
    assert 1 <= samples.shape[1] < 10**9


def test_queries_follow_each_other_and_never_overlap() -> None:
    starts, durations = _loop(lambda names, feed: None, min_queries=1000)
    assert (durations >= 0).all()
    assert (starts[1:] >= starts[:-1] + durations[:-1]).all()


def test_the_collector_is_off_inside_and_as_before_outside() -> None:
    inside = []
    _loop(lambda names, feed: inside.append(gc.isenabled()))
    assert inside == [False]
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        _loop(lambda names, feed: 1 / 0)
    assert gc.isenabled()


def test_every_feed_has_its_turn() -> None:
    seen = []
    loadgen.timed_loop(
        lambda names, feed: seen.append(feed["n"]), [], [{"n": 1}, {"n": 2}, {"n": 3}],
        min_duration_ns=0, min_queries=6, max_duration_ns=10**10,
    )  # fmt: skip
    assert seen == [1, 2, 3, 1, 2, 3]


def test_warm_up_reports_a_model_that_never_settles() -> None:
    calls = itertools.count()

    def slower_and_slower(names: object, feed: object) -> None:
        ends = time.perf_counter() + 0.001 * 1.05 ** next(calls)
        while time.perf_counter() < ends:
            pass

    assert not loadgen.warm_up(slower_and_slower, [], [{}], 150_000_000)


def test_peak_memory_is_this_process_and_not_its_parent() -> None:
    assert 10 << 20 < loadgen.peak_rss_bytes() < 64 << 30


def _spec(model: Path, **more: object) -> dict[str, object]:
    return {"mode": "infer", "model": str(model), "inputs": None, "dimensions": {},
            "accelerator": "cpu", **more}  # fmt: skip


def test_a_problem_of_the_model_is_a_result_with_its_code(tmp_path: Path, digits: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model at all")
    assert loadgen.execute(_spec(broken))["error"]["code"] == "unsupported_model"
    asked = loadgen.execute(_spec(digits / "int8.onnx", accelerator="cuda"))
    assert asked["error"]["code"] == "wrong_accelerator"
    assert "cpu" in asked["error"]["message"]
    unknown = loadgen.execute(_spec(digits / "int8.onnx", accelerator="quantum"))
    assert unknown["error"]["code"] == "wrong_accelerator"


def test_inputs_of_other_names_are_refused(tmp_path: Path, digits: Path) -> None:
    np.savez(tmp_path / "other.npz", picture=np.zeros((2, 1, 8, 8), np.uint8))
    spec = _spec(digits / "int8.onnx", inputs=str(tmp_path / "other.npz"))
    assert loadgen.execute(spec)["error"] == {
        "code": "deploy_failed",
        "message": "the model takes image; the workload has picture",
    }


def test_seeded_inputs_are_the_same_every_time(digits: Path) -> None:
    session = loadgen.open_session(_spec(digits / "float.onnx"))
    one, two = (loadgen.seeded_feed(session, {}) for _ in range(2))
    assert one["image"].shape == (1, 1, 8, 8)
    assert np.array_equal(one["image"], two["image"])


LOAD = {"min_duration_s": 0.01, "min_queries": 11, "max_duration_s": 1.0}


def _quiet(
    run: loadgen.Run, load: loadgen.Spec, quiet_ns: float | None
) -> tuple[np.ndarray, float]:
    return loadgen.quiet_window(partial(loadgen.timed_loop, run, [], [{}]), load, quiet_ns)


def test_a_window_has_both_its_halves_in_order_and_a_pace() -> None:
    samples, pace = _quiet(lambda names, feed: None, LOAD, None)
    assert samples.shape[1] >= 12
    assert (np.diff(samples[0]) > 0).all()
    assert pace > 0


def test_without_a_known_pace_or_at_it_the_first_window_counts() -> None:
    calls = []
    run = lambda names, feed: calls.append(1)  # noqa: E731
    _quiet(run, {**LOAD, "min_duration_s": 0.0, "min_queries": 2}, None)
    assert len(calls) == 2
    _quiet(run, {**LOAD, "min_duration_s": 0.0, "min_queries": 2}, 1e9)
    assert len(calls) == 4


def test_a_pace_that_never_comes_is_waited_for_with_patience_and_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loadgen, "PATIENCE_S", 0.1)
    samples, pace = _quiet(lambda names, feed: None, LOAD, 1e-3)
    assert samples.shape[1] >= 12
    assert pace > 1e-3
