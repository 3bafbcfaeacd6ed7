"""Build the shipped workload "digits" from the copy of the UCI set in scikit-learn.

One run trains a small network, exports it, quantises it to int8, derives three
candidates whose fate is known in advance (a good, a ruined and a slow one) and
then measures all of them: it exits non-zero when one does not behave as promised.
The suite can thus show that the farm's gates pass what they should pass and stop
what they should stop.

Everything is seeded and files carry no dates, so that two runs on one machine give
the same bytes. Another processor may round sums in another order and give slightly
different weights, which is why each run checks the promises anew.

Run it with ``python -m suites.digits_build [--out DIR]`` (needs the extras ``dev``
and ``onnx``).
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization as quant
from onnxruntime.quantization.shape_inference import quant_pre_process
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

from suites.digits_net import Floats, Ints, Params, train

Pixels = npt.NDArray[np.uint8]

SHIPPED = Path(__file__).resolve().parent / "workloads" / "digits"
MODELS = {
    "float": "float.onnx",
    "int8": "int8.onnx",
    "recalibrated": "candidates/int8_recalibrated.onnx",
    "ruined": "candidates/int8_ruined.onnx",
    "slow": "candidates/int8_slow.onnx",
}
TEXTS = ("workload.yaml", "LICENSE-data.md")  # written by hand, kept beside the data
SEED = 20
TRAIN, TEST = 897, 900  # images
CALIBRATION, RECALIBRATION = 200, 50  # training images, drawn apart
OPSET, IR_VERSION = 17, 8  # old enough for runtimes from 2022 on
DIMMING = 4  # the ruined candidate is calibrated on images this many times too dim
BRANCH_CONVS = 11  # extra convolutions of the slow candidate
BRANCH_SCALE = 1e-6  # what is left of their output: real work, no say in the answer
ROUNDS, RUNS = 60, 50  # timing: rounds over all models, runs of each model per round


# --- the images ---------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, 1, 8, 8] (pixels 0..16) and classes int64 [N], in two disjoint parts."""

    train_images: Pixels
    train_labels: Ints
    test_images: Pixels
    test_labels: Ints


def split_digits() -> Split:
    """Divide the 1,797 images into two parts with equal shares of the ten classes.

    A test image that was also trained or calibrated on would flatter every model, so
    the parts must share neither an index nor the pixels of an image.
    """
    digits = load_digits()
    images = digits.images.astype(np.uint8)[:, None]
    labels = digits.target.astype(np.int64)
    ours, unseen = train_test_split(
        np.arange(len(labels)),
        train_size=TRAIN,
        test_size=TEST,
        stratify=labels,
        random_state=SEED,
    )
    assert not set(ours) & set(unseen), "training and test indices overlap"
    seen = {image.tobytes() for image in images[ours]}
    assert not any(image.tobytes() in seen for image in images[unseen]), "an image is in both parts"
    return Split(images[ours], labels[ours], images[unseen], labels[unseen])


# --- the models ---------------------------------------------------------------------


def float_model(params: Params) -> onnx.ModelProto:
    """The network as a graph from ``image`` uint8 [1, 1, 8, 8] to ``logits`` float32 [1, 10].

    It takes raw pixels and scales them itself, so that no runtime can feed it wrongly.
    """
    node = helper.make_node
    pads: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        node("Cast", ["image"], ["pixels"], "cast", to=TensorProto.FLOAT),
        node("Mul", ["pixels", "sixteenth"], ["scaled"], "scale"),
        node("Conv", ["scaled", "weight1", "bias1"], ["conv1_out"], "conv1", **pads),
        node("Relu", ["conv1_out"], ["relu1_out"], "relu1"),
        node("Conv", ["relu1_out", "weight2", "bias2"], ["conv2_out"], "conv2", **pads),
        node("Relu", ["conv2_out"], ["relu2_out"], "relu2"),
        node("MaxPool", ["relu2_out"], ["pooled"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["pooled", "weight3", "bias3"], ["conv3_out"], "conv3", **pads),
        node("Relu", ["conv3_out"], ["relu3_out"], "relu3"),
        node("Flatten", ["relu3_out"], ["features"], "flatten"),
        node("Gemm", ["features", "weight4", "bias4"], ["logits"], "dense", transB=1),
    ]
    constants = {"sixteenth": np.array(1 / 16, np.float32)} | params
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 1, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "digits", [image], [logits], tensors)
    return stamped(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)]))


