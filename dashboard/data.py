"""Cached access to the store; the only module of the dashboard that talks to `farm.store`.

Every function asks for one run, one job or a bounded list. What can still change (the list of runs,
the jobs of a run that goes on) is kept for seconds; a job is written once, whole, and is kept for
as long as there is room. Raw samples are reduced before they are kept.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import streamlit as st

from dashboard.samples import JobSamples, summarise
from farm.errors import FarmError, StoreUnavailable
from farm.store import reader, rows
from farm.store.database import DATABASE_NAME, Store, open_store
from farm.store.rows import StoredJob, StoredRun

ENVIRONMENT_VARIABLE = "FARM_STORE"
DEFAULT_FOLDER = ".farm"
RUNS_SHOWN = 200
JOBS_SHOWN = 500
LATEST_JOBS_SHOWN = 50

_FRESH = "5s"
_KEPT = "10m"


class StoreMissing(StoreUnavailable):
    """Nothing has been measured yet, or the environment names the wrong folder."""

    code = "store_missing"


@dataclass(frozen=True, slots=True, eq=False)
class _Handle:
    """An open store and what tells it from another one under the same name: the caches' key."""

    store: Store
    key: str


def store_folder() -> Path:
    """The folder of the store, from the environment."""
    return Path(os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_FOLDER)


def store_name() -> str:
    """The store's own name, without the path that leads to it on the server."""
    return store_folder().resolve().name or "store"


def describe(error: FarmError) -> tuple[str, str]:
    """What happened and what to do, without paths of the server beyond the store's name."""
    return _without_paths(str(error)), _without_paths(error.hint)


def runs() -> pd.DataFrame:
    """The latest runs, newest first; columns as `farm.store.reader.runs`."""
    opened = _open()
    return _runs(opened.store, opened.key)


def run(name: str) -> StoredRun:
    """One run by its id or the unique beginning of one.

    Raises:
        ConfigError: there is none, or several begin like that.
    """
    opened = _open()
    return _run(opened.store, opened.key, name)


def jobs_of(run_id: str) -> pd.DataFrame:
    """The first jobs of a run with their median latency.

    Columns as `farm.store.reader.jobs`, and latency: one (arm, unit, value) per arm.
    """
    opened = _open()
    return _jobs_of(opened.store, opened.key, run_id)


def latest_jobs() -> pd.DataFrame:
    """The latest jobs of all runs; columns as `farm.store.reader.jobs`."""
    opened = _open()
    return _latest_jobs(opened.store, opened.key)


def verdict_document(run_id: str) -> str | None:
    """The gate document of a run as JSON text, None if there is none."""
    opened = _open()
    return _verdict_document(opened.store, opened.key, run_id)


def job(job_id: int) -> StoredJob:
    """One job.

    Raises:
        ConfigError: there is no such job.
    """
    opened = _open()
    return _job(opened.store, opened.key, job_id)


def repeats(job_id: int, metric: str) -> pd.DataFrame:
    """One statistic of every repeat of a job; columns as `farm.store.reader.repeats`."""
    opened = _open()
    return _repeats(opened.store, opened.key, job_id, metric)


def samples(job_id: int) -> JobSamples | None:
    """The latency samples of a job, reduced to what a chart can carry; None if there are none.

    Raises:
        StoreError: the file that holds them is gone or damaged.
    """
    opened = _open()
    return _samples(opened.store, opened.key, job_id)


def samples_csv(job_id: int, trace: str) -> bytes:
    """All raw samples of one trace of a job as CSV; made on demand and never kept.

    Raises:
        StoreError: the file that holds them is gone or damaged.
    """
    frame = reader.traces(_open().store, job_id, trace=trace)
    return frame.to_csv(index=False).encode()


def recordings(job_id: int) -> pd.DataFrame:
    """What a meter saw of every repeat of a job; columns as `farm.store.reader.recordings`."""
    opened = _open()
    return _recordings(opened.store, opened.key, job_id)


