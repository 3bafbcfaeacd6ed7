"""Firmware built from the MLPerf Tiny reference code, as it is, over its text protocol.

The candidate is the firmware that contains the model. What comes out is no MLPerf result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from drivers.mcu.mlperf_text import (
    CHUNK_BYTES,
    LAP_WRAPS,
    MAX_CHUNK_BYTES,
    Firmware,
    Inferred,
    Profile,
)
from drivers.runtimes.mlperf_flash import BY_HAND, Bench
from drivers.runtimes.mlperf_inputs import Items, read_items
from farm.connection import Line
from farm.errors import (
    CommandTimeout,
    ConfigError,
    DeviceRebooted,
    InfraError,
    WrongAccelerator,
    WrongOutput,
)
from farm.metering import Metered
from farm.metrics import METRICS
from farm.model import Artifact, Device, Load, Scenario, Workload
from farm.protocols import Deployment, Runtime
from farm.record import Fact, Measured, Measurement, Output, TimeBasis, Trace

INFER_S = 60.0
"""The longest that one inference may take, and what a window may take beyond what was foreseen."""
MIN_WINDOW_S = 10.0
"""The rule of the benchmark; the lap that is printed inside of the window, 1.5 ms at 115200 baud,
is then less than two in ten thousand."""
MAX_WINDOW_S = LAP_WRAPS / 1e6 / 2
CALIBRATION_S = 0.3
MAX_SHIFT = 10
TRIES = 3
UNOFFICIAL = "unofficial: made without the rules and the review of MLPerf, and no MLPerf result"


class MlperfTiny(Runtime):
    """Flashes a firmware, loads inputs, and reads results and laps.

    Options of a device: `flash`, how an image gets there; `by-hand` for one that a person flashed.
    `mlperf_chunk`, bytes of an input per command, at most 38; behind a power manager 26.
    `icount_shift`, for boards in an emulator that lets 2^N ns pass per instruction.

    Only images that are not there already are flashed, but the two arms of a comparison take
    turns: twice for each block of A B B A, and five times besides.
    """

    options: ClassVar[tuple[str, ...]] = ("mlperf_chunk", "icount_shift")
    platforms: ClassVar[tuple[str, ...]] = ("mlperf_tiny",)
    formats: ClassVar[tuple[str, ...]] = ("firmware",)
    scenarios: ClassVar[tuple[Scenario, ...]] = (Scenario.SINGLE_STREAM,)

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse a size of commands that no firmware takes, and an impossible emulator."""
        _chunk_bytes(device)
        _icount_shift(device)

    def __init__(self, line: Line) -> None:
        self._device = line.device
        self._firmware = Firmware(line, chunk_bytes=_chunk_bytes(line.device))
        self._bench = Bench(line)

    def facts(self) -> tuple[Fact, ...]:
        """What results are not, and how images get there."""
        way = self._device.option("flash") or "none"
        if way == BY_HAND:
            way = f"{BY_HAND}: nobody checked that the firmware is the one that was named"
        told = {"accelerators": "cpu", "mlperf": UNOFFICIAL, "flash": way}
        return tuple(Fact(name=name, value=value) for name, value in told.items())

    def deploy(self, model: Artifact, workload: Workload, *, accelerator: str) -> Deployment:
        """Nothing is sent before it is needed: two firmwares cannot be there at once."""
        if accelerator != "cpu":
            raise WrongAccelerator(
                f"asked for '{accelerator}': what a firmware runs its model on is its own business",
                device=self._device.name,
                hint="leave 'accelerators' out of the suite",
            )
        shift = _icount_shift(self._device)
        return _MlperfDeployment(self._bench, self._firmware, model, workload, shift=shift)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """What is known once the firmware has told what it is."""

    name: str
    profile: Profile
    items: Items


