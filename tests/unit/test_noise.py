"""Noise budgets and what they let a gate decide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from drivers.virtual.physics import Noise as Physics
from drivers.virtual.physics import Profile
from farm.analysis.noise import (
    blocks_needed,
    detectable,
    estimate_noise,
    false_alarm_rate,
    pass_chance,
)
from farm.metrics import METRICS
from farm.model import PAIR, Address, ArmModel, Artifact, Device, Job, Load, Measure, Workload
from farm.policy import Policy
from farm.prospects import foresee
from farm.rules import Rule
from farm.store.noise import StoredNoise


def _series(cv: float, shared: float, blocks: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    profile = Profile(
        seconds_per_unit=1, level_cv=cv, shared=shared, spread_cv=0, tail_rate=0, tail_factor=1
    )
    physics = Physics(profile, seed=3)
    levels = np.log([[physics.next_level() for _ in range(4)] for _ in range(blocks)])
    return levels, (levels[:, 1] + levels[:, 2] - levels[:, 0] - levels[:, 3]) / 2


@pytest.mark.parametrize(("cv", "shared"), [(0.05, 0.8), (0.02, 0.5), (0.01, 0.0)])
def test_the_noise_that_was_put_in_comes_out(cv: float, shared: float) -> None:
    levels, differences = _series(cv, shared)
    found = estimate_noise(levels, differences, [])
    assert found.repeat_cv == pytest.approx(cv, rel=0.05)
    assert found.shared == pytest.approx(shared, abs=0.03)
    assert found.block_sd == pytest.approx(cv * np.sqrt(1 - shared), rel=0.05)
    assert found.false_alarm == pytest.approx(0.05, abs=0.012)
    assert found.autocorrelation is None


def test_a_metric_without_noise_has_a_budget_of_zero() -> None:
    found = estimate_noise(np.zeros((6, 4)), np.zeros(6), [np.ones(100)])
    assert (found.repeat_cv, found.shared, found.block_sd) == (0, 0, 0)
    assert found.false_alarm == 0
    assert found.autocorrelation is None
    assert pass_chance(0.0, 5, 0.02, 0.05) == 1
    assert detectable(0.0, 5, 0.05) == 0


def test_correlation_inside_repeats_is_seen() -> None:
    rng = np.random.default_rng(4)
    values = np.zeros(5000)
    for i in range(1, len(values)):
        values[i] = 0.4 * values[i - 1] + rng.normal()
    found = estimate_noise(*_series(0.01, 0, blocks=5), [values, values[:5]])
    assert found.autocorrelation == pytest.approx(0.4, abs=0.05)


def test_outliers_show_in_the_measured_false_alarm_rate() -> None:
    spiky = np.r_[np.full(20, 0.001), 0.5]
    assert false_alarm_rate(spiky) != pytest.approx(0.05, abs=0.005)


def test_the_mde_is_found_four_times_out_of_five() -> None:
    rng = np.random.default_rng(5)
    sd, n, alpha = 0.02, 9, 0.05
    effect = np.log1p(detectable(sd, n, alpha))
    drawn = effect + sd * rng.standard_normal((20_000, n))
    found = stats.ttest_1samp(drawn, 0, axis=1, alternative="greater").pvalue < alpha
    assert found.mean() == pytest.approx(0.8, abs=0.02)


def test_the_chance_to_pass_is_what_simulation_says() -> None:
    rng = np.random.default_rng(6)
    sd, n, alpha, margin = 0.02, 9, 0.05, 0.02
    drawn = sd * rng.standard_normal((20_000, n))
    bound = stats.t.ppf(1 - alpha, n - 1) * drawn.std(axis=1, ddof=1) / np.sqrt(n)
    passes = (drawn.mean(axis=1) + bound < np.log1p(margin)).mean()
    assert pass_chance(sd, n, margin, alpha) == pytest.approx(passes, abs=0.03)


@pytest.mark.parametrize("margin", [0.01, 0.02, 0.05])
def test_the_blocks_needed_are_the_fewest_that_detect_the_margin(margin: float) -> None:
    needed = blocks_needed(0.02, margin, 0.05)
    assert needed is not None
    assert detectable(0.02, needed, 0.05) <= margin
    assert needed == 2 or detectable(0.02, needed - 1, 0.05) > margin
    assert blocks_needed(5.0, 0.001, 0.05) is None


def _job(device: str) -> Job:
    model = Artifact(path=Path("m"), sha256="m", size_bytes=1)
    return Job(
        workload=Workload(name="w", digest="d"), runtime="r", accelerator="cpu", load=Load(),
        device=Device(name=device, type="phone", address=Address(scheme="virtual", place="x")),
        measures=(Measure.LATENCY,), rounds=5,
        arms=tuple(ArmModel(arm=arm, name=arm, artifact=model) for arm in PAIR),
    )  # fmt: skip


def _budget(device: str, block_sd: float) -> StoredNoise:
    return StoredNoise(
        device=device, runtime="r", accelerator="cpu", load_digest=Load().digest(),
        metric="latency.p50", run_id="x", blocks=10, repeat_cv=0.1, shared=0.5,
        autocorrelation=None, block_sd=block_sd, false_alarm=0.05,
    )  # fmt: skip


POLICY = Policy(
    path=Path("p"), sha256="p", alpha=0.05, looks=(5, 9),
    rules=(Rule(metric=METRICS["latency.p50"], gate=True, margin=0.05),),
)  # fmt: skip


def test_a_quiet_device_can_decide_and_a_noisy_one_is_told_what_it_needs() -> None:
    (quiet,) = foresee([_job("a")], POLICY, [_budget("a", 0.01)])
    (noisy,) = foresee([_job("a")], POLICY, [_budget("a", 0.2)])
    assert quiet.decidable
    assert quiet.passes == pytest.approx(1, abs=1e-3)
    assert not noisy.decidable
    assert noisy.needed is not None
    assert f"about {noisy.needed} blocks are needed" in noisy.complaint()


def test_unknown_noise_is_named_and_gets_the_benefit_of_the_doubt() -> None:
    (prospect,) = foresee([_job("a"), _job("b")], POLICY, [_budget("b", 0.01)])
    assert prospect.unknown == ("a",)
    assert prospect.blocks == 18
    (dark,) = foresee([_job("a")], POLICY, [])
    assert (dark.mde, dark.decidable) == (None, True)
