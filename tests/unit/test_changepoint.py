"""Steps and drifts of one series: where, how large, and what never is one."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from farm.analysis import changepoint
from farm.analysis.changepoint import (
    MIN_EFFECT,
    REACH,
    Changes,
    History,
    Step,
    find_changes,
    find_steps,
)
from farm.analysis.rankscan import MIN_SEGMENT, WINDOW

FIXED = settings(derandomize=True, deadline=None)
NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False)
ANY_SERIES = arrays.arrays(
    np.float64,
    st.integers(0, 60),
    elements=st.one_of(NUMBERS, st.sampled_from([0.0, 1.0, np.nan, np.inf, -np.inf])),
)


@st.composite
def stairs(draw: st.DrawFn) -> np.ndarray:
    """Up to four levels of 8 to 60 points each, with noise that is small, large, coarse or none."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    lengths = draw(st.lists(st.integers(8, 60), min_size=1, max_size=4))
    levels = draw(
        st.lists(st.sampled_from([80, 100, 101, 110]), min_size=len(lengths), max_size=len(lengths))
    )
    noise = rng.normal(0, draw(st.sampled_from([0, 0.3, 3])), sum(lengths))
    decimals = draw(st.sampled_from([0, 12]))
    return np.round(np.repeat(levels, lengths) + noise, decimals)


def noisy(*levels_and_lengths: tuple[float, int], cv: float = 0.01, seed: int = 0) -> np.ndarray:
    levels, lengths = zip(*levels_and_lengths, strict=True)
    factors = 1 + cv * np.random.default_rng(seed).normal(size=sum(lengths))
    return np.repeat(np.array(levels, float), lengths) * factors


def indices(values: object, **options: object) -> list[int]:
    return [step.index for step in find_steps(values, **options)]


@pytest.mark.parametrize("change", [0.8, 0.95, 1.05, 2.0])
@pytest.mark.parametrize("at", [20, 75, 130])
def test_a_clear_step_is_found_at_the_first_point_of_the_new_level(at, change):
    (step,) = find_steps(noisy((200, at), (200 * change, 150 - at)))
    assert step.index == pytest.approx(at, abs=1)
    assert (step.before, step.after) == pytest.approx((200, 200 * change), rel=0.01)
    assert step.effect == pytest.approx(change - 1, abs=0.015)
    assert step.lo <= step.effect <= step.hi
    assert step.lo <= change - 1 <= step.hi
    assert (step.n_before, step.n_after) == (min(step.index, REACH), min(150 - step.index, REACH))


def test_several_steps_are_found_together_also_up_and_down_again():
    values = noisy((100, 40), (106, 30), (100, 35), (90, 12), (100, 40))
    assert indices(values) == pytest.approx([40, 70, 105, 117], abs=1)


def test_a_long_series_is_searched_from_end_to_end():
    levels = [(100 + 5 * (i % 2), 170) for i in range(12)]
    assert indices(noisy(*levels)) == pytest.approx(range(170, 2040, 170), abs=2)


@pytest.mark.parametrize("at", [190, 200, 210, 395, 400, 405, 600])
def test_a_step_at_the_edge_of_a_window_is_found(at):
    assert indices(noisy((100, at), (103, 2 * WINDOW - at))) == pytest.approx([at], abs=1)


@pytest.mark.parametrize("length", range(1, MIN_SEGMENT))
def test_a_few_points_apart_are_outliers_and_no_level(length):
    assert find_changes(noisy((100, 60), (500, length), (100, 60))) == Changes()
    assert find_changes(noisy((100, 60), (500, length))) == Changes()


@pytest.mark.parametrize("spike", [1e3, 1e12, 1e300])
def test_a_spike_of_any_size_hides_no_step(spike):
    values = noisy((100, 50), (110, 50))
    values[[20, 70]] = spike
    assert indices(values) == pytest.approx([50], abs=1)


@pytest.mark.parametrize(("effect", "found"), [(0.5 * MIN_EFFECT, 0), (2 * MIN_EFFECT, 1)])
def test_a_step_below_the_smallest_effect_is_not_reported(effect, found):
    values = noisy((100, 60), (100 * (1 + effect), 60), cv=1e-4)
    assert len(find_steps(values)) == found
    assert len(find_steps(values, min_effect=effect / 2)) == 1


@pytest.mark.parametrize("levels", [(100, 101.005), (101.005, 100)])
def test_the_smallest_effect_is_the_same_up_and_down(levels):
    assert indices(np.repeat(levels, 50)) == [50]


