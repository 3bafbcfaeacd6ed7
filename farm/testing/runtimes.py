"""The promises of a runtime as tests, for whoever writes one.

A test class that inherits them names the runtime and has four fixtures: a transport to a device
whose folder belongs to the test alone, two models, and a workload whose inputs both take.

    class TestSerialRuntime(RuntimeContract):
        kind = SerialRuntime

        @pytest.fixture
        def transport(self, tmp_path): ...  # as for farm.testing.transports

        @pytest.fixture
        def model(self):
            return Artifact.of(Path("models/small.bin"))

        @pytest.fixture
        def other_model(self):
            return Artifact.of(Path("models/large.bin"))

        @pytest.fixture
        def workload(self):
            inputs = Artifact.of(Path("models/inputs.npz"))
            return Workload(name="words", digest=inputs.sha256, inputs=inputs)

`accelerator` is the one that the tests ask for, `absent_accelerator` one that the device lacks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from farm.connection import Transport
from farm.errors import UnsupportedModel, WorkloadError, WrongAccelerator
from farm.metering import Metered, SpanKind
from farm.metrics import COLDSTART, METRICS
from farm.model import Artifact, Load, Scenario, Workload
from farm.protocols import Deployment, Runtime
from farm.record import Measured, Output, TimeBasis, Trace
from farm.testing.probes import names

QUICK = Load(min_duration_s=0.01, min_queries=100, warmup_s=0.01)
ENDLESS = Load(min_duration_s=0.01, min_queries=1 << 40, max_duration_s=0.2, warmup_s=0.01)


class RuntimeContract:
    """Everything that `Runtime` and `Deployment` promise."""

    kind: ClassVar[type[Runtime]]
    accelerator: ClassVar[str] = "cpu"
    absent_accelerator: ClassVar[str] = "cuda"

    @pytest.fixture
    def runtime(self, transport: Transport) -> Iterator[Runtime]:
        """The runtime; whatever was done with it, no run leaves its folder."""
        yield self.kind(transport)
        if not transport.has_shell:
            return
        assert names(transport, transport.root / "runs") == set()

    @pytest.fixture
    def deployment(
        self, runtime: Runtime, model: Artifact, workload: Workload
    ) -> Iterator[Deployment]:
        """The model, ready to run."""
        deployment = self._deploy(runtime, model, workload)
        yield deployment
        deployment.remove()

    def _deploy(self, runtime: Runtime, model: Artifact, workload: Workload) -> Deployment:
        deployment = runtime.deploy(model, workload, accelerator=self.accelerator)
        deployment.prepare()
        return deployment

    def test_its_class_says_what_it_takes(self) -> None:
        """What the planner asks before anything is connected."""
        assert self.kind.formats
        assert self.kind.scenarios
        assert all(isinstance(scenario, Scenario) for scenario in self.kind.scenarios)
        assert all(isinstance(option, str) for option in self.kind.options)

    def test_facts_name_the_accelerators_and_hold_no_empty_value(self, runtime: Runtime) -> None:
        """The one that is there, not the one that is not; and a version besides."""
        facts = {fact.name: fact.value for fact in runtime.facts()}
        assert all(facts.values())
        assert len(facts) > 1
        there = facts["accelerators"].split(",")
        assert self.accelerator in there
        assert self.absent_accelerator not in there

    def test_every_item_is_inferred(self, deployment: Deployment, workload: Workload) -> None:
        """Each output has one finite value or more per item; twice it is the same."""
        first, second = deployment.infer(), deployment.infer()
        assert first
        for output in first:
            assert output.name
            assert len(output.values) == _items(workload)
            assert np.isfinite(output.values).all()
        assert [o.name for o in first] == [o.name for o in second]
        assert _same(first, second)

    def test_a_window_is_measured(self, deployment: Deployment) -> None:
        """Every sample comes home, with what else is known of the window."""
        measured = deployment.measure(QUICK)
        _check_measured(measured)
        for latency in (trace for trace in measured.traces if trace.name == "latency"):
            assert len(latency.values) >= QUICK.min_queries
        assert measured.accelerator == self.accelerator

    def test_a_window_ends_whatever_was_reached(self, deployment: Deployment) -> None:
        """What was measured until then comes home."""
        measured = deployment.measure(ENDLESS)
        _check_measured(measured)

    def test_a_pace_that_is_never_reached_is_not_waited_for_endlessly(
        self, deployment: Deployment
    ) -> None:
        """A moment, and then it is measured all the same."""
        _check_measured(deployment.measure(QUICK, quiet_pace_ns=1.0))

    @pytest.mark.parametrize("chip_s", [0.0, 0.02], ids=["plain", "marked"])
    def test_beside_a_meter_it_tells_what_it_does_and_when(
        self, deployment: Deployment, chip_s: float
    ) -> None:
        """Rest, work, rest, in the order of time; the windows have every inference."""
        if not self.kind.meterable:
            pytest.skip("it does not tell when its inferences run")
        measured = deployment.measure(QUICK, metered=Metered(idle_s=0.05, chip_s=chip_s))
        _check_measured(measured)
        kinds = [span.kind for span in measured.spans]
        assert [kinds[0], kinds[-1]] == [SpanKind.IDLE, SpanKind.IDLE]
        assert kinds.count(SpanKind.MARK) == (2 if chip_s else 0)
        windows = [span for span in measured.spans if span.kind is SpanKind.WINDOW]
        assert sum(span.inferences for span in windows) >= QUICK.min_queries
        for latency in (trace for trace in measured.traces if trace.name == "latency"):
            assert sum(span.inferences for span in windows) == len(latency.values)
        for before, after in pairwise(measured.spans):
            assert before.start_ns < before.end_ns <= after.start_ns

    def test_compiling_takes_time_once(
        self, runtime: Runtime, model: Artifact, workload: Workload
    ) -> None:
        """The second deployment of the same model finds it compiled."""
        first = runtime.deploy(model, workload, accelerator=self.accelerator)
        told = first.prepare()
        assert all(m.unit == METRICS[m.metric].unit for m in told)
        first.remove()
        second = runtime.deploy(model, workload, accelerator=self.accelerator)
        once = [m for m in told if m.metric in ("compile.seconds", "deploy.push_seconds")]
        assert second.prepare() == tuple(m for m in told if m not in once)
        second.remove()

    def test_deployments_are_independent(
        self, runtime: Runtime, model: Artifact, other_model: Artifact, workload: Workload
    ) -> None:
        """Two at once give what each gives alone, and one outlives the other."""
        first = self._deploy(runtime, model, workload)
        alone = first.infer()
        second = self._deploy(runtime, other_model, workload)
        beside = second.infer()
        assert _same(alone, first.infer())
        assert not _same(alone, beside), "both say the same: is it one and the same model?"
        first.remove()
        _check_measured(second.measure(QUICK))
        second.remove()

    def test_a_model_file_may_have_any_name(
        self, runtime: Runtime, model: Artifact, workload: Workload, tmp_path: Path
    ) -> None:
        """It never reaches a command; its ending stays, for some runtimes go by it."""
        path = tmp_path / f"$(touch pwned) '\n\udcff{model.path.suffix}"
        path.write_bytes(model.path.read_bytes())
        deployment = self._deploy(runtime, Artifact.of(path), workload)
        assert len(deployment.infer()[0].values) == _items(workload)
        deployment.remove()

    @pytest.mark.parametrize("share", [0.0, 0.5, None], ids=["empty", "truncated", "no_model"])
    def test_a_broken_model_is_the_models_fault(
        self,
        runtime: Runtime,
        model: Artifact,
        workload: Workload,
        tmp_path: Path,
        share: float | None,
    ) -> None:
        """Never the lab's, and the next model is none the worse for it."""
        whole = model.path.read_bytes()
        broken = b"not a model" if share is None else whole[: int(share * len(whole))]
        path = tmp_path / f"broken{model.path.suffix}"
        path.write_bytes(broken)
        with pytest.raises(UnsupportedModel) as caught:
            self._try(runtime, Artifact.of(path), workload, self.accelerator)
        assert caught.value.message
        self._try(runtime, model, workload, self.accelerator)

    def test_an_absent_accelerator_is_an_error(
        self, runtime: Runtime, model: Artifact, workload: Workload
    ) -> None:
        """Nothing runs elsewhere instead."""
        with pytest.raises(WrongAccelerator):
            self._try(runtime, model, workload, self.absent_accelerator)

    def test_inputs_that_the_model_does_not_take_are_an_error(
        self, runtime: Runtime, model: Artifact, workload: Workload, tmp_path: Path
    ) -> None:
        """The model's, not the lab's."""
        path = tmp_path / "inputs.npz"
        np.savez(path, no_such_input=np.zeros((3, 1), np.float32))
        wrong = replace(workload, digest="0" * 64, inputs=Artifact.of(path), labels=None)
        with pytest.raises(WorkloadError):
            self._try(runtime, model, wrong, self.accelerator)

    def _try(self, runtime: Runtime, model: Artifact, workload: Workload, accelerator: str) -> None:
        """Deploy and run; a fault may show at any step, and what was deployed is removed."""
        deployment = runtime.deploy(model, workload, accelerator=accelerator)
        try:
            deployment.prepare()
            deployment.measure(QUICK)
        finally:
            deployment.remove()