def stamped(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put in the same header and tensor order whatever wrote the model, then check it."""
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "digits-build", "1"
    del model.metadata_props[:]
    tensors = sorted(model.graph.initializer, key=lambda tensor: tensor.name)
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
    onnx.checker.check_model(model, full_check=True)
    return model


class Images(quant.CalibrationDataReader):  # type: ignore[misc]
    """Feeds calibration images uint8 [N, 1, 8, 8] to the quantiser, one by one."""

    def __init__(self, images: Pixels) -> None:
        """Keep the images, yet unread."""
        self._feeds: Iterator[dict[str, Pixels]] = ({"image": image[None]} for image in images)

    def get_next(self) -> dict[str, Pixels] | None:
        """The next feed, or None at the end."""
        return next(self._feeds, None)


def quantised(model: onnx.ModelProto, images: Pixels) -> onnx.ModelProto:
    """Quantise to int8 (static, QDQ) with activation ranges seen on ``images`` [N, 1, 8, 8].

    Weights keep 7 bits: x86 processors without VNNI would otherwise overflow and answer
    differently. The logits stay float, as int8 logits would tie and hide small drift.
    """
    with tempfile.TemporaryDirectory() as folder:
        ready, path = Path(folder) / "ready.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, path)  # the quantiser wants files: models in memory fail in some versions
        quant_pre_process(path, ready, skip_optimization=True, skip_symbolic_shape=True)
        quant.quantize_static(
            ready,
            path,
            Images(images),
            quant_format=quant.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Relu", "MaxPool", "Flatten", "Gemm"],
            per_channel=True,
            reduce_range=True,
            activation_type=quant.QuantType.QUInt8,
            weight_type=quant.QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
        )
        return stamped(onnx.load(path))


def slowed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same answers for far more work: a chain of convolutions beside the network.

    Its mean, made tiny, is added alike to all logits, so it can neither be optimised
    away nor change their order. All but the first convolution share one weight tensor.
    """
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    graph.node[-1].output[0] = "own_logits"
    rng = np.random.default_rng(SEED)
    for name, channels in (("branch_in", 1), ("branch_next", 8)):
        weight = rng.normal(0, (channels * 9) ** -0.5, (8, channels, 3, 3)).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(weight, name))
    graph.initializer.append(numpy_helper.from_array(np.array(BRANCH_SCALE, np.float32), "tiny"))
    last = "scaled"
    for index in range(BRANCH_CONVS):
        weight_name, out = "branch_next" if index else "branch_in", f"branch{index}"
        name = f"branch_conv{index}"
        graph.node.append(helper.make_node("Conv", [last, weight_name], [out], name, pads=[1] * 4))
        last = out
    node = helper.make_node
    tail = [
        node("ReduceMean", [last], ["mean"], "branch_mean", axes=[1, 2, 3], keepdims=0),
        node("Mul", ["mean", "tiny"], ["whisper"], "branch_scale"),
        node("Add", ["own_logits", "whisper"], ["logits"], "branch_add"),
    ]
    graph.node.extend(tail)
    return stamped(model)


# --- the files ----------------------------------------------------------------------


def write_npz(path: Path, **arrays: npt.NDArray[Any]) -> None:
    """Write arrays as ``numpy.savez_compressed`` does, but with no clock in the bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980-01-01
            archive.writestr(entry, buffer.getvalue(), zipfile.ZIP_DEFLATED, 9)


def opened(path: Path, optimised: Path | None = None) -> Any:
    """A one-thread session at full graph optimisation; saves the optimised graph if asked."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    if optimised:
        options.optimized_model_filepath = str(optimised)
        options.log_severity_level = 3  # saving warns that the graph is for this processor
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def answers(session: Any, images: Pixels) -> Floats:
    """Logits [N, 10] for images [N, 1, 8, 8], run one by one as the models ask."""
    return np.concatenate([session.run(None, {"image": image[None]})[0] for image in images])


