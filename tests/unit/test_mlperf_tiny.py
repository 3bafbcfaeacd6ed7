"""The text protocol of MLPerf Tiny: what its firmwares print, and what is made of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.mcu.mlperf_text import Firmware, Inferred
from drivers.platforms.mlperf_tiny import MlperfTinyPlatform
from drivers.runtimes.mlperf_inputs import read_items
from drivers.runtimes.mlperf_tiny import MlperfTiny
from drivers.virtual.device import VirtualClock
from drivers.virtual.mlperf_dut import VirtualMlperfTiny
from drivers.virtual.mlperf_firmware import MCU, ReferenceFirmware
from drivers.virtual.physics import Noise
from farm.connection import Line
from farm.errors import (
    CommandTimeout,
    ConfigError,
    ConnectError,
    DeployFailed,
    DeviceRebooted,
    FarmError,
    InfraError,
    RuntimeCrashed,
    TransferCorrupt,
    UnsupportedModel,
    WorkloadError,
    WrongAccelerator,
    WrongOutput,
)
from farm.model import Address, Artifact, Device, Load, Workload
from farm.protocols import Limits
from farm.record import TimeBasis
from farm.workload import read_workload

Answers = Callable[[str], str]
GOOD = (
    "m-warmup-start-0\r\nm-warmup-done\r\nm-infer-start-1\r\nm-lap-us-100\r\nm-lap-us-350\r\n"
    "m-infer-done\r\nm-results-[0.100,0.900]\r\n"
)


class PlainLine(Line):
    """Hands every request to a function; flashing is kept in a list."""

    platform, runtime, simulated, host = "mlperf_tiny", "mlperf_tiny", True, ""

    def __init__(self, answers: Answers, **options: str) -> None:
        super().__init__(
            Device(
                name="dut", type="t", address=Address(scheme="x", place=""),
                options=tuple(options.items()),
            )
        )  # fmt: skip
        self.clock = VirtualClock()
        self.answers = answers
        self.asked: list[str] = []
        self.flashed: list[str] = []
        self.dead: set[str] = set()

    def exchange(self, request: bytes, *, timeout_s: float) -> bytes:
        text = request.decode()
        assert "%" not in text
        self.asked.append(text)
        return self.answers(text).encode()

    def console(self) -> str:
        return "hello\r\n"

    @classmethod
    def bring_up(cls, device: Device, image: Artifact) -> None:
        raise NotImplementedError

    def flash(self, image: Artifact) -> None:
        self.flashed.append(image.name)
        self.clock.advance(2.0)
        if image.name in self.dead:
            raise InfraError("it does not answer after it was flashed")

    def close(self) -> None:
        pass


def scripted(**answers: str) -> Answers:
    """Answers by the first word of a request."""
    return lambda text: answers.get(text.split()[0], "")


def firmware(infer: str = GOOD, **answers: str) -> Firmware:
    return Firmware(PlainLine(scripted(infer=infer, **answers)))


def infer(text: str) -> Inferred:
    return firmware(text).infer(1, warmup=0, timeout_s=1)


@pytest.mark.parametrize(
    ("printed", "numbers"),
    [
        ("0.1,0.9", (0.1, 0.9)),
        ("0.996,0.000,", (0.996, 0.0)),
        (" 0.5 , 0.25 ,,", (0.5, 0.25)),
        ("12.345", (12.345,)),
        ("-3,1e2", (-3.0, 100.0)),
    ],
)
def test_results_are_read_as_references_print_them(printed, numbers):
    found = infer(GOOD.replace("0.100,0.900", printed))
    assert found.results == numbers
    assert found.took_us == 250


@pytest.mark.parametrize("noise", ["", "Initialized\r\n", "m-something-new\r\n", "\xff\r\n \r\n"])
def test_lines_in_between_and_spaces_mean_nothing(noise):
    lines = GOOD.splitlines()
    assert infer(noise + f"  \r\n{noise}".join(lines)).results == (0.1, 0.9)


def test_laps_wrap_after_72_minutes():
    late = GOOD.replace("us-100", "us-4294967196").replace("us-350", "us-50")
    assert infer(late).took_us == 150


@pytest.mark.parametrize("printed", ["", ",", "nan,0.1", "0.1,inf", "0.1,x", "0.1 0.2"])
def test_results_that_are_no_finite_numbers_are_the_models_fault(printed):
    with pytest.raises(WrongOutput, match="no finite numbers"):
        infer(GOOD.replace("0.100,0.900", printed))


@pytest.mark.parametrize("lost", ["m-lap-us-100", "m-infer-done", "m-results"])
def test_an_answer_with_a_part_missing_is_unusable(lost):
    with pytest.raises(WrongOutput, match="no two laps and results"):
        infer("\n".join(line for line in GOOD.splitlines() if not line.startswith(lost)))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("e-[Inference iterations must be >0]\r\n", WorkloadError),
        ("e-[Unknown command: infr]\r\n", TransferCorrupt),
        (GOOD.replace("start-1", "start-11"), TransferCorrupt),
        (GOOD.replace("warmup-start-0", "warmup-start-10"), TransferCorrupt),
        ("Input db has 12 elemented, expected 490\n" + GOOD, DeployFailed),
    ],
)
def test_what_a_firmware_complains_about_is_told(answer, kind):
    with pytest.raises(kind) as caught:
        infer(answer)
    assert type(caught.value) is kind


def test_an_input_goes_in_pieces_that_fit_the_buffer_of_a_firmware():
    def answer(text: str) -> str:
        if "load" in text:
            return "m-[Expecting 70 bytes]\r\n"
        return "m-load-done\r\n" if text == "db " + "41" * 8 else ""

    line = PlainLine(answer)
    Firmware(line).load(b"A" * 70)
    assert line.asked == ["db load 70", "db " + "41" * 31, "db " + "41" * 31, "db " + "41" * 8]


@pytest.mark.parametrize(
    ("first", "then", "kind"),
    [
        ("m-[Expecting 2 bytes]\r\n", "", TransferCorrupt),
        ("m-[Expecting 3 bytes]\r\n", "m-load-done\r\n", TransferCorrupt),
        ("m-[Expecting 2 bytes]\r\n", "e-[Insufficent number of hex digits]\r\n", TransferCorrupt),
        ("e-[Command 'db load' must be >0 bytes]\r\n", "", TransferCorrupt),
        ("Supplied buffer size 2 exceeds maximum of 1\n", "", DeployFailed),
    ],
)
def test_an_input_that_does_not_arrive_whole_is_noticed(first, then, kind):
    line = PlainLine(lambda text: first if "load" in text else then)
    with pytest.raises(kind):
        Firmware(line).load(b"ab")


@pytest.mark.parametrize(("lost", "arrives"), [(0, True), (1, True), (2, True), (3, False)])
def test_an_input_of_which_characters_got_lost_is_sent_again(lost, arrives):
    left = [lost]

    def answer(text: str) -> str:
        if "load" in text:
            return "m-[Expecting 2 bytes]\r\n"
        left[0] -= 1
        return "e-[Insufficent number of hex digits]\r\n" if left[0] >= 0 else "m-load-done\r\n"

    if arrives:
        Firmware(PlainLine(answer)).load(b"ab")
    else:
        with pytest.raises(TransferCorrupt):
            Firmware(PlainLine(answer)).load(b"ab")


WORDS = [
    *GOOD.splitlines(),
    "m-[Expecting 2 bytes]",
    "m-load-done",
    "e-[x]",
    "m-results-[]",
    "\xff",
]


@settings(derandomize=True, deadline=None)
@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=20), max_size=12))
def test_nothing_that_a_line_may_bring_is_more_than_an_error(lines):
    asked = Firmware(PlainLine(lambda text: "\r\n".join(lines)))
    for ask in (
        asked.name,
        asked.profile,
        asked.lap_us,
        lambda: asked.load(b"ab"),
        lambda: asked.infer(1, warmup=0, timeout_s=1),
    ):
        with suppress(FarmError):
            ask()


def test_something_that_is_no_reference_firmware_is_told_so():
    with pytest.raises(ConnectError, match="'name' is answered by 'login:'"):
        firmware(name="login:").name()
    with pytest.raises(ConnectError, match="'profile' is answered by nothing"):
        firmware().profile()


def _workload(folder: Path, values: np.ndarray | None, **others: np.ndarray) -> Workload:
    if values is None:
        return Workload(name="none", digest="d")
    np.savez(folder / "inputs.npz", x=values, **others)
    return Workload(name="task", digest="d", inputs=Artifact.of(folder / "inputs.npz"))


def test_items_are_sent_as_the_reference_firmwares_take_them(tmp_path):
    keywords = np.arange(2 * 490, dtype=np.int16).astype(np.int8).reshape(2, 49, 10, 1)
    items = read_items(_workload(tmp_path, keywords), "kws01")
    assert items.windows(1) == (keywords[1].tobytes(),)
    as_bytes = read_items(_workload(tmp_path, keywords.view(np.uint8)), "kws01")
    assert (as_bytes.rows == items.rows).all()


def test_pictures_of_a_quantised_model_become_the_bytes_of_colours(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
    numbers = (pixels.astype(np.int16) - 128).astype(np.int8)
    for values in (pixels, numbers):
        items = read_items(_workload(tmp_path, values), "ic01")
        assert items.windows(0) == (pixels[0].tobytes(),)


def test_windows_slide_over_a_spectrogram(tmp_path):
    values = np.arange(2 * 200 * 128, dtype=">f4").reshape(2, 200, 128)
    items = read_items(_workload(tmp_path, values), "ad01")
    windows = items.windows(1)
    assert len(windows) == 196
    assert np.frombuffer(windows[3], "<f4").tolist() == values[1].ravel()[384:1024].tolist()


@pytest.mark.parametrize("model", ["kws01", "ic01", "vww01", "ad01"])
def test_a_model_without_a_workload_gets_the_same_numbers_each_time(tmp_path, model):
    once, again = (read_items(_workload(tmp_path, None), model) for _ in range(2))
    assert (once.rows == again.rows).all()
    assert once.rows.shape == (1, once.task.bytes)


def test_the_items_of_an_unknown_model_are_sent_as_they_are(tmp_path):
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    assert read_items(_workload(tmp_path, values), "mine").windows(0) == (values[0].tobytes(),)
    with pytest.raises(DeployFailed, match="nobody here knows"):
        read_items(_workload(tmp_path, None), "mine")


@pytest.mark.parametrize(
    ("model", "values"),
    [
        ("ic01", np.zeros((1, 490), np.int8)),
        ("kws01", np.zeros((1, 490), np.float32)),
        ("kws01", np.zeros((1, 491), np.int8)),
        ("ad01", np.zeros((1, 640), np.int8)),
        ("ad01", np.zeros((1, 639), np.float32)),
        ("ad01", np.zeros((1, 641), np.float32)),
        ("ad01", np.zeros((1, 640), np.float64)),
    ],
)
def test_items_of_another_model_are_refused_and_both_are_named(tmp_path, model, values):
    with pytest.raises(DeployFailed, match=f"'{model}'.*'task'"):
        read_items(_workload(tmp_path, values), model)


@pytest.mark.parametrize(("task", "size"), [("kws01", 490), ("ad01", 2560)])
def test_the_documented_snippet_makes_a_workload(tmp_path, monkeypatch, task, size):
    source = tmp_path / "datasets" / task
    source.mkdir(parents=True)
    for name in ("a.bin", "b.bin"):
        (source / name).write_bytes(bytes(size))
    (source / "y_labels.csv").write_text("a.bin, 2, 0\nb.bin, 2, 1\n\n")
    text = (Path(__file__).parents[2] / "docs" / "mlperf-tiny.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0].replace("kws01", task, 1)
    code = code.replace("datasets/kws01", f"datasets/{task}")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    workload = read_workload(tmp_path / "workloads" / task)
    assert workload.metric == ("accuracy.auc" if task == "ad01" else "accuracy.top1")
    assert read_items(workload, task).rows.shape == (2, size)


def test_two_inputs_and_streams_are_refused(tmp_path):
    values = np.zeros((1, 490), np.int8)
    with pytest.raises(DeployFailed, match="takes one input"):
        read_items(_workload(tmp_path, values, y=values), "kws01")
    with pytest.raises(UnsupportedModel, match="microphone"):
        read_items(_workload(tmp_path, values), "strww01")


class Adder:
    """Stands in for a model: two results from the bytes of an input."""

    work = 2500.0  # a tenth of a second

    def __init__(self, id: str = "x") -> None:
        self.data = b""

    def load(self, buffer: bytes) -> str:
        self.data = buffer
        return ""

    def infer(self) -> None: ...

    def results(self) -> str:
        return f"{sum(self.data) / 1000:.3f},{len(self.data) / 1000:.3f},"


class Dut(PlainLine):
    """A line straight into the virtual firmware."""

    def __init__(self, model: Any = None, id: str = "mine", **options: str) -> None:
        self.unit = ReferenceFirmware(model or Adder(), id, vendor="test", noise=Noise(MCU, 1))
        super().__init__(self._answers, **{"flash": "command", **options})

    def _answers(self, text: str) -> str:
        answer = b"".join(self.unit.hear(text.encode() + b"%")).decode()
        assert answer.endswith("m-ready\r\n")
        return answer.removesuffix("m-ready\r\n")


@pytest.fixture
def image(tmp_path: Path) -> Callable[[str], Artifact]:
    def make(name: str) -> Artifact:
        (tmp_path / name).write_text(name)
        return Artifact.of(tmp_path / name)

    return make


@pytest.fixture
def workload(tmp_path: Path) -> Workload:
    return _workload(tmp_path, np.arange(12, dtype=np.uint8).reshape(3, 4))


def test_every_item_is_inferred_once(image, workload):
    line = Dut()
    (output,) = MlperfTiny(line).deploy(image("a.elf"), workload, accelerator="cpu").infer()
    assert output.values.tolist() == [[0.006, 0.004], [0.022, 0.004], [0.038, 0.004]]
    assert line.asked.count("infer 1 0") == 3


def test_a_window_is_ten_seconds_long_and_has_one_latency(image, workload):
    line = Dut()
    deployment = MlperfTiny(line).deploy(image("a.elf"), workload, accelerator="cpu")
    load = Load(min_duration_s=1.0, min_queries=1, warmup_s=1.0)
    assert deployment.notes() == ()
    measured = deployment.measure(load)
    (note,) = deployment.notes()
    assert re.match(r"median: 99\d{3}\.\d us per inference, 10 inferences per second over 1 ", note)
    assert "no MLPerf result" in note
    (trace,) = measured.traces
    assert (trace.name, trace.unit, len(trace.values)) == ("latency", "ns", 1)
    assert trace.values[0] == pytest.approx(0.1e9, rel=0.02)
    assert measured.time_basis is TimeBasis.WALL
    count, warmup = map(int, line.asked[-1].split()[1:])
    assert 100 <= count <= 110
    assert 10 <= warmup <= 11
    facts = {fact.name: fact.value for fact in measured.facts}
    assert facts["firmware"].startswith("dut-[test], ")
    assert facts["window"].startswith(f"{count} inferences in 10.")


def test_a_window_that_came_out_too_short_is_repeated_with_more(image, workload):
    laps = {"fast": False}

    def answer(text: str) -> str:
        if text.startswith("infer"):
            count, warmup = map(int, text.split()[1:])
            took = count * (50_000 if laps["fast"] else 100_000)
            laps["fast"] = count >= 8  # it is faster than calibration made believe
            return (
                f"m-warmup-start-{warmup}\nm-warmup-done\nm-infer-start-{count}\nm-lap-us-0\n"
                f"m-lap-us-{took}\nm-infer-done\nm-results-[1]\n"
            )
        return line.real(text)

    line = Dut()
    line.real, line.answers = line.answers, answer
    deployment = MlperfTiny(line).deploy(image("a.elf"), workload, accelerator="cpu")
    measured = deployment.measure(Load(min_queries=1, warmup_s=0))
    assert measured.traces[0].values.tolist() == [50e6]
    counts = [int(text.split()[1]) for text in line.asked if text.startswith("infer")]
    assert counts == [1, 8, 105, 210]


def test_a_counter_that_stands_still_is_an_error(image, workload):
    line = Dut()
    line.real = line.answers
    frozen = GOOD.replace("us-350", "us-100")
    line.answers = lambda text: (
        frozen.replace("start-1", f"start-{text.split()[1]}").replace(
            "warmup-start-0", f"warmup-start-{text.split()[2]}"
        )
        if text.startswith("infer")
        else line.real(text)
    )
    deployment = MlperfTiny(line).deploy(image("a.elf"), workload, accelerator="cpu")
    with pytest.raises(InfraError, match="windows in a row"):
        deployment.measure(Load())


def test_instructions_are_counted_where_virtual_time_passes_per_instruction(image, workload):
    now = {"us": 7.3}

    def answer(text: str) -> str:
        if not text.startswith("infer"):
            return line.real(text)
        count, warmup = map(int, text.split()[1:])
        now["us"] = 1e6 + (now["us"] * 977.31) % 1000  # laps begin at any phase of a microsecond
        before = int(now["us"])
        now["us"] += (3_000 + count * 823_356) * 0.128
        return (
            f"m-warmup-start-{warmup}\nm-warmup-done\nm-infer-start-{count}\n"
            f"m-lap-us-{before}\nm-lap-us-{int(now['us'])}\nm-infer-done\nm-results-[1]\n"
        )

    line = Dut(icount_shift="7")
    line.real, line.answers = line.answers, answer
    deployment = MlperfTiny(line).deploy(image("a.elf"), workload, accelerator="cpu")
    for _ in range(20):
        measured = deployment.measure(Load())
        assert measured.traces == ()
        assert measured.time_basis is TimeBasis.ICOUNT
        (counted,) = measured.scalars
        assert (counted.metric, counted.value) == ("compute.instructions", 823_356)


def test_only_what_is_not_there_is_flashed(image, workload):
    line = Dut()
    runtime = MlperfTiny(line)
    a, b = (runtime.deploy(image(n), workload, accelerator="cpu") for n in ("a.elf", "b.elf"))
    assert line.flashed == []
    (seconds,) = a.prepare()
    assert (seconds.metric, seconds.value) == ("deploy.push_seconds", 2.0)
    assert a.prepare() == ()
    b.prepare()
    for deployment in (a, b, b, a, a):
        deployment.infer()
    assert line.flashed == ["a.elf", "b.elf", "a.elf", "b.elf", "a.elf"]


def test_what_a_person_flashed_is_trusted_once_and_said(image, workload):
    line = Dut(flash="by-hand")
    runtime = MlperfTiny(line)
    facts = {fact.name: fact.value for fact in runtime.facts()}
    assert facts["flash"] == "by-hand: nobody checked that the firmware is the one that was named"
    assert facts["mlperf"].startswith("unofficial")
    a, b = (runtime.deploy(image(n), workload, accelerator="cpu") for n in ("a.elf", "b.elf"))
    assert a.prepare() == ()
    a.infer()
    with pytest.raises(ConfigError, match=r"'a.elf' and 'b.elf' cannot take turns"):
        b.prepare()
    assert line.flashed == []


def test_an_image_that_does_not_come_up_is_at_fault_if_another_one_does(image, workload):
    line = Dut()
    line.dead = {"bad.elf"}
    runtime = MlperfTiny(line)
    good, bad = (
        runtime.deploy(image(n), workload, accelerator="cpu") for n in ("good.elf", "bad.elf")
    )
    with pytest.raises(InfraError):
        bad.prepare()
    good.prepare()
    with pytest.raises(RuntimeCrashed, match=r"'bad.elf' cannot be flashed or does not come up"):
        bad.prepare()
    assert line.flashed == ["bad.elf", "good.elf", "bad.elf", "good.elf"]
    good.infer()
    assert len(line.flashed) == 4


@pytest.mark.parametrize("error", [DeviceRebooted("again"), CommandTimeout("nothing came")])
def test_a_firmware_that_dies_while_it_infers_is_at_fault_and_another_one_comes_back(
    image, workload, error
):
    line = Dut()
    runtime = MlperfTiny(line)
    good, bad = (
        runtime.deploy(image(n), workload, accelerator="cpu") for n in ("good.elf", "bad.elf")
    )
    good.prepare()
    bad.prepare()
    alive = line.answers

    def answer(text: str) -> str:
        if text.startswith("infer") and line.flashed[-1] == "bad.elf":
            raise error
        return alive(text)

    line.answers = answer
    for run in (bad.infer, lambda: bad.measure(Load())):
        with pytest.raises(RuntimeCrashed, match=r"^dut: 'bad\.elf' (restarts|does not end)"):
            run()
        assert line.flashed[-1] == "good.elf"
    good.infer()
    assert line.flashed == ["good.elf", "bad.elf", "good.elf", "bad.elf", "good.elf"]


@pytest.mark.parametrize("text", ["x", "11", "-1"])
def test_an_emulator_that_cannot_be_is_refused(text):
    with pytest.raises(ConfigError, match="0 to 10"):
        MlperfTiny.check(Dut(icount_shift=text).device)


def test_the_firmware_of_another_model_is_refused(image, tmp_path):
    pictures = _workload(tmp_path, np.zeros((1, 32, 32, 3), np.uint8))
    deployment = MlperfTiny(Dut(id="kws01")).deploy(image("k.elf"), pictures, accelerator="cpu")
    with pytest.raises(DeployFailed, match=r"'kws01'.*490 bytes of int8.*'task' is 3072 bytes"):
        deployment.prepare()


def test_a_number_of_results_that_changes_or_is_not_the_tasks_is_refused(image, workload, tmp_path):
    class Growing(Adder):
        def results(self) -> str:
            return ",".join(["0.1"] * self.data[0])

    line = Dut(Growing())
    counting = _workload(tmp_path, np.array([[1], [2]], np.uint8))
    deployment = MlperfTiny(line).deploy(image("a.elf"), counting, accelerator="cpu")
    with pytest.raises(WrongOutput, match="item 1 has another number"):
        deployment.infer()
    keywords = _workload(tmp_path, np.zeros((1, 490), np.int8))
    deployment = MlperfTiny(Dut(id="kws01")).deploy(image("a.elf"), keywords, accelerator="cpu")
    with pytest.raises(WrongOutput, match="2 results per item, 12 were expected"):
        deployment.infer()


def test_another_accelerator_than_the_firmwares_own_cannot_be_asked_for(image, workload):
    with pytest.raises(WrongAccelerator):
        MlperfTiny(Dut()).deploy(image("a.elf"), workload, accelerator="npu")


@pytest.mark.parametrize("text", ["0", "39", "x", "-1"])
def test_commands_that_no_firmware_takes_are_refused(text):
    with pytest.raises(ConfigError, match="1 to 38"):
        MlperfTiny.check(Dut(mlperf_chunk=text).device)


def test_an_input_of_the_longest_and_the_shortest_pieces_arrives(image, workload):
    for size in ("1", "26", "38"):
        deployment = MlperfTiny(Dut(mlperf_chunk=size)).deploy(
            image("a.elf"), workload, accelerator="cpu"
        )
        assert deployment.infer()[0].values[0].tolist() == [0.006, 0.004]


def test_a_platform_tells_what_the_firmware_says_of_itself():
    platform = MlperfTinyPlatform(Dut(id="ic01"))
    facts = {fact.name: fact.value for fact in platform.facts()}
    assert facts["os"] == "a firmware that speaks the MLPerf Tiny text protocol"
    assert (facts["found_firmware"], facts["found_model"]) == ("dut-[test]", "ic01")
    assert platform.preflight(Limits()) == ()
    (before,), (after,) = platform.sample(), platform.sample()
    assert (before.name, before.unit) == ("lap", "us")
    assert 0 <= before.value <= after.value
    assert platform.watch().readings() == ()
    assert platform.sweep() == ()
    assert platform.evidence(1.0)[0].text == "hello\r\n"


def test_a_firmware_that_measures_energy_or_is_silent_is_not_fit():
    energy = MlperfTinyPlatform(PlainLine(scripted(name="m-name-dut-[x]\r\n")))
    (finding,) = energy.preflight(Limits())
    assert (finding.code, finding.blocking) == ("energy_mode", True)
    assert energy.sample() == ()

    def silent(text: str) -> str:
        raise CommandTimeout("nothing came")

    (finding,) = MlperfTinyPlatform(PlainLine(silent)).preflight(Limits())
    assert (finding.code, finding.blocking) == ("silent", True)


def heard(text: str, unit: ReferenceFirmware | None = None) -> str:
    unit = unit or Dut().unit
    return b"".join(unit.hear(text.encode())).decode()


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        ("name%", "m-name-dut-[test]\r\n"),
        ("bogus x%", "e-[Unknown command: bogus]\r\n"),
        ("\r\nname%", "e-[Unknown command: \r\nname]\r\n"),
        ("db%", "e-[Command 'db' requires a subcommand]\r\n"),
        ("db load%", "e-[Command 'db load' requires the # of bytes]\r\n"),
        ("db load x%", "e-[Command 'db load' must be >0 bytes]\r\n"),
        ("db load 27649%", "Supplied buffer size 27649 exceeds maximum of 27648\n"),
        ("db load 2%db 41%db 42ff%", "m-[Expecting 2 bytes]\r\n|m-ready\r\n|m-load-done\r\n"),
        ("db load 9%db 414%", "m-[Expecting 9 bytes]\r\n|e-[Insufficent number of hex digits]\r\n"),
        ("db load 9%db 4g%", "m-[Expecting 9 bytes]\r\n|e-[Invalid hex digit '4g']\r\n"),
        ("infer 0%", "e-[Inference iterations must be >0]\r\n"),
        ("infer 1 -1%", "e-[Inference warmup must be >=0]\r\n"),
    ],
)  # fmt: skip
def test_the_virtual_firmware_answers_as_the_reference_code(sent, answer):
    expected = [*answer.split("|"), "m-ready\r\n"]
    found = heard(sent)
    assert found.replace("m-ready\r\n", "") == "".join(expected).replace("m-ready\r\n", "")
    assert found.count("m-ready\r\n") == sent.count("%")


def test_the_virtual_firmware_warms_up_ten_times_unless_told_otherwise():
    for sent, warmup in {"infer%": 10, "infer 3%": 10, "infer 3 0%": 0}.items():
        assert f"m-warmup-start-{warmup}\r\n" in heard(sent)


def test_the_virtual_firmware_cuts_long_commands_off():
    unit = Dut().unit
    heard("db load 39%", unit)
    assert heard(f"db {'41' * 38}%", unit) == "m-ready\r\n"
    assert "m-load-done" in heard("db 41%", unit)
    heard("db load 39%", unit)  # a digit too many is left of what the buffer holds
    assert "Insufficent" in heard(f"db {'41' * 39}%", unit)


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("virtual-mlperf-tiny://kws02?model=/x.onnx", "no virtual firmware 'kws02'"),
        ("virtual-mlperf-tiny://kws01", "needs a model"),
        ("virtual-mlperf-tiny://kws01?model=/x.onnx&seed=x", "no whole number"),
        ("virtual-mlperf-tiny://kws01?model=/nowhere.onnx", "no quantised model"),
    ],
)
def test_a_virtual_firmware_that_cannot_be_is_refused(address, complaint):
    device = Device(name="v", type="t", address=Address.parse(address))
    with pytest.raises(FarmError, match=complaint):
        VirtualMlperfTiny.start(device)
