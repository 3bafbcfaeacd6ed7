"""kill -9 at any moment: the store opens, holds only whole jobs, and the next run completes."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import farm
from farm.record import Outcome
from farm.store import reader, rows
from farm.store.database import open_store
from tests.chaos import moments

Write = Callable[..., Path]

SEED = 20_241_107
KILLS = moments(50, usual=20)
GROUPS = KILLS // 10
LONGEST_S = 3.0


@pytest.mark.parametrize("group", range(GROUPS))
def test_a_killed_run_leaves_only_whole_jobs_and_no_lease(
    group: int, suite: Write, inventory: Write, tmp_path: Path
) -> None:
    dice = random.Random(f"{SEED} {group}")
    quick = suite("accuracy, latency, memory")
    devices = inventory(a="virtual://camera?seed=1", b="virtual://board?seed=2", c="local://")
    store_folder = tmp_path / "store"
    command = [sys.executable, "-m", "farm.cli", "run", str(quick), "--inventory", str(devices)]
    command += ["--store", str(store_folder)]
    for _ in range(KILLS // GROUPS):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        delay_s = dice.uniform(0.0, LONGEST_S)
        time.sleep(delay_s)
        process.kill()
        process.wait()
        with open_store(store_folder) as store:
            _assert_whole(store, f"seed {SEED}, group {group}, killed after {delay_s:.3f} s")
    summary = farm.run(str(quick), inventory=devices, store=store_folder)
    assert [result.outcome for result in summary.results] == [Outcome.COMPLETED] * 3


def _assert_whole(store: object, moment: str) -> None:
    for row in reader.jobs(store).to_dict("records"):  # type: ignore[arg-type]
        job = rows.read_job(store, int(row["job_id"]))  # type: ignore[arg-type]
        assert job.outcome == Outcome.COMPLETED, moment
        metrics = {m.metric for m in job.models[0].measurements}
        assert {"accuracy.top1", "latency.p50", "size.model_bytes"} <= metrics, moment
        samples = reader.traces(store, job.id)  # type: ignore[arg-type]
        assert set(samples["block"]) == {0, 1}, moment
