"""Whose fault it is when a board refuses something or restarts under a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from drivers.mcu.client import Board, Refusal, Refused
from drivers.mcu.sections import read_elf
from farm.errors import (
    DeployFailed,
    DeviceError,
    DeviceRebooted,
    Evidence,
    FarmError,
    RuntimeCrashed,
    TransferCorrupt,
)

_THUMB = 1
"""The lowest bit of an address of code tells that it is Thumb code."""


@contextmanager
def refusals_blamed() -> Iterator[None]:
    """What the board refuses is said to whom it concerns.

    Raises:
        DeployFailed: the model does not fit.
        TransferCorrupt: something else arrived than was sent.
        DeviceError: the board is not what it said it was.
    """
    try:
        yield
    except Refused as refused:
        raise _blamed(refused) from refused


@contextmanager
def crashes_blamed(board: Board, elf: Path | None, limit_s: float) -> Iterator[None]:
    """A restart by a fault or the watchdog is the model's; one without a reason is the lab's.

    Args:
        board: what the model runs on.
        elf: names the places in its code.
        limit_s: the time that the watchdog gave it.

    Raises:
        RuntimeCrashed: the model faulted or did not end.
        DeviceRebooted: the board restarted for another reason, such as its power.
    """
    try:
        yield
    except DeviceRebooted as rebooted:
        raise _crash(board, elf, limit_s, rebooted) from rebooted


def _blamed(refused: Refused) -> FarmError:
    match refused.refusal:
        case Refusal.TOO_LONG:
            return DeployFailed(refused.message, hint="a smaller model, or a board with more room")
        case Refusal.CORRUPT:
            return TransferCorrupt(refused.message, hint="look at cable and baud rate")
        case Refusal.STALE:
            return DeviceRebooted(refused.message)
        case Refusal.FLASH:
            return DeviceError(refused.message, hint="its flash memory may be worn out")
        case _:
            return DeviceError(
                refused.message, hint="flash the firmware that belongs to this farm: farm flash"
            )


def _crash(board: Board, elf: Path | None, limit_s: float, rebooted: DeviceRebooted) -> FarmError:
    hello = board.back()
    evidence = list(rebooted.evidence)
    if hello.cause == "watchdog":
        return RuntimeCrashed(
            f"the model did not end within {limit_s:g} s, the watchdog restarted the board",
            hint="an inference that takes so long may be endless",
            evidence=evidence,
        )
    if hello.cause != "fault":
        return rebooted
    fault = hello.last_fault or {}
    if "fault" not in [exhibit.name for exhibit in evidence]:
        evidence.append(Evidence(name="fault", text=json.dumps(fault)))
    place = _place(fault, elf)
    return RuntimeCrashed(
        f"the model crashed with a {fault.get('cause', 'unknown')} fault{place}",
        hint="run it on the controller with the runtime ort_python; or the stack may be too small",
        evidence=evidence,
    )


def _place(fault: dict[str, Any], elf: Path | None) -> str:
    """Where it happened, as words that follow; empty where nobody knows."""
    try:
        pc = int(str(fault.get("pc")), 0) & ~_THUMB
    except ValueError:
        return ""
    return f" at {pc:#010x}{_symbol(pc, elf)}"


def _symbol(pc: int, elf: Path | None) -> str:
    """The function that holds an address; inlined ones count as the one around them."""
    if elf is None:
        return ""
    with suppress(OSError, ValueError):
        program = read_elf(elf)
        code = [section for section in program.sections.values() if section.allocated]
        if not any(s.address <= pc < s.address + s.length for s in code):
            return ", outside of its code"
        named = {
            value & ~_THUMB: name
            for name, value in program.symbols.items()
            if not name.startswith("$")  # marks code and data, names neither
        }
        if below := [address for address in named if address <= pc]:
            start = max(below)
            return f" in {named[start]}+{pc - start:#x}"
    return ""
