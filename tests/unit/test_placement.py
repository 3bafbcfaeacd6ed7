"""Where a model's nodes ran, read from a profile."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from drivers.ondevice import loadgen
from drivers.runtimes.placement import read_placement, refuse_fallback
from farm.errors import WrongAccelerator
from farm.record import Placed, Placement


def _node(
    name: str, provider: str, start: int, took: int, *, operator: str = "Conv"
) -> dict[str, object]:
    return {
        "cat": "Node",
        "name": f"{name}_kernel_time",
        "ts": start,
        "dur": took,
        "args": {"provider": f"{provider}ExecutionProvider", "op_name": operator},
    }


def _run(start: int) -> dict[str, object]:
    return {"cat": "Session", "name": "model_run", "ts": start, "dur": 100, "args": {}}


def _profile(*events: dict[str, object]) -> str:
    return "[\n" + ",\n".join(json.dumps(event) for event in events) + "\n]"


def _profiled(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    spec = {"mode": "profile", "model": str(model), "inputs": None, "dimensions": {},
            "accelerator": "cpu"}  # fmt: skip
    result = loadgen.execute(spec)
    assert "error" not in result
    return (tmp_path / "profile.json").read_text()


def test_a_real_profile_names_every_node_once(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placement = read_placement(_profiled(digits / "float.onnx", tmp_path, monkeypatch))
    assert placement is not None
    (cpu,) = placement.placed
    assert cpu.accelerator == "cpu"
    assert 5 <= cpu.nodes <= 20
    assert placement.share_of_nodes("cpu") == placement.share_of_time("cpu") == 1.0
    assert "Conv" in dict(placement.operators)
    assert sum(dict(placement.operators).values()) == pytest.approx(cpu.time_ns)


def test_shares_of_nodes_and_of_time_are_those_of_the_steady_state() -> None:
    inference = lambda at: (  # noqa: E731
        _node("a", "CUDA", at + 1, 29), _node("b", "CUDA", at + 40, 59),
        _node("c", "CPU", at + 110, 9, operator="Softmax"),
    )  # fmt: skip
    slow_first = (_run(0), _node("a", "CUDA", 1, 5000), _node("b", "CUDA", 2, 1),
                  _node("c", "CPU", 3, 1))  # fmt: skip
    events = (*slow_first, _run(10_000), *inference(10_000), _run(20_000), *inference(20_000))
    placement = read_placement(_profile(*events))
    assert placement == Placement(
        placed=(
            Placed(accelerator="cuda", nodes=2, time_ns=89_000.0),
            Placed(accelerator="cpu", nodes=1, time_ns=9_500.0),
        ),
        operators=(("Conv", 89_000.0), ("Softmax", 9_500.0)),
    )
    assert placement.share_of_nodes("cuda") == pytest.approx(2 / 3)
    assert placement.share_of_time("cuda") == pytest.approx(89 / 98.5)


def test_a_single_inference_is_enough() -> None:
    placement = read_placement(_profile(_run(0), _node("a", "CPU", 1, 2)))
    assert placement is not None
    assert placement.placed == (Placed(accelerator="cpu", nodes=1, time_ns=2_500.0),)


def test_what_a_loop_holds_is_not_counted_twice() -> None:
    events = (
        _node("inner", "CPU", 1, 10),
        _node("inner", "CPU", 20, 10),
        _node("outer", "CPU", 0, 40, operator="Loop"),
    )
    placement = read_placement(_profile(_run(0), *events))
    assert placement is not None
    assert placement.placed == (Placed(accelerator="cpu", nodes=2, time_ns=21_000.0),)


@pytest.mark.parametrize("text", ["", "[]", "[\n]", "no profile", _profile(_run(0))])
def test_without_a_node_there_is_no_placement(text: str) -> None:
    assert read_placement(text) is None


@pytest.mark.parametrize(
    "name",
    ['"', 'a"b', "\\", '","provider" : "CUDAExecutionProvider"', "new\nline", "{", "ünï", "},"],
)
def test_a_hostile_node_name_changes_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = lambda what: helper.make_tensor_value_info(what, TensorProto.FLOAT, [1, 4])  # noqa: E731
    node = helper.make_node("Sin", ["x"], ["y"], name=name)
    graph = helper.make_graph([node], "g", [value("x")], [value("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    placement = read_placement(_profiled(path, tmp_path, monkeypatch))
    assert placement is not None
    assert [(place.accelerator, place.nodes) for place in placement.placed] == [("cpu", 1)]
    assert np.isfinite(placement.placed[0].time_ns)
    assert [operator for operator, _ in placement.operators] == ["Sin"]


def _placement(**nodes: int) -> Placement:
    return Placement(
        placed=tuple(
            Placed(accelerator=name, nodes=count, time_ns=1.0) for name, count in nodes.items()
        )
    )


@pytest.mark.parametrize(
    ("placement", "asked"),
    [
        (_placement(cpu=3), "cpu"),
        (None, "cpu"),
        (_placement(cuda=3), "cuda"),
        (_placement(cuda=3), "cuda+cpu"),
        (_placement(cuda=1, cpu=9), "cuda+cpu"),
        (_placement(tensorrt=1, cuda=9), "tensorrt+cuda"),
    ],
)
def test_what_was_asked_for_is_accepted(placement: Placement | None, asked: str) -> None:
    refuse_fallback(placement, asked)


@pytest.mark.parametrize(
    ("placement", "asked", "message"),
    [
        (_placement(cpu=3), "cuda", "asked for cuda, but 3 of 3 nodes ran on cpu"),
        (_placement(cuda=9, cpu=1), "cuda", "asked for cuda, but 1 of 10 nodes ran on cpu"),
        (_placement(cpu=3), "cuda+cpu", "asked for cuda+cpu, but none of 3 nodes ran on cuda"),
        (_placement(cuda=3), "cpu", "asked for cpu, but 3 of 3 nodes ran on cuda"),
        (None, "cuda", "asked for cuda, but no node was seen to run anywhere"),
    ],
)
def test_a_fallback_is_refused(placement: Placement | None, asked: str, message: str) -> None:
    with pytest.raises(WrongAccelerator) as caught:
        refuse_fallback(placement, asked)
    assert caught.value.message == message
