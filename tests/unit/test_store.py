"""The store keeps whole jobs or nothing, and says so when it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from farm.errors import ConfigError, Evidence, LeaseLost, StoreError, StoreUnavailable
from farm.model import Address, Arm, ArmModel, Artifact, Device, Job, Load, Measure, Workload
from farm.record import (
    ArmSummary,
    ErrorRecord,
    Fact,
    JobResult,
    Measurement,
    Outcome,
    Reading,
    Repeat,
    Revision,
    RunRecord,
    Skip,
    Trace,
)
from farm.store import reader, rows, schema, writer
from farm.store.database import HEAD, MIGRATIONS, Store, open_store
from farm.store.traces import trace_path

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
SAMPLES = np.array([100, 2**52 + 1, 300], np.int64)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store") as opened:
        yield opened


def _run(store: Store, run_id: str = "20260304-050607-aaaaaa") -> str:
    record = RunRecord(
        id=run_id, kind="run", suite="s", started=NOW, revision=Revision(), planned=2,
        skips=(Skip(device="d", what="accuracy", reason="no labels"),), command="farm run s",
    )  # fmt: skip
    writer.begin_run(store, record)
    return run_id


def _result(*, error: ErrorRecord | None = None) -> JobResult:
    job = Job(
        workload=Workload(name="w", digest="d"),
        device=Device(name="dev", type="t", address=Address(scheme="local", place="")),
        runtime="r", accelerator="cpu", load=Load(), measures=(Measure.LATENCY,), rounds=1,
        arms=(ArmModel(arm=Arm.CANDIDATE, name="m",
                       artifact=Artifact(path=Path("m"), sha256="ab" * 32, size_bytes=7)),),
    )  # fmt: skip
    repeat = Repeat(
        arm=Arm.CANDIDATE, block=0, position=0, started=NOW, conditions=("throttled",),
        measurements=(Measurement(metric="latency.p50", unit="ns", value=200.0),),
        traces=(Trace(name="latency", unit="ns", values=SAMPLES, t_ns=SAMPLES * 2),),
        readings=(Reading(t_ns=1, name="temperature", unit="degC", value=40.0),),
    )  # fmt: skip
    summary = ArmSummary(
        arm=Arm.CANDIDATE,
        measurements=(
            Measurement(metric="latency.p50", unit="ns", value=200.0, lo=100.0, hi=300.0, n=3),
        ),
        correct=np.array([True, False]),
    )
    return JobResult(
        job=job, outcome=Outcome.ERROR if error else Outcome.COMPLETED, started=NOW, finished=NOW,
        repeats=(repeat,), arms=(summary,), environment=(Fact(name="os", value="x"),),
        notes=("a note",), error=error,
    )  # fmt: skip


def test_what_was_written_is_what_is_read(store: Store) -> None:
    run_id = _run(store)
    error = ErrorRecord(
        family="workload", code="runtime_crashed", message="m", arm=Arm.CANDIDATE,
        evidence=(Evidence(name="stderr", text="boom"),),
    )  # fmt: skip
    job_id = writer.append_job(store, run_id, 0, _result(error=error), lease_token=0)
    job = rows.read_job(store, job_id)
    assert job.error == error
    assert job.environment == (Fact(name="os", value="x"),)
    assert job.notes == ("a note",)
    assert job.models[0].measurements == _result().arms[0].measurements
    samples = reader.traces(store, job_id)
    assert samples["value"].to_numpy().astype(np.int64).tolist() == SAMPLES.tolist()
    assert samples["t_ns"].tolist() == (SAMPLES * 2).tolist()
    assert reader.traces(store, job_id, trace="correct")["value"].tolist() == [1.0, 0.0]
    assert reader.repeats(store, job_id)["conditions"].tolist() == [["throttled"]]
    assert reader.results(store)["value"].tolist() == [200.0]
    assert rows.find_run(store).skips[0].reason == "no labels"


def test_a_run_is_there_before_its_first_job(store: Store) -> None:
    _run(store)
    row = reader.runs(store).iloc[0]
    assert (row["planned"], row["completed"], row["finished"]) == (2, 0, None)


def test_the_same_job_is_never_in_a_run_twice(store: Store) -> None:
    run_id = _run(store)
    writer.append_job(store, run_id, 0, _result(), lease_token=0)
    with pytest.raises(StoreUnavailable):
        writer.append_job(store, run_id, 0, _result(), lease_token=0)
    assert len(reader.jobs(store)) == 1


def test_a_stale_lease_writes_nothing(store: Store) -> None:
    run_id = _run(store)
    row = {"device": "dev", "host": "", "token": 2, "holder": "job:other", "until": 0.0,
           "node": "", "boot_id": "", "pid": 1, "process_start": ""}  # fmt: skip
    with store.transaction() as connection:
        connection.execute(schema.lease.insert().values(**row))
    with pytest.raises(LeaseLost):
        writer.append_job(store, run_id, 0, _result(), lease_token=1)
    assert reader.jobs(store).empty


def test_equal_samples_are_kept_once_under_their_digest(store: Store) -> None:
    run_id = _run(store)
    for ordinal in range(2):
        writer.append_job(store, run_id, ordinal, _result(), lease_token=0)
    digests = {rows.read_job(store, n).trace_sha256 for n in (1, 2)}
    assert len(digests) == 1
    assert trace_path(store.folder, digests.pop()).is_file()
    assert list((store.folder / "traces").glob("*.part")) == []


def test_lost_samples_are_told_apart_from_no_samples(store: Store) -> None:
    job_id = writer.append_job(store, _run(store), 0, _result(), lease_token=0)
    trace_path(store.folder, rows.read_job(store, job_id).trace_sha256).unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        reader.traces(store, job_id)


def test_runs_are_found_by_the_beginning_of_their_id(store: Store) -> None:
    for suffix in ("aaaaaa", "bbbbbb"):
        _run(store, f"20260304-050607-{suffix}")
    assert rows.find_run(store).id.endswith("bbbbbb")
    assert rows.find_run(store, "20260304-050607-a").id.endswith("aaaaaa")
    with pytest.raises(ConfigError, match="several runs"):
        rows.find_run(store, "2026")
    with pytest.raises(ConfigError, match="no run '2025'"):
        rows.find_run(store, "2025")
    with pytest.raises(ConfigError):
        rows.find_run(store, "%")


def test_reading_does_not_wait_for_a_writer(store: Store) -> None:
    _run(store)
    with store.transaction() as connection:
        connection.execute(sa.text("DELETE FROM job"))
        assert len(reader.runs(store)) == 1


def test_the_schema_the_migrations_and_the_head_agree(store: Store) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD
    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []


def test_a_store_that_is_not_there_is_not_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="there is no store"):
        open_store(tmp_path / "none", read_only=True)
    assert not (tmp_path / "none").exists()
