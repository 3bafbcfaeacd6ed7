"""Builds small stores through the real writer, so that the dashboard reads what the farm writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import streamlit as st

from farm.analysis.compare import block_effect
from farm.analysis.summary import latency_statistics, over_repeats, share_correct
from farm.errors import Evidence
from farm.model import PAIR, Address, Arm, ArmModel, Artifact, Device, Job, Load, Measure, Workload
from farm.record import (
    ArmSummary,
    ErrorRecord,
    Fact,
    JobResult,
    Measurement,
    Outcome,
    Purpose,
    Repeat,
    Revision,
    RunRecord,
    Skip,
    Trace,
    Verdict,
)
from farm.store import schema
from farm.store.database import Store, open_store
from farm.store.writer import append_job, begin_run, finish_run, iso, save_verdict

HOSTILE = "<b>x</b> $(x)|* :red[y] `z`"
SEED = 20250131
START = datetime(2025, 1, 31, 12, 0, tzinfo=UTC)
BASE_NS = 4.1e6
SAMPLES_PER_REPEAT = 300


@dataclass
class StoreBuilder:
    """Writes runs into one store; every run starts an hour after the one before."""

    store: Store
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(SEED))
    hours: int = 0

    def begin(
        self, suite: str, *, kind: str = "run", planned: int = 1, skips: tuple[Skip, ...] = ()
    ) -> str:
        """Begin a run; returns its id."""
        started = START + timedelta(hours=self.hours)
        self.hours += 1
        run_id = f"{started:%Y%m%dT%H%M%S}-{self.hours:04x}"
        models = "--candidate c.onnx --baseline b.onnx" if kind == "gate" else "--model my.onnx"
        begin_run(
            self.store,
            RunRecord(
                id=run_id,
                kind=kind,
                suite=suite,
                started=started,
                revision=Revision(
                    commit="4f1c9a7be05d" + "0" * 28,
                    parent="9" * 40,
                    branch="feature/smaller-head",
                    purpose=Purpose.PULL_REQUEST if kind == "gate" else Purpose.NIGHTLY,
                ),
                planned=planned,
                skips=skips,
                command=f"farm {kind} {suite} {models}",
            ),
        )
        return run_id

    def finish(self, run_id: str) -> None:
        """Mark a run as ended, ten minutes after it began rather than now."""
        finish_run(self.store, run_id)
        ended = datetime.strptime(run_id[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
        with self.store.transaction() as connection:
            connection.execute(
                schema.run.update()
                .where(schema.run.c.id == run_id)
                .values(finished=iso(ended + timedelta(minutes=10)))
            )

    def add_job(self, run_id: str, ordinal: int, result: JobResult) -> int:
        """Keep one job; returns its id."""
        return append_job(self.store, run_id, ordinal, result, lease_token=0)

    def completed(
        self,
        device: Device,
        *,
        slower: float | None = None,
        rounds: int = 5,
        simulated: bool = True,
        name: str = "candidate.onnx",
    ) -> JobResult:
        """A job that ran: one model, or baseline and candidate if `slower` (a ratio) is given."""
        job = make_job(device, compares=slower is not None, rounds=rounds, name=name)
        ratio = {Arm.BASELINE: 1.0, Arm.CANDIDATE: slower or 1.0}
        repeats = tuple(
            self._repeat(slot.arm, slot.block, slot.position, BASE_NS * ratio[slot.arm])
            for slot in job.slots()
        )
        return JobResult(
            job=job,
            outcome=Outcome.COMPLETED,
            started=START,
            finished=START + timedelta(seconds=97.3),
            accelerator=job.accelerator,
            simulated=simulated,
            environment=(
                Fact(name="os", value="Linux 6.1.0-18-arm64"),
                Fact(name="governor", value="performance"),
                Fact(name="runtime.version", value="onnxruntime 1.20.1"),
                Fact(name="temperature.before", value="31.5 degC"),
            ),
            repeats=repeats,
            arms=tuple(self._summary(arm.arm, repeats) for arm in job.arms),
            notes=("drift was skipped: the workload has no reference outputs",),
        )

    def _repeat(self, arm: Arm, block: int, position: int, level_ns: float) -> Repeat:
        level = level_ns * (1 + 0.004 * block) * self.rng.normal(1, 0.006)
        values = (level * self.rng.lognormal(0, 0.03, SAMPLES_PER_REPEAT)).astype(np.int64)
        values[self.rng.integers(SAMPLES_PER_REPEAT)] *= 6  # one spike in every repeat
        return Repeat(
            arm=arm,
            block=block,
            position=position,
            started=START + timedelta(seconds=20 * block + 5 * position),
            conditions=("throttled",) if (block, position) == (3, 1) else (),
            measurements=latency_statistics(values),
            traces=(Trace(name="latency", unit="ns", values=values, t_ns=np.cumsum(values)),),
        )

    def _summary(self, arm: Arm, repeats: tuple[Repeat, ...]) -> ArmSummary:
        own = [repeat for repeat in repeats if repeat.arm is arm]
        correct = self.rng.random(360) < 0.96
        measurements = [
            over_repeats(metric, np.array([repeat.value(metric) for repeat in own]))
            for metric in ("latency.p50", "latency.p90", "latency.p95")
        ]
        measurements.append(share_correct("accuracy.top1", correct))
        measurements.append(Measurement(metric="size.model_bytes", unit="bytes", value=1.9e6))
        return ArmSummary(arm=arm, measurements=tuple(measurements), correct=correct)


def make_device(name: str = "phone-a", *, type_: str = "phone") -> Device:
    """A virtual device."""
    return Device(name=name, type=type_, address=Address.parse(f"virtual://{name}"))


def make_job(
    device: Device, *, compares: bool = True, rounds: int = 5, name: str = "candidate.onnx"
) -> Job:
    """A job of one model or two; `name` is the candidate's."""
    arms = [_arm(Arm.CANDIDATE, name, "c")]
    if compares:
        arms.insert(0, _arm(Arm.BASELINE, "float.onnx", "b"))
    return Job(
        workload=Workload(name="digits", digest="d" * 64),
        device=device,
        runtime="ort_python",
        accelerator="cpu",
        load=Load(),
        measures=(Measure.LATENCY, Measure.ACCURACY),
        arms=tuple(arms),
        rounds=rounds,
    )


