"""Filters of the list of runs; their choice is part of the address, so it can be pasted."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from farm.record import Verdict

VERDICTS = tuple(str(verdict) for verdict in Verdict)


def choose_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Ask for suites and verdicts (query parameters `suite` and `verdict`), return what fits."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        suites = st.multiselect(
            "Suite",
            sorted(runs["suite"].unique()),
            key="suite",
            bind="query-params",
            placeholder="All suites",
            width=320,
        )
        verdicts = st.pills(
            "Verdict", VERDICTS, selection_mode="multi", key="verdict", bind="query-params"
        )
    return matching(runs, suites, verdicts)


def matching(
    runs: pd.DataFrame, suites: Sequence[str] = (), verdicts: Sequence[str] = ()
) -> pd.DataFrame:
    """The runs of these suites with these verdicts; an empty choice leaves all."""
    keep = pd.Series(True, index=runs.index)
    if suites:
        keep &= runs["suite"].isin(suites)
    if verdicts:
        keep &= runs["verdict"].isin(verdicts)
    return runs[keep].reset_index(drop=True)
