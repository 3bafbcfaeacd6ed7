"""Prepares an ONNX model for code generation: one input of batch 1, fused, every shape written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from farm.errors import UnsupportedModel
from farm.model import Artifact

DTYPES = ("bool", "float32", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")
"""Element types of inputs and outputs that a board can be given."""
_QGEMM_INPUTS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or an output of an image.

    Attributes:
        name: as in the model.
        dtype: numpy's name of the element type.
        shape: with batch 1.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """How long it is."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Fused:
    """A model that is ready for code generation.

    Attributes:
        model: the ONNX model.
        inputs: its only input.
        outputs: its only output.
    """

    model: Any
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def load(artifact: Artifact) -> Fused:
    """Read a model and pin its batch to 1, without any change to its nodes.

    Raises:
        UnsupportedModel: no model, or not exactly one input and one output of known shape.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load_model_from_string(artifact.path.read_bytes())
        onnx.checker.check_model(model)
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        raise _unsupported(artifact, f"no ONNX model, or a broken one: {error}") from error
    constants = {value.name for value in model.graph.initializer}
    fed = [value for value in model.graph.input if value.name not in constants]
    if (len(fed), len(model.graph.output)) != (1, 1):
        counts = f"{len(fed)} inputs and {len(model.graph.output)} outputs"
        raise _unsupported(artifact, f"{counts}; a microcontroller is given one and gives one")
    for value in (*fed, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].dim_value:
            dims[0].dim_value = 1
    return Fused(
        model=model,
        inputs=tuple(_tensor(artifact, value) for value in fed),
        outputs=tuple(_tensor(artifact, value) for value in model.graph.output),
    )


def fuse(artifact: Artifact) -> Fused:
    """Read a model and let onnxruntime fold, fuse and give every tensor its shape.

    A quantised model comes as floating-point nodes between (de)quantising ones; fused, most of them
    are integer nodes, which need a quarter of the memory.

    Raises:
        UnsupportedModel: as `load`, or onnxruntime does not run it.
    """
    import onnx

    plain = load(artifact)
    try:
        optimized = onnx.load_model_from_string(_optimize(plain.model))
        _write_shapes(optimized, plain.inputs[0])
    except Exception as error:  # its exceptions share no base of their own
        raise _unsupported(artifact, f"onnxruntime does not run it: {error}") from error
    for node in optimized.graph.node:
        if node.op_type == "QGemm":  # the generator wants the optional ones by an empty name
            node.input.extend([""] * (_QGEMM_INPUTS - len(node.input)))
    return Fused(model=optimized, inputs=plain.inputs, outputs=plain.outputs)


def _optimize(model: Any) -> bytes:
    import tempfile
    from pathlib import Path

    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="farm-") as folder:
        path = Path(folder) / "fused.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 3
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return path.read_bytes()


def _write_shapes(model: Any, fed: Tensor) -> None:
    """Run the model once and write down what every tensor was: onnx cannot infer all of them."""
    import onnx
    import onnxruntime

    graph = model.graph
    names = [name for node in graph.node for name in node.output if name]
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    del seen.graph.output[:]
    seen.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        seen.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    values = session.run(None, {fed.name: np.zeros(fed.shape, fed.dtype)})
    infos = {
        name: onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
        )
        for name, value in zip(names, values, strict=True)
    }
    outputs = [infos.pop(value.name) for value in graph.output]
    del graph.output[:]
    graph.output.extend(outputs)
    del graph.value_info[:]
    graph.value_info.extend(infos.values())


def _tensor(artifact: Artifact, value: Any) -> Tensor:
    import onnx

    kind = value.type.tensor_type
    dims = kind.shape.dim
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        raise _unsupported(artifact, f"'{value.name}' is no tensor of known shape")
    if free := _names(dim.dim_param or "?" for dim in dims if dim.dim_value <= 0):
        raise _unsupported(artifact, f"'{value.name}' has free dimensions besides batch: {free}")
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    if dtype not in DTYPES:
        raise _unsupported(artifact, f"'{value.name}' holds {dtype}")
    return Tensor(name=value.name, dtype=dtype, shape=tuple(dim.dim_value for dim in dims))


def _names(names: Iterable[str]) -> str:
    return ", ".join(names)


def _unsupported(artifact: Artifact, why: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"'{artifact.name}' cannot be built for a microcontroller: {why}",
        hint="models of one input and one output, with fixed shapes besides batch, can be built",
    )
