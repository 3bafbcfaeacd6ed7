"""The command that finds the revision which made a model worse."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farm.cli_options import (
    INVENTORY,
    STORE,
    AsJson,
    Devices,
    Inventory,
    Store,
    SuiteName,
    Tags,
    Wait,
    Workload,
)

if TYPE_CHECKING:
    from farm.halving import Bisection, Step


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(bisect)


def bisect(
    suite: SuiteName,
    good: Annotated[str, typer.Option(help="A revision that is known to be good.")],
    bad: Annotated[str, typer.Option(help="A later one that is worse.")],
    build: Annotated[
        str, typer.Option(help="Builds the model of {rev} at {path}; run by /bin/sh.")
    ],
    metric: Annotated[
        str | None, typer.Option(help="Decide by this metric; else by the whole gate.")
    ] = None,
    revisions: Annotated[
        Path | None,
        typer.Option(help="A revision per line, oldest first, instead of git.", metavar="FILE"),
    ] = None,
    repo: Annotated[
        Path, typer.Option(help="The repository; builds run in it.", metavar="DIR")
    ] = Path(),
    timeout: Annotated[float, typer.Option(help="Seconds that one build may take.")] = 600.0,
    policy: Annotated[Path | None, typer.Option(help="Policy file; else the suite's.")] = None,
    workload: Workload = None,
    device: Devices = [],
    tag: Tags = [],
    inventory: Inventory = INVENTORY,
    store: Store = STORE,
    wait: Wait = 0.0,
    json: AsJson = False,
) -> None:
    """Find the revision that made a model worse, by gates that halve the interval."""
    from farm import bisect as engine
    from farm import console
    from farm.reporting import as_json

    with console.progress("bisect") as bar:
        found = engine.bisect(
            suite,
            good=good,
            bad=bad,
            build=build,
            metric=metric,
            revisions=revisions,
            repo=repo,
            timeout_s=timeout,
            policy=policy,
            workload=workload,
            devices=device,
            tags=tag,
            inventory=inventory,
            store=store,
            wait_s=wait,
            progress=bar,
            decided=_show_step,
        )
    if json:
        console.print_text(as_json(found.document()))
    else:
        _show_answer(found)
    if found.stopped:
        console.complain(*_why_stopped(found))
    raise typer.Exit(found.exit_code)


def _show_step(step: Step) -> None:
    """What was decided of one revision, on stderr."""
    from farm import console

    word = step.verdict or "skipped"
    text = step.skipped or f"{step.revision}: {step.told}"
    console.err.print(console.safe(word), console.safe(text), soft_wrap=True)
    for line in step.output:
        console.err.print(console.safe(f"  | {line}"), style="dim", soft_wrap=True)


def _show_answer(found: Bisection) -> None:
    """The culprit with its effect, or what is left of the interval and why."""
    from farm import console

    steps = {step.revision: step for step in found.steps}
    lines = []
    if found.first_bad is not None:
        lines += [f"first bad: {found.first_bad}", f"  {steps[found.first_bad].told}"]
    elif found.interval:
        lines.append(f"the first bad revision is one of these {len(found.interval)}:")
        for revision in found.interval:
            step = steps.get(revision)
            word = (step.verdict or f"skipped, {step.skipped}") if step else "not tried"
            lines.append(f"  {revision}: {word}")
    lines.append(f"last good: {found.last_good}")
    for line in lines:
        console.out.print(console.safe(line), soft_wrap=True)


def _why_stopped(found: Bisection) -> tuple[str, str]:
    """What happened and what to do, for a search that could not go on."""
    step = found.steps[-1]
    match found.stopped:
        case "PASS":
            return (
                f"nothing to find: {step.revision} passes against {found.last_good}",
                "choose the metric that got worse with --metric, or a policy with a lower margin",
            )
        case "INCONCLUSIVE":
            return (
                f"{step.revision} is not certainly worse than {found.last_good}: {step.told}",
                "allow more blocks in the policy, or use a quieter device: 'farm noise' shows them",
            )
        case _:
            return (
                f"the gate of {step.revision} is INVALID: {step.told}",
                "mend that and run the same command again: what was decided is kept",
            )
