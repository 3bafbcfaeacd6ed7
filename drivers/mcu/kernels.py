"""Puts own C in the place of the slowest generated functions; the results are the same bits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from drivers.mcu.source import NODE, Array, Source, parse

_STEP = re.compile(r"const idx_t id(\d) = od\1 \* (\d+) \+ kd\1 \* (\d+) - (\d+);")
_GROUPS = re.compile(r"for \(idx_t g = 0; g < (\d+); ")
_CONSTANT = r"const EMX_UNUSED \w+ %s(?:\[\d+\])+ = \{([^;]*)\};"
_BYTES = {"int8_t", "uint8_t"}
_WEIGHT_ZEROS = ("weight_zero_point", "b_zero_point")
# What proves that a body computes what the kernel does.
_CONVOLUTION = ("acc += input_value * weight_value;", "float scaled = ((float)acc) * scale;")
_PRODUCT = (
    "= (int32_t)input_a[i][k];",
    "acc += (int64_t)(a_val - a_zero) * (int64_t)(b_val - b_zero);",
    "double result = 1.0 * a_scale_val * b_scale_val * (double)acc;",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A call of own C.

    Attributes:
        constants: C of everything that its loops depend on; layers that agree share the code.
        arguments: C of the rest.
    """

    constants: str
    arguments: str


_PARAMETERS = (
    "const void *x, float x_scale, int32_t x_zero, const void *w, const float *w_scales, "
    "const int32_t *bias, void *y, float y_scale, int32_t y_zero"
)


def replace(text: str, entry: str) -> str:
    """A generated source in which own kernels do what they can do.

    Raises:
        UnknownSource: it cannot be told apart.
    """
    source = parse(text, entry)
    called = {call.function: call.arguments for call in source.calls}
    kernels: dict[str, str] = {}

    def swap(node: re.Match[str]) -> str:
        kernel = _kernel(node, source, called.get(node["name"], ()), text)
        if kernel is None:
            return node[0]
        new = kernel.constants not in kernels
        name = kernels.setdefault(kernel.constants, f"farm_kernel_{len(kernels)}")
        code = f"static __attribute__((noinline, noclone)) void {name}({_PARAMETERS})\n{{\n"
        code = code + kernel.constants + "}\n" if new else ""
        head = f"EMX_NODE_FN void {node['name']}({node['parameters']}) {{\n"
        return f"{code}{head}    {name}({kernel.arguments});\n}}\n"

    return NODE.sub(swap, text).replace(
        "#include <math.h>", '#include <math.h>\n#include "quantized.h"', 1
    )


def _kernel(
    node: re.Match[str], source: Source, arguments: tuple[str, ...], text: str
) -> Kernel | None:
    make = {"QLinearConv": _convolution, "QGemm": _product}.get(node["kind"])
    if make is None or not arguments:
        return None
    parameters = {array.name: array for array in source.functions[node["name"]]}
    given = dict(zip(parameters, arguments, strict=True))
    zero = next((name for name in _WEIGHT_ZEROS if name in parameters), "")
    if not zero or not _zero(given[zero], text):
        return None
    return make(node["body"], parameters)


def _convolution(body: str, parameters: Mapping[str, Array]) -> Kernel | None:
    x, w, y = (parameters[name] for name in ("input0", "weights", "output"))
    scalars = ("input_scale", "input_zero_point", "output_scale", "output_zero_point")
    if not (
        all(line in body for line in _CONVOLUTION)
        and {x.ctype, y.ctype} <= _BYTES
        and w.ctype == "int8_t"
        and all(parameters[name].dims == (1,) for name in scalars)
    ):
        return None
    shape = _shape(body, parameters)
    if shape is None:
        return None
    fields = ", ".join(f".{name} = {value}" for name, value in shape.items())
    bias = "bias" if "bias" in parameters else "0"
    return Kernel(
        constants=f"    const farm_shape shape = {{{fields}}};\n"
        + _operands(x, parameters["weight_scale"], y)
        + "    farm_convolve(shape, x, xs, layer, y, ys);\n",
        arguments="input0, input_scale[0], input_zero_point[0], weights, weight_scale, "
        f"{bias}, output, output_scale[0], output_zero_point[0]",
    )


def _product(body: str, parameters: Mapping[str, Array]) -> Kernel | None:
    a, b, y = (parameters[name] for name in ("input_a", "input_b", "output"))
    quantized = "y_scale" in parameters
    scalars = ("a_scale", "a_zero_point", *(("y_scale", "y_zero_point") if quantized else ()))
    columns, bias = y.dims[-1], parameters.get("input_c")
    if not (
        all(line in body for line in _PRODUCT)
        and a.ctype in _BYTES
        and y.ctype in (_BYTES if quantized else {"float"})
        and b.ctype == "int8_t"
        and all(parameters[name].dims == (1,) for name in scalars)
        and (bias is None or (bias.dims in ((columns,), (1, columns)) and "c_j = j;" in body))
    ):
        return None
    transposed = int("input_b[j][k]" in body)
    call = f"farm_multiply({a.dims[0]}, {a.dims[1]}, {columns}, {transposed}, x, xs, layer, y, ys)"
    scale = "y_scale[0], y_zero_point[0]" if quantized else "0.0f, 0"
    return Kernel(
        constants=_operands(a, parameters["b_scale"], y, floating=not quantized) + f"    {call};\n",
        arguments="input_a, a_scale[0], a_zero_point[0], input_b, b_scale, "
        f"{'input_c' if bias else '0'}, output, {scale}",
    )


def _zero(name: str, text: str) -> bool:
    """Whether a constant is nothing but zeros."""
    found = re.search(_CONSTANT % re.escape(name), text)
    return found is not None and {value.strip() for value in found[1].split(",")} <= {"0", ""}


def _shape(body: str, parameters: Mapping[str, Array]) -> dict[str, int] | None:
    """The fields of `farm_shape`; None if it is not over one or two dimensions."""
    groups = _GROUPS.search(body)
    steps = [(int(found[2]), int(found[3]), int(found[4])) for found in _STEP.finditer(body)]
    x, w, y = (parameters[name].dims for name in ("input0", "weights", "output"))
    if not groups or x[0] != 1 or len(steps) not in (1, 2) or len(x) != len(steps) + 2:
        return None
    missing = 2 - len(steps)
    rows, columns = [(1, 1, 0)] * missing + steps
    flat = (1,) * missing
    (x_rows, x_columns), (k_rows, k_columns), (y_rows, y_columns) = (
        (*flat, *dims[2:]) for dims in (x, w, y)
    )
    return {
        "groups": int(groups[1]), "group_in": w[1], "group_out": w[0] // int(groups[1]),
        "in_rows": x_rows, "in_columns": x_columns,
        "out_rows": y_rows, "out_columns": y_columns,
        "kernel_rows": k_rows, "kernel_columns": k_columns,
        "row_stride": rows[0], "column_stride": columns[0],
        "row_dilation": rows[1], "column_dilation": columns[1],
        "top": rows[2], "left": columns[2],
    }  # fmt: skip


def _operands(x: Array, scales: Array, y: Array, *, floating: bool = False) -> str:
    """C of what a kernel's operands are."""
    y_scale = "0.0f" if floating else "y_scale"
    return (
        f"    const farm_scale xs = {{x_scale, x_zero, {int(x.ctype == 'uint8_t')}}};\n"
        f"    const farm_scale ys = {{{y_scale}, y_zero, {int(y.ctype == 'uint8_t')}}};\n"
        f"    const farm_layer layer = {{w, w_scales, {int(scales.dims[0] > 1)}, bias}};\n"
    )
