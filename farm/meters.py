"""Which meters a lab has, and whether each sees the device that it is bound to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np

from farm.analysis.energy import Clocks, find_energy
from farm.charging import reached
from farm.connection import Connection
from farm.energy import chip_s, exchange_clocks, facts_of, meter_name
from farm.errors import ConfigError, DeviceError, FarmError
from farm.inventory import read_inventory
from farm.lease import Lease, leased
from farm.metering import UNUSABLE, ClockDomain, EnergyWindow, Metered, MeterFacts, Recording
from farm.model import Device, DeviceState, Load
from farm.plugins import find_meter, find_runtime, open_meter, open_recording
from farm.protocols import Meter
from farm.record import Measured
from farm.recorder import Recorder
from farm.store.database import Store, open_store
from farm.store.meters import save_check
from farm.store.samples import read_samples, spool
from farm.suite import read_suite
from farm.workload import read_workload

SUITE = "smoke"
"""Its workload's model is the load that is switched on and off."""
PULSED = Load(min_duration_s=1.0, min_queries=1, warmup_s=0.1, max_duration_s=10.0)
IDLE_S = 1.0
MAX_AGE_DAYS = 400
"""A calibration is due once a year."""
RISE = 1.02
"""A device at work draws at least so much more than at rest, or its meter sees something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a look at a device's meter found.

    Attributes:
        facts: what the meter is, None if it could not be asked.
        complaints: what is wrong, a line each; none if all is well.
        remarks: what a person should know, and is no fault.
        window: what it saw of the device's load, None if no load was made.
    """

    device: Device
    facts: MeterFacts | None = None
    complaints: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    window: EnergyWindow | None = None


def look(inventory: Path, store: Path, names: tuple[str, ...] = ()) -> Iterator[Seen]:
    """Ask the meter of every device, or of those named, what it is.

    Raises:
        ConfigError: the inventory is wrong, or no device has a meter.
    """
    for device in _metered(inventory, names):
        try:
            with (
                open_store(store) as opened,
                _alone(opened, device),
                reached(device) as (road, _),
                closing(open_meter(device, road)) as meter,
            ):
                facts = facts_of(meter, device)
            yield Seen(device=device, facts=facts, remarks=_remarks(facts))
        except FarmError as error:
            yield Seen(device=device, complaints=(error.message,), remarks=(error.hint,))


def verify(inventory: Path, store: Path, names: tuple[str, ...] = ()) -> Iterator[Seen]:
    """Let one device after the other work in a pattern, and see which meters show it.

    All meters of the inventory record meanwhile: the one bound to the device must show the pattern,
    and no other. What was found is kept; jobs on a device whose last check failed are not judged.

    Args:
        inventory: the file.
        store: where leases and findings are kept.
        names: devices to try; all that have a meter if left out.

    Raises:
        ConfigError: the inventory is wrong, or no device has a meter.
        LeaseTimeout: somebody uses one of the devices.
        InfraError: a device or a meter cannot be reached.
    """
    chosen = {device.name for device in _metered(inventory, names)}
    with ExitStack() as stack:
        opened = stack.enter_context(open_store(store))
        folder = stack.enter_context(spool(opened.folder))
        bench = [_Place(stack, opened, device) for device in _metered(inventory, ())]
        for place in bench:
            if place.device.name in chosen:
                seen = _verified(place, bench, folder)
                if seen.facts:
                    name = meter_name(seen.facts)
                    save_check(opened, place.device.name, name, seen.complaints, datetime.now(UTC))
                yield seen


def release(inventory: Path, name: str) -> bool:
    """Let go of what holds a device's meter between jobs; whether anything did.

    A meter that feeds the device stops feeding it.

    Raises:
        ConfigError: the inventory is wrong, or the device has no meter.
    """
    (device,) = _metered(inventory, (name,))
    return find_meter(device.metered_by.scheme).release(device)


class _Place:
    """A device that nobody else uses now, and its meter."""

    def __init__(self, stack: ExitStack, store: Store, device: Device) -> None:
        stack.enter_context(_alone(store, device))
        self.device = device
        self.road: Connection
        self.road, _ = stack.enter_context(reached(device))
        self.meter: Meter = stack.enter_context(closing(open_meter(device, self.road)))
        self.facts = facts_of(self.meter, device)


def _alone(store: Store, device: Device) -> AbstractContextManager[Lease]:
    # Nothing is timed here, so devices may share a host.
    return leased(store, replace(device, host=device.name), "farm meter")


def _verified(place: _Place, bench: list[_Place], folder: Path) -> Seen:
    try:
        measured, recordings, clocks = _pulse(place, bench, folder)
    except FarmError as error:
        return Seen(device=place.device, facts=place.facts, complaints=(str(error),))
    when = clocks if measured.span_clock is ClockDomain.DEVICE else None

    def found(other: _Place) -> EnergyWindow:
        return find_energy(
            read_samples(recordings[other.device.name].path),
            measured.spans,
            other.facts,
            clocks=when,
            wired=False,
        )

    window = found(place)
    complaints = list(_complaints(place, window))
    if place.device.wired:
        # A microcontroller moves its pin for every request, those of the mark too.
        kept = read_samples(recordings[place.device.name].path)
        if len({int(level) for chunk in kept for level in np.unique(chunk.logic)}) < 2:
            complaints.append("its pin does not move at the meter's logic input: check the wire")
    for other in bench:
        if other is not place and not UNUSABLE & set(found(other).conditions):
            complaints.append(f"the meter of {other.device.name} shows its load as well")
    for recording in recordings.values():
        recording.path.unlink(missing_ok=True)
    return Seen(
        device=place.device,
        facts=place.facts,
        complaints=tuple(complaints),
        remarks=_remarks(place.facts),
        window=window,
    )


