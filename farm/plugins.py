"""Drivers and suites by name, found through entry points.

The core never imports a driver; our own register the same way as anybody's.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from farm.connection import Connection, Virtual
from farm.errors import ConfigError, nearest_hint
from farm.model import Device
from farm.protocols import Meter, Platform, Power, RecordingFile, Runtime, VirtualMeter

CONNECTIONS = ("farm.transports", "farm.lines")


def find_connection(scheme: str) -> type[Connection] | type[Virtual]:
    """What reaches an address with that scheme, or the virtual device that has one of its own.

    Raises:
        ConfigError: there is none of that name, or what it needs is not installed.
    """
    kind: type[Connection] | type[Virtual] = _load(
        (*CONNECTIONS, "farm.virtual"), scheme, "transport"
    )
    return kind


def connect(device: Device) -> Connection:
    """Reach a device; a virtual one is switched on first.

    Raises:
        ConfigError: its driver is unknown, or what it needs is not installed.
        InfraError: it cannot be reached.
    """
    device = switched_on(device)
    kind: type[Connection] = _load(CONNECTIONS, device.address.scheme, "transport")
    return kind(device)


def switched_on(device: Device) -> Device:
    """A device where a connection finds it; a virtual one is switched on for that.

    Raises:
        ConfigError: what it needs is not installed.
        InfraError: it cannot be switched on.
    """
    scheme = device.address.scheme
    if scheme not in _points("farm.virtual"):
        return device
    virtual: type[Virtual] = _load(("farm.virtual",), scheme, "virtual device")
    return virtual.start(device)


def find_platform(name: str) -> type[Platform]:
    """The platform of that name.

    Raises:
        ConfigError: there is none of that name, or what it needs is not installed.
    """
    kind: type[Platform] = _load(("farm.platforms",), name, "platform")
    return kind


def find_runtime(name: str) -> type[Runtime]:
    """The runtime of that name.

    Raises:
        ConfigError: there is none of that name, or what it needs is not installed.
    """
    kind: type[Runtime] = _load(("farm.runtimes",), name, "runtime")
    return kind


def find_power(name: str) -> type[Power]:
    """The kind of switchable port of that name.

    Raises:
        ConfigError: there is none of that name, or what it needs is not installed.
    """
    kind: type[Power] = _load(("farm.power",), name, "kind of power")
    return kind


METERS = "farm.meters"
VIRTUAL_METERS = "farm.virtual_meters"


def find_meter(scheme: str) -> type[Meter] | type[VirtualMeter]:
    """The kind of meter behind an address with that scheme.

    Raises:
        ConfigError: there is none of that name, or what it needs is not installed.
    """
    kind: type[Meter] | type[VirtualMeter] = _load((METERS, VIRTUAL_METERS), scheme, "meter")
    return kind


def open_meter(device: Device, connection: Connection) -> Meter:
    """Find and open the meter of a device; a virtual one is switched on first.

    Args:
        device: one that has a meter.
        connection: to the device.

    Raises:
        ConfigError: its driver is unknown, or what it needs is not installed.
        InfraError: it cannot be found or opened, or is not the one meant.
    """
    scheme = device.metered_by.scheme
    if scheme in _points(VIRTUAL_METERS):
        virtual: type[VirtualMeter] = _load((VIRTUAL_METERS,), scheme, "meter")
        device = replace(device, meter=virtual.start(device))
    kind: type[Meter] = _load((METERS,), device.metered_by.scheme, "meter")
    return kind(device, connection)


def is_virtual_meter(device: Device) -> bool:
    """Whether the meter of a device is none that one could touch."""
    return device.meter is not None and device.meter.scheme in _points(VIRTUAL_METERS)


def open_recording(path: Path, *, volts: float | None, sync: str) -> RecordingFile:
    """Open a recording that another program made, by the ending of its name.

    Args:
        path: of the file.
        volts: the voltage, where the file has currents only.
        sync: the logic input to follow, empty for none.

    Raises:
        ConfigError: no such kind of file, what reads it is not installed, or it is broken.
    """
    opener = _load(("farm.recordings",), path.suffix.removeprefix(".").lower(), "kind of recording")
    opened: RecordingFile = opener(path, volts=volts, sync=sync)
    return opened


def runtimes_for(
    road: type[Connection] | type[Virtual] | Connection,
) -> dict[str, type[Runtime]]:
    """The installed runtimes that run on devices which are reached so, by name.

    A runtime whose library is missing is left out: only who names it has to hear of that.
    """
    found: dict[str, type[Runtime]] = {}
    for name in sorted(_points("farm.runtimes")):
        with suppress(ConfigError):
            kind = find_runtime(name)
            if kind.fits(road):
                found[name] = kind
    return found


def find_suites() -> dict[str, Path]:
    """Every installed suite file by the suite's name."""
    return {
        path.stem: path
        for point in _points("farm.suites").values()
        for path in sorted(Path(_import(point).__file__).parent.glob("*.yaml"))
        if not path.name.endswith(".policy.yaml")
    }


def find_dashboard() -> Path:
    """The file of the dashboard's Streamlit app; it is found, not imported.

    Raises:
        ConfigError: the dashboard or Streamlit is not installed.
    """
    point = next(iter(_points("farm.dashboard").values()), None)
    spec = find_spec(point.module) if point else None
    if spec is None or spec.origin is None or find_spec("streamlit") is None:
        raise ConfigError(
            "the dashboard is not installed", hint="pip install 'verdict-farm[dashboard]'"
        )
    return Path(spec.origin)


def _points(group: str) -> dict[str, EntryPoint]:
    return _points_on(tuple(sys.path), group)


@cache
def _points_on(path: tuple[str, ...], group: str) -> dict[str, EntryPoint]:
    """Entry points by name; to look through every installed package takes 7 ms."""
    return {point.name: point for point in entry_points(group=group)}


def _load(groups: tuple[str, ...], name: str, what: str) -> Any:
    points = {name: point for group in groups for name, point in _points(group).items()}
    if name not in points:
        raise ConfigError(f"unknown {what} '{name}'", hint=nearest_hint(name, points))
    return _import(points[name])


def _import(point: EntryPoint) -> Any:
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        if not isinstance(error, ModuleNotFoundError):
            raise ConfigError(
                f"'{point.name}' ({point.value}) cannot be loaded: {error}",
                hint="reinstall the package that brings it",
            ) from error
        package = point.dist.name if point.dist else "the package"
        extra = f"{package}[{','.join(point.extras)}]" if point.extras else error.name
        raise ConfigError(
            f"'{point.name}' needs the module '{error.name}', which is not installed",
            hint=f"pip install '{extra}'",
        ) from error
