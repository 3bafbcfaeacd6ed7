"""Makes a plan: what is to be done where, and what is left out and why. Touches no device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from farm.model import Arm, ArmModel, Canary, Candidate, Device, DeviceState, Job, Measure, Workload
from farm.plugins import find_connection, find_runtime
from farm.record import Skip, TimeBasis
from farm.suite import Suite

TIMES = frozenset({Measure.LATENCY, Measure.COLDSTART})
"""Families of metrics that are durations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Jobs in the order they will run, and everything that was left out."""

    suite: str
    jobs: tuple[Job, ...]
    skips: tuple[Skip, ...]


def make_plan(
    suite: Suite,
    devices: tuple[Device, ...],
    workload: Workload,
    models: tuple[tuple[Arm, Candidate], ...],
    *,
    rounds: int,
    canary: Canary | None = None,
) -> Plan:
    """Combine a suite, devices and one model (a run) or two (a gate) into jobs.

    Args:
        suite: what to measure.
        devices: where.
        workload: on which inputs.
        models: the candidate, or candidate and baseline.
        rounds: repeats of one model, or ABBA blocks of two.
        canary: what watches the devices of a gate.
    """
    jobs: list[Job] = []
    skips: list[Skip] = []
    for device in devices:
        if device.state is not DeviceState.ACTIVE:
            skips.append(Skip(device=device.name, what="device", reason=f"in {device.state}"))
            continue
        measures, missing = _measures(suite, workload)
        skips += [Skip(device=device.name, what=what, reason=reason) for what, reason in missing]
        for runtime in (suite.runtimes or (device.runtime,)) if measures else ():
            for made in _jobs(suite, device, workload, models, runtime, measures, rounds):
                if isinstance(made, Job):
                    jobs.append(replace(made, canary=canary))
                else:
                    skips.append(made)
    return Plan(suite=suite.name, jobs=tuple(jobs), skips=tuple(skips))


def _measures(
    suite: Suite, workload: Workload
) -> tuple[tuple[Measure, ...], tuple[tuple[str, str], ...]]:
    """What the workload lets the suite measure, and what it does not."""
    missing = {Measure.ENERGY: "no meter is attached: this version drives none"}
    if not (workload.labels or workload.golden):
        missing[Measure.ACCURACY] = (
            "no labels: put a workload.yaml with 'inputs: inputs.npz', 'labels: labels.npy' and "
            "'metric: accuracy.top1' beside the model"
        )
    left = tuple(measure for measure in suite.measures if measure not in missing)
    skipped = tuple((str(m), missing[m]) for m in suite.measures if m in missing)
    return left, skipped


def _jobs(
    suite: Suite,
    device: Device,
    workload: Workload,
    models: tuple[tuple[Arm, Candidate], ...],
    runtime: str,
    measures: tuple[Measure, ...],
    rounds: int,
) -> Iterator[Job | Skip]:
    kind = find_runtime(runtime)
    road = find_connection(device.address.scheme)
    if not kind.fits(road):
        reason = f"{runtime} does not run on the platform {road.platform}"
        yield Skip(device=device.name, what=runtime, reason=reason)
        return
    if road.simulated and runtime != road.runtime:
        reason = f"{runtime} would measure the controller: this device is simulated"
        yield Skip(device=device.name, what=runtime, reason=reason)
        return
    if suite.load.scenario not in kind.scenarios:
        reason = f"{runtime} cannot produce {suite.load.scenario}"
        yield Skip(device=device.name, what=runtime, reason=reason)
        return
    arms: list[ArmModel] = []
    for arm, candidate in models:
        artifact = candidate.in_format(kind.formats)
        if artifact is None:
            reason = f"'{candidate.name}' has no file in the formats {', '.join(kind.formats)}"
            yield Skip(device=device.name, what=runtime, reason=reason)
            return
        arms.append(ArmModel(arm=arm, name=candidate.name, artifact=artifact))
    if road.time_basis == TimeBasis.ICOUNT and TIMES & set(measures):
        reason = "an emulator counts instructions there, and they are no measure of time"
        for measure in measures:
            if measure in TIMES:
                yield Skip(device=device.name, what=measure, reason=reason)
        measures = tuple(measure for measure in measures if measure not in TIMES)
    for accelerator in suite.accelerators if measures else ():
        yield Job(
            workload=workload,
            device=device,
            runtime=runtime,
            accelerator=accelerator,
            load=suite.load,
            measures=measures,
            arms=tuple(arms),
            rounds=rounds,
        )
