"""A microcontroller with the farm's firmware: what its HELLO tells, and no operating system."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from drivers.mcu.client import Board, Hello
from drivers.mcu.image import ABI, Cpu
from farm.connection import Line
from farm.errors import Evidence, FarmError
from farm.protocols import Limits, Platform, Watch
from farm.record import Fact, Finding, Reading

CRASHES = ("fault", "watchdog")
"""Causes of a start that a healthy board does not have."""
EMULATED = "instructions are counted by an emulator; time is virtual, nothing here is a speed"
SIMULATED = "instructions are a guess from the model's size, memory is made up; outputs are real"


class McuPlatform(Platform):
    """Facts and fitness from HELLO.

    Nothing is tuned: clock and caches are the firmware's. There is no temperature, for no firmware
    of the farm's reads one.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._board = Board(line)

    def facts(self) -> tuple[Fact, ...]:
        """Firmware, processor, clock and memory; `serial` if the chip has a number, `boot_id`."""
        hello = self._board.hello()
        ram = f"{hello.ram_bytes} bytes at {hello.ram_address:#x}" if hello.slots else ""
        slots = ", ".join(f"{slot.bytes} bytes at {slot.address:#x}" for slot in hello.slots)
        unreal = self._simulated(hello)
        found = {
            "serial": hello.unit,
            "boot_id": f"{hello.unit or hello.board}/{hello.boots}",
            "os": f"{hello.firmware} on {hello.board}{' (not a real board)' if unreal else ''}",
            "board": hello.board,
            "firmware": hello.firmware,
            "cpu": _processor(hello),
            "ticks": f"{hello.ticks} at {hello.tick_hz} Hz",
            "slots": slots or "none, the model is a part of the firmware",
            "model_ram": ram,
            "stack": f"{hello.stack} bytes",
            "simulated": unreal,
        }
        return tuple(Fact(name=name, value=value) for name, value in found.items() if value)

    def preflight(self, limits: Limits) -> tuple[Finding, ...]:
        """Whether it can run anything; heat, charge and free room are not known and not asked."""
        hello = self._board.hello()
        findings = []
        if not hello.slots and not hello.in_bytes:
            findings.append(
                Finding(
                    code="no_model",
                    message="its firmware has neither slots nor a model",
                    blocking=True,
                )
            )
        if hello.slots and (hello.abi != ABI or hello.cpu not in set(Cpu)):
            findings.append(
                Finding(
                    code="wrong_firmware",
                    message=f"no images are made here for its processor {hello.cpu} "
                    f"with ABI {hello.abi}",
                    blocking=True,
                )
            )
        if hello.cause in CRASHES:
            message = f"its last start was by {hello.cause}, of {hello.boots} starts"
            findings.append(Finding(code="crashed", message=message, blocking=False))
        return tuple(findings)

    def restore(self) -> tuple[str, ...]:
        """Go back to the confirmed model, so that whoever comes next finds no trial."""
        return self._end_trial()

    def sample(self) -> tuple[Reading, ...]:
        """The board's counters: how often it started, and how often it went back on its own."""
        hello = self._board.hello()
        t_ns = self._line.clock.now_ns()
        counted = {"boots": hello.boots, "rollbacks": hello.rollbacks}
        return tuple(
            Reading(t_ns=t_ns, name=name, unit="count", value=float(value))
            for name, value in counted.items()
        )

    def watch(self) -> Watch:
        """Nothing: a board that runs a model answers nobody."""
        return Blind()

    def sweep(self) -> tuple[str, ...]:
        """End the trial of a model that an earlier session left running or waiting."""
        return self._end_trial()

    def evidence(self, last_s: float) -> tuple[Evidence, ...]:
        """What the board printed, and the last fault that it remembers, however old."""
        found = {"console": self._line.console()}
        with suppress(FarmError):  # a board that does not answer has said what it could
            if fault := self._board.hello().last_fault:
                found["last_fault"] = _as_text(fault)
        return tuple(Evidence(name=name, text=text) for name, text in found.items() if text)

    def _simulated(self, hello: Hello) -> str:
        """What of the device is not real, empty on a real one."""
        if hello.cpu == Cpu.VIRTUAL:
            return SIMULATED
        return EMULATED if self._line.device.option("icount_shift") else ""

    def _end_trial(self) -> tuple[str, ...]:
        hello = self._board.hello()
        on_trial = hello.running if hello.pending is None else hello.pending
        ended = self._board.end_trial(hello) is not hello
        return (f"the trial of slot {on_trial}",) if ended else ()


def _as_text(fault: dict[str, Any]) -> str:
    """Numbers in hexadecimal, as debuggers and data sheets have them."""
    told = {k: f"{v:#x}" if isinstance(v, int) else v for k, v in fault.items()}
    return ", ".join(f"{name}: {value}" for name, value in told.items())


def _processor(hello: Hello) -> str:
    known = hello.cpu in set(Cpu)
    name = Cpu(hello.cpu).name.lower().replace("_", "-") if known else f"unknown ({hello.cpu})"
    return f"{name}, CPUID {hello.cpuid}" if hello.cpuid else name


class Blind(Watch):
    """Sees nothing."""

    def readings(self) -> tuple[Reading, ...]:
        """Nothing."""
        return ()

    def close(self) -> None:
        """Nothing to end."""
