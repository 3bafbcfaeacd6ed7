"""Runs, newest first; one that is selected shows its verdict, its cells and its jobs.

Query parameters: `suite` and `verdict` filter the list, `run` selects (an id, the beginning of one,
or `latest`).
"""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboard import (
    addresses,
    charts,
    data,
    filters,
    gate,
    palette,
    panels,
    tables,
    units,
    wording,
)
from farm.store.rows import StoredRun


def show() -> None:
    """The whole page."""
    st.title("Runs", anchor=False)
    runs = data.runs()
    if runs.empty:
        panels.show_empty("There are no runs yet. Make the first one:")
        return
    selected = None
    if wanted := st.query_params.get("run"):
        with panels.told_errors():
            selected = data.run(wanted)
    _show_list(filters.choose_runs(runs), selected, total=len(runs))
    if selected is None:
        st.caption("Select a run to see its verdict and its jobs.")
    else:
        _show_run(selected)


def _show_list(runs: pd.DataFrame, selected: StoredRun | None, *, total: int) -> None:
    if runs.empty:
        panels.show_empty("No run fits this filter.", commands=())
        return
    ids = list(runs["run_id"])
    rows = [ids.index(selected.id)] if selected is not None and selected.id in ids else []
    key = addresses.selection_key(ids)
    table = tables.runs_table(runs)

    def select() -> None:
        chosen = st.session_state[key]["selection"]["rows"]
        addresses.put(st.query_params, "run", ids[chosen[0]] if chosen else None)

    st.dataframe(
        table.frame,
        column_config=table.columns,
        hide_index=True,
        height=tables.list_height(len(ids)),
        key=key,
        on_select=select,
        selection_mode="single-row",
        selection_default={"selection": {"rows": rows}},
    )
    latest = " (the latest)" if total == data.RUNS_SHOWN else ""
    st.caption(f"{len(ids)} of {units.counted(total, 'run')}{latest}, newest first")


def _show_run(run: StoredRun) -> None:
    document = data.verdict_document(run.id)
    jobs = data.jobs_of(run.id)
    st.header(f"Run {panels.plain(run.id)}", anchor=False)
    with st.container(horizontal=True, gap="small"):
        if document is not None:
            _show_verdict(document)
        _show_marks(run, jobs)
    panels.show_facts(wording.run_facts(run, jobs))
    missing = wording.missing_note(run, jobs)
    if missing:
        st.warning(missing, icon=palette.UNFINISHED_BADGE.icon)
    if document is not None:
        with panels.told_errors():
            _show_cells(gate.read_cells(document))
    _show_jobs(run, jobs)
    if run.command:
        st.subheader("Repeat this run", anchor=False)
        st.code(run.command, language="shell", wrap_lines=True)


def _show_verdict(document: str) -> None:
    with panels.told_errors():
        verdict = gate.read_verdict(document)
        panels.show_badge(verdict, palette.VERDICT_BADGES.get(verdict, palette.UNKNOWN_BADGE))


def _show_marks(run: StoredRun, jobs: pd.DataFrame) -> None:
    for mark in wording.run_marks(int(jobs["simulated"].sum()), len(jobs), run.finished):
        panels.show_badge(mark, palette.mark_badge(mark))


def _show_cells(cells: pd.DataFrame) -> None:
    st.subheader("Verdict per cell, worst first", anchor=False)
    if cells.empty:
        st.caption("This gate judged nothing.")
        return
    panels.show_table(tables.cells_table(cells))
    for unit, part in gate.by_unit(cells):
        st.markdown(f"**Effect in {panels.plain(unit)} against its margin**")
        st.altair_chart(charts.gate_intervals(part.head(charts.MOST_CELLS)), width="stretch")
        if len(part) > charts.MOST_CELLS:
            st.caption(f"The worst {charts.MOST_CELLS} of {len(part):,} cells are drawn.")


def _show_jobs(run: StoredRun, jobs: pd.DataFrame) -> None:
    st.subheader("Jobs", anchor=False)
    if jobs.empty:
        st.caption("No job of this run has a result yet.")
    else:
        panels.show_jobs(jobs)
    if len(jobs) == data.JOBS_SHOWN:
        st.caption(f"The first {data.JOBS_SHOWN} of {run.planned:,} jobs are shown.")
    if run.skips:
        st.subheader("Left out by the plan", anchor=False)
        panels.show_table(tables.skips_table(run.skips))


show()
