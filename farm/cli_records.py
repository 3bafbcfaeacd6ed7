"""Commands that look at what the store holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from farm.cli_options import INVENTORY, STORE, AsJson, Inventory, Store

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
        console.show_history(document)


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
