"""Firmwares with the text protocol of MLPerf Tiny: the virtual ones, and one in an emulator."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

import farm
from drivers.lines.mlperf_tiny import MlperfTinyLine
from drivers.mcu import codegen
from drivers.mcu.arena import arrange
from drivers.mcu.fusing import fuse
from drivers.mcu.mlperf_text import Firmware
from drivers.mcu.source import parse
from drivers.platforms.mlperf_tiny import MlperfTinyPlatform
from drivers.runtimes.mlperf_tiny import MlperfTiny
from drivers.virtual.mlperf_dut import VirtualMlperfTiny
from farm.errors import DeployFailed, RuntimeCrashed
from farm.model import Address, Arm, Artifact, Device, Load, Workload
from farm.protocols import Limits
from farm.record import Outcome, TimeBasis

DATA = Path(__file__).parents[2] / "../shared/data/mlperf-tiny"
SOURCES = Path(__file__).parent / "mlperf_dut"
GCC, QEMU = "arm-none-eabi-gcc", "qemu-system-arm"
FLAGS = (
    "-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard", "-mthumb", "-std=c11", "-O3",
    "-Wall", "-Wextra", "-Werror", "-nostartfiles", "--specs=nano.specs", "--specs=nosys.specs",
)  # fmt: skip
MILLI = 0.0005001
"""Three decimals are told: half of the last one, and a little for the decimal itself."""


@pytest.fixture
def model() -> Callable[[str], Path]:
    """The ONNX file of a task."""

    def find(task: str) -> Path:
        path = DATA / f"{task}_int8.onnx"
        if not path.is_file():
            pytest.skip(f"the models of MLPerf Tiny are not beside this repository: {path}")
        return path.resolve()

    return find


def golden(task: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and outputs, both int8, one item per row."""
    with np.load(DATA / f"{task}_golden.npz") as arrays:
        return arrays["inputs"].reshape(16, -1), arrays["onnxruntime"].reshape(16, -1)


def saved(folder: Path, values: np.ndarray, name: str = "task") -> Workload:
    np.savez(folder / f"{name}.npz", x=values)
    return Workload(name=name, digest="d", inputs=Artifact.of(folder / f"{name}.npz"))


@pytest.fixture
def switch_on(model: Callable[[str], Path]) -> Iterator[Callable[[str], MlperfTinyLine]]:
    """Switches a virtual board on and reaches it."""
    with ExitStack() as stack:

        def start(task: str) -> MlperfTinyLine:
            address = f"virtual-mlperf-tiny://{task}01?model={model(task)}&seed=1"
            device = VirtualMlperfTiny.start(
                Device(name=f"virtual-{task}", type="t", address=Address.parse(address))
            )
            line = MlperfTinyLine(device)
            stack.callback(line.close)
            return line

        yield start


def flashable(model: Path, folder: Path, name: str = "image.bin") -> Artifact:
    """An image for a virtual board is the model's file."""
    return Artifact.of(Path(shutil.copy(model, folder / name)))


def test_keywords_on_a_virtual_board(model, switch_on, tmp_path):
    line = switch_on("kws")
    assert MlperfTinyPlatform(line).preflight(Limits()) == ()
    inputs, outputs = golden("kws")
    deployment = MlperfTiny(line).deploy(
        flashable(model("kws"), tmp_path), saved(tmp_path, inputs), accelerator="cpu"
    )
    (pushed,) = deployment.prepare()
    assert pushed.metric == "deploy.push_seconds"
    (found,) = deployment.infer()
    assert (found.values.argmax(axis=1) == outputs.argmax(axis=1)).all()
    told = np.floor((outputs.astype(int) + 128) * 1000 / 256) / 1000
    assert (found.values == told).all()
    measured = deployment.measure(Load(min_queries=1))
    assert measured.time_basis is TimeBasis.WALL
    assert 1e6 < measured.traces[0].values[0] < 1e9


@pytest.mark.parametrize("task", ["ic", "vww"])
def test_pictures_on_a_virtual_board(model, switch_on, tmp_path, task):
    line = switch_on(task)
    inputs, outputs = golden(task)
    pixels = (inputs[:2].astype(np.int16) + 128).astype(np.uint8)
    runtime, image = MlperfTiny(line), flashable(model(task), tmp_path)
    for values in (pixels, inputs[:1]):
        deployment = runtime.deploy(image, saved(tmp_path, values), accelerator="cpu")
        (found,) = deployment.infer()
        told = (outputs[: len(values)].astype(int) + 128) / 256
        assert np.abs(found.values - told).max() <= MILLI


def test_sounds_on_a_virtual_board_have_one_score_over_their_windows(model, switch_on, tmp_path):
    line = switch_on("ad")
    inputs, outputs = golden("ad")
    meant = (inputs.astype(np.float32) - 89) * np.float32(0.39102)
    rebuilt = (outputs.astype(np.float32) - 96) * np.float32(0.36450)
    errors = np.square(rebuilt - meant).mean(axis=1)
    runtime, image = MlperfTiny(line), flashable(model("ad"), tmp_path)
    deployment = runtime.deploy(image, saved(tmp_path, meant[:4]), accelerator="cpu")
    (found,) = deployment.infer()
    assert found.values.shape == (4, 1)
    assert found.values[:, 0] == pytest.approx(errors[:4], rel=1e-3)
    long = np.concatenate([meant[:1], meant[1:2, :256]], axis=1)
    windows = runtime.deploy(
        image, saved(tmp_path, np.stack([long[0, at : at + 640] for at in (0, 128, 256)]), "w"),
        accelerator="cpu",
    )  # fmt: skip
    (whole,) = runtime.deploy(image, saved(tmp_path, long), accelerator="cpu").infer()
    assert whole.values[0, 0] == pytest.approx(windows.infer()[0].values.mean())


