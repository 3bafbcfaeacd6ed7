"""A virtual device: physics, a clock of its own, scripted faults, and the truth about itself.

Models really run: the loadgen that is pushed is executed on the controller for its outputs, its
complaints and its crashes. Only times, memory, heat and power come from the physics. A window
beside a meter takes real time, for the device's rail (`drivers.virtual.rail`) is watched meanwhile.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drivers.virtual.cost import work_units
from drivers.virtual.physics import PROFILES, Body, Noise, Profile
from drivers.virtual.rail import rail_of
from drivers.virtual.real_time import EnergyTruth, plan_window
from farm.connection import Clock
from farm.errors import ConfigError, ConnectionLost, DeviceRebooted, nearest_hint
from farm.model import Address, Device

INFER_LIMIT_S = 600
LOAD_UNITS, LOAD_UNITS_PER_BYTE = 2000.0, 0.1
"""To load a model is this much work, in the units of `cost`."""
COLD_FACTOR = 3.0
"""The first inference of a process takes so many times longer."""
FAULTS = ("disconnect", "hang", "corrupt", "reboot", "throttle")


class VirtualClock(Clock):
    """Time that passes only when somebody waits for it."""

    def __init__(self) -> None:
        self._now_ns = 0
        self.on_sleep: Callable[[float], None] = lambda duration_s: None

    def now_ns(self) -> int:
        """Nanoseconds since the device was switched on."""
        return self._now_ns

    def sleep(self, duration_s: float) -> None:
        """Let time pass; the device cools meanwhile."""
        self.on_sleep(duration_s)
        self.advance(duration_s)

    def advance(self, duration_s: float) -> None:
        """Move the hands."""
        self._now_ns += round(duration_s * 1e9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What the physics really did in one repeat; no measurement may look at it."""

    model_sha256: str
    work_units: float
    level: float
    throttled: bool
    temperature_c: float
    p50_ns: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A process that ended in virtual time."""

    returncode: int
    stdout: str
    stderr: str
    duration_s: float


class VirtualDevice:
    """One unit; lives as long as the controller's process.

    Address: `virtual://PROFILE?seed=N&root=/folder&fault=KIND:AT`. Faults strike once, at the
    AT-th operation (`disconnect`), push (`corrupt`) or process start (`hang`, `reboot`); `throttle`
    lasts from the AT-th start on.

    Args:
        device: as the inventory has it.
        root: keeps what it keeps without power.
        kinds: the faults that its address may name.
    """

    def __init__(self, device: Device, root: Path, *, kinds: tuple[str, ...] = FAULTS) -> None:
        profile = find_profile(device.address)
        self.name = device.name
        self.root = root
        self.profile = profile
        self.seed = read_seed(device.address)
        self._faults = read_faults(device.address, kinds)
        self._counts = {"operation": 0, "push": 0, "start": 0}
        self.boots = self._count_boot()
        self.truth: list[Truth] = []
        self.throttled = False
        self.busy_s = 0.0
        self.body = Body(profile, temperature_c=profile.ambient_c + 4)
        self.clock = VirtualClock()
        self.clock.on_sleep = lambda duration_s: self.body.pass_time(duration_s, profile.idle_w)
        seed = zlib.crc32(
            f"{self.name} {self.seed} {self.boots}".encode("utf-8", "backslashreplace")
        )
        self._noise = Noise(profile, seed)
        self._cold_noise = Noise(profile, seed ^ 1)
        self._power_noise = np.random.default_rng([seed, 2])
        self._rail = rail_of(self.name, volts=profile.volts, idle_w=profile.idle_w)
        self._rail.step(time.monotonic_ns(), profile.idle_w)

    @property
    def boot_id(self) -> str:
        """Changes with every restart."""
        return f"{self.name}-{self.boots}"

    def operate(self, *, bytes_moved: int = 0) -> None:
        """One exchange with the controller.

        Raises:
            ConnectionLost: a scripted disconnect is due.
        """
        profile = self.profile
        self.clock.sleep(profile.link_s + bytes_moved / profile.link_bytes_per_s)
        if self.due("operation", "disconnect"):
            raise ConnectionLost("the link broke (scripted fault)", device=self.name)

    def due(self, counter: str, kind: str) -> bool:
        """Count one of what a fault waits for; whether it strikes now."""
        self._counts[counter] += 1
        return self._due_now(counter, kind)

    def receive(self, path: Path) -> None:
        """A file has arrived; a scripted corruption flips one bit of it."""
        if self.due("push", "corrupt"):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)

    def execute(self, loadgen: str, spec: dict[str, Any], folder: Path) -> Ran:
        """Run the pushed loadgen: outputs and complaints are real, times are physics."""
        self._counts["start"] += 1
        self._strike()
        real = _run_really(loadgen, spec, folder)
        result_path = folder / "result.json"
        if real.returncode or "error" in (result := json.loads(result_path.read_text())):
            return Ran(
                returncode=real.returncode,
                stdout=real.stdout,
                stderr=real.stderr,
                duration_s=self.profile.start_s,
            )
        busy_s = self._in_our_time(spec, folder, result)
        result["peak_rss_bytes"] = self._peak_rss(Path(spec["model"]))
        result_path.write_text(json.dumps(result))
        self.body.pass_time(busy_s, self.profile.busy_w)
        self.busy_s += busy_s
        # Beside a meter that time has passed already.
        duration_s = 0.0 if spec.get("metered") else self.profile.start_s + busy_s
        return Ran(returncode=0, stdout="", stderr="", duration_s=duration_s)

    def _in_our_time(self, spec: dict[str, Any], folder: Path, result: dict[str, Any]) -> float:
        """Put physics in the place of every time that was really measured.

        Returns:
            How long the run took here, in seconds.
        """
        model = Path(spec["model"])
        query_s = work_units(model) * self.profile.seconds_per_unit
        level, busy_s = 1.0, query_s
        if spec["mode"] == "measure":
            durations = self._latencies(spec)
            level = self.truth[-1].level
            starts = self.clock.now_ns() + np.cumsum(durations) - durations
            np.save(folder / "latency.npy", np.stack([starts, durations]))
            result["pace_ns"] = None  # nobody else computes there
            result["facts"] |= {"warmup_settled": True, "loop_overhead_ns": 0.0}
            busy_s = float(durations.sum()) / 1e9 + spec["load"]["warmup_s"]
            if spec.get("metered"):
                result["spans"] = self._beside_meter(spec, durations, busy_s)
        elif spec["mode"] == "infer":
            busy_s = _items(folder / "outputs.npz") * query_s
        else:
            _retime(folder / "profile.json", query_s)
        load_units = LOAD_UNITS + LOAD_UNITS_PER_BYTE * model.stat().st_size
        first, load = 1e9 * level * self._cold_noise.spread(2)
        result["load_ns"] = round(load * load_units * self.profile.seconds_per_unit)
        if "first_ns" in result:
            result["first_ns"] = round(first * COLD_FACTOR * query_s)
        return busy_s

    def hangs(self) -> bool:
        """Whether the process that was just started never ends."""
        return self._due_now("start", "hang")

    def _latencies(self, spec: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Durations in ns of one window, shape [n]."""
        load, model = spec["load"], Path(spec["model"])
        units = work_units(model)
        level = self._noise.next_level()
        expected_s = units * self.profile.seconds_per_unit * level
        n = max(load["min_queries"], int(load["min_duration_s"] / expected_s) + 1)
        n = min(n, int(load["max_duration_s"] / expected_s) + 1)
        durations_s = expected_s * self._noise.spread(n)
        heat = self.body.temperatures(np.cumsum(durations_s), self.profile.busy_w)
        slow = (heat > self.profile.throttle_at_c) | self._throttle_is_scripted()
        durations_s = np.where(slow, durations_s * self.profile.throttle_factor, durations_s)
        self.throttled = bool(slow.any())
        self._tell(
            Truth(
                model_sha256=model.name,
                work_units=units,
                level=level,
                throttled=self.throttled,
                temperature_c=float(heat[-1]),
                p50_ns=float(np.median(durations_s) * 1e9),
            )
        )
        return np.rint(durations_s * 1e9).astype(np.int64)

    def _beside_meter(
        self, spec: dict[str, Any], durations: np.ndarray[Any, np.dtype[np.int64]], busy_s: float
    ) -> list[list[Any]]:
        """Live through a window in real time; its spans, as the loadgen tells them."""
        begun_ns = time.monotonic_ns()
        timeline = plan_window(begun_ns, self.profile, spec, durations, self._power_noise)
        timeline.happen(self._rail)
        self.clock.advance(busy_s)
        self.clock.sleep((timeline.end_ns - begun_ns) / 1e9 - busy_s)
        for truth in timeline.truths(Path(spec["model"]).name, self._rail):
            self._append("energy.jsonl", truth)
        return timeline.told()

    def _peak_rss(self, model: Path) -> int:
        """Runtime plus three times the file (the file, its weights, its arena), in whole pages."""
        bytes_used = self.profile.base_rss_bytes + 3 * model.stat().st_size
        return int(bytes_used) // 4096 * 4096

    def _tell(self, truth: Truth) -> None:
        self.truth.append(truth)
        self._append("truth.jsonl", truth)

    def _append(self, name: str, truth: Truth | EnergyTruth) -> None:
        with (self.root / name).open("a") as file:
            file.write(json.dumps(asdict(truth)) + "\n")

    def _count_boot(self) -> int:
        path = self.root / "boots"
        boots = int(path.read_text()) + 1 if path.exists() else 1
        path.write_text(str(boots))
        return boots

    def _strike(self) -> None:
        if self._due_now("start", "reboot"):
            self.boots = self._count_boot()
            self.throttled = False
            raise DeviceRebooted("it restarted (scripted fault)", device=self.name)

    def _throttle_is_scripted(self) -> bool:
        return any(kind == "throttle" and self._counts["start"] >= at for kind, at in self._faults)

    def _due_now(self, counter: str, kind: str) -> bool:
        return (kind, self._counts[counter]) in self._faults


