"""Energy from the command line: virtual devices, and virtual meters that see what those draw."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.scenario.conftest import Lab, Ran

Command = Callable[..., Ran]

PPK2 = "virtual-ppk2://?mode=ampere&volts=5"
SHORT = {"min_duration_s": 0.5, "min_queries": 10, "warmup_s": 0.02}


def device(lab: Lab, name: str, meter: str, **more: str) -> str:
    """Fields of a virtual camera of that name, whose files lie in the lab."""
    fields = {
        "type": "camera",
        "address": f"virtual://camera?seed=3&root={lab.folder / name}",
        "meter": meter,
        **more,
    }
    return ", ".join(f"{key}: '{value}'" for key, value in fields.items())


def wired(lab: Lab, name: str = "camera", meter: str = f"{PPK2}&sync=D0", **more: str) -> str:
    return device(lab, name, meter, sync_gpio="/dev/gpiochip0:17", **more)


def energies(ran: Ran) -> dict[str, dict[str, Any]]:
    """The measurements of the only job of a run, by metric."""
    (job,) = ran.document["jobs"]
    assert job["outcome"] == "COMPLETED", job["error"]
    return {m["metric"]: m for m in job["measurements"]}


def truths(lab: Lab, name: str = "camera") -> list[dict[str, Any]]:
    lines = (lab.folder / name / "energy.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def windows(lab: Lab) -> list[dict[str, Any]]:
    with sqlite3.connect(lab.folder / ".farm" / "farm.sqlite") as store:
        rows = store.execute("select window from recording order by repeat_id").fetchall()
    return [json.loads(window) for (window,) in rows]


class TestRun:
    def test_a_wire_tells_the_energy_of_an_inference(self, lab: Lab, command: Command) -> None:
        lab.inventory(camera=wired(lab))
        suite = lab.suite("accuracy", "latency", "energy", load=SHORT)
        ran = command(
            "run", suite, "--model", lab.models.good(), "--workload", lab.workload(), "--json"
        )
        assert ran.code == 0
        found = energies(ran)
        for seen, truth in zip(windows(lab), truths(lab), strict=True):
            assert seen["method"] == "wire"
            assert seen["inferences"] == truth["inferences"]
            assert seen["energy_j"] == pytest.approx(truth["energy_j"], rel=0.002)
            assert seen["idle_w"] == pytest.approx(truth["idle_w"], rel=0.01)
        energy = found["energy.per_inference"]
        assert energy["lo"] < energy["value"] < energy["hi"]
        assert energy["comparable_hi"] < energy["hi"], "the gain does not cancel"
        assert {t["term"]: t["cancels"] for t in energy["budget"]}["gain"]
        assert found["energy.per_correct"]["value"] == pytest.approx(energy["value"])
        assert found["latency.p50"]["n"] == energy["n"] == 2
        (job,) = ran.document["jobs"]
        assert "PPK2" in job["environment"]["meter"]
        assert job["simulated"]
        assert any(note.startswith("short_window: 2 of 2") for note in job["notes"])

    def test_without_a_wire_marks_are_found(self, lab: Lab, command: Command) -> None:
        lab.inventory(camera=device(lab, "camera", PPK2))
        suite = lab.suite("energy", repeats=1, load=SHORT)
        assert energies(command("run", suite, "--model", lab.models.good(), "--json"))
        (seen,), (truth,) = windows(lab), truths(lab)
        assert seen["method"] == "marks"
        found, true = (w["energy_j"] / w["inferences"] for w in (seen, truth))
        assert found == pytest.approx(true, rel=0.01)  # a window of 60 s tells more

    def test_every_sample_is_kept_and_nothing_else(self, lab: Lab, command: Command) -> None:
        lab.inventory(camera=wired(lab))
        suite = lab.suite("energy", repeats=1, load=SHORT)
        command("run", suite, "--model", lab.models.good())
        files = [path for path in (lab.folder / ".farm" / "traces").rglob("*") if path.is_file()]
        assert {path.suffix for path in files} == {".parquet"}
        with sqlite3.connect(lab.folder / ".farm" / "farm.sqlite") as store:
            ((digest, samples, preview),) = store.execute(
                "select sha256, samples, preview from recording"
            )
        assert f"{digest}.parquet" in {path.name for path in files}
        assert samples > 50_000
        assert all(least <= mean <= most for least, mean, most in json.loads(preview))

    def test_paper_and_table_tell_the_budget(self, lab: Lab, command: Command) -> None:
        lab.inventory(camera=wired(lab))
        suite = lab.suite("energy", load=SHORT)
        table = command("run", suite, "--model", lab.models.good()).out
        paper = command("report").out
        for text in (table, paper.replace("\\", "")):
            flat = " ".join(text.split())
            assert "standard uncertainties of energy.per_inference: gain 5.8 %" in flat
            assert "against another model on this unit and meter: " in flat

    def test_a_device_without_a_meter_says_so(self, lab: Lab, command: Command) -> None:
        lab.inventory("camera-1")
        suite = lab.suite("latency", "energy")
        ran = command("run", suite, "--model", lab.models.good(), "--json")
        assert [skip["reason"] for skip in ran.document["skips"]] == [
            "no meter is bound to it: docs/power.md"
        ]

    def test_a_meter_that_is_unplugged_is_no_fault_of_the_model(
        self, lab: Lab, command: Command
    ) -> None:
        """It is away for a moment: the job is taken up again, and no half of a window counts."""
        lab.inventory(camera=wired(lab, meter=f"{PPK2}&sync=D0&fault=unplug:60000"))
        suite = lab.suite("latency", "energy", repeats=1, load=SHORT)
        ran = command("run", suite, "--model", lab.models.good(), "--json")
        assert energies(ran)["energy.per_inference"]["n"] == 1
        (job,) = ran.document["jobs"]
        assert any(note.startswith("taken up again after c") for note in job["notes"]), job["notes"]
        assert len(windows(lab)) == 1
        traces = lab.folder / ".farm" / "traces"
        assert not [path for path in traces.rglob("*.part") if path.is_file()]

    def test_a_meter_of_another_device_is_found_out(self, lab: Lab, command: Command) -> None:
        lab.inventory(camera=device(lab, "camera", f"{PPK2}&sees=nobody"))
        suite = lab.suite("latency", "energy", repeats=1, load=SHORT)
        ran = command("run", suite, "--model", lab.models.good(), "--json")
        assert "energy.per_inference" not in energies(ran)
        assert "latency.p50" in energies(ran)
        (job,) = ran.document["jobs"]
        assert any(note.startswith(("meter_misaligned", "meter_negative")) for note in job["notes"])


class TestGate:
    @pytest.mark.parametrize(
        ("margin", "more", "told"),
        [
            ("1 %", "", "below what a ppk2 can tell on one unit, 2 %"),
            ("3 %", ", across_units: true", "can tell between units, 15 %"),
            ("3 %", ", meter: js220", "the policy is made for a js220, its meter is a ppk2"),
        ],
    )
    def test_what_the_meter_cannot_decide_is_refused_before_anything_runs(
        self, lab: Lab, command: Command, margin: str, more: str, told: str
    ) -> None:
        lab.inventory(camera=wired(lab))
        suite = lab.suite("energy", load=SHORT)
        rule = f"energy.per_inference: {{gate: true, margin: {margin}{more}}}"
        lab.write("quick.policy.yaml", f"schema: farm.policy/1\nblocks: 5\nmetrics:\n  {rule}\n")
        good = lab.models.good()
        ran = command("gate", suite, "--candidate", good, "--baseline", good)
        assert ran.code == 2
        assert told in " ".join(ran.complaint.split())
        assert not (lab.folder / ".farm").exists()


class TestMeters:
    def test_the_list_says_what_each_is(self, lab: Lab, command: Command) -> None:
        lab.inventory(camera=wired(lab))
        ran = command("meter", "list", "--json")
        assert ran.code == 0
        (entry,) = ran.document["meters"]
        assert entry["class"] == "ppk2"
        assert entry["rate_hz"] == 100_000
        assert entry["wired"]
        assert entry["simulated"]
        assert "PPK2" in command("meter", "list").out

    def test_each_meter_shows_its_own_device(self, lab: Lab, command: Command) -> None:
        lab.inventory(one=wired(lab, "one"), two=device(lab, "two", PPK2))
        ran = command("meter", "verify", "--json")
        assert [entry["complaints"] for entry in ran.document["meters"]] == [[], []]
        assert ran.code == 0
        for entry in ran.document["meters"]:
            assert entry["busy_w"] > 2 * entry["idle_w"]

    def test_swapped_meters_are_told_and_spoil_what_they_measure(
        self, lab: Lab, command: Command
    ) -> None:
        lab.inventory(
            one=device(lab, "one", f"{PPK2}&sees=two"), two=device(lab, "two", f"{PPK2}&sees=one")
        )
        ran = command("meter", "verify", "one", "--json")
        assert ran.code == 4
        (entry,) = ran.document["meters"]
        assert len(entry["complaints"]) == 2
        assert "the meter of two shows its load as well" in entry["complaints"]
        suite = lab.suite("latency", "energy", repeats=1, load=SHORT)
        told = command("run", suite, "--model", lab.models.good(), "--device", "one", "--json")
        (job,) = told.document["jobs"]
        assert any(note.startswith("meter_mismatch: ") for note in job["notes"])

    def test_nothing_is_held_that_nobody_measured_with(self, lab: Lab, command: Command) -> None:
        lab.inventory(camera=wired(lab, meter="ppk2:///dev/null?mode=ampere&volts=5&sync=D0"))
        ran = command("meter", "release", "camera")
        assert ran.code == 0
        assert "nobody held" in ran.out

    def test_without_a_meter_the_hint_says_what_to_write(self, lab: Lab, command: Command) -> None:
        ran = command("meter", "verify")
        assert ran.code == 2
        assert "docs/power.md" in ran.complaint

    def test_a_recording_of_another_program_is_read(self, lab: Lab, command: Command) -> None:
        rows = "".join(f"{i / 1000},{2.0 if i >= 500 else 1.0}\n" for i in range(1001))
        path = lab.write("trace.csv", f"time_s,power_w\n{rows}")
        ran = command("meter", "import", path, "--start", 0.5, "--inferences", 100, "--json")
        assert ran.document["energy_j"] == pytest.approx(1.0, rel=0.01)
        assert ran.document["per_inference_j"] == pytest.approx(0.01, rel=0.01)
        assert "per inference" in command("meter", "import", path, "--inferences", 100).out

    def test_a_broken_recording_is_told_in_two_lines(self, lab: Lab, command: Command) -> None:
        path = lab.write("trace.csv", "time_s,power_w\n0.1,1\n0.2,what\n")
        ran = command("meter", "import", path)
        assert ran.code == 2
        assert "trace.csv" in ran.complaint


@pytest.mark.parametrize(
    ("meter", "told"),
    [
        ("ppk3://A1", "unknown meter 'ppk3'"),
        ("ppk2://A1?mode=ampere", "volts"),
        ("ppk2://A1?mode=ampere&volts=9", "volts"),
        ("ppk2://A1?mode=ampere&volts=3.3&colour=red", "a ppk2 meter has no option 'colour'"),
        ("ppk2://A1?mode=ampere&volts=3.3&sync=D9", "a ppk2 meter has no logic input 'D9'"),
        ("nonsense", "has no scheme"),
    ],
)
def test_a_wrong_meter_is_told_with_file_and_line(
    lab: Lab, command: Command, meter: str, told: str
) -> None:
    path = Path(lab.inventory(camera=device(lab, "camera", meter)))
    ran = command("check")
    assert ran.code == 2
    assert told in ran.complaint
    assert f"{path.name}:3: " in ran.complaint


def test_one_meter_cannot_be_bound_to_two_devices(lab: Lab, command: Command) -> None:
    meter = "ppk2://A1?mode=ampere&volts=3.3"
    lab.inventory(one=device(lab, "one", meter), two=device(lab, "two", meter))
    ran = command("check")
    assert ran.code == 2
    assert "'two' has the meter of 'one'" in ran.complaint


def test_a_wire_needs_a_pin(lab: Lab, command: Command) -> None:
    lab.inventory(camera=device(lab, "camera", f"{PPK2}&sync=D0"))
    ran = command("check")
    assert ran.code == 2
    assert "sync_gpio" in ran.complaint
