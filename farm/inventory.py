"""Reads the inventory: which devices there are and how to reach them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from farm.battery import read_band
from farm.document import Table, read_document
from farm.errors import ConfigError, nearest_hint
from farm.metering import read_duty
from farm.model import Address, Device, DeviceState
from farm.plugins import (
    find_connection,
    find_meter,
    find_platform,
    find_power,
    find_runtime,
    runtimes_for,
)
from farm.protocols import Power


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The devices of a lab, in the order written."""

    path: Path
    devices: tuple[Device, ...]

    def select(self, names: tuple[str, ...] = (), tags: tuple[str, ...] = ()) -> tuple[Device, ...]:
        """The devices with one of these names, or all; of them those with every one of these tags.

        Raises:
            ConfigError: a name is unknown, or nothing is left.
        """
        known = [device.name for device in self.devices]
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"{self.path} has no device '{name}'", hint=nearest_hint(name, known)
                )
        found = tuple(
            device
            for device in self.devices
            if (not names or device.name in names) and set(tags) <= set(device.tags)
        )
        if not found:
            raise self._nothing_selected(names, tags)
        return found

    def _nothing_selected(self, names: tuple[str, ...], tags: tuple[str, ...]) -> ConfigError:
        known = {tag for device in self.devices for tag in device.tags}
        unknown = next((tag for tag in tags if tag not in known), None)
        if unknown is not None:
            return ConfigError(
                f"{self.path} has no tag '{unknown}'", hint=nearest_hint(unknown, known)
            )
        chosen = f"of {', '.join(names)} " if names else ""
        return ConfigError(
            f"no device {chosen}in {self.path} has every tag of {', '.join(tags)}",
            hint="'farm plan' without --tag shows what there is",
        )


def read_inventory(path: Path) -> Inventory:
    """Read an inventory file.

    Raises:
        ConfigError: with file and line: unknown or duplicate key, duplicate address, unknown
            transport, missing extra, unset `${env:NAME}`, no device at all.
    """
    document = read_document(path, "farm.inventory/1")
    table = document.table("devices")
    document.done()
    devices: list[Device] = []
    for name, entry in table.tables():
        device = _read_device(name, entry)
        twin = next((d for d in devices if d.address == device.address), None)
        if twin:
            raise entry.error(f"'{name}' has the address of '{twin.name}'", key="address")
        twin = next((d for d in devices if d.meter and d.meter == device.meter), None)
        if twin and device.meter and device.meter.place:  # what has no place is the device's own
            raise entry.error(f"'{name}' has the meter of '{twin.name}'", key="meter")
        devices.append(device)
    if not devices:
        raise document.error("the inventory has no devices", key="devices")
    return Inventory(path=path, devices=tuple(devices))


CARE = {"power", "charge_band"}
"""Options of a device that a switchable port feeds, besides those of the port."""

METERED = {"battery", "battery_wh", "inferences_per_hour"}
"""Options of a device that a meter is bound to."""

SECRETS = frozenset({"password", "passphrase"})
"""Options that may not stand in the file itself."""


def _read_device(name: str, entry: Table) -> Device:
    text = entry.text("address")
    try:
        address = Address.parse(text)
        kind = find_connection(address.scheme)
    except ConfigError as error:
        raise entry.error(error.message, key="address", hint=error.hint) from error
    power = _read_power(entry)
    runtimes = runtimes_for(kind)
    drivers = (kind, find_platform(kind.platform), *runtimes.values(), *power)
    names = {name for driver in drivers for name in driver.options}
    device = Device(
        name=name,
        type=entry.text("type"),
        address=address,
        tags=entry.texts("tags", default=()),
        location=entry.text("location", default=""),
        owner=entry.text("owner", default=""),
        state=entry.choice("state", DeviceState, default=DeviceState.ACTIVE),
        host=entry.text("host", default=kind.host or name),
        runtime=_read_runtime(entry, kind.runtime, tuple(runtimes)),
        simulated=entry.flag("simulated", default=False) or kind.simulated,
        meter=_read_meter(entry),
        options=_read_options(
            entry,
            names | (CARE if power else set()) | (METERED if entry.has("meter") else set()),
        ),
    )
    try:
        for driver in drivers:
            driver.check(device)
        read_band(device)
        read_duty(device)
    except ConfigError as error:
        culprit = next((name for name, _ in device.options if name in error.message), "address")
        raise entry.error(error.message, key=culprit, hint=error.hint) from error
    entry.done()
    _check_meter(entry, device)
    return device


def _read_meter(entry: Table) -> Address | None:
    """Where the device's meter is, if it has one."""
    if not entry.has("meter"):
        return None
    try:
        address = Address.parse(entry.text("meter"))
        kind = find_meter(address.scheme)
    except ConfigError as error:
        raise entry.error(error.message, key="meter", hint=error.hint) from error
    known = {"sync", *kind.options}
    for name, value in address.options:
        if name not in known:
            raise entry.error(
                f"a {address.scheme} meter has no option '{name}'",
                key="meter",
                hint=nearest_hint(name, sorted(known)),
            )
        if name == "sync" and value.removeprefix("!") not in kind.inputs:
            raise entry.error(
                f"a {address.scheme} meter has no logic input '{value}'",
                key="meter",
                hint=f"it has {', '.join(kind.inputs) or 'none'}; leave out 'sync' without a wire",
            )
    return address


def _check_meter(entry: Table, device: Device) -> None:
    if device.meter is None:
        return
    try:
        find_meter(device.meter.scheme).check(device)
    except ConfigError as error:
        raise entry.error(error.message, key="meter", hint=error.hint) from error


def _read_power(entry: Table) -> tuple[type[Power], ...]:
    """The kind of switchable port that feeds the device, if one does."""
    if not entry.has("power"):
        if entry.has("charge_band"):
            raise entry.error(
                "'charge_band' needs a 'power'",
                key="charge_band",
                hint="a port that can be switched: docs/batteries.md",
            )
        return ()
    try:
        return (find_power(entry.text("power")),)
    except ConfigError as error:
        raise entry.error(error.message, key="power", hint=error.hint) from error


def _read_runtime(entry: Table, default: str, fitting: tuple[str, ...]) -> str:
    name = entry.text("runtime", default=default)
    try:
        find_runtime(name)
    except ConfigError as error:
        raise entry.error(error.message, key="runtime", hint=error.hint) from error
    if name not in fitting:
        raise entry.error(
            f"the runtime '{name}' does not run on this device",
            key="runtime",
            hint=nearest_hint(name, fitting),
        )
    return name


def _read_options(entry: Table, names: set[str]) -> tuple[tuple[str, str], ...]:
    """What the device's transport, platform, port and the runtimes want to know."""
    return tuple(
        (name, entry.secret(name) if name in SECRETS else entry.written(name))
        for name in sorted(names)
        if entry.has(name)
    )
