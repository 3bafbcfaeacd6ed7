"""Brings a device in: what it shows before it is trusted is pinned in the inventory."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from farm.charging import awake, find_port
from farm.connection import Line, Tell
from farm.document import read_document
from farm.errors import ConfigError
from farm.inventory import read_inventory
from farm.lease import leased
from farm.model import Artifact, Device
from farm.plugins import connect, find_connection, find_platform, switched_on
from farm.record import Fact
from farm.store.database import open_store


@dataclass(frozen=True, slots=True, kw_only=True)
class Introduction:
    """What a device shows to somebody who does not know it yet.

    Attributes:
        device: as the inventory describes it.
        shown: options and values, such as the fingerprint of a host key.
    """

    device: Device
    shown: tuple[tuple[str, str], ...]

    @property
    def news(self) -> tuple[tuple[str, str], ...]:
        """What is not in the inventory yet, or differs."""
        return tuple((n, v) for n, v in self.shown if self.device.option(n) != v)


def introduce(inventory: Path, name: str, tell: Tell) -> Introduction:
    """Ask a device who it is; it is not trusted yet.

    Args:
        inventory: the file.
        name: of the device.
        tell: hears lines for the person who stands before it.

    Raises:
        ConfigError: the inventory is wrong or has no such device.
        InfraError: the device cannot be reached.
    """
    (device,) = read_inventory(inventory).select((name,))
    kind = find_connection(device.address.scheme)
    shown = awake(find_port(device), lambda: kind.introduce(device, tell))
    return Introduction(device=device, shown=shown)


def pin(inventory: Path, introduction: Introduction) -> None:
    """Write what was shown into the inventory; everything else in the file stays as it is.

    Raises:
        ConfigError: the file cannot be changed; the hint has the lines to write by hand.
    """
    name = introduction.device.name
    document = read_document(inventory, "farm.inventory/1")
    text = document.table("devices").table(name).text_with(dict(introduction.news))
    part = inventory.with_name(f"{inventory.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.chmod(inventory.stat().st_mode)
        read_inventory(part)  # a file that we spoiled never takes its place
        os.replace(part, inventory)
    except OSError as error:
        lines = "; ".join(f"{key}: {value}" for key, value in introduction.news)
        raise ConfigError(
            f"cannot write {str(inventory)!r}: {error.strerror}",
            hint=f"write under '{name}' by hand: {lines}",
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()


def flash(inventory: Path, store: Path, name: str, image: Path | None) -> Artifact:
    """Put a firmware on a microcontroller that nobody else uses now.

    The board may be blank, so it is asked for nothing before.

    Args:
        inventory: the file.
        store: where leases are kept.
        name: of the device.
        image: the firmware; the farm's own if left out.

    Returns:
        What was put there.

    Raises:
        ConfigError: the inventory is wrong, the device is no microcontroller, or there is no way to
            flash it.
        InfraError: it cannot be reached.
    """
    (device,) = read_inventory(inventory).select((name,))
    device = switched_on(device)
    kind = find_connection(device.address.scheme)
    if kind.has_shell:
        raise ConfigError("it is no microcontroller: nothing is flashed there", device=name)
    kind = cast("type[Line]", kind)
    firmware = Artifact.of(image) if image else kind.own_firmware(device)
    with open_store(store) as opened, leased(opened, device, "flash"):
        kind.bring_up(device, firmware)
    return firmware


def greet(inventory: Path, name: str) -> tuple[Fact, ...]:
    """Reach a device that is known now; what it tells about itself.

    Raises:
        InfraError: it cannot be reached.
    """
    (device,) = read_inventory(inventory).select((name,))
    connection = connect(device)
    try:
        facts = find_platform(connection.platform)(connection).facts()
        return (*connection.describe(), *facts)
    finally:
        connection.close()
