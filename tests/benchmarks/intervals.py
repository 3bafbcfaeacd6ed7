"""Area `intervals`: how often each interval holds the truth, by simulation or exactly.

Continuous intervals are simulated: two bounds at 5 % each, so 90 % is nominal. Those of shares are
summed over every possible outcome, without any simulation: two bounds at 2.5 %, so 95 % is nominal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
from scipy import special

from farm.analysis.budgets import floor, share_over
from farm.analysis.compare import block_effect, tango_bound
from farm.analysis.items import unpaired_effect
from tests.benchmarks.run import Figure

SEED = 20_240_611
REPLICATIONS = 40_000
"""Data sets per cell: the standard error of a coverage of 90 % is 0.15 points."""
CHECKED = 20
"""Data sets per cell on which the arithmetic for many is held against `block_effect`."""
ALPHA = 0.05
BLOCKS = (5, 9, 13, 30)
EFFECTS = (0.0, 0.02, 0.1)
REPEAT_CV = 0.05
POOL, ITERATIONS, CORRELATION = 100_000, 50, 0.4

SHARE_ALPHA = 0.025
ACCURACIES = (0.5, 0.7, 0.9, 0.95, 0.99)
LOSSES = (-0.02, 0.0, 0.02, 0.1)
NEGLIGIBLE = 1e-9


def continuous() -> list[Figure]:
    """`block_effect` over kinds of noise, numbers of blocks and true effects."""
    rng = np.random.default_rng(SEED)
    found = {
        f"{name}, {blocks} blocks, {effect:+.0%}": _block_coverage(draw, rng, blocks, effect)
        for (name, draw), blocks, effect in product(_noises(rng).items(), BLOCKS, EFFECTS)
    }
    return [
        _extreme("interval-coverage-min-pct", found, min, (88, 92)),
        _extreme("interval-coverage-max-pct", found, max, (88, 92)),
    ]


def _extreme(
    name: str,
    found: dict[str, float],
    pick: Callable[..., str],
    goal: tuple[float, float],
    nominal: float = 90,
    n: int = REPLICATIONS,
) -> Figure:
    where = pick(found, key=found.__getitem__)
    low, high = goal
    return Figure(
        name=name, value=found[where], unit="%", n=n,
        goal=f">= {low:g}" if high >= 100 else f"{low:g}..{high:g}",
        ok=low <= found[where] <= high, peer=f"({where}) nominal", peer_value=nominal,
    )  # fmt: skip


def _noises(
    rng: np.random.Generator,
) -> dict[str, Callable[[tuple[int, ...]], np.ndarray]]:
    """Logarithm of the value of one repeat, per kind of noise; all have a CV near 5 %."""
    pool = _contaminated_repeats(rng)
    return {
        "normal": lambda shape: np.log1p(REPEAT_CV * rng.standard_normal(shape)),
        "log-normal": lambda shape: REPEAT_CV * rng.standard_normal(shape),
        "t(5)": lambda shape: REPEAT_CV * np.sqrt(3 / 5) * rng.standard_t(5, shape),
        "AR": lambda shape: pool[rng.integers(0, POOL, shape)],
    }


def _contaminated_repeats(rng: np.random.Generator) -> np.ndarray:
    """Log mean of 50 autocorrelated iterations, one in a hundred of them three times as long."""
    step = np.sqrt(1 - CORRELATION**2)
    state, total = rng.standard_normal(POOL), np.zeros(POOL)
    for _ in range(ITERATIONS):
        state = CORRELATION * state + step * rng.standard_normal(POOL)
        total += np.exp(REPEAT_CV * state) * np.where(rng.random(POOL) < 0.01, 3, 1)
    return np.log(total / ITERATIONS) + 0.01 * rng.standard_normal(POOL)


def _block_coverage(
    draw: Callable[[tuple[int, ...]], np.ndarray],
    rng: np.random.Generator,
    blocks: int,
    effect: float,
) -> float:
    logs = draw((REPLICATIONS, blocks, 4))
    logs[..., 1:3] += np.log1p(effect)
    samples = logs[..., 1:3].mean(axis=2) - logs[..., [0, 3]].mean(axis=2)
    reach = special.stdtrit(blocks - 1, 1 - ALPHA) * samples.std(axis=1, ddof=1) / np.sqrt(blocks)
    bounds = np.expm1(samples.mean(axis=1) + np.array([[-1], [1]]) * reach)
    for index in rng.integers(0, REPLICATIONS, CHECKED):
        ours = block_effect(samples[index], ALPHA)
        np.testing.assert_allclose((ours.lo, ours.hi), bounds[:, index], atol=1e-12)
    return 100 * float(((bounds[0] <= effect) & (effect <= bounds[1])).mean())


def scores() -> list[Figure]:
    """Wilson, Newcombe and Tango, summed over all outcomes."""
    found = dict([*_wilson(), *_unpaired(), *_tango()])
    mean = float(np.mean(list(found.values())))
    return [
        Figure(
            name="score-coverage-mean-pct", value=mean, unit="%", n=len(found), goal="93..97",
            ok=93 <= mean <= 97, peer="nominal", peer_value=95,
        ),
        _extreme("score-coverage-min-pct", found, min, (91, 100), 95, len(found)),
    ]  # fmt: skip


def exact() -> list[Figure]:
    """Shares over a limit by Clopper and Pearson, summed over all outcomes."""
    found = {}
    for n in (59, 299, 1000, 3000):
        made = [share_over(k, n, 0.01, SHARE_ALPHA) for k in range(n + 1)]
        bounds = np.array([(one.lo, one.hi) for one in made])
        for share in (0.001, 0.005, 0.01, 0.02, 0.05, 0.1):
            found[f"n {n}, share {share}"] = _covered(bounds, _binomial(n, share), share)
    return [_extreme("exact-coverage-min-pct", found, min, (95, 100), 95, len(found))]


def _wilson() -> Iterator[tuple[str, float]]:
    for n in (30, 100, 300, 1000):
        made = [floor(right, n, SHARE_ALPHA) for right in range(n + 1)]
        bounds = np.array([(one.lo, one.hi) for one in made])
        for accuracy in ACCURACIES:
            chances = _binomial(n, accuracy)
            yield f"Wilson, n {n}, {accuracy}", _covered(bounds, chances, accuracy)


def _unpaired() -> Iterator[tuple[str, float]]:
    for n_old, n_new in ((30, 30), (100, 100), (200, 50), (50, 200)):
        made = [
            unpaired_effect(old, n_old, new, n_new, SHARE_ALPHA)
            for old, new in product(range(n_old + 1), range(n_new + 1))
        ]
        bounds = np.array([(one.lo, one.hi) for one in made])
        for accuracy, loss in product(ACCURACIES, LOSSES):
            if accuracy - loss < 1:
                chances = np.outer(_binomial(n_old, accuracy), _binomial(n_new, accuracy - loss))
                name = f"unpaired, n {n_old} and {n_new}, {accuracy} to {accuracy - loss:g}"
                yield name, _covered(bounds, chances.ravel(), loss)


def _tango() -> Iterator[tuple[str, float]]:
    rates = ((0.02, 0.02), (0.05, 0.02), (0.05, 0.05), (0.1, 0.05), (0.2, 0.1), (0.3, 0.1))
    z = float(special.ndtri(1 - SHARE_ALPHA))
    for n in (30, 100, 300):
        lost, won = np.array([(b, c) for b in range(n + 1) for c in range(n + 1 - b)]).T
        chances = {rate: _trinomial(n, lost, won, *rate) for rate in rates}
        seen = np.max(list(chances.values()), axis=0) > NEGLIGIBLE
        pairs = zip(lost[seen].tolist(), won[seen].tolist(), strict=True)
        bounds = np.array([[tango_bound(b, c, n, sign * z) for sign in (1, -1)] for b, c in pairs])
        for rate, chance in chances.items():
            yield f"Tango, n {n}, {rate}", _covered(bounds, chance[seen], rate[0] - rate[1])


def _covered(bounds: np.ndarray, chances: np.ndarray, truth: float) -> float:
    """Percent of the chances whose interval holds the truth."""
    holds = (bounds[:, 0] <= truth + 1e-12) & (truth - 1e-12 <= bounds[:, 1])
    return 100 * float(chances[holds].sum() / chances.sum())


def _binomial(n: int, share: float) -> np.ndarray:
    return _trinomial(n, np.arange(n + 1), np.zeros(n + 1), share, 0.0)


def _trinomial(
    n: int, first: np.ndarray, second: np.ndarray, share: float, other: float
) -> np.ndarray:
    rest = n - first - second
    log = special.gammaln(n + 1) - sum(special.gammaln(k + 1) for k in (first, second, rest))
    log = log + special.xlogy(first, share) + special.xlogy(second, other)
    return np.exp(log + special.xlogy(rest, 1 - share - other))


BENCHES = (continuous, scores, exact)
