"""The model on the microcontroller in Python: outputs are real, instructions are physics."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from drivers.virtual.cost import work_units

TICK_HZ = 7_812_500
"""One tick per instruction, where an instruction takes 2^7 ns as on an emulated board."""
INSTRUCTIONS_PER_UNIT = 4000
"""One thousand multiply-accumulates, the unit of `cost`, are about so many instructions of int8
code on a Cortex-M4; other processors and other code differ by factors."""
INSTRUCTIONS_PER_S = 200e6
"""How fast this board is; its ticks say nothing of that, as those of an emulated one do not."""
STACK_BYTES = 1024
"""What a model is said to use of the stack; made up."""
HANG = b"hang"
"""Code that is no model and never ends; whatever else is no model ends in a fault."""


class Model:
    """One ONNX file that is loaded.

    Args:
        code: the file.

    Attributes:
        instructions: that one inference takes here.

    Raises whatever onnx and onnxruntime raise if it cannot run.
    """

    def __init__(self, code: bytes) -> None:
        import onnxruntime  # takes half a second, and a board may never need it

        with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
            file.write(code)
            file.flush()
            self.instructions = round(work_units(Path(file.name)) * INSTRUCTIONS_PER_UNIT)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(
            code, options, providers=["CPUExecutionProvider"]
        )
        (self._input,) = self._session.get_inputs()

    def run(self, data: bytes) -> bytes:
        """The bytes of one output for the bytes of one input."""
        kind = np.dtype(_TYPES[self._input.type])
        shape = [size if isinstance(size, int) else 1 for size in self._input.shape]
        (output,) = self._session.run(
            None, {self._input.name: np.frombuffer(data, kind).reshape(shape)}
        )
        return bytes(np.asarray(output).tobytes())


_TYPES = {
    "tensor(float)": "<f4",
    "tensor(int8)": "i1",
    "tensor(uint8)": "u1",
}
