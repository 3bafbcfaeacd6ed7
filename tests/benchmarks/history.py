"""Area `history`: how often the history engine is right, how often wrong, how long it takes.

Noise is simulated with fixed seeds, at a mean of 100 and a CV of 1 %. The labelled series lie
outside the repository; without them their figures are left out.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from farm.analysis.boundaries import Cause, Fixed, boundary_of, find_blame, find_boundaries
from farm.analysis.changepoint import History, find_changes, find_steps
from farm.record import Fact
from tests.benchmarks.run import Figure

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("FARM_SHARED_DATA", ROOT.parent / "shared" / "data"))
TALOS = SHARED / "regressions" / "perfherder_talos.json"
TOLERANCE = 5

OTAVA = "apache-otava==0.8.0"
OTAVA_HOME = ROOT / "build" / "otava-venv"
OTAVA_SERVER = """
import json, sys, time
from otava.series import AnalysisOptions, Metric, Series
for line in sys.stdin:
    chunk = [Series("s", None, list(range(len(values))), {"m": Metric(1, 1.0)}, {"m": values}, {})
             for values in json.loads(line)]
    start = time.perf_counter()
    found = [series.analyze(AnalysisOptions()).change_points["m"] for series in chunk]
    took = time.perf_counter() - start
    print(json.dumps([took, [[int(c.index) for c in one] for one in found]]), flush=True)