def find_profile(address: Address) -> Profile:
    """The type of device that an address names.

    Raises:
        ConfigError: there is none of that name.
    """
    if address.place not in PROFILES:
        raise ConfigError(
            f"there is no virtual device '{address.place}'",
            hint=nearest_hint(address.place, PROFILES),
        )
    return PROFILES[address.place]


def read_seed(address: Address) -> int:
    """The seed of all noise.

    Raises:
        ConfigError: it is no whole number.
    """
    text = address.option("seed", "0")
    if not text.isdigit():
        raise ConfigError(f"seed '{text}' is no whole number", hint="write for example seed=1")
    return int(text)


def read_faults(address: Address, kinds: tuple[str, ...] = FAULTS) -> tuple[tuple[str, int], ...]:
    """Kind and moment of every scripted fault.

    Args:
        address: of the device.
        kinds: that it may name.

    Raises:
        ConfigError: one cannot be read.
    """
    faults = []
    for value in (value for name, value in address.options if name == "fault"):
        kind, _, at = value.partition(":")
        if kind not in kinds or not at.isdigit():
            raise ConfigError(
                f"fault '{value}' cannot be read",
                hint=f"write KIND:AT with KIND one of {', '.join(kinds)}",
            )
        faults.append((kind, int(at)))
    return tuple(faults)


