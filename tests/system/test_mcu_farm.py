"""Whole runs on emulated boards: bad lines, dying emulators, dying models, many boards at once."""

from __future__ import annotations

import random
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

import farm
from drivers.lines.uart import UartLine
from drivers.mcu.client import Board
from drivers.mcu.wire import ANSWER, SYNC, Kind
from drivers.virtual.machine import switch_all_off
from drivers.virtual.mcu import Unit
from farm.errors import ConnectError, ConnectionLost
from farm.model import Address, Arm
from farm.record import JobResult, Outcome, TimeBasis, Verdict
from farm.store import reader, rows
from farm.store.database import open_store
from tests.system.emulated_boards import benches, device, kill_emulators, needs_emulator
from tests.system.serial_proxy import SerialProxy

pytestmark = pytest.mark.system

SEED = 20_261_124
KILLS = 4
SILENCE_S = (0.02, 0.6)
LONGEST_S = 0.8
MANY = 40
"""Repeats, so that a run takes longer than the longest wait before the kill."""
BOARDS = 8
REPEATS = 10
TABLE = 8
SIDE = 512
"""A product of two squares of that side takes a billion instructions."""

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Firmware and images are built once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _needs(
    cache: Path, lacks: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    needs_emulator(lacks)
    yield
    switch_all_off()


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[Unit]:
    """A board that is on."""
    unit = Unit(device(), tmp_path / "board")
    yield unit
    unit.switch_off()


def lab(folder: Path, unit: Unit, place: object = "") -> Path:
    """An inventory in which a board is reached like a real one, over its port."""
    path = folder / "inventory.yaml"
    entry = {
        "type": "emulated",
        "address": f"uart://{place or unit.address.place}",
        "simulated": "true",
        "power": "virtual-mcu",
        "control": dict(unit.options)["control"],
        "icount_shift": "7",
    }
    lines = ["schema: farm.inventory/1", "devices:", "  m4:"]
    path.write_text("\n".join([*lines, *(f"    {n}: {v}" for n, v in entry.items())]) + "\n")
    return path


def assert_right(result: JobResult, few: Path, moment: str = "") -> None:
    """It is complete, every item is what onnxruntime says, and every repeat is there once."""
    assert (result.outcome, result.error) == (Outcome.COMPLETED, None), moment
    session = onnxruntime.InferenceSession(few / "int8.onnx")
    images, labels = np.load(few / "inputs.npz")["image"], np.load(few / "labels.npy")
    classes = [int(session.run(None, {"image": image[None]})[0].argmax()) for image in images]
    correct = result.summary(Arm.CANDIDATE).correct
    assert np.array_equal(correct, np.array(classes) == labels), moment
    assert result.time_basis is TimeBasis.ICOUNT, moment
    assert result.simulated, moment
    assert len(counts(result)) == 1, moment


def counts(result: JobResult) -> set[float | None]:
    """What the repeats say of the instructions of one inference."""
    return {repeat.value("compute.instructions") for repeat in result.repeats}


def infer_for_ever(board: Board) -> None:
    while True:
        board.infer(count=1000, timeout_s=1000.0)


def test_a_run_over_a_line_that_talks_by_itself_and_loses_frames(
    unit: Unit, few: Path, suite: Write, tmp_path: Path
) -> None:
    """Nonsense to both sides whenever they are silent, and heads of frames that never come."""
    dice = random.Random(SEED)
    link = tmp_path / "line"
    with closing(SerialProxy(Path(unit.address.place), link, seed=SEED)) as proxy:
        proxy.drop = proxy.corrupt = proxy.duplicate = 0.002  # of pieces of a few bytes

        def chatter() -> None:
            endless = SYNC + struct.pack("<BHHI", Kind.OUTPUT | ANSWER, 1, 1, 128 << 10)
            while not over.is_set():
                before = proxy.passed
                over.wait(dice.uniform(*SILENCE_S))
                if proxy.passed == before:
                    proxy.say(dice.choice((dice.randbytes(300), endless, SYNC, b"printf\r\n")))
                    proxy.hear(dice.choice((dice.randbytes(300), endless, SYNC, b"AT\r\n")))
                    said.append(before)

        over, said = threading.Event(), list[int]()
        talker = threading.Thread(target=chatter)
        talker.start()
        try:
            summary = farm.run(
                str(suite("accuracy, compute, memory")), workload=few,
                inventory=lab(tmp_path, unit, link), store=tmp_path / "store",
            )  # fmt: skip
        finally:
            over.set()
            talker.join()
        assert proxy.harmed
        assert len(said) > 5
    assert_right(summary.results[0], few)


def test_an_announced_frame_that_never_comes_swallows_no_answer(unit: Unit, tmp_path: Path) -> None:
    link = tmp_path / "line"
    known = replace(device(), address=Address(scheme="uart", place=str(link)))
    with (
        closing(SerialProxy(Path(unit.address.place), link)) as proxy,
        closing(UartLine(known)) as line,
    ):
        for kind in (Kind.HELLO | ANSWER, Kind.ECHO | ANSWER, Kind.BOOT):
            for length in (16, 128 << 10, (128 << 10) + 1):
                head = SYNC + struct.pack("<BHHI", kind, 1, 1, length)
                proxy.say(head)
                proxy.hear(head)
                assert Board(line).echo(b"here") == b"here"


@pytest.mark.timeout(30)
def test_a_frame_that_never_comes_swallows_no_answer_of_a_board_that_prints(
    unit: Unit, tmp_path: Path
) -> None:
    """The line is never silent, so only the time that a frame may take tells that it is torn."""
    link = tmp_path / "line"
    address = Address(scheme="uart", place=str(link))
    known = replace(device(), address=address, options=(("baud", "921600"),))
    with (
        closing(SerialProxy(Path(unit.address.place), link)) as proxy,
        closing(UartLine(known)) as line,
    ):

        def print_on() -> None:
            while not over.wait(0.02):
                proxy.say(b"t=25C\r\n")

        over = threading.Event()
        printer = threading.Thread(target=print_on)
        proxy.say(SYNC + struct.pack("<BHHI", Kind.ECHO | ANSWER, 1, 1, 128 << 10))
        printer.start()
        try:
            answer = line.exchange(bytes([Kind.ECHO]) + b"here", timeout_s=1000)
            assert answer[1:] == b"here"
        finally:
            over.set()
            printer.join()


def test_a_second_controller_is_refused_and_the_first_goes_on(unit: Unit) -> None:
    known = replace(device(), address=unit.address, options=unit.options)
    with closing(UartLine(known)) as line:
        with pytest.raises(ConnectError, match="another program holds"):
            UartLine(known)
        assert Board(line).echo(b"mine") == b"mine"
    UartLine(known).close()


def test_an_emulator_that_dies_in_an_inference_is_a_lost_connection_at_once(
    tmp_path: Path,
) -> None:
    """Nobody waits for the end of what was asked, which would be longer than this test may last."""
    with benches(tmp_path, 1) as (bench,):
        killer = threading.Timer(0.2, kill_emulators, [tmp_path])
        killer.start()
        with pytest.raises(ConnectionLost, match="vanished") as caught:
            infer_for_ever(bench.board)
        killer.join()
        assert caught.value.hint
        bench.power.on()
        hello = bench.board.back()
        bench.models.assert_right(bench.board, hello, "after it")


def test_a_job_whose_board_dies_is_taken_up_again_and_kept_once(
    unit: Unit, few: Path, suite: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drivers.lines.serial_line.RETURN_S", 0.2)  # only its power brings it back
    dice = random.Random(SEED)
    quick = suite("accuracy, compute, memory")
    quick.write_text(quick.read_text().replace("repeats: 2", f"repeats: {MANY}"))
    inventory, store = lab(tmp_path, unit), tmp_path / "store"
    struck, known = 0, set()
    for number in range(1, KILLS + 1):
        after_s = dice.uniform(0.0, LONGEST_S)
        killer = threading.Timer(after_s, kill_emulators, [tmp_path / "board"])
        killer.start()
        summary = farm.run(str(quick), workload=few, inventory=inventory, store=store)
        killer.cancel()
        killer.join()
        (result,) = summary.results
        moment = f"seed {SEED}, killed after {after_s:.3f} s: {result.error} {result.notes}"
        print(moment, result.attempts)
        assert_right(result, few, moment)
        struck += result.attempts > 1
        known |= counts(result)
        with open_store(store, read_only=True) as opened:
            assert rows.read_holders(opened) == {}, moment
            table = reader.jobs(opened)
            assert len(table) == number, moment
            newest = max(int(job) for job in table["job_id"])
            kept = reader.repeats(opened, newest).drop_duplicates(["block", "position"])
            assert list(zip(kept["block"], kept["position"], strict=True)) == [
                (repeat.block, repeat.position) for repeat in result.repeats
            ], moment
    assert struck, "no kill struck anything"
    assert len(known) == 1


def build(path: Path, nodes: list[NodeProto], **constants: object) -> Path:
    """A model that takes and gives what a digits model does."""
    graph = helper.make_graph(
        nodes,
        "bad",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def reaching_far(path: Path) -> Path:
    """Looks things up in a table by what is in the picture, far behind the end of the table.

    The standard calls such an index an error, and nothing in C looks for it.
    """
    node = helper.make_node
    return build(
        path,
        [
            node("Cast", ["image"], ["wide"], to=TensorProto.INT64),
            node("Reshape", ["wide", "flat"], ["row"]),
            node("Slice", ["row", "first", "last", "axis"], ["ten"]),
            node("Mul", ["ten", "far"], ["index"]),
            node("Gather", ["table", "index"], ["scores"]),
        ],
        flat=[1, 64], first=[0], last=[10], axis=[1], far=100_000_000,
        table=np.zeros(TABLE, np.float32),
    )  # fmt: skip


def never_ending(path: Path) -> Path:
    """Works longer than any inference may."""
    node = helper.make_node
    return build(
        path,
        [
            node("Cast", ["image"], ["whole"], to=TensorProto.INT32),
            node("ReduceSum", ["whole"], ["sum"], keepdims=0),
            node("Expand", ["sum", "square"], ["large"]),
            node("MatMul", ["large", "large"], ["product"]),
            node("Slice", ["product", "first", "last", "axes"], ["ten"]),
            node("Cast", ["ten"], ["scores"], to=TensorProto.FLOAT),
        ],
        square=[SIDE, SIDE], first=[0, 0], last=[1, 10], axes=[0, 1],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (reaching_far, "the model crashed with a bus fault at 0x"),
        (never_ending, "the model did not end within 120 s, the watchdog restarted the board"),
    ],
)
def test_a_candidate_that_takes_the_board_down_fails_and_the_baseline_goes_on(
    make: Callable[[Path], Path], told: str, unit: Unit, few: Path, tmp_path: Path
) -> None:
    inventory, store = lab(tmp_path, unit), tmp_path / "store"
    answer = farm.gate(
        "mcu", candidate=make(tmp_path / "bad.onnx"), baseline=few, inventory=inventory, store=store
    )
    assert answer.verdict is Verdict.FAIL
    reasons = {reason for cell in answer.cells for reason in cell.reasons}
    assert any(told in reason for reason in reasons), reasons
    after = farm.run("mcu", workload=few, inventory=inventory, store=store).results[0]
    assert_right(after, few)
    assert "deploy.push_seconds" not in {
        m.metric for m in after.summary(Arm.CANDIDATE).measurements
    }, "the baseline was not on the board any more"


def test_eight_boards_at_once_count_the_same_in_every_repeat(
    few: Path, suite: Write, tmp_path: Path
) -> None:
    quick = suite("accuracy, compute, memory")
    quick.write_text(quick.read_text().replace("repeats: 2", f"repeats: {REPEATS}"))
    lines = ["schema: farm.inventory/1", "devices:"]
    for number in range(BOARDS):
        lines += [
            f"  m4-{number}:",
            "    type: emulated",
            f"    host: host-{number}",
            f"    address: virtual-mcu://?engine=qemu&root={tmp_path}/board-{number}",
        ]
    inventory = tmp_path / "inventory.yaml"
    inventory.write_text("\n".join(lines) + "\n")
    at_work: set[str] = set()
    most = 0

    def watch(step: object) -> None:
        nonlocal most
        at_work.add(step.device)  # type: ignore[attr-defined]
        if step.finished:  # type: ignore[attr-defined]
            at_work.discard(step.device)  # type: ignore[attr-defined]
        most = max(most, len(at_work))

    store = tmp_path / "store"
    options = {"workload": few, "inventory": inventory, "store": store}
    (alone,) = farm.run(str(quick), devices=["m4-0"], **options).results  # also builds the image
    summary = farm.run(str(quick), progress=watch, **options)
    assert most == BOARDS
    assert len(summary.results) == BOARDS
    known = counts(alone)
    for result in summary.results:
        assert_right(result, few)
        assert len(result.repeats) == REPEATS
        assert result.attempts == 1
        assert counts(result) == known
