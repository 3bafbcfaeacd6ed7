"""Whatever people hand in: the right exit code, a complaint of two lines, and nothing is lost."""

from __future__ import annotations

import json
import math
import os
import re
import resource
import shlex
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from farm.errors import StoreError
from farm.store import reader, rows
from farm.store.database import open_store

Command = Callable[..., Any]
LIMIT = (300_000, 300_000)
GARBAGE = np.random.default_rng(7).bytes(500)

BROKEN_MODELS: dict[str, tuple[str, str, Callable[[Any], Any], str]] = {
    "garbage": ("latency", "unsupported_model", lambda m: GARBAGE, ""),
    "half": ("latency", "unsupported_model", lambda m: m.good().read_bytes()[:99], ""),
    "empty": ("latency", "unsupported_model", lambda m: b"", ""),
    "unknown operator": ("latency", "unsupported_model", lambda m: m.alien("m.onnx"), "Mystery"),
    "wrong shape": (
        "accuracy",
        "deploy_failed",
        lambda m: m.narrow("m.onnx"),
        "Got: 4 Expected: 5",
    ),
    "wrong name": ("accuracy", "deploy_failed", lambda m: m.renamed("m.onnx", "pixels"), "has x"),
    "NaN, timed": ("latency", "wrong_output", lambda m: m.shifted("m.onnx", math.nan), "'y'"),
    "NaN, scored": ("accuracy", "wrong_output", lambda m: m.shifted("m.onnx", math.nan), "'y'"),
    "infinite, timed": ("latency", "wrong_output", lambda m: m.shifted("m.onnx", math.inf), "'y'"),
    "infinite": ("accuracy", "wrong_output", lambda m: m.shifted("m.onnx", -math.inf), "'y'"),
    "free size": ("latency", "deploy_failed", lambda m: m.free("m.onnx", "wide"), "--shape wide=N"),
    "nameless size": ("latency", "deploy_failed", lambda m: m.free("m.onnx", None), "workload"),
    "texts": ("accuracy", "wrong_output", lambda m: m.texts("m.onnx"), "'y'"),
    "tables": ("accuracy", "wrong_output", lambda m: m.tables("m.onnx"), "'y'"),
}
"""What is measured, which error it must be, how the file is made, and what its message says."""


@pytest.mark.parametrize("case", BROKEN_MODELS)
def test_a_broken_model_is_an_error_of_its_job(case: str, lab: Any, command: Command) -> None:
    measure, code, build, part = BROKEN_MODELS[case]
    model = build(lab.models)
    model = lab.write("m.onnx", model) if isinstance(model, bytes) else model
    workload = ("--workload", lab.workload()) if measure == "accuracy" else ()
    ran = command("run", lab.suite(measure), "--model", model, *workload)
    job = command("report", "--format", "json").document["jobs"][0]
    assert (ran.code, job["outcome"], job["error"]["code"]) == (1, "ERROR", code)
    assert job["measurements"] == []
    assert part in " ".join(job["error"]["message"].split())
    assert "None" not in ran.complaint
    assert ran.err == ""


def test_with_its_size_given_a_free_dimension_runs(lab: Any, command: Command) -> None:
    model = lab.models.free("m.onnx", "width")
    ran = command("run", lab.suite("latency"), "--model", model, "--shape", "width=7", "--json")
    assert (ran.code, ran.document["jobs"][0]["outcome"]) == (0, "COMPLETED")


def test_a_broken_model_takes_nothing_from_earlier_runs(lab: Any, command: Command) -> None:
    suite = lab.suite("latency")
    before = command("run", suite, "--model", lab.models.good(), "--json").document
    assert command("run", suite, "--model", lab.write("bad.onnx", GARBAGE)).code == 1
    after = command("report", before["run"]["id"], "--format", "json").document
    assert after == before


def test_a_model_that_dies_halfway_keeps_the_repeats_before(
    lab: Any, command: Command, sabotage: Callable[[str], None]
) -> None:
    lab.inventory("local")
    sabotage("if starts >= 3: os.kill(os.getpid(), 9)")
    ran = command("run", lab.suite("latency", repeats=4), "--model", lab.models.good())
    job = command("report", "--format", "json").document["jobs"][0]
    assert (ran.code, job["outcome"], job["error"]["code"]) == (1, "ERROR", "runtime_crashed")
    assert "signal 9" in ran.complaint
    kept = {m["metric"]: m["n"] for m in job["measurements"]}["latency.p50"]
    assert 1 <= kept <= 3  # up to two are done again where others use the processor


