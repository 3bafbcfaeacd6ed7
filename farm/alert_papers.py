"""The documents `farm.alerts/1` and `farm.alert/1`."""

from __future__ import annotations

import math

from farm.alerts import LIVE, OPEN, Alert, State, Transition, precision
from farm.incidents import Group
from farm.metrics import METRICS
from farm.papers import Document
from farm.triage import Board


def board_document(
    board: Board, *, state: State | None = None, everything: bool = False
) -> Document:
    """The document `farm.alerts/1`.

    Args:
        board: all alerts.
        state: only alerts in this state.
        everything: also those that are closed, withdrawn, or no alerts but improvements.
    """
    wanted = (state,) if state else tuple(State) if everything else LIVE
    shown = [alert for alert in board.alerts if alert.state in wanted]
    return {
        "schema": "farm.alerts/1",
        "open": board.open,
        "changed": sorted(board.changed),
        "groups": [
            _group(group, [a.id for a in group.alerts if a.state in wanted])
            for group in board.groups
            if any(alert.state in wanted for alert in group.alerts)
        ],
        "alerts": [_alert(alert) for alert in shown],
        "precision": [
            {
                "metric": one.metric,
                "real": one.real,
                "false": one.false,
                "precision": one.real / (one.real + one.false),
            }
            for one in precision(board.alerts)
        ],
    }


def alert_document(alert: Alert) -> Document:
    """The document `farm.alert/1`: one alert with all its transitions."""
    transitions = [_transition(made) for made in alert.transitions]
    return {"schema": "farm.alert/1", "alert": _alert(alert) | {"transitions": transitions}}


def _group(group: Group, shown: list[int]) -> Document:
    return {
        "kind": group.kind,
        "revision": group.revision,
        "device_type": group.device_type or None,
        "moved": group.moved or None,
        "pool": group.pool or None,
        "alerts": shown,
    }


def _alert(alert: Alert) -> Document:
    subject, shift = alert.subject, alert.shift
    metric = METRICS.get(subject.metric)
    return {
        "id": alert.id,
        "state": alert.state,
        "open": alert.state in OPEN,
        "series": subject.series,
        "metric": subject.metric,
        "unit": metric.unit if metric else "",
        "device": subject.device,
        "device_type": subject.device_type,
        "simulated": subject.simulated,
        "revision_before": shift.earlier,
        "revision": shift.revision,
        "before": shift.before,
        "after": shift.after,
        "baseline": shift.after if alert.state is State.WONTFIX else shift.before,
        "effect_pct": _percent(shift.effect),
        "lo_pct": _percent(shift.lo),
        "hi_pct": _percent(shift.hi),
        "n_before": shift.n_before,
        "n_after": shift.n_after,
        "absences": alert.absences,
        "last": _transition(alert.transitions[-1]),
    }


def _transition(made: Transition) -> Document:
    return {
        "from": made.source,
        "to": made.target,
        "who": made.who,
        "when": made.when,
        "why": made.why,
    }


def _percent(fraction: float) -> float | None:
    return 100 * fraction if math.isfinite(fraction) else None