def build(out: Path) -> None:
    """Make every file of the workload in ``out``."""
    (out / "candidates").mkdir(parents=True, exist_ok=True)
    for text in TEXTS:
        if out.resolve() != SHIPPED:
            shutil.copyfile(SHIPPED / text, out / text)
    split = split_digits()
    order = np.random.default_rng(SEED).permutation(TRAIN)
    drawn = split.train_images[order[:CALIBRATION]]
    redrawn = split.train_images[order[CALIBRATION : CALIBRATION + RECALIBRATION]]
    scaled = split.train_images.astype(np.float32) / np.float32(16)
    with threadpool_limits(1):  # sums split over threads would round by their number
        exact = float_model(train(scaled, split.train_labels, SEED))
    int8 = quantised(exact, drawn)
    models = {
        "float": exact,
        "int8": int8,
        "recalibrated": quantised(exact, redrawn),
        "ruined": quantised(exact, drawn // DIMMING),
        "slow": slowed(int8),
    }
    for name, model in models.items():
        onnx.save(model, out / MODELS[name])
    write_npz(out / "inputs.npz", image=split.test_images)
    np.save(out / "labels.npy", split.test_labels)
    write_npz(out / "calibration.npz", image=drawn)
    logits = answers(opened(out / MODELS["float"]), split.test_images)
    write_npz(out / "reference.npz", logits=logits)


# --- the promises -------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """What was measured of one model, read back from its file."""

    accuracy: float  # percent of the test images
    moved: int  # test images put in another class than by the int8 baseline
    micros: float  # p50 of one run, microseconds
    size: int  # bytes
    macs: int  # multiply-accumulates of one run
    nodes: int  # operators left after the runtime's optimisation


def macs(path: Path) -> int:
    """Multiply-accumulates of one run: those of convolutions and dense layers."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for info in [*graph.value_info, *graph.output]:
        shapes[info.name] = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
    total = 0
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):  # each output is a dot product with one kernel
            total += np.prod(shapes[node.output[0]]) * np.prod(shapes[node.input[1]][1:])
    return int(total)


def kept_nodes(path: Path) -> int:
    """Count the operators that survive the runtime's full graph optimisation."""
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        opened(path, optimised)
        return len(onnx.load(optimised).graph.node)


def timed(sessions: dict[str, Any], images: Pixels) -> dict[str, float]:
    """P50 of one run in microseconds; models take turns, so that all share any noise."""
    feeds = [{"image": image[None]} for image in images[:RUNS]]
    taken: dict[str, list[int]] = {name: [] for name in sessions}
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            session.run(None, feeds[0])  # brings the model's weights back into the cache
            for feed in feeds:
                start = time.perf_counter_ns()
                session.run(None, feed)
                taken[name].append(time.perf_counter_ns() - start)
    return {name: float(np.median(times)) / 1000 for name, times in taken.items()}


def measured(out: Path) -> dict[str, Row]:
    """Measure each model in ``out`` on the workload's own files, as the farm will see it."""
    images, labels = np.load(out / "inputs.npz")["image"], np.load(out / "labels.npy")
    paths = {name: out / file for name, file in MODELS.items()}
    sessions = {name: opened(path) for name, path in paths.items()}
    classes = {name: answers(each, images).argmax(axis=1) for name, each in sessions.items()}
    micros = timed(sessions, images)
    return {
        name: Row(
            accuracy=100 * float(np.mean(classes[name] == labels)),
            moved=int(np.sum(classes[name] != classes["int8"])),
            micros=micros[name],
            size=path.stat().st_size,
            macs=macs(path),
            nodes=kept_nodes(path),
        )
        for name, path in paths.items()
    }


def promises(out: Path, rows: dict[str, Row]) -> dict[str, bool]:
    """What the workload promises its users, and whether it holds here."""
    exact, base, slow, ruined = (rows[name] for name in ("float", "int8", "slow", "ruined"))
    again = rows["recalibrated"]
    bytes_of = {name: (out / file).read_bytes() for name, file in MODELS.items()}
    total = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return {
        "float: at least 96 % right": exact.accuracy >= 96,
        "int8: within 1 point of float": abs(base.accuracy - exact.accuracy) <= 1,
        "recalibrated: within 0.7 points of int8": abs(again.accuracy - base.accuracy) <= 0.7,
        "recalibrated: moves at most 9 images": again.moved <= 9,
        "recalibrated: other bytes than int8": bytes_of["recalibrated"] != bytes_of["int8"],
        "ruined: at least 6 points worse": ruined.accuracy <= base.accuracy - 6,
        "ruined: as fast as int8, within 25 %": 0.8 <= ruined.micros / base.micros <= 1.25,
        "slow: moves no image": slow.moved == 0,
        "slow: takes at least twice as long": slow.micros >= 2 * base.micros,
        "slow: at least twice the nodes kept": slow.nodes >= 2 * base.nodes,
        "slow: at least twice the MACs": slow.macs >= 2 * base.macs,
        "all files: under 300 KB": total < 300_000,
    }


def main() -> int:
    """Build, measure, print a table and the promises; 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=SHIPPED, help="folder to write (%(default)s)")
    out: Path = parser.parse_args().out
    build(out)
    rows = measured(out)
    print("model          right %  moved  p50 us   bytes    MACs  nodes")
    for name, row in rows.items():
        print(
            f"{name:<13} {row.accuracy:8.2f} {row.moved:6} {row.micros:7.1f}"
            f" {row.size:7} {row.macs:7} {row.nodes:6}"
        )
    held = promises(out, rows)
    for promise, holds in held.items():
        print("holds " if holds else "BROKEN", promise)
    return 0 if all(held.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
