"""What is known of runs, gates, plans and jobs as plain JSON documents, and papers made of them.

Numbers that do not exist are null, never NaN. Percent and points are numbers like 12.5; a positive
effect is worse.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from farm.analysis.energy_budget import comparable_interval
from farm.analysis.noise import detectable
from farm.cells import Cell
from farm.errors import ConfigError, nearest_hint
from farm.judging import GateVerdict
from farm.metrics import Method
from farm.papers import Document, as_junit, as_markdown
from farm.planning import Plan
from farm.policy import Waiver
from farm.prospects import Prospect
from farm.record import Measurement, Skip
from farm.store.database import Store, open_store
from farm.store.noise import StoredNoise
from farm.store.rows import StoredJob, StoredRun, find_run, read_jobs, read_verdict

ALPHA = 0.05
MDE_BLOCKS = (5, 9, 13)
"""At how many blocks, and at which one-sided level, a noise budget shows the MDE."""

_EFFECT_KINDS = {
    Method.BLOCKS: "ratio_pct",
    Method.EXACT: "ratio_pct",
    Method.PAIRED_ITEMS: "points",
}


def report(run: str = "latest", *, format: str = "md", store: str | Path = ".farm") -> str:
    """A paper about a run or gate, made from what the store holds.

    Args:
        run: its id, the unique beginning of one, or `latest`.
        format: `md`, `junit` or `json`.
        store: folder of the store.

    Raises:
        ConfigError: no such run or format.
        StoreUnavailable: there is no store, or it cannot be read.
    """
    renderers = {"md": as_markdown, "junit": as_junit, "json": as_json}
    if format not in renderers:
        raise ConfigError(f"unknown format '{format}'", hint=nearest_hint(format, renderers))
    with open_store(Path(store), read_only=True) as opened:
        return renderers[format](run_document(opened, find_run(opened, run)))


def run_document(store: Store, run: StoredRun) -> Document:
    """Everything that is known of a run; a gate's verdict is part of it."""
    document: Document = {
        "schema": "farm.run/1",
        "run": {
            "id": run.id,
            "kind": run.kind,
            "suite": run.suite,
            "revision": run.commit,
            "branch": run.branch,
            "purpose": run.purpose,
            "started": run.started,
            "finished": run.finished,
            "planned": run.planned,
            "command": run.command,
        },
        "skips": _skip_entries(run.skips),
        "jobs": [entry for job in read_jobs(store, run.id) for entry in _job_entries(job)],
    }
    if verdict := read_verdict(store, run.id):
        document["gate"] = json.loads(verdict)
    return document


def gate_document(verdict: GateVerdict) -> Document:
    """A verdict with everything that it rests on."""
    return {
        "schema": "farm.gate/1",
        "verdict": verdict.verdict,
        "exit_code": verdict.exit_code,
        "run": verdict.run_id,
        "candidate": verdict.candidate,
        "baseline": verdict.baseline,
        "policy_sha256": verdict.policy.sha256,
        "skips": _skip_entries(verdict.skips),
        "notes": list(verdict.notes),
        "cells": [_cell_entry(cell) for cell in verdict.cells],
    }


def plan_document(plan: Plan, prospects: tuple[Prospect, ...] = ()) -> Document:
    """What would run where, and what a gate could decide there; percent."""
    return {
        "schema": "farm.plan/1",
        "suite": plan.suite,
        "jobs": [
            {
                "device": job.device.name,
                "device_type": job.device.type,
                "workload": job.workload.name,
                "runtime": job.runtime,
                "accelerator": job.accelerator,
                "measures": list(job.measures),
                "models": [{"name": arm.name, "sha256": arm.artifact.sha256} for arm in job.arms],
                "repeats": len(list(job.slots())),
            }
            for job in plan.jobs
        ],
        "skips": _skip_entries(plan.skips),
        "prospects": [
            {
                "device_type": p.device_type,
                "metric": p.rule.metric.name,
                "margin_pct": 100 * p.margin,
                "blocks": p.blocks,
                "mde_pct": None if p.mde is None else 100 * p.mde,
                "blocks_needed": p.needed,
                "pass_chance_pct": None if p.passes is None else 100 * p.passes,
                "noise_unknown": list(p.unknown),
            }
            for p in prospects
        ],
    }


