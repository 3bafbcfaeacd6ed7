"""Recordings of Joulescopes: JLS files of version 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyjls

from drivers.recordings.recording import ForeignRecording, find_input, source_of
from farm.errors import ConfigError
from farm.metering import Chunk, ClockDomain, MeterFacts

AT_ONCE = 1 << 16
CLASSES = {"JS110": "js110", "JS220": "js220"}
POWER, CURRENT, VOLTAGE = "power", "current", "voltage"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signal:
    """One signal of a file: `first` is the number of its first sample, all count from the same."""

    id: int
    rate: int
    first: int
    samples: int

    @property
    def after(self) -> int:
        """The number after that of the last sample."""
        return self.first + self.samples


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What is read of a file.

    Attributes:
        factors: the signals that make power when they are multiplied, all of one rate.
        volts: a further factor.
        pin: the wired input, None without one.
        low: whether it is active low.
    """

    factors: tuple[_Signal, ...]
    volts: float
    pin: _Signal | None
    low: bool


def read_jls(path: Path, *, volts: float | None, sync: str) -> ForeignRecording:
    """What a JLS file holds; arguments and errors as in `farm.plugins.open_recording`.

    Power is read if it was recorded, else current and voltage are multiplied. What the recorder has
    lost is NaN in these; in the inputs it shows as low, which nobody can tell from a low input.
    """
    with closing(_open(path)) as reader:
        signals, inputs, source = _look(path, reader)
    has = set(signals)
    if not has & {POWER, CURRENT}:
        raise ConfigError(f"{path.name} has neither power nor current", hint="record them as well")
    measured = POWER in has or VOLTAGE in has
    voltage = source_of(path, measured=measured, volts=volts)
    names = (POWER,) if POWER in has else (CURRENT, VOLTAGE) if measured else (CURRENT,)
    factors = tuple(signals[name] for name in names)
    if len({signal.rate for signal in factors}) > 1:
        raise ConfigError(f"{path.name} has current and voltage at different rates")
    pin = find_input(path, sync, tuple(inputs))
    facts = MeterFacts(
        meter_class=CLASSES.get(source.model.upper(), ""),
        model=source.model or "unknown",
        serial=source.serial_number,
        firmware=source.version,
        clock=ClockDomain.METER,
        rate_hz=factors[0].rate,
        regular=True,
        voltage=voltage,
        voltage_v=volts,
    )
    part = _Part(
        factors=factors,
        volts=1.0 if volts is None else volts,
        pin=inputs[pin] if pin else None,
        low=sync.startswith("!"),
    )
    return ForeignRecording(facts=facts, inputs=tuple(inputs), chunks=partial(_chunks, path, part))


def _open(path: Path) -> Any:
    try:
        return pyjls.Reader(str(path))
    except RuntimeError as error:
        raise ConfigError(
            f"cannot read {path.name}: {error}",
            hint="is it a JLS file of version 2, and was its recording ended properly?",
        ) from error


def _look(path: Path, reader: Any) -> tuple[dict[str, _Signal], dict[str, _Signal], Any]:
    """The signals of a file's only meter: by name, its inputs as `0` to `3`, and what it is."""
    signals: dict[str, _Signal] = {}
    inputs: dict[str, _Signal] = {}
    sources = set()
    for found in reader.signals.values():
        if found.signal_type != pyjls.SignalType.FSR or not found.length:
            continue
        sources.add(found.source_id)
        signal = _Signal(
            id=found.signal_id,
            rate=found.sample_rate,
            first=found.sample_id_offset,
            samples=found.length,
        )
        if found.data_type & 0xFFFF == pyjls.DataType.U1:
            inputs[found.name.removeprefix("gpi[").removesuffix("]")] = signal
        elif found.data_type & 0xFFFF == pyjls.DataType.F32:
            signals[found.name] = signal
    if len(sources) != 1:
        raise ConfigError(
            f"{path.name} has samples of {len(sources)} meters",
            hint="record one meter per file",
        )
    return signals, inputs, reader.sources[sources.pop()]


def _chunks(path: Path, part: _Part) -> Iterator[Chunk]:
    """The samples that all signals have; those with a NaN in one are lost."""
    rate = part.factors[0].rate
    first = max(signal.first for signal in part.factors)
    after = min(signal.after for signal in part.factors)
    if part.pin is not None:
        first = max(first, -(-part.pin.first * rate // part.pin.rate))
        after = min(after, part.pin.after * rate // part.pin.rate)
    with closing(_open(path)) as reader:
        for start in range(first, after, AT_ONCE):
            count = min(AT_ONCE, after - start)
            power_w = np.full(count, part.volts)
            for signal in part.factors:
                power_w *= _read(path, reader, signal, start, count)
            ids = np.arange(start, start + count, dtype=np.int64)
            logic = _logic(path, reader, part, ids)
            there = np.isfinite(power_w)
            ends = ids[there] + 1 - first
            yield Chunk(
                t_ns=ends // rate * 10**9 + ends % rate * 10**9 // rate,
                power_w=power_w[there],
                logic=logic[there] if len(logic) else logic,
                lost=count - int(there.sum()),
            )


def _logic(
    path: Path, reader: Any, part: _Part, ids: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint8]:
    """Where the wired input stands at the end of each sample; it may have another rate."""
    pin = part.pin
    if pin is None:
        return np.empty(0, np.uint8)
    at = np.maximum((ids + 1) * pin.rate // part.factors[0].rate - 1, pin.first)
    start = int(at[0]) - int(at[0] - pin.first) % 8  # between bytes, pyjls forgets the last bits
    count = int(at[-1]) - start + 1
    packed = _read(path, reader, pin, start, count)
    bits: npt.NDArray[np.uint8] = np.unpackbits(packed, count=count, bitorder="little")
    logic: npt.NDArray[np.uint8] = bits[at - start] ^ np.uint8(part.low)
    return logic


def _read(path: Path, reader: Any, signal: _Signal, start: int, count: int) -> npt.NDArray[Any]:
    try:
        samples: npt.NDArray[Any] = reader.fsr(signal.id, start - signal.first, count)
    except RuntimeError as error:
        raise ConfigError(f"{path.name} is damaged: {error}", hint="record it again") from error
    return samples
