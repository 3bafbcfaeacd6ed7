"""Emulated boards with the farm's firmware, each with two models that tell themselves apart."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from drivers.lines.uart import UartLine
from drivers.mcu.building import build_image
from drivers.mcu.client import Board, Hello
from drivers.mcu.toolchain import find_toolchain
from drivers.virtual.mcu import Unit
from drivers.virtual.mcu_power import VirtualMcuPower
from drivers.virtual.qemu_board import PROGRAM, check_qemu
from farm.errors import ConfigError
from farm.model import Address, Artifact, Device
from tests.system.serial_proxy import SerialProxy

FED, GIVEN = 64, 4
"""How many numbers a model takes and gives."""


def needs_emulator(lacks: Callable[[str], None]) -> None:
    """Skip where no firmware can be built or run."""
    try:
        check_qemu()
        find_toolchain()
    except ConfigError as error:
        lacks(f"{error.message}: {error.hint}")


def kill_emulators(folder: Path) -> None:
    """End the emulators whose files lie in a folder, in the middle of whatever they do."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes()
            if words.startswith(PROGRAM.encode()) and os.fsencode(folder) in words:
                os.kill(int(path.parent.name), signal.SIGKILL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Two models of which each belongs to one slot, and nothing else ever lies there.

    Attributes:
        images: for the first and the second slot.
        item: the bytes of an input.
        answers: what each makes of it.
    """

    images: tuple[bytes, ...]
    item: bytes
    answers: tuple[bytes, ...]

    def assert_right(self, board: Board, hello: Hello, moment: str) -> None:
        """Each slot is empty or has its model, the confirmed one has it; what runs is right."""
        for slot, image in zip(hello.slots, self.images, strict=True):
            assert slot.sha256 in ("", hashlib.sha256(image).hexdigest()), moment
        assert hello.confirmed is not None, moment
        assert hello.slots[hello.confirmed].sha256, moment
        assert hello.running is not None, moment
        board.give(self.item, max_payload=hello.max_payload)
        board.infer()
        said = board.output(hello.out_bytes, max_payload=hello.max_payload)
        assert said == self.answers[hello.running], moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A board whose first slot is confirmed.

    Attributes:
        power: its switch.
        board: it.
        models: of its slots.
        proxy: what its line passes; None where it is reached without one.
    """

    power: VirtualMcuPower
    board: Board
    models: Models
    proxy: SerialProxy | None = None


def device() -> Device:
    """An emulated Cortex-M4."""
    return Device(name="m4", type="t", address=Address.parse("virtual-mcu://?engine=qemu"))


@contextmanager
def benches(folder: Path, count: int, *, proxied: bool = False) -> Iterator[list[Bench]]:
    """Boards that are on, each ready to be maltreated."""
    with ExitStack() as stack:
        made: list[Bench] = []
        for number in range(count):
            unit = Unit(device(), folder / f"board-{number}")
            stack.callback(unit.switch_off)
            known = replace(device(), address=unit.address, options=unit.options)
            proxy = None
            if proxied:
                link = folder / f"line-{number}"
                proxy = stack.enter_context(
                    closing(SerialProxy(Path(unit.address.place), link, seed=number))
                )
                known = replace(known, address=Address(scheme="uart", place=str(link)))
            board = Board(stack.enter_context(closing(UartLine(known))))
            hello = board.hello()
            models = made[0].models if made else _models(hello, folder)
            board.write(0, models.images[0], max_payload=hello.max_payload)
            board.commit(0)
            board.reset()
            board.confirm()
            made.append(
                Bench(power=VirtualMcuPower(known), board=board, models=models, proxy=proxy)
            )
        yield made


def _models(hello: Hello, folder: Path) -> Models:
    """Small ones, so that many can be pushed; of whole numbers, which add up in any order."""
    dice = np.random.default_rng(0)
    item = dice.integers(-9, 10, (1, FED)).astype(np.float32)
    images, answers = [], []
    for slot in range(len(hello.slots)):
        weights = dice.integers(-9, 10, (FED, GIVEN)).astype(np.float32)
        path = folder / f"model-{slot}.onnx"
        path.write_bytes(_linear(weights))
        images.append(build_image(Artifact.of(path), hello.target(slot)).image)
        answers.append((item @ weights).tobytes())
    return Models(images=tuple(images), item=item.tobytes(), answers=tuple(answers))


def _linear(weights: npt.NDArray[np.float32]) -> bytes:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, FED])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, GIVEN])],
        [numpy_helper.from_array(weights, "w")],
    )
    opsets = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
