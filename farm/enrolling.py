"""Brings a device in: what it shows before it is trusted is pinned in the inventory."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from farm.charging import awake, find_port
from farm.connection import Tell
from farm.document import read_document
from farm.errors import ConfigError
from farm.inventory import read_inventory
from farm.model import Device
from farm.plugins import connect, find_platform, find_transport
from farm.record import Fact


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
    kind = find_transport(device.address.scheme)
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


def greet(inventory: Path, name: str) -> tuple[Fact, ...]:
    """Reach a device that is known now; what it tells about itself.

    Raises:
        InfraError: it cannot be reached.
    """
    (device,) = read_inventory(inventory).select((name,))
    transport = connect(device)
    try:
        facts = find_platform(transport.platform)(transport).facts()
        return (*transport.describe(), *facts)
    finally:
        transport.close()
