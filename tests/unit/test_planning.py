"""Plans: which jobs are made, in which order a job measures, and why something is left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from farm.errors import ConfigError
from farm.model import (
    Address,
    Arm,
    Artifact,
    Candidate,
    Device,
    DeviceState,
    Load,
    Measure,
    ModelFile,
    Scenario,
    Workload,
)
from farm.planning import Plan, make_plan
from farm.suite import Suite
from farm.workload import bare_workload

SUITE = Suite(
    name="digits",
    description="",
    path=Path("digits.yaml"),
    workload=None,
    measures=(Measure.LATENCY, Measure.ACCURACY),
    runtimes=("ort_python",),
    accelerators=("cpu",),
    load=Load(),
    repeats=5,
)
LABELLED = Workload(
    name="digits",
    digest="d" * 64,
    inputs=Artifact(path=Path("inputs.npz"), sha256="1" * 64, size_bytes=1),
    labels=Artifact(path=Path("labels.npy"), sha256="2" * 64, size_bytes=1),
    metric="accuracy.top1",
)
BARE = bare_workload()


def device(name: str, state: DeviceState = DeviceState.ACTIVE) -> Device:
    address = Address.parse(f"virtual://phone?name={name}")
    return Device(name=name, type="phone", address=address, state=state)


def model(name: str, *formats: str) -> Candidate:
    files = (
        ModelFile(
            format=format_name,
            artifact=Artifact(path=Path(f"{name}.{format_name}"), sha256="0" * 64, size_bytes=1),
        )
        for format_name in formats or ("onnx",)
    )
    return Candidate(name=name, files=tuple(files))


ONE = ((Arm.CANDIDATE, model("new")),)
TWO = ((Arm.BASELINE, model("old")), (Arm.CANDIDATE, model("new")))


def plan(
    suite: Suite = SUITE,
    devices: tuple[Device, ...] = (device("a"),),
    workload: Workload = LABELLED,
    models: tuple[tuple[Arm, Candidate], ...] = ONE,
    rounds: int = 5,
) -> Plan:
    return make_plan(suite, devices, workload, models, rounds=rounds)


def test_every_device_gets_a_job_per_accelerator_in_the_order_written():
    made = plan(replace(SUITE, accelerators=("cpu", "npu")), (device("b"), device("a")))
    assert [(job.device.name, job.accelerator) for job in made.jobs] == [
        ("b", "cpu"),
        ("b", "npu"),
        ("a", "cpu"),
        ("a", "npu"),
    ]
    assert (made.suite, made.skips) == ("digits", ())


def test_a_job_carries_what_was_asked_for():
    (job,) = plan(models=TWO, rounds=7).jobs
    assert (job.workload, job.load, job.runtime) == (LABELLED, SUITE.load, "ort_python")
    assert job.measures == SUITE.measures
    assert job.rounds == 7
    assert [(arm.arm, arm.name, arm.artifact.name) for arm in job.arms] == [
        (Arm.BASELINE, "old", "old.onnx"),
        (Arm.CANDIDATE, "new", "new.onnx"),
    ]


@pytest.mark.parametrize("state", [DeviceState.MAINTENANCE, DeviceState.RETIRED])
def test_a_device_that_is_not_active_is_left_out_with_its_state(state):
    made = plan(devices=(device("a", state), device("b")))
    assert [job.device.name for job in made.jobs] == ["b"]
    (skip,) = made.skips
    assert (skip.device, skip.what) == ("a", "device")
    assert str(state) in skip.reason


@pytest.mark.parametrize(
    "workload", [BARE, replace(LABELLED, labels=None, metric="")], ids=["bare", "inputs alone"]
)
def test_accuracy_without_labels_is_left_out_with_the_lines_that_would_add_them(workload):
    made = plan(workload=workload)
    assert [job.measures for job in made.jobs] == [(Measure.LATENCY,)]
    (skip,) = made.skips
    assert (skip.device, skip.what) == ("a", "accuracy")
    for line in ("labels: labels.npy", "metric: accuracy.top1", "inputs: inputs.npz"):
        assert line in skip.reason


def test_a_suite_of_accuracy_alone_makes_no_job_of_a_bare_model():
    made = plan(replace(SUITE, measures=(Measure.ACCURACY,)), workload=BARE)
    assert made.jobs == ()
    assert [skip.what for skip in made.skips] == ["accuracy"]


def test_labels_that_nobody_asked_for_are_not_missed():
    assert plan(replace(SUITE, measures=(Measure.LATENCY,)), workload=BARE).skips == ()


@pytest.mark.parametrize(
    "models",
    [
        pytest.param(((Arm.CANDIDATE, model("new", "tflite")),), id="run"),
        pytest.param(
            ((Arm.BASELINE, model("new", "tflite")), (Arm.CANDIDATE, model("ok"))), id="baseline"
        ),
        pytest.param(
            ((Arm.BASELINE, model("ok")), (Arm.CANDIDATE, model("new", "tflite"))), id="candidate"
        ),
    ],
)
def test_a_model_in_no_format_that_the_runtime_takes_is_left_out_with_those_formats(models):
    made = plan(models=models)
    assert made.jobs == ()
    (skip,) = made.skips
    assert (skip.device, skip.what) == ("a", "ort_python")
    assert "'new'" in skip.reason
    assert "onnx" in skip.reason


def test_of_several_formats_the_one_that_the_runtime_takes_is_used():
    (job,) = plan(models=((Arm.CANDIDATE, model("new", "tflite", "onnx")),)).jobs
    assert job.arms[0].artifact.name == "new.onnx"


def test_a_scenario_that_the_runtime_cannot_produce_is_left_out():
    made = plan(replace(SUITE, load=Load(scenario=Scenario.SERVER)))
    assert made.jobs == ()
    assert made.skips[0].reason == "ort_python cannot produce server"


def test_time_is_not_asked_for_where_an_emulator_counts_instructions():
    board = Device(name="b", type="m4", address=Address.parse("virtual-mcu://"), runtime="mcu")
    suite = replace(SUITE, runtimes=(), measures=(Measure.LATENCY, Measure.COMPUTE))
    made = plan(suite, [board])
    assert [job.measures for job in made.jobs] == [(Measure.COMPUTE,)]
    (skip,) = made.skips
    assert (skip.device, skip.what) == ("b", "latency")
    assert "no measure of time" in skip.reason
    only_time = plan(replace(suite, measures=(Measure.LATENCY,)), [board])
    assert (only_time.jobs, [skip.what for skip in only_time.skips]) == ((), ["latency"])


@pytest.mark.parametrize(("address", "runtime"), [("virtual-mcu://", "ort_python"),
                                                  ("uart:///dev/x", "ort_native"),
                                                  ("uart:///dev/x", "mlperf_tiny"),
                                                  ("local://", "mcu")])  # fmt: skip
def test_a_runtime_is_left_out_where_it_does_not_run(address, runtime):
    odd = Device(name="b", type="m4", address=Address.parse(address))
    made = plan(replace(SUITE, runtimes=(runtime,)), [odd])
    assert made.jobs == ()
    assert "does not run on the platform" in made.skips[-1].reason


def test_an_unknown_runtime_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown runtime 'ort_pyton'") as caught:
        plan(replace(SUITE, runtimes=("ort_pyton",)))
    assert caught.value.hint == "did you mean 'ort_python'?"


def test_two_models_are_measured_as_abba_in_every_block():
    (job,) = plan(models=TWO, rounds=3).jobs
    slots = list(job.slots())
    assert job.compares
    assert [slot.arm for slot in slots] == 3 * [
        Arm.BASELINE,
        Arm.CANDIDATE,
        Arm.CANDIDATE,
        Arm.BASELINE,
    ]
    assert [slot.block for slot in slots] == [0] * 4 + [1] * 4 + [2] * 4
    assert [slot.position for slot in slots] == [0, 1, 2, 3] * 3


def test_abba_cancels_a_linear_drift():
    (job,) = plan(models=TWO, rounds=6).jobs
    total = {Arm.BASELINE: 0, Arm.CANDIDATE: 0}
    for time, slot in enumerate(job.slots()):
        total[slot.arm] += time
    assert total[Arm.BASELINE] == total[Arm.CANDIDATE]


@pytest.mark.parametrize("arm", [Arm.CANDIDATE, Arm.BASELINE])
def test_one_model_is_measured_once_per_round(arm):
    (job,) = plan(models=((arm, model("new")),), rounds=4).jobs
    slots = list(job.slots())
    assert not job.compares
    assert [(slot.block, slot.position, slot.arm) for slot in slots] == [
        (block, 0, arm) for block in range(4)
    ]


def test_what_was_left_out_does_not_keep_the_rest_from_being_done():
    made = plan(devices=(device("a", DeviceState.RETIRED), device("b"), device("c")), workload=BARE)
    assert [job.device.name for job in made.jobs] == ["b", "c"]
    assert [(skip.device, skip.what) for skip in made.skips] == [
        ("a", "device"),
        ("b", "accuracy"),
        ("c", "accuracy"),
    ]
