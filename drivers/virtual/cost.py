"""How much work a model is, counted from its graph: what the virtual devices turn into time.

The unit is one thousand multiply-accumulates. Every node costs a fixed dispatch, plus its
multiply-accumulates, plus the elements that it writes:

    cost(node) = DISPATCH + MACs / 1000 + elements written / 1000

QuantizeLinear and DequantizeLinear cost nothing: a runtime fuses them into their neighbours. The
count is a model, not a measurement; it need only rank models sensibly and grow when work is added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import GraphProto, NodeProto, shape_inference

DISPATCH = 2.0
FUSED = frozenset({"QuantizeLinear", "DequantizeLinear", "Constant", "Identity", "Cast"})

Shapes = Mapping[str, tuple[int, ...]]


def work_units(path: Path) -> float:
    """The work of one inference, in thousands of multiply-accumulates; free sizes count as one."""
    model = shape_inference.infer_shapes(onnx.load(path))
    shapes = _shapes(model.graph)
    return sum(_cost(node, shapes) for node in model.graph.node if node.op_type not in FUSED)


def _cost(node: NodeProto, shapes: Shapes) -> float:
    written = sum(math.prod(shapes.get(name, ())) for name in node.output)
    return DISPATCH + (_macs(node, shapes) + written) / 1000


def _macs(node: NodeProto, shapes: Shapes) -> float:
    if len(node.input) < 2:
        return 0.0
    out = math.prod(shapes.get(node.output[0], ()))
    weight = shapes.get(node.input[1], ())
    if node.op_type in ("Conv", "ConvTranspose"):
        return out * math.prod(weight[1:])
    if node.op_type in ("Gemm", "MatMul"):
        left = shapes.get(node.input[0], ())
        inner = left[-1] if left else 1
        return out * inner
    return 0.0


def _shapes(graph: GraphProto) -> Shapes:
    shapes: dict[str, tuple[int, ...]] = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        shapes.setdefault(value.name, tuple(d.dim_value or 1 for d in dims))
    quantised = (n for n in graph.node if n.op_type in FUSED and n.input and n.output)
    for node in quantised:  # weights pass through a DequantizeLinear that inference may leave open
        if not shapes.get(node.output[0]) and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
    return shapes
