"""Area `verdicts`, gates: how often the loop of looks answers wrongly, on noise of many kinds.

Everything goes through `decide`, and with it `compare` and `judge`, as in a release; only the
device is simulated. Seeds are fixed. Noise has a CV of 1 % between repeats and nothing that a block
would cancel, which is the worst case; a drift comes on top.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from farm.judging import GateVerdict
from farm.looks import decide
from farm.metrics import METRICS
from farm.model import PAIR, Address, Arm, ArmModel, Artifact, Device, Job, Load, Measure, Workload
from farm.policy import DEFAULT_LOOKS, Policy
from farm.record import (
    ArmSummary,
    ErrorRecord,
    JobResult,
    Measurement,
    Outcome,
    Repeat,
    Verdict,
)
from farm.rules import Rule
from tests.benchmarks.run import Figure

Floats = npt.NDArray[np.float64]

SEED = 20_240_613
NOW = datetime(2024, 6, 13, tzinfo=UTC)
GATES = 5000
CHUNK = 250
ALPHA, MARGIN, CV = 0.05, 0.02, 0.01
DRIFT = 0.03
"""Of the first look; a linear one goes on at its pace."""
WARM_UP = 6
"""Repeats after which a saturating drift has done 63 % of its way."""
ITERATIONS, ITERATION_CV, CORRELATION = 200, 0.05, 0.4
MEDIAN_SD = 0.006
"""What the median of so many correlated iterations adds to the spread of repeats."""
BLOCK = (Arm.BASELINE, Arm.CANDIDATE, Arm.CANDIDATE, Arm.BASELINE)

FLEETS = 500
FLEET_MARGIN, ITEMS_MARGIN, SLOWDOWN = 0.05, 0.02, 0.1
HOT_LABS = 200
UNIT_SPREAD = 0.02
THROTTLED_SHARE = 0.3
"""Of the repeats of a throttling unit: where the rule that blames the candidate errs most."""
ITEMS, ACCURACY, CHANGED_SHARE = 900, 0.9, 0.01


class Kind(NamedTuple):
    """A type of device: how many units, and their noise."""

    name: str
    units: int
    cv: float
    shared: float


FLEET = (
    Kind("phone-flagship", 15, 0.04, 0.8),
    Kind("phone-middle", 15, 0.05, 0.8),
    Kind("phone-old", 15, 0.076, 0.8),
    Kind("phone-budget", 15, 0.06, 0.7),
    Kind("board-small", 10, 0.02, 0.7),
    Kind("board-large", 10, 0.03, 0.6),
    Kind("micro-slow", 15, 0.002, 0.5),
    Kind("micro-fast", 15, 0.005, 0.5),
)


def single() -> list[Figure]:
    """One device, one metric: unchanged, worse by the margin, worse by twice the margin."""
    same, edge, slow = (
        {kind: _verdicts(kind, effect) for kind in NOISES} for effect in (0.0, MARGIN, 2 * MARGIN)
    )
    return [
        _worst("gate-aa-fail-pct", same, Verdict.FAIL, max, "<= 5"),
        _worst("gate-aa-pass-pct", same, Verdict.PASS, min, ">= 90"),
        _worst("gate-aa-inconclusive-pct", same, Verdict.INCONCLUSIVE, max),
        _worst("gate-margin-pass-pct", edge, Verdict.PASS, max, "<= 5"),
        _worst("gate-margin-inconclusive-pct", edge, Verdict.INCONCLUSIVE, max),
        _worst("gate-margin-fail-pct", edge, Verdict.FAIL, max),
        _worst("gate-power-2x-margin-pct", slow, Verdict.FAIL, min, ">= 95"),
        _worst("gate-power-2x-inconclusive-pct", slow, Verdict.INCONCLUSIVE, max),
        _worst("gate-power-2x-pass-pct", slow, Verdict.PASS, max),
    ]


def loud() -> list[Figure]:
    """The same with noise as wide as twice the margin and more: here alpha is really spent."""
    wide = {kind: _verdicts(kind, 0.0, width=5) for kind in NOISES}
    same, edge, slow = (
        {"log-normal": _verdicts("log-normal", effect, width=2)}
        for effect in (0.0, MARGIN, 2 * MARGIN)
    )
    return [
        _worst("gate-cv5-aa-fail-pct", wide, Verdict.FAIL, max, "<= 5"),
        _worst("gate-cv5-aa-inconclusive-pct", wide, Verdict.INCONCLUSIVE, max),
        _worst("gate-cv2-aa-fail-pct", same, Verdict.FAIL, max, "<= 5"),
        _worst("gate-cv2-aa-inconclusive-pct", same, Verdict.INCONCLUSIVE, max),
        _worst("gate-cv2-margin-pass-pct", edge, Verdict.PASS, max, "<= 5"),
        _worst("gate-cv2-power-2x-margin-pct", slow, Verdict.FAIL, min),
    ]


def order() -> list[Figure]:
    """AAAA BBBB under a linear drift: what it would answer, and that the gate will not have it.

    No job is ever run in that order. What it would answer is asked by handing its repeats over
    under the positions of A B B A.
    """
    policy = replace(_policy(), looks=DEFAULT_LOOKS[:1])
    logs = _draw("linear drift")[:, : policy.looks[-1]]
    first, last = np.split(logs.reshape(GATES, -1, 2), 2, axis=1)
    apart = np.concatenate([first, last], axis=2)
    abba = [_decided(policy, one) for one in logs]
    hidden = [_decided(policy, one[:, [0, 2, 3, 1]]) for one in apart]
    plain = [_decided(policy, one, (*BLOCK[::3], *BLOCK[1:3])) for one in apart]
    refused = sum(answer.verdict is Verdict.INVALID for answer in plain)
    return [
        _pair("order-aabb-called-worse-pct", _called_worse(hidden), _called_worse(abba)),
        _pair("order-aabb-fail-pct", _failed(hidden), _failed(abba)),
        _share("order-aabb-refused-pct", refused, GATES, ">= 100"),
    ]


def fleet() -> list[Figure]:
    """110 units of eight types, one in twenty sick; the slowdown strikes each type in turn."""
    same = _count([_asked(seed, "") for seed in range(FLEETS)])
    slow = _count(
        [_asked(FLEETS + seed, FLEET[seed % len(FLEET)].name) for seed in range(FLEETS)]
    )  # fmt: skip
    hot = _count([_asked(2 * FLEETS + seed, "", ("throttled",), 1.0) for seed in range(HOT_LABS)])
    return [
        _share("fleet-pass-unchanged-pct", same[Verdict.PASS], FLEETS, ">= 95"),
        _share("fleet-fail-unchanged-pct", same[Verdict.FAIL], FLEETS),
        _share("fleet-inconclusive-unchanged-pct", same[Verdict.INCONCLUSIVE], FLEETS),
        _share("fleet-invalid-unchanged-pct", same[Verdict.INVALID], FLEETS),
        _share("fleet-fail-one-type-pct", slow[Verdict.FAIL], FLEETS, ">= 95"),
        _share("fleet-pass-one-type-pct", slow[Verdict.PASS], FLEETS),
        _share("fleet-inconclusive-one-type-pct", slow[Verdict.INCONCLUSIVE], FLEETS),
        _share("fleet-hot-lab-fail-pct", hot[Verdict.FAIL], HOT_LABS),
        _share("fleet-hot-lab-invalid-pct", hot[Verdict.INVALID], HOT_LABS),
    ]


def spread() -> list[Figure]:
    """A model worse by the margin in the mean over all units that exist, and fifteen of them."""
    rules = (Rule(metric=METRICS["latency.p50"], gate=True, margin=FLEET_MARGIN),)
    policy = replace(_policy(), rules=rules)
    kind = Kind("phone-middle", 15, 0.05, 0.8)
    jobs = tuple(_job(name, kind.name, (Measure.LATENCY,)) for name in _names(kind))
    passed = 0
    for seed in range(FLEETS):
        rng = np.random.default_rng([SEED, 3 * FLEETS + seed])
        effects = {name: rng.normal(np.log1p(FLEET_MARGIN), UNIT_SPREAD) for name in _names(kind)}

        def measure(
            jobs: tuple[Job, ...],
            rng: np.random.Generator = rng,
            effects: dict[str, float] = effects,
        ) -> tuple[JobResult, ...]:
            many = [(job, _unit_logs(rng, kind, job.rounds)) for job in jobs]
            for job, logs in many:
                logs[:, 1:3] += effects[job.device.name]
            return tuple(_result(job, (1e6 * np.exp(logs)).tolist()) for job, logs in many)

        passed += decide(policy, jobs, measure).verdict is Verdict.PASS
    return [_share("fleet-unit-spread-pass-pct", passed, FLEETS)]


def limits() -> list[Figure]:
    """A candidate exactly at its limit, on phones that share most of their noise in a block."""
    limit = Rule(metric=METRICS["latency.p50"], gate=True, limit=1e6)
    policy = replace(_policy(), rules=(limit,))
    rng = np.random.default_rng([SEED, 4 * FLEETS])
    logs = [_unit_logs(rng, FLEET[1], DEFAULT_LOOKS[-1]) for _ in range(GATES)]
    found = _count([_decided(policy, one) for one in logs])
    return [
        _share("limit-at-level-pass-pct", found[Verdict.PASS], GATES),
        _share("limit-at-level-fail-pct", found[Verdict.FAIL], GATES),
    ]


def _worst(
    name: str,
    found: dict[str, Counter[Verdict]],
    verdict: Verdict,
    pick: Callable[..., str],
    goal: str = "",
) -> Figure:
    """The kind of noise with the worst share of a verdict."""
    kind = pick(found, key=lambda kind: found[kind][verdict])
    counts = {counter[verdict] for counter in found.values()}
    where = kind if len(counts) > 1 or len(found) == 1 else "every kind"
    return _share(name, found[kind][verdict], GATES, goal, where)


def _share(name: str, count: int, n: int, goal: str = "", kind: str = "") -> Figure:
    """A share with its exact one-sided bound: the lower one if the goal is at least so much."""
    at_least = goal.startswith(">=")
    if at_least:
        bound = float(special.betaincinv(count, n - count + 1, 0.05)) if count else 0.0
    else:
        bound = float(special.betaincinv(count + 1, n - count, 0.95)) if count < n else 1.0
    pct, limit = 100 * count / n, float(goal[3:] or 0)
    words = f"95 % {'lower' if at_least else 'upper'} bound"
    return Figure(
        name=name, value=pct, unit="%", n=n, goal=goal,
        ok=(pct >= limit if at_least else pct <= limit) if goal else None,
        peer=f"({kind}) {words}" if kind else words, peer_value=100 * bound,
    )  # fmt: skip


def _pair(name: str, count: int, peer_count: int) -> Figure:
    return Figure(
        name=name, value=100 * count / GATES, unit="%", n=GATES, peer="ABBA",
        peer_value=100 * peer_count / GATES,
    )  # fmt: skip


def _count(answers: list[GateVerdict]) -> Counter[Verdict]:
    return Counter(answer.verdict for answer in answers)


def _failed(answers: list[GateVerdict]) -> int:
    return _count(answers)[Verdict.FAIL]


def _called_worse(answers: list[GateVerdict]) -> int:
    """Gates whose interval lies above zero."""
    effects = [answer.cells[0].effect for answer in answers]
    return sum(effect is not None and effect.lo > 0 for effect in effects)


def _verdicts(kind: str, effect: float, width: float = 1) -> Counter[Verdict]:
    policy, logs = _policy(), width * _draw(kind)
    logs[:, :, 1:3] += np.log1p(effect)
    return _count([_decided(policy, one) for one in logs])


def _policy() -> Policy:
    return Policy(
        path=Path("bench"), sha256="", alpha=ALPHA, looks=DEFAULT_LOOKS,
        rules=(Rule(metric=METRICS["latency.p50"], gate=True, margin=MARGIN),),
    )  # fmt: skip


def _decided(policy: Policy, logs: Floats, order: tuple[Arm, ...] = BLOCK) -> GateVerdict:
    """A gate on one device that yields these logarithms, shape [blocks, 4]."""
    p50 = (1e6 * np.exp(logs)).tolist()

    def measure(jobs: tuple[Job, ...]) -> tuple[JobResult, ...]:
        return tuple(_result(job, p50[job.first_block :], order) for job in jobs)

    return decide(policy, (_job("unit", "phone", (Measure.LATENCY,)),), measure)


def _result(job: Job, p50: list[list[float]], order: tuple[Arm, ...] = BLOCK) -> JobResult:
    repeats = []
    for index, block in zip(range(job.rounds), p50, strict=False):
        for position, (arm, value) in enumerate(zip(order, block, strict=True)):
            measured = (Measurement(metric="latency.p50", unit="ns", value=value),)
            repeats.append(
                Repeat(arm=arm, block=job.first_block + index, position=position, started=NOW,
                       measurements=measured)
            )  # fmt: skip
    return JobResult(
        job=job, outcome=Outcome.COMPLETED, started=NOW, finished=NOW, simulated=True,
        repeats=tuple(repeats),
    )  # fmt: skip


@cache
def _job(name: str, kind: str, measures: tuple[Measure, ...]) -> Job:
    model = Artifact(path=Path("model.onnx"), sha256="0" * 64, size_bytes=1)
    device = Device(name=name, type=kind, address=Address(scheme="virtual", place=kind))
    return Job(
        workload=Workload(name="bench", digest=""), device=device, runtime="ort_python",
        accelerator="cpu", load=Load(), measures=measures,
        arms=tuple(ArmModel(arm=arm, name=arm, artifact=model) for arm in PAIR),
        rounds=DEFAULT_LOOKS[0],
    )  # fmt: skip


def _draw(kind: str) -> Floats:
    """Logarithms of the median latency of an unchanged model, shape [GATES, blocks, 4]."""
    shape = (GATES, DEFAULT_LOOKS[-1], 4)
    rng = np.random.default_rng([SEED, list(NOISES).index(kind)])
    return NOISES[kind](rng, shape)


def _correlated(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Repeats whose iterations hang together, each judged by its median."""
    step = np.sqrt(1 - CORRELATION**2)
    logs = np.sqrt(CV**2 - MEDIAN_SD**2) * rng.standard_normal(shape)
    for start in range(0, shape[0], CHUNK):
        chunk = logs[start : start + CHUNK]
        iterations = rng.standard_normal((ITERATIONS, *chunk.shape))
        for before, now in pairwise(iterations):
            now *= step
            now += CORRELATION * before
        chunk += ITERATION_CV * np.median(iterations, axis=0)
    return logs