def test_images_take_turns_on_a_virtual_board_and_a_bad_one_is_told(model, switch_on, tmp_path):
    line = switch_on("kws")
    inputs, _ = golden("kws")
    workload = saved(tmp_path, inputs[:1])
    (tmp_path / "bad.bin").write_bytes(b"no model")
    runtime = MlperfTiny(line)
    good, bad = (
        runtime.deploy(image, workload, accelerator="cpu")
        for image in (flashable(model("kws"), tmp_path), Artifact.of(tmp_path / "bad.bin"))
    )
    good.prepare()
    with pytest.raises(RuntimeCrashed, match=r"'bad.bin' cannot be flashed"):
        bad.prepare()
    good.infer()
    pictures = saved(tmp_path, np.zeros((1, 3072), np.uint8), "pictures")
    image = flashable(model("kws"), tmp_path)
    with pytest.raises(DeployFailed, match=r"'kws01'.*'pictures'"):
        runtime.deploy(image, pictures, accelerator="cpu").prepare()


def test_the_farm_measures_a_virtual_board_and_says_what_it_is_not(model, inventory, tmp_path):
    inputs, _ = golden("ad")
    folder = tmp_path / "ad01"
    folder.mkdir()
    np.savez(folder / "inputs.npz", x=(inputs.astype(np.float32) - 89) * np.float32(0.39102))
    np.save(folder / "labels.npy", np.arange(16) % 2)
    (folder / "workload.yaml").write_text(
        "schema: farm.workload/1\nname: ad01\ninputs: inputs.npz\nlabels: labels.npy\n"
        "metric: accuracy.auc\n"
    )
    (result,) = farm.run(
        "mlperf_tiny",
        model=flashable(model("ad"), tmp_path).path,
        workload=folder,
        inventory=inventory(v=f"virtual-mlperf-tiny://ad01?model={model('ad')}"),
        store=tmp_path / "store",
    ).results
    assert result.outcome is Outcome.COMPLETED, result.error
    assert result.simulated
    assert result.time_basis is TimeBasis.WALL
    facts = {fact.name: fact.value for fact in result.environment}
    assert facts["mlperf"].startswith("unofficial")
    found = {m.metric: m for m in result.summary(Arm.CANDIDATE).measurements}
    assert {"accuracy.auc", "latency.p50", "deploy.push_seconds"} <= set(found)
    assert (found["latency.p50"].n, found["accuracy.auc"].n) == (5, 16)


@pytest.fixture
def firmware(model, tmp_path, lacks) -> Path:
    """The keyword model behind the text protocol, for an emulated Cortex-M4."""
    for part in (GCC, QEMU):
        if shutil.which(part) is None:
            lacks(f"{part} is not installed: apt-get install gcc-arm-none-eabi qemu-system-arm")
    source = codegen.generate("kws", fuse(Artifact.of(model("kws"))), tmp_path)
    (tmp_path / "model.c").write_text(arrange(parse(source, codegen.ENTRY)).text)
    ours = [str(SOURCES / name) for name in ("board.c", "main.c")]
    link = ["-T", str(SOURCES / "board.ld"), str(tmp_path / "model.c"), "-lm"]
    elf = tmp_path / "kws.elf"
    subprocess.run([GCC, *FLAGS, *ours, *link, "-o", str(elf)], check=True, timeout=120)
    return elf


@contextmanager
def emulated(elf: Path, shift: int) -> Iterator[MlperfTinyLine]:
    """A board with 2^shift ns of virtual time per instruction, and a line to it."""
    command = [QEMU, "-M", "mps2-an386", "-display", "none", "-monitor", "none", "-serial", "pty"]
    command += ["-icount", f"shift={shift}", "-kernel", str(elf)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        port = re.search(r"/dev/pts/\d+", process.stdout.readline())
        assert port is not None
        options = (("icount_shift", str(shift)), ("flash", "by-hand"))
        place = Address(scheme="mlperf-tiny", place=port[0])
        line = MlperfTinyLine(
            Device(name="emulated", type="t", address=place, simulated=True, options=options)
        )
        try:
            yield line
        finally:
            line.close()
    finally:
        process.kill()
        process.communicate()


def test_keywords_in_an_emulator(firmware, tmp_path):
    inputs, outputs = golden("kws")
    with emulated(firmware, 10) as line:
        assert MlperfTinyPlatform(line).preflight(Limits()) == ()
        deployment = MlperfTiny(line).deploy(
            Artifact.of(firmware), saved(tmp_path, inputs), accelerator="cpu"
        )
        assert deployment.prepare() == ()
        (found,) = deployment.infer()
        assert (found.values.argmax(axis=1) == outputs.argmax(axis=1)).all()
        told = np.floor((outputs.astype(int) + 128) * 1000 / 256) / 1000
        assert (found.values == told).all()
        counted = [deployment.measure(Load()), deployment.measure(Load())]
        asked = Firmware(line)
        asked.load(bytes(100))
        with pytest.raises(DeployFailed, match="Input db has 100 elemented, expected 490"):
            asked.infer(1, warmup=0, timeout_s=30)
    with emulated(firmware, 8) as line:  # where virtual time is finer
        other = MlperfTiny(line).deploy(
            Artifact.of(firmware), saved(tmp_path, inputs[:1]), accelerator="cpu"
        )
        counted.append(other.measure(Load()))
    assert {measured.scalars[0].metric for measured in counted} == {"compute.instructions"}
    (instructions,) = {measured.scalars[0].value for measured in counted}
    assert 1e6 < instructions < 1e9
    assert all(measured.time_basis is TimeBasis.ICOUNT for measured in counted)
    assert all(measured.traces == () for measured in counted)
