"""Papers for people and for CI, made from the documents `farm.run/1` and `farm.gate/1`."""

from __future__ import annotations

import math
from typing import Any
from xml.etree import ElementTree as ET

Document = dict[str, Any]

_MARKS = {"PASS": "✅", "FAIL": "❌", "INCONCLUSIVE": "❔", "INVALID": "⚠️"}


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


def format_bounds(cell: Document) -> str:
    """The interval of a cell's effect."""
    if cell["lo"] is None:
        return "-"
    if cell["effect_kind"] == "absolute":
        return " .. ".join(format_value(cell[end], cell["unit"]) for end in ("lo", "hi"))
    return f"{cell['lo']:+.2f} .. {cell['hi']:+.2f}"


def format_interval(measurement: Document) -> str:
    """The interval of a measurement."""
    if measurement["lo"] is None:
        return "-"
    lo, hi = (format_value(measurement[end], measurement["unit"]) for end in ("lo", "hi"))
    return f"{lo} .. {hi}"


def budget_lines(job: Document) -> tuple[str, ...]:
    """What the uncertainty of a job's energy consists of, and what it means; a line each."""
    lines = []
    for m in job["measurements"]:
        if m["metric"] != "energy.per_inference" or not m.get("budget"):
            continue
        told = [t for t in m["budget"] if t["standard_pct"] >= LEAST_PCT]
        terms = ", ".join(f"{t['term']} {t['standard_pct']:.2g} %" for t in told)
        lines.append(f"standard uncertainties of {m['metric']}: {terms}")
        if m["comparable_lo"] is not None:
            ends = (format_value(m[f"comparable_{end}"], m["unit"]) for end in ("lo", "hi"))
            lines.append(
                f"{m['metric']} against another model on this unit and meter: {' .. '.join(ends)}"
            )
    return tuple(lines)


LEAST_PCT = 0.001
"""A term below that is no news."""

COUNTED = ("instructions", "cycles")
"""Units of counts, of which every digit is meant."""


def format_value(value: float | None, unit: str) -> str:
    """A number as people read it: time and memory in a fitting unit, shares in percent."""
    if value is None:
        return "-"
    steps = {"ns": (1000, ("ns", "us", "ms", "s")), "bytes": (1024, ("B", "KiB", "MiB", "GiB"))}
    if unit in ("J", "W") and value:
        power = max(-3, min(0, math.floor(math.log10(abs(value)) / 3)))
        return f"{value / 1000.0**power:.4g} {('', 'm', 'u', 'n')[-power]}{unit}"
    if unit in steps:
        factor, names = steps[unit]
        index = 0
        while abs(value) >= factor and index < len(names) - 1:
            value, index = value / factor, index + 1
        return f"{value:.4g} {names[index]}"
    if unit in COUNTED:
        return f"{value:,.0f} {unit}"
    return f"{100 * value:.2f} %" if unit == "ratio" else f"{value:.4g} {unit}"


def format_question(cell: Document) -> str:
    """What a cell is about: its metric, and what it is held against if not the baseline."""
    against = cell.get("against", "baseline")
    return cell["metric"] if against == "baseline" else f"{cell['metric']} ({against})"


def format_effect(cell: Document, key: str) -> str:
    """One of the effect's numbers of a cell with its sign and unit."""
    value = cell[key]
    if value is None:
        return "-"
    if cell["effect_kind"] == "absolute":
        return format_value(value, cell["unit"])
    unit = "pts" if cell["effect_kind"] == "points" else "%"
    if key == "margin":
        return f"{value:g} {unit}"
    return f"{value:{'+' if key == 'effect' else ''}.2f} {unit}"


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
            f"| {kind} | {format_question(cell)} | {format_effect(cell, 'effect')} | "
            f"{format_bounds(cell)} | {format_effect(cell, 'margin')} | "
            f"{format_effect(cell, 'mde')} | "
            f"{verdict}{_standing(cell)} |"
        )
    notes = [
        f"- {_cell_text(cell['device_type'])}, {cell['metric']}: {_cell_text(reason)}"
        for cell in gate["cells"]
        for reason in cell["reasons"]
    ]
    notes += [f"- {_cell_text(note)}" for note in gate["notes"]]
    confidence = f"{gate['cells'][0]['confidence'] * 100:.10g} %" if gate["cells"] else ""
    lines += ["", *notes, "", f"A positive effect is worse; bounds are one-sided at {confidence}; "
              f"policy {gate['policy_sha256'][:12]}."]  # fmt: skip
    return "\n".join(lines) + "\n"


def _standing(cell: Document) -> str:
    """What keeps a cell from deciding, if anything does."""
    return " (informs)" if not cell["gate"] else " (waived)" if cell["waiver"] else ""


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
    notes: list[str] = []
    for job in document["jobs"]:
        device = _cell_text(_badged(job, "device"))
        model = _cell_text(job["model"]["name"])
        for m in job["measurements"]:
            value, interval = format_value(m["value"], m["unit"]), format_interval(m)
            lines.append(
                f"| {device} | {model} | {m['metric']} | {value} | {interval} | {m['n']} |"
            )
        notes += [f"\n- {device}: {_cell_text(line)}" for line in budget_lines(job)]
        if job["error"]:
            message = _cell_text(job["error"]["message"])
            lines.append(f"| {device} | {model} | **{job['outcome']}** | {message} | | |")
    lines += notes
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
    name = f"{format_question(cell)} on {_badged(cell, 'device_type')}"
    case = ET.Element("testcase", classname=_xml_text(cell["workload"]), name=_xml_text(name))
    if cell["waiver"]:
        message = f"waived by {cell['waiver']['owner']} until {cell['waiver']['expires']}"
        ET.SubElement(case, "skipped", message=_xml_text(message))
    elif cell["verdict"] != "PASS":
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
