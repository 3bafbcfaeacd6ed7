"""Pieces of page that every view shares: badges, facts, tables, errors and empty states."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pandas as pd
import streamlit as st

from dashboard import addresses, data, palette, tables
from dashboard.palette import Badge
from dashboard.tables import Table
from farm.errors import FarmError

FILL_COMMANDS = ("farm demo", "farm run latency --model my.onnx")


@contextmanager
def told_errors() -> Iterator[None]:
    """Show an error of the farm in place of what follows: two lines, no traceback."""
    try:
        yield
    except FarmError as error:
        show_problem(*data.describe(error))
        if isinstance(error, data.StoreMissing):
            show_empty("A run makes the store and fills it:")


def show_problem(message: str, hint: str = "") -> None:
    """What happened, and what to do about it."""
    st.error("  \n".join(plain(line) for line in (message, hint) if line), icon=":material/error:")


def show_empty(message: str, commands: Sequence[str] = FILL_COMMANDS) -> None:
    """Say that there is nothing yet, and show the commands that would change that."""
    with st.container(border=True):
        st.markdown(plain(message))
        for command in commands:
            st.code(command, language="shell", wrap_lines=True)


def show_badge(word: str, badge: Badge) -> None:
    """A word on coloured ground with an icon, so that its colour never stands alone."""
    st.badge(word, icon=badge.icon or None, color=badge.color)


def show_simulated() -> None:
    """The mark of results whose device or time was not real."""
    st.badge(
        palette.SIMULATED,
        icon=palette.SIMULATED_BADGE.icon,
        color=palette.SIMULATED_BADGE.color,
        help="A virtual device or clock took part: no statement about real hardware.",
    )


def show_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Label and value pairs that flow over as many lines as the window needs."""
    with st.container(horizontal=True, gap="small"):
        for label, value in facts:
            with st.container(width=150, gap=None):
                st.caption(label)
                st.text(value)


def show_table(table: Table) -> None:
    """A table as high as its rows, up to about a screen."""
    st.dataframe(
        table.frame,
        column_config=table.columns,
        hide_index=True,
        height=tables.list_height(len(table.frame), most=20),
    )


def show_jobs(jobs: pd.DataFrame) -> None:
    """A list of jobs; the number opens a job in a new tab, a selected row offers it in this one.

    A table takes no tap for a link, so a phone needs the second way. `st.switch_page` would save
    the extra click but leaves an address of neither page in the browser's history.

    Args:
        jobs: as `dashboard.data` gives them.
    """
    table = tables.jobs_table(jobs)
    ids = [str(job_id) for job_id in jobs["job_id"]]
    state = st.dataframe(
        table.frame,
        column_config=table.columns,
        hide_index=True,
        height=tables.list_height(len(ids)),
        key=addresses.selection_key(ids),
        on_select="rerun",
        selection_mode="single-row",
    )
    rows = state["selection"]["rows"]
    if rows:
        picked = ids[rows[0]]
        st.page_link(
            "views/job.py",
            label=f"Open job {picked}",
            icon=":material/arrow_forward:",
            query_params={"job": picked},
        )
    else:
        st.caption("The number opens a job in a new tab; select a row to open it here.")


def plain(text: str) -> str:
    """Text from outside for a place that renders Markdown: nothing in it is markup.

    Backslashes keep Markdown, HTML and formulas literal. Streamlit replaces `:name:` and `:name[`
    after that step, so a colon that begins one gets a word joiner behind it, which shows nothing.
    """
    escaped = re.sub(r"([\\`*_{}\[\]()<>#+\-.!|~$^=&\"'])", r"\\\1", text)
    return re.sub(r":(?!\d\d:)(?=[\w+/\\-]+[:\\])", ":\u2060", escaped).replace("\n", " ")