class _MlperfDeployment(Deployment):
    """A firmware and a workload.

    Args:
        bench: puts the firmware there.
        firmware: asks it.
        image: the firmware's file.
        workload: what it shall infer.
        shift: 2^shift ns of virtual time pass per instruction; None where time is real.
    """

    def __init__(
        self, bench: Bench, firmware: Firmware, image: Artifact, workload: Workload,
        *, shift: int | None,
    ) -> None:  # fmt: skip
        self._bench = bench
        self._firmware = firmware
        self._image = image
        self._workload = workload
        self._shift = shift
        self._known: _Ready | None = None
        self._pace_us = 0.0
        self._windows_us: list[float] = []

    def prepare(self) -> tuple[Measurement, ...]:
        """Flash it, see that its model is the workload's, and that it infers.

        Returns `deploy.push_seconds`; nothing if the image was there already.
        """
        seconds = self._bench.put(self._image)
        self._infer_window(self._ready().items.windows(0)[0])
        if seconds is None:
            return ()
        metric = METRICS["deploy.push_seconds"]
        return (Measurement(metric=metric.name, unit=metric.unit, value=seconds),)

    def infer(self) -> tuple[Output, ...]:
        """Every item once; an item of several windows has the mean over them."""
        if self._workload.inputs is None:
            raise ConfigError("a model without a workload has no items to infer")
        items = self._ready().items
        rows: list[tuple[float, ...]] = []
        for item in range(len(items.rows)):
            found = [self._infer_window(window).results for window in items.windows(item)]
            if len({len(results) for results in (*found, *rows[:1])}) > 1:
                raise WrongOutput(f"item {item} has another number of results than the first")
            rows.append(tuple(np.mean(found, axis=0)))
        values = np.array(rows)
        if items.task and values.shape[1] != items.task.outputs:
            raise WrongOutput(
                f"{values.shape[1]} results per item, {items.task.outputs} were expected"
            )
        return (Output(name="results", values=values),)

    def measure(
        self, load: Load, *, quiet_pace_ns: float | None = None, metered: Metered | None = None
    ) -> Measured:
        """The input is sent anew, then one window is timed by the firmware's own laps."""
        ready = self._ready()
        self._firmware.load(ready.items.windows(0)[0])
        told = f"{ready.name}, {ready.profile.text}, {ready.profile.model}"
        firmware = Fact(name="firmware", value=told)
        if self._shift is not None:
            return self._count_instructions(self._shift, firmware)
        count, warmup, inferred = self._timed_window(load)
        window = Fact(
            name="window",
            value=f"{count} inferences in {inferred.took_us / 1e6:.3f} s after {warmup} before it",
        )
        self._windows_us.append(inferred.took_us / count)
        latency = np.array([1e3 * self._windows_us[-1]])
        return Measured(
            traces=(Trace(name="latency", unit="ns", values=latency),),
            scalars=(),
            accelerator="cpu",
            facts=(firmware, window),
        )

    def notes(self) -> tuple[str, ...]:
        """The median over the windows, which is how the benchmark sums them up."""
        if not self._windows_us:
            return ()
        median_us = float(np.median(self._windows_us))
        return (
            f"median: {median_us:.1f} us per inference, {1e6 / median_us:.4g} inferences per "
            f"second over {len(self._windows_us)} windows of {self._image.name!r}; {UNOFFICIAL}",
        )

    def remove(self) -> None:
        """Nothing to do: the firmware stays, as a board needs one."""

    def _ready(self) -> _Ready:
        self._bench.put(self._image)
        if self._known is None:
            profile = self._firmware.profile()
            items = read_items(self._workload, profile.model)
            self._known = _Ready(name=self._firmware.name(), profile=profile, items=items)
        return self._known

    def _infer_window(self, window: bytes) -> Inferred:
        self._firmware.load(window)
        return self._infer(1)

    def _infer(self, count: int, *, warmup: int = 0, timeout_s: float = INFER_S) -> Inferred:
        """As the firmware does it; while it does nothing else, a restart or silence is its own."""
        try:
            return self._firmware.infer(count, warmup=warmup, timeout_s=timeout_s)
        except DeviceRebooted as error:
            raise self._bench.blame(self._image, "restarts while it infers", error) from error
        except CommandTimeout as error:
            told = f"does not end to infer within {timeout_s:.0f} s"
            raise self._bench.blame(self._image, told, error) from error

    def _timed_window(self, load: Load) -> tuple[int, int, Inferred]:
        """Inferences, those before them, and the window; a window that is too short is repeated."""
        window_us = 1e6 * max(MIN_WINDOW_S, load.min_duration_s)
        longest_us = 1e6 * min(MAX_WINDOW_S, max(load.max_duration_s, 2 * window_us / 1e6))
        self._pace_us = self._pace_us or self._calibrated_us()
        for _ in range(TRIES):
            wanted = max(load.min_queries, math.ceil(1.05 * window_us / self._pace_us))
            count = max(1, min(wanted, int(longest_us / self._pace_us)))
            warmup = math.ceil(1e6 * load.warmup_s / self._pace_us)
            foreseen_s = (count + warmup) * self._pace_us / 1e6
            inferred = self._infer(count, warmup=warmup, timeout_s=2 * foreseen_s + INFER_S)
            self._pace_us = max(inferred.took_us, 1) / count
            if inferred.took_us >= window_us:
                return count, warmup, inferred
        raise InfraError(
            f"{TRIES} windows in a row were shorter than {window_us / 1e6:g} s",
            hint="its laps are no microseconds, or its pace changes all the time",
        )

    def _calibrated_us(self) -> float:
        """About how long an inference takes, at least a microsecond's share of it."""
        count = 1
        while True:
            inferred = self._infer(count)
            if inferred.took_us >= 1e6 * CALIBRATION_S or count >= LAP_WRAPS >> 8:
                return max(inferred.took_us, 1) / count
            count *= 8

    def _count_instructions(self, shift: int, firmware: Fact) -> Measured:
        """Instructions of one inference, from virtual time.

        The difference of two windows, so that the lap inside of both does not count, over so many
        inferences that the laps' resolution of a microsecond is less than half an instruction.
        """
        more = 4000 // 2**shift + 1
        for _ in range(TRIES):
            few, many = (self._infer(count, timeout_s=more * INFER_S) for count in (1, 1 + more))
            if len(str(few.laps_us[0])) == len(str(many.laps_us[0])):
                break  # to print another digit would take other instructions
        nanoseconds = (many.took_us - few.took_us) * 1e3 / more
        metric = METRICS["compute.instructions"]
        value = float(round(nanoseconds / 2**shift))
        counted = Measurement(metric=metric.name, unit=metric.unit, value=value)
        return Measured(
            traces=(), scalars=(counted,), accelerator="cpu", facts=(firmware,),
            time_basis=TimeBasis.ICOUNT,
        )  # fmt: skip


def _chunk_bytes(device: Device) -> int:
    """How many bytes of an input go into one command.

    Raises:
        ConfigError: it is no number, or a command would be too long.
    """
    text = device.option("mlperf_chunk", str(CHUNK_BYTES))
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_CHUNK_BYTES):
        raise ConfigError(
            f"mlperf_chunk '{text}' is no whole number from 1 to {MAX_CHUNK_BYTES}",
            device=device.name,
            hint=f"leave it out for {CHUNK_BYTES}; behind a power manager: mlperf_chunk: 26",
        )
    return int(text)


def _icount_shift(device: Device) -> int | None:
    """The N of 2^N ns of virtual time per instruction; None where time is real.

    Raises:
        ConfigError: no emulator has that.
    """
    text = device.option("icount_shift")
    if text and not (text.isascii() and text.isdigit() and int(text) <= MAX_SHIFT):
        raise ConfigError(
            f"icount_shift '{text}' is no whole number from 0 to {MAX_SHIFT}",
            device=device.name,
            hint="it is what '-icount shift=N' says to the emulator; leave it out for real boards",
        )
    return int(text) if text else None