def test_an_absent_accelerator_never_becomes_a_cpu_result(lab: Any, command: Command) -> None:
    suite = lab.suite("latency", accelerators=["cpu", "cuda"])
    ran = command("run", suite, "--model", lab.models.good(), "--json")
    on_cpu, on_cuda = ran.document["jobs"]
    assert (ran.code, on_cpu["outcome"], on_cuda["outcome"]) == (1, "COMPLETED", "ERROR")
    assert (on_cuda["accelerator"], on_cuda["error"]["code"]) == ("cuda", "wrong_accelerator")
    assert on_cuda["measurements"] == []
    assert on_cpu["measurements"] != []


CONFIGURATION = {
    "a folder without models": (["--model", "cache"], ["'cache'", "no model"]),
    "a folder with two models": (["--model", "."], ["2 model files", "name one"]),
    "a missing model with a near name": (["--model", "godo.onnx"], ["did you mean 'good.onnx'"]),
    "an unknown format": (["--model", "good.tflight"], ["good.tflight", ".onnx"]),
    "an unreadable size": (["--model", "good.onnx", "--shape", "x=0"], ["x=0", "batch=1"]),
    "an unknown device": (["--device", "phon-1"], ["phon-1", "did you mean 'phone-1'"]),
    "a device like markup": (["--device", "[/red]"], ["[/red]"]),
    "an unknown tag": (["--tag", "red"], ["red"]),
    "no inventory": (["--inventory", "none.yaml"], ["none.yaml"]),
}


@pytest.mark.parametrize("case", CONFIGURATION)
def test_a_mistake_in_the_words_is_told_before_anything_runs(
    case: str, lab: Any, command: Command
) -> None:
    words, parts = CONFIGURATION[case]
    shutil.copyfile(lab.models.good(), lab.folder / "second.onnx")
    lab.write("good.tflight", b"TFL3")
    (lab.folder / "cache").mkdir(exist_ok=True)
    model = () if "--model" in words else ("--model", "good.onnx")
    ran = command("run", lab.suite("latency"), *model, *words)
    assert (ran.code, ran.out) == (2, "")
    for part in parts:
        assert part in ran.complaint
    assert ("name one" in ran.err) == ("two" in case)
    assert not (lab.folder / ".farm").exists()


