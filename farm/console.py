"""What people see in a terminal: tables on stdout, progress and complaints on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from farm.demo import DemoGate
from farm.execution import Progress as Report
from farm.execution import Step
from farm.health import Check
from farm.papers import (
    Document,
    budget_lines,
    format_bounds,
    format_effect,
    format_interval,
    format_question,
    format_value,
)
from farm.planning import Plan
from farm.prospects import Prospect, chance_to_pass
from farm.store.rows import StoredJob

STYLES = {
    "PASS": "bold green",
    "FAIL": "bold red",
    "INCONCLUSIVE": "bold yellow",
    "INVALID": "bold magenta",
    "COMPLETED": "green",
}

PIPE_WIDTH = 120
"""Columns of a table that no terminal limits."""

METRIC_WIDTH = 18

out = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, highlight=False)


def safe(text: object) -> Text:
    """Text that people gave: no markup, and nothing that moves the cursor."""
    shown = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in str(text))
    return Text(shown, style=STYLES.get(shown, ""))


def table(title: str, *columns: str, right: Iterable[str] = ()) -> Table:
    """A table with its titles; those named in `right` hold numbers."""
    made = Table(
        title=safe(title),
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1),
    )
    for column in columns:
        made.add_column(
            column,
            justify="right" if column in right else "left",
            overflow="fold",
            min_width=METRIC_WIDTH if column == "metric" else None,
        )
    return made


def add(made: Table, *cells: object) -> None:
    """A row of text; missing cells at the end stay empty."""
    made.add_row(*(cell if isinstance(cell, Text) else safe(cell) for cell in cells))


@contextmanager
def progress(title: str) -> Iterator[Report]:
    """A bar for the time of a `with` block; yields what a campaign reports to."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        tasks = {"": bars.add_task(title, total=None)}

        def report(step: Step) -> None:
            if "" in tasks:
                bars.remove_task(tasks.pop(""))
            if step.device not in tasks:
                tasks[step.device] = bars.add_task("", total=None)
            bars.update(
                tasks[step.device],
                description=f"{title}  job {step.job}/{step.jobs} on {step.device}"
                f"  {step.meanwhile}",
                completed=step.done,
                total=step.total or None,
                visible=not step.finished,
            )

        yield report


def show_plan(plan: Plan) -> None:
    """The jobs and what was left out."""
    made = table(
        f"Plan: {plan.suite}", "device", "type", "model", "runtime", "accelerator", "measures",
        "repeats", right=["repeats"],
    )  # fmt: skip
    for job in plan.jobs:
        models = " against ".join(arm.name for arm in reversed(job.arms))
        measures = ", ".join(job.measures)
        device = job.device
        add(made, device.name, device.type, models, job.runtime, job.accelerator, measures,
            len(list(job.slots())))  # fmt: skip
    out.print(made)
    show_skips({"device": s.device, "what": s.what, "reason": s.reason} for s in plan.skips)


def show_prospects(prospects: tuple[Prospect, ...]) -> None:
    """What a gate on these devices could decide, and how likely an unchanged model passes."""
    if not prospects:
        return
    made = table(
        "A gate with the suite's policy", "metric", "margin", "blocks", "MDE", "unchanged passes",
        right=["margin", "blocks", "MDE", "unchanged passes"],
    )  # fmt: skip
    for p in prospects:
        mde = "noise unknown" if p.mde is None else f"{100 * p.mde:.1f} %"
        chance = "-" if p.passes is None else f"{100 * p.passes:.1f} %"
        name = f"{p.rule.metric.name} on {p.device_type}"
        add(made, name, f"{100 * p.margin:g} %", p.blocks, mde, chance)
    out.print(made)
    whole = chance_to_pass(prospects)
    if whole is not None:
        out.print(safe(f"an unchanged model passes all of them in {100 * whole:.1f} % of gates"))
    for unknown in dict.fromkeys(name for p in prospects for name in p.unknown):
        out.print(safe(f"noise of {unknown} is unknown: farm noise"), style="dim")


def show_skips(skips: Iterable[Document]) -> None:
    """What will not be, or was not, done."""
    for skip in skips:
        out.print(safe(f"skipped: {skip['what']} on {skip['device']}: {skip['reason']}"))


