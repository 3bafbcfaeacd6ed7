"""Samples of meters as Parquet: written while they come, read back a part at a time.

A window of ten minutes has 60 million samples, so nothing here holds one as a whole.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from farm.errors import StoreUnavailable
from farm.metering import Chunk, Recording
from farm.store.traces import no_room, sync_and_hash

SCHEMA = pa.schema(
    [
        ("t_ns", pa.int64()),  # end of the sample's interval, on the host's monotonic clock
        ("power_w", pa.float64()),  # NaN where the meter could not tell
        ("logic", pa.uint8()),  # null without a wire
        ("range", pa.uint8()),  # null for a meter with one range
        ("lost", pa.int32()),  # samples that are missing before this one
        ("saturated", pa.int32()),  # samples at full scale up to the next such count
    ]
)
SPOOL = "windows-"
GROUP_ROWS = 1 << 18
PARTS = 512
"""A preview has at least half as many parts, once there are so many samples."""


@contextmanager
def spool(store: Path) -> Iterator[Path]:
    """A folder for files that the store may take, removed with what it did not take.

    It is locked for as long as this process lives. Those that nobody holds any more are removed
    first: of a controller that was killed, gigabytes may be left.

    Args:
        store: folder of the store.

    Raises:
        StoreUnavailable: it cannot be made.
    """
    traces = store / "traces"
    with ExitStack() as stack:
        try:
            with _opened(traces) as lock:  # else one might be removed before it is locked
                if _locks(lock, fcntl.LOCK_EX):
                    _remove_left(traces)
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=SPOOL, dir=traces))
                _locks(stack.enter_context(_opened(Path(folder))), fcntl.LOCK_EX)
        except OSError as error:
            raise no_room(store, error) from error
        yield Path(folder)


def _remove_left(traces: Path) -> None:
    """Remove the folders of processes that are no more."""
    for left in traces.glob(f"{SPOOL}*"):
        with suppress(OSError), _opened(left) as lock:
            if _locks(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(left)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _locks(folder: int, how: int) -> bool:
    """Lock a folder until it is closed; False if somebody has it, or the disk knows no locks."""
    try:
        fcntl.flock(folder, how)
    except OSError:
        return False
    return True


class SampleWriter:
    """Writes the samples of one window; the file is named by its content once it is whole.

    Args:
        folder: for its file, on the disk of the store.

    Raises:
        StoreUnavailable: the disk is full or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._part = folder / f"{os.urandom(8).hex()}.part"
        self._waiting: list[Chunk] = []
        self._rows = 0
        self._owed = 0  # samples that were lost before the next one
        self._last_ns: int | None = None
        self._preview = _Preview()
        self.samples = self.lost = 0
        self.energy_j = 0.0
        try:
            self._file = pq.ParquetWriter(
                self._part,
                SCHEMA,
                compression="zstd",
                use_dictionary=["logic", "range", "lost", "saturated"],
                column_encoding={"t_ns": "DELTA_BINARY_PACKED", "power_w": "BYTE_STREAM_SPLIT"},
            )
        except (OSError, pa.ArrowException) as error:
            raise no_room(self._part, error) from error

    def write(self, chunk: Chunk) -> None:
        """Keep samples."""
        self.lost += chunk.lost
        self._owed += chunk.lost
        if not len(chunk.t_ns):
            return
        chunk, self._owed = replace(chunk, lost=self._owed), 0
        self._waiting.append(chunk)
        self._rows += len(chunk.t_ns)
        self.samples += len(chunk.t_ns)
        self._preview.add(chunk.power_w)
        before = int(chunk.t_ns[0]) if self._last_ns is None else self._last_ns
        steps = np.diff(chunk.t_ns, prepend=before) / 1e9
        if chunk.lost:
            steps[0] = 0.0  # nobody knows what was drawn there
        self.energy_j += float(np.nansum(chunk.power_w * steps))
        self._last_ns = int(chunk.t_ns[-1])
        if self._rows >= GROUP_ROWS:
            self._flush()

    def finish(self) -> Recording:
        """Close the file; the store moves it to where it stays."""
        self._flush()
        try:
            self._file.close()
            digest = sync_and_hash(self._part)
        except (OSError, pa.ArrowException) as error:
            raise no_room(self._part, error) from error
        return Recording(
            path=self._part,
            sha256=digest,
            samples=self.samples,
            lost=self.lost,
            energy_j=self.energy_j,
            preview=self._preview.parts(),
        )

    def discard(self) -> None:
        """Let nothing of it be left; no error after `finish` or a full disk."""
        with suppress(OSError, pa.ArrowException):
            self._file.close()
        self._part.unlink(missing_ok=True)

    def _flush(self) -> None:
        if not self._waiting:
            return
        table = pa.concat_tables([_table(chunk) for chunk in self._waiting])
        self._waiting, self._rows = [], 0
        try:
            self._file.write_table(table)
        except (OSError, pa.ArrowException) as error:
            raise no_room(self._part, error) from error


