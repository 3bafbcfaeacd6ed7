"""Commands for those who keep the devices alive."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farm.cli_options import INVENTORY, STORE, AsJson, Inventory, Store
from farm.errors import ConfigError

if TYPE_CHECKING:
    from farm.charging import Tended


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (check, doctor, enroll, flash, charge):
        app.command()(command)


def check(
    inventory: Annotated[Path, typer.Argument(help="The inventory to check.")] = INVENTORY,
    json: AsJson = False,
) -> None:
    """Validate inventory, suites and policies; touches no device."""
    from farm import console
    from farm.health import validate
    from farm.reporting import as_json

    document = validate(inventory)
    if json:
        console.print_text(as_json(document))
    else:
        console.show_validation(document)


def doctor(
    device: Annotated[str, typer.Argument(help="Only this device, but thoroughly.")] = "",
    inventory: Inventory = INVENTORY,
    store: Store = STORE,
    json: AsJson = False,
) -> None:
    """Look at installation, store and devices; shows the command that would mend each gap."""
    from dataclasses import asdict

    from farm import console
    from farm.health import examine, examine_device
    from farm.reporting import as_json

    checks = []
    found = examine_device(inventory, store, device) if device else examine(inventory, store)
    for one in found:
        checks.append(one)
        if not json:
            console.show_check(one)
    if json:
        document = {"schema": "farm.doctor/1", "checks": [asdict(check) for check in checks]}
        console.print_text(as_json(document))
    raise typer.Exit(0 if all(check.ok for check in checks) else 4)


def enroll(
    device: Annotated[str, typer.Argument(help="Name of the device in the inventory.")],
    yes: Annotated[bool, typer.Option("--yes", help="Trust what it shows without asking.")] = False,
    inventory: Inventory = INVENTORY,
) -> None:
    """Meet a device: show its host key, pin it in the inventory, and see what it is."""
    from farm import console
    from farm.enrolling import greet, introduce, pin

    met = introduce(inventory, device, lambda line: console.err.print(console.safe(line)))
    for name, value in met.shown:
        known = met.device.option(name)
        before = f"  (pinned now: {known})" if known and known != value else ""
        console.out.print(console.safe(f"{device} shows {name}: {value}{before}"))
    if met.news:
        if not yes and not typer.confirm("Is that what the device itself tells?", err=True):
            raise typer.Exit(2)
        pin(inventory, met)
        console.out.print(console.safe(f"pinned in {inventory}"))
    for fact in greet(inventory, device):
        console.out.print(console.safe(f"  {fact.name}: {fact.value}"))


def flash(
    device: Annotated[str, typer.Argument(help="Name of the microcontroller in the inventory.")],
    image: Annotated[
        Path | None, typer.Argument(help="Firmware to put there; the farm's own if left out.")
    ] = None,
    inventory: Inventory = INVENTORY,
    store: Store = STORE,
) -> None:
    """Put a firmware on a microcontroller, by the way that the inventory names, and meet it."""
    from farm import console, enrolling

    put = enrolling.flash(inventory, store, device, image)
    what = put.name if image else "the farm's own firmware"
    console.out.print(console.safe(f"{device} has {what}, {put.size_bytes:,} bytes"))
    for fact in enrolling.greet(inventory, device):
        console.out.print(console.safe(f"  {fact.name}: {fact.value}"))


def charge(
    device: Annotated[
        list[str], typer.Argument(help="Only these devices; else all with a switchable port.")
    ] = [],
    cleared: Annotated[
        str | None,
        typer.Option(help="Why the battery of this device is to be trusted again.", metavar="WHY"),
    ] = None,
    who: Annotated[
        str | None, typer.Option(help="Who says that it is cleared.", show_default="$USER")
    ] = None,
    inventory: Inventory = INVENTORY,
    store: Store = STORE,
    json: AsJson = False,
) -> None:
    """Keep batteries in their charge band and judge them; made for a timer."""
    from farm import charging, console
    from farm.inventory import read_inventory
    from farm.reporting import as_json
    from farm.store.database import open_store

    chosen = read_inventory(inventory).select(tuple(device))
    with open_store(store) as opened:
        if cleared is not None:
            if len(device) != 1:
                raise ConfigError(
                    "--cleared needs one device", hint="farm charge DEVICE --cleared WHY"
                )
            person = os.environ.get("USER", "") if who is None else who
            charging.clear(opened, chosen[0], who=person, why=cleared)
            console.out.print(console.safe(f"{device[0]}: its battery is trusted again"))
            return
        tended = [charging.tend(opened, one) for one in charging.choose(chosen, tuple(device))]
    document = _charge_document(tended)
    if json:
        console.print_text(as_json(document))
    else:
        _show_charge(document)
    raise typer.Exit(4 if any(one.fix for one in tended) else 0)


def _charge_document(tended: Iterable[Tended]) -> dict[str, Any]:
    """The document `farm.charge/1`: what each battery told, and what was done."""
    from farm.health import look_document

    return {
        "schema": "farm.charge/1",
        "devices": [
            {
                "device": one.device.name,
                "simulated": one.device.simulated,
                "battery": look_document(one.look),
                "port": one.port,
                "did": one.did,
                "fix": one.fix,
            }
            for one in tended
        ],
    }


def _show_charge(document: dict[str, Any]) -> None:
    """A row per battery, and below what a person has to do."""
    from farm import console

    made = console.table(
        "Charge", "device", "level", "degC", "health", "port", "done", right=["level", "degC"]
    )
    for one in document["devices"]:
        battery = one["battery"] or {"level_pct": None, "temperature_c": None, "health": ""}
        level, celsius = battery["level_pct"], battery["temperature_c"]
        console.add(
            made,
            f"{one['device']} [simulated]" if one["simulated"] else one["device"],
            "-" if level is None else f"{level:.0f} %",
            "-" if celsius is None else f"{celsius:.1f}",
            battery["health"] or "-",
            one["port"],
            one["did"],
        )
    console.out.print(made)
    for one in document["devices"]:
        if one["fix"]:
            console.out.print(console.safe(f"{one['device']}: {one['fix']}"), soft_wrap=True)
