"""Drivers and suites by name, found through entry points.

The core never imports a driver; our own register the same way as anybody's.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from farm.errors import ConfigError, nearest_hint
from farm.protocols import Platform, Runtime, Transport


def find_transport(scheme: str) -> type[Transport]:
    """The transport for an address scheme.

    Raises:
        ConfigError: there is none of that name, or what it needs is not installed.
    """
    kind: type[Transport] = _load("farm.transports", scheme, "transport")
    return kind


def find_platform(name: str) -> type[Platform]:
    """The platform of that name.

    Raises:
        ConfigError: there is none of that name, or what it needs is not installed.
    """
    kind: type[Platform] = _load("farm.platforms", name, "platform")
    return kind


def find_runtime(name: str) -> type[Runtime]:
    """The runtime of that name.

    Raises:
        ConfigError: there is none of that name, or what it needs is not installed.
    """
    kind: type[Runtime] = _load("farm.runtimes", name, "runtime")
    return kind


def find_suites() -> dict[str, Path]:
    """Every installed suite file by the suite's name."""
    return {
        path.stem: path
        for point in entry_points(group="farm.suites")
        for path in sorted(Path(_import(point).__file__).parent.glob("*.yaml"))
        if not path.name.endswith(".policy.yaml")
    }


def find_dashboard() -> Path:
    """The file of the dashboard's Streamlit app; it is found, not imported.

    Raises:
        ConfigError: the dashboard or Streamlit is not installed.
    """
    point = next(iter(entry_points(group="farm.dashboard")), None)
    spec = find_spec(point.module) if point else None
    if spec is None or spec.origin is None or find_spec("streamlit") is None:
        raise ConfigError(
            "the dashboard is not installed", hint="pip install 'verdict-farm[dashboard]'"
        )
    return Path(spec.origin)


def _load(group: str, name: str, what: str) -> Any:
    points = {point.name: point for point in entry_points(group=group)}
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
