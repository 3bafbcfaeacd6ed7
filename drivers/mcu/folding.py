"""Folds nodes between integers and floats into their neighbours, so that no tensor lies between.

A node that turns 8-bit numbers into floats needs four times their memory for its result. Where
only one node reads that result, it can as well convert each number when it reads it; and a node
whose floats are only quantised can quantise each when it writes it. The arithmetic is the same,
operation by operation, and so are the bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from drivers.mcu.source import NODE, Array, Call, Source, parse

_FIRST_NODE = "/*\n * Node 0:\n"
_INDEX = r"((?:\[[^\[\]]+\])+)"
_DEQUANTIZE = re.compile(
    rf"float dequantized = \(\(float\)input0{_INDEX} - \(float\)zero_point\[(i\d|0)\]\) "
    rf"\* \(float\)scale\[(?:i\d|0)\];\n +output\1 = \(float\)dequantized;"
)
_QUANTIZE = re.compile(
    rf"float scaled = \(\(float\)input0{_INDEX} / \(float\)scale\[0\]\);\n"
    r"( +float rounded = .* \+ \(float\)zero_point\[0\];\n(?: +rounded = .*;\n)*)"
    rf" +output\1 = (\(u?int8_t\))rounded;"
)
_READERS = {
    ("Add", "input0"),
    ("Add", "input1"),
    ("AveragePool", "input0"),
    ("Conv", "input0"),
    ("Gemm", "input_b"),
}
"""What may read floats that are 8-bit numbers in memory."""
_TABLE = ("int8_t", "uint8_t")
# A convolution reads each number many times: it looks up what each of the 256 stands for.
_TABLE_CODE = """    float {name}_value[256];
    for (idx_t i = 0; i < 256; ++i) {{
        {name}_value[i] = ((float)({ctype})i - (float){name}_zero[0]) * {name}_scale[0];
    }}