"""

CV = 0.01
FLAT = 1000
FLAT_POINTS = 150
FLAT_KINDS = ("gaussian", "spiky", "bimodal", "ar0.3", "ar0.5")
SPEED_SERIES, SPEED_POINTS, CHUNK = 1000, 200, 50
POWER_SERIES = 500
BOUNDARY_SERIES = 1000
ELSEWHERE = "elsewhere"
"""A step that is not at the boundary, though it was planted there."""
UPDATES = 300


def noise(kind: str, rng: np.random.Generator, n: int) -> np.ndarray:
    """Noise without a change, in standard deviations of its bulk, shape [n]."""
    normal = rng.normal(size=n)
    if kind == "spiky":
        return normal + 8 * (rng.random(n) < 0.05)
    if kind == "bimodal":
        return 0.5 * normal + np.where(rng.random(n) < 0.5, -1.5, 1.5)
    if kind.startswith("ar"):
        rho = float(kind[2:])
        steady = np.sqrt(1 - rho * rho)
        normal[1:] *= steady
        for i in range(1, n):
            normal[i] += rho * normal[i - 1]
    return normal


def series(kind: str, seed: int, n: int) -> np.ndarray:
    """A flat series, shape [n]; the same for the same arguments."""
    return 100 * (1 + CV * noise(kind, np.random.default_rng(seed), n))


def labelled() -> list[dict[str, object]]:
    """The labelled series; empty where they are not stored."""
    return json.loads(TALOS.read_text())["series"] if TALOS.exists() else []


def f1_score(labels: str, found: list[list[int]]) -> tuple[float, int]:
    """F1 over all labelled series of what was found in each, and the number of labels.

    Predictions and labels are matched one to one, nearest first, at most `TOLERANCE` points apart;
    what is left over inside a range that the audit calls ambiguous does not count.
    """
    hits = alarms = expected = 0
    for one, predicted in zip(labelled(), found, strict=True):
        wanted = one[f"{labels}_change_points"]
        matched = match(predicted, wanted)
        ignored = one["audit_ignore_ranges"] if labels == "audit" else []
        extra = [
            i for i in predicted if i not in matched and not any(a <= i <= b for a, b in ignored)
        ]  # fmt: skip
        hits, alarms, expected = hits + len(matched), alarms + len(extra), expected + len(wanted)
    return 2 * hits / (hits + alarms + expected), expected


def match(found: list[int], wanted: list[int]) -> dict[int, int]:
    """The label of each prediction that has one."""
    near = sorted((abs(i - j), i, j) for i in found for j in wanted if abs(i - j) <= TOLERANCE)
    matched: dict[int, int] = {}
    for _, i, j in near:
        if i not in matched and j not in matched.values():
            matched[i] = j
    return matched


def labels_found() -> list[Figure]:
    """Real series against two sets of labels; `upstream` is incomplete and only informs."""
    many = [one["values"] for one in labelled()]
    if not many:
        return []
    ours = [[step.index for step in find_steps(values)] for values in many]
    with otava() as server:
        theirs = ask(server, many)[1]
    figures = []
    for labels, goal in (("audit", 0.94), ("upstream", None)):
        value, n = f1_score(labels, ours)
        peer = f1_score(labels, theirs)[0]
        figures.append(
            Figure(
                name=f"history-f1-talos-{labels}", value=value, unit="", n=n,
                goal=f">= {goal}" if goal else "", ok=value >= goal if goal else None,
                peer="Otava F1", peer_value=peer, ratio=value / peer,
            )
        )  # fmt: skip
    return figures


def alarm_pct(make: Callable[[int], np.ndarray], n: int, *, drifts: bool = True) -> float:
    """Share of n series, made from seeds 0 to n - 1, in which anything is found, in percent."""
    changes = [find_changes(make(seed)) for seed in range(n)]
    return 100 * float(np.mean([bool(c.steps or (drifts and c.drifts)) for c in changes]))


def flat_alarms() -> list[Figure]:
    """Series without a change, and series that only slide."""
    pct = {
        kind: alarm_pct(lambda seed, kind=kind: series(kind, seed, FLAT_POINTS), FLAT)
        for kind in (*FLAT_KINDS, "ar0.7")
    }
    slide = 100 * np.linspace(0, 0.02, FLAT_POINTS)
    ramp = alarm_pct(
        lambda seed: series("gaussian", seed, FLAT_POINTS) + slide, FLAT, drifts=False
    )  # fmt: skip
    worst = max(FLAT_KINDS, key=pct.__getitem__)
    with otava() as server:
        found = ask(server, [series(worst, seed, FLAT_POINTS).tolist() for seed in range(FLAT)])[1]
    peer = 100 * float(np.mean([bool(indices) for indices in found]))
    return [
        _pct("history-flat-alarm-pct", pct[worst], most=5, peer=peer),
        *(_pct(f"history-flat-{kind}-pct", pct[kind]) for kind in FLAT_KINDS),
        _pct("history-flat-ar0.7-pct", pct["ar0.7"], most=15),
        _pct("history-ramp-as-step-pct", ramp, most=30),
    ]


def _pct(
    name: str, value: float, *, most: float | None = None, peer: float | None = None
) -> Figure:
    return Figure(
        name=name, value=value, unit="%", n=FLAT, goal=f"<= {most}" if most else "",
        ok=value <= most if most else None, peer="Otava, same kind" if peer is not None else "",
        peer_value=peer,
    )  # fmt: skip


def power() -> list[Figure]:
    """Steps of 2, 3 and 5 sigma: how many are found in place, and how soon after the step."""
    figures = []
    for sigmas in (2, 3, 5):
        for place, at in (("mid", FLAT_POINTS // 2), ("8-from-end", FLAT_POINTS - 8)):
            found = [
                bool(match([s.index for s in find_steps(_stepped(seed, at, sigmas))], [at]))
                for seed in range(POWER_SERIES)
            ]
            recall = 100 * float(np.mean(found))
            name = f"history-recall-{sigmas}sd-{place}-pct"
            figures.append(Figure(name=name, value=recall, unit="%", n=POWER_SERIES))
        delays = [_delay(seed, sigmas) for seed in range(POWER_SERIES // 5)]
        figures.append(
            Figure(
                name=f"history-delay-{sigmas}sd-points", value=float(np.median(delays)),
                unit="points", n=len(delays),
            )
        )  # fmt: skip
    return figures


def _stepped(seed: int, at: int, sigmas: float) -> np.ndarray:
    return series("gaussian", seed, FLAT_POINTS) + 100 * CV * sigmas * (
        np.arange(FLAT_POINTS) >= at
    )  # fmt: skip


def _delay(seed: int, sigmas: float) -> float:
    """Points of the new level that are needed until the step is first reported in its place."""
    at = 100
    values = _stepped(seed, at, sigmas)
    history = History(values[:at])
    for seen, value in enumerate(values[at:], start=1):
        if match([step.index for step in history.append(value).steps], [at]):
            return seen
    return np.inf


def boundaries() -> list[Figure]:
    """Steps at an update of the device: what is blamed, by jobs of the fixed model on each side."""
    figures = []
    for kind in ("gaussian", "ar0.5"):
        for name, ota, model in (
            ("update", 1.05, 1.0), ("update-2sd", 1.02, 1.0), ("model", 1.0, 1.05),
            ("both", 1.05, 1.05),
        ):  # fmt: skip
            for jobs in (1, 2, 5):
                found = [_blames(kind, seed, ota, model, jobs) for seed in range(BOUNDARY_SERIES)]
                for answer in (*Cause, ELSEWHERE):
                    share = 100 * float(np.mean([answer in answers for answers in found]))
                    title = f"history-boundary-{kind}-{name}-{jobs}-jobs-{answer}-pct"
                    figures.append(Figure(name=title, value=share, unit="%", n=len(found)))
    return figures


def _blames(kind: str, seed: int, ota: float, model: float, jobs: int) -> list[str]:
    """What is said of the steps; the fixed model's noise is that of the series."""
    at = FLAT_POINTS // 2
    values = series(kind, seed, FLAT_POINTS) * np.where(np.arange(FLAT_POINTS) < at, 1, ota * model)
    dice = 1 + CV * noise(kind, np.random.default_rng([seed, 1]), 2 * jobs)
    fixed = Fixed(
        name="fixed", canary=False, before=tuple(40 * dice[:jobs]),
        after=tuple(40 * ota * dice[jobs:]),
    )  # fmt: skip
    systems = [(Fact(name="os", value=str(point >= at)),) for point in range(FLAT_POINTS)]
    changed = find_boundaries(systems)
    return [
        find_blame(step, values, (fixed,)).cause
        if boundary_of(step, values, changed)
        else ELSEWHERE
        for step in find_changes(values).steps
    ]


