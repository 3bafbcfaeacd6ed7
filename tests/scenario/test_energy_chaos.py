"""Whatever befalls a meter in a window: the figure is right, or it is marked, or there is none."""

from __future__ import annotations

import json
import os
import random
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from drivers.meters import polled
from drivers.meters.tc66c import Tc66c
from drivers.virtual import hwmon_meter, tc66c_meter
from drivers.virtual.machine import switch_all_off
from farm.store import reader, rows
from farm.store.database import DATABASE_NAME, open_store
from farm.store.samples import read_samples
from farm.store.traces import trace_path
from tests.scenario.conftest import Lab, Ran

Command = Callable[..., Ran]

SEED = 20_261_125
QUIET = "plays ten meters and more in real time, on a machine with nothing else to do: make chaos"
WIRE = "sync_gpio: '/dev/gpiochip0:17', "
PPK2 = "virtual-ppk2://?mode=ampere&volts=5&sync=D0"
PPK2_FAULTS = (
    "drop-64", "drop-100", "drop-128", "slip", "stuck", "full-scale", "stall-1000", "unplug",
)  # fmt: skip
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


LOAD = {"min_duration_s": 3.0, "min_queries": 10, "warmup_s": 0.02}
"""Long enough that a fault strikes inside of it, however long a busy machine takes to begin."""


def warm_up(lab: Lab, command: Command) -> None:
    """Have outputs made that virtual devices show again: nothing else computes beside meters."""
    lab.inventory("camera-1")
    suite = lab.suite("latency", repeats=1)
    assert command("run", suite, "--model", lab.models.good(), "--store", "warm").code == 0


@pytest.mark.skipif(not os.environ.get("FARM_CHAOS"), reason=QUIET)
def test_a_fault_in_a_window_never_passes_for_a_figure(
    lab: Lab, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many meters side by side, a fault each, somewhere in the middle of the only window."""
    for place, name, quick in (
        (Tc66c, "period_s", 0.02), (Tc66c, "lag_s", 0.05), (tc66c_meter, "LAG_S", 0.01),
        (tc66c_meter, "RENEWED_S", 0.01), (polled, "FULL_S", 0.1),
    ):  # fmt: skip
        monkeypatch.setattr(place, name, quick)  # else its mark takes twenty seconds
    warm_up(lab, command)
    dice = random.Random(SEED)
    sample, tick, answer = dice.randint(260_000, 340_000), dice.randint(260, 340), 200
    second = dice.uniform(4.5, 5.0)
    faults = {kind: f"{PPK2}&fault={kind}:{sample}" for kind in PPK2_FAULTS}
    faults |= {f"joulescope-{k}": f"{JOULESCOPE}&fault={k}:{tick}" for k in ("drop", "stall")}
    faults |= {k: f"virtual-hwmon://?fault={k}:{second:.2f}" for k in ("eagain", "vanish")}
    faults["crc"] = f"virtual-tc66c://?fault=crc:{answer},crc:{answer + 40}"
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
    # multiples of 64 show in the clock alone, if the machine is quiet; unseen, they are 0.03 %
    assert lost["drop-100"] % 64 == 36, (SEED, lost)
    assert all(lost[name] for name in ("slip", "joulescope-drop", "eagain", "crc")), (SEED, lost)


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


@pytest.mark.skipif(not os.environ.get("FARM_CHAOS"), reason=QUIET)
def test_ten_meters_side_by_side_lose_nothing(lab: Lab, command: Command) -> None:
    warm_up(lab, command)
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


KILLS, LONGEST_S = 4, 5.0
FARM = (sys.executable, "-m", "farm.cli")


def test_a_killed_controller_leaves_whole_jobs_and_no_keeper(
    lab: Lab, command: Command, process: Command
) -> None:
    dice = random.Random(SEED)
    meters(lab, camera=PPK2)
    load = {"min_duration_s": 0.5, "min_queries": 10, "warmup_s": 0.02}
    suite = lab.suite("latency", "energy", load=load)
    words = ("run", suite, "--model", lab.models.good(), "--json")
    for _ in range(KILLS):
        quiet = subprocess.DEVNULL
        running = subprocess.Popen([*FARM, *words], stdout=quiet, stderr=quiet)
        delay_s = dice.uniform(0.5, LONGEST_S)
        time.sleep(delay_s)
        running.kill()
        running.wait()
        _assert_whole(lab, f"seed {SEED}, killed after {delay_s:.3f} s")
    ran = process(*words)
    assert [job["outcome"] for job in ran.document["jobs"]] == ["COMPLETED"], ran.err
    _assert_whole(lab, f"seed {SEED}, completed")
    assert not list((lab.folder / ".farm" / "traces").glob("windows-*"))
    deadline = time.monotonic() + KEEPERS_END_S
    while keepers := _keepers(lab):
        assert time.monotonic() < deadline, keepers
        time.sleep(0.05)


KEEPERS_END_S = 30.0


def _assert_whole(lab: Lab, moment: str) -> None:
    """Every job that is there has all of its windows, and every window its samples."""
    folder = lab.folder / ".farm"
    if not (folder / DATABASE_NAME).exists():
        return
    with open_store(folder) as store:
        jobs = [rows.read_job(store, int(job)) for job in reader.jobs(store)["job_id"]]
    for job in jobs:
        assert job.outcome == "COMPLETED", moment
        assert {m.metric: m.n for m in job.models[0].measurements}["energy.per_inference"] == 2
    with closing(sqlite3.connect(folder / DATABASE_NAME)) as database:
        recordings = database.execute("select sha256, samples from recording").fetchall()
    assert len(recordings) == 2 * len(jobs), moment
    for digest, samples in recordings:
        kept = read_samples(trace_path(folder, digest))
        assert sum(len(chunk.t_ns) for chunk in kept) == samples, moment


def _keepers(lab: Lab) -> list[int]:
    """Processes that keep ports of this lab."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (folder / "cmdline").read_bytes()
            if b"port_keeper" in line and os.fsencode(lab.folder) in line:
                found.append(int(folder.name))
    return found


def test_a_disk_that_is_full_while_a_meter_records_keeps_nothing_of_it(
    lab: Lab, process: Command, digits: Path
) -> None:
    meters(lab, camera=PPK2)
    load = {"min_duration_s": 0.5, "min_queries": 10, "warmup_s": 0.02}
    suite = lab.suite("energy", repeats=1, load=load)
    words = ("run", suite, "--model", digits / "int8.onnx")
    full = process(*words, preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, LIMIT))
    assert full.code == 4, full.err
    assert "make room" in full.complaint
    assert not [path for path in (lab.folder / ".farm" / "traces").rglob("*") if path.is_file()]
    assert process(*words).code == 0
    with closing(sqlite3.connect(lab.folder / ".farm" / DATABASE_NAME)) as database:
        kept = database.execute(
            "select outcome, count(recording.sha256) from job left join repeat on job_id = job.id"
            " left join recording on repeat_id = repeat.id group by job.id order by job.id"
        ).fetchall()
    assert kept == [("ERROR", 0), ("COMPLETED", 1)]


LIMIT = (300_000, 300_000)
"""Bytes of a file: enough for a database, too few for the samples of a window."""
