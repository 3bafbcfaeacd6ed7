"""The models of MLPerf Tiny as the reference code wraps them: int8 inside, text outside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from drivers.virtual.cost import work_units
from farm.errors import ConfigError

FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How the numbers of a quantised tensor are meant: (number - zero) * step."""

    step: np.float32
    zero: int

    def real(self, numbers: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
        """What they mean."""
        meant: npt.NDArray[np.float32] = (numbers.astype(np.float32) - self.zero) * self.step
        return meant

    def quantised(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
        """The nearest numbers; a half is rounded away from zero, as C does it."""
        steps = values / self.step
        whole = np.trunc(steps + np.copysign(np.float32(0.5), steps)) + self.zero
        numbers: npt.NDArray[np.int8] = np.clip(whole, -128, 127).astype(np.int8)
        return numbers


class TinyModel:
    """One model of the reference code with its input tensor and its last output.

    Args:
        path: an ONNX file with one int8 input and one int8 output, quantised on their own.
        id: `kws01`, `vww01`, `ic01` or `ad01`.

    Attributes:
        work: of one inference, in the units of `cost`.

    Raises:
        ConfigError: it is no such file.
    """

    def __init__(self, path: Path, id: str) -> None:
        try:
            graph = onnx.load(path).graph
            self._out = _scale(graph, "QuantizeLinear", graph.output[0].name)
            if id == "ad01":  # the others are sent the numbers of the input themselves
                self._in = _scale(graph, "DequantizeLinear", graph.input[0].name)
            self.work = work_units(path)
            self._session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnx, protobuf and onnxruntime raise whatever they like
            raise ConfigError(f"{str(path)!r} is no quantised model for '{id}': {error}") from error
        self._id = id
        shape = [
            size if isinstance(size, int) else 1 for size in self._session.get_inputs()[0].shape
        ]
        self._input = np.zeros(shape, np.int8)
        self._real_input = np.zeros(self._input.size, np.float32)
        self._output = np.zeros(0, np.int8)
        self.infer()

    def load(self, buffer: bytes) -> str:
        """Take what was sent as the input; a complaint, and the old input, if its size is wrong."""
        size = self._input.size
        bytes_each = FLOAT_BYTES if self._id == "ad01" else 1
        used = buffer[: size * bytes_each]
        if len(used) // bytes_each != size:
            return f"Input db has {len(used) // bytes_each} elemented, expected {size}\n"
        if self._id == "ad01":
            self._real_input = np.frombuffer(used, "<f4").astype(np.float32)
            numbers = self._in.quantised(self._real_input)
        else:
            numbers = np.frombuffer(used, np.int8)
            if self._id in ("ic01", "vww01"):
                numbers = (numbers.astype(np.int16) - 128).astype(np.int8)
        self._input = numbers.reshape(self._input.shape)
        return ""

    def infer(self) -> None:
        """Run it on the input."""
        name = self._session.get_inputs()[0].name
        (output,) = self._session.run(None, {name: self._input})
        self._output = np.asarray(output).reshape(-1)

    def results(self) -> str:
        """The last output as the reference code of the model prints it."""
        values = self._out.real(self._output)
        if self._id == "ad01":
            return f"{np.square(values - self._real_input).mean(dtype=np.float32):.3f}"
        if self._id == "kws01":  # digit by digit, cut off: for libraries that print no fractions
            return ",".join("0." + "".join(_digits(value)) for value in values)
        text = ",".join(f"{value:.3f}" for value in values)
        return text + "," * (self._id == "vww01")


def _digits(value: np.float32) -> tuple[str, ...]:
    return (
        str(int(value * np.float32(10))),
        str(int(value * np.float32(100)) % 10),
        str(int(value * np.float32(1000)) % 10),
    )


def _scale(graph: onnx.GraphProto, op: str, tensor: str) -> Scale:
    """What the node tells that quantises, or gives a meaning to, the tensor."""
    known = {value.name: numpy_helper.to_array(value) for value in graph.initializer}
    (node,) = (n for n in graph.node if n.op_type == op and tensor in (n.input[0], n.output[0]))
    step, zero = known[node.input[1]], known[node.input[2]]
    return Scale(step=np.float32(step.item()), zero=int(zero.item()))
