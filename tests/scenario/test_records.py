"""Noise, fleet and history on the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import farm
from farm.cli import main

Write = Callable[..., Path]


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["farm", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


def test_noise_is_measured_kept_and_shown_in_the_fleet(
    call: Callable[..., tuple[int, str, str]], suite: Write, inventory: Write
) -> None:
    devices = inventory(b="virtual://board?seed=1", c="virtual://camera?seed=2")
    code, out, _ = call("noise", suite(), "--blocks", 6, "--inventory", devices, "--json")
    medians = [b for b in json.loads(out)["budgets"] if b["metric"] == "latency.p50"]
    budgets = {b["device"]: b for b in medians}
    assert code == 0
    assert set(budgets) == {"b", "c"}
    assert budgets["b"]["blocks"] == 6
    assert 0 < budgets["b"]["block_sd_pct"] < 10
    code, out, _ = call("fleet", "--inventory", devices, "--json")
    fleet = {d["device"]: d for d in json.loads(out)["devices"]}
    assert fleet["b"]["block_sd_pct"] == pytest.approx(budgets["b"]["block_sd_pct"])
    assert fleet["b"]["last_job"]["outcome"] == "COMPLETED"
    assert fleet["b"]["holder"] is None
    assert fleet["b"]["simulated"]


def test_a_gate_that_the_noise_makes_hopeless_is_refused_before_it_measures(
    digits: Path, suite: Write, inventory: Write, tmp_path: Path
) -> None:
    quick, devices, store = suite(), inventory(p="virtual://phone?seed=1"), tmp_path / "s"
    policy = quick.with_suffix(".policy.yaml")
    policy.write_text(policy.read_text().replace("15 %", "0.1 %"))

    def ask() -> farm.Verdict:
        return farm.gate(
            str(quick), candidate=digits, baseline=digits, inventory=devices, store=store
        )  # fmt: skip

    from farm.calibration import measure_noise
    from farm.request import Where

    measure_noise(str(quick), where=Where(inventory=devices, store=store), blocks=5)
    with pytest.raises(farm.FarmError, match=r"latency.p50 on p-type: 5 blocks detect") as caught:
        ask()
    assert "on_undecidable: inform" in caught.value.hint
    policy.write_text(policy.read_text() + "on_undecidable: inform\n")
    assert any(note.startswith("undecidable: ") for note in ask().notes)


CSV = "revision,fast,slow,gap,size.model_bytes\n"


def _csv(folder: Path) -> Path:
    rng = np.random.default_rng(7)
    rows = []
    for i in range(80):
        level = 110 if i >= 50 else 100
        gap = "" if i % 7 == 0 else f"{level + rng.normal():.3f}"
        size = 1000 if i < 30 else 1001
        rows.append(f"r{i},{level + rng.normal():.3f},{100 + rng.normal():.3f},{gap},{size}")
    path = folder / "bench.csv"
    path.write_text(CSV + "\n".join(rows) + "\n")
    return path


def test_history_of_a_csv_needs_no_store(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, out, _ = call("history", "--input", _csv(tmp_path), "--json")
    document = json.loads(out)
    found = {s["name"]: s for s in document["series"]}
    assert (code, document["schema"]) == (0, "farm.history/1")
    assert [abs(s["index"] - 50) <= 1 for s in found["fast"]["steps"]] == [True]
    assert found["fast"]["steps"][0]["effect_pct"] == pytest.approx(10, abs=1)
    assert found["slow"]["steps"] == []
    assert found["gap"]["missing"] == 12
    assert [abs(s["index"] - 50) <= 1 for s in found["gap"]["steps"]] == [True]
    assert [s["index"] for s in found["size.model_bytes"]["steps"]] == [30]
    assert not (tmp_path / ".farm").exists()
    assert "step" in call("history", "--input", _csv(tmp_path))[1]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "bench.csv:1: expected a header"),
        ("time\n1\n", "bench.csv:1: expected a header"),
        ("time,a,a\n1,2,3\n", "name of its own"),
        ("time,a\n1,2\n2,x\n", "bench.csv:3: 'x' is no number"),
        ("time,a\n1,2,3\n", "bench.csv:2: 3 cells"),
    ],
)
def test_a_csv_that_cannot_be_read_is_refused_with_its_line(
    text: str, complaint: str, call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "bench.csv"
    path.write_text(text)
    code, out, err = call("history", "--input", path, "--json")
    assert (code, out) == (2, "")
    assert complaint in err
    path.write_bytes(b"time,a\n1,\xff\n")
    assert call("history", "--input", path)[0] == 2


def test_history_of_a_store_takes_the_main_line_and_one_value_per_revision(
    suite: Write, inventory: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    call: Callable[..., tuple[int, str, str]],
) -> None:  # fmt: skip
    quick, devices = suite(), inventory(b="virtual://board?seed=1")
    for revision, purpose in [
        ("a", "nightly"),
        ("b", "nightly"),
        ("b", "nightly"),
        ("c", "ad-hoc"),
    ]:
        monkeypatch.setenv("FARM_REVISION", revision * 40)
        monkeypatch.setenv("FARM_PURPOSE", purpose)
        farm.run(str(quick), inventory=devices, store=tmp_path / ".farm")
    series = json.loads(call("history", "--metric", "latency.p50", "--json")[1])["series"]
    assert [s["points"] for s in series] == [2]
    assert "simulated" in series[0]["name"]
    every = json.loads(call("history", "--metric", "latency.p50", "--all", "--json")[1])["series"]
    assert [s["points"] for s in every] == [3]
