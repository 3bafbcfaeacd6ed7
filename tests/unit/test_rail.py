"""The rail of a virtual device: means and integrals of planned steps of power."""

from __future__ import annotations

import numpy as np
import pytest

from drivers.virtual.rail import KEPT_NS, Rail

S = 10**9


def rail() -> Rail:
    made = Rail(volts=5.0, idle_w=1.0)
    made.plan([2 * S, 4 * S], [3.0, 1.0], [True, False])
    return made


def test_the_energy_of_a_span_is_the_integral_of_its_steps() -> None:
    assert rail().energy_j(1 * S, 5 * S) == pytest.approx(1 + 6 + 1)
    assert rail().energy_j(3 * S, 3 * S + S // 2) == pytest.approx(1.5)
    assert rail().energy_j(7 * S, 9 * S) == pytest.approx(2.0)


def test_means_over_intervals_add_up_to_the_energy() -> None:
    edges = np.linspace(0, 6 * S, 1001).astype(np.int64)
    means = rail().mean_power_w(edges)
    assert float((means * np.diff(edges) / S).sum()) == pytest.approx(rail().energy_j(0, 6 * S))
    assert means[[0, 500]] == pytest.approx([1.0, 3.0])


def test_the_pin_is_high_for_as_long_as_it_was_planned() -> None:
    times = np.array([0, 2 * S - 1, 2 * S, 4 * S - 1, 4 * S, 9 * S], np.int64)
    assert rail().pin_at(times).tolist() == [0, 0, 1, 1, 0, 0]


def test_a_step_voids_what_was_planned_after_it() -> None:
    made = rail()
    made.step(3 * S, 1.0)
    assert made.energy_j(2 * S, 6 * S) == pytest.approx(3 + 3)
    assert made.pin_at(np.array([3 * S], np.int64)).tolist() == [0]


def test_what_is_long_past_is_forgotten_and_what_is_planned_is_not() -> None:
    made = rail()
    later = KEPT_NS + 10 * S
    made.plan([later, later + S], [2.0, 1.0], [True, False])
    made.step(later + 3 * S, 4.0)
    assert made.energy_j(later - S, later + 4 * S) == pytest.approx(1 + 2 + 2 + 4)
    assert not made.pin_at(np.array([3 * S], np.int64))[0], "nobody remembers"