@pytest.mark.parametrize(("factor", "worth"), [(1.1, False), (1.3, True)])
def test_a_shift_has_to_stand_out_of_the_spread_of_its_levels(factor, worth):
    values = np.tile([1.0, 2.0], 60) * np.repeat([1, factor], 60)
    strength = changepoint._strength(values, values, MIN_EFFECT, 0, 60, 120)
    assert (strength > 1) == worth


@pytest.mark.parametrize("total", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("direction", [1, -1])
def test_a_slow_slide_is_a_drift_and_no_step(total, direction):
    slide = np.linspace(1, 1 + total, 200)[::direction]
    changes = find_changes(noisy((100, 200)) * slide)
    assert changes.steps == ()
    (drift,) = changes.drifts
    assert drift.start <= 40
    assert drift.stop >= 160
    assert drift.effect == pytest.approx(slide[-1] / slide[0] - 1, abs=0.03)


@pytest.mark.parametrize("points", [36, 60, 200])
def test_a_change_within_a_dozen_points_is_a_step(points):
    middle = points / 2
    values = noisy((100, points)) + np.interp(np.arange(points), [middle - 6, middle + 6], [0, 10])
    changes = find_changes(values)
    assert [step.index for step in changes.steps] == pytest.approx([middle], abs=4)
    assert changes.drifts == ()


def test_too_few_points_cannot_tell_a_slide_from_a_step():
    changes = find_changes(noisy((100, 30)) + np.linspace(0, 10, 30))
    assert changes.steps
    assert changes.drifts == ()


def test_a_slide_between_two_levels_is_located():
    values = noisy((100, 300)) + np.interp(np.arange(300), [100, 200], [0, 8])
    changes = find_changes(values)
    assert changes.steps == ()
    (drift,) = changes.drifts
    assert (drift.start, drift.stop) == pytest.approx((100, 200), abs=15)
    assert (drift.before, drift.after) == pytest.approx((100, 108), abs=1)
    assert drift.n > drift.stop - drift.start


def test_a_step_in_the_midst_of_a_slide_is_still_a_step():
    values = noisy((100, 120), (112, 80)) + np.linspace(0, 10, 200)
    changes = find_changes(values)
    assert [step.index for step in changes.steps] == pytest.approx([120], abs=5)
    assert changes.drifts


@pytest.mark.parametrize("n", [0, 1, 2, 9, 10, 11, 50, 500])
@pytest.mark.parametrize("value", [0.0, 1e-300, 7.0, -3.5])
@pytest.mark.parametrize("exact", [False, True])
def test_a_constant_series_never_changes(n, value, exact):
    assert find_changes(np.full(n, value), exact=exact) == Changes()


@pytest.mark.parametrize("blank", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("exact", [False, True])
def test_a_series_of_blanks_has_no_changes_and_says_how_many_they_are(blank, exact):
    assert find_changes([blank] * 30, exact=exact) == Changes(missing=30)


@pytest.mark.parametrize(("n", "found"), [(5, []), (6, []), (7, [7]), (20, [20])])
def test_two_constant_levels_change_once_there_are_points_enough(n, found):
    assert indices([1.0] * n + [2.0] * n) == found


@pytest.mark.parametrize("period", [1, 2, 3])
def test_a_series_that_alternates_between_two_values_has_one_level(period):
    values = np.tile(np.repeat([1.0, 2.0], period), 40)
    assert find_changes(values) == Changes()


@pytest.mark.parametrize("exact", [False, True])
def test_rounding_noise_is_a_change_of_an_exact_metric_alone(exact):
    values = np.repeat([1.0, 1.0 + 1e-7], 100)
    assert indices(values, exact=exact) == ([100] if exact else [])


@pytest.mark.parametrize(
    ("before", "after", "effect"),
    [(0.0, 5.0, np.inf), (0.0, -5.0, -np.inf), (-2.0, -1.0, 0.5), (-2.0, -3.0, -0.5),
     (2.0, 0.0, -1.0), (-1.0, 1.0, 2.0), (4.0, 5.0, 0.25), (1e308, -1e307, -1.1)],
)  # fmt: skip
@pytest.mark.parametrize("exact", [False, True])
def test_the_effect_is_defined_for_every_level(before, after, effect, exact):
    (step,) = find_steps([before] * 20 + [after] * 20, exact=exact)
    assert (step.index, step.before, step.after) == (20, before, after)
    assert (step.effect, step.lo, step.hi) == pytest.approx((effect,) * 3)


def test_every_change_of_an_exact_metric_is_a_step():
    steps = find_steps([5, 5, 5, np.nan, 6, 5, 5, np.nan], exact=True)
    assert steps == (
        Step(index=4, before=5, after=6, effect=0.2, lo=0.2, hi=0.2, n_before=3, n_after=1),
        Step(index=5, before=6, after=5, effect=-1 / 6, lo=-1 / 6, hi=-1 / 6, n_before=1,
             n_after=2),
    )  # fmt: skip


@FIXED
@given(ANY_SERIES, st.booleans())
def test_no_input_is_without_an_answer(values, exact):
    changes = find_changes(values, exact=exact)
    present = np.isfinite(values)
    assert changes.missing == (~present).sum()
    for step in changes.steps:
        assert present[step.index]
        assert step.before != step.after
        assert step.lo <= step.effect <= step.hi
        assert min(step.n_before, step.n_after) >= (1 if exact else MIN_SEGMENT)
    for drift in changes.drifts:
        assert 0 <= drift.start < drift.stop <= len(values)


@FIXED
@given(stairs(), st.integers(-40, 40), st.booleans())
def test_a_factor_multiplies_the_levels_and_nothing_else(values, power, exact):
    scaled = find_changes(np.ldexp(values, power), exact=exact)
    plain = find_changes(values, exact=exact)
    assert scaled.steps == tuple(
        replace(s, before=np.ldexp(s.before, power), after=np.ldexp(s.after, power))
        for s in plain.steps
    )
    assert [(d.start, d.stop) for d in scaled.drifts] == [(d.start, d.stop) for d in plain.drifts]


@pytest.mark.parametrize("factor", [1e-9, 0.3, 1e3 / 7, 1e12])
def test_the_unit_of_a_metric_does_not_matter(factor):
    values = noisy((100, 60), (104, 40), (99, 50))
    plain, scaled = find_steps(values), find_steps(values * factor)
    assert len(plain) == 2
    for one, other in zip(plain, scaled, strict=True):
        expected = replace(one, before=one.before * factor, after=one.after * factor)
        assert astuple(other) == pytest.approx(astuple(expected))


@FIXED
@given(stairs(), st.booleans())
def test_the_other_sign_turns_the_effects(values, exact):
    plain, turned = find_changes(values, exact=exact), find_changes(-values, exact=exact)
    assert turned.steps == tuple(
        replace(s, before=-s.before, after=-s.after, effect=-s.effect, lo=-s.hi, hi=-s.lo)
        for s in plain.steps
    )
    assert [(d.start, d.stop) for d in turned.drifts] == [(d.start, d.stop) for d in plain.drifts]


@FIXED
@given(stairs(), st.data(), st.sampled_from([np.nan, np.inf, -np.inf]), st.booleans())
def test_blanks_move_positions_and_nothing_else(values, data, blank, exact):
    places = data.draw(st.lists(st.integers(0, len(values)), max_size=12))
    gapped = np.insert(values, places, blank)
    position = np.flatnonzero(np.isfinite(gapped))
    plain, found = find_changes(values, exact=exact), find_changes(gapped, exact=exact)
    assert found.missing == len(places)
    assert found.steps == tuple(replace(s, index=position[s.index]) for s in plain.steps)
    assert len(found.drifts) == len(plain.drifts)


@FIXED
@given(stairs())
def test_an_exact_series_read_backwards_has_the_same_steps_in_reverse(values):
    n = len(values)
    there, back = find_steps(values, exact=True), find_steps(values[::-1], exact=True)
    assert [
        (n - s.index, s.after, s.before, s.n_after, s.n_before) for s in reversed(back)
    ] == [(s.index, s.before, s.after, s.n_before, s.n_after) for s in there]  # fmt: skip


@pytest.mark.parametrize("seed", range(10))
def test_clear_steps_are_found_in_the_same_places_from_either_end(seed):
    values = noisy((100, 50), (105, 30), (95, 60), seed=seed)
    assert [len(values) - i for i in reversed(indices(values[::-1]))] == indices(values)


@pytest.mark.parametrize("exact", [False, True])
def test_a_history_answers_for_its_window_and_counts_from_the_first_point(exact):
    values = noisy((100, 300), (106, 200), (97, 200), cv=0.005)
    values[[10, 350, 351]] = np.nan
    values = np.round(values) if exact else values
    history = History(values[:600], exact=exact)
    for n in range(601, len(values) + 1):
        seen = history.append(values[n - 1])
        window = find_changes(values[n - WINDOW : n], exact=exact)
        gone = n - WINDOW
        assert seen.missing == window.missing
        assert seen.steps == tuple(replace(s, index=s.index + gone) for s in window.steps)


def test_a_history_reports_a_step_soon_and_keeps_it_in_place():
    values = noisy((100, 100), (105, 60))
    history = History()
    reports = [[step.index for step in history.append(value).steps] for value in values]
    assert not any(reports[: 100 + MIN_SEGMENT])
    assert all(report == [100] for report in reports[110:])
