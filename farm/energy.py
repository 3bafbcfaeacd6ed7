"""The energy of windows: a meter beside what a deployment does, and what its samples say of it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from farm.analysis.energy import Clocks, find_energy
from farm.analysis.energy_budget import battery_life_h
from farm.connection import Connection, Transport
from farm.errors import DeviceError
from farm.metering import (
    BYPASSED,
    UNUSABLE,
    ClockDomain,
    EnergyWindow,
    Metered,
    MeterFacts,
    Recording,
    read_duty,
)
from farm.metrics import METRICS
from farm.model import Device, Job, Load, Measure
from farm.plugins import is_virtual_meter, open_meter
from farm.protocols import Deployment, Meter
from farm.record import Fact, Measured, Measurement, Reading
from farm.recorder import Recorder, Seen
from farm.store.samples import read_samples

IDLE_SHARE, MIN_IDLE_S, MAX_IDLE_S = 0.25, 0.5, 10.0
"""A device rests for this share of its window before and after each; five windows of 10 s so have
12 s of either."""
CHIP_SAMPLES, CHIP_LAGS, MIN_CHIP_S, MAX_CHIP_S = 5, 3, 0.05, 2.0
"""An element of the mark lasts for so many samples and lags of the meter, within bounds."""
EXCHANGES = 8
EXCHANGE_S = 10.0
COARSE_NS = 10**9
"""What a clock is worth that tells whole seconds only."""
UNKNOWN_NS = 10**10
"""By how much a clock is taken to be off that nobody could ask."""
MAX_BATTERY = 0.01
"""A battery in the path may have given or taken so much of the energy, and be so uncertain."""
MIN_BATTERY = 0.005
"""Standard uncertainty of what a battery's gauge tells, as a share of the energy."""
UAH_C = 3600e-6
"""Coulombs of a microampere-hour, in which gauges count."""


class Metering:
    """A meter beside the windows of one job.

    Args:
        meter: opened.
        job: what is measured.
        connection: to the device.
        folder: for the samples.
        seen: hears what the meter sees meanwhile.

    Attributes:
        facts: what the meter is.
    """

    def __init__(
        self, meter: Meter, job: Job, connection: Connection, folder: Path, seen: Seen
    ) -> None:
        self.facts: MeterFacts = facts_of(meter, job.device)
        self._meter = meter
        self._seen = seen
        self._device: Device = job.device
        self._connection = connection
        self._folder = folder

    def measure(
        self, deployment: Deployment, load: Load, *, quiet_pace_ns: float | None
    ) -> tuple[Measured, Recording, EnergyWindow]:
        """One window, everything that the meter saw of it, and what that says.

        Raises:
            InfraError: the meter vanished or sends what cannot be understood.
            WorkloadError: the model cannot run here.
        """
        before = exchange_clocks(self._connection)
        with Recorder(self._meter, self._folder, self._seen) as recorder:
            measured = deployment.measure(
                load, quiet_pace_ns=quiet_pace_ns, metered=self._how(load)
            )
            recording = recorder.finish()
        if not measured.spans:
            raise DeviceError("what ran there does not tell when it ran", device=self._device.name)
        clocks = _together(before, exchange_clocks(self._connection))
        window = find_energy(
            read_samples(recording.path),
            measured.spans,
            self.facts,
            clocks=clocks if measured.span_clock is ClockDomain.DEVICE else None,
            wired=self._device.wired,
        )
        return measured, replace(recording, spans=measured.spans), window

    def _how(self, load: Load) -> Metered:
        wire = self._device.wired
        return Metered(
            idle_s=min(MAX_IDLE_S, max(MIN_IDLE_S, IDLE_SHARE * load.min_duration_s)),
            chip_s=0.0 if wire else chip_s(self.facts),
            wire=wire,
        )


def chip_s(facts: MeterFacts) -> float:
    """How long an element of the mark must be for a meter to show it."""
    asked_s = max(CHIP_SAMPLES / facts.rate_hz, CHIP_LAGS * facts.lag_s)
    return min(MAX_CHIP_S, max(MIN_CHIP_S, asked_s))


@contextmanager
def metering(
    job: Job, connection: Connection, folder: Path, seen: Seen
) -> Iterator[Metering | None]:
    """The meter of a job's device for as long as the job needs it; None if it measures no energy.

    Raises:
        InfraError: the meter cannot be found or opened, or is not the one meant.
    """
    if Measure.ENERGY not in job.measures:
        yield None
        return
    # A virtual device is at another address once it is on; its meter is the inventory's.
    with closing(open_meter(job.device, connection)) as meter:
        yield Metering(meter, job, connection, folder, seen)


def facts_of(meter: Meter, device: Device) -> MeterFacts:
    """What a meter says of itself; the driver of one cannot know that it talks to a virtual one."""
    facts = meter.facts()
    return replace(facts, simulated=facts.simulated or is_virtual_meter(device))


def meter_name(facts: MeterFacts) -> str:
    """Model and serial number, which tell one meter from another."""
    return f"{facts.model} {facts.serial}".strip()


def meter_facts(facts: MeterFacts) -> tuple[Fact, ...]:
    """What of a meter may move the level of every energy, as circumstances."""
    told = {
        "meter": meter_name(facts),
        "meter_firmware": facts.firmware,
        "meter_calibration": facts.calibration,
        "meter_voltage": "" if facts.voltage_v is None else f"{facts.voltage_v:g}",
    }
    return tuple(Fact(name=name, value=value) for name, value in told.items() if value)


