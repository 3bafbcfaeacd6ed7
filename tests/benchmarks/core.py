"""Area `core`: what the loop adds, how often the gate errs, how long a newcomer waits."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnxruntime as ort
from scipy import special

from drivers.ondevice import loadgen
from drivers.virtual.physics import Noise, Profile
from farm.comparing import compare
from farm.judging import judge
from farm.metrics import METRICS
from farm.model import PAIR, Address, Arm, ArmModel, Artifact, Device, Job, Load, Measure, Workload
from farm.policy import Policy
from farm.record import JobResult, Measurement, Outcome, Repeat, Verdict
from farm.rules import Rule
from tests.benchmarks.run import Figure

DIGITS = Path(__file__).parents[2] / "suites" / "workloads" / "digits"
ROUNDS = 40
QUERIES = 1500

GATES = 5000
BLOCKS = 10
ALPHA = 0.01
MARGIN = 0.05
INFERENCES = 200
SEED = 20_240_607
# S22-class noise: 7.6 % between sessions, 80 % of its variance shared inside a block, 5 % inside.
NOISE = Profile(
    seconds_per_unit=1e-6, level_cv=0.076, shared=0.8, spread_cv=0.05, tail_rate=0.0, tail_factor=1
)


def loop_overhead() -> list[Figure]:
    """The farm's loop against the loop that anybody would write, in turn, in this process."""
    session = loadgen.open_session({"model": str(DIGITS / "int8.onnx"), "accelerator": "cpu"})
    names = [output.name for output in session.get_outputs()]
    feeds = list(loadgen.read_feeds(session, str(DIGITS / "inputs.npz")))[: loadgen.MAX_FEEDS]
    loadgen.warm_up(session.run, names, feeds, 2_000_000_000)
    ours, bare = [], []
    for _ in range(ROUNDS):
        window = loadgen.timed_loop(
            session.run, names, feeds, min_duration_ns=0, min_queries=QUERIES,
            max_duration_ns=10_000_000_000,
        )  # fmt: skip
        ours.append(float(np.median(window[1])))
        bare.append(_bare_loop(session, names, feeds))
    null = [loadgen.loop_overhead_ns() / 1000 for _ in range(ROUNDS)]
    ratio = float(np.median(np.array(ours) / np.array(bare)))
    return [
        Figure(
            name="loop-overhead-ratio", value=ratio, unit="", n=ROUNDS, goal="0.98..1.02",
            ok=0.98 <= ratio <= 1.02, peer="bare loop p50 ns", peer_value=float(np.median(bare)),
            ratio=ratio,
        ),
        Figure(
            name="null-loop-us", value=float(np.median(null)), unit="us", n=ROUNDS, goal="< 2",
            ok=float(np.median(null)) < 2,
        ),
    ]  # fmt: skip


def _bare_loop(session: ort.InferenceSession, names: list[str], feeds: list[object]) -> float:
    took = []
    for index in range(QUERIES):
        feed = feeds[index % len(feeds)]
        start = time.perf_counter_ns()
        session.run(names, feed)
        took.append(time.perf_counter_ns() - start)
    return float(np.median(took))


def gate_errors() -> list[Figure]:
    """How often the gate errs on simulated noise, through `compare` and `judge` as in a release."""
    same = _shares(slowdown=1.0)
    slow = _shares(slowdown=1.1)
    return [
        _share("gate-aa-fail-pct", same[Verdict.FAIL], goal="<= 1", ok=lambda pct: pct <= 1),
        _share("gate-aa-pass-pct", same[Verdict.PASS], goal=">= 90", ok=lambda pct: pct >= 90),
        _share("gate-aa-inconclusive-pct", same[Verdict.INCONCLUSIVE]),
        _share("gate-power-10pct-pct", slow[Verdict.FAIL], goal=">= 95", ok=lambda pct: pct >= 95),
        _share("gate-power-10pct-inconclusive-pct", slow[Verdict.INCONCLUSIVE]),
        _share("gate-power-10pct-pass-pct", slow[Verdict.PASS]),
    ]


def _share(name: str, count: int, *, goal: str = "", ok: object = None) -> Figure:
    pct = 100 * count / GATES
    upper = (
        100 * float(special.betaincinv(count + 1, GATES - count, 0.95)) if count < GATES else 100
    )
    return Figure(
        name=name, value=pct, unit="%", n=GATES, goal=goal, ok=ok(pct) if callable(ok) else None,
        peer="95 % upper bound", peer_value=upper,
    )  # fmt: skip


def _shares(*, slowdown: float) -> Counter[Verdict]:
    policy = Policy(
        path=Path("bench"), sha256="", alpha=ALPHA, looks=(BLOCKS,),
        rules=(Rule(metric=METRICS["latency.p50"], gate=True, margin=MARGIN),),
    )  # fmt: skip
    job = _job()
    return Counter(
        judge(policy, compare([_simulated(job, slowdown, seed)], policy)).verdict
        for seed in range(SEED, SEED + GATES)
    )


def _simulated(job: Job, slowdown: float, seed: int) -> JobResult:
    noise, now = Noise(NOISE, seed), datetime.now(UTC)
    repeats = []
    for slot in job.slots():
        work = slowdown if slot.arm is Arm.CANDIDATE else 1.0
        p50 = 1e6 * work * noise.next_level() * float(np.median(noise.spread(INFERENCES)))
        measured = Measurement(metric="latency.p50", unit="ns", value=p50)
        repeats.append(
            Repeat(arm=slot.arm, block=slot.block, position=slot.position, started=now,
                   measurements=(measured,))
        )  # fmt: skip
    return JobResult(
        job=job, outcome=Outcome.COMPLETED, started=now, finished=now, simulated=True,
        repeats=tuple(repeats),
    )  # fmt: skip


def _job() -> Job:
    model = Artifact(path=Path("model.onnx"), sha256="0" * 64, size_bytes=1)
    device = Device(name="unit", type="phone", address=Address(scheme="virtual", place="phone"))
    return Job(
        workload=Workload(name="bench", digest=""), device=device, runtime="ort_python",
        accelerator="cpu", load=Load(), measures=(Measure.LATENCY,),
        arms=tuple(ArmModel(arm=arm, name=arm, artifact=model) for arm in PAIR), rounds=BLOCKS,
    )  # fmt: skip


def demo_seconds() -> list[Figure]:
    """From the command to the last line, once installed."""
    folder = Path(tempfile.mkdtemp(prefix="verdict-farm-"))
    try:
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "farm.cli", "demo", "--store", str(folder / "store")],
            stdout=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        took = time.perf_counter() - started
    finally:
        shutil.rmtree(folder)
    ok = took < 60 and done.returncode == 0
    return [Figure(name="demo-s", value=took, unit="s", n=1, goal="< 60", ok=ok)]


def cli_start() -> list[Figure]:
    """`farm --help` against starting Python alone, in turn."""
    ours, bare = [], []
    for _ in range(15):
        ours.append(_seconds([sys.executable, "-m", "farm.cli", "--help"]))
        bare.append(_seconds([sys.executable, "-c", "pass"]))
    value, peer = float(np.median(ours)), float(np.median(bare))
    return [
        Figure(
            name="cli-start-s", value=value, unit="s", n=len(ours), goal="< 0.4", ok=value < 0.4,
            peer="python -c pass", peer_value=peer, ratio=value / peer,
        )
    ]  # fmt: skip


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


BENCHES = (loop_overhead, gate_errors, cli_start, demo_seconds)
