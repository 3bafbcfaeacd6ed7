"""Every command as people and CI meet it: documents, tables, exit codes, and Ctrl-C."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

Command = Callable[..., Any]
HEAVY = "numpy scipy pandas sqlalchemy alembic onnx onnxruntime pyarrow streamlit altair"
SECRET = "s3cr3t-value-of-a-token"

RUN = {"schema", "run", "jobs", "skips"}
RUN_KEYS = {"id", "suite", "revision", "started", "finished"}
JOB_KEYS = {
    "device", "runtime", "accelerator", "model", "outcome", "simulated", "environment",
    "measurements",
}  # fmt: skip
MEASUREMENT_KEYS = {"metric", "unit", "value", "lo", "hi", "n"}
GATE_KEYS = {"schema", "verdict", "exit_code", "policy_sha256", "cells"}
CELL_KEYS = {
    "workload", "device_type", "units", "runtime", "accelerator", "scenario", "time_basis",
    "simulated", "metric", "unit", "n", "blocks", "looks", "confidence", "effect", "lo", "hi",
    "margin", "mde", "effect_kind", "verdict", "reasons",
}  # fmt: skip


@pytest.fixture
def gate(lab: Any, command: Command) -> Callable[..., Any]:
    """Gates a candidate against the good model; accuracy and latency decide."""

    def run(candidate: Path, *, points: int = 40) -> Any:
        lab.inventory("camera-1")
        margins = {"latency.p50": "15 %", "accuracy.top1": f"{points} points"}
        suite = lab.suite("latency", "accuracy", margins=margins, load={"min_queries": 130})
        models = ("--candidate", candidate, "--baseline", lab.models.good())
        return command("gate", suite, "--workload", lab.workload(), *models, "--json")

    return run


@pytest.fixture
def wrong(lab: Any) -> Path:
    """A model that is as fast as the good one and confuses the classes."""
    return lab.models.confused("wrong.onnx")


def test_help_needs_nothing_heavy(process: Command) -> None:
    script = (
        "import sys, farm.cli\n"
        "sys.argv = ['farm', *sys.argv[1:]]\n"
        "try: farm.cli.main()\n"
        f"finally: print('loaded:', *set('{HEAVY}'.split()) & set(sys.modules))\n"
    )
    for words in (["--help"], ["run", "--help"], ["job", "--help"]):
        ran = process(*words, program=[sys.executable, "-c", script])
        assert (ran.code, ran.err) == (0, "")
        assert "Usage" in ran.out
        assert ran.out.splitlines()[-1].strip() == "loaded:"


def test_check_names_what_it_read(lab: Any, command: Command) -> None:
    inventory = lab.inventory("phone-1", "board-2")
    ran = command("check", inventory)
    assert (ran.code, ran.err) == (0, "")
    assert "2 devices" in " ".join(ran.out.split())
    for suite in ("smoke", "accuracy", "latency", "memory"):
        assert re.search(rf"suite {suite}: .*its policy decides by \w+\.", ran.out)
    document = command("check", inventory, "--json").document
    assert document["schema"] == "farm.check/1"


def test_a_plan_says_what_is_left_out_and_why(lab: Any, command: Command) -> None:
    lab.inventory("phone-1", sick="type: board, address: 'virtual://board', state: maintenance")
    words = ("plan", lab.suite("latency", "accuracy"), "--model", lab.models.good())
    ran = command(*words, "--json")
    assert (ran.code, ran.err, ran.document["schema"]) == (0, "", "farm.plan/1")
    job = ran.document["jobs"][0]
    assert len(ran.document["jobs"]) == 1
    assert (job["device"], job["measures"], job["repeats"]) == ("phone-1", ["latency"], 2)
    skips = {(skip["device"], skip["what"]): skip["reason"] for skip in ran.document["skips"]}
    assert set(skips) == {("sick", "device"), ("phone-1", "accuracy")}
    assert "maintenance" in skips["sick", "device"]
    assert "labels" in skips["phone-1", "accuracy"]
    table = command(*words).out
    for word in ("phone-1", "latency", "skipped: device on sick", "skipped: accuracy on phone-1"):
        assert word in table
    assert not (lab.folder / ".farm").exists()


def test_a_run_follows_its_schema_and_the_report_repeats_it(lab: Any, command: Command) -> None:
    suite = lab.suite("latency", "accuracy", "memory")
    ran = command(
        "run", suite, "--model", lab.models.good(), "--workload", lab.workload(), "--json"
    )
    assert (ran.code, ran.err) == (0, "")
    document = ran.document
    assert document["schema"] == "farm.run/1"
    assert document.keys() >= RUN
    assert document["run"].keys() >= RUN_KEYS
    (job,) = document["jobs"]
    assert job.keys() >= JOB_KEYS
    assert job["model"].keys() == {"name", "sha256"}
    assert (job["outcome"], job["simulated"], job["accelerator"]) == ("COMPLETED", True, "cpu")
    for measurement in job["measurements"]:
        assert measurement.keys() == MEASUREMENT_KEYS
    found = {m["metric"]: m for m in job["measurements"]}
    assert found["accuracy.top1"] | {"lo": 0} == {
        "metric": "accuracy.top1", "unit": "ratio", "value": 1.0, "lo": 0, "hi": 1.0, "n": 24,
    }  # fmt: skip
    assert found["size.model_bytes"]["lo"] is None
    assert {"latency.p50", "memory.peak_rss"} <= set(found)
    assert command("report", "--format", "json").document == document
    assert command("report", document["run"]["id"][:15], "--format", "json").document == document


def test_a_bare_model_just_runs_and_is_told_how_to_get_accuracy(lab: Any, command: Command) -> None:
    ran = command("run", lab.suite("accuracy", "latency"), "--model", lab.models.good())
    assert (ran.code, ran.err) == (0, "")
    assert "latency.p50" in ran.out
    told = " ".join(ran.out.split())
    assert "skipped: accuracy on phone-1" in told
    line = re.search(r"(workload\.yaml) with '(.+?)', '(.+?)' and '(.+?)' beside the model", told)
    assert line
    lab.workload()
    made = (lab.folder / "task" / "workload.yaml").read_text()
    assert all(entry in made.splitlines() for entry in line.groups()[1:])


@pytest.mark.parametrize(
    ("model", "points", "verdict", "code"),
    [("good", 40, "PASS", 0), ("wrong", 40, "FAIL", 1), ("good", 5, "INCONCLUSIVE", 3)],
)
def test_a_gate_follows_its_schema(
    model: str, points: int, verdict: str, code: int, lab: Any, wrong: Path, gate: Command
) -> None:
    ran = gate(wrong if model == "wrong" else lab.models.good(), points=points)
    document = ran.document
    assert (ran.code, ran.err) == (code, "")
    assert document.keys() >= GATE_KEYS
    assert (document["schema"], document["verdict"]) == ("farm.gate/1", verdict)
    assert document["exit_code"] == code
    policy = (lab.folder / "quick.policy.yaml").read_bytes()
    assert document["policy_sha256"] == hashlib.sha256(policy).hexdigest()
    cells = {cell["metric"]: cell for cell in document["cells"]}
    assert set(cells) == {"latency.p50", "accuracy.top1"}
    for cell in cells.values():
        assert cell.keys() >= CELL_KEYS
        assert cell["units"][0].keys() == {"device", "blocks", "effect"}
        assert cell["lo"] <= cell["effect"] <= cell["hi"]
        assert (cell["confidence"], cell["looks"], cell["simulated"]) == (0.95, 1, True)
    latency, accuracy = cells["latency.p50"], cells["accuracy.top1"]
    assert (latency["verdict"], latency["n"], latency["blocks"]) == ("PASS", 5, 5)
    assert (latency["effect_kind"], latency["margin"]) == ("ratio_pct", 15)
    assert (accuracy["verdict"], accuracy["n"]) == (verdict, 24)
    assert (accuracy["effect_kind"], accuracy["margin"]) == ("points", points)


def test_reports_of_a_gate_agree_with_its_document(
    wrong: Path, gate: Command, command: Command
) -> None:
    document = gate(wrong).document
    assert command("report", "--format", "json").document["gate"] == document
    markdown = command("report").out
    assert "FAIL: wrong against good" in markdown.splitlines()[0]
    for cell in document["cells"]:
        assert f"| {cell['metric']} |" in markdown
        assert all(reason.split(":")[0] in markdown for reason in cell["reasons"])
    suite = ET.fromstring(command("report", "--format", "junit").out)
    assert {key: suite.get(key) for key in ("tests", "failures", "errors")} == {
        "tests": "2", "failures": "1", "errors": "0",
    }  # fmt: skip
    failed = {case.get("name").split()[0]: case.find("failure") is not None for case in suite}
    assert failed == {"accuracy.top1": True, "latency.p50": False}


def test_reports_of_a_run_agree_with_its_document(lab: Any, command: Command) -> None:
    suite = lab.suite("latency", accelerators=["cpu", "cuda"])
    document = command("run", suite, "--model", lab.models.good(), "--json").document
    markdown = command("report", "latest", "--format", "md").out
    assert document["run"]["id"] in markdown.splitlines()[0]
    assert "| latency.p50 |" in markdown
    assert "**ERROR**" in markdown
    junit = ET.fromstring(command("report", "--format", "junit").out)
    assert {key: junit.get(key) for key in ("tests", "failures", "errors")} == {
        "tests": "2", "failures": "0", "errors": "1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["report", "--format", "jnuit"], 2, "did you mean 'junit'"),
        (["report", "19991231"], 2, "no run '19991231'"),
        (["job", "show", "77"], 2, "no job 77"),
        (["job", "list", "--run", "19991231"], 2, "no run '19991231'"),
        (["report", "--store", "nowhere"], 4, "no store at 'nowhere'"),
        (["run", "latncy"], 2, "did you mean 'latency'"),
    ],
)
def test_what_is_not_there_is_told_and_not_made(
    words: list[str], code: int, part: str, lab: Any, command: Command
) -> None:
    command("run", lab.suite("latency"), "--model", lab.models.good())
    ran = command(*words)
    assert (ran.code, ran.out) == (code, "")
    assert part in ran.complaint
    assert not (lab.folder / "nowhere").exists()


def test_a_mistake_leaves_stdout_empty_for_the_program_behind(lab: Any, process: Command) -> None:
    ran = process("run", lab.suite("latency"), "--model", "none.onnx", "--json")
    assert (ran.code, ran.out) == (2, "")
    assert "none.onnx" in ran.complaint


def test_a_failed_job_is_found_with_its_evidence_and_without_secrets(
    lab: Any, command: Command, sabotage: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FARM_TEST_TOKEN", SECRET)
    lab.inventory("local")
    sabotage("print(dict(os.environ), 'was here', file=sys.stderr); os._exit(3)")
    suite = lab.suite("latency")
    ran = command("run", suite, "--model", lab.models.good())
    assert ran.code == 1
    advice = re.search(r"farm (job show \d+)", ran.out)
    listed = command("job", "list", "--json").document
    assert listed["schema"] == "farm.jobs/1"
    assert [(row["device"], row["outcome"]) for row in listed["jobs"]] == [("local", "ERROR")]
    shown = command("job", "show", listed["jobs"][0]["job_id"], "--json").document
    assert shown["schema"] == "farm.job/1"
    evidence = {exhibit["name"]: exhibit["text"] for exhibit in shown["evidence"]}
    assert "was here" in evidence["stderr"]
    assert "<FARM_TEST_TOKEN>" in evidence["stderr"]
    assert "was here" in command("job", "show", "1").out
    _assert_secret_nowhere(lab, ran)
    assert advice, "the complaint does not say which job to look at"
    assert "was here" in command(*advice[1].split()).out


def test_a_secret_cut_in_two_by_the_limit_of_evidence_is_kept_out_as_well(
    lab: Any, command: Command, sabotage: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FARM_TEST_TOKEN", SECRET)
    lab.inventory("local")
    rest = (16 << 10) - 8  # so much that only the secret's end is within the limit
    sabotage(f"os.write(2, ({SECRET!r} + '.' * {rest}).encode()); os._exit(3)")
    ran = command("run", lab.suite("latency"), "--model", lab.models.good())
    assert ran.code == 1
    _assert_secret_nowhere(lab, ran, SECRET[-8:])


def _assert_secret_nowhere(lab: Any, ran: Any, secret: str = SECRET) -> None:
    assert secret not in ran.out + ran.err
    kept = [path for path in (lab.folder / ".farm").rglob("*") if path.is_file()]
    assert [path.name for path in kept if secret.encode() in path.read_bytes()] == []
    assert kept


def test_control_c_keeps_what_is_finished_and_leaves_nothing_behind(
    lab: Any, sabotage: Command
) -> None:
    lab.inventory("phone-1", "local")
    sabotage("import time\nif starts >= 1: time.sleep(600)")  # the phone's was the first
    words = ("run", lab.suite("latency"), "--model", str(lab.models.good()))
    command = (sys.executable, "-m", "farm.cli", *words)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = subprocess.Popen(command, start_new_session=True, **pipes)
    runs = lab.folder / "cache" / "farm" / "local" / "runs"
    try:
        _wait(lambda: len(_processes(runs)) >= 2 or running.poll() is not None)
        os.killpg(running.pid, signal.SIGINT)  # what a terminal does
        out, err = running.communicate(timeout=60)
    finally:
        running.kill()
        running.wait()
    assert (running.returncode, out) == (130, "")
    _wait(lambda: not _processes(runs))
    with closing(sqlite3.connect(lab.folder / ".farm" / "farm.sqlite")) as store:
        assert store.execute("SELECT DISTINCT holder FROM lease").fetchall() == [(None,)]
        kept = store.execute("SELECT device, outcome FROM job").fetchall()
    assert kept == [("phone-1", "COMPLETED")]
    assert list(runs.iterdir()) == []
    assert "Traceback" not in err
    assert "interrupted" in err
    assert len(err.splitlines()) <= 2


def _processes(folder: Path) -> list[str]:
    """The processes that name a folder on their command line, or work in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = os.fsdecode((process / "cmdline").read_bytes())
            if str(folder) in words + os.readlink(process / "cwd"):
                found.append(process.name)
        except OSError:
            continue  # it ended while we looked
    return found


def _wait(for_what: Callable[[], object]) -> None:
    while not for_what():  # the time limit of the test ends it
        time.sleep(0.02)
