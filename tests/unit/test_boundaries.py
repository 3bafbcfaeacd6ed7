"""A change of a device's system is a boundary: what moved there is asked of a fixed model."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from farm.alerts import NEXT, OPEN, Alert, Analysis, AtBoundary, Shift, State, Subject
from farm.analysis.boundaries import (
    Blame,
    Cause,
    Fixed,
    boundary_of,
    find_blame,
    find_boundaries,
)
from farm.analysis.changepoint import Step, find_changes
from farm.history import Series, explain
from farm.incidents import Kind, Pool, group_alerts
from farm.looks import SystemMoved, decide
from farm.metrics import METRICS
from farm.model import PAIR, Address, ArmModel, Artifact, Device, Job, Load, Measure, Workload
from farm.policy import Policy
from farm.record import Fact, JobResult, Measurement, Outcome, Repeat
from farm.rules import Rule
from farm.store.series import FixedPoint
from farm.systems import system_changes, system_of
from farm.tracking import update
from farm.triage import analyse

WHEN = "2026-01-01T00:00:00.000Z"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
POINTS, OTA, CV = 100, 50, 0.01


def facts(**told: str) -> tuple[Fact, ...]:
    return tuple(Fact(name=name, value=value) for name, value in told.items())


OLD, NEW = facts(os="A"), facts(os="B")


def values(*steps: tuple[int, float], seed: int = 0, cv: float = CV) -> np.ndarray:
    """A level of 100 times every factor from its point on."""
    noise = np.exp(cv * np.random.default_rng(seed).standard_normal(POINTS))
    factors = [np.where(np.arange(POINTS) >= at, factor, 1.0) for at, factor in steps]
    return 100 * noise * np.prod(factors, axis=0)


def model(moved: float, count: int = 5, *, seed: int = 1, canary: bool = False) -> Fixed:
    """A fixed model with so many jobs on each side, as noisy as the series."""
    noise = np.exp(CV * np.random.default_rng([seed, 7]).standard_normal(2 * count))
    before, after = 40 * noise[:count], 40 * moved * noise[count:]
    return Fixed(name="old", canary=canary, before=tuple(before), after=tuple(after))


def blames(series: np.ndarray, *fixed: Fixed) -> list[Blame]:
    """What is said of every step that is at the boundary."""
    boundaries = find_boundaries([OLD] * OTA + [NEW] * (POINTS - OTA))
    return [
        find_blame(step, series, fixed)
        for step in find_changes(series).steps
        if boundary_of(step, series, boundaries)
    ]


def test_a_system_is_what_moves_every_model_and_silence_is_no_change() -> None:
    before = facts(os="A", boot_id="1", temperature="40", max_khz="1", farm="0.1", governor="x")
    after = facts(os="B", boot_id="2", temperature="50", max_khz="2", farm="0.2", kernel="6")
    assert system_of(before) == facts(os="A", governor="x")
    assert system_changes(before, after) == ("os: A -> B",)
    assert system_changes((), after) == system_changes(before, ()) == ()


def test_boundaries_are_where_known_facts_change() -> None:
    a, b = facts(fingerprint="a", kernel="5"), facts(fingerprint="b", kernel="5")
    found = find_boundaries([facts(kernel="5"), a, (), b, facts(kernel="5"), a])
    assert [(one.index, one.changed) for one in found] == [
        (3, ("fingerprint: a -> b",)),
        (5, ("fingerprint: b -> a",)),
    ]
    assert set(found[0].before) == set(a)
    assert set(found[0].after) == set(b)
    assert find_boundaries([]) == ()


@pytest.mark.parametrize(
    ("ota", "regression", "cause"),
    [
        (1.10, 1.00, Cause.ENVIRONMENT),
        (0.90, 1.00, Cause.ENVIRONMENT),
        (1.00, 1.10, Cause.MODEL),
        (1.10, 1.10, Cause.MODEL),
        (0.95, 1.15, Cause.MODEL),  # the update made everything faster, the model slower
        (1.15, 0.95, Cause.ENVIRONMENT),  # and the other way round: no regression of the model
    ],
)
def test_a_step_at_a_boundary_is_compared_with_a_fixed_model(
    ota: float, regression: float, cause: Cause
) -> None:
    series = values((OTA, ota), (OTA, regression))
    (blame,) = blames(series, model(ota))
    assert blame.cause is cause
    assert blame.moved == pytest.approx(ota - 1, abs=0.03)
    (unknown,) = blames(series)
    assert (unknown.cause, unknown.by) == (Cause.UNDECIDED, None)


@pytest.mark.parametrize("gap", [-20, -9, 9, 20])
def test_a_regression_before_or_after_an_update_stays_the_models(gap: int) -> None:
    series = values((OTA, 1.10), (OTA + gap, 1.10))
    steps = find_changes(series).steps
    boundaries = find_boundaries([OLD] * OTA + [NEW] * (POINTS - OTA))
    near = {step.index: boundary_of(step, series, boundaries) for step in steps}
    (away,) = [index for index, boundary in near.items() if boundary is None]
    assert away == pytest.approx(OTA + gap, abs=1)
    assert [blame.cause for blame in blames(series, model(1.10))] == [Cause.ENVIRONMENT]


@pytest.mark.parametrize(("size", "at_boundary"), [(0.10, False), (0.03, False), (0.01, True)])
def test_the_points_between_tell_whether_a_step_is_at_a_boundary(
    size: float, *, at_boundary: bool
) -> None:
    series = values((OTA + 2, 1 + size))
    step = Step(
        index=OTA + 2, before=100.0, after=100 * (1 + size), effect=size, lo=size - 0.004,
        hi=size + 0.004, n_before=50, n_after=48,
    )  # fmt: skip
    boundaries = find_boundaries([OLD] * OTA + [NEW] * (POINTS - OTA))
    assert (boundary_of(step, series, boundaries) is not None) is at_boundary
    assert boundary_of(step, series, find_boundaries([OLD] * 40 + [NEW] * 60)) is None


def test_one_noisy_measurement_decides_nothing() -> None:
    series = values((OTA, 1.03))
    weak = Fixed(name="old", canary=False, before=(40.0, 44.0, 36.0), after=(41.0, 45.0, 37.0))
    (blame,) = blames(series, weak)
    assert blame.cause is Cause.UNDECIDED
    assert blame.by is weak


def test_a_model_of_the_series_tells_more_than_the_canary_and_the_canary_more_than_nothing() -> (
    None
):
    series = values((OTA, 1.10))
    canary, same = model(1.10, 20, canary=True), model(1.0)
    assert [blame.cause for blame in blames(series, canary)] == [Cause.ENVIRONMENT]
    assert [blame.cause for blame in blames(series, canary, same)] == [Cause.MODEL]


def test_what_has_no_noise_is_exact_and_what_is_not_positive_is_undecided() -> None:
    step = Step(index=1, before=10.0, after=11.0, effect=0.1, lo=0.1, hi=0.1, n_before=1, n_after=2)
    series = np.array([10.0, 11.0, 11.0])

    def cause(after: float) -> Cause:
        fixed = Fixed(name="old", canary=False, before=(20.0,), after=(after,))
        return find_blame(step, series, (fixed,), exact=True).cause

    assert (cause(22.0), cause(20.0), cause(21.9)) == (
        Cause.ENVIRONMENT, Cause.MODEL, Cause.MODEL,
    )  # fmt: skip
    assert cause(0.0) is Cause.UNDECIDED
    below = replace(step, before=-10.0)
    assert find_blame(below, series, (model(1.1),)).cause is Cause.UNDECIDED


@pytest.mark.parametrize(
    ("ota", "regression", "wrong", "right", "most_wrong", "least_right"),
    [
        (1.05, 1.00, Cause.MODEL, Cause.ENVIRONMENT, 0.06, 0.90),
        (1.00, 1.05, Cause.ENVIRONMENT, Cause.MODEL, 0.03, 0.95),
        (1.05, 1.05, Cause.ENVIRONMENT, Cause.MODEL, 0.03, 0.95),
    ],
)
def test_the_rates_of_right_and_wrong_answers(
    ota: float, regression: float, wrong: Cause, right: Cause, most_wrong: float, least_right: float
) -> None:
    series = 150
    found = Counter(
        blame.cause
        for seed in range(series)
        for blame in blames(values((OTA, ota), (OTA, regression), seed=seed), model(ota, seed=seed))
    )
    assert found[wrong] <= most_wrong * series
    assert found[right] >= least_right * series


def _history(fixed: tuple[tuple[float, tuple[Fact, ...]], ...], *, points: int = POINTS) -> Series:
    series = values((OTA, 1.10))[:points]
    return Series(
        name="w/latency.p50/d",
        labels=tuple(f"c{i}" for i in range(points)),
        values=series,
        systems=tuple(OLD if i < OTA else NEW for i in range(points)),
        fixed=tuple(
            FixedPoint(series="s", name="old.onnx", sha256="1", canary=False, value=v, system=s)
            for v, s in fixed
        ),
    )


def test_history_says_what_moved_a_step_or_what_to_measure() -> None:
    def told(*fixed: tuple[float, tuple[Fact, ...]]) -> tuple[Cause, str]:
        series = _history(fixed)
        (explained,) = explain(series, find_changes(series.values).steps).values()
        return explained.cause, explained.why

    cause, why = told((50.0, OLD))
    assert cause is Cause.UNDECIDED
    assert why.startswith("os: A -> B; no model was measured on both sides: ")
    assert "c49" in why
    cause, why = told((50.0, OLD), (55.0, NEW), (70.0, ()))
    assert cause is Cause.ENVIRONMENT
    assert "old.onnx, which is the same file on both sides, moved by +10.00 +- " in why
    assert told((50.0, OLD), (50.0, NEW))[0] is Cause.MODEL
    cause, why = told((50.0, OLD), (90.0, OLD), (70.0, NEW))
    assert cause is Cause.UNDECIDED
    assert why.endswith("in 2 and 1 jobs, which is not enough to tell: measure it again")


SUBJECT = Subject(
    series="w/latency.p50/d", metric="latency.p50", device="d", device_type="t", simulated=False
)


def _track(*analyses: Analysis, known: tuple[Alert, ...] = ()) -> tuple[Alert, ...]:
    for analysis in analyses:
        known = update(known, analysis, when=WHEN)
    return known


def test_a_step_of_the_system_is_no_alert_and_an_undecided_one_is_never_confirmed() -> None:
    undecided = analyse(_history(()), SUBJECT)
    by_system = analyse(_history(((50.0, OLD), (55.0, NEW))), SUBJECT)
    by_model = analyse(_history(((50.0, OLD), (50.0, NEW))), SUBJECT)

    (alert,) = _track(undecided, undecided)
    assert alert.state is State.NEW
    assert "no model was measured on both sides" in alert.transitions[0].why
    (told,) = _track(by_system, known=(alert,))
    assert (told.state, told.id) == (State.ENVIRONMENT, alert.id)
    assert told.state not in OPEN
    (changed,) = _track(by_model, known=(told,))
    assert changed.state is State.CONFIRMED
    assert [(m.source, m.target) for m in changed.transitions[2:]] == [
        (State.ENVIRONMENT, State.NEW), (State.NEW, State.CONFIRMED),
    ]  # fmt: skip
    assert all(m.target in NEXT[m.source].evidence for m in changed.transitions if m.source)
    (born,) = _track(by_system)
    assert born.state is State.ENVIRONMENT
    (model,) = _track(by_model)
    assert model.state is State.CONFIRMED


def test_what_a_person_said_of_a_step_is_not_taken_back() -> None:
    by_system = analyse(_history(((50.0, OLD), (55.0, NEW))), SUBJECT)
    (alert,) = _track(analyse(_history(()), SUBJECT))
    (kept,) = _track(by_system, known=(replace(alert, state=State.ACKNOWLEDGED),))
    assert kept.state is State.ACKNOWLEDGED


def test_an_improvement_by_the_system_is_the_environments_and_its_blame_may_end() -> None:
    shift = Shift(
        earlier="c1", revision="c2", before=100.0, after=90.0, effect=-0.1, lo=-0.1, hi=-0.1,
        n_before=9, n_after=9, floor=1.0, slack=1.0,
    )  # fmt: skip
    seen = Analysis(
        subject=SUBJECT, labels=("c1", "c2"), recent=(90.0,) * 5, digest="1", shifts=(shift,),
        boundaries={"c2": AtBoundary(environment=True, why="os: A -> B")},
    )  # fmt: skip
    (alert,) = _track(seen)
    assert alert.state is State.ENVIRONMENT
    (alert,) = _track(replace(seen, boundaries={}), known=(alert,))
    assert alert.state is State.IMPROVEMENT


def test_one_device_makes_an_incident_where_a_fixed_model_showed_it() -> None:
    (shown,) = _track(analyse(_history(((50.0, OLD), (55.0, NEW))), SUBJECT))
    other = replace(shown, id=2, state=State.NEW, subject=replace(SUBJECT, series="w/other"))
    groups = group_alerts(
        (replace(shown, id=1), other), _history(()).labels, [Pool(device_type="t", series=40)]
    )
    kinds = {group.kind: [alert.id for alert in group.alerts] for group in groups}
    assert kinds == {Kind.ENVIRONMENT: [1], Kind.REVISION: [2]}


def _job() -> Job:
    file = Artifact(path=Path("m"), sha256="m", size_bytes=1)
    return Job(
        workload=Workload(name="w", digest="d"), runtime="r", accelerator="cpu", load=Load(),
        device=Device(name="p", type="phone", address=Address(scheme="virtual", place="x")),
        measures=(Measure.LATENCY,), rounds=5,
        arms=tuple(ArmModel(arm=arm, name=arm, artifact=file) for arm in PAIR),
    )  # fmt: skip


def _measured(job: Job, environment: tuple[Fact, ...]) -> JobResult:
    """Blocks too noisy to decide anything by."""
    dice = np.random.default_rng(job.first_block)
    repeats = tuple(
        Repeat(
            arm=slot.arm, block=slot.block, position=slot.position, started=NOW,
            measurements=(
                Measurement(
                    metric="latency.p50", unit="ns", value=1e6 * float(np.exp(dice.normal()))
                ),
            ),
        )
        for slot in job.slots()
    )  # fmt: skip
    return JobResult(
        job=job, outcome=Outcome.COMPLETED, started=NOW, finished=NOW, repeats=repeats,
        environment=environment,
    )  # fmt: skip


@pytest.mark.parametrize("resumed", [False, True])
def test_blocks_of_two_systems_are_never_pooled(*, resumed: bool) -> None:
    rule = Rule(metric=METRICS["latency.p50"], gate=True, margin=0.05)
    policy = Policy(path=Path("p"), sha256="p", alpha=0.05, looks=(5, 9), rules=(rule,))
    systems = iter([NEW] if resumed else [OLD, NEW])

    def measure(jobs: tuple[Job, ...]) -> tuple[JobResult, ...]:
        return tuple(_measured(job, next(systems)) for job in jobs)

    recalled = (_measured(_job(), OLD),) if resumed else ()
    with pytest.raises(SystemMoved, match=r"^p: os: A -> B$"):
        decide(policy, (_job(),), measure, recalled=recalled)
