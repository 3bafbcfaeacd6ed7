"""One job: what ran where, how fast, how it went over time, and how to do it again.

Query parameters: `job`, the job's number, without which the latest jobs are listed; `window`, the
recording whose power is drawn.
"""

from __future__ import annotations

from functools import partial

import streamlit as st

from dashboard import addresses, charts, data, palette, panels, power, tables, units, wording
from farm.errors import ConfigError, StoreError
from farm.record import ErrorRecord
from farm.store.rows import StoredJob


def show() -> None:
    """The whole page."""
    text = st.query_params.get("job")
    st.title(addresses.job_title(text), anchor=False)
    if text is None:
        _show_latest()
        return
    try:
        job = data.job(addresses.job_number(text))
    except ConfigError as error:
        panels.show_problem(*data.describe(error))
        _show_latest()
        return
    _show_header(job)
    _show_error(job.error)
    _show_notes(job)
    _show_measurements(job)
    _show_samples(job)
    _show_repeats(job)
    _show_power(job)
    _show_uncertainty(job)
    _show_environment(job)
    _show_command(job)


def _show_latest() -> None:
    jobs = data.latest_jobs()
    if jobs.empty:
        panels.show_empty("There are no jobs yet. Make the first ones:")
        return
    panels.show_jobs(jobs)
    st.caption(f"The latest {units.counted(len(jobs), 'job')} of all runs")


def _show_header(job: StoredJob) -> None:
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        panels.show_badge(job.outcome, palette.OUTCOME_BADGES[job.outcome])
        if job.simulated:
            panels.show_simulated()
        if wording.went_elsewhere(job):
            panels.show_badge("other accelerator than asked", palette.ELSEWHERE_BADGE)
        st.page_link(
            "views/runs.py",
            label="Its run",
            icon=":material/arrow_upward:",
            query_params={"run": job.run_id},
        )
    panels.show_facts(wording.job_facts(job))
    panels.show_table(tables.models_table(job.models))


def _show_error(error: ErrorRecord | None) -> None:
    if error is None:
        return
    panels.show_problem(error.message, error.hint)
    st.caption(panels.plain(wording.error_note(error)))
    for exhibit in tables.shown_evidence(error.evidence):
        with st.expander(panels.plain(exhibit.name)):
            st.code(exhibit.text, language=None, wrap_lines=True)


def _show_notes(job: StoredJob) -> None:
    if job.notes:
        st.info("  \n".join(panels.plain(note) for note in job.notes), icon=":material/notes:")


def _show_measurements(job: StoredJob) -> None:
    st.subheader("Measurements", anchor=False)
    table = tables.measurements_table(job)
    if table.frame.empty:
        st.caption("This job measured nothing.")
        return
    panels.show_table(table)
    st.caption(wording.percentile_note())


def _show_samples(job: StoredJob) -> None:
    st.subheader("Distribution of latency", anchor=False)
    try:
        samples = data.samples(job.id)
    except StoreError as error:
        panels.show_problem(*data.describe(error))
        return
    if samples is None:
        st.caption("This job has no latency samples.")
        return
    scale = wording.latency_scale(samples)
    basis = wording.unusual_basis(job)
    st.altair_chart(
        charts.latency_histogram(samples.histogram, scale, simulated=job.simulated, basis=basis),
        width="stretch",
    )
    st.caption(wording.clip_note(samples, scale))
    st.subheader("Samples in the order taken", anchor=False)
    st.altair_chart(
        charts.samples_in_order(samples, scale, simulated=job.simulated, basis=basis),
        width="stretch",
    )
    st.caption(wording.shown_note(samples))
    _offer_samples(job)


def _offer_samples(job: StoredJob) -> None:
    with st.container(horizontal=True):
        for trace in wording.kept_traces(job):
            st.download_button(
                f"Raw samples: {trace} (CSV)",
                partial(data.samples_csv, job.id, trace),
                file_name=f"job-{job.id}-{trace}.csv",
                mime="text/csv",
                icon=":material/download:",
                on_click="ignore",
            )


def _show_repeats(job: StoredJob) -> None:
    st.subheader("Repeats in order", anchor=False)
    repeats = data.repeats(job.id, "latency.p50")
    if repeats.empty:
        st.caption("No repeat of this job measured a latency.")
        return
    scale = units.fit_scale(str(repeats["unit"].iloc[0]), repeats["value"])
    chart = charts.repeats_in_order(
        repeats, scale, simulated=job.simulated, basis=wording.unusual_basis(job)
    )
    st.altair_chart(chart, width="stretch")
    st.caption("Each point is the median of one repeat, a fresh process; a slope is a drift.")


def _show_power(job: StoredJob) -> None:
    found = power.read_power(data.recordings(job.id))
    if found is None:
        return
    st.subheader("Power", anchor=False)
    if found.meter.simulated:
        panels.show_simulated()
    panels.show_facts(wording.meter_facts(found.meter))
    with panels.told_errors():
        _show_window(job, found, _choose_window(found))
    panels.show_table(tables.windows_table(found.windows))


def _choose_window(found: power.JobPower) -> int:
    """The row of the window to draw; its number is in the address (query parameter `window`)."""
    numbers = [str(number) for number in found.windows["number"]]
    picked = st.selectbox("Window", numbers, key="window", bind="query-params", width=150)
    return numbers.index(picked)


def _show_window(job: StoredJob, found: power.JobPower, row: int) -> None:
    window, preview = found.windows.iloc[row], found.previews[row]
    if not preview:
        st.caption("The meter sent no samples.")
        return
    parts = power.parts_of(preview, data.recorded_s(window["sha256"]))
    levels = {"mean of the window": window["mean_w"], "idle": window["idle_w"]}
    chart = charts.power_over_time(
        parts,
        units.fit_scale("W", parts["mean"]),
        arm=window["arm"],
        block=int(window["block"]),
        levels={name: w for name, w in levels.items() if not units.is_absent(w)},
        simulated=job.simulated or found.meter.simulated,
    )
    st.altair_chart(chart, width="stretch")
    drawn = wording.preview_note(len(preview), window["samples"], gaps=window["gaps"])
    st.caption(panels.plain(f"{drawn} {wording.spans_note(found.spans[row])}"))


def _show_uncertainty(job: StoredJob) -> None:
    energies = wording.energies(job)
    if not energies:
        return
    st.subheader("Uncertainty of the energy of an inference", anchor=False)
    panels.show_table(tables.intervals_table(energies))
    panels.show_table(tables.budget_table(energies))
    st.caption(wording.uncertainty_note())


def _show_environment(job: StoredJob) -> None:
    st.subheader("Environment", anchor=False)
    if job.environment:
        panels.show_table(tables.environment_table(job.environment))
    else:
        st.caption("Nothing was recorded.")


def _show_command(job: StoredJob) -> None:
    command = data.run(job.run_id).command
    if command:
        st.subheader("Repeat the run of this job", anchor=False)
        st.code(command, language="shell", wrap_lines=True)


show()
