"""onnxruntime in the device's own Python, driven by `drivers/ondevice/loadgen.py`."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from farm.errors import (
    WORKLOAD_ERRORS,
    ConfigError,
    DeviceError,
    Evidence,
    InfraError,
    OutOfSpace,
    RuntimeCrashed,
    WrongAccelerator,
)
from farm.model import Artifact, Load, Scenario, Workload
from farm.protocols import Deployment, Runtime, Transport
from farm.record import Fact, Measured, Measurement, Output, Trace
from farm.shell import Completed

LOADGEN = Path(__file__).parent.parent / "ondevice" / "loadgen.py"
PYTHON = "python3"
START_S = 60.0
"""Allowance for starting Python, loading a model and saving results on a slow board."""
INFER_S = 600.0
NO_ROOM = 28
"""Exit status of the loadgen when the device's disk is full."""

HINTS = {
    "unsupported_model": "check the file with onnx.checker; its operators may be too new here",
    "deploy_failed": "compare the model's inputs with those of the workload",
    "wrong_accelerator": "ask for one that 'farm doctor' shows for this device",
    "wrong_output": "run this input by hand; often a scale of zero, or an overflow",
}
"""What the model's author can do, by the kind of problem."""


class OrtPython(Runtime):
    """Runs ONNX models where Python, numpy and onnxruntime are installed."""

    formats: ClassVar[tuple[str, ...]] = ("onnx",)
    scenarios: ClassVar[tuple[Scenario, ...]] = (Scenario.SINGLE_STREAM,)

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def facts(self) -> tuple[Fact, ...]:
        """Versions of onnxruntime, numpy and Python, and `accelerators`, comma-separated."""
        loadgen = self._transport.install(Artifact.of(LOADGEN))
        done = self._transport.run((PYTHON, str(loadgen), "--facts"), timeout_s=START_S)
        try:
            found = json.loads(done.stdout.splitlines()[-1])
        except (IndexError, json.JSONDecodeError):
            raise DeviceError(
                "Python with numpy and onnxruntime does not run there",
                hint="install them on the device: pip install onnxruntime",
                evidence=[Evidence(name="stderr", text=done.stderr)],
            ) from None
        return tuple(Fact(name=name, value=str(value)) for name, value in found.items())

    def deploy(self, model: Artifact, workload: Workload, *, accelerator: str) -> Deployment:
        """Push runner, model and inputs; what is there already is not pushed again."""
        install = self._transport.install
        return _Deployment(
            self._transport,
            loadgen=install(Artifact.of(LOADGEN)),
            spec={
                "model": str(install(model)),
                "inputs": str(install(workload.inputs)) if workload.inputs else None,
                "dimensions": dict(workload.dimensions),
                "accelerator": accelerator,
            },
        )


class _Deployment(Deployment):
    def __init__(
        self, transport: Transport, *, loadgen: PurePosixPath, spec: dict[str, Any]
    ) -> None:
        self._transport = transport
        self._loadgen = loadgen
        self._spec = spec

    def infer(self) -> tuple[Output, ...]:
        """Every output over all items of the workload."""
        if self._spec["inputs"] is None:
            raise ConfigError("a model without a workload has no items to infer")
        with (
            self._executed({**self._spec, "mode": "infer"}, INFER_S) as (_, fetch),
            np.load(fetch("outputs.npz"), allow_pickle=False) as arrays,
        ):
            return tuple(Output(name=name, values=arrays[name]) for name in arrays.files)

    def measure(self, load: Load, *, quiet_pace_ns: float | None = None) -> Measured:
        """One fresh process, one window; every sample comes home."""
        quiet = {"load": asdict(load), "quiet_pace_ns": quiet_pace_ns}
        spec = {**self._spec, "mode": "measure", **quiet}
        longest_s = load.warmup_s + 2 * load.max_duration_s
        with self._executed(spec, longest_s) as (result, fetch):
            starts, durations = np.load(fetch("latency.npy"), allow_pickle=False)
        peak = Measurement(
            metric="memory.peak_rss", unit="bytes", value=float(result["peak_rss_bytes"])
        )
        return Measured(
            traces=(Trace(name="latency", unit="ns", values=durations, t_ns=starts),),
            scalars=(peak,),
            accelerator=result["accelerator"],
            pace_ns=result["pace_ns"],
            facts=tuple(Fact(name=k, value=json.dumps(v)) for k, v in result["facts"].items()),
        )

    def remove(self) -> None:
        """Nothing to do: every run removes its own folder."""

    @contextmanager
    def _executed(self, spec: dict[str, Any], duration_s: float) -> Iterator[tuple[Any, Any]]:
        """Run the loadgen to its end; yields its result and a function that fetches its files."""
        transport = self._transport
        folder = transport.root / "runs" / uuid.uuid4().hex
        argv = (PYTHON, str(self._loadgen), json.dumps(spec))
        process = transport.start(argv, folder=folder)
        try:
            done = process.wait(START_S + duration_s)
            with tempfile.TemporaryDirectory(prefix="farm-") as local:

                def fetch(name: str) -> Path:
                    target = Path(local) / name
                    transport.pull(folder / name, target)
                    return target

                if done.returncode == NO_ROOM:
                    raise OutOfSpace(done.stderr.strip(), hint="make room on the device")
                if done.returncode != 0:
                    raise _crashed(done)
                result = json.loads(fetch("result.json").read_text())
                _refuse(result, spec["accelerator"], done)
                yield result, fetch
        finally:
            self._clean(folder, process.kill)

    def _clean(self, folder: PurePosixPath, kill: Any) -> None:
        try:
            kill()
            self._transport.run(("rm", "-rf", str(folder)), timeout_s=30)
        except InfraError:
            pass  # the device is gone; the next session sweeps


def _crashed(done: Completed) -> RuntimeCrashed:
    signal = done.returncode - 128 if done.returncode > 128 else -done.returncode
    how = f"by signal {signal}" if signal > 0 and done.returncode not in (1, 2) else "with an error"
    return RuntimeCrashed(
        f"the process that ran the model died {how} (status {done.returncode})",
        evidence=[
            Evidence(name="stderr", text=done.stderr),
            Evidence(name="stdout", text=done.stdout),
        ],
    )


def _refuse(result: dict[str, Any], asked: str, done: Completed) -> None:
    if error := result.get("error"):
        raise WORKLOAD_ERRORS[error["code"]](
            error["message"],
            hint=HINTS[error["code"]],
            evidence=[Evidence(name="stderr", text=done.stderr)] if done.stderr else [],
        )
    if result["accelerator"] != asked:
        raise WrongAccelerator(f"asked for {asked}, ran on {result['accelerator']}")