def read_samples(path: Path) -> Iterator[Chunk]:
    """The samples of a file, some hundred thousand at a time.

    Raises:
        StoreUnavailable: it is not there, or no such file.
    """
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=GROUP_ROWS):
                yield _chunk(batch)
    except (OSError, pa.ArrowException) as error:
        raise StoreUnavailable(
            f"cannot read the samples in {str(path)!r}: {error}",
            hint="restore the store's folder 'traces' from a backup",
        ) from error


def _table(chunk: Chunk) -> pa.Table:
    n = len(chunk.t_ns)
    counts = np.zeros((2, n), np.int32)
    counts[:, 0] = chunk.lost, chunk.saturated
    return pa.table(
        {
            "t_ns": chunk.t_ns,
            "power_w": chunk.power_w,
            "logic": chunk.logic if len(chunk.logic) else pa.nulls(n, pa.uint8()),
            "range": chunk.range if len(chunk.range) else pa.nulls(n, pa.uint8()),
            "lost": counts[0],
            "saturated": counts[1],
        },
        schema=SCHEMA,
    )


def _chunk(batch: pa.RecordBatch) -> Chunk:
    return Chunk(
        t_ns=batch["t_ns"].to_numpy(),
        power_w=batch["power_w"].to_numpy(),
        logic=_optional(batch["logic"]),
        range=_optional(batch["range"]),
        lost=int(batch["lost"].to_numpy().sum()),
        saturated=int(batch["saturated"].to_numpy().sum()),
    )


def _optional(column: pa.Array) -> npt.NDArray[np.uint8]:
    found: npt.NDArray[np.uint8] = np.empty(0, np.uint8) if column.null_count else column.to_numpy()
    return found


class _Preview:
    """Least, mean and largest of equal parts; when there are too many, two become one."""

    def __init__(self) -> None:
        self._size = 1
        self._done = np.empty((0, 3))
        self._rest = np.empty(0)

    def add(self, power_w: npt.NDArray[np.float64]) -> None:
        values = np.concatenate([self._rest, power_w[~np.isnan(power_w)]])
        whole = len(values) // self._size * self._size
        rows = values[:whole].reshape(-1, self._size)
        self._rest = values[whole:]
        found = np.stack([rows.min(1), rows.mean(1), rows.max(1)], axis=1)
        self._done = np.concatenate([self._done, found])
        while len(self._done) >= PARTS:
            odd = self._done[len(self._done) // 2 * 2 :]
            pairs = self._done[: len(self._done) // 2 * 2].reshape(-1, 2, 3)
            self._done = np.stack(
                [pairs[:, :, 0].min(1), pairs[:, :, 1].mean(1), pairs[:, :, 2].max(1)], axis=1
            )
            if len(odd):  # half a part cannot be told apart any more: it counts as a whole one
                self._done = np.concatenate([self._done, odd])
            self._size *= 2

    def parts(self) -> npt.NDArray[np.float64]:
        return self._done