def recorded_s(sha256: str) -> float:
    """How many seconds a recording took.

    Raises:
        StoreError: the file that holds it is gone or damaged.
    """
    opened = _open()
    return _recorded_s(opened.store, opened.key, sha256)


def _open() -> _Handle:
    """The store as it is on the disk now: a folder that was replaced is opened afresh.

    Raises:
        StoreMissing: there is none.
        StoreUnavailable: it cannot be read.
        SchemaMismatch: a newer farm wrote it.
    """
    folder = store_folder()
    try:
        found = (folder / DATABASE_NAME).stat()
    except OSError as error:
        raise StoreMissing(
            f"there is no store '{store_name()}'",
            hint=f"fill one with a command below, or name another in {ENVIRONMENT_VARIABLE}",
        ) from error
    return _open_folder(str(folder.resolve()), found.st_dev, found.st_ino)


@st.cache_resource(
    max_entries=4, show_spinner=False, on_release=lambda opened: opened.store.close()
)
def _open_folder(folder: str, device: int, inode: int) -> _Handle:
    store = open_store(Path(folder), read_only=True)
    return _Handle(store, f"{folder}:{device}:{inode}")


def _without_paths(text: str) -> str:
    folder = store_folder().resolve()  # it is opened by this path, so errors quote this path
    return text.replace(str(folder), folder.name) if folder.name else text


@st.cache_data(ttl=_FRESH, max_entries=4, show_spinner=False)
def _runs(_store: Store, key: str) -> pd.DataFrame:
    return reader.runs(_store, limit=RUNS_SHOWN)


@st.cache_data(ttl=_FRESH, max_entries=32, show_spinner=False)
def _run(_store: Store, key: str, name: str) -> StoredRun:
    return rows.find_run(_store, name)


@st.cache_data(ttl=_FRESH, max_entries=32, show_spinner=False)
def _jobs_of(_store: Store, key: str, run_id: str) -> pd.DataFrame:
    jobs = reader.jobs(_store, run_id=run_id, limit=JOBS_SHOWN)
    medians = reader.results(_store, run_id=run_id, metric="latency.p50", limit=2 * JOBS_SHOWN)
    by_job: dict[int, list[tuple[str, str, float]]] = {}
    for row in medians.itertuples():
        by_job.setdefault(row.job_id, []).append((row.arm, row.unit, row.value))
    return jobs.assign(latency=[by_job.get(job_id, []) for job_id in jobs["job_id"]])


@st.cache_data(ttl=_FRESH, max_entries=4, show_spinner=False)
def _latest_jobs(_store: Store, key: str) -> pd.DataFrame:
    return reader.jobs(_store, limit=LATEST_JOBS_SHOWN)


@st.cache_data(ttl=_FRESH, max_entries=32, show_spinner=False)
def _verdict_document(_store: Store, key: str, run_id: str) -> str | None:
    return rows.read_verdict(_store, run_id)


@st.cache_data(ttl=_KEPT, max_entries=64, show_spinner=False)
def _job(_store: Store, key: str, job_id: int) -> StoredJob:
    return rows.read_job(_store, job_id)


@st.cache_data(ttl=_KEPT, max_entries=64, show_spinner=False)
def _repeats(_store: Store, key: str, job_id: int, metric: str) -> pd.DataFrame:
    found = reader.repeats(_store, job_id)
    return found[found["metric"] == metric].reset_index(drop=True)


@st.cache_data(ttl=_KEPT, max_entries=64, show_spinner=False)
def _samples(_store: Store, key: str, job_id: int) -> JobSamples | None:
    return summarise(reader.traces(_store, job_id))


@st.cache_data(ttl=_KEPT, max_entries=16, show_spinner=False)
def _recordings(_store: Store, key: str, job_id: int) -> pd.DataFrame:
    return reader.recordings(_store, job_id)


@st.cache_data(ttl=_KEPT, max_entries=256, show_spinner=False)
def _recorded_s(_store: Store, key: str, sha256: str) -> float:
    return reader.recorded_s(_store, sha256)
