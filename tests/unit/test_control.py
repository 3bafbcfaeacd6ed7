"""The control chart of a canary."""

from __future__ import annotations

import numpy as np
import pytest

from farm.analysis.control import FALSE_ALARM, MIN_HISTORY, WINDOW, control_band


def test_a_short_history_has_no_limits() -> None:
    assert control_band(np.full(MIN_HISTORY - 1, 5.0)) is None
    assert control_band(np.full(MIN_HISTORY, 5.0)) is not None


def test_a_constant_history_holds_what_it_always_was_and_nothing_else() -> None:
    band = control_band(np.full(20, 5.0))
    assert band is not None
    assert band.holds(band.lo)
    assert not band.holds(5.1)


def test_only_the_latest_values_count() -> None:
    band = control_band(np.r_[np.full(100, 1.0), np.linspace(9.9, 10.1, WINDOW)])
    assert band is not None
    assert band.n == WINDOW
    assert band.holds(10.0)
    assert not band.holds(1.0)


@pytest.mark.parametrize("history", [MIN_HISTORY, 20, WINDOW])
def test_a_healthy_device_is_called_bad_as_rarely_as_promised(history: int) -> None:
    rng = np.random.default_rng(history)
    gates, alarms = 20_000, 0
    values = np.exp(0.02 * rng.standard_normal((gates, history + 2)))
    for row in values:
        band = control_band(row[:history])
        assert band is not None
        alarms += not (band.holds(row[-2]) and band.holds(row[-1]))
    assert alarms / gates <= FALSE_ALARM + 3 * np.sqrt(FALSE_ALARM / gates)


def test_a_device_that_slowed_down_is_noticed() -> None:
    rng = np.random.default_rng(1)
    band = control_band(np.exp(0.02 * rng.standard_normal(30)))
    assert band is not None
    assert not band.holds(1.2)
