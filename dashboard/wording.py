"""Sentences and facts of the pages, made from what was read; plain text, never markup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from dashboard import palette, units
from dashboard.samples import CLIP_QUANTILE, JobSamples
from dashboard.units import ABSENT, Scale
from farm.metering import METER_CLASSES, MeterFacts, Term
from farm.metrics import LATENCY_QUANTILES, METRICS
from farm.record import ErrorRecord, Measurement, TimeBasis
from farm.store.rows import StoredJob, StoredRun

UNFINISHED = "unfinished"

Facts = list[tuple[str, str]]


def run_marks(simulated: int, jobs: int, finished: str | None) -> list[str]:
    """The words that qualify a run: how much of it was simulated, and that it never ended."""
    marks = [simulated_share(simulated, jobs)] if simulated else []
    if not isinstance(finished, str) or not finished:
        marks.append(UNFINISHED)
    return marks


def simulated_share(simulated: int, total: int) -> str:
    """`simulated` if all of it was, `simulated 2 of 4` if a part was, empty if none."""
    if not simulated:
        return ""
    return palette.SIMULATED + ("" if simulated == total else f" {simulated} of {total}")


def run_facts(run: StoredRun, jobs: pd.DataFrame) -> Facts:
    """The head of a run; `jobs` as `farm.store.reader.jobs`."""
    completed = int((jobs["outcome"] == "COMPLETED").sum())
    return [
        ("Suite", run.suite),
        ("Kind", run.kind),
        ("Coverage", f"{len(jobs):,} of {units.counted(run.planned, 'job')}"),
        ("Completed / failed", f"{completed:,} / {len(jobs) - completed:,}"),
        ("Started (UTC)", units.moment(run.started)),
        ("Took", units.duration(run.started, run.finished)),
        ("Branch", run.branch or ABSENT),
        ("Commit", run.commit[:10] or ABSENT),
        ("Purpose", run.purpose),
    ]


def missing_note(run: StoredRun, jobs: pd.DataFrame) -> str:
    """What an unfinished run still lacks; empty if it lacks nothing."""
    missing = run.planned - len(jobs)
    if missing <= 0:
        return ""
    state = "was interrupted or is still going" if run.finished is None else "ended early"
    planned = units.counted(run.planned, "planned job")
    return f"{missing:,} of {planned} without a result: the run {state}."


def job_facts(job: StoredJob) -> Facts:
    """The head of a job."""
    return [
        ("Device", job.device),
        ("Device type", job.device_type),
        ("Runtime", job.runtime),
        ("Accelerator", _accelerator(job)),
        ("Workload", job.workload),
        ("Scenario", job.scenario),
        ("Started (UTC)", units.moment(job.started)),
        ("Took", units.duration(job.started, job.finished)),
        ("Attempts", str(job.attempts)),
        ("Time counted in", job.time_basis),
    ]


def went_elsewhere(job: StoredJob) -> bool:
    """Whether the model ran on another accelerator than it was asked to."""
    return bool(job.accelerator) and job.accelerator != job.accelerator_asked


def unusual_basis(job: StoredJob) -> str:
    """What durations count where that is not wall time; empty where it is."""
    return "" if job.time_basis == TimeBasis.WALL else job.time_basis


def error_note(error: ErrorRecord) -> str:
    """Whose error it was, and whose model was at work."""
    words = [f"Error {error.code} (family {error.family})"]
    if error.arm is not None:
        words.append(f"while the {error.arm} was at work")
        words.append("the other arm's model ran" if error.other_arm_ran else "")
    return ", ".join(word for word in words if word) + "."


def percentile_note() -> str:
    """Which percentiles need how many samples; what a sample cannot support is absent."""
    floors = ", ".join(
        f"{name.removeprefix('latency.')}: {METRICS[name].min_samples:,}"
        for name in LATENCY_QUANTILES
        if METRICS[name].min_samples > 1
    )
    return f"lo … hi: 95 % interval over n. Samples that a percentile needs per repeat: {floors}."


def clip_note(samples: JobSamples, scale: Scale) -> str:
    """What the histogram leaves out, so that a tail is never hidden without a word."""
    histogram = samples.histogram
    axis = "Logarithmic axis. " if histogram.logarithmic else ""
    total = units.counted(samples.total, "sample")
    if not histogram.clipped:
        return f"{axis}All {total} are drawn."
    return (
        f"{axis}Clipped at p{100 * CLIP_QUANTILE:g} ({scale.text(histogram.clip)}): "
        f"{histogram.clipped:,} of {total} lie above it, the slowest took "
        f"{scale.text(histogram.largest)}."
    )


def shown_note(samples: JobSamples) -> str:
    """How many of the raw samples are drawn, and which."""
    shown = len(samples.shown)
    if shown == samples.total:
        return f"All {units.counted(samples.total, 'sample')} shown."
    return (
        f"{shown:,} of {units.counted(samples.total, 'sample')} shown: the fastest and the slowest "
        "of each stretch, so every spike is there."
    )


def latency_scale(samples: JobSamples) -> Scale:
    """The unit for the charts of one job's latency: the one that fits its slowest median."""
    return units.fit_scale(samples.unit, samples.histogram.medians["median"])