def _linear_drift(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    repeats = np.arange(shape[1] * 4).reshape(shape[1:])
    warmed = DRIFT * repeats / (4 * DEFAULT_LOOKS[0])
    return CV * rng.standard_normal(shape) + np.log1p(warmed)


def _saturating_drift(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    repeats = np.arange(shape[1] * 4).reshape(shape[1:])
    warmed = DRIFT * (1 - np.exp(-repeats / WARM_UP))
    return CV * rng.standard_normal(shape) + np.log1p(warmed)


def _log_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """A log-normal excess over the fastest time: skewed as waiting for others is."""
    excess = np.exp(rng.standard_normal(shape)) / np.sqrt(np.e * (np.e - 1))
    return np.log1p(CV * (excess - excess.mean()))


def _spiky(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """One repeat in twenty is longer by eight standard deviations of the others."""
    spikes = rng.random(shape) < 0.05
    values = rng.standard_normal(shape) + 8 * spikes
    return np.log1p(CV * (values - values.mean()) / values.std())


NOISES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Floats]] = {
    "AR(0.4)": _correlated,
    "linear drift": _linear_drift,
    "saturating drift": _saturating_drift,
    "log-normal": _log_normal,
    "spiky": _spiky,
}


@dataclass
class Lab:
    """A fleet of which one type may have got slower, and some units are sick for good."""

    rng: np.random.Generator
    slow_type: str
    illnesses: tuple[str, ...] = ("slow", "throttled", "dead")
    sick_share: float = 0.05
    sick: dict[str, str] = field(default_factory=dict)
    items: dict[str, tuple[ArmSummary, ArmSummary]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind in FLEET:
            right = self.rng.random(ITEMS) < ACCURACY
            changed = right ^ (self.rng.random(ITEMS) < _flip_chance(right))
            self.items[kind.name] = (
                ArmSummary(arm=Arm.BASELINE, correct=right),
                ArmSummary(arm=Arm.CANDIDATE, correct=changed),
            )
            for name in _names(kind):
                if self.rng.random() < self.sick_share:
                    self.sick[name] = self.rng.choice(self.illnesses)

    def measure(self, jobs: tuple[Job, ...]) -> tuple[JobResult, ...]:
        """One result per job."""
        return tuple(self._measured(job) for job in jobs)

    def _measured(self, job: Job) -> JobResult:
        sickness = self.sick.get(job.device.name)
        if sickness == "dead":
            error = ErrorRecord(family="infra", code="connection_lost", message="no answer")
            return replace(_result(job, []), outcome=Outcome.ERROR, error=error)
        kind = next(kind for kind in FLEET if kind.name == job.device.type)
        logs = _unit_logs(self.rng, kind, job.rounds)
        logs[:, 1:3] += np.log1p(SLOWDOWN) * (kind.name == self.slow_type)
        logs += np.log(3) * (sickness == "slow")
        hot = (self.rng.random(logs.shape) < THROTTLED_SHARE) & (sickness == "throttled")
        found = _result(job, (1e6 * np.exp(logs + np.log(1.5) * hot)).tolist())
        if hot.any():
            found = replace(found, repeats=_throttled(found.repeats, hot.ravel().tolist()))
        if Measure.ACCURACY in job.measures:
            found = replace(found, arms=self.items[kind.name])
        return found


def _unit_logs(rng: np.random.Generator, kind: Kind, blocks: int) -> Floats:
    """Logarithms of the noise of one unit, shape [blocks, 4]."""
    common, own = rng.standard_normal((blocks, 1)), rng.standard_normal((blocks, 4))
    return kind.cv * (np.sqrt(kind.shared) * common + np.sqrt(1 - kind.shared) * own)


def _flip_chance(right: npt.NDArray[np.bool_]) -> Floats:
    """So that as many items are won as are lost, and a share of all changes sides."""
    return np.where(right, CHANGED_SHARE / 2 / ACCURACY, CHANGED_SHARE / 2 / (1 - ACCURACY))


def _throttled(repeats: tuple[Repeat, ...], hot: list[bool]) -> tuple[Repeat, ...]:
    return tuple(
        replace(repeat, conditions=("throttled",)) if struck else repeat
        for repeat, struck in zip(repeats, hot, strict=True)
    )


def _names(kind: Kind) -> list[str]:
    return [f"{kind.name}-{unit}" for unit in range(kind.units)]


def _asked(seed: int, slow_type: str, *lab: Any) -> GateVerdict:
    """A release decided on the whole fleet, with confirmation."""
    policy = replace(
        _policy(),
        rules=(
            Rule(metric=METRICS["latency.p50"], gate=True, margin=FLEET_MARGIN),
            Rule(metric=METRICS["accuracy.top1"], gate=True, margin=ITEMS_MARGIN),
        ),
    )
    measures = (Measure.LATENCY, Measure.ACCURACY)
    jobs = tuple(_job(name, kind.name, measures) for kind in FLEET for name in _names(kind))
    return decide(policy, jobs, Lab(np.random.default_rng([SEED, seed]), slow_type, *lab).measure)


BENCHES = (single, loud, order, fleet, spread, limits)