def _items(workload: Workload) -> int:
    assert workload.inputs is not None, "the contract needs a workload with inputs"
    with np.load(workload.inputs.path, allow_pickle=False) as arrays:
        return len(arrays[arrays.files[0]])


def _same(some: tuple[Output, ...], others: tuple[Output, ...]) -> bool:
    """Whether they agree as far as one model agrees with itself on any accelerator."""
    return all(
        one.values.shape == two.values.shape
        and np.allclose(
            one.values.astype(np.float64), two.values.astype(np.float64), rtol=1e-3, atol=1e-3
        )
        for one, two in zip(some, others, strict=True)
    )


def _check_measured(measured: Measured) -> None:
    """Samples and values as they are promised, whatever their number."""
    counted = measured.time_basis is TimeBasis.ICOUNT  # where nothing is a time
    latencies = [trace for trace in measured.traces if trace.name == "latency"]
    assert len(latencies) == (0 if counted else 1)
    for latency in latencies:
        _check_latency(latency)
    for scalar in measured.scalars:
        assert scalar.unit == METRICS[scalar.metric].unit
        assert math.isfinite(scalar.value)
        if scalar.metric in COLDSTART:
            assert scalar.value > 0
        if scalar.metric == "memory.peak_rss":
            assert scalar.value >= 4096  # a page, not KiB taken for bytes
    assert measured.accelerator
    assert measured.pace_ns is None or measured.pace_ns > 0
    assert all(fact.name and fact.value for fact in measured.facts)


def _check_latency(latency: Trace) -> None:
    assert latency.unit == "ns"
    assert len(latency.values) > 0
    assert (latency.values > 0).all()
    if len(latency.t_ns):
        assert len(latency.t_ns) == len(latency.values)
        assert (np.diff(latency.t_ns) >= 0).all()
