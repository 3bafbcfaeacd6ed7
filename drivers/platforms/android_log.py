"""What an Android phone wrote down in the last seconds."""

from __future__ import annotations

from drivers.platforms.linux_leftovers import MAX_LINES, latest

# $1: whole seconds to look back. A phone's own clock decides: it may differ from ours.
LOG = f"""
now=$(date +%s)
logcat -d -v threadtime -t "$((now - $1)).000" 2>/dev/null </dev/null | tail -n {MAX_LINES}
"""


def recent_log(told: str) -> str:
    """The last messages; empty if there is nothing but headings."""
    lines = told.splitlines()
    return latest(lines) if any(not line.startswith("-----") for line in lines) else ""
