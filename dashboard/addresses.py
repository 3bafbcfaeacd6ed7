"""What stands in an address: links to views, and query parameters read back with care."""

from __future__ import annotations

import hashlib
from collections.abc import MutableMapping, Sequence

from farm.errors import ConfigError

_LARGEST_ID = 2**63 - 1


def job_link(job_id: int) -> str:
    """The address of a job's page, relative to any other page of the dashboard."""
    return f"job?job={job_id}"


def job_number(text: str) -> int:
    """The job that the query parameter `job` names.

    Raises:
        ConfigError: it is no number that a job can have.
    """
    if text.isascii() and text.isdigit() and int(text[:20]) <= _LARGEST_ID:
        return int(text[:20])
    shown = text if len(text) <= 40 else text[:40] + "…"
    raise ConfigError(f"'{shown}' is no job number", hint="pick one of the latest jobs below")


def job_title(text: str | None) -> str:
    """The heading for that query parameter; it never repeats what is no number."""
    if text is None:
        return "Jobs"
    try:
        return f"Job {job_number(text)}"
    except ConfigError:
        return "Job"


def put(parameters: MutableMapping[str, str], name: str, value: str | None) -> None:
    """Set a query parameter, or take it away where there is no value."""
    if value is not None:
        parameters[name] = value
    elif name in parameters:
        del parameters[name]


def selection_key(ids: Sequence[str]) -> str:
    """A widget key for a table of these rows.

    A selection is kept by row number: with a new row or another filter the same number is another
    row, so the table must forget it and start from the address again.
    """
    return "rows-" + hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]