def _arm(arm: Arm, name: str, digit: str) -> ArmModel:
    artifact = Artifact(path=Path("model.onnx"), sha256=digit * 64, size_bytes=1_900_000)
    return ArmModel(arm=arm, name=name, artifact=artifact)


def failed_job(device: Device) -> JobResult:
    """A job whose candidate crashed, with exhibits, under a name that tries to be markup."""
    return JobResult(
        job=make_job(device, name=HOSTILE),
        outcome=Outcome.ERROR,
        started=START,
        finished=START + timedelta(seconds=3.2),
        attempts=2,
        simulated=True,
        error=ErrorRecord(
            family="workload",
            code="runtime_crashed",
            message=f"{device.name}: the runner of {HOSTILE} died with signal 11",
            hint="run it by hand with the command in the evidence",
            arm=Arm.CANDIDATE,
            other_arm_ran=True,
            evidence=(
                Evidence(name="stderr", text="terminate called after throwing 'std::bad_alloc'\n"),
                Evidence(name="command", text="python3 loadgen.py --model '<b>x</b>'"),
                Evidence(name="stdout", text=""),
            ),
        ),
    )


def make_cell(
    metric: str = "latency.p50", *, kind: str = "ratio_pct", **changes: object
) -> dict[str, object]:
    """One passing cell of a gate document, with the changes that a test asks for."""
    cell = {
        "workload": "digits",
        "device_type": "phone",
        "runtime": "ort_python",
        "accelerator": "cpu",
        "scenario": "single_stream",
        "time_basis": "wall",
        "simulated": True,
        "metric": metric,
        "unit": "ns" if kind == "ratio_pct" else "ratio",
        "n": 360 if kind == "points" else 5,
        "blocks": None if kind == "points" else 5,
        "looks": 1,
        "gate": True,
        "confidence": 0.95,
        "effect": 0.4,
        "lo": -0.6,
        "hi": 1.4,
        "margin": 3.0,
        "mde": 0.9,
        "effect_kind": kind,
        "verdict": Verdict.PASS,
        "reasons": [],
        **changes,
    }
    device = f"{cell['device_type']}-a"
    return {"units": [{"device": device, "blocks": 5, "effect": cell["effect"]}], **cell}


def gate_document(cells: list[dict[str, object]], verdict: Verdict = Verdict.FAIL) -> str:
    """A gate document as JSON text."""
    return json.dumps(
        {
            "schema": "farm.gate/1",
            "verdict": verdict,
            "exit_code": 1,
            "policy_sha256": "e" * 64,
            "cells": cells,
        }
    )