def exchange_clocks(connection: Connection) -> Clocks | None:
    """How the device's wall clock stands to this machine's monotonic one; None without a shell.

    A device without a useful `date` is taken to be right by some seconds, which marks mend. It is
    asked several times: the fastest answer tells it best, for the clock was read somewhere between
    question and answer.
    """
    if not connection.has_shell:
        return None
    shell = cast("Transport", connection)
    found: list[Clocks] = []
    for _ in range(EXCHANGES):
        asked_ns = time.monotonic_ns()
        answer = shell.run(("date", "+%s %N"), timeout_s=EXCHANGE_S)
        heard_ns = time.monotonic_ns()
        seconds, _, fraction = answer.stdout.strip().partition(" ")
        if not seconds.isdigit():
            return Clocks(offset_ns=time.monotonic_ns() - time.time_ns(), error_ns=UNKNOWN_NS)
        fine = fraction.isdigit()
        wall_ns = int(seconds) * 10**9 + (int(fraction) if fine else COARSE_NS // 2)
        error_ns = (heard_ns - asked_ns) // 2 + (0 if fine else COARSE_NS // 2)
        found.append(Clocks(offset_ns=(asked_ns + heard_ns) // 2 - wall_ns, error_ns=error_ns))
    return min(found, key=lambda clocks: clocks.error_ns)


def _together(before: Clocks | None, after: Clocks | None) -> Clocks | None:
    """What two exchanges say of the time between; what they differ by may be anywhere there."""
    if before is None or after is None:
        return None
    apart_ns = abs(before.offset_ns - after.offset_ns) // 2
    return Clocks(
        offset_ns=(before.offset_ns + after.offset_ns) // 2,
        error_ns=max(before.error_ns, after.error_ns) + apart_ns,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Battery:
    """What a battery in the path gave besides, as shares of what the meter saw.

    Attributes:
        share: what it gave, negative for what it took.
        uncertainty: standard uncertainty of that.
    """

    share: float
    uncertainty: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a window says in the end.

    Attributes:
        measurements: of the family `energy`; none if nobody knows.
        conditions: why they may not be judged, by code.
        window: it, with what a battery in the path has changed.
        battery: standard uncertainty from that battery, a fraction.
    """

    measurements: tuple[Measurement, ...]
    conditions: tuple[str, ...]
    window: EnergyWindow
    battery: float


def figures(
    window: EnergyWindow,
    recording: Recording,
    facts: MeterFacts,
    device: Device,
    *,
    before: tuple[Reading, ...],
    after: tuple[Reading, ...],
    share_correct: float | None,
) -> Figures:
    """The metrics of a window.

    Args:
        window: what was found in the recording.
        recording: of it.
        facts: of the meter.
        device: what it is bound to.
        before, after: what the platform told before and after.
        share_correct: accuracy of the model on this unit, None if nobody knows.
    """
    battery, wrong = _battery(recording, facts, device, before, after)
    conditions = (*window.conditions, *wrong)
    if UNUSABLE & set(conditions):
        return Figures(measurements=(), conditions=conditions, window=window, battery=0.0)
    if battery and not wrong:
        window = replace(window, energy_j=window.energy_j * (1 + battery.share))
    values = {
        "energy.per_inference": window.per_inference_j,
        "energy.net_per_inference": window.net_per_inference_j,
        "energy.per_correct": window.per_inference_j / share_correct if share_correct else None,
        "energy.mean_power": window.mean_w,
        "energy.peak_power": window.peak_w,
        "energy.idle_power": window.idle_w,
        "energy.inferences_per_joule": 1 / window.per_inference_j,
        "energy.battery_life": _battery_life(window, device),
    }
    return Figures(
        measurements=tuple(
            Measurement(metric=name, unit=METRICS[name].unit, value=value)
            for name, value in values.items()
            if value is not None and value > 0  # net of a model that idles is no energy
        ),
        conditions=conditions,
        window=window,
        battery=battery.uncertainty if battery else 0.0,
    )


def _battery_life(window: EnergyWindow, device: Device) -> float | None:
    duty, net_j = read_duty(device), window.net_per_inference_j
    if duty is None or window.idle_w is None or net_j is None:
        return None
    return battery_life_h(duty, window.idle_w, net_j)


def _battery(
    recording: Recording,
    facts: MeterFacts,
    device: Device,
    before: tuple[Reading, ...],
    after: tuple[Reading, ...],
) -> tuple[Battery | None, tuple[str, ...]]:
    """What a battery in the path gave besides; and what is wrong with that.

    None where there is no battery, or it is out of the path.
    """
    if (
        not facts.in_path
        or device.option("battery") == BYPASSED
        or all(reading.name != "battery" for reading in before)
    ):
        return None, ()
    charge_c, volts = (
        [next((r.value for r in readings if r.name == name), None) for readings in (before, after)]
        for name in ("battery_charge", "battery_voltage")
    )
    if None in charge_c or None in volts or not recording.energy_j > 0:
        return None, ("battery_unknown",)
    first_c, last_c = (float(c or 0.0) for c in charge_c)
    mean_v = (float(volts[0] or 0.0) + float(volts[1] or 0.0)) / 2
    share = (first_c - last_c) * mean_v / recording.energy_j
    rounding = _step_c(first_c, last_c) * mean_v / recording.energy_j / math.sqrt(6)
    told = Battery(share=share, uncertainty=max(MIN_BATTERY, abs(share) / 2, rounding))
    if rounding > MAX_BATTERY:
        return told, ("battery_unknown",)
    return told, ("battery_term",) if abs(share) > MAX_BATTERY else ()


def _step_c(*charges_c: float) -> float:
    """The step in which a gauge counts, as far as its numbers show: a power of ten of uAh."""
    counts = [round(charge_c / UAH_C) for charge_c in charges_c]
    step = 1
    while any(counts) and all(count % (10 * step) == 0 for count in counts):
        step *= 10
    return step * UAH_C
