"""Commands about alerts on the history: find them, and say what they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

import typer

from farm.alerts import State
from farm.cli_options import STORE, AsJson, Store

Document = dict[str, Any]
AlertId = Annotated[int, typer.Argument(help="Number of an alert.", min=1, max=2**53)]
Why = Annotated[str, typer.Option(help="The reason, kept for those who come later.")]
Who = Annotated[str | None, typer.Option(help="Who says so.", show_default="$USER")]

alerts_app = typer.Typer(no_args_is_help=True, help="Regressions in the history, until resolved.")

MARKS = {
    "ack": (State.ACKNOWLEDGED, "It is real and known; it comes back if it gets worse."),
    "invalid": (State.INVALID, "It is no regression; counts against the precision of its metric."),
    "wontfix": (State.WONTFIX, "It stays; the new level is the baseline from now on."),
    "fixing": (State.FIXING, "Somebody is at it."),
    "resolve": (State.CLAIMED, "Claim that it is fixed; the measurements decide."),
}
STYLES = {
    State.NEW: "bold yellow",
    State.CONFIRMED: "bold red",
    State.FIX_FAILED: "bold red",
    State.RESOLVED: "green",
    State.IMPROVEMENT: "green",
}
_COMMIT = re.compile(r"[0-9a-f]{40,64}")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(alerts_app, name="alerts")


@alerts_app.command()
def refresh(store: Store = STORE, json: AsJson = False) -> None:
    """Analyse the history of the main line and bring the alerts up to date."""
    from farm import console, triage
    from farm.alert_papers import board_document
    from farm.reporting import as_json

    document = board_document(triage.refresh(store))
    if json:
        console.print_text(as_json(document))
    else:
        changed, still = len(document["changed"]), document["open"]
        console.out.print(f"{_count(changed, 'alert')} changed, {still} open")


@alerts_app.command("list")
def list_alerts(
    state: Annotated[State | None, typer.Option(help="Only alerts in this state.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what is closed or withdrawn, and improvements.")
    ] = False,
    store: Store = STORE,
    json: AsJson = False,
) -> None:
    """Refresh, then list alerts by revision; exit code 1 while any is open."""
    from farm import console, triage
    from farm.alert_papers import board_document
    from farm.reporting import as_json

    document = board_document(triage.refresh(store), state=state, everything=everything)
    if json:
        console.print_text(as_json(document))
    else:
        _show_board(document)
    raise typer.Exit(1 if document["open"] else 0)


@alerts_app.command()
def show(alert: AlertId, store: Store = STORE, json: AsJson = False) -> None:
    """Show one alert with everything that was ever said about it."""
    from farm import triage
    from farm.alert_papers import alert_document

    _print_alert(alert_document(triage.show(store, alert)), json=json)


def _mark(target: State) -> Callable[..., None]:
    def command(
        alert: AlertId, why: Why, who: Who = None, store: Store = STORE, json: AsJson = False
    ) -> None:
        from farm import triage
        from farm.alert_papers import alert_document

        _print_alert(alert_document(triage.mark(store, alert, target, who=who, why=why)), json=json)

    return command


for _word, (_target, _help) in MARKS.items():
    alerts_app.command(_word, help=_help)(_mark(_target))


def _print_alert(document: Document, *, json: bool) -> None:
    from farm import console
    from farm.reporting import as_json

    if json:
        console.print_text(as_json(document))
        return
    alert = document["alert"]
    _show_alert(alert)
    for made in alert["transitions"]:
        _line(f"    {made['from'] or '-'} -> {made['to']}, {_said(made)}")
    if alert["state"] == State.CLAIMED:
        _line("the measurements decide: 'farm alerts list' judges it with every new result")


def _show_board(document: Document) -> None:
    """Groups with their alerts; the last lines count and say how far to trust a metric."""
    from farm import console

    alerts = {alert["id"]: alert for alert in document["alerts"]}
    for group in document["groups"]:
        _line(_title(group), style="bold")
        for number in group["alerts"]:
            _show_alert(alerts[number])
            last = alerts[number]["last"]
            _line(f"      {last['to']}, {_said(last)}", style="dim")
    console.out.print(f"{_count(len(alerts), 'alert')} shown, {document['open']} open")
    for one in document["precision"]:
        total = one["real"] + one["false"]
        share = f"{one['real']} of {total} alerts were real ({one['precision']:.0%})"
        _line(f"precision of {one['metric']}: {share}", style="dim")


def _title(group: Document) -> str:
    if group["device_type"]:
        return (
            f"environment incident at {_short(group['revision'])}: {group['moved']} of "
            f"{group['pool']} series of {group['device_type']} moved together"
        )
    return f"at {_short(group['revision'])}"


def _show_alert(alert: Document) -> None:
    from rich.text import Text

    from farm import console
    from farm.papers import format_value

    marked = " [simulated]" if alert["simulated"] else ""
    effect, lo, hi = (_signed(alert[key]) for key in ("effect_pct", "lo_pct", "hi_pct"))
    before, after = (format_value(alert[key], alert["unit"]) for key in ("before", "after"))
    console.out.print(
        f"  {alert['id']:>4}",
        Text(alert["state"], style=STYLES.get(alert["state"], "")),
        console.safe(f"{effect} ({lo} .. {hi}), {before} -> {after}{marked},"),
        console.safe(f"n {alert['n_before']}, {alert['n_after']}"),
        soft_wrap=True,
    )
    _line(f"      {alert['series']}{marked}")
    absent = f", not seen by the last {_count(alert['absences'], 'analysis', 'analyses')}"
    place = f"from {_short(alert['revision_before'])} to {_short(alert['revision'])}"
    _line(f"      {place}{absent if alert['absences'] else ''}")


def _said(made: Document) -> str:
    return f"{made['when'][:16].replace('T', ' ')} UTC by {made['who']}: {made['why']}"


def _line(text: str, style: str = "") -> None:
    """One line, whatever people wrote in it."""
    from farm import console
    from farm.errors import one_line

    console.out.print(console.safe(one_line(text)), style=style or None, soft_wrap=True)


def _short(revision: str) -> str:
    return revision[:12] if _COMMIT.fullmatch(revision) else revision


def _signed(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:+.2f} %"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