def kept_traces(job: StoredJob) -> tuple[str, ...]:
    """The traces of a job that can be downloaded."""
    metrics = {m.metric for model in job.models for m in model.measurements}
    found = ["latency"] if job.trace_sha256 else []
    return (*found, "correct") if found and "accuracy.top1" in metrics else tuple(found)


TERMS = {
    "gain": "the meter's readings, by its class",
    "voltage": "the voltage, where it is set or declared instead of measured",
    "alignment": "where windows begin and end in the samples",
    "lost": "what was drawn while samples were lost",
    "filter": "what the meter makes of switching its ranges",
    "battery": "what a battery in the path gave or took",
    "repeat": "how much repeats differ",
}
"""What each term of an uncertainty budget is about."""


def meter_facts(meter: MeterFacts) -> Facts:
    """What took the power of a job."""
    kind = METER_CLASSES.get(meter.meter_class)
    worth = f", ±{100 * kind.gain:g} %" if kind else ""
    volts = "" if meter.voltage_v is None else f", {meter.voltage_v:g} V"
    told = [
        ("Meter", meter.model),
        ("Serial number", meter.serial or ABSENT),
        ("Class", f"{meter.meter_class}{worth}"),
        ("Voltage", f"{meter.voltage}{volts}"),
        ("Samples per second", f"{meter.rate_hz:,g}"),
        ("Firmware", meter.firmware),
        ("Calibration", meter.calibration),
        ("Calibrated", meter.calibrated),
    ]
    return [(label, value) for label, value in told if value]


def standard_uncertainty(term: Term | None) -> str:
    """One term of a budget in percent; none where a single repeat cannot tell it."""
    return ABSENT if term is None else f"{units.significant(100 * term.relative, 2)} %"


def preview_note(parts: int, samples: int, *, gaps: bool) -> str:
    """What the picture of a recording is made of, and what it cannot show."""
    drawn = f"{units.counted(samples, 'sample')} in {units.counted(parts, 'part')} of equally many."
    missing = " What is missing leaves no gap: the rest is spread over the whole time."
    return drawn + (missing if gaps else "")


def spans_note(spans: Sequence[Sequence[Any]]) -> str:
    """What a device says that it did, without a place: the store does not keep how clocks stood.

    Args:
        spans: kind, start and end in ns, inferences; as the store keeps them.
    """
    lengths: dict[str, list[float]] = {}
    for kind, start_ns, end_ns, _ in spans:
        lengths.setdefault(kind, []).append((end_ns - start_ns) / 1e9)
    told = ", ".join(
        f"{kind} {sum(found):.3f} s" + (f" in {len(found)} parts" if len(found) > 1 else "")
        for kind, found in lengths.items()
    )
    return f"By a clock that the picture does not know, the device did: {told}."


def uncertainty_note() -> str:
    """How to read the two intervals and the budget."""
    return (
        "95 % intervals. Absolute: whatever meter one compares with, so no number of repeats makes "
        "it smaller than the meter's calibration. Comparable: with another figure of the same unit "
        "and meter, where what cancels is left out. The terms are standard uncertainties."
    )


def energies(job: StoredJob) -> list[tuple[str, Measurement]]:
    """What an inference takes, per arm, where a budget stands behind it."""
    return [
        (str(model.arm), measurement)
        for model in job.models
        for measurement in model.measurements
        if measurement.metric == "energy.per_inference" and measurement.budget
    ]


def _accelerator(job: StoredJob) -> str:
    if not job.accelerator:
        return f"asked {job.accelerator_asked}, never ran"
    if went_elsewhere(job):
        return f"asked {job.accelerator_asked}, got {job.accelerator}"
    return job.accelerator
