"""Raw samples as content-addressed Parquet: one file per job, written before the job's row."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from farm.errors import StoreUnavailable
from farm.record import JobResult, Trace

SCHEMA = pa.schema(
    [
        ("arm", pa.dictionary(pa.int8(), pa.string())),
        ("block", pa.int32()),  # -1: over the whole job
        ("position", pa.int8()),
        ("trace", pa.dictionary(pa.int16(), pa.string())),
        ("unit", pa.dictionary(pa.int8(), pa.string())),
        ("t_ns", pa.int64()),  # null where a trace has no times
        ("value", pa.float64()),
    ]
)


def trace_path(folder: Path, sha256: str) -> Path:
    """Where a store keeps the traces of that digest."""
    return folder / "traces" / sha256[:2] / f"{sha256}.parquet"


def write_traces(folder: Path, result: JobResult) -> str:
    """Keep every trace of a job; returns the digest, empty if there is none.

    The file gets its name only when it is whole and on the disk.

    Raises:
        StoreUnavailable: the disk is full or the folder cannot be written.
    """
    table = _table(result)
    if table.num_rows == 0:
        return ""
    part = folder / "traces" / f"{os.getpid()}-{os.urandom(4).hex()}.part"
    try:
        pq.write_table(table, part, compression="zstd")
        digest = sync_and_hash(part)
        keep_file(folder, part, digest)
    except (OSError, pa.ArrowException) as error:
        part.unlink(missing_ok=True)
        raise no_room(folder, error) from error
    return digest


def keep_file(folder: Path, part: Path, sha256: str) -> None:
    """Give a whole file on the store's disk its name.

    Raises:
        StoreUnavailable: the folder cannot be written.
    """
    target = trace_path(folder, sha256)
    try:
        target.parent.mkdir(exist_ok=True)
        part.rename(target)
    except OSError as error:
        raise no_room(folder, error) from error


def no_room(folder: Path, error: Exception) -> StoreUnavailable:
    """What is said when samples cannot be kept."""
    return StoreUnavailable(
        f"cannot keep raw samples in {str(folder)!r}: {getattr(error, 'strerror', None) or error}",
        hint="make room on the disk, then run the same command again",
    )


def sync_and_hash(path: Path) -> str:
    """The digest of a file that is on the disk now."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _table(result: JobResult) -> pa.Table:
    parts = [
        _rows(repeat.arm, repeat.block, repeat.position, trace)
        for repeat in result.repeats
        for trace in repeat.traces
    ]
    for summary in result.arms:
        if len(summary.correct):
            trace = Trace(name="correct", unit="bool", values=summary.correct.astype(np.int64))
            parts.append(_rows(summary.arm, -1, 0, trace))
    return pa.concat_tables(parts).combine_chunks() if parts else SCHEMA.empty_table()


def _rows(arm: str, block: int, position: int, trace: Trace) -> pa.Table:
    n = len(trace.values)
    return pa.table(
        {
            "arm": _constant(arm, n, pa.int8()),
            "block": np.full(n, block, np.int32),
            "position": np.full(n, position, np.int8),
            "trace": _constant(trace.name, n, pa.int16()),
            "unit": _constant(trace.unit, n, pa.int8()),
            "t_ns": pa.array(trace.t_ns) if len(trace.t_ns) == n else pa.nulls(n, pa.int64()),
            "value": trace.values.astype(np.float64),
        },
        schema=SCHEMA,
    )


def _constant(text: str, n: int, index_type: pa.DataType) -> pa.DictionaryArray:
    indices = pa.array(np.zeros(n, np.int8)).cast(index_type)
    return pa.DictionaryArray.from_arrays(indices, pa.array([str(text)]))
