"""A workload's items as the bytes that a firmware of the MLPerf Tiny reference code loads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from farm.errors import DeployFailed, UnsupportedModel
from farm.model import Workload

Bytes = npt.NDArray[np.uint8]
STREAMING = frozenset({"strww01", "sww01"})
"""Models that are fed by a microphone's line, with a protocol of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What the firmware of one model id takes and gives.

    Attributes:
        dtype: of the numbers of an item.
        bytes: that one inference takes.
        stride: bytes from one window of an item to the next; 0 where an item is one window.
        outputs: numbers that come back.
    """

    dtype: str
    bytes: int
    stride: int = 0
    outputs: int


TASKS = {
    "kws01": Task(dtype="int8", bytes=490, outputs=12),
    "ic01": Task(dtype="uint8", bytes=32 * 32 * 3, outputs=10),
    "vww01": Task(dtype="uint8", bytes=96 * 96 * 3, outputs=2),
    "ad01": Task(dtype="float32", bytes=640 * 4, stride=128 * 4, outputs=1),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Items:
    """All items of a workload for one model id.

    Attributes:
        task: None for a model id that nobody knows here.
        rows: one item each, shape [items, bytes].
    """

    task: Task | None
    rows: Bytes

    def windows(self, item: int) -> tuple[bytes, ...]:
        """What is inferred for one item: itself, or windows that slide over it."""
        row = self.rows[item].tobytes()
        if self.task is None or not self.task.stride:
            return (row,)
        size, stride = self.task.bytes, self.task.stride
        starts = range(0, len(row) - size + 1, stride)
        return tuple(row[start : start + size] for start in starts)


def read_items(workload: Workload, model: str) -> Items:
    """The items of a workload for the firmware of a model.

    Pictures may also be the int8 numbers of a quantised model, 128 less than the byte of a colour:
    the firmware subtracts that itself, so it is added. A model without a workload gets one item
    of seeded numbers.

    Raises:
        UnsupportedModel: a model of streams.
        DeployFailed: the items are none for this model.
    """
    if model in STREAMING:
        raise UnsupportedModel(
            f"the firmware runs '{model}', which is fed by a microphone's line",
            hint="streaming models are not supported",
        )
    task = TASKS.get(model)
    if workload.inputs is None:
        return Items(task=task, rows=_seeded(task, model))
    with np.load(workload.inputs.path, allow_pickle=False) as arrays:
        if len(arrays.files) != 1:
            raise DeployFailed(
                f"the firmware takes one input, workload '{workload.name}' has {len(arrays.files)}"
            )
        values = np.asarray(arrays[arrays.files[0]])
    values = _as_sent(values, task)
    flat = values.astype(values.dtype.newbyteorder("<")).reshape(len(values), -1)
    rows = np.ascontiguousarray(flat).view(np.uint8)
    if task and not (values.dtype.name == task.dtype and _fits(rows.shape[1], task)):
        raise DeployFailed(
            f"the firmware runs '{model}', which takes {task.bytes}{' or more' * bool(task.stride)}"
            f" bytes of {task.dtype}; an item of workload '{workload.name}' is {rows.shape[1]} "
            f"bytes of {values.dtype.name}",
            hint="flash the firmware of the workload's model, or name that model's workload",
        )
    return Items(task=task, rows=rows)


def _as_sent(values: npt.NDArray[np.generic], task: Task | None) -> npt.NDArray[np.generic]:
    """The same numbers in the type that is sent, where there is no doubt what they mean."""
    if task and task.dtype == "uint8" and values.dtype == np.int8:
        return (values.astype(np.int16) + 128).astype(np.uint8)
    if task and task.dtype == "int8" and values.dtype == np.uint8:
        return values.view(np.int8)  # bytes that were read from a file as bytes
    return values


def _fits(size: int, task: Task) -> bool:
    """Whether an item is one window, or as many as slide over it without a rest."""
    if not task.stride:
        return size == task.bytes
    return size >= task.bytes and (size - task.bytes) % task.stride == 0


def _seeded(task: Task | None, model: str) -> Bytes:
    if task is None:
        raise DeployFailed(
            f"the firmware runs '{model}', and nobody here knows what that takes",
            hint="name a workload: --workload",
        )
    numbers = np.random.default_rng(0)
    if task.dtype == "float32":
        return numbers.normal(size=(1, task.bytes // 4)).astype("<f4").view(np.uint8)
    return numbers.integers(0, 256, (1, task.bytes), np.uint8)
