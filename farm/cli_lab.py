"""Commands for those who keep the devices alive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from farm.cli_options import INVENTORY, STORE, AsJson, Inventory, Store


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (check, doctor, enroll):
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

    met = introduce(inventory, device)
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
