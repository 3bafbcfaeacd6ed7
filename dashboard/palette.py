"""The colours and shapes of the dashboard: one place, so that a meaning looks the same everywhere.

Colour never stands alone: an arm also has a shape and a dash, a verdict also has a word and an
icon. The chart colours (after Okabe and Ito) differ in lightness as well as hue and keep a contrast
of at least 3 against the light and the dark background of `.streamlit/config.toml`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from farm.model import Arm
from farm.record import Outcome, Verdict

BadgeColor = Literal["red", "orange", "yellow", "blue", "green", "violet", "gray"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Badge:
    """How a word looks as a badge: a colour of Streamlit and a Material icon."""

    color: BadgeColor
    icon: str


SIMULATED = "simulated"
"""The word that marks every result whose device or time was not real."""

SIMULATED_BADGE = Badge(color="violet", icon=":material/science:")
UNFINISHED_BADGE = Badge(color="orange", icon=":material/hourglass_empty:")

ELSEWHERE_BADGE = Badge(color="orange", icon=":material/alt_route:")
UNKNOWN_BADGE = Badge(color="gray", icon=":material/help:")

VERDICT_BADGES: dict[str, Badge] = {
    Verdict.PASS: Badge(color="green", icon=":material/check_circle:"),
    Verdict.FAIL: Badge(color="red", icon=":material/cancel:"),
    Verdict.INCONCLUSIVE: Badge(color="orange", icon=":material/help:"),
    Verdict.INVALID: Badge(color="gray", icon=":material/block:"),
}

OUTCOME_BADGES: dict[str, Badge] = {
    Outcome.COMPLETED: Badge(color="green", icon=":material/check_circle:"),
    Outcome.ERROR: Badge(color="red", icon=":material/error:"),
    Outcome.TIMEOUT: Badge(color="orange", icon=":material/timer_off:"),
    Outcome.ABORTED: Badge(color="orange", icon=":material/front_hand:"),
    Outcome.SKIPPED: Badge(color="gray", icon=":material/redo:"),
}


def mark_badge(mark: str) -> Badge:
    """How a mark of a run looks: `simulated`, `simulated 2 of 4` or `unfinished`."""
    return SIMULATED_BADGE if mark.startswith(SIMULATED) else UNFINISHED_BADGE


ARM_COLORS: dict[str, str] = {
    Arm.BASELINE: "#2f86c9",
    Arm.CANDIDATE: "#d9700a",
    Arm.ANCHOR: "#6b7280",
}
ARM_SHAPES: dict[str, str] = {
    Arm.BASELINE: "circle",
    Arm.CANDIDATE: "triangle-up",
    Arm.ANCHOR: "square",
}
ARM_DASHES: dict[str, list[int]] = {Arm.BASELINE: [1, 0], Arm.CANDIDATE: [5, 3], Arm.ANCHOR: [2, 2]}

VERDICT_COLORS: dict[str, str] = {
    Verdict.PASS: "#0f9b73",
    Verdict.FAIL: "#d8502f",
    Verdict.INCONCLUSIVE: "#b8860b",
    Verdict.INVALID: "#7d8794",
}
VERDICT_SHAPES: dict[str, str] = {
    Verdict.PASS: "circle",
    Verdict.FAIL: "cross",
    Verdict.INCONCLUSIVE: "diamond",
    Verdict.INVALID: "square",
}

MARGIN_COLOR = "#c2407e"
QUIET = "#8a949e"
"""For lines that only help the eye: zero, the link between repeats."""

BACKGROUNDS = ("#ffffff", "#12171d")
"""Light and dark, as `.streamlit/config.toml` sets them."""
