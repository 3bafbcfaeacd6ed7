"""onnxruntime in the device's own Python, driven by `drivers/ondevice/loadgen.py`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from drivers.runtimes.device_options import read_provider_options, read_sync_gpio
from drivers.runtimes.fresh_process import Ran
from drivers.runtimes.ort_deployment import START_S, OrtDeployment
from farm.connection import Transport
from farm.errors import DeviceError, Evidence
from farm.metering import Metered
from farm.model import Artifact, Device, Load, Scenario, Workload
from farm.protocols import Deployment, Runtime
from farm.record import Fact, Output

LOADGEN = Path(__file__).parent.parent / "ondevice" / "loadgen.py"
METERED = LOADGEN.with_name("metered.py")
PYTHON = "python3"


class OrtPython(Runtime):
    """Runs ONNX models where Python, numpy and onnxruntime are installed.

    Options of the device: `python`, the interpreter there if it is not `python3`; `cpus` (`4-7`),
    the processors to stay on; `ep_options` (`device_id=0 other=1`), for the execution provider
    that is asked for first; `sync_gpio` (`/dev/gpiochip0:17`, `:!17` if it is active low), the pin
    that is wired to the device's meter.
    """

    options: ClassVar[tuple[str, ...]] = ("python", "cpus", "ep_options", "sync_gpio")
    meterable: ClassVar[bool] = True
    formats: ClassVar[tuple[str, ...]] = ("onnx",)
    scenarios: ClassVar[tuple[Scenario, ...]] = (Scenario.SINGLE_STREAM,)

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse a pin that is none, and a wire without one."""
        read_sync_gpio(device)

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._python = transport.device.option("python", PYTHON)

    def facts(self) -> tuple[Fact, ...]:
        """Versions of onnxruntime, numpy and Python, and `accelerators`, comma-separated."""
        loadgen = self._transport.install(Artifact.of(LOADGEN))
        done = self._transport.run((self._python, str(loadgen), "--facts"), timeout_s=START_S)
        try:
            found = json.loads(done.stdout.splitlines()[-1])
        except (IndexError, json.JSONDecodeError):
            raise DeviceError(
                "Python with numpy and onnxruntime does not run there",
                hint="pip install onnxruntime there, or name its interpreter with 'python:'",
                evidence=[Evidence(name="stderr", text=done.stderr)],
            ) from None
        return tuple(Fact(name=name, value=str(value)) for name, value in found.items())

    def deploy(self, model: Artifact, workload: Workload, *, accelerator: str) -> Deployment:
        """Push runner, model and inputs; what is there already is not pushed again."""
        install, device = self._transport.install, self._transport.device
        spec: dict[str, Any] = {
            "model": str(install(model)),
            "inputs": str(install(workload.inputs)) if workload.inputs else None,
            "dimensions": dict(workload.dimensions),
            "accelerator": accelerator,
        }
        if cpus := device.cpus():
            spec["cpus"] = cpus
        if options := read_provider_options(device):
            spec["ep_options"] = options
        program = (self._python, str(install(Artifact.of(LOADGEN))))
        return _PythonDeployment(self._transport, program=program, spec=spec)


class _PythonDeployment(OrtDeployment):
    def __init__(
        self, transport: Transport, *, program: tuple[str, str], spec: dict[str, Any]
    ) -> None:
        super().__init__(
            transport, accelerator=spec["accelerator"], has_items=spec["inputs"] is not None
        )
        self._program = program
        self._spec = spec

    def _command(
        self,
        mode: str,
        *,
        load: Load,
        quiet_pace_ns: float | None = None,
        metered: Metered | None = None,
    ) -> tuple[str, ...]:
        spec: dict[str, Any] = {**self._spec, "mode": mode}
        if mode != "infer":
            spec |= {"load": asdict(load), "quiet_pace_ns": quiet_pace_ns}
        if metered:
            spec["metered"] = {
                "program": str(self._transport.install(Artifact.of(METERED))),
                "idle_s": metered.idle_s,
                "chip_s": metered.chip_s,
                "gpio": read_sync_gpio(self._transport.device) if metered.wire else "",
            }
        return (*self._program, json.dumps(spec))

    def _outputs(self, ran: Ran) -> tuple[Output, ...]:
        with np.load(ran.fetch("outputs.npz"), allow_pickle=False) as arrays:
            return tuple(Output(name=name, values=arrays[name]) for name in arrays.files)
