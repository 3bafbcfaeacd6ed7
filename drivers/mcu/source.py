"""The parts of the C source that emx-onnx-cgen makes, told apart strictly.

Whatever is not known here makes no program: a line that was read wrongly would be a wrong result.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

ELEMENT_BYTES = {
    "_Bool": 1, "bool": 1, "int8_t": 1, "uint8_t": 1, "int16_t": 2, "uint16_t": 2, "int32_t": 4,
    "uint32_t": 4, "float": 4, "int64_t": 8, "uint64_t": 8, "double": 8,
}  # fmt: skip

_DIMS = r"((?:\[\d+\])+)"
_TEMPORARY = re.compile(rf"    (\w+) (tmp\w+){_DIMS};")
_CALL = re.compile(r"    (\w+)\(([\w, ]*)\);")
_FUNCTION = re.compile(r"^EMX_NODE_FN void (\w+)\((.*)\) \{$", re.MULTILINE)
_PARAMETER = re.compile(r"(const )?(\w+) (\w+)((?:\[(?:restrict )?\d+\])+)")

NODE = re.compile(
    r"^/\*\n \* Node \d+:\n \* OpType: (?P<kind>\w+)\n(?: \*[^\n]*\n)* \*/\n"
    r"EMX_NODE_FN void (?P<name>\w+)\((?P<parameters>[^\n]*)\) \{\n"
    r"(?P<body>(?: [^\n]*\n|\n)*)\}\n",
    re.MULTILINE,
)
"""The function of one node, with the comment before it."""


class UnknownSource(ValueError):
    """The source has something that the farm does not know; the message is one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """An array in C.

    Attributes:
        name: in the source.
        ctype: of one element.
        dims: elements in each dimension.
        constant: whether it is only read.
    """

    name: str
    ctype: str
    dims: tuple[int, ...]
    constant: bool = False

    @property
    def bytes(self) -> int:
        """How long it is."""
        return math.prod(self.dims) * ELEMENT_BYTES[self.ctype]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The call of one node's function.

    Attributes:
        function: its name.
        arguments: arrays, by their names.
    """

    function: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return f"    {self.function}({', '.join(self.arguments)});"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A generated source.

    Attributes:
        head: everything before the entry function.
        signature: the line that the entry function begins with.
        temporaries: the tensors between its nodes.
        calls: of its nodes, in order.
        functions: parameters of every node's function, by its name.
    """

    head: str
    signature: str
    temporaries: tuple[Array, ...]
    calls: tuple[Call, ...]
    functions: dict[str, tuple[Array, ...]]


def parse(text: str, entry: str) -> Source:
    """Take a source apart.

    Args:
        text: the source.
        entry: name of its entry function, which is the last one.

    Raises:
        UnknownSource: a line of the entry function is neither a tensor nor a known call.
    """
    head, found, rest = text.rpartition(f"\nvoid {entry}(")
    signature, _, body = rest.partition("\n")
    if not found or not signature.endswith(") {"):
        raise UnknownSource(f"no entry function {entry}")
    functions = {name: _parameters(told) for name, told in _FUNCTION.findall(head)}
    temporaries, calls, ended = [], [], False
    for line in body.splitlines():
        if ended and line.strip():
            raise UnknownSource(f"something follows the entry function: {line.strip()[:80]}")
        if temporary := _TEMPORARY.fullmatch(line):
            ctype, name, dims = temporary.groups()
            temporaries.append(_array(name, ctype, dims))
        elif (call := _CALL.fullmatch(line)) and call[1] in functions:
            calls.append(Call(function=call[1], arguments=tuple(call[2].split(", "))))
        elif line == "}":
            ended = True
        elif line.strip():
            raise UnknownSource(f"an unknown line in the entry function: {line.strip()[:80]}")
    if not ended:
        raise UnknownSource("the entry function does not end")
    source = Source(
        head=head,
        signature=f"void {entry}({signature}",
        temporaries=tuple(temporaries),
        calls=tuple(calls),
        functions=functions,
    )
    _check(source)
    return source


def _check(source: Source) -> None:
    """Every temporary is declared once, as long as its parameter, and written once before read."""
    declared = {array.name: array for array in source.temporaries}
    if len(declared) != len(source.temporaries):
        raise UnknownSource("a tensor is declared twice")
    written: set[str] = set()
    for call in source.calls:
        parameters = source.functions[call.function]
        if len(parameters) != len(call.arguments):
            raise UnknownSource(f"{call.function[:40]} is called with other parameters")
        pairs = list(zip(call.arguments, parameters, strict=True))
        for name, parameter in pairs:
            if name.startswith("tmp") and name not in declared:
                raise UnknownSource(f"{name[:40]} is not declared")
            if name in declared and parameter.constant and name not in written:
                raise UnknownSource(f"{name[:40]} is read before it is written")
            if name in written and not parameter.constant:
                raise UnknownSource(f"{name[:40]} is written twice")
            if name in declared and declared[name].bytes != parameter.bytes:
                raise UnknownSource(f"{name[:40]} is passed as something of another size")
        written |= {name for name, parameter in pairs if not parameter.constant}


def _parameters(told: str) -> tuple[Array, ...]:
    arrays = []
    for word in re.split(r", (?=const |\w+ \w+\[)", told):
        match = _PARAMETER.fullmatch(word)
        if not match:
            raise UnknownSource(f"an unknown parameter: {word[:80]}")
        constant, ctype, name, dims = match.groups()
        arrays.append(_array(name, ctype, dims, constant=bool(constant)))
    return tuple(arrays)


def _array(name: str, ctype: str, dims: str, *, constant: bool = False) -> Array:
    if ctype not in ELEMENT_BYTES:
        raise UnknownSource(f"{name[:40]} holds elements of an unknown type: {ctype}")
    sizes = tuple(int(size) for size in re.findall(r"\d+", dims))
    return Array(name=name, ctype=ctype, dims=sizes, constant=constant)


def declare(array: Array, address: str) -> str:
    """The line that makes an array a pointer to somewhere."""
    rest = "".join(f"[{size}]" for size in array.dims[1:])
    if not rest:
        return f"    {array.ctype} *{array.name} = ({array.ctype} *)({address});"
    return f"    {array.ctype} (*{array.name}){rest} = ({array.ctype} (*){rest})({address});"


def render(source: Source, declarations: Sequence[str]) -> str:
    """The source again, with other declarations of its temporaries."""
    calls = [str(call) for call in source.calls]
    return "\n".join([source.head, source.signature, *declarations, *calls, "}", ""])
