"""The native runner with the real library: on this machine, and on emulated boards."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from drivers.ondevice import loadgen
from drivers.runtimes.native_build import FLAGS, LIBRARIES, SOURCES, build_with, compilers
from drivers.runtimes.ort_library import find_library
from drivers.runtimes.ort_native import OrtNative
from drivers.runtimes.ort_python import OrtPython
from drivers.transports.local import LocalTransport
from farm.connection import Detached, Transport
from farm.errors import (
    ConfigError,
    DeployFailed,
    DeviceError,
    OutOfSpace,
    RuntimeCrashed,
    WrongAccelerator,
    WrongOutput,
)
from farm.metering import CHIPS_APART, MARK, Metered
from farm.model import Address, Artifact, Device, Load, Workload
from farm.protocols import Runtime
from farm.record import Output
from farm.shell import Completed
from farm.testing.runtimes import RuntimeContract
from farm.workload import read_workload

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
TINY = ROOT.parent / "shared" / "data" / "mlperf-tiny"
QUICK = Load(min_duration_s=0.01, min_queries=30, warmup_s=0.01)
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g", "-O1")


@pytest.fixture(autouse=True)
def _kept_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled and downloaded is kept: compilers and registries are slow."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(ROOT / "build" / "native-cache"))


@pytest.fixture(autouse=True)
def _has_compiler(lacks: Callable[[str], None], _kept_builds: None) -> None:
    if not compilers("x86_64"):
        lacks("no C compiler: pip install 'verdict-farm[native]'")


def _device(tmp_path: Path, **options: str) -> Device:
    root = tmp_path / "it's a $(touch pwned) root"
    address = Address(scheme="local", place="", options=(("root", str(root)),))
    return Device(name="here", type="t", address=address, options=tuple(options.items()))


@pytest.fixture
def transport(tmp_path: Path) -> Iterator[Transport]:
    transport = LocalTransport(_device(tmp_path))
    yield transport
    transport.close()


@pytest.fixture
def model(digits: Path) -> Artifact:
    return Artifact.of(digits / "int8.onnx")


@pytest.fixture
def other_model(digits: Path) -> Artifact:
    return Artifact.of(digits / "float.onnx")


@pytest.fixture
def workload(digits: Path) -> Workload:
    return read_workload(digits)


class TestOrtNativeOnLocal(RuntimeContract):
    kind = OrtNative


# The runner as a program


class Runner:
    """The runner of this machine, called directly."""

    def __init__(self, folder: Path, program: Path) -> None:
        self.folder = folder
        self.program = program
        self.library = find_library("", "x86_64")[0]

    def run(
        self, mode: str, *words: str, library: Path | None = None, limit: str = ""
    ) -> subprocess.CompletedProcess[str]:
        argv = [str(self.program), mode, "--library", str(library or self.library), *words]
        shell = ["sh", "-c", f'{limit}exec "$@"', "sh", *argv]
        return subprocess.run(
            shell, cwd=self.folder, capture_output=True, text=True, check=False, timeout=300
        )

    def result(self, mode: str, model: Path, *words: str) -> dict[str, Any]:
        done = self.run(mode, "--model", str(model), *words)
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        assert json.loads(done.stdout) == result
        return result


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    folder = tmp_path / "work"
    folder.mkdir()
    return Runner(folder, build_with(compilers("x86_64")[0]).path)


def _raw(runner: Runner, name: str, values: np.ndarray) -> tuple[str, ...]:
    path = runner.folder / f"{abs(hash(name))}.raw"
    values.tofile(path)
    shape = "x".join(map(str, (1, *values.shape[1:])))
    return ("--input", name, str(path), f"{values.dtype.name}:{shape}")


def _save(path: Path, nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any],
          *weights: Any) -> Path:  # fmt: skip
    """A model from nodes, and inputs and outputs as (type, shape) by name."""

    def infos(values: dict[str, Any]) -> list[Any]:
        return [helper.make_tensor_value_info(name, *spec) for name, spec in values.items()]

    graph = helper.make_graph(nodes, "g", infos(inputs), infos(outputs), list(weights))
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def _unary(
    path: Path, operator: str, shape: list[Any], *, name: str = "x", kind: int = TensorProto.FLOAT
) -> Path:
    node = helper.make_node(operator, [name], ["y"])
    return _save(path, [node], {name: (kind, shape)}, {"y": (kind, shape)})


def test_facts_tell_what_works_here(runner: Runner) -> None:
    done = runner.run("facts")
    facts = json.loads(done.stdout)
    assert facts["onnxruntime"] == ort.__version__
    assert facts["architecture"] == os.uname().machine
    assert facts["accelerators"] == "cpu"
    assert int(facts["onnxruntime_api"]) >= 21
    assert list(runner.folder.iterdir()) == []


def test_names_may_hold_anything(runner: Runner, tmp_path: Path) -> None:
    name, size = '-=\n"\\ünï\x01', "a=b\nc"
    path = tmp_path / "$(touch pwned) '=\n.onnx"
    model = _unary(path, "Abs", ["n", size], name=name)
    result = runner.result("measure", model, "--dim", size, "3", "--min-duration", "0")
    assert result["facts"]["input_shapes"] == {name: [1, 3]}
    values = np.array([[-1, 2], [3, -4]], np.float32)
    result = runner.result("infer", model, *_raw(runner, name, values))
    assert result["outputs"] == ["y"]
    assert (np.load(runner.folder / "output-0.npy") == np.abs(values)).all()


def test_every_type_that_numpy_has_goes_through(runner: Runner, tmp_path: Path) -> None:
    for kind, dtype in (
        (TensorProto.FLOAT16, np.float16), (TensorProto.DOUBLE, np.float64),
        (TensorProto.BOOL, np.bool_), (TensorProto.INT16, np.int16),
        (TensorProto.UINT64, np.uint64), (TensorProto.INT64, np.int64),
    ):  # fmt: skip
        model = _unary(tmp_path / "m.onnx", "Identity", [1, 3], kind=kind)
        values = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
        runner.result("infer", model, *_raw(runner, "x", values))
        got = np.load(runner.folder / "output-0.npy")
        assert got.dtype == dtype
        assert (got == values).all()
        result = runner.result("measure", model, "--min-duration", "0", "--warmup", "0")
        assert result["first_ns"] > 0


def test_a_window_keeps_every_sample_in_order(runner: Runner, digits: Path) -> None:
    words = ("--min-duration", "0", "--min-queries", "101", "--warmup", "0.01")
    result = runner.result("measure", digits / "float.onnx", *words)
    starts, durations = np.load(runner.folder / "latency.npy")
    assert len(starts) == 102  # two halves
    assert (durations > 0).all()
    assert (starts[1:] >= starts[:-1] + durations[:-1]).all()
    assert result["load_ns"] > durations.min()
    assert result["pace_ns"] > 0
    assert 4 << 20 < result["peak_rss_bytes"] < 4 << 30


def test_a_window_ends_at_the_maximum(runner: Runner, digits: Path) -> None:
    words = ("--min-queries", str(10**12), "--max-duration", "0.05", "--warmup", "0")
    runner.result("measure", digits / "float.onnx", *words)
    assert np.load(runner.folder / "latency.npy").shape[1] >= 2


# Complaints are those of the loadgen


def _complaints(runner: Runner, model: Path, inputs: dict[str, np.ndarray] | None,
                dimensions: dict[str, int], accelerator: str) -> list[dict[str, str]]:  # fmt: skip
    words = ["--accelerator", accelerator, "--min-duration", "0"]
    for name, size in dimensions.items():
        words += ["--dim", name, str(size)]
    for name, values in (inputs or {}).items():
        words += _raw(runner, name, values)
    ours = runner.result("measure", model, *words)
    path = runner.folder / "inputs.npz"
    if inputs:
        np.savez(path, **inputs)  # type: ignore[arg-type]
    spec = {"mode": "measure", "model": str(model), "inputs": str(path) if inputs else None,
            "dimensions": dimensions, "accelerator": accelerator,
            "load": {**asdict(QUICK), "warmup_s": 0}}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(runner.folder)
        theirs = loadgen.execute(spec)
    return [ours["error"], theirs["error"]]


@pytest.mark.parametrize(
    ("shape", "inputs", "dimensions", "accelerator"),
    [
        ([1, 4], {"b": np.zeros((2, 4), np.float32), "a": np.zeros((2, 1))}, {}, "cpu"),
        (["n", "width"], None, {}, "cpu"),
        (["n", None], None, {}, "cpu"),
        ([1, 4], None, {"width": 3}, "cpu"),
        ([1, 4], None, {}, "quantum"),
        ([1, 4], None, {}, "xnnpack"),
        ([1, 4], None, {}, "cpu+cuda"),
    ],
)
def test_a_wrong_question_has_the_same_answer_as_in_python(
    runner: Runner, tmp_path: Path, shape: list[Any], inputs: dict[str, np.ndarray] | None,
    dimensions: dict[str, int], accelerator: str,
) -> None:  # fmt: skip
    model = _unary(tmp_path / "m.onnx", "Abs", shape)
    ours, theirs = _complaints(runner, model, inputs, dimensions, accelerator)
    assert ours == theirs


@pytest.mark.parametrize(
    ("inputs", "dimensions"),
    [
        ({"x": np.zeros((2, 5), np.float32)}, {}),
        ({"x": np.zeros((2, 4), np.int32)}, {}),
        (None, {"width": 1 << 62}),
        (None, {"width": 1 << 46}),
    ],
)
def test_inputs_that_do_not_fit_are_refused_as_in_python(
    runner: Runner, tmp_path: Path, inputs: dict[str, np.ndarray] | None,
    dimensions: dict[str, int],
) -> None:  # fmt: skip
    model = _unary(tmp_path / "m.onnx", "Abs", ["n", "width"] if dimensions else [1, 4])
    ours, theirs = _complaints(runner, model, inputs, dimensions, "cpu")
    assert ours["code"] == theirs["code"] == "deploy_failed"


def test_text_needs_a_workload_as_in_python(runner: Runner, tmp_path: Path) -> None:
    model = _unary(tmp_path / "m.onnx", "Identity", [1, 2], kind=TensorProto.STRING)
    ours, theirs = _complaints(runner, model, None, {}, "cpu")
    assert ours == theirs
    assert ours["message"] == "input 'x' of type tensor(string) needs a workload"


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_output_that_is_no_number_is_refused(
    runner: Runner, tmp_path: Path, kind: int, value: float
) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    weight = numpy_helper.from_array(np.array([0, value], dtype), "w")
    node = helper.make_node("Identity", ["w"], ["y"])
    idle = helper.make_node("Identity", ["x"], ["z"])
    model = _save(tmp_path / "m.onnx", [node, idle], {"x": (kind, [1])},
                  {"y": (kind, [2]), "z": (kind, [1])}, weight)  # fmt: skip
    ours, theirs = _complaints(runner, model, None, {}, "cpu")
    assert ours == theirs == {"code": "wrong_output", "message": "output 'y' is NaN or infinite"}


def test_an_output_without_items_is_refused(runner: Runner, tmp_path: Path) -> None:
    node = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)
    kind = TensorProto.FLOAT
    model = _save(tmp_path / "m.onnx", [node], {"x": (kind, [1, 2])}, {"y": (kind, [])})
    result = runner.result("infer", model, *_raw(runner, "x", np.ones((3, 2), np.float32)))
    assert result["error"]["code"] == "wrong_output"


def test_an_output_that_changes_its_shape_is_refused(runner: Runner, tmp_path: Path) -> None:
    node = helper.make_node("NonZero", ["x"], ["y"])
    model = _save(tmp_path / "m.onnx", [node], {"x": (TensorProto.FLOAT, [1, 2])},
                  {"y": (TensorProto.INT64, [2, "n"])})  # fmt: skip
    values = np.array([[1, 1], [0, 1]], np.float32)
    result = runner.result("infer", model, *_raw(runner, "x", values))
    assert result["error"]["message"] == "output 'y' changes its shape from item to item"


def test_a_workload_without_items_is_refused(runner: Runner, tmp_path: Path) -> None:
    model = _unary(tmp_path / "m.onnx", "Abs", [1, 2])
    empty = _raw(runner, "x", np.zeros((0, 2), np.float32))
    assert runner.result("infer", model, *empty)["error"]["code"] == "deploy_failed"
    nothing = _raw(runner, "x", np.zeros((3, 0), np.float32))
    assert runner.result("infer", model, *nothing)["error"]["code"] == "deploy_failed"


# What is not the model's fault


def test_a_full_disk_is_told_by_its_status(runner: Runner, digits: Path) -> None:
    words = ("--model", str(digits / "float.onnx"), "--min-queries", "20000")
    done = runner.run("measure", *words, limit="ulimit -f 8; ")
    assert done.returncode == 28
    assert "cannot keep the results: latency.npy: File too large" in done.stderr


def test_a_full_disk_while_inferring_is_told_too(runner: Runner, digits: Path) -> None:
    images = np.load(digits / "inputs.npz")["image"]
    words = ("--model", str(digits / "float.onnx"), *_raw(runner, "image", images))
    done = runner.run("infer", *words, limit="ulimit -f 8; ")
    assert done.returncode == 28


def test_a_library_that_cannot_be_loaded_is_the_devices_fault(
    runner: Runner, tmp_path: Path
) -> None:
    (tmp_path / "x.so").write_bytes(b"no library")
    for library, message in (
        (tmp_path / "x.so", "cannot load the library"),
        (Path("libm.so.6"), "is no ONNX Runtime"),
    ):
        done = runner.run("facts", library=library)
        assert done.returncode == 30
        assert message in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        (), ("--model",), ("--model", "m", "--dim", "n"), ("--model", "m", "--dim", "n", "-1"),
        ("--model", "m", "--threads", "x"), ("--model", "m", "more"), ("--model", "m", "--nope"),
        ("--model", "m", "--warmup", "nan"), ("--model", "m", "--cpus", "2-1"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_told(runner: Runner, words: tuple[str, ...]) -> None:
    done = runner.run("measure", *words)
    assert done.returncode == 2
    assert done.stderr
    assert runner.run("no-such-mode", "--model", "m").returncode == 2


# Through the farm


def _infer(runtime: Runtime, model: Path, inputs: Path | None, *, accelerator: str = "cpu") -> (
    tuple[Output, ...]
):  # fmt: skip
    artifact = Artifact.of(inputs) if inputs else None
    workload = Workload(name="w", digest="0" * 64, inputs=artifact)
    return runtime.deploy(Artifact.of(model), workload, accelerator=accelerator).infer()


def _same(ours: tuple[Output, ...], theirs: tuple[Output, ...]) -> bool:
    return [(o.name, o.values.dtype, o.values.shape, o.values.tobytes()) for o in ours] == [
        (t.name, t.values.dtype, t.values.shape, t.values.tobytes()) for t in theirs
    ]


@pytest.mark.parametrize("name", ["float.onnx", "int8.onnx"])
def test_outputs_are_those_of_python_to_the_last_bit(
    transport: Transport, digits: Path, name: str
) -> None:
    ours, theirs = (
        _infer(kind(transport), digits / name, digits / "inputs.npz")
        for kind in (OrtNative, OrtPython)
    )
    assert _same(ours, theirs)


def _golden(name: str, folder: Path) -> tuple[Path, Path]:
    """A model of MLPerf Tiny and its inputs as a workload has them."""
    model = TINY / f"{name}.onnx"
    if not model.exists():
        pytest.skip(f"no models in {TINY}")
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    (declared,) = session.get_inputs()
    inputs = np.load(TINY / f"{name.partition('_')[0]}_golden.npz")["inputs"][:, 0]
    if declared.type == "tensor(float)":
        inputs = ((inputs.astype(np.float32) - 83) * 0.5847).astype(np.float32)
    np.savez(folder / "golden.npz", **{declared.name: inputs})
    return model, folder / "golden.npz"


TINY_MODELS = ("kws_int8", "ic_int8", "vww_int8", "ad_int8", "kws_hybrid_f32")


@pytest.mark.parametrize("name", TINY_MODELS)
def test_outputs_of_mlperf_tiny_are_those_of_python_to_the_last_bit(
    transport: Transport, tmp_path: Path, name: str
) -> None:
    model, inputs = _golden(name, tmp_path)
    ours, theirs = (_infer(kind(transport), model, inputs) for kind in (OrtNative, OrtPython))
    assert _same(ours, theirs)


@pytest.mark.parametrize("kind", [OrtNative, OrtPython])
def test_a_window_tells_of_placement_and_cold_start(
    transport: Transport, digits: Path, kind: type[Runtime]
) -> None:
    runtime = kind(transport)
    workload = read_workload(digits)
    deployment = runtime.deploy(Artifact.of(digits / "float.onnx"), workload, accelerator="cpu")
    measured = deployment.measure(QUICK)
    scalars = {scalar.metric: scalar.value for scalar in measured.scalars}
    assert set(scalars) == {"memory.peak_rss", "coldstart.load", "coldstart.first_inference"}
    assert scalars["coldstart.load"] > scalars["coldstart.first_inference"] > 0
    placement = deployment.placement(QUICK)
    assert placement is not None
    assert placement.share_of_nodes("cpu") == 1.0
    assert deployment.placement(QUICK) is placement  # profiled once


@pytest.mark.parametrize("kind", [OrtNative, OrtPython])
def test_processors_are_chosen(tmp_path: Path, digits: Path, kind: type[Runtime]) -> None:
    model = Artifact.of(digits / "float.onnx")
    workload = Workload(name="w", digest="0" * 64)
    first = min(os.sched_getaffinity(0))
    there = kind(LocalTransport(_device(tmp_path, cpus=str(first))))
    there.deploy(model, workload, accelerator="cpu").measure(QUICK)
    absent = kind(LocalTransport(_device(tmp_path, cpus="1000-1001")))
    with pytest.raises(DeviceError, match="cannot run on processors"):
        absent.deploy(model, workload, accelerator="cpu").measure(QUICK)
    wrong = kind(LocalTransport(_device(tmp_path, cpus="first")))
    with pytest.raises(ConfigError, match="no list of cores"):
        wrong.deploy(model, workload, accelerator="cpu")


@pytest.mark.parametrize("accelerator", ["xnnpack", "tensorrt", "qnn+cpu", "cpu+cuda", "", "+"])
@pytest.mark.parametrize("kind", [OrtNative, OrtPython])
def test_an_accelerator_that_the_library_lacks_is_refused(
    transport: Transport, digits: Path, kind: type[Runtime], accelerator: str
) -> None:
    with pytest.raises(WrongAccelerator, match="the runtime here has cpu"):
        _infer(kind(transport), digits / "float.onnx", digits / "inputs.npz",
               accelerator=accelerator)  # fmt: skip


def test_bad_numbers_and_wrong_inputs_are_the_models_fault(
    transport: Transport, tmp_path: Path
) -> None:
    runtime = OrtNative(transport)
    np.savez(tmp_path / "x.npz", x=np.array([[1.0, -1.0]], np.float32))
    with pytest.raises(WrongOutput):
        _infer(runtime, _unary(tmp_path / "m.onnx", "Log", [1, 2]), tmp_path / "x.npz")
    with pytest.raises(DeployFailed):
        _infer(runtime, _unary(tmp_path / "n.onnx", "Abs", [1, 3]), tmp_path / "x.npz")


def _library(source: str, target: Path) -> Path:
    """A library in place of ONNX Runtime."""
    target.with_suffix(".c").write_text(source)
    command = [*compilers("x86_64")[0].command, "-shared", "-fPIC", "-o", str(target)]
    subprocess.run([*command, str(target.with_suffix(".c"))], check=True)
    return target


def test_a_crash_is_told_with_its_signal(tmp_path: Path, digits: Path) -> None:
    source = "#include <stdlib.h>\nvoid *OrtGetApiBase(void) { abort(); }\n"
    library = _library(source, tmp_path / "libonnxruntime.so")
    runtime = OrtNative(LocalTransport(_device(tmp_path, ort_library=str(library))))
    with pytest.raises(DeviceError, match="does not run there"):
        runtime.facts()
    with pytest.raises(RuntimeCrashed, match="by signal 6"):
        _infer(runtime, digits / "float.onnx", digits / "inputs.npz")


def test_a_library_that_the_board_has_is_used_where_it_is(tmp_path: Path, digits: Path) -> None:
    library = find_library("", "x86_64")[0]
    transport = LocalTransport(_device(tmp_path, ort_library=f"board:{library}"))
    outputs = _infer(OrtNative(transport), digits / "float.onnx", digits / "inputs.npz")
    assert outputs[0].values.shape == (900, 10)
    assert not Path(transport.root / "libraries").exists()
    for missing in ("board:/no/such.so", "board:relative.so"):
        runtime = OrtNative(LocalTransport(_device(tmp_path, ort_library=missing)))
        with pytest.raises(ConfigError, match="the board has no library"):
            runtime.facts()


def test_a_disk_that_fills_is_the_devices_fault(
    tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = LocalTransport(_device(tmp_path))
    runtime = OrtNative(transport)
    workload = read_workload(digits)
    deployment = runtime.deploy(Artifact.of(digits / "float.onnx"), workload, accelerator="cpu")
    start = transport.start

    def limited(argv: tuple[str, ...], *, folder: PurePosixPath) -> Detached:
        return start(("sh", "-c", 'ulimit -f 8; exec "$@"', "sh", *argv), folder=folder)

    monkeypatch.setattr(transport, "start", limited)
    with pytest.raises(OutOfSpace, match="cannot keep the results"):
        deployment.infer()


# Beside a power meter


BESIDE = ("--idle", "0.03", "--chip", "0.01")
SHIM = ROOT / "tests" / "unit" / "gpio_shim.c"
METERED = Metered(idle_s=0.03, chip_s=0.01)


@pytest.mark.parametrize("kind", [OrtNative, OrtPython])
def test_spans_beside_a_meter_follow_each_other(
    transport: Transport, digits: Path, kind: type[Runtime]
) -> None:
    workload = Workload(name="w", digest="0" * 64)
    deployment = kind(transport).deploy(
        Artifact.of(digits / "float.onnx"), workload, accelerator="cpu"
    )
    for metered in (METERED, replace(METERED, chip_s=0.0)):
        measured = deployment.measure(QUICK, metered=metered)
        kinds = [span.kind.value for span in measured.spans]
        marks = ["mark"] if metered.chip_s else []
        assert kinds == ["idle", *marks, "window", *marks, "idle"]
        least = {"idle": metered.idle_s, "mark": len(MARK) * metered.chip_s, "window": 0.0}
        for span in measured.spans:
            assert span.end_ns - span.start_ns >= least[span.kind.value] * 1e9
        apart_ns = CHIPS_APART * metered.chip_s * 1e9
        for before, after in itertools.pairwise(measured.spans):
            rests = "window" in (before.kind, after.kind)
            assert after.start_ns - before.end_ns >= (apart_ns if rests else 0)
        (latency,) = measured.traces
        assert [span.inferences for span in measured.spans if span.inferences] == [
            len(latency.values)
        ]
        (window,) = (span for span in measured.spans if span.inferences)
        lasted_ns = latency.t_ns[-1] + latency.values[-1] - latency.t_ns[0]
        assert window.end_ns - window.start_ns == lasted_ns
        assert 1.7e18 < window.start_ns < 4e18  # the wall clock, in ns
        assert measured.pace_ns
    assert deployment.measure(QUICK).spans == ()


@pytest.fixture
def pin_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: Callable[[str], None]) -> Path:
    """What programs that are started from now on ask of a GPIO chip; any file is one."""
    if not shutil.which("gcc"):
        lacks("gcc is missing: apt-get install gcc libc6-dev")
    shim = tmp_path / "shim.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(shim), str(SHIM)], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(shim))
    monkeypatch.setenv("PIN_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


@pytest.mark.parametrize("kind", [OrtNative, OrtPython])
def test_the_pin_is_high_around_the_window_and_at_no_other_time(
    tmp_path: Path, digits: Path, kind: type[Runtime], pin_log: Path
) -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as chip:  # the option wants one below /dev
        transport = LocalTransport(_device(tmp_path, sync_gpio=f"{chip.name}:!5"))
        deployment = kind(transport).deploy(
            Artifact.of(digits / "float.onnx"), Workload(name="w", digest="0" * 64),
            accelerator="cpu",
        )  # fmt: skip
        deployment.measure(QUICK, metered=METERED)
        assert not pin_log.exists()  # no wire
        measured = deployment.measure(QUICK, metered=replace(METERED, wire=True))
    taken, high, low = pin_log.read_text().splitlines()
    assert taken == "line 5 of 1 flags 10 attributes 0 for farm"
    assert (high[:10], low[:10]) == ("set 1 of 1", "set 0 of 1")
    rose, fell = (int(line.split()[-1]) for line in (high, low))
    (latency,) = measured.traces
    _, before, window, after, _ = measured.spans
    ahead = window.start_ns - latency.t_ns[0]
    assert before.end_ns < rose + ahead <= window.start_ns
    assert window.end_ns <= fell + ahead < after.start_ns


def test_a_pin_that_cannot_be_had_makes_the_device_unfit(runner: Runner, digits: Path) -> None:
    words = ("--model", str(digits / "float.onnx"), *BESIDE, "--gpio", "/dev/no-such-chip:3")
    done = runner.run("measure", *words)
    assert (done.returncode, "there is no such chip" in done.stderr) == (30, True)


# Other boards, emulated


class Emulated(LocalTransport):
    """A board of another architecture: what runs from its store, runs under QEMU.

    QEMU 7.2 crashes when the library reads the host's description of its caches; where the
    emulated board looks first, that description is empty.
    """

    def __init__(self, device: Device, architecture: str, folder: Path) -> None:
        super().__init__(device)
        triple = {"aarch64": "aarch64-linux-gnu", "armv7l": "arm-linux-gnueabihf"}[architecture]
        emulator = {"aarch64": "qemu-aarch64-static", "armv7l": "qemu-arm-static"}[architecture]
        self._told = f"{architecture}\n{32 if architecture == 'armv7l' else 64}\n"
        cpu = folder / "sys" / "devices" / "system" / "cpu"
        cpu.mkdir(parents=True)
        for name in ("possible", "present"):
            (cpu / name).touch()
        for told in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cache/index*/*"):
            if told.is_file():
                hidden = folder / str(told).lstrip("/")
                hidden.parent.mkdir(parents=True, exist_ok=True)
                hidden.touch()
        (folder / "lib").symlink_to(f"/usr/{triple}/lib")
        self._emulator = (emulator, "-L", str(folder))

    def run(self, argv: tuple[str, ...], **more: Any) -> Completed:
        if "uname -m" in " ".join(argv):
            return Completed(returncode=0, stdout=self._told, stderr="", elapsed_s=0.0)
        return super().run(self._emulate(argv), **more)

    def start(self, argv: tuple[str, ...], *, folder: PurePosixPath) -> Detached:
        return super().start(self._emulate(argv), folder=folder)

    def _emulate(self, argv: tuple[str, ...]) -> tuple[str, ...]:
        ours = argv[0].startswith(str(self.root / "store"))
        return (*self._emulator, *argv) if ours else argv


def _board(tmp_path: Path, architecture: str, lacks: Callable[[str], None],
           **options: str) -> Emulated:  # fmt: skip
    emulator, triple, package = {
        "aarch64": ("qemu-aarch64-static", "aarch64-linux-gnu", "arm64"),
        "armv7l": ("qemu-arm-static", "arm-linux-gnueabihf", "armhf"),
    }[architecture]
    if not shutil.which(emulator):
        lacks(f"{emulator} is missing: apt-get install qemu-user-static")
    if not Path(f"/usr/{triple}/lib/libstdc++.so.6").exists():
        lacks(f"apt-get install libstdc++6-{package}-cross libc6-{package}-cross")
    return Emulated(_device(tmp_path, **options), architecture, tmp_path / "prefix")


@pytest.fixture(params=["zig", "gcc"])
def compiled_by(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, lacks: Callable[[str], None]
) -> str:
    """Each compiler for aarch64 in turn."""
    if request.param == "gcc":
        if not shutil.which("aarch64-linux-gnu-gcc"):
            lacks("aarch64-linux-gnu-gcc is missing: apt-get install gcc-aarch64-linux-gnu")
        monkeypatch.setattr("drivers.runtimes.native_build.find_spec", lambda name: None)
    else:
        pytest.importorskip("ziglang")
    name: str = request.param
    assert ("ziglang" in compilers("aarch64")[0].command) == (name == "zig")
    return name


def test_an_aarch64_board_says_what_this_machine_says(
    tmp_path: Path, digits: Path, compiled_by: str, lacks: Callable[[str], None]
) -> None:
    board = OrtNative(_board(tmp_path, "aarch64", lacks))
    facts = {fact.name: fact.value for fact in board.facts()}
    assert (facts["architecture"], facts["accelerators"]) == ("aarch64", "cpu")
    few = tmp_path / "few.npz"
    np.savez(few, image=np.load(digits / "inputs.npz")["image"][:40])
    (ours,) = _infer(board, digits / "float.onnx", few)
    (theirs,) = _infer(OrtPython(LocalTransport(_device(tmp_path))), digits / "float.onnx", few)
    scale = np.abs(theirs.values).max()
    np.testing.assert_allclose(ours.values, theirs.values, rtol=1e-6, atol=1e-6 * scale)
    workload = Workload(name="w", digest="0" * 64)
    deployment = board.deploy(Artifact.of(digits / "float.onnx"), workload, accelerator="cpu")
    assert len(deployment.measure(QUICK).traces[0].values) >= QUICK.min_queries
    placement = deployment.placement(QUICK)
    assert placement is not None
    assert placement.share_of_nodes("cpu") == 1.0


def test_whole_numbers_on_aarch64_are_the_same_to_the_last_bit(
    tmp_path: Path, lacks: Callable[[str], None]
) -> None:
    model, inputs = _golden("kws_int8", tmp_path)
    ours = _infer(OrtNative(_board(tmp_path, "aarch64", lacks)), model, inputs)
    theirs = _infer(OrtPython(LocalTransport(_device(tmp_path))), model, inputs)
    assert _same(ours, theirs)


def test_the_runner_for_armv7_is_built_and_starts(
    tmp_path: Path, lacks: Callable[[str], None]
) -> None:
    library = tmp_path / "libonnxruntime.so"
    library.write_bytes(b"\x7fELF" + bytes(14) + (40).to_bytes(2, "little") + bytes(100))
    board = _board(tmp_path, "armv7l", lacks, ort_library=str(library))
    with pytest.raises(DeviceError, match="cannot load the library"):
        OrtNative(board).facts()
    with pytest.raises(ConfigError, match="no official wheel"):
        OrtNative(Emulated(_device(tmp_path), "armv7l", tmp_path / "again")).facts()


# Memory


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """The runner with gcc's address and undefined-behaviour checks, None where gcc has none."""
    program = tmp_path_factory.mktemp("sanitized") / "ort_runner"
    sources = sorted(map(str, SOURCES.glob("*.c")))
    flags = [flag for flag in FLAGS if not flag.startswith("-O")]
    command = ["gcc", *flags, *SANITIZE, *sources, "-o", str(program), *LIBRARIES]
    if not shutil.which("gcc"):
        return None
    done = subprocess.run(command, capture_output=True, check=False)
    return program if done.returncode == 0 else None


