"""Whole models as C: what sanitizers see on this machine, and what emulated boards compute."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from drivers.lines.uart import UartLine
from drivers.mcu.building import build_image
from drivers.mcu.client import Board
from drivers.mcu.image import Cpu, Target
from drivers.mcu.toolchain import find_toolchain
from drivers.virtual.mcu import VirtualMcu
from farm.errors import ConfigError
from farm.model import Address, Artifact, Device
from tests.system import mcu_models

TINY = Path(__file__).parents[2] / ".." / "shared" / "data" / "mlperf-tiny"
ROOMY = Target(
    cpu=Cpu.CORTEX_M4F,
    slot_address=0x21000000,
    slot_bytes=0x200000,
    ram_address=0x21400000,
    ram_bytes=0x400000,
)
needs_tiny = pytest.mark.skipif(
    not TINY.exists(), reason=f"the models of MLPerf Tiny are not at {TINY}; they are not shipped"
)
Lacks = Callable[[str], None]


def _golden(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, and what onnxruntime makes of them; the first axis counts them."""
    file = np.load(TINY / f"{name}_golden.npz")
    return file["inputs"], file["onnxruntime"]


def _expected(model: Path, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.stack([session.run(None, {name: one})[0] for one in inputs])


@needs_tiny
@pytest.mark.parametrize("name", ["kws", "vww", "ad"])
def test_quantised_models_compute_what_onnxruntime_does(name: str, tmp_path: Path) -> None:
    inputs, golden = _golden(name)
    assert np.array_equal(mcu_models.run(TINY / f"{name}_int8.onnx", tmp_path, inputs), golden)


@needs_tiny
def test_a_model_that_is_quantised_in_part_is_close(tmp_path: Path) -> None:
    """onnxruntime leaves six convolutions, two sums and a pool of this one in floating point.

    It adds up in another order there, so that now and then a value falls to the other side of a
    rounding step.
    """
    inputs, golden = _golden("ic")
    ours = mcu_models.run(TINY / "ic_int8.onnx", tmp_path, inputs)
    assert (ours == golden).all(axis=(1, 2)).sum() >= 13
    assert np.abs(ours.astype(int) - golden).max() <= 6
    assert np.array_equal(ours.argmax(-1), golden.argmax(-1))


@pytest.mark.parametrize("file", ["float.onnx", "int8.onnx", "candidates/int8_slow.onnx"])
def test_the_shipped_models_compute_what_onnxruntime_does(
    file: str, tmp_path: Path, digits: Path
) -> None:
    inputs = np.load(digits / "inputs.npz")["image"][:40, None]
    expected = _expected(digits / file, inputs)
    given = mcu_models.run(digits / file, tmp_path, inputs)
    if file == "float.onnx":
        assert np.allclose(given, expected, rtol=1e-5, atol=1e-5)
    else:
        assert np.array_equal(given, expected)


def _convolution(n: int, x: str, w: np.ndarray, rng: np.random.Generator, **attributes: object):  # type: ignore[no-untyped-def]
    """A quantised convolution and its constants; the output is of the other signedness."""
    kinds = (np.uint8, np.int8)
    made = {
        "xs": np.float32(0.02), "xz": kinds[n % 2](rng.integers(0, 100)), "w": w,
        "ws": rng.uniform(0.001, 0.02, len(w)).astype(np.float32), "wz": np.zeros(len(w), np.int8),
        "ys": np.float32(0.02), "yz": kinds[n % 2](rng.integers(0, 100)),
        "b": rng.integers(-2000, 2000, len(w)).astype(np.int32),
    }  # fmt: skip
    if n % 3 == 2:  # one scale for all channels
        made |= {"ws": np.float32(0.004), "wz": np.int8(0)}
    names = {key: f"{key}{n}" for key in made}
    constants = [numpy_helper.from_array(np.asarray(made[key]), names[key]) for key in made]
    node = helper.make_node("QLinearConv", [x, *names.values()], [f"y{n}"], **attributes)
    return node, constants


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_convolutions_of_every_shape_are_those_of_onnxruntime(
    kind: type[np.integer], tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    shapes = [
        ((7, 3, 3, 2), {"pads": [0, 1, 2, 1]}),
        ((7, 1, 3, 3), {"group": 7, "pads": [1, 1, 1, 1], "strides": [2, 1]}),
        ((5, 7, 1, 1), {}),
        ((6, 5, 2, 3), {"dilations": [2, 2], "pads": [1, 3, 0, 2]}),
        ((4, 3, 5, 5), {"group": 2, "pads": [4, 4, 4, 4], "strides": [3, 2]}),
        ((1, 4, 1, 1), {"strides": [1, 2]}),
        ((3, 1, 1, 1), {}),
    ]  # fmt: skip
    nodes, constants, x = [], [], "x"
    for n, (shape, attributes) in enumerate(shapes):
        w = rng.integers(-127, 128, shape).astype(np.int8)
        node, made = _convolution(2 * n + (kind is np.int8), x, w, rng, **attributes)
        nodes.append(node)
        constants += made
        x = node.output[0]
    ctype = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    graph = helper.make_graph(
        nodes, "convolutions",
        [helper.make_tensor_value_info("x", ctype, [1, 3, 19, 13])],
        [helper.make_tensor_value_info(x, ctype, None)], constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "convolutions.onnx"
    path.write_bytes(onnx.shape_inference.infer_shapes(model).SerializeToString())
    low = 0 if kind is np.uint8 else -128
    inputs = rng.integers(low, low + 256, (8, 1, 3, 19, 13)).astype(kind)
    assert "QLinearConv" in (tmp_path / "convolutions.onnx").read_bytes().decode("latin-1")
    text = mcu_models.source(path, tmp_path).text
    assert text.count("    farm_kernel_") == len(shapes)
    given = mcu_models.run(path, tmp_path, inputs)
    assert np.array_equal(given, _expected(path, inputs))
    assert len(np.unique(given)) > 5


@needs_tiny
@pytest.mark.parametrize("toolchain", ["gcc", "zig"])
def test_keyword_spotting_fits_a_small_board(toolchain: str, lacks: Lacks) -> None:
    try:
        find_toolchain(toolchain)
    except ConfigError as error:
        lacks(f"{error}; {error.hint}")
    built = build_image(Artifact.of(TINY / "kws_int8.onnx"), ROOMY, toolchain=toolchain)
    assert built.header.arena_bytes <= built.header.bss_bytes <= 20_480
    assert len(built.image) <= 36_864


@pytest.fixture
def board(lacks: Lacks) -> Iterator[Board]:
    """A board with the farm's firmware, in QEMU."""
    if not shutil.which("qemu-system-arm"):
        lacks("no qemu-system-arm: apt install qemu-system-arm")
    address = Address(scheme="virtual-mcu", place="mps2-an386", options=(("engine", "qemu"),))
    device = VirtualMcu.start(Device(name="emulated", type="emulated", address=address))
    with closing(UartLine(device)) as line:
        yield Board(line)


@needs_tiny
@pytest.mark.system
def test_an_emulated_board_computes_the_golden_outputs(board: Board) -> None:
    hello = board.hello()
    built = build_image(Artifact.of(TINY / "kws_int8.onnx"), hello.target(0))
    board.write(0, built.image, max_payload=hello.max_payload)
    board.commit(0)
    hello = board.reset()
    assert (hello.running, hello.in_bytes, hello.out_bytes) == (0, 490, 12)
    inputs, golden = _golden("kws")
    given, counted = [], []
    for one in (*inputs, inputs[0]):
        board.give(one.tobytes(), max_payload=hello.max_payload)
        ticks = board.infer(count=2).ticks
        given.append(board.output(12, max_payload=hello.max_payload))
        counted.append({round(tick / hello.tick_hz * 1e9 / 2**7) for tick in ticks})
    outputs = np.frombuffer(b"".join(given[:-1]), np.int8)
    assert np.array_equal(outputs.reshape(golden.shape), golden)
    assert counted[0] == counted[-1]
    assert all(len(instructions) == 1 for instructions in counted)
    assert max(max(instructions) for instructions in counted) <= 12_000_000
    board.confirm()
