"""Makes a plan: what is to be done where, and what is left out and why. Touches no device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from farm.connection import Connection, Virtual
from farm.model import (
    Arm,
    ArmModel,
    Canary,
    Candidate,
    Device,
    DeviceState,
    Job,
    Measure,
    Scenario,
    Workload,
)
from farm.plugins import find_connection, find_runtime
from farm.protocols import Runtime
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
        measures, missing = _measures(suite, workload, device)
        skips += [Skip(device=device.name, what=what, reason=reason) for what, reason in missing]
        for runtime in (suite.runtimes or (device.runtime,)) if measures else ():
            for made in _jobs(suite, device, workload, models, runtime, measures, rounds):
                if isinstance(made, Job):
                    jobs.append(replace(made, canary=canary))
                else:
                    skips.append(made)
    return Plan(suite=suite.name, jobs=tuple(jobs), skips=tuple(skips))


def _measures(
    suite: Suite, workload: Workload, device: Device
) -> tuple[tuple[Measure, ...], tuple[tuple[str, str], ...]]:
    """What workload and device let the suite measure, and what they do not."""
    missing: dict[Measure, str] = {}
    if device.meter is None:
        missing[Measure.ENERGY] = "no meter is bound to it: docs/power.md"
    if not (workload.labels or workload.golden):
        missing[Measure.ACCURACY] = (
            "no labels: put a workload.yaml with 'inputs: inputs.npz', 'labels: labels.npy' and "
            "'metric: accuracy.top1' beside the model"
        )
    left = tuple(measure for measure in suite.measures if measure not in missing)
    skipped = tuple((str(m), missing[m]) for m in suite.measures if m in missing)
    return left, skipped


def _refused(
    kind: type[Runtime], road: type[Connection] | type[Virtual], name: str, scenario: Scenario
) -> str:
    """Why a runtime can do nothing on such a device, empty if it can."""
    if not kind.fits(road):
        return f"{name} does not run on the platform {road.platform}"
    if road.simulated and name != road.runtime:
        return f"{name} would measure the controller: this device is simulated"
    if scenario not in kind.scenarios:
        return f"{name} cannot produce {scenario}"
    return ""


def _impossible(kind: type[Runtime], road: type[Connection] | type[Virtual]) -> dict[Measure, str]:
    """What a runtime cannot tell on such a device, and why."""
    found: dict[Measure, str] = {}
    if road.time_basis == TimeBasis.ICOUNT:
        reason = "an emulator counts instructions there, and they are no measure of time"
        found |= dict.fromkeys(TIMES, reason)
    if not kind.meterable:
        found[Measure.ENERGY] = "its runtime does not tell when inferences run"
    return found


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
    if reason := _refused(kind, road, runtime, suite.load.scenario):
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
    impossible = _impossible(kind, road)
    for measure in measures:
        if measure in impossible:
            yield Skip(device=device.name, what=measure, reason=impossible[measure])
    measures = tuple(measure for measure in measures if measure not in impossible)
    if Measure.ENERGY in measures and road.simulated:
        # Beside a meter it lives in real time: it waits rather than computes, and disturbs nobody.
        device = replace(device, host=device.name)
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
