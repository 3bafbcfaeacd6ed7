"""Alerts on the command line: from measurements in a store to what people say about them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from farm import triage
from farm.alerts import State
from farm.cli import main
from farm.model import Address, Arm, ArmModel, Artifact, Device, Job, Load, Measure, Workload
from farm.record import ArmSummary, JobResult, Measurement, Outcome, Purpose, Revision, RunRecord
from farm.store import schema, writer
from farm.store.database import Store, open_store

START = datetime(2026, 1, 1, tzinfo=UTC)
Call = Callable[..., tuple[int, str, str]]
Values = dict[str, float]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / ".farm") as opened:
        yield opened


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], store: Store) -> Call:
    """Runs the command line in this process; returns exit code, stdout and stderr."""
    monkeypatch.setenv("USER", "ada")

    def run(*words: object, store: Path = store.folder) -> tuple[int, str, str]:
        line = ["farm", "alerts", *words, "--store", store]
        monkeypatch.setattr(sys, "argv", [str(word) for word in line])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


def _job(device: str, values: Values, *, simulated: bool) -> JobResult:
    model = ArmModel(
        arm=Arm.CANDIDATE, name="m", artifact=Artifact(path=Path("m"), sha256="ab", size_bytes=7)
    )
    job = Job(
        workload=Workload(name="digits", digest="d"),
        device=Device(name=device, type="phone", address=Address(scheme="local", place="")),
        runtime="ort", accelerator="cpu", load=Load(), measures=(Measure.LATENCY,), rounds=1,
        arms=(model,),
    )  # fmt: skip
    measured = tuple(Measurement(metric=m, unit="ns", value=v, n=3) for m, v in values.items())
    return JobResult(
        job=job, outcome=Outcome.COMPLETED, started=START, finished=START, accelerator="cpu",
        simulated=simulated, arms=(ArmSummary(arm=Arm.CANDIDATE, measurements=measured),),
    )  # fmt: skip


def night(
    store: Store, number: int, devices: dict[str, Values], *, simulated: bool = True,
    purpose: Purpose = Purpose.NIGHTLY,
) -> None:  # fmt: skip
    """One run of the main line."""
    started = START + timedelta(days=number)
    run_id = f"{started:%Y%m%d-%H%M%S}-{purpose:.6}"
    record = RunRecord(
        id=run_id, kind="run", suite="s", started=started, planned=len(devices),
        revision=Revision(commit=f"c{number:03}", purpose=purpose),
    )  # fmt: skip
    writer.begin_run(store, record)
    for ordinal, (device, values) in enumerate(devices.items()):
        result = _job(device, values, simulated=simulated)
        writer.append_job(store, run_id, ordinal, result, lease_token=0)


def level(number: int, *steps: tuple[int, float], seed: int = 0) -> float:
    """A latency in ns: 5 ms with a CV of 0.3 %, times every factor whose night has come."""
    noise = np.random.default_rng((seed, number)).normal(1, 0.003)
    return float(5e6 * noise * np.prod([factor for at, factor in steps if number >= at]))


def nights(store: Store, numbers: range, *steps: tuple[int, float]) -> None:
    for number in numbers:
        night(store, number, {"p1": {"latency.p50": level(number, *steps)}})


def listed(call: Call, *words: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(call("list", *words, "--json")[1])["alerts"]
    return found


def test_a_regression_is_found_listed_and_shown(call: Call, store: Store) -> None:
    nights(store, range(24), (12, 1.1))
    code, out, _ = call("list", "--json")
    document = json.loads(out)
    (alert,) = document["alerts"]
    assert (code, document["schema"], document["open"]) == (1, "farm.alerts/1", 1)
    assert (alert["revision_before"], alert["revision"]) == ("c011", "c012")
    assert alert["lo_pct"] <= alert["effect_pct"] <= alert["hi_pct"]
    assert alert["effect_pct"] == pytest.approx(10, abs=0.5)
    assert (alert["n_before"], alert["n_after"], alert["state"]) == (12, 12, "confirmed")
    assert document["groups"] == [
        {"kind": "revision", "revision": "c012", "device_type": None, "moved": None,
         "pool": None, "alerts": [alert["id"]]}
    ]  # fmt: skip
    code, out, _ = call("list")
    assert (code, out.count("[simulated]")) == (1, 2)
    for shown in ("c011", "c012", "p1", "confirmed", "ms -> ", "n 12, 12", "by farm: 12 points"):
        assert shown in out
    assert "precision of latency.p50: 1 of 1 alerts were real (100%)" in out


def test_an_empty_history_is_no_alarm_and_no_store_is_none(call: Call, store: Store) -> None:
    assert call("list")[:2] == (0, "0 alerts shown, 0 open\n")
    none = store.folder / "none"
    code, out, err = call("list", store=none)
    assert (code, out, none.exists()) == (4, "", False)
    assert "there is no store" in err


def test_what_is_not_of_the_main_line_or_better_raises_no_alert(call: Call, store: Store) -> None:
    for number in range(24):
        slow = {"p1": {"latency.p50": level(number, (12, 1.1))}}
        night(store, number, slow, purpose=Purpose.AD_HOC)
        night(store, number, {"p2": {"latency.p50": level(number, (12, 0.9))}})
    code, out, _ = call("list", "--json")
    assert (code, json.loads(out)["alerts"]) == (0, [])
    (kept,) = listed(call, "--state", "improvement")
    assert (kept["device"], kept["open"]) == ("p2", False)
    code, _, err = call("ack", kept["id"], "--why", "good")
    assert (code, len(err.splitlines())) == (2, 2)


def test_refreshing_again_and_arriving_in_another_order_change_nothing(
    call: Call, store: Store, tmp_path: Path
) -> None:
    steps = ((10, 1.05), (20, 1.05))
    nights(store, range(30), *steps)
    first = call("list", "--all", "--json")[1]
    second = json.loads(call("list", "--all", "--json")[1])
    assert second == json.loads(first) | {"changed": []}
    with open_store(tmp_path / "other") as other:
        for number in np.random.default_rng(3).permutation(30):
            nights(other, range(number, number + 1), *steps)
        board = triage.refresh(other.folder)
    told = [(a.shift.revision, a.shift.effect, a.state) for a in board.alerts]
    assert told == [(a["revision"], a["effect_pct"] / 100, a["state"]) for a in second["alerts"]]


def test_only_measurements_resolve(call: Call, store: Store) -> None:
    nights(store, range(20), (10, 1.1))
    (alert,) = listed(call)
    number = alert["id"]
    code, _, err = call("resolve", number, "--why", "merged")
    assert (code, len(err.splitlines())) == (2, 2)
    assert "from confirmed a person may make it: acknowledged, invalid, wontfix" in err
    assert call("ack", number, "--why", "seen")[0] == 0
    assert call("list")[0] == 0
    assert call("fixing", number, "--why", "PR 7")[0] == 0
    code, out, _ = call("resolve", number, "--why", "merged", "--who", "bob", "--json")
    assert (code, json.loads(out)["alert"]["state"]) == (0, "resolved-claimed")
    assert [a["state"] for a in listed(call)] == ["resolved-claimed"]
    nights(store, range(20, 25), (10, 1.1))
    assert [a["state"] for a in listed(call)] == ["fix-failed"]
    assert call("list")[0] == 1
    call("resolve", number, "--why", "now really")
    nights(store, range(25, 31), (10, 1.1), (25, 1 / 1.1))
    assert (call("list")[0], listed(call)) == (0, [])
    document = json.loads(call("show", number, "--json")[1])
    moves = document["alert"]["transitions"]
    assert document["schema"] == "farm.alert/1"
    assert [(m["to"], m["who"]) for m in moves] == [
        ("new", "farm"), ("confirmed", "farm"), ("acknowledged", "ada"), ("fixing", "ada"),
        ("resolved-claimed", "bob"), ("fix-failed", "farm"), ("resolved-claimed", "ada"),
        ("resolved", "farm"),
    ]  # fmt: skip
    assert "a step back at c025" in moves[-1]["why"]
    assert "resolved-claimed -> resolved" in call("show", number)[1]


@pytest.mark.parametrize(("moving", "incidents"), [(5, 1), (3, 0)])
def test_a_pool_that_moves_together_is_one_incident(
    moving: int, incidents: int, call: Call, store: Store
) -> None:
    """Five of twenty series are 25 %, three are 15 %; one of them gets better."""
    metrics = ("latency.p50", "latency.p90", "latency.p95", "latency.p99", "memory.peak_rss")
    names = [(f"p{unit}", metric) for unit in range(4) for metric in metrics]
    for number in range(16):
        devices: dict[str, Values] = {}
        for index, (device, metric) in enumerate(names):
            factor = 0.9 if index == 0 else 1.1 if index < moving else 1
            at = 8 + index % 2  # neighbouring revisions count as one
            devices.setdefault(device, {})[metric] = level(number, (at, factor), seed=index)
        night(store, number, devices)
    document = json.loads(call("list", "--json")[1])
    incident = [group for group in document["groups"] if group["kind"] == "environment"]
    assert len(incident) == incidents
    assert len(document["alerts"]) == document["open"] == moving - 1
    assert {alert["state"] for alert in document["alerts"]} == {"confirmed"}
    for group in incident:
        assert (group["device_type"], group["moved"], group["pool"]) == ("phone", 5, 20)
        assert len(group["alerts"]) == 4
        assert "5 of 20 series of phone moved together" in call("list")[1]


HOSTILE = "'); DROP TABLE alert;-- [bold red]x[/] \x1b[2J\u202e\r\nfarm: done \udcff é"


def test_hostile_words_stay_words(call: Call, store: Store) -> None:
    nights(store, range(20), (10, 1.1))
    (alert,) = listed(call)
    assert call("ack", alert["id"], "--why", HOSTILE, "--who", HOSTILE)[0] == 0
    _, out, _ = call("list")
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "\r" not in out
    assert "[bold red]x[/]" in out
    assert not any(line.startswith("farm: done") for line in out.splitlines())
    kept = listed(call)[0]["last"]
    assert kept["why"] == HOSTILE.replace("\udcff", "\\xff")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("ack", 1, "--why", "  "), "--why is empty"),
        (("ack", 1, "--why", "x" * 2001), "longer than 2000"),
        (("ack", 1, "--why", "x", "--who", ""), "nobody is named"),
        (("ack", 7, "--why", "x"), "has no alert 7"),
        (("show", 7), "has no alert 7"),
        (("ack", 1), "Missing option"),
        (("show", 2**70), "9007199254740992"),
        (("list", "--state", "gone"), "is not one of"),
    ],
)
def test_mistakes_are_refused(
    words: tuple[object, ...], complaint: str, call: Call, store: Store
) -> None:
    nights(store, range(20), (10, 1.1))
    call("refresh")
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert complaint in " ".join(err.split())
    assert [alert["state"] for alert in listed(call)] == ["confirmed"]


def test_two_processes_at_once_double_nothing(call: Call, store: Store) -> None:
    nights(store, range(20), (10, 1.1))
    words = (sys.executable, "-m", "farm.cli", "alerts", "refresh", "--store", str(store.folder))
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(told) == ["0 alerts changed, 1 open\n", "1 alert changed, 1 open\n"]
    with store.reading() as connection:
        moves = connection.execute(sa.select(schema.alert_transition)).all()
    assert [(move.alert_id, move.target) for move in moves] == [(1, "new"), (1, "confirmed")]


def test_results_that_arrive_during_an_analysis_are_in_the_answer(store: Store) -> None:
    nights(store, range(14), (10, 1.1))
    more = iter([range(14, 20)])

    def arrive(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("write"):
            for numbers in more:
                nights(store, numbers, (10, 1.1))

    sa.event.listen(sa.Engine, "begin", arrive)
    try:
        (alert,) = triage.refresh(store.folder).alerts
    finally:
        sa.event.remove(sa.Engine, "begin", arrive)
    assert (alert.latest, alert.state) == ("c019", State.CONFIRMED)


def test_a_gate_may_confirm(store: Store) -> None:
    for number in range(3):
        night(store, number, {"p1": {"size.model_bytes": 1000.0 + (number == 2)}})
    (alert,) = triage.refresh(store.folder).alerts
    assert alert.state is State.NEW
    confirmed = triage.confirm(store.folder, alert.id, who="gate", why="FAIL by 0.1 %")
    assert confirmed == triage.show(store.folder, alert.id)
    assert confirmed.state is State.CONFIRMED
    assert triage.confirm(store.folder, alert.id, who="gate", why="again") == confirmed
