"""Papers for people and for CI, all made from two documents: `farm.run/1` and `farm.gate/1`.

A document is plain JSON. Numbers that do not exist are null, never NaN. Percent and points are
numbers like 12.5; a positive effect is worse.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from farm.errors import ConfigError, nearest_hint
from farm.judging import Cell, GateVerdict
from farm.metrics import Method
from farm.planning import Plan
from farm.record import Skip
from farm.store.database import Store, open_store
from farm.store.rows import StoredJob, StoredRun, find_run, read_jobs, read_verdict

Document = dict[str, Any]

_EFFECT_KINDS = {
    Method.BLOCKS: "ratio_pct",
    Method.EXACT: "ratio_pct",
    Method.PAIRED_ITEMS: "points",
}
_MARKS = {"PASS": "✅", "FAIL": "❌", "INCONCLUSIVE": "❔", "INVALID": "⚠️"}


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
        "cells": [_cell_entry(cell, verdict.policy.alpha) for cell in verdict.cells],
    }


def format_bounds(cell: Document) -> str:
    """The interval of a cell's effect."""
    if cell["lo"] is None:
        return "-"
    return f"{cell['lo']:+.2f} .. {cell['hi']:+.2f}"


def format_interval(measurement: Document) -> str:
    """The interval of a measurement."""
    if measurement["lo"] is None:
        return "-"
    lo, hi = (format_value(measurement[end], measurement["unit"]) for end in ("lo", "hi"))
    return f"{lo} .. {hi}"


def plan_document(plan: Plan) -> Document:
    """What would run where."""
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


def as_markdown(document: Document) -> str:
    """A document for a pull request or a chat."""
    gate = document if document["schema"] == "farm.gate/1" else document.get("gate")
    parts = [_gate_markdown(gate)] if gate else []
    if document["schema"] == "farm.run/1":
        parts.append(_run_markdown(document))
    return "\n".join(parts)


def as_junit(document: Document) -> str:
    """A document for CI: one test case per deciding cell of a gate, or per job of a run.

    FAIL is a failure. INVALID and ERROR are errors: the lab's, or a model that did not run.
    INCONCLUSIVE is a failure too: a missing answer must not look green.
    """
    gate = document if document["schema"] == "farm.gate/1" else document.get("gate")
    cases = [_cell_case(c) for c in gate["cells"] if c["gate"]] if gate else []
    if not gate:
        cases = [_job_case(job) for job in document["jobs"]] + _missing_cases(document)
    name = f"farm.{document['schema'].split('.')[1].split('/')[0]}"
    suite = ET.Element("testsuite", name=name, tests=str(len(cases)))
    for tag, attribute in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(attribute, str(sum(case.find(tag) is not None for case in cases)))
    suite.extend(cases)
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True)


def format_value(value: float | None, unit: str) -> str:
    """A number as people read it: time and memory in a fitting unit, shares in percent."""
    if value is None:
        return "-"
    steps = {"ns": (1000, ("ns", "us", "ms", "s")), "bytes": (1024, ("B", "KiB", "MiB", "GiB"))}
    if unit in steps:
        factor, names = steps[unit]
        index = 0
        while abs(value) >= factor and index < len(names) - 1:
            value, index = value / factor, index + 1
        return f"{value:.4g} {names[index]}"
    return f"{100 * value:.2f} %" if unit == "ratio" else f"{value:.4g} {unit}"


def format_effect(cell: Document, key: str) -> str:
    """One of the effect's numbers of a cell with its sign and unit."""
    value = cell[key]
    unit = "pts" if cell["effect_kind"] == "points" else "%"
    if value is None:
        return "-"
    if key == "margin":
        return f"{value:g} {unit}"
    return f"{value:{'+' if key == 'effect' else ''}.2f} {unit}"


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
            "measurements": [
                {
                    "metric": m.metric,
                    "unit": m.unit,
                    "value": m.value,
                    "lo": m.lo,
                    "hi": m.hi,
                    "n": m.n,
                }
                for m in model.measurements
            ],
        }
        for model in job.models
    ]


def _cell_entry(cell: Cell, alpha: float) -> Document:
    effect, metric = cell.effect, cell.rule.metric

    def scaled(value: float | None) -> float | None:
        return None if value is None else 100 * value

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
        "looks": 1,
        "confidence": 1 - alpha,
        "effect": scaled(effect.estimate) if effect else None,
        "lo": scaled(effect.lo) if effect else None,
        "hi": scaled(effect.hi) if effect else None,
        "margin": scaled(cell.rule.margin),
        "mde": scaled(effect.mde) if effect else None,
        "effect_kind": _EFFECT_KINDS[metric.method],
        "verdict": cell.verdict,
        "reasons": list(cell.reasons),
    }