DEVICE = b"  a: {type: pc, address: 'local://'}\n"
INVENTORIES = {
    "empty": (b"", ":1: ", "empty"),
    "a list": (b"- a\n- b\n", ":1: ", "list"),
    "not UTF-8": (b"schema: farm.inventory/1\n# caf\xe9\ndevices:\n" + DEVICE, ":2: ", "UTF-8"),
    "a duplicate key": (
        b"schema: farm.inventory/1\ndevices:\n" + DEVICE + DEVICE, ":4: ", "duplicate key 'a'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("verb", ["check", "run"])
@pytest.mark.parametrize("case", INVENTORIES)
def test_an_inventory_that_is_none_is_told_with_its_line(
    case: str, verb: str, lab: Any, command: Command
) -> None:
    content, line, part = INVENTORIES[case]
    path = lab.write("lab.yaml", content)
    rest = () if verb == "check" else (lab.suite("latency"), "--model", lab.models.good())
    ran = command(verb, *rest, *([path] if verb == "check" else ["--inventory", path]))
    assert (ran.code, ran.out) == (2, "")
    assert f"lab.yaml{line}" in ran.complaint
    assert part in ran.complaint


STORES = {
    "below a file": "writable folder with --store",
    "a short file": "not a database",
    "a long file": "not a database",
    "a folder": "--store",
    "a newer schema": "9999",
}


def _spoilt(folder: Path, case: str) -> Path:
    """A store folder that cannot be used."""
    folder.mkdir()
    database = folder / "farm.sqlite"
    match case:
        case "below a file":
            database.write_bytes(b"")
            return database / "store"
        case "a folder":
            database.mkdir()
        case "a newer schema":
            open_store(folder).close()
            with closing(sqlite3.connect(database)) as connection, connection:
                connection.execute("UPDATE alembic_version SET version_num = '9999'")
        case _:
            database.write_bytes(b"x" * (5 if "short" in case else 5000))
    return folder


@pytest.mark.parametrize("case", STORES)
def test_an_unusable_store_is_the_labs_trouble(case: str, lab: Any, command: Command) -> None:
    store = _spoilt(lab.folder / "spoilt", case)
    ran = command("run", lab.suite("latency"), "--model", lab.models.good(), "--store", store)
    assert (ran.code, ran.out) == (4, "")
    assert STORES[case] in ran.complaint
    for words in (["report"], ["job", "list"], ["job", "show", "1"]):
        ran = command(*words, "--store", store)
        assert (ran.code, ran.out) == (4, "")
        assert ran.complaint


def test_lost_raw_samples_cost_nothing_but_themselves(lab: Any, command: Command) -> None:
    ran = command("run", lab.suite("latency"), "--model", lab.models.good(), "--json")
    next((lab.folder / ".farm" / "traces").rglob("*.parquet")).unlink()
    assert command("report", "--format", "json").document == ran.document
    assert command("job", "show", "1").code == 0
    with (
        open_store(Path(".farm")) as store,
        pytest.raises(StoreError, match="raw samples of job 1") as told,
    ):
        reader.traces(store, 1)
    assert "backup" in told.value.hint


FARM = (sys.executable, "-m", "farm.cli")
FILL = """
mount -t tmpfs -o size=1m tmpfs store || exit 99
"$@" 2>told; code=$?
cp -a store kept && mount -o remount,size=64m store && "$@" >again.json || exit 98
cat told >&2; exit $code
"""


def test_a_full_disk_keeps_whole_jobs_and_room_cures_it(
    lab: Any, process: Command, lacks: Callable[[str], None]
) -> None:
    if process("--mount", "true", program=["unshare"]).code:
        lacks("cannot mount a small disk: needs root and 'unshare' of util-linux")
    lab.inventory(*(f"phone-{seed}" for seed in range(6)))
    suite = lab.suite("latency", load={"min_queries": 20_000})
    (lab.folder / "store").mkdir()
    words = ("run", suite, "--model", lab.models.good(), "--store", "store", "--json")
    full = process(*FARM, *words, program=["unshare", "--mount", "sh", "-c", FILL, "fill"])
    assert full.code == 4, full.err
    assert "make room" in full.complaint
    assert 0 < _whole_jobs(lab.folder / "kept") < 6
    again = json.loads((lab.folder / "again.json").read_text())
    assert [job["outcome"] for job in again["jobs"]] == ["COMPLETED"] * 6


def test_a_limit_of_file_size_is_met_like_a_full_disk(lab: Any, process: Command) -> None:
    lab.inventory(*(f"phone-{seed}" for seed in range(6)))
    words = ("run", lab.suite("latency"), "--model", lab.models.good(), "--json")
    full = process(*words, preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, LIMIT))
    assert full.code == 4, full.err
    assert "free space" in full.complaint
    assert 0 < _whole_jobs(lab.folder / ".farm") < 6
    again = process(*words)
    assert [job["outcome"] for job in again.document["jobs"]] == ["COMPLETED"] * 6


def test_a_device_without_room_is_no_fault_of_the_model(
    lab: Any, command: Command, sabotage: Callable[[str], None]
) -> None:
    lab.inventory("local")
    sabotage("import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))")
    ran = command("run", lab.suite("latency"), "--model", lab.models.good(), "--json")
    assert ran.code == 4, ran.document["jobs"][0]["error"]
    assert ran.document["jobs"][0]["error"]["code"] != "bug"


def _whole_jobs(folder: Path) -> int:
    with open_store(folder) as store:
        jobs = [rows.read_job(store, int(job)) for job in reader.jobs(store)["job_id"]]
        for job in jobs:
            assert job.outcome == "COMPLETED"
            assert {m.metric: m.n for m in job.models[0].measurements}["latency.p50"] == 2
            assert set(reader.traces(store, job.id)["block"]) == {0, 1}
    return len(jobs)


NAMES = [
    "  two  words ", "it's \"quoted\" `here`", "new\nline", "$(touch pwned)", "; rm -rf x",
    "-leading", "[red]x[bold]", "<script>alert(1)<script>", "\x1b[2Jgone|", "n" * 200,
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_name_is_a_name_and_nothing_else(name: str, lab: Any, command: Command) -> None:
    model = lab.models.good(f"{name}.onnx")
    ran = command("run", lab.suite("latency"), "--model", model.name)
    assert (ran.code, ran.err) == (0, "")
    assert "\x1b" not in ran.out
    assert "\n" in name or len(name) > 99 or name.replace("\x1b", r"\x1b") in ran.out
    assert re.search(r"latency\.p50 +[\d.]+ us", ran.out)
    assert name != "n" * 200 or ran.out.count("n") >= 200
    document = command("report", "--format", "json").document
    assert document["jobs"][0]["model"]["name"] == name
    assert shlex.split(document["run"]["command"])[4] == f"{name}.onnx"
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    rows = [line for line in command("report").out.splitlines() if "latency.p50" in line]
    cell = re.split(r"(?<!\\)\|", rows[0])[2]
    assert re.sub(r"\\(.)", r"\1", cell)[1:-1] == printable
    assert not re.search(r"(?<!\\)[<`\[*]", cell)
    case = ET.fromstring(command("report", "--format", "junit").out)[0]
    assert case.get("name").startswith((f"{name} on phone-1", f"{printable} on phone-1"))
    assert command("job", "show", "1").code == 0
    assert not list(lab.folder.rglob("pwned"))


def test_no_text_of_the_inventory_reaches_the_terminal_raw(lab: Any, command: Command) -> None:
    address = 'address: "virtual://camera"'
    lab.inventory(**{'"[/red]"': f'type: "\\e[2J[/red]", owner: "\\e[2J", {address}'})
    suite, model = lab.suite("latency", margins={"latency.p50": "15 %"}), lab.models.good()
    models = ("--candidate", model, "--baseline", model)
    for words in (["plan", suite, "--model", model], ["gate", suite, *models], ["job", "show", 1]):
        ran = command(*words)
        assert (ran.code, ran.err) == (0, "")
        assert "\x1b" not in ran.out
        assert r"\x1b[2J[/red]" in ran.out


def test_a_name_that_is_no_text_runs_and_is_told_as_text(lab: Any, process: Command) -> None:
    name = os.fsdecode(b"caf\xe9.onnx")
    ran = process("run", lab.suite("latency"), "--model", lab.models.good(name), "--json")
    assert ran.code == 0, ran.err
    assert ran.document["jobs"][0]["model"]["name"].startswith("caf")
    for form in ("md", "junit"):
        assert "caf" in process("report", "--format", form).out


GATES = {
    "latency": {"latency.p50": "15 %"},
    "accuracy": {"accuracy.top1": "40 points"},
    "memory": {"memory.peak_rss": "15 %", "size.model_bytes": "15 %"},
}
BROKEN = {
    "empty": lambda m: b"",
    "half": lambda m: m.good().read_bytes()[:100],
    "NaN": lambda m: m.shifted("bad.onnx", math.nan).read_bytes(),
}


@pytest.mark.parametrize("measure", GATES)
@pytest.mark.parametrize("case", BROKEN)
def test_a_gate_fails_a_broken_candidate_and_accuses_nobody_of_a_broken_baseline(
    case: str, measure: str, lab: Any, command: Command
) -> None:
    words = ["gate", lab.suite(measure, margins=GATES[measure]), "--workload", lab.workload()]
    good, bad = lab.models.good(), lab.write("bad.onnx", BROKEN[case](lab.models))
    failed = command(*words, "--candidate", bad, "--baseline", good, "--json")
    assert (failed.code, failed.document["verdict"]) == (1, "FAIL")
    for cell in failed.document["cells"]:
        assert cell["verdict"] == "FAIL"
        assert any(reason.startswith("workload_") for reason in cell["reasons"])
        assert [cell[key] for key in ("effect", "lo", "hi", "mde")] == [None] * 4
    unjudged = command(*words, "--candidate", good, "--baseline", bad, "--json")
    assert unjudged.err == ""
    assert (unjudged.code, unjudged.document["verdict"]) == (4, "INVALID")
