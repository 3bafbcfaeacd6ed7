"""Reads the gate document (schema farm.gate/1) that a run keeps, cell by cell, worst first.

Effects, bounds, margin and MDE are in the unit that `effect_kind` names: percent for `ratio_pct`,
percentage points for `points`, the metric's own unit for `absolute`. A positive effect is worse.
"""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from dashboard.units import counted
from farm.errors import StoreError
from farm.record import Verdict

SCHEMA = "farm.gate/1"
NUMBERS = ("effect", "lo", "hi", "margin", "mde")
DECIDES = "decides"
INFORMS = "informs"
_NOTES = ("evidence", "units", "reasons")
TEXTS = ("verdict", "metric", "workload", "device_type", "runtime", "accelerator", "scenario")

_WORST_FIRST = (Verdict.FAIL, Verdict.INVALID, Verdict.INCONCLUSIVE, Verdict.PASS)


def read_verdict(document: str) -> str:
    """The one answer of a gate document.

    Raises:
        StoreError: it is not a gate document that this dashboard can read.
    """
    return str(_read(document).get("verdict") or "UNKNOWN")


def read_cells(document: str) -> pd.DataFrame:
    """The cells of a gate document, worst first.

    Columns: verdict, metric, workload, device_type, runtime, accelerator, scenario (text), effect,
    lo, hi, margin, mde (numbers, NaN where undefined), effect_unit, role (`decides` or `informs`),
    evidence (how many blocks or items), units (the devices and their effects), reasons, simulated.

    Raises:
        StoreError: it is not a gate document that this dashboard can read.
    """
    columns = [*TEXTS, *NUMBERS, "effect_unit", "role", *_NOTES, "simulated"]
    try:
        rows = [_row(cell) for cell in _read(document)["cells"]]
        cells = pd.DataFrame(rows, columns=columns)
        cells[list(NUMBERS)] = cells[list(NUMBERS)].astype("float64")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable() from error
    return _worst_first(cells)


def by_unit(cells: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The cells per unit of effect, each fit for one axis; the unit with the worst cell first."""
    return [
        (str(unit), part.reset_index(drop=True))
        for unit, part in cells.groupby("effect_unit", sort=False)
    ]


def _read(document: str) -> dict[str, Any]:
    try:
        content = json.loads(document)
        known = content["schema"] == SCHEMA
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable() from error
    if not known:
        raise StoreError(
            f"the verdict of this run has the schema {content['schema']!r}, not {SCHEMA!r}",
            hint="install the farm that wrote it, or run the gate again",
        )
    return dict(content)


def _unreadable() -> StoreError:
    return StoreError(
        "the verdict of this run cannot be read", hint="run the gate again to judge it anew"
    )


def _row(cell: dict[str, Any]) -> dict[str, object]:
    kind = cell.get("effect_kind")
    unit = {"ratio_pct": "%", "points": "points"}.get(str(kind), str(cell.get("unit") or ""))
    return {
        **{name: str(cell.get(name) or "") for name in TEXTS},
        "metric": _question(cell),
        **{name: cell.get(name) for name in NUMBERS},
        "effect_unit": unit,
        "role": _role(cell),
        "evidence": _evidence(cell),
        "units": ", ".join(_unit(one, unit) for one in cell.get("units") or []),
        "reasons": "; ".join(str(reason) for reason in cell.get("reasons") or []),
        "simulated": bool(cell.get("simulated")),
    }


def _role(cell: dict[str, Any]) -> str:
    """Whether a cell has a say; a waived one is named with who answers for it."""
    if not cell.get("gate", True):
        return INFORMS
    waiver = cell.get("waiver")
    return f"waived by {waiver['owner']} until {waiver['expires']}" if waiver else DECIDES


def _question(cell: dict[str, Any]) -> str:
    """The metric, and what the candidate is held against where that is not the baseline."""
    against = str(cell.get("against") or "baseline")
    metric = str(cell.get("metric") or "")
    return metric if against == "baseline" else f"{metric} ({against})"


def _evidence(cell: dict[str, Any]) -> str:
    """What stands behind a cell; exact metrics and items have no blocks."""
    if cell.get("blocks"):
        return counted(int(cell["blocks"]), "block")
    return f"n = {int(cell['n']):,}" if cell.get("n") else ""


def _unit(unit: dict[str, Any], effect_unit: str) -> str:
    effect = unit.get("effect")
    return f"{unit['device']}" + (
        f" {effect:+.2f} {effect_unit}" if isinstance(effect, int | float) else ""
    )


def _worst_first(cells: pd.DataFrame) -> pd.DataFrame:
    """By verdict, what decides before what informs, then by the share of the margin used up."""
    order = {str(verdict): rank for rank, verdict in enumerate(_WORST_FIRST)}
    ranked = cells.assign(
        rank=cells["verdict"].map(order).fillna(-1),  # a word that is new here is looked at first
        used=cells["effect"] / cells["margin"],
    )
    ranked = ranked.sort_values(
        ["rank", "role", "used"], ascending=[True, True, False], kind="stable"
    )
    return ranked[list(cells.columns)].reset_index(drop=True)