def show_run(document: Document) -> None:
    """The measurements of a run, device by device."""
    run = document["run"]
    made = table(
        f"Run {run['id']}: {run['suite']}", "metric", "value", "95 % interval", "n",
        right=["value", "n"],
    )  # fmt: skip
    for job in document["jobs"]:
        made.add_section()
        title = f"{_marked(job['device'], job['simulated'])}: {job['model']['name']}"
        add(made, heading(title))
        for m in job["measurements"]:
            value, interval = format_value(m["value"], m["unit"]), format_interval(m)
            add(made, f"  {m['metric']}", value, interval, m["n"])
        if job["error"]:
            add(made, Text(f"  {job['outcome']}", style="bold red"), "", job["error"]["code"])
    out.print(made)
    _show_job_lines(document["jobs"])
    show_skips(document["skips"])


def _show_job_lines(jobs: Iterable[Document]) -> None:
    for job in jobs:
        if job["error"]:
            out.print(safe(f"job {job['job']}: {job['error']['message']}"), soft_wrap=True)
            hint = job["error"]["hint"] or f"its evidence: farm job show {job['job']}"
            out.print(safe(f"  {hint}"), style="dim", soft_wrap=True)
        for note in (*budget_lines(job), *job["notes"]):
            out.print(safe(f"note: {job['device']}: {note}"), style="dim")


def show_gate(gate: Document) -> None:
    """The cells of a gate, device type by device type, and its verdict."""
    made = table(
        f"{gate['candidate']} against {gate['baseline']}", "metric", "effect", "interval", "margin",
        "MDE", "n", "verdict", right=["effect", "margin", "MDE", "n"],
    )  # fmt: skip
    shown = None
    for cell in gate["cells"]:
        group = (cell["device_type"], cell["runtime"], cell["accelerator"])
        if group != shown:
            made.add_section()
            add(made, heading(_marked(cell["device_type"], cell["simulated"])))
            shown = group
        word = " (informs)" if not cell["gate"] else " (waived)" if cell["waiver"] else ""
        verdict = safe(cell["verdict"])
        add(
            made,
            f"  {format_question(cell)}",
            format_effect(cell, "effect"),
            format_bounds(cell),
            format_effect(cell, "margin"),
            format_effect(cell, "mde"),
            cell["n"],
            Text.assemble(Text(verdict.plain, style="dim"), word) if word else verdict,
        )
    out.print(made)
    for cell in gate["cells"]:
        for reason in cell["reasons"] if cell["gate"] and cell["verdict"] != "PASS" else ():
            out.print(safe(f"{cell['device_type']}, {cell['metric']}: {reason}"), style="dim")
    for note in gate["notes"]:
        out.print(safe(note), style="dim")
    show_skips(gate["skips"])
    out.print(Text.assemble("verdict: ", safe(gate["verdict"])))


def show_expectations(gates: Iterable[DemoGate]) -> None:
    """What the demo planted and whether the gate caught it."""
    made = table("Demo", "candidate", "planted", "verdict", "as expected")
    for gate in gates:
        planted = gate.planted or "nothing"
        add(
            made, gate.candidate, planted, gate.verdict.verdict, "yes" if gate.as_expected else "NO"
        )
    out.print(made)


def show_jobs(rows: Iterable[Document]) -> None:
    """Jobs in the store."""
    made = table("Jobs", "job", "run", "device", "workload", "outcome", "started (UTC)",
                 right=["job"])  # fmt: skip
    for row in rows:
        add(made, row["job_id"], row["run_id"], _marked(row["device"], row["simulated"]),
            row["workload"], row["outcome"], row["started"])  # fmt: skip
    out.print(made)


def show_job(job: StoredJob) -> None:
    """One job with its evidence."""
    made = table(f"Job {job.id}", "", "")
    lines: dict[str, Any] = {
        "run": job.run_id,
        "device": _marked(f"{job.device} ({job.device_type})", job.simulated),
        "runtime": f"{job.runtime} on {job.accelerator or job.accelerator_asked}",
        "workload": job.workload,
        "outcome": job.outcome,
        "started": job.started,
        "finished": job.finished,
        "attempts": job.attempts,
    }
    for model in job.models:
        lines[f"{model.arm} model"] = f"{model.name} (sha256 {model.sha256[:12]})"
        for m in model.measurements:
            lines[f"{model.arm} {m.metric}"] = format_value(m.value, m.unit)
    lines |= {fact.name: fact.value for fact in job.environment}
    for name, value in lines.items():
        add(made, name, value)
    out.print(made)
    for note in job.notes:
        out.print(safe(f"note: {note}"))
    if job.error:
        out.print(safe(f"{job.error.code}: {job.error.message}"), style="red")
        for exhibit in job.error.evidence:
            out.print(safe(f"--- {exhibit.name}\n{exhibit.text.rstrip()}"))


