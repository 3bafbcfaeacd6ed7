"""The state of the lab: what is installed, which devices answer, and what would mend the rest."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from farm.battery import Look, describe
from farm.charging import reached, refuse_quarantined
from farm.connection import Connection
from farm.errors import FarmError, LeaseTimeout
from farm.inventory import read_inventory
from farm.lease import leased
from farm.model import Device, DeviceState
from farm.plugins import (
    find_suites,
    runtimes_for,
)
from farm.policy import read_policy
from farm.protocols import Limits, Runtime
from farm.store.batteries import latest_looks, read_looks, read_quarantines
from farm.store.database import open_store
from farm.store.noise import latest_noise
from farm.store.rows import last_jobs, read_holders
from farm.store.writer import iso
from farm.suite import read_suite
from farm.workload import read_workload

EXTRAS = {
    "onnx": ("onnx", "onnxruntime"),
    "dashboard": ("streamlit", "altair"),
    "adb": ("adb_shell", "adbutils"),
    "ssh": ("paramiko",),
    "mcu": ("serial", "emx_onnx_cgen", "onnx", "onnxruntime", "ziglang"),
    "native": ("ziglang",),
    "meters": ("cryptography", "serial"),
    "joulescope": ("pyjls", "pyjoulescope_driver"),
    "scpi": ("pyvisa", "pyvisa_py"),
}
"""Modules that each optional part of the installation needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        ok: whether it is as it should be.
        detail: what was found.
        fix: the command or act that would mend it.
        brief: whether it belongs into one line about the whole device.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""
    brief: bool = False


def validate(inventory: Path) -> dict[str, Any]:
    """Read everything that people wrote; the document `farm.check/1` of what there is.

    Raises:
        ConfigError: the first mistake, with file and line.
    """
    devices = read_inventory(inventory).devices
    suites = []
    for name in find_suites():
        suite = read_suite(name)
        if suite.workload:
            read_workload(suite.workload)
        rules = read_policy(suite.policy_path).rules if suite.policy_path.exists() else ()
        suites.append(
            {
                "suite": name,
                "measures": list(suite.measures),
                "decides_by": [rule.metric.name for rule in rules if rule.gate],
            }
        )
    return {
        "schema": "farm.check/1",
        "inventory": str(inventory),
        "devices": [device.name for device in devices],
        "suites": suites,
    }


def examine(inventory: Path, store: Path) -> Iterator[Check]:
    """Look at the installation, the store and every active device, one check after the other."""
    yield Check(name="python", ok=sys.version_info >= (3, 11), detail=sys.version.split()[0])
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        fix = f"pip install 'verdict-farm[{extra}]'" if missing else ""
        detail = f"missing: {', '.join(missing)}" if missing else ", ".join(modules)
        yield Check(name=f"extra {extra}", ok=not missing, detail=detail, fix=fix)
    yield _checked("store", partial(_store, store))
    try:
        devices = read_inventory(inventory).devices
    except FarmError as error:
        yield Check(name="inventory", ok=False, detail=str(error), fix=error.hint)
        return
    yield Check(name="inventory", ok=True, detail=f"{len(devices)} devices in {inventory}")
    for device in devices:
        if device.state is DeviceState.ACTIVE:
            yield from _alone(store, device, lambda device: [_checked_device(device)])
        else:
            yield Check(name=f"device {device.name}", ok=True, detail=f"in {device.state}")


def examine_device(inventory: Path, store: Path, name: str) -> Iterator[Check]:
    """Look at one device thoroughly, one check after the other.

    Raises:
        ConfigError: the inventory is wrong or has no such device.
    """
    (device,) = read_inventory(inventory).select((name,))
    battery = _checked("battery", partial(_battery, store, device))
    if battery.detail:
        yield battery
    yield from _alone(store, device, _thoroughly)