def noise_document(budgets: Iterable[StoredNoise]) -> Document:
    """How noisy devices are; spreads in percent."""
    return {
        "schema": "farm.noise/1",
        "budgets": [
            {
                "device": budget.device,
                "runtime": budget.runtime,
                "accelerator": budget.accelerator,
                "load_digest": budget.load_digest,
                "metric": budget.metric,
                "blocks": budget.blocks,
                "repeat_cv_pct": 100 * budget.repeat_cv,
                "shared_pct": 100 * budget.shared,
                "autocorrelation": budget.autocorrelation,
                "block_sd_pct": 100 * budget.block_sd,
                "false_alarm_pct": 100 * budget.false_alarm,
                "mde_pct": {
                    str(blocks): 100 * detectable(budget.block_sd, blocks, ALPHA)
                    for blocks in MDE_BLOCKS
                },
            }
            for budget in budgets
        ],
    }


def job_document(job: StoredJob) -> Document:
    """One job with its evidence."""
    evidence = job.error.evidence if job.error else ()
    return {
        "schema": "farm.job/1",
        "models": _job_entries(job),
        "evidence": [{"name": exhibit.name, "text": exhibit.text} for exhibit in evidence],
    }


def as_json(document: Document) -> str:
    """A document as text; refuses what JSON cannot say."""
    return json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)


def _skip_entries(skips: tuple[Skip, ...]) -> list[Document]:
    return [{"device": s.device, "what": s.what, "reason": s.reason} for s in skips]


def _job_entries(job: StoredJob) -> list[Document]:
    """One entry per model that the job ran."""
    error = job.error
    return [
        {
            "job": job.id,
            "device": job.device,
            "device_type": job.device_type,
            "runtime": job.runtime,
            "accelerator": job.accelerator or job.accelerator_asked,
            "arm": model.arm,
            "model": {"name": model.name, "sha256": model.sha256},
            "outcome": job.outcome,
            "simulated": job.simulated,
            "time_basis": job.time_basis,
            "workload": job.workload,
            "environment": {fact.name: fact.value for fact in job.environment},
            "notes": list(job.notes),
            "error": error and {"code": error.code, "message": error.message, "hint": error.hint},
            "measurements": [_measurement_entry(m) for m in model.measurements],
        }
        for model in job.models
    ]


def _measurement_entry(m: Measurement) -> Document:
    """One statistic; where a budget stands behind its interval, that too, and what compares."""
    entry = {"metric": m.metric, "unit": m.unit, "value": m.value, "lo": m.lo, "hi": m.hi, "n": m.n}
    if not m.budget:
        return entry
    compares = comparable_interval(m)
    return entry | {
        "budget": [
            {"term": t.name, "standard_pct": 100 * t.relative, "cancels": t.cancels}
            for t in m.budget
        ],
        "comparable_lo": compares[0] if compares else None,
        "comparable_hi": compares[1] if compares else None,
    }


def _cell_entry(cell: Cell) -> Document:
    effect, metric = cell.effect, cell.rule.metric

    factor = 100.0 if cell.limit is None else 1.0

    def scaled(value: float | None) -> float | None:
        return None if value is None else factor * value

    return {
        "workload": cell.workload,
        "device_type": cell.device_type,
        "units": [
            {"device": unit.device, "blocks": unit.blocks, "effect": scaled(unit.effect)}
            for unit in cell.units
        ],
        "runtime": cell.runtime,
        "accelerator": cell.accelerator,
        "scenario": cell.scenario,
        "time_basis": cell.time_basis,
        "simulated": cell.simulated,
        "metric": metric.name,
        "unit": metric.unit,
        "gate": cell.rule.gate,
        "n": effect.n if effect else 0,
        "blocks": sum(unit.blocks for unit in cell.units),
        "looks": cell.looks,
        "confidence": 1 - cell.alpha,
        "effect": scaled(effect.estimate) if effect else None,
        "lo": scaled(effect.lo) if effect else None,
        "hi": scaled(effect.hi) if effect else None,
        "against": cell.against if cell.limit is None else "limit",
        "margin": scaled(cell.margin if cell.limit is None else cell.limit),
        "mde": scaled(effect.mde) if effect and cell.limit is None else None,
        "effect_kind": _EFFECT_KINDS[metric.method] if cell.limit is None else "absolute",
        "verdict": cell.verdict,
        "reasons": list(cell.reasons),
        "waiver": _waiver_entry(cell.waiver),
    }


def _waiver_entry(waiver: Waiver | None) -> Document | None:
    if waiver is None:
        return None
    expires = waiver.expires.isoformat()
    return {"owner": waiver.owner, "reason": waiver.reason, "expires": expires}
