"""Area `mcu`: keyword spotting (int8) on emulated Cortex-M4 boards, over the production drivers.

Instructions are counted by the emulator and are no time. The model is that of MLPerf Tiny; the
figures are no MLPerf results.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

from drivers.lines.uart import UartLine
from drivers.mcu.building import build_image
from drivers.mcu.client import Board
from drivers.mcu.fusing import load
from drivers.runtimes.mcu import McuRuntime
from drivers.virtual.machine import switch_all_off
from drivers.virtual.mcu import VirtualMcu
from farm.model import Address, Artifact, Device, Load, Workload
from farm.protocols import Deployment
from farm.record import Output
from tests.benchmarks.history import SHARED
from tests.benchmarks.run import Figure

MODEL = SHARED / "mlperf-tiny" / "kws_int8.onnx"
GOLDEN = SHARED / "mlperf-tiny" / "kws_golden.npz"
MOST_INSTRUCTIONS = 24.6e6
MOST_ARENA_BYTES = 45056
MOST_IMAGE_BYTES = 36864
LEAST_PUSH_BYTES_PER_S = 30_000
LEAST_SPEEDUP = 1.5
PUSHES = 7
BOARDS = 8
ROUNDS = 5


def footprint() -> list[Figure]:
    """What one inference takes, and what the image is; outputs must be those of onnxruntime."""
    with _boards(1) as (deployment,):
        sizes = {found.metric: found.value for found in deployment.prepare()}
        measured = deployment.measure(Load())
        (output,) = deployment.infer()
    with np.load(GOLDEN) as golden:
        right = output.values.tobytes() == golden["onnxruntime"].tobytes()
    counted = {found.metric: found.value for found in measured.scalars}
    generated = _instructions_as_generated()
    figures = []
    for name, value, unit, most in (
        ("instructions", counted["compute.instructions"], "instr", MOST_INSTRUCTIONS),
        ("arena-bytes", sizes["memory.arena"], "bytes", MOST_ARENA_BYTES),
        ("image-bytes", sizes["size.image_bytes"], "bytes", MOST_IMAGE_BYTES),
    ):
        ok = value <= most and right
        figures.append(
            Figure(name=f"mcu-kws-{name}", value=value, unit=unit, n=1, goal=f"<= {most:g}", ok=ok)
        )
    peer = {"peer": "as generated", "peer_value": generated, "ratio": figures[0].value / generated}
    return [replace(figures[0], **peer), *figures[1:]]


def _instructions_as_generated() -> float:
    """What the same model takes without the farm's kernels and folding, built the same way."""
    with (
        tempfile.TemporaryDirectory(prefix="verdict-farm-") as cache,
        patch.dict(os.environ, {"XDG_CACHE_HOME": cache}),
        patch("drivers.mcu.building.improve", lambda text: text),
        _boards(1) as (deployment,),
    ):
        deployment.prepare()
        (count,) = (
            found.value
            for found in deployment.measure(Load()).scalars
            if found.metric == "compute.instructions"
        )
    return count


def push() -> list[Figure]:
    """The image into a slot, checked by the board, as an update does it."""
    paces = []
    with _switched_on(1) as (device,), closing(UartLine(device)) as line:
        board = Board(line)
        hello = board.hello()
        image = build_image(Artifact.of(MODEL), hello.target(0)).image
        for _ in range(PUSHES):
            started = time.perf_counter()
            board.write(0, image, max_payload=hello.max_payload)
            board.commit(0)
            paces.append(len(image) / (time.perf_counter() - started))
    pace = float(np.median(paces))
    least = LEAST_PUSH_BYTES_PER_S
    return [
        Figure(
            name="mcu-push-bytes-per-s", value=pace, unit="B/s", n=PUSHES, goal=f">= {least:g}",
            ok=pace >= least,
        )
    ]  # fmt: skip


def fleet() -> list[Figure]:
    """Inferences per second of eight boards at once over those of one, input and output included.

    In turn, so that whatever else the computer does falls on both.
    """
    ratios, alone = [], []
    with _boards(BOARDS) as deployments, ThreadPoolExecutor(BOARDS) as pool:
        items = [len(output.values) for (output,) in map(_infer, deployments)]  # pushes first
        for _ in range(ROUNDS):
            one_s = _seconds(pool, deployments[:1])
            all_s = _seconds(pool, deployments)
            alone.append(items[0] / one_s)
            ratios.append(sum(items) / all_s / alone[-1])
    ratio = float(np.median(ratios))
    return [
        Figure(
            name="mcu-8-boards-vs-1", value=ratio, unit="", n=ROUNDS, goal=f">= {LEAST_SPEEDUP}",
            ok=ratio >= LEAST_SPEEDUP, peer="1 board inf/s", peer_value=float(np.median(alone)),
            ratio=ratio,
        )
    ]  # fmt: skip


def _infer(deployment: Deployment) -> tuple[Output, ...]:
    return deployment.infer()


def _seconds(pool: ThreadPoolExecutor, deployments: tuple[Deployment, ...]) -> float:
    started = time.perf_counter()
    list(pool.map(_infer, deployments))
    return time.perf_counter() - started


@contextmanager
def _switched_on(count: int) -> Iterator[tuple[Device, ...]]:
    """Emulated boards that are new."""
    with tempfile.TemporaryDirectory(prefix="verdict-farm-") as name:
        addresses = [
            Address.parse(f"virtual-mcu://mps2-an386?engine=qemu&root={name}/{number}")
            for number in range(count)
        ]
        try:
            yield tuple(
                VirtualMcu.start(Device(name=f"m4-{number}", type="m4", address=address))
                for number, address in enumerate(addresses)
            )
        finally:
            switch_all_off()


@contextmanager
def _boards(count: int) -> Iterator[tuple[Deployment, ...]]:
    """The model on new boards, connected."""
    with ExitStack() as stack:
        devices = stack.enter_context(_switched_on(count))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="verdict-farm-")))
        workload = _workload(folder / "inputs.npz")
        runtimes = [McuRuntime(stack.enter_context(closing(UartLine(d)))) for d in devices]
        model = Artifact.of(MODEL)
        yield tuple(runtime.deploy(model, workload, accelerator="cpu") for runtime in runtimes)


def _workload(path: Path) -> Workload:
    """The sixteen inputs whose outputs are known."""
    (fed,) = load(Artifact.of(MODEL)).inputs
    with np.load(GOLDEN) as golden:
        np.savez(path, **{fed.name: golden["inputs"].reshape(-1, *fed.shape[1:])})
    return Workload(name="kws", digest="", inputs=Artifact.of(path))


BENCHES = (footprint, push, fleet) if MODEL.exists() else ()
