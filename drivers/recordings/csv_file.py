"""Recordings as text in columns: those of Nordic's Power Profiler, and what scripts write.

The first line names the columns. Time: `t`, `time` or `timestamp` in `s`, `ms`, `us` or `ns`.
Power: `p` or `power` in `W`, `mW` or `uW`; or `i` or `current` in `A`, `mA`, `uA` or `nA` with `v`
or `voltage` in `V` or `mV`. Units follow in brackets, or after a blank or an underscore:
`Timestamp(ms)`, `power_w`; without one they are s, W, A and V. Logic inputs: columns of 0 and 1
named `D0` to `D7`, or one `D0-D7` with a digit for each, D0 first. A time is the end of its sample.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from drivers.recordings.recording import ForeignRecording, find_input, source_of
from farm.errors import ConfigError
from farm.metering import Chunk, ClockDomain, MeterFacts

BLOCK_BYTES = 1 << 20
DELIMITERS = ",;\t"
HEADER_BYTES = 4096
UNITS = {
    "time": {"s": 1e9, "ms": 1e6, "us": 1e3, "ns": 1.0},
    "power": {"w": 1.0, "mw": 1e-3, "uw": 1e-6},
    "current": {"a": 1.0, "ma": 1e-3, "ua": 1e-6, "na": 1e-9},
    "voltage": {"v": 1.0, "mv": 1e-3},
}
"""What a column holds, and its units in ns, W, A and V; the first is meant where none is named."""
NAMES = {
    "t": "time", "time": "time", "timestamp": "time", "p": "power", "power": "power",
    "i": "current", "current": "current", "v": "voltage", "voltage": "voltage",
}  # fmt: skip
PROFILER = ("Timestamp(ms)", "Current(uA)")
"""The first columns of Nordic's program; nothing else tells that a PPK2 was it."""
ALL_INPUTS = "D0-D7"
INPUTS = tuple(f"D{number}" for number in range(8))
REGULAR, NEAR = 0.9, 0.1
"""A meter is regular if so many of its samples are that near to their median distance."""
_COLUMN = re.compile(r"([a-z]+)(?:[\s_]*[(\[]?\s*([munµμ]?[swav])\s*[)\]]?)?", re.IGNORECASE)
_BROKEN = re.compile(r"Row #(\d+): (.*)", re.DOTALL)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """Which columns are read, and how.

    Attributes:
        scales: name and factor by what a column holds.
        pin: the column with the wired input, empty without one.
        digit: its place there, None where the column is this input alone.
        low: whether it is active low.
        volts: of the supply, where that is no column.
    """

    delimiter: str
    scales: dict[str, tuple[str, float]]
    pin: str = ""
    digit: int | None = None
    low: bool = False
    volts: float | None = None


def read_csv(path: Path, *, volts: float | None, sync: str) -> ForeignRecording:
    """What a text file holds; arguments and errors as in `farm.plugins.open_recording`."""
    names, delimiter = _read_names(path)
    scales = _scales(path, names)
    inputs = INPUTS if ALL_INPUTS in names else tuple(name for name in names if name in INPUTS)
    pin = find_input(path, sync, inputs)
    alone = pin in names
    columns = _Columns(
        delimiter=delimiter,
        scales=scales,
        pin=pin if alone or not pin else ALL_INPUTS,
        digit=None if alone or not pin else INPUTS.index(pin),
        low=sync.startswith("!"),
        volts=volts,
    )
    voltage = source_of(path, measured="current" not in scales or "voltage" in scales, volts=volts)
    period_ns, regular = _period(path, columns)
    profiler = tuple(names[:2]) == PROFILER
    facts = MeterFacts(
        meter_class="ppk2" if profiler else "",
        model="PPK2" if profiler else "unknown",
        clock=ClockDomain.METER,
        rate_hz=1e9 / period_ns,
        regular=regular,
        voltage=voltage,
        voltage_v=volts,
    )
    lost_ns = period_ns if regular else None
    return ForeignRecording(
        facts=facts, inputs=inputs, chunks=partial(_chunks, path, columns, lost_ns)
    )