"""
_WRITERS = {"Add", "Conv"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Program:
    """A source and what is asked of it again and again."""

    text: str
    source: Source
    nodes: dict[str, re.Match[str]]

    def users(self, name: str) -> list[Call]:
        """The calls that a tensor is passed to."""
        return [call for call in self.source.calls if name in call.arguments]

    def parameters(self, call: Call) -> Iterator[tuple[str, Array]]:
        """What is passed to a call, and as what."""
        return zip(call.arguments, self.source.functions[call.function], strict=True)

    def other(self, call: Call, tensor: str) -> Call | None:
        """The only other call that a temporary is passed to, once."""
        users = self.users(tensor)
        if not tensor.startswith("tmp") or len(users) != 2 or call not in users:
            return None
        (other,) = [user for user in users if user is not call]
        single = sum(user.function == other.function for user in self.source.calls) == 1
        known = other.function in self.nodes and other.arguments.count(tensor) == 1
        return other if single and known else None


def fold(text: str, entry: str) -> str:
    """A generated source with fewer nodes and smaller tensors.

    Raises:
        UnknownSource: it cannot be told apart.
    """
    constants, mark, rest = text.partition(_FIRST_NODE)
    folded: str | None = mark + rest
    while folded is not None:
        rest, folded = folded, _fold_one(folded, entry)
    return constants + rest


def _fold_one(text: str, entry: str) -> str | None:
    nodes = {node["name"]: node for node in NODE.finditer(text)}
    program = _Program(text=text, source=parse(text, entry), nodes=nodes)
    for call in program.source.calls:
        node = nodes.get(call.function)
        kind = node["kind"] if node else ""
        fold_into = {"DequantizeLinear": _into_reader, "QuantizeLinear": _into_writer}.get(kind)
        if node and fold_into and len(call.arguments) == 4:
            changed = fold_into(program, call, node)
            if changed is not None:
                return changed
    return None


def _into_reader(program: _Program, call: Call, node: re.Match[str]) -> str | None:
    """Let the only reader of a dequantised tensor dequantise it."""
    values, scale, zero, result = call.arguments
    reader = program.other(call, result)
    found = _DEQUANTIZE.search(node["body"])
    if reader is None or found is None:
        return None
    into = program.nodes[reader.function]
    (parameter,) = [array for name, array in program.parameters(reader) if name == result]
    name, rank = parameter.name, len(parameter.dims)
    if (into["kind"], name) not in _READERS or not _reads_once(program, reader, into["kind"]):
        return None
    given = [array for _, array in program.parameters(call)]
    axis = None if found[2] == "0" else int(found[2][1:])
    table = into["kind"] == "Conv" and axis is None and given[0].ctype in _TABLE

    def convert(use: re.Match[str]) -> str:
        if table:
            return f"{name}_value[(uint8_t){use[0]}]"
        at = "0" if axis is None else re.findall(r"\[([^\[\]]+)\]", use[1])[axis]
        return f"(((float){use[0]} - (float){name}_zero[{at}]) * {name}_scale[{at}])"

    whole = rf"\b{name}((?:\[[^\[\]]+\]){{{rank}}})(?!\[)"
    body, count = re.subn(whole, convert, into["body"])
    if count == 0 or len(re.findall(rf"\b{name}\b", into["body"])) != count:
        return None
    if table:
        body = _TABLE_CODE.format(name=name, ctype=given[0].ctype) + body
    added = [f"const {given[1].ctype} {name}_scale{_dims(given[1])}"]
    added.append(f"const {given[2].ctype} {name}_zero{_dims(given[2])}")
    old = f"const float {name}{_dims(parameter)}"
    new = ", ".join([f"const {given[0].ctype} {name}{_dims(parameter)}", *added])
    arguments = _swap(reader, result, values, scale, zero)
    return _rewrite(program, call, reader, arguments, into["parameters"].replace(old, new), body)


def _reads_once(program: _Program, reader: Call, kind: str) -> bool:
    """Whether a matrix is read for one row only, so that each number is converted once."""
    return kind != "Gemm" or program.source.functions[reader.function][-1].dims[0] == 1


def _into_writer(program: _Program, call: Call, node: re.Match[str]) -> str | None:
    """Let the node whose floats are quantised do that itself."""
    floats, scale, zero, result = call.arguments
    writer = program.other(call, floats)
    found = _QUANTIZE.search(node["body"])
    if writer is None or found is None:
        return None
    into = program.nodes[writer.function]
    statements = re.findall(rf"\n( +)output{_INDEX} = (.*);(?=\n)", into["body"])
    uses = len(re.findall(r"\boutput\b", into["body"]))
    if into["kind"] not in _WRITERS or len(statements) != 1 or uses != 1:
        return None
    ((indent, index, value),) = statements
    given = [array for _, array in program.parameters(call)]
    steps = found[2].replace("zero_point[0]", "output_zero[0]")
    new = (
        f"\n{indent}float scaled = {value} / output_scale[0];\n{steps}"
        f"{indent}output{index} = {found[3]}rounded;"
    )
    body = into["body"].replace(f"\n{indent}output{index} = {value};", new)
    parameters = into["parameters"].replace("float output[", f"{given[3].ctype} output[")
    parameters += f", const float output_scale[1], const {given[2].ctype} output_zero[1]"
    arguments = (*_swap(writer, floats, result), scale, zero)
    return _rewrite(program, call, writer, arguments, parameters, body)


def _swap(call: Call, old: str, *new: str) -> tuple[str, ...]:
    at = call.arguments.index(old)
    return (*call.arguments[:at], *new, *call.arguments[at + 1 :])


def _dims(array: Array) -> str:
    return "".join(f"[{size}]" for size in array.dims)


def _rewrite(
    program: _Program,
    gone: Call,
    kept: Call,
    arguments: tuple[str, ...],
    parameters: str,
    body: str,
) -> str:
    """The source without one call, and with another function and call of its neighbour."""
    node = program.nodes[kept.function]
    comment = node[0].partition("EMX_NODE_FN")[0]
    function = f"{comment}EMX_NODE_FN void {kept.function}({parameters}) {{\n{body}}}\n"
    text = program.text.replace(node[0], function, 1)
    text = text.replace(f"{gone}\n", "", 1)
    return text.replace(str(kept), str(Call(function=kept.function, arguments=arguments)), 1)
