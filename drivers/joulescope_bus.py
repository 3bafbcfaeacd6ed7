"""Where Joulescopes are: what the maker's driver finds on USB, and those that are only played.

The maker publishes no protocol of the wire, only a driver (`pyjoulescope_driver`, a package with
native code). So what a virtual Joulescope can play is that driver, at the methods below, for the
one instrument that it is; the farm's own driver runs unchanged above it. Both sides meet here as
they would meet on a bus, and the package is imported when an instrument is asked for that nobody
plays: a farm with virtual ones only does without it.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, Protocol, cast

from farm.errors import ConfigError

Heard = Callable[[str, Any], None]
"""Gets a topic and its value, in a thread of the driver."""


class Bus(Protocol):
    """What the farm uses of `pyjoulescope_driver.Driver`.

    Topics begin with the path of an instrument, `u/js220/001234`. Whatever fails raises
    `RuntimeError` or `TimeoutError`.
    """

    def device_paths(self) -> list[str]:
        """Paths of the instruments that are plugged in."""

    def open(self, device_prefix: str, mode: str | None = None) -> object:
        """Take an instrument; `restore` leaves its settings."""

    def close(self, device_prefix: str) -> object:
        """Let go of it."""

    def publish(self, topic: str, value: Any) -> object:
        """Set something."""

    def query(self, topic: str) -> Any:
        """What something is set to."""

    def subscribe(self, topic: str, flags: str, fn: Heard) -> object:
        """Hear of values from now on (`pub`)."""

    def unsubscribe(self, topic: str, fn: Heard) -> object:
        """Hear no more."""


_played: dict[str, Bus] = {}


def plug_in(path: str, bus: Bus) -> None:
    """Have an instrument that is played be found, until this process ends."""
    _played[path] = bus


def is_played(path: str) -> bool:
    """Whether an instrument has no hardware."""
    return path in _played


def bus_of(path: str) -> Bus:
    """Whatever leads to an instrument, plugged in or not.

    Raises:
        ConfigError: the maker's driver is not installed.
    """
    return _played.get(path) or _makers()


@cache
def _makers() -> Bus:
    """The maker's driver; it wants to be the only one in a process."""
    try:
        maker = import_module("pyjoulescope_driver")
    except ImportError as error:
        raise ConfigError(
            f"a Joulescope needs the module '{error.name}', which cannot be loaded",
            hint="pip install 'verdict-farm[joulescope]'",
        ) from error
    driver = maker.Driver()
    atexit.register(driver.finalize)
    return cast(Bus, driver)
