"""A device that is reached, clean, and fit to be measured on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version

from farm.charging import reached
from farm.connection import Connection
from farm.errors import Evidence, FarmError, OutOfSpace, PreflightFailed
from farm.model import Device
from farm.plugins import find_connection
from farm.protocols import Limits, Platform, Watch
from farm.record import Fact, Finding
from farm.shell import insist

COOL_S = 10.0
"""Pause between two looks at a device that is too hot."""
MAX_COOL_S = 600.0
FARM_VERSION = Fact(name="farm", value=version("verdict-farm"))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Session:
    """The live counterpart of a `Device`, for as long as its lease.

    Attributes:
        watch: looks at the device once a second meanwhile.
        simulated: whether device or time are not real.
        environment: circumstances, as the session set them.
        notes: lines for people.
    """

    device: Device
    connection: Connection
    platform: Platform
    watch: Watch
    simulated: bool
    environment: tuple[Fact, ...]
    notes: tuple[str, ...]
    limits: Limits


@contextmanager
def open_session(device: Device, limits: Limits) -> Iterator[Session]:
    """Reach a device, clean up after earlier sessions, wait until it is fit, and tune it.

    Whatever happens, what was tuned is restored: here, or by the next session on the device.

    Raises:
        InfraError: it cannot be reached.
        PreflightFailed: it did not become fit in time.
        OutOfSpace: there is no room for what must be pushed.
    """
    with reached(device) as (connection, platform):
        began = time.monotonic()
        try:
            try:
                notes = _clean(platform)
                findings = _wait_until_fit(device, connection, platform, limits)
                notes += tuple(f"{finding.code}: {finding.message}" for finding in findings)
                notes += platform.prepare()
                with closing(platform.watch()) as watch:
                    yield Session(
                        device=device,
                        connection=connection,
                        platform=platform,
                        watch=watch,
                        simulated=_is_simulated(device),
                        environment=(*platform.facts(), FARM_VERSION),
                        notes=notes,
                        limits=limits,
                    )
            finally:
                insist(platform.restore)
        except FarmError as error:
            with suppress(FarmError):
                error.evidence += platform.evidence(time.monotonic() - began)
            raise


def _is_simulated(device: Device) -> bool:
    return device.simulated or find_connection(device.address.scheme).simulated


def _clean(platform: Platform) -> tuple[str, ...]:
    """Undo and end what an earlier session left; lines for people."""
    return (
        *(f"swept: an earlier run was still there ({name})" for name in platform.sweep()),
        *(f"restored: an earlier session had left {name} changed" for name in platform.restore()),
    )


def _wait_until_fit(
    device: Device, connection: Connection, platform: Platform, limits: Limits
) -> tuple[Finding, ...]:
    """What a preflight found that does not forbid measuring."""
    deadline_ns = connection.clock.now_ns() + int(MAX_COOL_S * 1e9)
    while True:
        findings = platform.preflight(limits)
        blocking = [finding for finding in findings if finding.blocking]
        if not blocking:
            return findings
        hopeless = next((finding for finding in blocking if not finding.passing), None)
        if hopeless or connection.clock.now_ns() >= deadline_ns:
            worst = hopeless or blocking[0]
            kind = OutOfSpace if worst.code == "low_space" else PreflightFailed
            raise kind(
                f"not fit to measure on: {worst.message}",
                device=device.name,
                hint="mend it, or take it out with 'state: maintenance' in the inventory",
                evidence=[Evidence(name="preflight", text=_as_text(findings))],
            )
        connection.clock.sleep(COOL_S)


def _as_text(findings: tuple[Finding, ...]) -> str:
    return "\n".join(f"{finding.code}: {finding.message}" for finding in findings)
