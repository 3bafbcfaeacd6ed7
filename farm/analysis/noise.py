"""How noisy is a device, and what can a gate on it decide?

Everything comes from an A/A series: ABBA blocks in which both arms are the same model, so that any
difference is noise. Levels are logarithms: a spread of 0.01 is about 1 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from farm.analysis.compare import POWER

FALSE_ALARM_DRAWS = 4000
SEED = 20_231_130

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """The noise of one metric on one device.

    Attributes:
        blocks: ABBA blocks that it was estimated from.
        repeat_cv: spread of repeats, as a fraction of the level.
        shared: share of that variance which the repeats of a block have in common, and which
            blocks therefore cancel.
        autocorrelation: lag-1 correlation of the samples inside a repeat; None for a metric with
            one value per repeat.
        block_sd: standard deviation of the block differences; what a gate has to fight.
        false_alarm: how often a one-sided 5 % test on five such blocks calls them worse; 0.05 is
            as promised.
    """

    blocks: int
    repeat_cv: float
    shared: float
    autocorrelation: float | None
    block_sd: float
    false_alarm: float


def estimate_noise(levels: Floats, differences: Floats, samples: list[Floats]) -> Noise:
    """The noise in an A/A series.

    Args:
        levels: log of the metric per repeat, shape [blocks >= 5, 4].
        differences: mean(log B) - mean(log A) per block, shape [blocks].
        samples: raw samples of each repeat in the order taken; empty if there are none.
    """
    blocks, repeats = levels.shape
    within = float(levels.var(axis=1, ddof=1).mean())
    between = max(0.0, float(levels.mean(axis=1).var(ddof=1)) - within / repeats)
    total = within + between
    return Noise(
        blocks=blocks,
        repeat_cv=float(np.sqrt(np.expm1(total))),
        shared=between / total if total > 0 else 0.0,
        autocorrelation=_lag_one(samples),
        block_sd=float(np.sqrt(np.square(differences).mean())),
        false_alarm=false_alarm_rate(differences),
    )


def false_alarm_rate(differences: Floats, *, blocks: int = 5, alpha: float = 0.05) -> float:
    """How often a t-test on so many blocks of this series calls an unchanged model worse.

    The differences of an A/A series are as likely positive as negative, so random subsets with
    random signs are as good as new series; their skew and outliers stay.

    Args:
        differences: block differences of an A/A series, shape [n >= blocks].
        blocks: blocks of the gate.
        alpha: one-sided level of the test.
    """
    rng = np.random.default_rng(SEED)
    shape = (FALSE_ALARM_DRAWS, len(differences))
    order = rng.random(shape).argsort(axis=1)[:, :blocks]
    drawn = differences[order] * rng.choice([-1.0, 1.0], size=order.shape)
    spread = drawn.std(axis=1, ddof=1)
    bound = float(special.stdtrit(blocks - 1, 1 - alpha))
    return float((drawn.mean(axis=1) * np.sqrt(blocks) > bound * spread).mean())


def detectable(block_sd: float, blocks: int, alpha: float) -> float:
    """The MDE of so many blocks as a fraction, at a one-sided alpha and a power of 80 %."""
    return float(np.expm1(_reach(blocks, alpha) * block_sd / np.sqrt(blocks)))


def blocks_needed(block_sd: float, margin: float, alpha: float, *, most: int = 1000) -> int | None:
    """The fewest blocks whose MDE is at most the margin; None if not even `most` are enough."""
    counts = np.arange(2, most + 1)
    reach = special.stdtrit(counts - 1, 1 - alpha) + special.stdtrit(counts - 1, POWER)
    enough = np.flatnonzero(np.expm1(reach * block_sd / np.sqrt(counts)) <= margin)
    return int(counts[enough[0]]) if len(enough) else None


def pass_chance(block_sd: float, blocks: int, margin: float, alpha: float) -> float:
    """How likely an unchanged model passes one look at so many blocks.

    Normal differences of known spread; the bound uses its expectation, so this is an
    approximation, close from five blocks up.
    """
    if block_sd == 0:
        return 1.0
    bound = float(special.stdtrit(blocks - 1, 1 - alpha))
    return float(special.ndtr(np.log1p(margin) * np.sqrt(blocks) / block_sd - bound))


def _reach(blocks: int, alpha: float) -> float:
    freedom = blocks - 1
    return float(special.stdtrit(freedom, 1 - alpha) + special.stdtrit(freedom, POWER))


def _lag_one(samples: list[Floats]) -> float | None:
    """Mean lag-1 correlation inside repeats; None if no repeat has enough samples that vary."""
    found = []
    for values in samples:
        if len(values) >= 10:
            deviation = values - values.mean()
            power = float((deviation**2).sum())
            if power > 0:
                found.append(float((deviation[1:] * deviation[:-1]).sum()) / power)
    return float(np.mean(found)) if found else None
