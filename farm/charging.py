"""Keeps batteries in their charge band, and hands off packs that are not to be trusted.

A phone that stays at 100 % for months swells. So the port that feeds it is switched off above its
band and on below, whenever somebody is at it anyway: at the end of a session, and when `farm
charge` comes by, which a timer starts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeVar

from farm.battery import Look, judge, read_band
from farm.connection import Connection
from farm.errors import (
    ConfigError,
    ConnectError,
    FarmError,
    LeaseTimeout,
    PreflightFailed,
    as_utf8,
)
from farm.lease import leased
from farm.model import Device, DeviceState
from farm.plugins import connect, find_platform, find_power
from farm.protocols import Platform
from farm.record import Fact, JobResult, Reading
from farm.store.batteries import (
    Quarantine,
    begin_quarantine,
    devices_looked_at,
    end_quarantine,
    read_looks,
    read_quarantines,
    save_look,
)
from farm.store.database import Store

ANSWER_S = 60.0
"""How long a phone whose port was off may take until it answers: USB, adb's server, Wi-Fi."""
POLL_S = 2.0

T = TypeVar("T")


class PortState(StrEnum):
    """What is known of a port."""

    LEFT = "as it was"
    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"


class Port:
    """The switchable port that feeds a device, and the band that it keeps the battery in.

    Attributes:
        state: what was done to it.
    """

    def __init__(self, device: Device, power: str) -> None:
        self.state = PortState.LEFT
        self._device = device
        self._band = read_band(device)
        self._power = find_power(power)(device)

    def switch(self, *, on: bool) -> None:
        """Feed the device, or stop that.

        Raises:
            InfraError: the port does not obey; its state is unknown then.
        """
        self.state = PortState.UNKNOWN
        try:
            (self._power.on if on else self._power.off)()
        except FarmError as error:
            error.device = error.device or self._device.name
            raise
        self.state = PortState.ON if on else PortState.OFF

    def keep_in_band(self, level_pct: float) -> str:
        """Switch as the charge asks for; one line for people.

        Between the ends of the band the port stays as it was before anybody came: a battery rises
        to the upper end and falls to the lower one, and is not held at either.

        Raises:
            InfraError: the port does not obey.
        """
        woken = self.state is PortState.ON
        if level_pct >= self._band.high:
            self.switch(on=False)
            return f"not charged: {self._band} % is its band"
        if level_pct <= self._band.low:
            if not woken:
                self.switch(on=True)
            return f"charged to {self._band.high} %"
        if woken:
            self.switch(on=False)
        return f"in its band of {self._band} %"


def find_port(device: Device) -> Port | None:
    """The port of a device, None if the inventory gives it none."""
    power = dict(device.options).get("power")
    return Port(device, power) if power else None


def awake(port: Port | None, meet: Callable[[], T]) -> T:
    """Meet a device; one that does not answer gets power, and time to wake.

    A phone on a USB port that is off is not there, and one that ran empty comes back.

    Args:
        port: what feeds it, if that can be switched.
        meet: asks something of it; raises `ConnectError` if it does not answer.

    Raises:
        InfraError: it cannot be reached, or its port does not obey.
    """
    try:
        return meet()
    except ConnectError:
        if port is None:
            raise
    port.switch(on=True)
    deadline = time.monotonic() + ANSWER_S
    while True:
        try:
            return meet()
        except ConnectError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(POLL_S)


@contextmanager
def reached(device: Device) -> Iterator[tuple[Connection, Platform]]:
    """Reach a device for the time of a `with` block, and leave its battery in its band.

    Raises:
        InfraError: it cannot be reached.
    """
    port = find_port(device)
    connection = awake(port, lambda: connect(device))
    level_pct: float | None = None
    try:
        platform = find_platform(connection.platform)(connection)
        try:
            yield connection, platform
        finally:
            if port:
                with suppress(FarmError):
                    level_pct = _look((), platform.sample(), idle=False).level_pct
    except FarmError as error:
        error.device = error.device or device.name
        raise
    finally:
        connection.close()
        if port and level_pct is not None:
            # What was measured counts more than a port that does not obey: `farm charge` tells.
            with suppress(FarmError):
                port.keep_in_band(level_pct)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tended:
    """What `farm charge` found at one device and did there.

    Attributes:
        look: what the battery told; None if it was not asked or could not be.
        port: what is known of its port.
        did: one line for people.
        fix: what a person has to do; empty if nothing.
    """

    device: Device
    look: Look | None = None
    port: PortState = PortState.LEFT
    did: str
    fix: str = ""


def choose(devices: Iterable[Device], names: tuple[str, ...]) -> tuple[Device, ...]:
    """The devices whose batteries can be tended: those with a port.

    Args:
        devices: what a person asked for.
        names: how they were named; empty for all there are.

    Raises:
        ConfigError: there is none, or one that was named has no port.
    """
    devices = tuple(devices)
    hint = "write its 'power' into the inventory: docs/batteries.md"
    without = [device for device in devices if find_port(device) is None]
    if names and without:
        raise ConfigError("no switchable port feeds it", device=without[0].name, hint=hint)
    if len(without) == len(devices):
        raise ConfigError("no device is fed by a switchable port", hint=hint)
    return tuple(device for device in devices if device not in without)


