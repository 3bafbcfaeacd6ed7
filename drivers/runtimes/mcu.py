"""Runs models as native code on a microcontroller with the farm's firmware."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from typing import ClassVar

from drivers.mcu.client import Board, Hello
from drivers.mcu.codegen import generator
from drivers.mcu.fusing import load
from drivers.mcu.image import Cpu
from drivers.mcu.toolchain import find_toolchain
from drivers.runtimes.mcu_blame import crashes_blamed, refusals_blamed
from drivers.runtimes.mcu_inputs import read_items, stack_outputs
from drivers.runtimes.mcu_metered import run_beside_meter
from drivers.runtimes.mcu_settings import Settings, read_settings
from drivers.runtimes.mcu_slots import Images, Running, Slots
from drivers.runtimes.mcu_updates import Rehearsal
from drivers.runtimes.mcu_window import (
    INFER_S,
    as_instructions,
    as_times,
    count_instructions,
    time_inferences,
)
from farm.connection import Line
from farm.errors import ConfigError, WrongAccelerator
from farm.metering import ClockDomain, Metered
from farm.model import Artifact, Device, Load, Scenario, Workload
from farm.protocols import Deployment, Power, Runtime
from farm.record import Fact, Measured, Measurement, Output

CPU = "cpu"
SECTIONS = ("text", "rodata", "data", "bss")


class McuRuntime(Runtime):
    """Builds an image of a model, pushes it into a slot of the board, and runs it there.

    Options of the device:
        toolchain: `gcc` (arm-none-eabi-gcc) or `zig`; by default the first that is there.
        cflags: for the code of the model, `-O3` by default.
        icount_shift: set by virtual boards, whose emulator lets 2^n ns pass per instruction.
    """

    options: ClassVar[tuple[str, ...]] = ("toolchain", "cflags", "icount_shift")
    platforms: ClassVar[tuple[str, ...]] = ("mcu",)
    meterable: ClassVar[bool] = True
    formats: ClassVar[tuple[str, ...]] = ("onnx",)
    scenarios: ClassVar[tuple[Scenario, ...]] = (Scenario.SINGLE_STREAM,)

    def __init__(self, line: Line) -> None:
        self._board = Board(line)
        self._slots = Slots(self._board)
        self._settings = read_settings(line.device)

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse options that can never be used."""
        read_settings(device)

    def facts(self) -> tuple[Fact, ...]:
        """What makes the code that runs: compiler, its flags, generator; always on `cpu`."""
        hello = self._board.hello()
        found = {"accelerators": CPU}
        if not hello.slots:
            found["model"] = f"built into the firmware: {hello.model or 'none'}"
        elif hello.cpu == Cpu.VIRTUAL:
            found["codegen"] = f"none, onnxruntime {version('onnxruntime')} runs the file"
        else:
            found["toolchain"] = find_toolchain(self._settings.toolchain).version
            found["cflags"] = self._settings.cflags
            found["codegen"] = f"{generator()}, onnxruntime {version('onnxruntime')}"
        return tuple(Fact(name=name, value=value) for name, value in found.items() if value)

    def deploy(self, model: Artifact, workload: Workload, *, accelerator: str) -> Deployment:
        """Read the model and its inputs; what must be on the board is pushed when it is used."""
        if accelerator != CPU:
            raise WrongAccelerator(
                f"asked for {accelerator}, a microcontroller has {CPU}",
                hint="ask for one that 'farm doctor' shows for this device",
            )
        return _McuDeployment(self._board, self._slots, self._settings, model, workload)


class _McuDeployment(Deployment):
    def __init__(
        self, board: Board, slots: Slots, settings: Settings, model: Artifact, workload: Workload
    ) -> None:
        self._board = board
        self._slots = slots
        self._settings = settings
        self._images = Images(model, settings)
        described = load(model)
        (fed,), (self._output,) = described.inputs, described.outputs
        self._items = read_items(workload, fed)
        self._has_items = workload.inputs is not None
        self._notes: tuple[str, ...] = ()

    def prepare(self) -> tuple[Measurement, ...]:
        """Bring the model to the board, unless it is there, and see that it answers.

        Returns the sizes of its image, `memory.arena`, and `deploy.push_seconds` if it was pushed.
        """
        with self._running() as running:
            self._infer(running, self._items[0])
        if running.built is None:
            return ()
        built = running.built
        sizes = {f"size.{name}": built.sections[name] for name in SECTIONS}
        sizes |= {"size.image_bytes": len(built.image), "memory.arena": built.header.arena_bytes}
        found = [Measurement(metric=m, unit="bytes", value=float(v)) for m, v in sizes.items()]
        if running.push_s is not None:
            found.append(Measurement(metric="deploy.push_seconds", unit="s", value=running.push_s))
        return tuple(found)

    def infer(self) -> tuple[Output, ...]:
        """Every item over the line, one by one."""
        if not self._has_items:
            raise ConfigError("a model without a workload has no items to infer")
        with self._running() as running:
            raw = [self._infer(running, item) for item in self._items]
        return (stack_outputs(raw, self._output),)

    def measure(
        self, load: Load, *, quiet_pace_ns: float | None = None, metered: Metered | None = None
    ) -> Measured:
        """The first item again and again, timed by the board for each inference."""
        shift = self._settings.icount_shift
        with self._running() as running:
            hello = running.hello
            self._board.give(self._items[0], max_payload=hello.max_payload)
            if metered is not None:
                return self._beside_meter(hello, load, metered)
            if shift is not None:
                return count_instructions(self._board, hello, shift)
            return time_inferences(self._board, hello, load)

    def _beside_meter(self, hello: Hello, load: Load, metered: Metered) -> Measured:
        shift = self._settings.icount_shift
        beside = run_beside_meter(self._board, hello, load, metered, emulated=shift is not None)
        ticks = beside.ticks
        measured = as_times(ticks, hello) if shift is None else as_instructions(ticks, hello, shift)
        return replace(
            measured,
            facts=(*measured.facts, beside.fact),
            spans=beside.spans,
            span_clock=ClockDomain.HOST,
        )

    def try_updates(self, power: Power | None) -> tuple[Measurement, ...]:
        """Updates that go wrong, in the free slot; nothing on a firmware without one."""
        with self._running() as running:
            if len(running.hello.slots) < 2:
                return ()
            rehearsal = Rehearsal(self._board, self._images, self._items[0], power)
            measured = rehearsal.run()
        self._notes = rehearsal.failures
        return measured

    def notes(self) -> tuple[str, ...]:
        """Lines for people: which updates did not end as they should."""
        return self._notes

    def remove(self) -> None:
        """Nothing to do: what lies in a slot is used again, and the platform ends its trial."""

    @contextmanager
    def _running(self) -> Iterator[Running]:
        """The model runs; whatever goes wrong meanwhile is said to whom it concerns."""
        with refusals_blamed():
            running = self._slots.run(self._images)
            elf = running.built.elf if running.built else None
            with crashes_blamed(self._board, elf, INFER_S):
                yield running
                self._slots.answered(running)

    def _infer(self, running: Running, item: bytes) -> bytes:
        """The bytes of the output for the bytes of an input."""
        most = running.hello.max_payload
        return self._board.item(item, self._output.bytes, max_payload=most, timeout_s=INFER_S)