def _pulse(
    place: _Place, bench: list[_Place], folder: Path
) -> tuple[Measured, dict[str, Recording], Clocks | None]:
    """Let a device work in the pattern while all meters record."""
    device = place.device
    kind = find_runtime(device.runtime)
    home = read_suite(SUITE).workload
    workload = read_workload(home) if home else None
    model = workload.model.in_format(kind.formats) if workload and workload.model else None
    if workload is None or model is None or not kind.meterable:
        raise DeviceError(f"{device.runtime} cannot make a load in a pattern", device=device.name)
    deployment = kind(place.road).deploy(model, workload, accelerator="cpu")
    try:
        deployment.prepare()
        clocks = exchange_clocks(place.road)
        with ExitStack() as recorders:
            running = {p.device.name: Recorder(p.meter, folder) for p in bench}
            for recorder in running.values():
                recorders.enter_context(recorder)
            longest_s = max(chip_s(p.facts) for p in bench)
            how = Metered(idle_s=IDLE_S, chip_s=longest_s, wire=device.wired)
            measured = deployment.measure(PULSED, metered=how)
            recordings = {name: recorder.finish() for name, recorder in running.items()}
    finally:
        with suppress(FarmError):
            deployment.remove()
    return measured, recordings, clocks


def _complaints(place: _Place, window: EnergyWindow) -> Iterator[str]:
    """What is wrong with what the right meter saw of its device."""
    conditions = set(window.conditions)
    if "meter_negative" in conditions:
        yield "it sees power flow backwards: swap its two sides"
    elif conditions & UNUSABLE:
        yield "it does not show the load of this device: is it in the path of another?"
    elif window.idle_w is not None and window.mean_w < RISE * window.idle_w:
        yield "it shows no more power at work than at rest: what feeds the device beside it?"
    if "meter_saturated" in conditions:
        yield "it is at full scale: choose a larger range, or a larger meter"
    if "meter_lost" in conditions:
        yield "it loses more than 0.1 % of its samples: use another port or hub"


def _remarks(facts: MeterFacts) -> tuple[str, ...]:
    """What a person should know of a meter."""
    found = []
    with suppress(ValueError):
        days = (datetime.now(UTC).date() - date.fromisoformat(facts.calibrated)).days
        if days > MAX_AGE_DAYS:
            found.append(f"calibrated {days} days ago")
    if not facts.serial:
        found.append("it has no serial number: another one in its place would not be noticed")
    return tuple(found)


def _metered(inventory: Path, names: tuple[str, ...]) -> tuple[Device, ...]:
    devices = read_inventory(inventory).select(names)
    found = tuple(d for d in devices if d.meter and d.state is DeviceState.ACTIVE)
    if not found:
        raise ConfigError(
            f"no meter is bound to {', '.join(names) or 'any device'} in {inventory}",
            hint="write 'meter:' under the device: docs/power.md",
        )
    return found


def read_recording(
    path: Path,
    *,
    inferences: int,
    sync: str,
    start_s: float | None,
    end_s: float | None,
    volts: float | None,
) -> dict[str, Any]:
    """The energy of a recording that another program made; the document `farm.recording/1`.

    Args:
        path: of the file.
        inferences: how many ran in what counts; 0 if nobody knows.
        sync: the logic input that is high while they ran; empty to count everything.
        start_s, end_s: what to count of it, in s from its beginning.
        volts: the voltage, where the file has currents only.

    Raises:
        ConfigError: the file is broken, or nothing of it counts.
    """
    recording = open_recording(path, volts=volts, sync=sync)
    energy_j = counted_s = 0.0
    samples = lost = 0
    last_ns: int | None = None
    first_ns = 0
    for chunk in recording.chunks():
        if last_ns is None:
            first_ns = last_ns = int(chunk.t_ns[0])
        steps_s = np.diff(chunk.t_ns, prepend=last_ns) / 1e9
        last_ns, lost = int(chunk.t_ns[-1]), lost + chunk.lost
        at_s = (chunk.t_ns - first_ns) / 1e9
        counts = ~np.isnan(chunk.power_w) & (at_s > (-1.0 if start_s is None else start_s))
        counts &= at_s <= (np.inf if end_s is None else end_s)
        if sync:
            counts &= chunk.logic > 0
        samples += int(counts.sum())
        counted_s += float(steps_s[counts].sum())
        energy_j += float((chunk.power_w * steps_s)[counts].sum())
    if not counted_s:
        raise ConfigError(f"nothing of {str(path)!r} counts", hint="widen --start and --end")
    return {
        "schema": "farm.recording/1",
        "file": str(path),
        "meter": recording.facts.model,
        "rate_hz": recording.facts.rate_hz,
        "samples": samples,
        "lost": lost,
        "duration_s": counted_s,
        "energy_j": energy_j,
        "mean_w": energy_j / counted_s,
        "inferences": inferences,
        "per_inference_j": energy_j / inferences if inferences else None,
    }
