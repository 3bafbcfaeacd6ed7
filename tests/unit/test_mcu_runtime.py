"""The runtime of microcontrollers, against boards that go wrong when they are told to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from drivers.mcu.building import build_image
from drivers.mcu.client import Board, Refusal
from drivers.mcu.image import HEADER_BYTES, Cpu, Header, Target
from drivers.mcu.sections import read_elf
from drivers.mcu.toolchain import find_toolchain
from drivers.mcu.wire import Kind
from drivers.runtimes import mcu_updates
from drivers.runtimes.mcu import McuRuntime
from drivers.runtimes.mcu_blame import crashes_blamed
from farm.errors import (
    CommandTimeout,
    ConfigError,
    DeployFailed,
    DeviceError,
    DeviceRebooted,
    FarmError,
    InfraError,
    RuntimeCrashed,
    TransferCorrupt,
    UnsupportedModel,
    WrongAccelerator,
    WrongOutput,
)
from farm.model import Artifact, Load, Workload
from farm.protocols import Deployment, Runtime
from farm.record import Measured, TimeBasis
from farm.testing.runtimes import RuntimeContract
from tests.conftest import DIGITS
from tests.unit.mcu_fakes import FakeBoard, FakeLine, FakePower, fake_line

ITEMS = 4
QUICK = Load(min_duration_s=0.001, min_queries=20, warmup_s=0.01)


@pytest.fixture
def model() -> Artifact:
    return Artifact.of(DIGITS / "int8.onnx")


@pytest.fixture
def other_model() -> Artifact:
    return Artifact.of(DIGITS / "float.onnx")


@pytest.fixture
def third_model(model: Artifact, tmp_path: Path) -> Artifact:
    """The first one under another name, which is another image."""
    path = tmp_path / "third.onnx"
    path.write_bytes(model.path.read_bytes())
    return Artifact.of(path)


@pytest.fixture
def workload(tmp_path: Path) -> Workload:
    path = tmp_path / "some.npz"
    with np.load(DIGITS / "inputs.npz") as arrays:
        np.savez(path, image=arrays["image"][:ITEMS])
    inputs = Artifact.of(path)
    return Workload(name="digits", digest=inputs.sha256, inputs=inputs)


@pytest.fixture
def line(tmp_path: Path) -> FakeLine:
    return fake_line(tmp_path / "board")


@pytest.fixture
def board(line: FakeLine) -> FakeBoard:
    return line.board


@pytest.fixture
def deployed(line: FakeLine, model: Artifact, workload: Workload) -> Deployment:
    """A model that lies on the board, and was confirmed there."""
    deployment = McuRuntime(line).deploy(model, workload, accelerator="cpu")
    deployment.prepare()
    line.board.asked.clear()
    return deployment


class TestMcuRuntime(RuntimeContract):
    kind = McuRuntime

    @pytest.fixture
    def transport(self, line: FakeLine) -> FakeLine:
        return line

    def test_the_sizes_of_an_image_are_told(
        self, runtime: Runtime, model: Artifact, workload: Workload
    ) -> None:
        told = runtime.deploy(model, workload, accelerator="cpu").prepare()
        found = {m.metric: m.value for m in told}
        assert found["deploy.push_seconds"] > 0
        assert found["size.image_bytes"] == model.size_bytes + HEADER_BYTES
        assert {"size.text", "size.rodata", "size.data", "size.bss", "memory.arena"} < set(found)


def test_outputs_are_those_of_onnxruntime_to_the_bit(
    deployed: Deployment, model: Artifact, workload: Workload
) -> None:
    (output,) = deployed.infer()
    session = ort.InferenceSession(model.path, providers=["CPUExecutionProvider"])
    assert workload.inputs
    with np.load(workload.inputs.path) as arrays:
        wanted = [session.run(None, {"image": image[None]})[0] for image in arrays["image"]]
    assert output.name == "logits"
    assert np.array_equal(output.values, np.concatenate(wanted))


def test_the_first_model_that_answers_is_confirmed_and_no_other(
    line: FakeLine, model: Artifact, other_model: Artifact, workload: Workload
) -> None:
    runtime = McuRuntime(line)
    runtime.deploy(model, workload, accelerator="cpu").prepare()
    assert line.board.state == (0, 0, -1)
    runtime.deploy(other_model, workload, accelerator="cpu").prepare()
    assert line.board.state == (1, 0, 1)


def test_two_models_stay_and_a_change_costs_one_restart_and_no_push(
    line: FakeLine, model: Artifact, other_model: Artifact, workload: Workload
) -> None:
    runtime = McuRuntime(line)
    arms = [runtime.deploy(m, workload, accelerator="cpu") for m in (model, other_model)]
    for arm in arms:
        arm.prepare()
    line.board.asked.clear()
    for arm in (*arms, *reversed(arms)):
        arm.measure(QUICK)
    asked = line.board.asked
    assert (asked.count(Kind.BEGIN), asked.count(Kind.DATA)) == (0, 0)
    assert asked.count(Kind.RESET) == 3


def test_a_third_model_is_pushed_again_in_turn_and_never_over_the_confirmed_one(
    line: FakeLine, model: Artifact, other_model: Artifact, third_model: Artifact,
    workload: Workload,
) -> None:  # fmt: skip
    runtime = McuRuntime(line)
    models = (model, other_model, third_model)
    arms = [runtime.deploy(m, workload, accelerator="cpu") for m in models]
    alone = [arm.infer()[0].values for arm in arms]
    again = [arm.infer()[0].values for arm in arms]
    assert all(np.array_equal(one, two) for one, two in zip(alone, again, strict=True))
    assert line.board.state[1] == 0
    assert line.board.asked.count(Kind.BEGIN) == 1 + 2 * 2


def test_a_model_that_is_there_from_an_earlier_session_is_not_pushed(
    deployed: Deployment, board: FakeBoard, tmp_path: Path, model: Artifact, workload: Workload
) -> None:
    later = McuRuntime(fake_line(tmp_path, board))
    told = later.deploy(model, workload, accelerator="cpu").prepare()
    assert "deploy.push_seconds" not in [m.metric for m in told]
    assert Kind.BEGIN not in board.asked


def test_a_board_with_one_slot_says_that_it_has_no_other(
    line: FakeLine, model: Artifact, other_model: Artifact, workload: Workload
) -> None:
    runtime = McuRuntime(line)
    runtime.deploy(model, workload, accelerator="cpu").prepare()
    told = line.board._slots.describe()["slots"]
    line.board.told["slots"] = told[:1]
    with pytest.raises(DeviceError, match="no free slot"):
        runtime.deploy(other_model, workload, accelerator="cpu").prepare()


def test_a_board_that_starts_something_else_is_not_fit(
    line: FakeLine, model: Artifact, workload: Workload
) -> None:
    line.board.told["running"] = -1
    with pytest.raises(DeviceError, match="does not start slot 0"):
        McuRuntime(line).deploy(model, workload, accelerator="cpu").prepare()


def test_a_model_in_the_firmware_runs_if_it_is_the_one(
    tmp_path: Path, model: Artifact, other_model: Artifact, workload: Workload
) -> None:
    board = FakeBoard(tmp_path / "b", built_in=model.path.read_bytes(), sha256=model.sha256)
    runtime = McuRuntime(fake_line(tmp_path, board))
    assert {f.name for f in runtime.facts()} == {"accelerators", "model"}
    deployment = runtime.deploy(model, workload, accelerator="cpu")
    assert deployment.prepare() == ()
    assert len(deployment.infer()[0].values) == ITEMS
    assert deployment.try_updates(None) == ()
    with pytest.raises(DeployFailed, match="another model built in"):
        runtime.deploy(other_model, workload, accelerator="cpu").prepare()


def test_nothing_runs_elsewhere_than_on_the_processor(
    line: FakeLine, model: Artifact, workload: Workload
) -> None:
    with pytest.raises(WrongAccelerator, match="cuda"):
        McuRuntime(line).deploy(model, workload, accelerator="cuda")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"image": np.zeros((2, 1, 8, 8), np.float32)}, "takes uint8 1x1x8x8"),
        ({"image": np.zeros((2, 1, 8, 7), np.uint8)}, "the workload has uint8 1x1x8x7"),
        ({"image": np.zeros((0, 1, 8, 8), np.uint8)}, "no items"),
        ({"pixels": np.zeros((2, 1, 8, 8), np.uint8)}, "the workload has pixels"),
        ({"image": np.zeros(1, np.uint8), "more": np.zeros(1, np.uint8)}, "has image, more"),
    ],
    ids=["type", "shape", "empty", "name", "two"],
)
def test_inputs_that_do_not_fit_are_told(
    line: FakeLine, model: Artifact, tmp_path: Path, arrays: dict[str, np.ndarray], words: str
) -> None:
    path = tmp_path / "wrong.npz"
    np.savez(path, **arrays)
    wrong = Workload(name="w", digest="0", inputs=Artifact.of(path))
    with pytest.raises(DeployFailed, match=words) as caught:
        McuRuntime(line).deploy(model, wrong, accelerator="cpu")
    assert caught.value.hint


def test_inputs_that_are_no_archive_are_the_authors(
    line: FakeLine, model: Artifact, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.npz"
    path.write_bytes(b"PK but no more")
    wrong = Workload(name="w", digest="0", inputs=Artifact.of(path))
    with pytest.raises(ConfigError, match="cannot be read"):
        McuRuntime(line).deploy(model, wrong, accelerator="cpu")


def test_a_bare_model_is_measured_on_a_seeded_input_and_has_no_items(
    line: FakeLine, model: Artifact
) -> None:
    bare = Workload(name="seeded-inputs", digest="0")
    deployment = McuRuntime(line).deploy(model, bare, accelerator="cpu")
    assert deployment.measure(QUICK).traces
    with pytest.raises(ConfigError, match="no items"):
        deployment.infer()
    sized = replace(bare, dimensions=(("N", 2),))
    with pytest.raises(DeployFailed, match="no sizes can be given"):
        McuRuntime(line).deploy(model, sized, accelerator="cpu")


def _counted(line: FakeLine, model: Artifact, workload: Workload, *ticks: int) -> Measured:
    line.board.ticks = cycle(ticks)
    line.board.told |= {"ticks": "timer", "tick_hz": 25_000_000}
    return McuRuntime(line).deploy(model, workload, accelerator="cpu").measure(QUICK)


def test_under_an_emulator_instructions_are_counted_and_nothing_is_a_time(
    tmp_path: Path, model: Artifact, workload: Workload
) -> None:
    line = fake_line(tmp_path / "b", icount_shift="7")
    measured = _counted(line, model, workload, 3200)
    values = {m.metric: m.value for m in measured.scalars}
    assert values == {"compute.instructions": 1000, "memory.stack_peak": 1444}
    assert measured.time_basis is TimeBasis.ICOUNT
    assert measured.traces == ()
    assert [fact.name for fact in measured.facts] == ["measured_input"]


def test_counts_that_differ_are_told_and_the_largest_is_the_one(
    tmp_path: Path, model: Artifact, workload: Workload
) -> None:
    line = fake_line(tmp_path / "b", icount_shift="7")
    measured = _counted(line, model, workload, 3200, 3232, 3200)
    assert measured.scalars[0].value == 1010
    assert "from 1000 to 1010" in measured.facts[1].value


def test_cycles_are_latency_and_a_median(line: FakeLine, deployed: Deployment) -> None:
    line.board.ticks = cycle([1000, 1200, 5000])
    measured = deployed.measure(replace(QUICK, min_queries=300))
    (latency,) = measured.traces
    assert len(latency.values) == 300
    assert set(latency.values) == {1_000_000, 1_200_000, 5_000_000}
    assert {m.metric: m.value for m in measured.scalars}["compute.cycles"] == 1200
    assert measured.time_basis is TimeBasis.CYCLES


def test_a_timer_is_latency_and_no_cycles(line: FakeLine, deployed: Deployment) -> None:
    line.board.told["ticks"] = "timer"
    measured = deployed.measure(QUICK)
    assert [m.metric for m in measured.scalars] == ["memory.stack_peak"]
    assert measured.time_basis is TimeBasis.WALL
    assert len(measured.traces[0].values) >= QUICK.min_queries


@pytest.mark.parametrize(
    ("ticks", "settled"), [((1000,), "true"), ((1000, 3000, 9000), "false")], ids=["", "never"]
)
def test_warm_up_goes_on_until_it_settles_or_its_time_is_over(
    line: FakeLine, deployed: Deployment, ticks: tuple[int, ...], settled: str
) -> None:
    line.board.told["tick_hz"] = 10_000  # an inference takes 0.1 s and longer
    line.board.ticks = cycle(ticks)
    facts = {f.name: f.value for f in deployed.measure(replace(QUICK, warmup_s=3.0)).facts}
    assert facts["warmup_settled"] == settled


def test_a_counter_that_stands_still_is_not_fit(line: FakeLine, deployed: Deployment) -> None:
    line.board.ticks = cycle([0])
    with pytest.raises(DeviceError, match="less than a tick"):
        deployed.measure(QUICK)


def test_a_counter_that_stops_does_not_make_an_endless_window(
    line: FakeLine, deployed: Deployment
) -> None:
    line.board.ticks = iter([1000, *[0] * 100_000])
    load = replace(QUICK, min_queries=10, min_duration_s=0.01, max_duration_s=0.02)
    assert deployed.measure(load).traces


def test_no_request_asks_for_more_runs_than_fit(line: FakeLine, deployed: Deployment) -> None:
    line.board.told["max_payload"] = 64
    measured = deployed.measure(QUICK)
    assert len(measured.traces[0].values) >= QUICK.min_queries


@pytest.mark.parametrize(
    ("cause", "kind", "words"),
    [
        ("fault", RuntimeCrashed, "crashed with a usage fault at 0x21000100"),
        ("watchdog", RuntimeCrashed, "did not end within"),
        ("power", DeviceRebooted, "it restarted"),
        ("silent", CommandTimeout, "no answer"),
    ],
)
def test_a_restart_under_a_model_is_blamed_on_whose_fault_it_is(
    board: FakeBoard, deployed: Deployment, cause: str, kind: type[FarmError], words: str
) -> None:
    board.trouble = {(Kind.ITEM, 2): cause}
    with pytest.raises(kind, match=words) as caught:
        deployed.infer()
    assert type(caught.value) is kind
    if kind is RuntimeCrashed:
        assert "boot" in [exhibit.name for exhibit in caught.value.evidence]
    assert len(deployed.infer()[0].values) == ITEMS  # the next session finds nothing broken


@pytest.mark.parametrize(
    ("request_kind", "refusal", "kind"),
    [
        (Kind.BEGIN, Refusal.TOO_LONG, DeployFailed),
        (Kind.DATA, Refusal.FLASH, DeviceError),
        (Kind.COMMIT, Refusal.CORRUPT, TransferCorrupt),
        (Kind.COMMIT, Refusal.WRONG_CPU, DeviceError),
        (Kind.ITEM, Refusal.NO_MODEL, DeviceError),
        (Kind.ITEM, Refusal.STALE, DeviceRebooted),
    ],
)
def test_what_the_board_refuses_is_blamed_on_whose_fault_it_is(
    line: FakeLine, model: Artifact, workload: Workload, request_kind: Kind, refusal: Refusal,
    kind: type[FarmError],
) -> None:  # fmt: skip
    line.board.trouble = {(request_kind, 1): refusal}
    deployment = McuRuntime(line).deploy(model, workload, accelerator="cpu")
    with pytest.raises(kind, match="as the test wants it") as caught:
        deployment.prepare()
    assert type(caught.value) is kind
    deployment.prepare()


@pytest.mark.parametrize(
    ("shortened", "max_payload", "words"),
    [
        (Kind.ITEM, 4096, "of an output of 40"),
        (Kind.INFER, 64, "of 1 runs"),
        (Kind.OUTPUT, 64, "of an output of 40"),
    ],
)
def test_an_answer_of_another_length_is_the_lines(
    line: FakeLine, deployed: Deployment, shortened: Kind, max_payload: int, words: str
) -> None:
    line.board.told["max_payload"] = max_payload  # longer items go in pieces

    def exchange(request: bytes, *, timeout_s: float) -> bytes:
        answer = FakeLine.exchange(line, request, timeout_s=timeout_s)
        return answer[:-3] if request[0] == shortened else answer

    line.exchange = exchange  # type: ignore[method-assign]
    with pytest.raises(InfraError, match=words):
        deployed.infer()


def test_outputs_that_are_no_numbers_are_the_models(
    line: FakeLine, model: Artifact, workload: Workload, deployed: Deployment
) -> None:
    def poisoned(request: bytes, *, timeout_s: float) -> bytes:
        answer = FakeLine.exchange(line, request, timeout_s=timeout_s)
        if request[0] == Kind.ITEM:
            return answer[:1] + np.full((len(answer) - 1) // 4, np.nan, "<f4").tobytes()
        return answer

    line.exchange = poisoned  # type: ignore[method-assign]
    with pytest.raises(WrongOutput, match="logits"):
        deployed.infer()


def test_a_model_that_cannot_be_built_is_refused_before_anything_is_pushed(
    line: FakeLine, workload: Workload, tmp_path: Path
) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(UnsupportedModel):
        McuRuntime(line).deploy(Artifact.of(path), workload, accelerator="cpu")
    assert Kind.BEGIN not in line.board.asked


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"toolchain": "clang"}, "no toolchain 'clang'"),
        ({"icount_shift": "fast"}, "icount_shift 'fast'"),
        ({"icount_shift": "11"}, "icount_shift '11'"),
        ({"cflags": "-D'"}, "cannot be read"),
    ],
)
def test_options_that_can_never_be_used_are_refused(
    tmp_path: Path, options: dict[str, str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        McuRuntime.check(fake_line(tmp_path, **options).device)
    assert caught.value.hint


# Updates that go wrong


UPDATES = {
    "update.corrupt_refused": 4,
    "update.mismatch_refused": 5,
    "update.fault_rolls_back": 1,
    "update.hang_rolls_back": 1,
    "update.power_cut_survived": 6,
}


def test_a_board_that_does_everything_right_survives_every_update(
    board: FakeBoard, deployed: Deployment
) -> None:
    power = FakePower(board)
    measured = {m.metric: m for m in deployed.try_updates(power)}
    assert {name: m.n for name, m in measured.items()} == UPDATES
    assert all(m.value == 1 and m.unit == "ratio" for m in measured.values())
    assert deployed.notes() == ()
    assert power.cuts == len(mcu_updates.STEPS)
    assert board.state == (1, 1, -1)  # the last update was confirmed
    assert len(deployed.infer()[0].values) == ITEMS


def test_without_a_power_port_no_power_is_cut(deployed: Deployment) -> None:
    told = {m.metric for m in deployed.try_updates(None)}
    assert told == set(UPDATES) - {"update.power_cut_survived"}


def test_a_port_that_does_not_obey_is_the_labs(board: FakeBoard, deployed: Deployment) -> None:
    with pytest.raises(InfraError, match="does not obey"):
        deployed.try_updates(FakePower(board, broken=True))


def _failures(deployed: Deployment, board: FakeBoard) -> tuple[dict[str, float], str]:
    measured = deployed.try_updates(FakePower(board))
    failed = {m.metric: m.value for m in measured if m.value < 1}
    return failed, "\n".join(deployed.notes())


def _commit_instead(board: FakeBoard, commit: Callable[[int], None]) -> None:
    board._slots.commit = commit  # type: ignore[method-assign]


def test_a_board_that_takes_damaged_images_is_found(board: FakeBoard, deployed: Deployment) -> None:
    slots = board._slots
    honest = slots.commit

    def careless(slot: int) -> None:
        if slot in slots._coming:
            announced, content = slots._coming[slot]
            slots._file(slot).write_bytes(content)
            slots._set_whole(slot, announced)
            del slots._coming[slot]
            slots._keep(pending=slot, tried=False)
        else:
            honest(slot)

    _commit_instead(board, careless)
    failed, lines = _failures(deployed, board)
    assert failed["update.corrupt_refused"] == 0
    assert failed["update.mismatch_refused"] == 0
    assert "byte 0 of" in lines
    assert "the board took it" in lines


def test_a_board_that_keeps_trying_what_crashed_is_found(
    board: FakeBoard, deployed: Deployment
) -> None:
    slots = board._slots
    start = slots.start

    def stubborn() -> None:
        slots._keep(tried=False)
        start()

    slots.start = stubborn  # type: ignore[method-assign]
    failed, lines = _failures(deployed, board)
    assert failed["update.fault_rolls_back"] == 0
    assert failed["update.hang_rolls_back"] == 0
    assert "an image that faults: slot 1 runs after it" in lines
    assert failed["update.power_cut_survived"] == pytest.approx(5 / 6)
    assert "power cut after RESET: slot 1 runs after it" in lines


def test_a_board_without_a_watchdog_is_found_and_gets_its_power_cut(
    board: FakeBoard, deployed: Deployment
) -> None:
    restart = board.restart

    def hang(cause: str) -> None:
        if cause == "watchdog":
            board.is_on = False
        else:
            restart(cause)

    board.restart = hang  # type: ignore[method-assign]
    failed, lines = _failures(deployed, board)
    assert failed["update.hang_rolls_back"] == 0
    assert "an image that hangs: nothing restarted the board" in lines
    assert "update.power_cut_survived" not in failed


def test_a_board_that_dies_of_something_else_or_tries_nothing_is_found(
    board: FakeBoard, deployed: Deployment
) -> None:
    restart = board.restart

    def confused(cause: str) -> None:
        if cause == "watchdog":
            cause = "power"
        restart(cause)

    board.restart = confused  # type: ignore[method-assign]
    commit = board._slots.commit
    commits = []

    def forgetful(slot: int) -> None:
        commit(slot)
        commits.append(slot)
        if len(commits) == 1:
            board._slots._keep(pending=-1)

    _commit_instead(board, forgetful)
    failed, lines = _failures(deployed, board)
    assert "an image that faults: it was not tried" in lines
    assert "an image that hangs: ended by power, not by watchdog" in lines
    assert set(failed) == {"update.fault_rolls_back", "update.hang_rolls_back"}


def test_a_board_that_never_comes_back_ends_the_rehearsal(
    board: FakeBoard, deployed: Deployment
) -> None:
    power = FakePower(board)
    power.on = lambda: None  # type: ignore[method-assign]
    measured = {m.metric: m for m in deployed.try_updates(power)}
    assert (measured["update.power_cut_survived"].value, power.cuts) == (0, 1)
    assert "power cut after BEGIN: the board did not come back" in deployed.notes()[0]


def test_a_board_that_loses_its_model_is_found(board: FakeBoard, deployed: Deployment) -> None:
    power = FakePower(board)
    restart = board.restart

    def forget(cause: str) -> None:
        if cause == "power" and power.cuts == 2:
            board._slots._keep(confirmed=-1)
        restart(cause)

    board.restart = forget  # type: ignore[method-assign]
    measured = {m.metric: m for m in deployed.try_updates(power)}
    assert measured["update.power_cut_survived"].value == 0.5
    assert measured["update.power_cut_survived"].n == 2
    assert "power cut after half of the image: nothing runs" in deployed.notes()[0]


def test_a_restart_that_nobody_expected_is_the_labs(board: FakeBoard, deployed: Deployment) -> None:
    board.trouble = {(Kind.DATA, 3): "power"}
    with pytest.raises(DeviceRebooted):
        deployed.try_updates(None)


# With the code of a real processor


CORTEX = Target(
    cpu=Cpu.CORTEX_M4F, slot_address=0x21000000, slot_bytes=1 << 21,
    ram_address=0x21400000, ram_bytes=1 << 20,
)  # fmt: skip


def test_images_that_die_differ_at_their_entry_and_their_fault_is_told_by_its_function(
    lacks: Callable[[str], None], model: Artifact, line: FakeLine
) -> None:
    try:
        find_toolchain()
    except ConfigError as error:
        lacks(f"{error.message}: {error.hint}")
    built = build_image(model, CORTEX)
    at = (built.header.entry & ~1) - built.header.base
    assert HEADER_BYTES <= at < len(built.image)
    fault, hang = mcu_updates._dying(built)
    assert (fault[at : at + 2], hang[at : at + 2]) == (b"\x00\xde", b"\xfe\xe7")
    assert fault[:at] + fault[at + 2 :] == hang[:at] + hang[at + 2 :]
    for _, image, _ in list(mcu_updates._mismatched(built))[:4]:
        assert Header.unpack(image) != built.header
        assert image[HEADER_BYTES:] == built.image[HEADER_BYTES:]
    assert built.elf
    symbols = read_elf(built.elf).symbols
    entry = next(name for name, value in symbols.items() if value == built.header.entry)
    pc = built.header.entry & ~1
    assert f"at {pc + 2:#010x} in {entry}+0x2" in _crash(line, built.elf, pc + 2)
    assert _crash(line, built.elf, pc + (1 << 24)).endswith(", outside of its code")
    assert _crash(line, built.elf, "nonsense").endswith("bus fault")
    built.elf.write_bytes(b"no program any more")
    assert _crash(line, built.elf, pc).endswith(f"at {pc:#010x}")


def _crash(line: FakeLine, elf: Path, pc: object) -> str:
    """What a person is told of a fault at an address."""
    line.board.told |= {"cause": "fault", "last_fault": {"pc": pc, "cause": "bus"}}
    with pytest.raises(RuntimeCrashed) as caught, crashes_blamed(Board(line), elf, 1.0):
        raise DeviceRebooted("it restarted")
    return caught.value.message
