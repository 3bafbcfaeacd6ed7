"""Alerts keep their identity while change points move, and their states follow the table."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.alerts import LIVE, NEXT, Alert, Analysis, Shift, State, Subject, confirm, mark, precision
from farm.errors import ConfigError
from farm.history import Series
from farm.incidents import Kind, Pool, group_alerts
from farm.tracking import update
from farm.triage import analyse

WHEN = "2026-01-01T00:00:00.000Z"
SUBJECT = Subject(
    series="w/latency.p50/d", metric="latency.p50", device="d", device_type="t", simulated=False
)
EXACT = replace(SUBJECT, series="w/size.model_bytes/d", metric="size.model_bytes")


def shift(at: int, before: float = 100.0, after: float = 110.0, n_after: int = 20) -> Shift:
    """A step at revision `at` with an interval of one point of percent around its effect."""
    effect = after / before - 1
    return Shift(
        earlier=f"r{at - 1}", revision=f"r{at}", before=before, after=after, effect=effect,
        lo=effect - 0.01, hi=effect + 0.01, n_before=20, n_after=n_after, floor=1.0, slack=1.0,
    )  # fmt: skip


def seen(*shifts: Shift, points: int = 60, recent: float = 110.0, step: int = 1) -> Analysis:
    """An analysis of `points` revisions; its data are those of no other number of points."""
    return Analysis(
        subject=SUBJECT, labels=tuple(f"r{i}" for i in range(0, points, step)),
        recent=(recent,) * 5, digest=str(points), shifts=shifts,
    )  # fmt: skip


def grow(*analyses: Analysis, known: tuple[Alert, ...] = ()) -> tuple[Alert, ...]:
    for analysis in analyses:
        known = update(known, analysis, when=WHEN)
    return known


def said(alert: Alert, *targets: State) -> Alert:
    for target in targets:
        alert = mark(alert, target, who="ada", when=WHEN, why="so")
    return alert


def states(alerts: tuple[Alert, ...]) -> list[State]:
    return [alert.state for alert in alerts]


def test_the_table_knows_every_state_and_refuses_the_rest() -> None:
    assert set(NEXT) == set(State)
    (alert,) = grow(seen(shift(30)))
    for state, after in NEXT.items():
        assert not set(after.person) & set(after.evidence) - {State.CONFIRMED}
        for target in State:
            stands = replace(alert, state=state)
            if target in after.person:
                changed = said(stands, target)
                assert changed.state is target
                assert changed.transitions[:-1] == alert.transitions
                last = changed.transitions[-1]
                assert (last.source, last.who, last.when, last.why) == (state, "ada", WHEN, "so")
            else:
                with pytest.raises(
                    ConfigError, match=f"is {state}, it cannot become {target}"
                ) as e:
                    said(stands, target)
                assert all(word in e.value.hint for word in after.person)


@pytest.mark.parametrize(
    ("points", "state"), [(1, State.NEW), (4, State.NEW), (5, State.CONFIRMED)]
)
def test_five_points_or_a_gate_confirm(points: int, state: State) -> None:
    (alert,) = grow(seen(shift(30, n_after=points)))
    assert alert.state is state
    assert confirm(alert, who="gate", when=WHEN, why="FAIL").state is State.CONFIRMED
    done = said(alert, State.INVALID)
    assert confirm(done, who="gate", when=WHEN, why="FAIL") == done


@pytest.mark.parametrize("moved", [-5, -3, 0, 3, 5])
def test_a_step_that_moves_keeps_its_alert_and_what_was_said(moved: int) -> None:
    (alert,) = grow(seen(shift(30)))
    alert = replace(said(alert, State.ACKNOWLEDGED), id=4)
    (same,) = grow(seen(shift(30 + moved), points=61), known=(alert,))
    assert (same.id, same.state, same.transitions) == (4, State.ACKNOWLEDGED, alert.transitions)
    assert same.shift.revision == f"r{30 + moved}"


@pytest.mark.parametrize("other", [shift(36), shift(24), shift(30, after=90.0)])
def test_another_place_or_direction_is_another_alert(other: Shift) -> None:
    alerts = grow(seen(shift(30)), seen(other, points=61))
    assert [alert.absences for alert in alerts] == [1, 0]


def test_steps_are_matched_one_to_one_and_the_nearest_first() -> None:
    alerts = grow(seen(shift(30), shift(34)), seen(shift(33), shift(37), points=61))
    told = [(alert.shift.revision, alert.absences) for alert in alerts]
    assert told == [("r30", 1), ("r33", 0), ("r37", 0)]
    alerts = grow(seen(shift(30)), seen(shift(29), shift(30), points=61))
    assert [alert.shift.revision for alert in alerts] == ["r30", "r29"]


def test_revisions_that_come_in_between_or_go_do_not_move_an_alert() -> None:
    """Every second revision is measured later; then the oldest half is no longer kept."""
    (alert,) = grow(seen(replace(shift(30), earlier="r28"), step=2), seen(shift(29), points=61))
    assert (alert.shift.revision, alert.absences) == ("r29", 0)
    gone = replace(seen(points=62), labels=tuple(f"r{i}" for i in range(40, 62)))
    assert grow(gone, known=(alert,)) == (alert,)


def test_only_three_absences_on_other_data_withdraw_and_only_the_untriaged() -> None:
    alert, spoken = grow(seen(shift(20), shift(40)))
    known = (alert, said(spoken, State.ACKNOWLEDGED))
    for points in (61, 61, 61, 62, 62):
        known = grow(seen(points=points), known=known)
    assert states(known) == [State.CONFIRMED, State.ACKNOWLEDGED]
    interrupted = grow(seen(shift(20), points=63), seen(points=64), known=known)
    assert states(interrupted) == [State.CONFIRMED, State.ACKNOWLEDGED]
    withdrawn = grow(seen(points=63), seen(points=64), known=known)
    assert states(withdrawn) == [State.WITHDRAWN, State.ACKNOWLEDGED]
    again = grow(seen(shift(21), points=65), known=withdrawn)
    assert states(again) == [State.CONFIRMED, State.ACKNOWLEDGED]
    assert again[0].transitions[: len(withdrawn[0].transitions)] == withdrawn[0].transitions


@pytest.mark.parametrize(
    ("after", "state"),
    [
        (109.0, State.ACKNOWLEDGED),
        (110.9, State.ACKNOWLEDGED),
        (111.5, State.CONFIRMED),
        (125.0, State.CONFIRMED),
    ],
)
def test_an_acknowledgement_expires_when_it_gets_worse(after: float, state: State) -> None:
    (alert,) = grow(seen(shift(30)))
    (later,) = grow(
        seen(shift(30, after=after), points=61), known=(said(alert, State.ACKNOWLEDGED),)
    )
    assert later.state is state
    fixing = said(alert, State.ACKNOWLEDGED, State.FIXING)
    (still,) = grow(seen(shift(30, after=after), points=61), known=(fixing,))
    assert still.state is State.FIXING


BACK = shift(45, 110.0, 100.0)


@pytest.mark.parametrize(
    ("back", "recent", "points", "state"),
    [
        ((BACK,), 100.5, 61, State.RESOLVED),
        ((shift(45, 110.0, 90.0),), 90.0, 61, State.RESOLVED),  # better than ever
        ((BACK,), 102.0, 64, State.CLAIMED),  # the step is there, the level is not
        ((BACK,), 102.0, 65, State.FIX_FAILED),
        ((), 100.5, 80, State.CLAIMED),  # back, but no step says since when
        ((shift(45, 110.0, 103.0),), 100.5, 61, State.CLAIMED),  # 70 % of it
        ((shift(45, 110.0, 102.4),), 100.5, 61, State.RESOLVED),  # 76 % of it
        ((), 110.0, 64, State.CLAIMED),
        ((), 110.0, 65, State.FIX_FAILED),
        ((shift(15, 110.0, 100.0),), 100.5, 61, State.CLAIMED),  # a step before it is none after
    ],
)
def test_only_evidence_resolves_a_claim_or_fails_it(
    back: tuple[Shift, ...], recent: float, points: int, state: State
) -> None:
    (alert,) = grow(seen(shift(30)))
    claim = said(alert, State.ACKNOWLEDGED, State.CLAIMED)
    known = grow(seen(shift(30), *back, points=points, recent=recent), known=(claim,))
    assert known[0].state is state
    again = grow(seen(shift(30), *back, points=points, recent=recent), known=known)
    assert again == known


def test_precision_counts_what_people_and_points_said() -> None:
    (alert,) = grow(seen(shift(30)))
    alerts = [replace(alert, state=state) for state in State]
    (found,) = precision([*alerts, replace(alert, state=State.INVALID)])
    assert (found.metric, found.real, found.false) == ("latency.p50", 7, 2)
    assert precision([replace(alert, state=State.NEW)]) == ()


def test_alerts_at_neighbouring_revisions_are_one_group() -> None:
    (alert,) = grow(seen(shift(30)))
    places = [10, 11, 12, 14, 20]
    alerts = [
        replace(alert, id=i, shift=shift(at), subject=replace(SUBJECT, series=str(i)))
        for i, at in enumerate(places, 1)
    ]
    revisions = tuple(f"r{i}" for i in range(15))
    groups = group_alerts(alerts, revisions, [Pool(device_type="t", series=100)])
    told = [(g.kind, g.revision, [a.id for a in g.alerts]) for g in groups]
    assert [one[1:] for one in told] == [("r14", [4]), ("r10", [1, 2, 3]), ("r20", [5])]
    assert {one[0] for one in told} == {Kind.REVISION}
    pools = [Pool(device_type="t", series=14), Pool(device_type="other", series=3)]
    first = group_alerts(alerts, revisions, pools)[1]
    assert (first.kind, first.moved, first.pool) == (Kind.ENVIRONMENT, 3, 14)
    for pool, gone in [(15, alerts[0]), (14, replace(alerts[0], absences=1))]:
        changed = [gone, *alerts[1:]]
        found = group_alerts(changed, revisions, [Pool(device_type="t", series=pool)])
        assert {group.kind for group in found} == {Kind.REVISION}


LEVELS = st.lists(st.tuples(st.integers(1, 30), st.sampled_from([1000, 1001, 1100, 900])),
                  min_size=1, max_size=6)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(levels=LEVELS, cuts=st.sets(st.integers(1, 120)), exact=st.booleans(), seed=st.integers(0))
def test_any_refreshes_on_the_way_end_like_one_at_the_end(
    levels: list[tuple[int, int]], cuts: set[int], exact: bool, seed: int
) -> None:
    """What the last analysis sees is the same: series, step, state. The only difference is memory.

    Alerts that earlier analyses saw and the last does not (absences > 0) may be left over, and the
    numbers and transitions tell of the way. Neither is compared.
    """
    subject = EXACT if exact else SUBJECT
    values = np.concatenate([np.full(n, float(value)) for n, value in levels])
    if not exact:
        values *= np.random.default_rng(seed).normal(1, 0.01, len(values))
    labels = tuple(f"r{i}" for i in range(len(values)))

    def analysed(points: int) -> Analysis:
        series = Series(
            name=subject.series, labels=labels[:points], values=values[:points], exact=exact
        )
        return analyse(series, subject)

    last = analysed(len(values))
    way = grow(*(analysed(points) for points in sorted(cuts) if points < len(values)), last)
    direct = grow(last)
    present = {(a.subject, a.shift, a.state) for a in way if not a.absences}
    assert present == {(a.subject, a.shift, a.state) for a in direct}
    assert len(direct) == len([a for a in way if not a.absences]) == len(last.shifts)
    assert grow(last, known=way) == way
    for alert in way:
        moves = alert.transitions
        assert [move.target for move in moves][-1] is alert.state
        assert moves[0].source is None
        for before, after in pairwise(moves):
            assert after.source is before.target
            assert after.target in NEXT[before.target].evidence
        assert not alert.absences >= 3 or alert.state not in LIVE
