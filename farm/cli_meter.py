"""Commands for power meters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farm.cli_options import INVENTORY, STORE, AsJson, Inventory, Store

if TYPE_CHECKING:
    from farm.meters import Seen

meter = typer.Typer(no_args_is_help=True, help="Power meters: what there is, and what it sees.")

Named = Annotated[
    list[str], typer.Argument(help="Only the meters of these devices.", metavar="[DEVICE]...")
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(meter, name="meter")


@meter.command("list")
def list_(
    device: Named = [],
    inventory: Inventory = INVENTORY,
    store: Store = STORE,
    json: AsJson = False,
) -> None:
    """Ask every meter what it is."""
    from farm.meters import look

    _show("Meters", look(inventory, store, tuple(device)), json)


@meter.command()
def verify(
    device: Named = [],
    inventory: Inventory = INVENTORY,
    store: Store = STORE,
    json: AsJson = False,
) -> None:
    """Let one device after the other work in a pattern: its meter must show it, and no other."""
    from farm.meters import verify as verified

    _show("Meters at work", verified(inventory, store, tuple(device)), json)


@meter.command()
def release(
    device: Annotated[str, typer.Argument(help="The device whose meter to let go of.")],
    inventory: Inventory = INVENTORY,
) -> None:
    """Let go of a meter that is held between jobs; a device that it feeds loses its power."""
    from farm import console
    from farm.meters import release as let_go

    held = let_go(inventory, device)
    console.out.print(
        console.safe(f"{device}: {'its meter is free' if held else 'nobody held it'}")
    )


@meter.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A recording: .csv, .txt or .jls.")],
    inferences: Annotated[int, typer.Option(help="How many ran meanwhile.")] = 0,
    sync: Annotated[str, typer.Option(help="The logic input that is high while they run.")] = "",
    start: Annotated[float | None, typer.Option(help="Where to begin, in s.")] = None,
    end: Annotated[float | None, typer.Option(help="Where to end, in s.")] = None,
    volts: Annotated[
        float | None, typer.Option(help="The voltage, if it was not recorded.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Energy of a recording that another program made; it is shown and not kept."""
    from farm import console
    from farm.meters import read_recording
    from farm.reporting import as_json

    document = read_recording(
        file, inferences=inferences, sync=sync, start_s=start, end_s=end, volts=volts
    )
    if json:
        console.print_text(as_json(document))
    else:
        _show_recording(document)


def _show(title: str, found: Any, json: bool) -> None:
    """A row per meter, and below what a person has to do; exit code 4 if there is anything."""
    from farm import console
    from farm.reporting import as_json

    seen: list[Seen] = list(found)
    if json:
        document = {"schema": "farm.meters/1", "meters": [_entry(one) for one in seen]}
        console.print_text(as_json(document))
    else:
        _show_meters(title, [_entry(one) for one in seen])
    raise typer.Exit(4 if any(one.complaints for one in seen) else 0)


def _entry(seen: Seen) -> dict[str, Any]:
    facts, window = seen.facts, seen.window
    return {
        "device": seen.device.name,
        "meter": facts.model if facts else "",
        "serial": facts.serial if facts else "",
        "class": facts.meter_class if facts else "",
        "firmware": facts.firmware if facts else "",
        "calibration": facts.calibration if facts else "",
        "clock": facts.clock if facts else "",
        "rate_hz": facts.rate_hz if facts else None,
        "simulated": facts.simulated if facts else seen.device.simulated,
        "wired": seen.device.wired,
        "idle_w": window.idle_w if window else None,
        "busy_w": window.mean_w if window and window.inferences and not seen.complaints else None,
        "complaints": list(seen.complaints),
        "remarks": list(seen.remarks),
    }


def _show_meters(title: str, entries: list[dict[str, Any]]) -> None:
    """A row per meter, and below what a person has to do."""
    from farm import console
    from farm.papers import format_value

    made = console.table(
        title, "device", "meter", "serial", "class", "samples/s", "wire", "at rest", "at work",
        right=["samples/s", "at rest", "at work"],
    )  # fmt: skip
    for one in entries:
        rate = one["rate_hz"]
        console.add(
            made,
            f"{one['device']} [simulated]" if one["simulated"] else one["device"],
            one["meter"] or "-",
            one["serial"] or "-",
            one["class"] or "-",
            "-" if rate is None else f"{rate:,.0f}",
            "yes" if one["wired"] else "no",
            format_value(one["idle_w"], "W"),
            format_value(one["busy_w"], "W"),
        )
    console.out.print(made)
    for one in entries:
        for complaint in one["complaints"]:
            console.out.print(
                console.safe(f"{one['device']}: {complaint}"), soft_wrap=True, style="red"
            )
        for remark in filter(None, one["remarks"]):
            console.out.print(
                console.safe(f"note: {one['device']}: {remark}"), soft_wrap=True, style="dim"
            )


def _show_recording(document: dict[str, Any]) -> None:
    """What a recording of another program says."""
    from farm import console
    from farm.papers import format_value

    made = console.table(f"Recording {document['file']}", "", "")
    per = document["per_inference_j"]
    for name, value in {
        "made by": document["meter"],
        "samples": f"{document['samples']:,}, lost {document['lost']:,}",
        "duration": f"{document['duration_s']:.6g} s",
        "energy": format_value(document["energy_j"], "J"),
        "mean power": format_value(document["mean_w"], "W"),
        "per inference": "-" if per is None else format_value(per, "J"),
    }.items():
        console.add(made, name, value)
    console.out.print(made)