def survey(inventory: Path, store: Path) -> dict[str, Any]:
    """The document `farm.fleet/1`: every device with state, holder, last job, noise and battery.

    Raises:
        ConfigError: the inventory is wrong.
    """
    devices = read_inventory(inventory).devices
    holders: dict[str, str] = {}
    last: dict[str, Any] = {}
    noise: dict[str, float] = {}
    batteries: dict[str, Look] = {}
    quarantines: dict[str, dict[str, str]] = {}
    if store.exists():
        with open_store(store, read_only=True) as opened:
            holders = read_holders(opened)
            names = [device.name for device in devices]
            last = last_jobs(opened, names)
            batteries = latest_looks(opened, names)
            quarantines = {name: asdict(one) for name, one in read_quarantines(opened).items()}
            for budget in latest_noise(opened):
                if budget.metric == "latency.p50" and not budget.outdated:
                    noise[budget.device] = 100 * budget.block_sd
    return {
        "schema": "farm.fleet/1",
        "devices": [
            {
                "device": device.name,
                "type": device.type,
                "state": device.state,
                "simulated": device.simulated,
                "location": device.location,
                "owner": device.owner,
                "holder": holders.get(device.name),
                "last_job": last.get(device.name),
                "block_sd_pct": noise.get(device.name),
                "battery": look_document(batteries.get(device.name)),
                "quarantine": quarantines.get(device.name),
            }
            for device in devices
        ],
    }


def look_document(look: Look | None) -> dict[str, Any] | None:
    """A look at a battery as a part of a document."""
    return None if look is None else asdict(look) | {"taken": iso(look.taken)}


def _checked(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name=name, ok=True, detail=look())
    except FarmError as error:
        return Check(name=name, ok=False, detail=error.message, fix=error.hint)


def _store(folder: Path) -> str:
    if not folder.exists():
        return f"{folder} will be made by the first run"
    with open_store(folder):
        return str(folder)


def _alone(
    store: Path, device: Device, look: Callable[[Device], Iterable[Check]]
) -> Iterator[Check]:
    """Look at a device while nobody else uses it: looking would disturb what is measured."""
    name = f"device {device.name}"
    try:
        with ExitStack() as stack:
            if store.exists():
                opened = stack.enter_context(open_store(store))
                stack.enter_context(leased(opened, device, "doctor"))
                refuse_quarantined(opened, device)
            yield from look(device)
    except LeaseTimeout as error:
        yield Check(name=name, ok=True, detail=f"{error.message}: left alone")
    except FarmError as error:
        yield Check(name=name, ok=False, detail=error.message, fix=error.hint)


def _battery(store: Path, device: Device) -> str:
    """What all looks at a battery tell of its pack, whether or not the device answers now."""
    if not store.exists():
        return ""
    with open_store(store) as opened:
        return describe(read_looks(opened, device.name, datetime.now(UTC)))


def _checked_device(device: Device) -> Check:
    """Reach a device and the runtime that it is meant to have, in one line."""
    checks = tuple(_thoroughly(device))
    bad = next((check for check in checks if not check.ok), None)
    if bad:
        return Check(name=f"device {device.name}", ok=False, detail=bad.detail, fix=bad.fix)
    detail = "; ".join(check.detail for check in checks if check.brief)
    return Check(name=f"device {device.name}", ok=True, detail=detail)


def _thoroughly(device: Device) -> Iterator[Check]:
    """Everything about one device; what stands in the way of measuring is not ok."""
    with reached(device) as (connection, platform):
        facts = platform.facts()
        os = next((fact.value for fact in facts if fact.name == "os"), "")
        yield Check(name="reached", ok=True, detail=os or device.address.scheme, brief=True)
        for fact in (*connection.describe(), *facts):
            yield Check(name=fact.name, ok=True, detail=fact.value)
        for name, kind in runtimes_for(connection).items():
            yield _runtime(name, kind, connection, needed=name == device.runtime)
        for finding in platform.preflight(Limits()):
            ok = not finding.blocking
            yield Check(name=finding.code, ok=ok, detail=finding.message, brief=True)


def _runtime(name: str, kind: type[Runtime], connection: Connection, *, needed: bool) -> Check:
    """Whether a runtime works there; only the one that the device is meant to use must."""
    try:
        facts = {fact.name: fact.value for fact in kind(connection).facts()}
    except FarmError as error:
        fix = error.hint if needed else ""
        return Check(name=name, ok=not needed, detail=f"{name}: {error.message}", fix=fix)
    told = [f"{name} with {facts['accelerators']}", facts.get("unusable", "")]
    return Check(name=name, ok=True, detail="; ".join(filter(None, told)), brief=needed)