def _gate_markdown(gate: Document) -> str:
    lines = [
        f"## {_MARKS[gate['verdict']]} {gate['verdict']}: "
        f"{_cell_text(gate['candidate'])} against {_cell_text(gate['baseline'])}",
        "",
        "| device type | metric | effect | interval | margin | MDE | verdict |",
        "|---|---|---:|---|---:|---:|---|",
    ]
    for cell in gate["cells"]:
        kind = _cell_text(_badged(cell, "device_type"))
        verdict = f"{_MARKS[cell['verdict']]} {cell['verdict']}"
        lines.append(
            f"| {kind} | {cell['metric']} | {format_effect(cell, 'effect')} | "
            f"{format_bounds(cell)} | {format_effect(cell, 'margin')} | "
            f"{format_effect(cell, 'mde')} | "
            f"{verdict if cell['gate'] else verdict + ' (informs)'} |"
        )
    notes = [
        f"- {_cell_text(cell['device_type'])}, {cell['metric']}: {_cell_text(reason)}"
        for cell in gate["cells"]
        for reason in cell["reasons"]
    ]
    confidence = f"{gate['cells'][0]['confidence'] * 100:.10g} %" if gate["cells"] else ""
    lines += ["", *notes, "", f"A positive effect is worse; bounds are one-sided at {confidence}; "
              f"policy {gate['policy_sha256'][:12]}."]  # fmt: skip
    return "\n".join(lines) + "\n"


def _run_markdown(document: Document) -> str:
    run = document["run"]
    lines = [
        f"## Run {run['id']}: {_cell_text(run['suite'])}",
        "",
        f"{len({j['job'] for j in document['jobs']})} of {run['planned']} jobs, revision "
        f"{_cell_text(run['revision'][:12]) or 'unknown'}, started {run['started']}.",
        "",
        "| device | model | metric | value | interval | n |",
        "|---|---|---|---:|---|---:|",
    ]
    for job in document["jobs"]:
        device = _cell_text(_badged(job, "device"))
        model = _cell_text(job["model"]["name"])
        for m in job["measurements"]:
            value, interval = format_value(m["value"], m["unit"]), format_interval(m)
            lines.append(
                f"| {device} | {model} | {m['metric']} | {value} | {interval} | {m['n']} |"
            )
        if job["error"]:
            message = _cell_text(job["error"]["message"])
            lines.append(f"| {device} | {model} | **{job['outcome']}** | {message} | | |")
    for skip in document["skips"]:
        device, what, reason = (_cell_text(skip[key]) for key in ("device", "what", "reason"))
        lines.append(f"\n- {device}: {what} skipped: {reason}")
    return "\n".join(lines) + "\n"


def _cell_text(text: str) -> str:
    """Text that people gave, safe inside a markdown table."""
    flat = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    for special in "\\|`*_<>[]":
        flat = flat.replace(special, f"\\{special}")
    return flat


def _cell_case(cell: Document) -> ET.Element:
    name = f"{cell['metric']} on {_badged(cell, 'device_type')}"
    case = ET.Element("testcase", classname=_xml_text(cell["workload"]), name=_xml_text(name))
    if cell["verdict"] != "PASS":
        tag = "error" if cell["verdict"] == "INVALID" else "failure"
        message = f"{cell['verdict']}: effect {format_effect(cell, 'effect')}, margin "
        message += format_effect(cell, "margin")
        ET.SubElement(case, tag, message=message, type=cell["verdict"]).text = _xml_text(
            "\n".join(cell["reasons"])
        )
    return case


def _badged(entry: Document, key: str) -> str:
    """A device or type, marked if its numbers are simulated."""
    return f"{entry[key]} (simulated)" if entry["simulated"] else str(entry[key])


def _missing_cases(document: Document) -> list[ET.Element]:
    """What an interrupted run or an unjudged gate still owes: it must not look green."""
    run = document["run"]
    missing = run["planned"] - len({job["job"] for job in document["jobs"]})
    if not missing and run["kind"] != "gate":
        return []
    case = ET.Element("testcase", classname="farm", name="the whole run")
    ET.SubElement(case, "error", message=f"{missing} jobs are missing", type="INTERRUPTED")
    return [case]


def _job_case(job: Document) -> ET.Element:
    name = f"{job['model']['name']} on {_badged(job, 'device')}"
    case = ET.Element("testcase", classname=_xml_text(job["workload"]), name=_xml_text(name))
    if job["error"]:
        message = _xml_text(job["error"]["message"])
        ET.SubElement(case, "error", message=message, type=job["error"]["code"])
    for m in job["measurements"]:
        value = f"{m['metric']} = {format_value(m['value'], m['unit'])}"
        out = case.find("system-out")
        out = ET.SubElement(case, "system-out") if out is None else out
        out.text = f"{out.text or ''}{value}\n"
    return case


def _xml_text(text: str) -> str:
    """Text that people gave, without what XML 1.0 cannot hold."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