def measured_cell(result: JobResult, **rest: object) -> dict[str, object]:
    """The latency cell that follows from a job's own repeats, in percent."""
    logs = {
        arm: [
            [np.log(r.value("latency.p50")) for r in result.repeats if (r.arm, r.block) == (arm, b)]
            for b in range(result.job.rounds)
        ]
        for arm in PAIR
    }
    differences = np.mean(logs[Arm.CANDIDATE], axis=1) - np.mean(logs[Arm.BASELINE], axis=1)
    effect = block_effect(differences, 0.05)
    return {
        **make_cell(device_type=result.job.device.type, **rest),
        "effect": 100 * effect.estimate,
        "lo": 100 * effect.lo,
        "hi": 100 * effect.hi,
        "mde": 100 * effect.mde,
    }


def fill(builder: StoreBuilder) -> dict[str, str]:
    """One of everything; returns the ids of the runs by what they show."""
    runs = {"plain": _plain_run(builder), "interrupted": _interrupted_run(builder)}
    runs["gate"] = _failing_gate(builder)
    return runs


def _plain_run(builder: StoreBuilder) -> str:
    run_id = builder.begin("accuracy", planned=1)
    device = make_device("board-1", type_="board")
    builder.add_job(run_id, 0, builder.completed(device, simulated=False, rounds=3))
    builder.finish(run_id)
    return run_id


def _interrupted_run(builder: StoreBuilder) -> str:
    run_id = builder.begin("latency", planned=4)
    for ordinal in range(3):
        device = make_device(f"phone-{ordinal}")
        builder.add_job(run_id, ordinal, builder.completed(device, rounds=3))
    return run_id


def _failing_gate(builder: StoreBuilder) -> str:
    skip = Skip(device="board-2", what="digits", reason="in maintenance until Monday")
    run_id = builder.begin("latency", kind="gate", planned=3, skips=(skip,))
    slow = builder.completed(make_device(), slower=1.12, name=HOSTILE)
    same = builder.completed(make_device("tablet-a", type_="tablet"), slower=1.002)
    builder.add_job(run_id, 0, slow)
    builder.add_job(run_id, 1, same)
    builder.add_job(run_id, 2, failed_job(make_device("watch-a", type_="watch")))
    builder.finish(run_id)
    save_verdict(
        builder.store,
        run_id,
        Verdict.FAIL,
        policy_sha256="e" * 64,
        policy="schema: farm.policy/1\n",
        document=gate_document(_gate_cells(slow, same)),
    )
    return run_id


def _gate_cells(slow: JobResult, same: JobResult) -> list[dict[str, object]]:
    return [
        measured_cell(same, verdict=Verdict.PASS),
        make_cell(
            "accuracy.top1",
            kind="points",
            effect=0.3,
            lo=-0.4,
            hi=1.1,
            margin=1.0,
            verdict=Verdict.INCONCLUSIVE,
            reasons=("420 items would decide",),
        ),
        make_cell(
            device_type="watch",
            effect=None,
            lo=None,
            hi=None,
            verdict=Verdict.INVALID,
            reasons=("throttled in block 3",),
        ),
        measured_cell(slow, verdict=Verdict.FAIL, reasons=("slower by more than the margin",)),
    ]


@pytest.fixture(autouse=True)
def _fresh_caches() -> Iterator[None]:
    """No test sees what another one has read."""
    yield
    st.cache_data.clear()
    st.cache_resource.clear()


@pytest.fixture
def make_builder() -> Iterator[Callable[[Path], StoreBuilder]]:
    """Makes a store in a folder and a builder for it."""
    with ExitStack() as stack:
        yield lambda folder: StoreBuilder(stack.enter_context(closing(open_store(folder))))


@pytest.fixture
def builder(
    make_builder: Callable[[Path], StoreBuilder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> StoreBuilder:
    """A builder of the store that the dashboard reads in this test; empty at first."""
    folder = tmp_path / "lab-store"
    monkeypatch.setenv("FARM_STORE", str(folder))
    return make_builder(folder)


@pytest.fixture
def fill_store() -> Callable[[StoreBuilder], dict[str, str]]:
    """Writes one of everything; gives the ids of the runs by what they show."""
    return fill


@pytest.fixture
def cell() -> Callable[..., dict[str, object]]:
    """Makes one cell of a gate document."""
    return make_cell


@pytest.fixture
def document() -> Callable[..., str]:
    """Makes a gate document of cells."""
    return gate_document


@pytest.fixture
def hostile() -> str:
    """A name that tries to be HTML, a formula, a table, a colour and code."""
    return HOSTILE