def _read_names(path: Path) -> tuple[list[str], str]:
    """The names of the columns, and what stands between them."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            line = file.readline(HEADER_BYTES).rstrip("\r\n")
    except OSError as error:
        raise ConfigError(f"cannot read {path.name}: {error.strerror}") from error
    delimiter = max(DELIMITERS, key=line.count)
    return next(csv.reader([line], delimiter=delimiter), []), delimiter


def _scales(path: Path, names: list[str]) -> dict[str, tuple[str, float]]:
    """Name and factor of the columns for time and power, or for current and voltage."""
    found: dict[str, tuple[str, float]] = {}
    for name in names:
        read = _COLUMN.fullmatch(name.strip())
        kind = NAMES.get(read[1].lower(), "") if read else ""
        if not read or not kind:
            continue
        units = UNITS[kind]
        unit = (read[2] or next(iter(units))).lower().replace("µ", "u").replace("μ", "u")
        if unit not in units or kind in found:
            why = "a second column" if kind in found else "an unknown unit"
            raise ConfigError(f"{path.name}: {why} for {kind}: '{name}'")
        found[kind] = name, units[unit]
    if "time" not in found or not {"power", "current"} & set(found):
        raise ConfigError(
            f"{path.name} has no columns for time and power, or current",
            hint="the first line names them, for example: time_s,current_a,voltage_v",
        )
    if "power" in found:
        found = {kind: found[kind] for kind in ("time", "power")}
    return found


def _period(path: Path, columns: _Columns) -> tuple[float, bool]:
    """How far samples are apart at the beginning, and whether always so far."""
    t_ns = next((chunk.t_ns for chunk in _chunks(path, columns, None)), np.empty(0, np.int64))
    if len(t_ns) < 2:
        raise ConfigError(f"{path.name} has fewer than two samples")
    steps = np.diff(t_ns)
    period_ns = float(np.median(steps))
    return period_ns, bool(np.mean(np.abs(steps / period_ns - 1) < NEAR) >= REGULAR)


def _chunks(path: Path, columns: _Columns, period_ns: float | None) -> Iterator[Chunk]:
    """The samples; with a period, what is missing is counted where it is."""
    line, before_ns = 2, None
    for batch in _batches(path, columns):
        t_ns = _times(path, batch, columns, line, before_ns)
        if not len(t_ns):
            continue
        lost = 0
        if period_ns:
            steps = np.diff(t_ns, prepend=t_ns[0] if before_ns is None else before_ns)
            lost = int(np.maximum(0, np.rint(steps / period_ns) - 1).sum())
        yield Chunk(
            t_ns=t_ns, power_w=_power(batch, columns), logic=_logic(batch, columns), lost=lost
        )
        line, before_ns = line + len(t_ns), int(t_ns[-1])


def _batches(path: Path, columns: _Columns) -> Iterator[pa.RecordBatch]:
    types: dict[str, pa.DataType] = {name: pa.float64() for name, _ in columns.scales.values()}
    if columns.pin:
        types[columns.pin] = pa.string()
    try:
        yield from pa_csv.open_csv(
            path,
            read_options=pa_csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
            parse_options=pa_csv.ParseOptions(delimiter=columns.delimiter),
            convert_options=pa_csv.ConvertOptions(column_types=types, include_columns=list(types)),
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        broken = _BROKEN.search(str(error))
        where = f"{path.name}, line {broken[1]}" if broken else path.name
        raise ConfigError(
            f"{where}: {broken[2] if broken else error}",
            hint="the file may have been cut off; numbers have a decimal point",
        ) from error


def _times(
    path: Path, batch: pa.RecordBatch, columns: _Columns, line: int, before_ns: int | None
) -> npt.NDArray[np.int64]:
    """Times in ns, ascending."""
    name, scale = columns.scales["time"]
    times = _numbers(batch, name) * scale
    with np.errstate(invalid="ignore"):
        t_ns = np.rint(times).astype(np.int64)
    steps = np.diff(t_ns, prepend=t_ns[:1] - 1 if before_ns is None else before_ns)
    if len(wrong := np.flatnonzero(~np.isfinite(times) | (steps <= 0))):
        raise ConfigError(
            f"{path.name}, line {line + int(wrong[0])}: its time is not after that before it",
            hint="a recording has one line for each sample, in their order",
        )
    return t_ns


def _power(batch: pa.RecordBatch, columns: _Columns) -> Floats:
    """Power in W."""
    scaled = {k: _numbers(batch, n) * f for k, (n, f) in columns.scales.items() if k != "time"}
    if "power" in scaled:
        return scaled["power"]
    volts: Floats | float = columns.volts if columns.volts is not None else scaled["voltage"]
    return scaled["current"] * volts


def _logic(batch: pa.RecordBatch, columns: _Columns) -> npt.NDArray[np.uint8]:
    """The wired input; what is neither 0 nor 1 all through a sample counts as 0."""
    if not columns.pin:
        return np.empty(0, np.uint8)
    column: Any = batch.column(columns.pin)
    if columns.digit is not None:
        column = pc.utf8_slice_codeunits(column, columns.digit, columns.digit + 1)
    high = pc.equal(pc.utf8_trim_whitespace(column), "1").to_numpy(zero_copy_only=False)
    logic: npt.NDArray[np.uint8] = (high.astype(bool) != columns.low).astype(np.uint8)
    return logic


def _numbers(batch: pa.RecordBatch, name: str) -> Floats:
    numbers: Floats = batch.column(name).to_numpy(zero_copy_only=False)
    return numbers
