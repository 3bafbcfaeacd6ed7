"""Losses that a counter of six bits cannot show, found by the host's clock."""

from __future__ import annotations

import numpy as np
import pytest

from drivers.meters.ppk2_clock import SAMPLE_NS, ArrivalWatch

DURATION_NS = 20 * 10**9
LOST_AT = 1_000_000


def found(
    seed: int, *, lost: int, stalls_ms: tuple[int, ...] = (), ppm: float = 0.0
) -> tuple[int, int]:
    """Samples that were found lost, and after how many ms; pieces of 3 ms with late wake-ups."""
    rng = np.random.default_rng(seed)
    watch = ArrivalWatch()
    stalled = {
        int(at): ms for at, ms in zip(rng.integers(0, 6000, len(stalls_ms)), stalls_ms, strict=True)
    }
    now, total, when, busy = 0, 0, 0, 0
    for turn in range(DURATION_NS // 3_000_000):
        now = max(turn * 3_000_000, busy) + int(rng.exponential(60_000))
        if turn in stalled:
            busy = now + stalled[turn] * 1_000_000
        if now < busy:
            continue
        made = int(now * (1 + ppm * 1e-6)) // SAMPLE_NS
        came = made - lost if made >= LOST_AT else made
        if extra := watch.see(now + 10**12, came + total):
            total, when = total + extra, now - LOST_AT * SAMPLE_NS
    return total, when // 1_000_000


@pytest.mark.parametrize("ppm", [-100.0, 0.0, 100.0])
@pytest.mark.parametrize("lost", [64, 128, 640])
def test_multiples_of_64_are_found_within_two_seconds(lost: int, ppm: float) -> None:
    total, after_ms = found(1, lost=lost, ppm=ppm)
    assert total == lost
    assert 1000 < after_ms < 2500


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("stalls", [(50,) * 40, (1000,) * 4])
def test_stalls_are_no_losses_and_hide_none(seed: int, stalls: tuple[int, ...]) -> None:
    print(f"seed {seed}")
    assert found(seed, lost=0, stalls_ms=stalls)[0] == 0
    assert found(seed, lost=64, stalls_ms=stalls)[0] == 64


@pytest.mark.parametrize("ppm", [-150.0, 150.0])
def test_a_clock_that_is_off_loses_nothing(ppm: float) -> None:
    assert found(2, lost=0, ppm=ppm)[0] == 0