def test_no_mode_touches_memory_that_is_not_its_own(
    runner: Runner, sanitized: Path | None, digits: Path, tmp_path: Path,
    lacks: Callable[[str], None], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if sanitized is None:
        lacks("gcc has no address sanitizer: apt-get install gcc libasan8")
    assert sanitized is not None
    monkeypatch.setenv("ASAN_OPTIONS", "detect_leaks=0")  # the kernel frees what is left at the end
    checked = Runner(runner.folder, sanitized)
    model = digits / "float.onnx"
    images = _raw(runner, "image", np.load(digits / "inputs.npz")["image"][:70])
    assert json.loads(checked.run("facts").stdout)["accelerators"] == "cpu"
    for mode in ("measure", "infer", "profile", "compile"):
        assert "error" not in checked.result(mode, model, *images)
    assert "error" not in checked.result("measure", model, "--cpus", "0", "--quiet-pace-ns", "0.01")
    assert len(checked.result("measure", model, *BESIDE)["spans"]) == 5
    hostile = _unary(tmp_path / "m.onnx", "Abs", ["n", "w"], name='"\xff\n')
    for words in (("--dim", "w", "7"), ("--dim", "w", str(1 << 62)), (), ("--dim", "q", "1")):
        checked.result("measure", hostile, "--min-duration", "0", *words)
    for accelerator in ("cuda", "+", "", "cpu+" * 50):
        assert "error" in checked.result("measure", model, "--accelerator", accelerator)
    for size in (0, 1, 1000):
        broken = tmp_path / "broken.onnx"
        broken.write_bytes(model.read_bytes()[:size])
        assert checked.result("measure", broken)["error"]["code"] == "unsupported_model"


def test_the_sources_travel_with_the_package() -> None:
    assert {"main.c", "runner.h", "onnxruntime_c_api.h", "LICENSE.onnxruntime", "README.md"} <= {
        path.name for path in SOURCES.iterdir()
    }
    assert sys.byteorder == "little"


def test_an_armv7_board_with_a_wheel_of_somebody_elses_says_what_this_machine_says(
    tmp_path: Path, digits: Path, lacks: Callable[[str], None]
) -> None:
    """There is no official wheel: `sherpa-onnx-core` carries the library."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    command += [str(tmp_path), "--only-binary=:all:", "--platform", "manylinux_2_35_armv7l"]
    done = subprocess.run([*command, "sherpa-onnx-core"], capture_output=True, check=False)
    if done.returncode:
        lacks("sherpa-onnx-core for armv7l cannot be downloaded: check pip's index")
    (wheel,) = tmp_path.glob("*.whl")
    board = OrtNative(_board(tmp_path, "armv7l", lacks, ort_library=str(wheel)))
    facts = {fact.name: fact.value for fact in board.facts()}
    assert (facts["architecture"], facts["accelerators"]) == ("armv7l", "cpu"), str(facts)
    few = tmp_path / "few.npz"
    np.savez(few, image=np.load(digits / "inputs.npz")["image"][:40])
    (ours,) = _infer(board, digits / "float.onnx", few)
    (theirs,) = _infer(OrtPython(LocalTransport(_device(tmp_path))), digits / "float.onnx", few)
    scale = np.abs(theirs.values).max()
    np.testing.assert_allclose(ours.values, theirs.values, rtol=1e-6, atol=1e-6 * scale)
