"""Whatever befalls a meter in a window: the figure is right, or it is marked, or there is none."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest

from drivers.meters import polled
from drivers.meters.tc66c import Tc66c
from drivers.virtual import hwmon_meter, tc66c_meter
from drivers.virtual.machine import switch_all_off
from tests.scenario.conftest import Lab, Ran

Command = Callable[..., Ran]

SEED = 20_261_125
WIRE = "sync_gpio: '/dev/gpiochip0:17', "
PPK2 = "virtual-ppk2://?mode=ampere&volts=5&sync=D0"
JOULESCOPE = "virtual-joulescope://?rate=10000&sync=0"
WIRED_ERROR, UNWIRED_ERROR = 0.005, 0.01


@pytest.fixture(autouse=True)
def _power() -> Iterator[None]:
    yield
    switch_all_off()
    hwmon_meter.switch_all_off()


@dataclass(frozen=True, slots=True, kw_only=True)
class Struck:
    """One device of a run: its job, the window that was kept, and what was true of it."""

    job: dict[str, Any]
    window: dict[str, Any] | None
    truth: dict[str, Any]

    @property
    def error(self) -> float:
        """Of the energy of an inference."""
        assert self.window is not None
        found, true = (w["energy_j"] / w["inferences"] for w in (self.window, self.truth))
        return float(found / true - 1)

    @property
    def told(self) -> str:
        """Everything that the job says."""
        return " | ".join([*self.job["notes"], str(self.job["error"])])


def meters(lab: Lab, **addresses: str) -> None:
    """A virtual camera for every meter; its pin is wired if the meter has a `sync`."""
    lab.inventory(
        **{
            name: f"type: camera, {WIRE if 'sync=' in address else ''}"
            f"address: 'virtual://camera?seed=3&root={lab.folder / name}', meter: '{address}'"
            for name, address in addresses.items()
        }
    )


def struck(lab: Lab, ran: Ran) -> dict[str, Struck]:
    """What became of every device of a run."""
    with closing(sqlite3.connect(lab.folder / ".farm" / "farm.sqlite")) as store:
        windows = dict(
            store.execute(
                "select device, window from recording join repeat on repeat.id = repeat_id"
                " join job on job.id = job_id"
            )
        )
    found = {}
    for job in ran.document["jobs"]:
        name = job["device"]
        truths = (lab.folder / name / "energy.jsonl").read_text().splitlines()
        window = json.loads(windows[name]) if name in windows else None
        found[name] = Struck(job=job, window=window, truth=json.loads(truths[-1]))
    return found


LOAD = {"min_duration_s": 4.0, "min_queries": 10, "warmup_s": 0.02}
"""A meter's clock needs 1.5 s on either side of a loss to see a multiple of 64 samples."""


def test_a_fault_in_a_window_never_passes_for_a_figure(
    lab: Lab, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten meters and a fault each, somewhere in the middle of the only window."""
    for place, name, quick in (
        (Tc66c, "period_s", 0.02), (Tc66c, "lag_s", 0.05), (tc66c_meter, "LAG_S", 0.01),
        (tc66c_meter, "RENEWED_S", 0.01), (polled, "FULL_S", 0.1),
    ):  # fmt: skip
        monkeypatch.setattr(place, name, quick)  # else its mark takes twenty seconds
    dice = random.Random(SEED)
    sample, tick, answer = dice.randint(340_000, 400_000), dice.randint(340, 400), 300
    second = dice.uniform(5.5, 6.5)
    ppk2 = (
        "drop-64",
        "drop-100",
        "drop-128",
        "slip",
        "stuck",
        "full-scale",
        "stall-1000",
        "unplug",
    )
    faults = {kind: f"{PPK2}&fault={kind}:{sample}" for kind in ppk2}
    faults |= {f"joulescope-{k}": f"{JOULESCOPE}&fault={k}:{tick}" for k in ("drop", "stall")}
    faults |= {k: f"virtual-hwmon://?fault={k}:{second:.2f}" for k in ("eagain", "vanish")}
    faults["crc"] = f"virtual-tc66c://?fault=crc:{answer}"
    meters(lab, **faults)
    suite = lab.suite("energy", repeats=1, load=LOAD)
    ran = command("run", suite, "--model", lab.models.good(), "--json")
    found = struck(lab, ran)
    for name, one in found.items():
        moment = f"seed {SEED}, {faults[name]}: {one.told}, {one.window}"
        _assert_right_or_marked(one, "sync=" in faults[name], moment)
    again = {name for name, one in found.items() if "taken up again after" in one.told}
    assert {"stuck", "unplug", "vanish"} <= again, "these end a recording"
    assert "meter_gap" in found["stuck"].told
    assert "connection_lost" in found["unplug"].told
    assert found["vanish"].job["error"]["code"] == "connect"
    assert found["vanish"].window is None
    assert "meter_saturated" in found["full-scale"].told
    lost = {name: one.window["lost"] for name, one in found.items() if one.window}
    assert all(lost[f"drop-{n}"] >= n for n in (64, 100, 128)), lost
    assert all(lost[name] for name in ("slip", "joulescope-drop", "eagain", "crc")), lost


def _assert_right_or_marked(one: Struck, wired: bool, moment: str) -> None:
    """No figure, or one that may not be judged, or one that is true."""
    if one.window is None:
        assert one.job["outcome"] == "ERROR", moment
        assert not one.job["measurements"], moment
        return
    assert one.job["outcome"] == "COMPLETED", moment
    marks = set(one.window["conditions"]) - {"short_window"}
    assert all(mark in one.told for mark in marks), moment
    if not marks:
        assert abs(one.error) < (WIRED_ERROR if wired else UNWIRED_ERROR), moment


def test_ten_meters_side_by_side_lose_nothing(lab: Lab, command: Command) -> None:
    meters(lab, **{f"camera-{number}": PPK2 for number in range(10)})
    load = {"min_duration_s": 1.0, "min_queries": 10, "warmup_s": 0.02}
    suite = lab.suite("energy", repeats=1, load=load)
    found = struck(lab, command("run", suite, "--model", lab.models.good(), "--json"))
    assert len(found) == 10
    for name, one in found.items():
        assert one.window is not None, (name, one.told)
        assert one.window["method"] == "wire", (name, one.told)
        assert one.window["lost"] == 0, (name, one.told)
        assert abs(one.error) < WIRED_ERROR, (name, one.error)
