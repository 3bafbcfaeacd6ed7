"""What a virtual device tells about itself."""

from __future__ import annotations

from drivers.virtual.transport import VirtualTransport
from farm.connection import Transport
from farm.errors import ConfigError
from farm.protocols import Limits, Platform, Watch
from farm.record import Fact, Finding, Reading


class VirtualPlatform(Platform):
    """Facts, heat, charge and throttling from the physics."""

    def __init__(self, transport: Transport) -> None:
        if not isinstance(transport, VirtualTransport):
            raise ConfigError("the virtual platform needs a virtual device")
        self._device = transport.unit

    def facts(self) -> tuple[Fact, ...]:
        """Serial number, boot, and that none of it is real."""
        device = self._device
        found = {
            "serial": f"virtual-{device.name}-{device.seed}",
            "boot_id": device.boot_id,
            "os": "virtual",
            "simulated": "latency, memory, heat and charge are simulated; outputs are real",
        }
        return tuple(Fact(name=name, value=value) for name, value in found.items())

    def preflight(self, limits: Limits) -> tuple[Finding, ...]:
        """Heat and charge."""
        body = self._device.body
        findings = []
        if body.temperature_c > limits.max_temperature_c:
            message = (
                f"{body.temperature_c:.0f} degC, at most {limits.max_temperature_c:.0f} to start"
            )
            findings.append(Finding(code="hot", message=message, blocking=True, passing=True))
        if self._device.profile.battery_wh and body.battery_pct < limits.min_battery_pct:
            message = f"battery at {body.battery_pct:.0f} %, {limits.min_battery_pct:.0f} needed"
            findings.append(
                Finding(code="low_battery", message=message, blocking=True, passing=True)
            )
        return tuple(findings)

    def sample(self) -> tuple[Reading, ...]:
        """Temperature, throttling of the last window, charge."""
        device = self._device
        t_ns = device.clock.now_ns()
        readings = [
            Reading(t_ns=t_ns, name="temperature", unit="degC", value=device.body.temperature_c),
            Reading(t_ns=t_ns, name="throttled", unit="flag", value=float(device.throttled)),
        ]
        if device.profile.battery_wh:
            charge = device.body.battery_pct
            readings.append(Reading(t_ns=t_ns, name="battery", unit="pct", value=charge))
        return tuple(readings)

    def watch(self) -> Watch:
        """The samples before and after a window tell all there is."""
        return Blindness()

    def sweep(self) -> tuple[str, ...]:
        """Nothing survives on a virtual device."""
        return ()


class Blindness(Watch):
    """Sees nothing."""

    def readings(self) -> tuple[Reading, ...]:
        """Nothing."""
        return ()

    def close(self) -> None:
        """Nothing to end."""