def show_validation(document: Document) -> None:
    """What a check of the inventory, the suites and their policies found."""
    out.print(safe(f"{document['inventory']}: {len(document['devices'])} devices"))
    for suite in document["suites"]:
        decides = ", ".join(suite["decides_by"])
        policy = f"its policy decides by {decides}" if decides else "no policy"
        out.print(safe(f"suite {suite['suite']}: {', '.join(suite['measures'])}; {policy}"))


def show_noise(document: Document) -> None:
    """How noisy devices are."""
    if not document["budgets"]:
        out.print("nothing that has noise was measured", style="dim")
        return
    made = table(
        "Noise of a model against itself", "metric", "repeat CV", "shared", "lag-1", "block sd",
        "false alarm", "MDE at 5, 9, 13 blocks",
        right=["repeat CV", "shared", "lag-1", "block sd", "false alarm"],
    )  # fmt: skip
    shown = None
    for budget in document["budgets"]:
        if budget["device"] != shown:
            made.add_section()
            add(made, heading(budget["device"]))
            shown = budget["device"]
        lag = budget["autocorrelation"]
        add(
            made,
            f"  {budget['metric']}",
            f"{budget['repeat_cv_pct']:.2f} %",
            f"{budget['shared_pct']:.0f} %",
            "-" if lag is None else f"{lag:.2f}",
            f"{budget['block_sd_pct']:.2f} %",
            f"{budget['false_alarm_pct']:.1f} %",
            ", ".join(f"{value:.1f} %" for value in budget["mde_pct"].values()),
        )
    out.print(made)


def show_fleet(document: Document) -> None:
    """Every device at a glance."""
    made = table(
        "Fleet", "device", "type", "state", "used by", "last job", "ended (UTC)", "block sd",
        "battery", "where", "owner", right=["block sd", "battery"],
    )  # fmt: skip
    for device in document["devices"]:
        last = device["last_job"]
        noise, battery = device["block_sd_pct"], device["battery"]
        trusted = device["quarantine"] is None or device["state"] != "active"
        add(
            made,
            _marked(device["device"], device["simulated"]),
            device["type"],
            device["state"] if trusted else "quarantined",
            device["holder"] or "-",
            last["outcome"] if last else "-",
            last["finished"][:16].replace("T", " ") if last else "-",
            "unknown" if noise is None else f"{noise:.2f} %",
            f"{battery['level_pct']:.0f} %" if battery else "-",
            device["location"] or "-",
            device["owner"] or "-",
        )
    out.print(made)
    for found in (device["quarantine"] for device in document["devices"]):
        if found:
            out.print(safe(f"{found['device']}: quarantined: {found['saw']}"), soft_wrap=True)
            out.print(safe(f"  {found['act']}"), soft_wrap=True)


def show_check(check: Check) -> None:
    """One line of the doctor, and what would mend it."""
    out.print(Text("ok  " if check.ok else "NO  ", style="green" if check.ok else "bold red"),
              safe(f"{check.name}: {check.detail}"), sep="")  # fmt: skip
    if check.fix:
        out.print(safe(f"      {check.fix}"))


def complain(message: str, hint: str) -> None:
    """The two lines of an error: what happened, what to do."""
    shown = " ".join(message.split())
    err.print(Text.assemble(("farm: ", "bold red"), safe(shown)), soft_wrap=True)
    if hint:
        err.print(safe(f"  {' '.join(hint.split())}"), soft_wrap=True)


def print_text(text: str) -> None:
    """A document for another program."""
    sys.stdout.write(text + "\n")


def heading(text: str) -> Text:
    """A row that others belong to."""
    return Text(safe(text).plain, style="bold")


def _marked(name: str, simulated: bool) -> str:
    return f"{name} [simulated]" if simulated else name
