"""What the deployments of ONNX Runtime have in common, whichever program runs it on the device."""

from __future__ import annotations

import json
from abc import abstractmethod

import numpy as np

from drivers.runtimes.fresh_process import Ran, run_to_its_end
from drivers.runtimes.placement import read_placement, refuse_fallback
from farm.connection import Transport
from farm.errors import ConfigError
from farm.metering import CHIPS_APART, MARK, Metered, Span, SpanKind
from farm.model import Load
from farm.protocols import Deployment
from farm.record import Fact, Measured, Measurement, Output, Placement, Trace

START_S = 60.0
"""Allowance for starting a process, loading a model and saving results on a slow board."""
INFER_S = 600.0
PROFILE_S = 300.0
MAX_CHIP_S = 2.0
"""A runner makes the elements of a mark longer than asked for a slow model, up to that."""

SCALARS = {
    "memory.peak_rss": ("bytes", "peak_rss_bytes"),
    "coldstart.load": ("ns", "load_ns"),
    "coldstart.first_inference": ("ns", "first_ns"),
}
"""Metrics that a window has besides its samples: unit, and the name in the result."""


class OrtDeployment(Deployment):
    """A model on a device; subclasses know the program that runs it.

    Args:
        transport: the way to the device.
        accelerator: what was asked for, `tensorrt+cpu` for example.
        has_items: whether the workload has inputs.
    """

    def __init__(self, transport: Transport, *, accelerator: str, has_items: bool) -> None:
        self._transport = transport
        self._accelerator = accelerator
        self._has_items = has_items
        self._profiled = False
        self._placement: Placement | None = None

    @abstractmethod
    def _command(
        self,
        mode: str,
        *,
        load: Load,
        quiet_pace_ns: float | None = None,
        metered: Metered | None = None,
    ) -> tuple[str, ...]:
        """What the device runs; it leaves `result.json` and the files of its mode."""

    @abstractmethod
    def _outputs(self, ran: Ran) -> tuple[Output, ...]:
        """What `infer` brought home."""

    def infer(self) -> tuple[Output, ...]:
        """Every output over all items of the workload."""
        if not self._has_items:
            raise ConfigError("a model without a workload has no items to infer")
        self.prepare()
        self._refuse_fallback(Load())
        command = self._command("infer", load=Load())
        with run_to_its_end(
            self._transport, command, accelerator=self._accelerator, limit_s=START_S + INFER_S
        ) as ran:
            return self._outputs(ran)

    def measure(
        self, load: Load, *, quiet_pace_ns: float | None = None, metered: Metered | None = None
    ) -> Measured:
        """One fresh process, one window; every sample comes home."""
        self.prepare()
        self._refuse_fallback(load)
        command = self._command("measure", load=load, quiet_pace_ns=quiet_pace_ns, metered=metered)
        limit_s = START_S + load.warmup_s + 2 * load.max_duration_s + _around_s(metered)
        with run_to_its_end(
            self._transport, command, accelerator=self._accelerator, limit_s=limit_s
        ) as ran:
            starts, durations = np.load(ran.fetch("latency.npy"), allow_pickle=False)
        result = ran.result
        return Measured(
            traces=(Trace(name="latency", unit="ns", values=durations, t_ns=starts),),
            scalars=tuple(
                Measurement(metric=metric, unit=unit, value=float(result[key]))
                for metric, (unit, key) in SCALARS.items()
            ),
            accelerator=result["accelerator"],
            pace_ns=result["pace_ns"],
            facts=tuple(Fact(name=k, value=json.dumps(v)) for k, v in result["facts"].items()),
            spans=tuple(
                Span(kind=SpanKind(kind), start_ns=start_ns, end_ns=end_ns, inferences=inferences)
                for kind, start_ns, end_ns, inferences in result.get("spans", ())
            ),
        )

    def remove(self) -> None:
        """Nothing to do: every run removes its own folder."""

    def _refuse_fallback(self, load: Load) -> None:
        """Never run a model elsewhere than was asked for; from the processor nothing falls back."""
        if self._accelerator != "cpu":
            self.placement(load)

    def placement(self, load: Load) -> Placement | None:
        """Where the nodes run, seen in a process of its own, as profiling takes time."""
        if self._profiled:
            return self._placement
        with run_to_its_end(
            self._transport,
            self._command("profile", load=load),
            accelerator=self._accelerator,
            limit_s=START_S + PROFILE_S,
        ) as ran:
            profile = ran.fetch("profile.json").read_text(errors="replace")
        placement = read_placement(profile)
        refuse_fallback(placement, self._accelerator)
        self._profiled, self._placement = True, placement
        return placement


def _around_s(metered: Metered | None) -> float:
    """How long what surrounds a window takes, besides the inferences in it."""
    if metered is None:
        return 0.0
    chip_s = max(metered.chip_s, MAX_CHIP_S) if metered.chip_s else 0.0
    return 2 * (metered.idle_s + (len(MARK) + CHIPS_APART) * chip_s)
