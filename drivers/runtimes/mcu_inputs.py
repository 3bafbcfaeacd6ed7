"""Inputs and outputs of a model as the bytes that go over the line."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from drivers.mcu.fusing import Tensor
from farm.errors import ConfigError, DeployFailed, WrongOutput
from farm.model import Workload
from farm.record import Output

SEED = 0
"""As for every runtime: a bare model gets the same input everywhere."""
HINT = "compare the model's inputs with those of the workload"


def read_items(workload: Workload, tensor: Tensor) -> tuple[bytes, ...]:
    """The bytes of every item; of one seeded item for a bare model.

    Raises:
        DeployFailed: the model takes something else than the workload has.
        ConfigError: the inputs cannot be read.
    """
    if workload.inputs is None:
        return (_seeded(workload, tensor),)
    try:
        with np.load(workload.inputs.path, allow_pickle=False) as arrays:
            given = list(arrays.files)
            values = arrays[tensor.name] if given == [tensor.name] else None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ConfigError(f"the inputs of '{workload.name}' cannot be read: {error}") from error
    if values is None:
        raise DeployFailed(
            f"the model takes {tensor.name}; the workload has {', '.join(given)}", hint=HINT
        )
    shape = (1, *values.shape[1:])
    if values.dtype.name != tensor.dtype or shape != tensor.shape:
        raise DeployFailed(
            f"the model takes {tensor.dtype} {_form(tensor.shape)} as {tensor.name}; "
            f"the workload has {values.dtype.name} {_form(shape)}",
            hint=HINT,
        )
    if not len(values):
        raise DeployFailed("the workload has no items", hint=HINT)
    return tuple(_little_endian(value) for value in values)


def stack_outputs(raw: Sequence[bytes], tensor: Tensor) -> Output:
    """The output over all items, items on the first axis.

    Raises:
        WrongOutput: it is NaN or infinite.
    """
    kind = np.dtype(tensor.dtype).newbyteorder("<")
    rows = np.frombuffer(b"".join(raw), kind).reshape(len(raw), *tensor.shape)
    values = rows.reshape(-1, *tensor.shape[1:]).astype(tensor.dtype)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise WrongOutput(
            f"output '{tensor.name}' is NaN or infinite",
            hint="run this input by hand; often a scale of zero, or an overflow",
        )
    return Output(name=tensor.name, values=values)


def _seeded(workload: Workload, tensor: Tensor) -> bytes:
    if workload.dimensions:
        names = ", ".join(name for name, _ in workload.dimensions)
        raise DeployFailed(
            f"no sizes can be given for a microcontroller: {names}",
            hint="write the sizes into the model file; the batch is always one",
        )
    rng, kind = np.random.default_rng(SEED), np.dtype(tensor.dtype)
    # Whole numbers are 0 or 1: valid as pixels, as flags and as indices into any table.
    floats = kind.kind == "f"
    drawn = rng.standard_normal(tensor.shape) if floats else rng.integers(0, 2, tensor.shape)
    return _little_endian(np.asarray(drawn, kind))


def _little_endian(values: npt.NDArray[np.generic]) -> bytes:
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def _form(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