def speed() -> list[Figure]:
    """The same series through ours and Otava's, chunk by chunk in turn; and one new point."""
    many = speed_series()
    ours = theirs = 0.0
    with otava() as server:
        for first in range(-CHUNK, SPEED_SERIES, CHUNK):
            chunk = many[max(first, 0) : max(first, 0) + CHUNK]
            start = time.perf_counter()
            for one in chunk:
                find_changes(one)
            took = time.perf_counter() - start
            peer_took = ask(server, [one.tolist() for one in chunk])[0]
            if first >= 0:  # the first chunk goes through twice, to warm both up
                ours, theirs = ours + took, theirs + peer_took
    updates = _update_ms()
    middle = float(np.median(updates))
    peer = {"peer": "Otava s", "peer_value": theirs, "ratio": ours / theirs}
    return [
        Figure(
            name="history-1000x200-s", value=ours, unit="s", n=SPEED_SERIES, goal="<= 10",
            ok=ours <= 10, **peer,
        ),
        Figure(
            name="history-vs-otava-ratio", value=ours / theirs, unit="", n=SPEED_SERIES, **peer
        ),
        Figure(
            name="history-update-ms", value=middle, unit="ms", n=UPDATES, goal="<= 5",
            ok=middle <= 5, peer="p99 of ours", peer_value=float(np.quantile(updates, 0.99)),
        ),
    ]  # fmt: skip


def speed_series() -> list[np.ndarray]:
    """Four kinds of noise in turn; every second series has a step of 5 % at a place of its own."""
    kinds = ("gaussian", "spiky", "bimodal", "ar0.5")
    many = []
    for seed in range(SPEED_SERIES):
        one = series(kinds[seed // 2 % len(kinds)], seed, SPEED_POINTS)
        if seed % 2:
            one[20 + 7 * seed % (SPEED_POINTS - 40) :] *= 1.05
        many.append(one)
    return many


@contextmanager
def otava() -> Iterator[subprocess.Popen[str]]:
    """Otava as a server of chunks, in its own environment, which is made at the first call."""
    python = OTAVA_HOME / "bin" / "python"
    if not python.exists():
        venv.create(OTAVA_HOME, with_pip=True)
    installed = subprocess.run([python, "-c", "import otava"], capture_output=True, check=False)
    if installed.returncode:
        subprocess.run([python, "-m", "pip", "install", "--quiet", OTAVA], check=True)
    with subprocess.Popen(
        [python, "-c", OTAVA_SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    ) as server:  # fmt: skip
        yield server


def ask(server: subprocess.Popen[str], chunk: list[list[float]]) -> tuple[float, list[list[int]]]:
    """Seconds that Otava took over these series, at its defaults, and what it found in each."""
    server.stdin.write(json.dumps(chunk) + "\n")
    server.stdin.flush()
    seconds, found = json.loads(server.stdout.readline())
    return seconds, found


def _update_ms() -> list[float]:
    """Time per new point on a full window, with a step of 5 % that wanders through it."""
    values = series("gaussian", 1, 400 + UPDATES) * np.where(
        np.arange(400 + UPDATES) < 380, 1, 1.05
    )
    history = History(values[:400])
    took = []
    for value in values[400:]:
        start = time.perf_counter()
        history.append(value)
        took.append(1000 * (time.perf_counter() - start))
    return took


BENCHES = (labels_found, flat_alarms, power, boundaries, speed)
