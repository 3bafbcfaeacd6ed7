"""The command line. Imports nothing heavy before a command needs it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from farm import cli_alerts, cli_bisect, cli_lab, cli_meter, cli_records
from farm.cli_options import (
    INVENTORY,
    STORE,
    AsJson,
    Devices,
    Inventory,
    Shape,
    Store,
    SuiteName,
    Tags,
    Wait,
    Workload,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Validate machine-learning models on real devices, with verdicts one can defend.",
)

EXIT_CODES = {"config": 2, "workload": 1}
"""Exit code by the family of an error; every other family is the lab's or the farm's: 4."""


@app.command()
def plan(
    suite: SuiteName,
    model: Annotated[Path | None, typer.Option(help="Model file or folder.")] = None,
    workload: Workload = None,
    shape: Shape = [],
    device: Devices = [],
    tag: Tags = [],
    policy: Annotated[Path | None, typer.Option(help="Policy file; else the suite's.")] = None,
    inventory: Inventory = INVENTORY,
    store: Store = STORE,
    json: AsJson = False,
) -> None:
    """Show what would run where, what is left out and why, and what a gate could decide."""
    from farm import campaign, console

    made = campaign.plan(
        suite,
        model=model,
        workload=workload,
        shape=_sizes(shape),
        devices=device,
        tags=tag,
        inventory=inventory,
    )
    prospects = campaign.gate_prospects(suite, made, store=store, policy=policy)
    if json:
        from farm.reporting import as_json, plan_document

        console.print_text(as_json(plan_document(made, prospects)))
    else:
        console.show_plan(made)
        console.show_prospects(prospects)


@app.command()
def run(
    suite: SuiteName,
    model: Annotated[Path | None, typer.Option(help="Model file or folder.")] = None,
    workload: Workload = None,
    shape: Shape = [],
    device: Devices = [],
    tag: Tags = [],
    inventory: Inventory = INVENTORY,
    store: Store = STORE,
    wait: Wait = 0.0,
    json: AsJson = False,
) -> None:
    """Measure one model on every device."""
    from farm import campaign, console

    with console.progress(suite) as report:
        summary = campaign.run(
            suite,
            model=model,
            workload=workload,
            shape=_sizes(shape),
            devices=device,
            tags=tag,
            inventory=inventory,
            store=store,
            wait_s=wait,
            progress=report,
        )
    _show_run(store, summary.run_id, as_json=json)
    raise typer.Exit(summary.exit_code)


@app.command()
def gate(
    suite: SuiteName,
    candidate: Annotated[Path, typer.Option(help="The model that wants to be released.")],
    baseline: Annotated[Path, typer.Option(help="The model that it must not be worse than.")],
    policy: Annotated[Path | None, typer.Option(help="Policy file; else the suite's.")] = None,
    fresh: Annotated[
        str, typer.Option(help="Why to measure anew what was judged before.", metavar="WHY")
    ] = "",
    workload: Workload = None,
    shape: Shape = [],
    device: Devices = [],
    tag: Tags = [],
    inventory: Inventory = INVENTORY,
    store: Store = STORE,
    wait: Wait = 0.0,
    json: AsJson = False,
) -> None:
    """Compare a candidate with a baseline, interleaved on every device: yes or no."""
    from farm import campaign, console
    from farm.reporting import as_json, gate_document

    with console.progress(suite) as report:
        verdict = campaign.gate(
            suite,
            candidate=candidate,
            baseline=baseline,
            policy=policy,
            fresh=fresh,
            workload=workload,
            shape=_sizes(shape),
            devices=device,
            tags=tag,
            inventory=inventory,
            store=store,
            wait_s=wait,
            progress=report,
        )
    document = gate_document(verdict)
    if json:
        console.print_text(as_json(document))
    else:
        console.show_gate(document)
    raise typer.Exit(verdict.exit_code)


@app.command()
def noise(
    suite: SuiteName = "smoke",
    model: Annotated[Path | None, typer.Option(help="Model file or folder.")] = None,
    blocks: Annotated[int, typer.Option(help="ABBA blocks per device.")] = 10,
    workload: Workload = None,
    shape: Shape = [],
    device: Devices = [],
    tag: Tags = [],
    inventory: Inventory = INVENTORY,
    store: Store = STORE,
    wait: Wait = 0.0,
    json: AsJson = False,
) -> None:
    """Compare a model with itself: how noisy is each device, and what can a gate detect on it?"""
    from farm import console
    from farm.calibration import measure_noise
    from farm.reporting import as_json, noise_document
    from farm.request import Where

    where = Where(inventory=inventory, store=store, devices=device, tags=tag, wait_s=wait)
    with console.progress("noise") as report:
        results, budgets = measure_noise(
            suite,
            model=model,
            workload=workload,
            shape=_sizes(shape),
            where=where,
            blocks=blocks,
            progress=report,
        )
    if json:
        console.print_text(as_json(noise_document(budgets)))
    else:
        console.show_noise(noise_document(budgets))
    failed = [result.error for result in results if result.error]
    for error in failed:
        console.complain(error.message, error.hint)
    raise typer.Exit(4 if failed else 0)


@app.command()
def demo(inventory: Inventory = INVENTORY, store: Store = STORE, json: AsJson = False) -> None:
    """Gate one good and two bad candidates on all devices, and see what an inference costs."""
    from farm import console
    from farm.demo import demo_document, energy_told, look_at_energy, run_demo
    from farm.reporting import as_json

    with console.progress("demo") as bar:
        gates = run_demo(
            inventory=inventory,
            store=store,
            progress=lambda name: bar,
            show=(lambda document: None) if json else console.show_gate,
        )
        energy = look_at_energy(inventory=inventory, store=store, progress=bar)
    good = all(gate.as_expected for gate in gates) and (not energy or energy_told(energy))
    if json:
        console.print_text(as_json(demo_document(gates, energy, inventory)))
    else:
        if energy:
            console.show_run(energy)
        console.show_expectations(gates)
        where = "" if store == STORE else f" --store {store}"
        console.out.print(console.safe(f"\nSee it in the dashboard:  farm dashboard{where}"))
    raise typer.Exit(0 if good else 4)


@app.command()
def dashboard(
    store: Store = STORE,
    port: Annotated[int, typer.Option(help="0 picks a free one.")] = 0,
) -> None:
    """Open the dashboard on a store, for this machine only."""
    import socket

    from farm import console
    from farm.plugins import find_dashboard

    script = find_dashboard()
    if port == 0:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    console.err.print(console.safe(f"http://127.0.0.1:{port}  (Ctrl-C ends it)"))
    command = [sys.executable, "-m", "streamlit", "run", str(script), "--server.headless=true"]
    command += ["--server.address=127.0.0.1", f"--server.port={port}"]
    command += ["--browser.gatherUsageStats=false", "--server.fileWatcherType=none"]
    os.environ["FARM_STORE"] = str(store)
    os.execv(sys.executable, command)


cli_lab.add_to(app)
cli_meter.add_to(app)
cli_records.add_to(app)
cli_alerts.add_to(app)
cli_bisect.add_to(app)


def main() -> None:
    """Entry point: every error becomes two lines and an exit code."""
    from farm.errors import FarmError

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # CI cancels with it: clean up too
    try:
        app()
    except FarmError as error:
        _complain(str(error), error.hint)
        sys.exit(EXIT_CODES.get(error.family, 4))
    except SystemExit as ended:
        if ended.code == 130:  # what Typer makes of a KeyboardInterrupt
            _complain("interrupted", "what was finished is kept; run the same command again")
        raise
    except Exception as error:
        if os.environ.get("FARM_DEBUG"):
            raise
        _complain(
            f"this is a mistake in the farm: {type(error).__name__}: {error}",
            "run it again with FARM_DEBUG=1 and report the trace",
        )
        sys.exit(4)


def _complain(message: str, hint: str) -> None:
    from farm import console

    console.complain(message, hint)


def _show_run(store: Path, run_id: str, *, as_json: bool) -> None:
    from farm import console, reporting
    from farm.store.database import open_store
    from farm.store.rows import find_run

    with open_store(store, read_only=True) as opened:
        document = reporting.run_document(opened, find_run(opened, run_id))
    if as_json:
        console.print_text(reporting.as_json(document))
    else:
        console.show_run(document)


def _sizes(shape: list[str]) -> dict[str, int]:
    from farm.errors import ConfigError

    sizes = {}
    for entry in shape:
        name, _, size = entry.partition("=")
        if not name or not size.isdigit() or int(size) < 1:
            raise ConfigError(f"cannot read --shape {entry!r}", hint="write for example batch=1")
        sizes[name] = int(size)
    return sizes


if __name__ == "__main__":
    main()
