"""The whole farm in a minute: a good and two bad candidates against a baseline, everywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from farm.campaign import gate, run
from farm.errors import ConfigError
from farm.execution import Progress
from farm.inventory import read_inventory
from farm.judging import GateVerdict
from farm.model import DeviceState
from farm.papers import Document
from farm.record import Verdict
from farm.reporting import gate_document, run_document
from farm.request import PathLike
from farm.store.database import open_store
from farm.store.rows import find_run
from farm.suite import read_suite

SUITE = "smoke"
ENERGY_SUITE = "energy_look"
PLANTED = {
    "int8_recalibrated": None,
    "int8_ruined": "accuracy",
    "int8_slow": "latency",
}
"""The candidates, and what is wrong with each: nothing, its calibration, or extra operators."""

SHOWS_IN = {"accuracy": {"accuracy"}, "latency": {"latency", "compute"}}
"""The families of metrics that show what is planted; an emulator counts instructions, not time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoGate:
    """One gate of the demo."""

    candidate: str
    planted: str | None
    verdict: GateVerdict

    @property
    def as_expected(self) -> bool:
        """Whether the gate found what was planted, everywhere, and nothing else that decides."""
        failed = {
            cell.rule.metric.family
            for cell in self.verdict.cells
            if cell.rule.gate and cell.verdict is Verdict.FAIL
        }
        if self.planted is None:
            return self.verdict.verdict is Verdict.PASS
        shows_in = SHOWS_IN[self.planted]
        caught = all(
            cell.verdict is Verdict.FAIL
            for cell in self.verdict.cells
            if cell.rule.gate and cell.rule.metric.family in shows_in
        )
        return caught and bool(failed) and failed <= shows_in


def run_demo(
    *,
    inventory: PathLike,
    store: PathLike,
    progress: Callable[[str], Progress],
    show: Callable[[Document], None],
) -> tuple[DemoGate, ...]:
    """Gate every candidate; `progress` gives a reporter per candidate, `show` gets each document.

    Raises:
        ConfigError: the demo's workload is not installed, or the inventory is wrong.
    """
    folder = read_suite(SUITE).workload
    if folder is None:
        raise ConfigError(f"the suite '{SUITE}' has no workload")
    gates = []
    for name, planted in PLANTED.items():
        verdict = gate(
            SUITE,
            candidate=folder / "candidates" / f"{name}.onnx",
            baseline=folder,
            inventory=inventory,
            store=store,
            fresh="the demo always measures",
            progress=progress(name),
        )
        gates.append(DemoGate(candidate=name, planted=planted, verdict=verdict))
        show(gate_document(verdict))
    return tuple(gates)


def look_at_energy(*, inventory: PathLike, store: PathLike, progress: Progress) -> Document | None:
    """What an inference of the good model costs on every device with a meter; a `farm.run/1`.

    Its windows are too short to judge by, and marked so. None if no device has a meter.

    Raises:
        ConfigError: the inventory is wrong.
    """
    devices = read_inventory(Path(inventory)).devices
    metered = [d.name for d in devices if d.meter and d.state is DeviceState.ACTIVE]
    if not metered:
        return None
    made = run(ENERGY_SUITE, inventory=inventory, store=store, devices=metered, progress=progress)
    with open_store(Path(store), read_only=True) as opened:
        return run_document(opened, find_run(opened, made.run_id))


def energy_told(energy: Document) -> bool:
    """Whether every device with a meter has an energy with an interval."""
    return all(
        any(m["metric"] == "energy.per_inference" and m["lo"] for m in job["measurements"])
        for job in energy["jobs"]
    )


def demo_document(
    gates: tuple[DemoGate, ...], energy: Document | None, inventory: PathLike
) -> Document:
    """The document `farm.demo/1`."""
    devices = read_inventory(Path(inventory)).devices
    return {
        "schema": "farm.demo/1",
        "gates": [
            {**gate_document(g.verdict), "candidate": g.candidate, "planted": g.planted,
             "as_expected": g.as_expected}
            for g in gates
        ],
        "energy": energy["jobs"] if energy else [],
        "devices": [{"device": d.name, "type": d.type, "address": d.address.scheme}
                    for d in devices],
    }  # fmt: skip
