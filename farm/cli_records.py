"""Commands that look at what the store holds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from farm.cli_options import INVENTORY, STORE, AsJson, Inventory, Store

Document = dict[str, Any]

STEPS = {
    None: "step", "model": "step", "environment": "environment step", "undecided": "environment?",
}  # fmt: skip
"""How a step is called by what moved it."""

jobs_app = typer.Typer(no_args_is_help=True, help="Find jobs and their evidence.")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (report, fleet, history):
        app.command()(command)
    app.add_typer(jobs_app, name="job")


def fleet(inventory: Inventory = INVENTORY, store: Store = STORE, json: AsJson = False) -> None:
    """Show every device: state, who uses it, its last job and its noise."""
    from farm import console
    from farm.health import survey
    from farm.reporting import as_json

    document = survey(inventory, store)
    if json:
        console.print_text(as_json(document))
    else:
        console.show_fleet(document)


def report(
    run: Annotated[str, typer.Argument(help="Id of a run, its beginning, or 'latest'.")] = "latest",
    format: Annotated[str, typer.Option(help="md, junit or json.")] = "md",
    store: Store = STORE,
) -> None:
    """Print a paper about a run or gate, from what the store holds."""
    from farm import console, reporting

    console.print_text(reporting.report(run, format=format, store=store))


def history(
    input: Annotated[
        Path | None,
        typer.Option(help="A CSV file: first column time or revision, the others series."),
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Only this metric.")] = None,
    device: Annotated[str | None, typer.Option(help="Only this device.")] = None,
    all_purposes: Annotated[
        bool, typer.Option("--all", help="Also runs of pull requests and by hand.")
    ] = False,
    store: Store = STORE,
    json: AsJson = False,
) -> None:
    """Find where the level of a series changed: steps and slow drifts."""
    from farm import console
    from farm import history as engine
    from farm.reporting import as_json

    series = (
        engine.read_csv(input)
        if input
        else engine.stored_series(store, metric=metric, device=device, all_purposes=all_purposes)
    )
    document = engine.history_document(series)
    if json:
        console.print_text(as_json(document))
    else:
        _show_history(document)


@jobs_app.command("list")
def job_list(
    run: Annotated[str | None, typer.Option(help="Only the jobs of this run.")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.")] = 50,
    store: Store = STORE,
    json: AsJson = False,
) -> None:
    """List the latest jobs."""
    from farm import console
    from farm.store import reader, rows
    from farm.store.database import open_store

    with open_store(store, read_only=True) as opened:
        run_id = rows.find_run(opened, run).id if run else None
        frame = reader.jobs(opened, run_id=run_id, limit=limit)
    listed = [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]
    if json:
        from farm.reporting import as_json

        console.print_text(as_json({"schema": "farm.jobs/1", "jobs": listed}))
    else:
        console.show_jobs(listed)


@jobs_app.command("show")
def job_show(
    job: Annotated[int, typer.Argument(help="Number of a job.")],
    store: Store = STORE,
    json: AsJson = False,
) -> None:
    """Show one job with its environment and, if it failed, its evidence."""
    from farm import console
    from farm.store.database import open_store
    from farm.store.rows import read_job

    with open_store(store, read_only=True) as opened:
        found = read_job(opened, job)
    if json:
        from farm.reporting import as_json, job_document

        console.print_text(as_json(job_document(found)))
    else:
        console.show_job(found)


def _show_history(document: Document) -> None:
    """What changed in each series; series in which nothing changed are counted."""
    from farm import console

    made = console.table(
        "History", "at", "change", "effect", "95 % interval", "before", "after", "n",
        right=["effect", "before", "after", "n"],
    )  # fmt: skip
    quiet = 0
    for series in document["series"]:
        if not series["steps"] and not series["drifts"]:
            quiet += 1
            continue
        made.add_section()
        console.add(made, console.heading(series["name"]))
        for step in series["steps"]:
            bounds = f"{_signed(step['lo_pct'])} .. {_signed(step['hi_pct'])}"
            console.add(
                made, f"  {step['index']}: {step['label']}", STEPS[step["cause"]],
                _signed(step["effect_pct"]), bounds, f"{step['before']:.6g}",
                f"{step['after']:.6g}", f"{step['n_before']}, {step['n_after']}",
            )  # fmt: skip
        for drift in series["drifts"]:
            console.add(
                made, f"  {drift['start']} to {drift['stop']}", "drift",
                _signed(drift["effect_pct"]), "-", f"{drift['before']:.6g}",
                f"{drift['after']:.6g}", "-",
            )  # fmt: skip
    console.out.print(made)
    for line in _boundary_lines(document["series"]):
        console.out.print(console.safe(line), soft_wrap=True)
    quiet_line = f"{quiet} of {len(document['series'])} series have no change"
    console.out.print(console.safe(quiet_line), style="dim")


def _boundary_lines(listed: Iterable[Document]) -> list[str]:
    """Where systems changed, each once for all series that share it, and what moved the levels."""
    shared: dict[str, int] = {}
    told: list[str] = []
    for series in listed:
        for boundary in series["boundaries"]:
            line = f"{boundary['label']}: {', '.join(boundary['changed'])}"
            shared[line] = shared.get(line, 0) + 1
        told += [
            f"{STEPS[step['cause']]} at {step['index']} of {series['name']}: {step['why']}"
            for step in series["steps"]
            if step["why"]
        ]
    return [f"boundary in {count} series at {line}" for line, count in shared.items()] + told


def _signed(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:+.2f} %"