def tend(store: Store, device: Device) -> Tended:
    """Look at a battery that nobody uses, keep it in its band, and judge it."""
    if device.state is not DeviceState.ACTIVE:
        return Tended(device=device, did=f"in {device.state}: left alone")
    try:
        with leased(store, device, "charge"):
            return _tended(store, device)
    except LeaseTimeout as error:
        return Tended(device=device, did=f"{error.message}: left alone")


def _tended(store: Store, device: Device) -> Tended:
    port = find_port(device)
    assert port is not None
    if quarantine := read_quarantines(store).get(device.name):
        return _cut_off(device, port, quarantine)
    look: Look | None = None
    try:
        with closing(awake(port, lambda: connect(device))) as connection:
            look = look_at(find_platform(connection.platform)(connection))
        save_look(store, device.name, look)
        if quarantine := _judged(store, device.name, look.taken):
            return _cut_off(device, port, quarantine, look)
        if look.level_pct is None:
            return Tended(
                device=device, look=look, port=port.state, did="does not tell its charge",
                fix="a port that feeds no battery needs no 'power' in the inventory",
            )  # fmt: skip
        did = port.keep_in_band(look.level_pct)
    except FarmError as error:
        if error.family not in ("infra", "device"):
            raise
        fix = error.hint or f"see to it: farm doctor {device.name}"
        return Tended(device=device, look=look, port=port.state, did=error.message, fix=fix)
    return Tended(device=device, look=look, port=port.state, did=did)


def _cut_off(
    device: Device, port: Port, quarantine: Quarantine, look: Look | None = None
) -> Tended:
    """Stop feeding a pack that is not to be trusted."""
    did, fix = f"quarantined: {quarantine.saw}", _advice(quarantine)
    try:
        port.switch(on=False)
    except FarmError as error:
        did, fix = f"{did}; {error.message}", f"unplug it now; {fix}"
    return Tended(device=device, look=look, port=port.state, did=did, fix=fix)


def refuse_quarantined(store: Store, device: Device) -> None:
    """Refuse to measure on a device whose pack is not to be trusted.

    Raises:
        PreflightFailed: it is in quarantine.
    """
    if quarantine := read_quarantines(store).get(device.name):
        raise PreflightFailed(
            f"not fit to measure on: its battery is in quarantine: {quarantine.saw}",
            device=device.name,
            hint=_advice(quarantine),
        )


def note_job(store: Store, result: JobResult) -> None:
    """Keep what a job's session saw of the battery; a suspicious pack is fed no longer.

    A job that saw nothing of a battery is kept only if there is one: charge that was lost
    meanwhile is no riddle.
    """
    device = result.job.device
    readings = [reading for repeat in result.repeats for reading in repeat.readings]
    look = _look(result.environment, readings, idle=False, taken=result.finished)
    port = find_port(device)
    if port is None and look == Look(taken=look.taken, idle=False):
        return
    save_look(store, device.name, look)
    quarantine = _judged(store, device.name, look.taken)
    if port and quarantine:
        _cut_off(device, port, quarantine)


def clear(store: Store, device: Device, *, who: str, why: str) -> None:
    """Trust a device's pack again on the word of a person.

    Raises:
        ConfigError: nobody says so, for no reason, or it is trusted already.
    """
    person, reason = as_utf8(who).strip(), as_utf8(why).strip()
    if not person:
        raise ConfigError("nobody is named who says so", hint="name yourself with --who")
    if not reason:
        raise ConfigError(
            "--cleared is empty", hint="say in a sentence why, for those who come later"
        )
    if not end_quarantine(store, device.name, who=person, why=reason):
        raise ConfigError("is not in quarantine", device=device.name, hint="'farm fleet' tells")


def look_at(platform: Platform) -> Look:
    """What an idle device tells of its battery.

    Raises:
        InfraError: it cannot be asked.
    """
    return _look(platform.facts(), platform.sample(), idle=True)


def _judged(store: Store, device: str, now: datetime) -> Quarantine | None:
    """The quarantine that a device's pack is in, or comes into because it is suspicious."""
    if known := read_quarantines(store).get(device):
        return known
    suspicions = judge(
        read_looks(store, device, now),
        lambda: (
            read_looks(store, name, now) for name in devices_looked_at(store) if name != device
        ),
    )
    return begin_quarantine(store, device, suspicions) if suspicions else None


def _advice(quarantine: Quarantine) -> str:
    return f'{quarantine.act}; then: farm charge {quarantine.device} --cleared "WHY"'


def _look(
    facts: Iterable[Fact], readings: Iterable[Reading], *, idle: bool, taken: datetime | None = None
) -> Look:
    """A look from a platform's words; what no battery can be is unknown."""
    told: Mapping[str, str] = {fact.name: fact.value for fact in facts}
    read = {reading.name: reading.value for reading in readings}
    cycles = _between(told.get("battery_cycles"), 1, 100_000)
    return Look(
        taken=taken or datetime.now(UTC),
        idle=idle,
        level_pct=_between(read.get("battery"), 0, 100),
        temperature_c=_between(read.get("battery_temperature"), -40, 150),
        health=told.get("battery_health", "").strip().lower().replace("_", " "),
        cycles=None if cycles is None else int(cycles),
        capacity_pct=_between(told.get("battery_capacity_pct"), 1, 150),
    )


def _between(told: str | float | None, lowest: float, highest: float) -> float | None:
    """A number, if it is one that can be."""
    try:
        number = float(told) if told is not None else math.nan
    except ValueError:
        return None
    return number if lowest <= number <= highest else None
