"""How the columns of the tables look: label, help, width; the frames are made in `tables`.

Words that have a colour (verdict, outcome, marks) are cells of lists, which Streamlit draws on
coloured ground. Their widths are given in pixels: a long table is measured by its first rows only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from dashboard import palette
from dashboard.palette import Badge

Columns = dict[str, Any]

NOT_JUDGED = "not judged"

_Text = st.column_config.TextColumn
_Number = st.column_config.NumberColumn


def badges(label: str, looks: Mapping[str, Badge], *, width: int) -> object:
    """A column of words on coloured ground; `width` in pixels."""
    return st.column_config.MultiselectColumn(
        label, width=width, options=list(looks), color=[look.color for look in looks.values()]
    )


_SIMULATED = badges("Marks", {palette.SIMULATED: palette.SIMULATED_BADGE}, width=100)

RUNS: Columns = {
    "started": _Text("Started (UTC)"),
    "verdict": badges(
        "Verdict", {**palette.VERDICT_BADGES, NOT_JUDGED: palette.UNKNOWN_BADGE}, width=130
    ),
    "suite": _Text("Suite"),
    "kind": _Text("Kind"),
    "coverage": _Text("Coverage", help="Jobs with a result, of those planned", alignment="right"),
    "completed": _Number("Completed", help="Jobs that ran to their end"),
    "failed": _Number("Failed", help="Jobs that ended otherwise"),
    "branch": _Text("Branch"),
    "commit": _Text("Commit"),
    "purpose": _Text("Purpose"),
    "run_id": _Text("Run"),
}
"""All but `marks`, whose words depend on the runs."""

JOBS: Columns = {
    "link": st.column_config.LinkColumn(
        "Job", display_text=r"job=(\d+)", help="Opens the job's page", alignment="left"
    ),
    "outcome": badges("Outcome", palette.OUTCOME_BADGES, width=115),
    "marks": _SIMULATED,
    "device": _Text("Device"),
    "device_type": _Text("Type"),
    "workload": _Text("Workload"),
    "latency": _Text("Latency p50", help="Baseline → candidate, or the one model that ran"),
    "runtime": _Text("Runtime"),
    "accelerator": _Text("Accelerator"),
    "started": _Text("Started (UTC)"),
    "took": _Text("Took"),
    "attempts": _Number("Attempts"),
}

CELLS: Columns = {
    "verdict": badges("Verdict", palette.VERDICT_BADGES, width=130),
    "metric": _Text("Metric"),
    "device_type": _Text("Device type"),
    "effect": _Text("Effect", help="Candidate against baseline; positive is worse"),
    "interval": _Text("lo … hi", help="One-sided bounds of the effect"),
    "margin": _Text("Margin", help="How much worse is still good"),
    "mde": _Text("MDE", help="The smallest effect that this much evidence finds at 80 % power"),
    "role": _Text("Role", help="Whether the policy lets this cell decide, or only inform"),
    "evidence": _Text("Evidence"),
    "marks": _SIMULATED,
    "reasons": _Text("Reasons", width="large"),
    "units": _Text("Devices"),
    "workload": _Text("Workload"),
    "place": _Text("Runtime / accelerator"),
}

SKIPS: Columns = {"device": _Text("Device"), "what": _Text("What"), "reason": _Text("Reason")}

MODELS: Columns = {
    "arm": _Text("Arm"),
    "model": _Text("Model"),
    "sha256": _Text("SHA-256", help="The first twelve digits"),
    "size": _Text("Size"),
}

MEASUREMENTS: Columns = {
    "metric": _Text("Metric"),
    "arm": _Text("Arm"),
    "value": _Text("Value", alignment="right"),
    "unit": _Text("Unit"),
    "interval": _Text("lo … hi", help="95 % interval; none where one repeat stands alone"),
    "n": _Number("n", help="Repeats; items for accuracy"),
}

ENVIRONMENT: Columns = {"name": _Text("Fact"), "value": _Text("Value", width="large")}

WINDOWS: Columns = {
    "number": _Number("Window", help="In the order taken"),
    "arm": _Text("Arm"),
    "block": _Number("Block"),
    "energy": _Text("Per inference", help="Gross: idle power is part of it", alignment="right"),
    "mean": _Text("Mean power", help="While inferences ran", alignment="right"),
    "idle": _Text("Idle power", help="With the model loaded, before and after", alignment="right"),
    "inferences": _Text("Inferences", alignment="right"),
    "took": _Text("Took", help="Length of the window", alignment="right"),
    "method": _Text(
        "Found by",
        help="wire: a pin at the meter; marks: a pattern of load; clock: the clocks alone",
    ),
    "lost": _Text("Lost samples", help="In the whole recording"),
    "conditions": _Text("Conditions", help="Why a gate does not judge it", width="large"),
}

INTERVALS: Columns = {
    "arm": _Text("Arm"),
    "value": _Text("Per inference", alignment="right"),
    "unit": _Text("Unit"),
    "absolute": _Text(
        "Absolute lo … hi", help="Holds whatever meter one compares with: its calibration is in it"
    ),
    "comparable": _Text(
        "Comparable lo … hi",
        help="Against another figure of the same unit and meter: what both share is left out",
    ),
    "n": _Number("n", help="Repeats"),
}

TERM: Columns = {"term": _Text("Term"), "what": _Text("What may be off", width="large")}
CANCELS: Columns = {
    "cancels": _Text(
        "Cancels", help="Whether it is the same on both sides of a comparison on one unit and meter"
    )
}
"""Columns of a budget, around those of its arms."""


def standard_uncertainties(arms: Sequence[str]) -> Columns:
    """One column per arm, of standard uncertainties in percent of its energy."""
    return {
        arm: _Text(
            arm, help="Standard uncertainty of the energy of an inference", alignment="right"
        )
        for arm in arms
    }
