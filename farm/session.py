"""A device that is reached, clean, and fit to be measured on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version

from farm.errors import Evidence, FarmError, OutOfSpace, PreflightFailed
from farm.model import Device
from farm.plugins import find_platform, find_transport
from farm.protocols import Limits, Platform, Transport
from farm.record import Fact, Finding

COOL_S = 10.0
"""Pause between two looks at a device that is too hot."""
MAX_COOL_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Session:
    """The live counterpart of a `Device`, for as long as its lease."""

    device: Device
    transport: Transport
    platform: Platform
    environment: tuple[Fact, ...]
    notes: tuple[str, ...]
    limits: Limits


@contextmanager
def open_session(device: Device, limits: Limits) -> Iterator[Session]:
    """Reach a device, end what earlier sessions left running, and wait until it is fit.

    Raises:
        InfraError: it cannot be reached.
        PreflightFailed: it did not become fit in time.
        OutOfSpace: there is no room for what must be pushed.
    """
    transport = find_transport(device.address.scheme)(device)
    try:
        platform = find_platform(transport.platform)(transport)
        swept = platform.sweep()
        findings = _wait_until_fit(device, transport, platform, limits)
        yield Session(
            device=device,
            transport=transport,
            platform=platform,
            environment=(*platform.facts(), Fact(name="farm", value=version("verdict-farm"))),
            notes=(
                *(f"{finding.code}: {finding.message}" for finding in findings),
                *(f"swept: an earlier run was still there ({name})" for name in swept),
            ),
            limits=limits,
        )
    except FarmError as error:
        error.device = error.device or device.name
        raise
    finally:
        transport.close()


def _wait_until_fit(
    device: Device, transport: Transport, platform: Platform, limits: Limits
) -> tuple[Finding, ...]:
    """What a preflight found that does not forbid measuring."""
    deadline_ns = transport.clock.now_ns() + int(MAX_COOL_S * 1e9)
    while True:
        findings = platform.preflight(limits)
        blocking = [finding for finding in findings if finding.blocking]
        if not blocking:
            return findings
        hopeless = next((finding for finding in blocking if not finding.passing), None)
        if hopeless or transport.clock.now_ns() >= deadline_ns:
            worst = hopeless or blocking[0]
            kind = OutOfSpace if worst.code == "low_space" else PreflightFailed
            raise kind(
                f"not fit to measure on: {worst.message}",
                device=device.name,
                hint="mend it, or take it out with 'state: maintenance' in the inventory",
                evidence=[Evidence(name="preflight", text=_as_text(findings))],
            )
        transport.clock.sleep(COOL_S)


def _as_text(findings: tuple[Finding, ...]) -> str:
    return "\n".join(f"{finding.code}: {finding.message}" for finding in findings)