def _retime(profile: Path, query_s: float) -> None:
    """Scale the times in a runtime's profile: an inference takes as long as it does here.

    The shares of the nodes are those of the controller, whose first inference does not count.
    """
    text = profile.read_text(errors="surrogateescape")
    runs_us = [int(us) for us in re.findall(r'"dur" :(\d+).*"name" :"model_run"', text)]
    really_us = float(np.mean(runs_us[1:] or runs_us or [1]))
    factor = 1e6 * query_s / max(1.0, really_us)

    def scaled(found: re.Match[str]) -> str:
        return f"{found[1]}{round(factor * int(found[2]))}"

    text = re.sub(r'("(?:ts|dur)" :)(\d+)', scaled, text)
    profile.write_text(text, errors="surrogateescape")


def _items(outputs: Path) -> int:
    with np.load(outputs, allow_pickle=False) as arrays:
        return len(arrays[arrays.files[0]])


_really_ran: dict[str, tuple[subprocess.CompletedProcess[str], dict[str, bytes]]] = {}


def _run_really(
    loadgen: str, spec: dict[str, Any], folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run the loadgen once per model, inputs and mode; later calls get the same files again.

    Files on a virtual device are named by their digest, so the key holds nothing but content.
    """
    spec = {**spec, "metered": None}  # there is nothing to see of it on the controller
    content = {key: spec[key] and Path(spec[key]).name for key in ("model", "inputs")}
    key = json.dumps({**spec, **content, "load": None, "quiet_pace_ns": None})
    if key not in _really_ran:
        quick = {"min_duration_s": 0, "min_queries": 1, "max_duration_s": 10, "warmup_s": 0}
        load = {**spec.get("load", {}), **quick}
        argv = [sys.executable, loadgen, json.dumps({**spec, "load": load})]
        there = set(folder.iterdir())  # what tells of this very process is nobody else's
        done = subprocess.run(
            argv, cwd=folder, capture_output=True, text=True, timeout=INFER_LIMIT_S, check=False
        )
        new = [path for path in folder.iterdir() if path.is_file() and path not in there]
        made = {path.name: path.read_bytes() for path in new}
        _really_ran[key] = (done, made)
    done, made = _really_ran[key]
    for name, data in made.items():
        (folder / name).write_bytes(data)
    return done


_switched_on: dict[tuple[str, str, Path], VirtualDevice] = {}


def switch_on(device: Device, root: Path) -> VirtualDevice:
    """The unit behind a device; the same one for as long as this process lives."""
    key = (device.name, repr(device.address), root)
    if key not in _switched_on:
        root.mkdir(parents=True, exist_ok=True)
        _switched_on[key] = VirtualDevice(device, root)
    return _switched_on[key]
