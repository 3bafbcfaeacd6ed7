"""Options that commands share; Typer reads them from annotations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Inventory = Annotated[Path, typer.Option(help="The devices of the lab.", metavar="FILE")]
Store = Annotated[Path, typer.Option(help="Folder where results are kept.", metavar="DIR")]
Devices = Annotated[list[str], typer.Option("--device", help="Only this device; repeat for more.")]
Tags = Annotated[list[str], typer.Option("--tag", help="Only devices with this tag; repeatable.")]
Workload = Annotated[
    Path | None, typer.Option(help="Folder with inputs and labels.", metavar="DIR")
]
Shape = Annotated[
    list[str], typer.Option(help="Size of a free dimension, for a bare model.", metavar="NAME=N")
]
Wait = Annotated[float, typer.Option(help="Seconds to wait for a device in use.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON document instead of a table.")]
SuiteName = Annotated[str, typer.Argument(help="Name of a suite, or path of a suite file.")]

INVENTORY = Path("inventory.yaml")
STORE = Path(".farm")
