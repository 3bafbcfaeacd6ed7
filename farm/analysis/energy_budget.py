"""What the energy of an inference is worth: budget, intervals, and what may be compared with it.

Two intervals, and they answer different questions. The absolute one holds whatever meter one
compares with, so the meter's calibration is part of it, and no number of repeats makes it smaller
than that. The comparable one holds among figures of one unit and meter, where calibration is the
same on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import special

from farm.analysis.compare import POWER, Effect
from farm.metering import (
    METER_CLASSES,
    Duty,
    EnergyWindow,
    MeterFacts,
    Term,
    VoltageSource,
    combined,
)
from farm.metrics import METRICS
from farm.record import Measurement

CONFIDENCE = 0.95

MOVED = 0.1
"""Share of samples in another range from which on two windows were not measured alike."""

EXACT = 1e-9
"""A standard error below that is one of rounding."""

REPEAT = "repeat"
"""The one term that is estimated from repeats."""
NORMAL = 1e9
"""Degrees of freedom of what is known without repeats."""


def budget(
    windows: Sequence[EnergyWindow],
    values: npt.NDArray[np.float64],
    facts: MeterFacts,
    *,
    battery: float = 0.0,
    net: bool = False,
) -> tuple[Term, ...]:
    """What the uncertainty of an energy consists of, over repeats.

    Limits inside which any value is equally likely count with their part of the root of 3. What
    is off by the same amount in every repeat cannot average out, so only `repeat` falls with their
    number. What is a share of the gross energy weighs more on a net one.

    Args:
        windows: one per repeat, one at least.
        values: what each of them says, all positive, shape [repeats].
        facts: of the meter.
        battery: standard uncertainty from a battery in the path, a fraction of the gross energy.
        net: the values are net energies per inference.

    Returns:
        gain, voltage, alignment, lost, filter, battery, and repeat if there are two or more: one
        repeat does not tell how much they differ.
    """
    kind = METER_CLASSES[facts.meter_class]
    voltage = 0.0 if facts.voltage is VoltageSource.MEASURED else kind.voltage
    weight = float(np.mean([w.per_inference_j for w in windows]) / values.mean()) if net else 1.0
    seen = sum(w.samples + w.lost for w in windows)
    lost = sum(w.lost for w in windows) / seen if seen else 0.0
    terms = [
        Term(name="gain", relative=kind.gain / math.sqrt(3), cancels=True),
        Term(name="voltage", relative=voltage / math.sqrt(3), cancels=True),
        Term(name="alignment", relative=weight * _rms([w.alignment for w in windows])),
        Term(name="lost", relative=weight * lost / math.sqrt(3)),
        Term(name="filter", relative=weight * _rms([w.filter for w in windows])),
        Term(name="battery", relative=weight * battery),
    ]
    n = len(values)
    if n > 1:
        spread = float(np.log(values).std(ddof=1)) / math.sqrt(n)
        terms.append(Term(name=REPEAT, relative=spread))
    return tuple(terms)


def _rms(values: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def energy_over_repeats(
    metric: str, values: npt.NDArray[np.float64], terms: Iterable[Term]
) -> Measurement:
    """One energy over repeats: the geometric mean and its absolute 95 % interval.

    Args:
        metric: a declared metric.
        values: one per repeat, all positive, shape [repeats].
        terms: of `budget`.

    Returns:
        A measurement with its budget; a single repeat has no interval.
    """
    terms = tuple(terms)
    measurement = Measurement(
        metric=metric,
        unit=METRICS[metric].unit,
        value=float(np.exp(np.log(values).mean())),
        n=len(values),
        budget=terms,
    )
    interval = _interval(measurement, compared=False)
    return measurement if interval is None else replace(measurement, lo=interval[0], hi=interval[1])


def comparable_interval(measurement: Measurement) -> tuple[float, float] | None:
    """The 95 % interval among figures of one unit and meter: without what cancels there.

    Returns:
        None for a figure without a budget, or of a single repeat.
    """
    return _interval(measurement, compared=True)


def _interval(measurement: Measurement, *, compared: bool) -> tuple[float, float] | None:
    """The 95 % limits of what is known and of what was estimated, in quadrature.

    Each part keeps its own quantile. One quantile for both, at the effective degrees of freedom of
    Welch and Satterthwaite, covers 92 to 94 % where the parts are alike and repeats are few.
    """
    terms, n = measurement.budget, measurement.n
    if n < 2 or not terms:
        return None
    sampled = combined([t for t in terms if t.name == REPEAT], compared=compared)
    known = combined([t for t in terms if t.name != REPEAT], compared=compared)
    student, normal = special.stdtrit([n - 1, NORMAL], (1 + CONFIDENCE) / 2)
    half = math.hypot(student * sampled, normal * known)
    return measurement.value * math.exp(-half), measurement.value * math.exp(half)


def across_units(effect: Effect, meter_class: str) -> Effect:
    """An effect on units or meters that differ, from one that was found on blocks.

    Two meters of a class are each off by any part of its limit, so their ratio is off by up to
    twice that, and no number of blocks helps. The level of the bounds stays what it was: it is
    read back from the effect.

    Args:
        effect: over blocks, of the meters' readings as they are.
        meter_class: of both meters.

    Returns:
        The same estimate with wider bounds and a larger MDE; bounds without an end where meters
        of the class support no comparison between units.
    """
    kind = METER_CLASSES[meter_class]
    if kind.across_units is None:
        return replace(effect, lo=-1.0, hi=math.inf, mde=math.inf)
    centre = math.log1p(effect.estimate)
    half = math.log1p(effect.hi) - centre
    freedom = max(1, effect.n - 1)
    power = float(special.stdtrit(freedom, POWER))
    error = (math.log1p(effect.mde) - half) / power
    limits = [2 * limit for limit in (kind.gain, kind.voltage)]
    if error < EXACT:  # without spread no level can be read: hold whatever the meters are
        reach = half + sum(limits)
        detectable = reach
    else:
        alpha = 1 - float(special.stdtr(freedom, half / error))
        gains = [_triangular(limit, alpha) for limit in limits]
        reach = math.hypot(half, *gains)
        whole = math.hypot(error, *(limit / math.sqrt(6) for limit in limits))
        detectable = reach + power * whole
    low, high, mde = np.expm1([centre - reach, centre + reach, detectable])
    return replace(effect, lo=float(low), hi=float(high), mde=float(mde))


def _triangular(limit: float, alpha: float) -> float:
    """What the difference of two errors, each within half of that limit, exceeds with alpha."""
    return limit * (1 - math.sqrt(2 * min(alpha, 0.5)))


def range_moved(a: EnergyWindow, b: EnergyWindow) -> bool:
    """Whether two windows were measured in other ranges: their gain need not be the same then."""
    size = max(len(a.ranges), len(b.ranges))
    ours, theirs = (np.pad(w.ranges, (0, size - len(w.ranges))) for w in (a, b))
    return bool((np.abs(ours - theirs) > MOVED).any())


def battery_life_h(duty: Duty, idle_w: float, net_j: float) -> float:
    """How many hours a battery lasts.

    Args:
        duty: what the device does in the field.
        idle_w: what it draws at rest.
        net_j: what an inference takes above that.

    Returns:
        Infinity if it draws nothing.
    """
    mean_w = idle_w + net_j * duty.inferences_per_hour / 3600
    return duty.battery_wh / mean_w if mean_w > 0 else math.inf
