"""One fresh process on the device that works in a folder of its own, and what it brings home."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farm.connection import Detached, Transport
from farm.errors import (
    WORKLOAD_ERRORS,
    DeviceError,
    Evidence,
    OutOfSpace,
    RuntimeCrashed,
    WrongAccelerator,
)
from farm.shell import Completed, insist

NO_ROOM = 28
"""Exit status of a runner when the device's disk is full."""
UNFIT = 30
"""Exit status of a runner when the device lacks something: a library, a processor."""
CLEAN_S = 30.0

HINTS = {
    "unsupported_model": "check the file with onnx.checker; its operators may be too new here",
    "deploy_failed": "compare the model's inputs with those of the workload",
    "wrong_accelerator": "ask for one that 'farm doctor' shows for this device",
    "wrong_output": "run this input by hand; often a scale of zero, or an overflow",
}
"""What the model's author can do, by the kind of problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A process that did what it was asked to.

    Attributes:
        result: the JSON object that it left.
        fetch: brings one of its files to the controller; it lies there until the next run.
    """

    result: dict[str, Any]
    fetch: Callable[[str], Path]


@contextmanager
def run_to_its_end(
    transport: Transport, command: tuple[str, ...], *, accelerator: str, limit_s: float
) -> Iterator[Ran]:
    """Run a command in a new folder, which is removed afterwards whatever happened.

    Raises:
        WorkloadError: the model is at fault, or ran elsewhere than on the accelerator.
        DeviceError: the device lacks something, or room.
        InfraError: the device cannot be reached, or the command did not end in time.
    """
    folder = transport.root / "runs" / uuid.uuid4().hex
    process: Detached | None = None
    done: Completed | None = None
    try:
        process = transport.start(command, folder=folder)
        done = process.wait(limit_s)
        with tempfile.TemporaryDirectory(prefix="farm-") as local:

            def fetch(name: str) -> Path:
                target = Path(local) / name
                transport.pull(folder / name, target)
                return target

            _refuse_status(done)
            result = json.loads(fetch("result.json").read_text())
            _refuse_result(result, accelerator, done)
            yield Ran(result=result, fetch=fetch)
    finally:
        # It may run although nobody heard that it had been started.
        running = None if done else process or transport.attach(str(folder))
        insist(lambda: _clean(transport, running, str(folder)))


def _clean(transport: Transport, running: Detached | None, folder: str) -> None:
    if running:
        running.kill()
    transport.run(("rm", "-rf", folder), timeout_s=CLEAN_S)


def _refuse_status(done: Completed) -> None:
    if done.returncode == NO_ROOM:
        raise OutOfSpace(done.stderr.strip(), hint="make room on the device")
    if done.returncode == UNFIT:
        raise DeviceError(done.stderr.strip(), hint="compare the device with the inventory")
    if done.returncode != 0:
        raise _crashed(done)


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


def _refuse_result(result: dict[str, Any], asked: str, done: Completed) -> None:
    if error := result.get("error"):
        raise WORKLOAD_ERRORS[error["code"]](
            error["message"],
            hint=HINTS[error["code"]],
            evidence=[Evidence(name="stderr", text=done.stderr)] if done.stderr else [],
        )
    if result["accelerator"] != asked:
        raise WrongAccelerator(f"asked for {asked}, ran on {result['accelerator']}")
