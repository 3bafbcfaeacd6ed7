"""The system of a device: what of its environment moves every model when it changes."""

from __future__ import annotations

from collections.abc import Iterable

from farm.record import Fact

SYSTEM_FACTS = (
    "fingerprint", "os", "kernel", "libc", "onnxruntime", "python", "governor",
    "fixed_performance", "power_model", "firmware", "toolchain", "cflags", "codegen",
    "meter", "meter_firmware", "meter_calibration", "meter_voltage",
)  # fmt: skip
"""Facts whose change may move the level of every model: an update, or a setting of the device.

Frequency limits are none of them: heat and weak batteries lower them, which is what canaries see.
"""


def system_of(environment: Iterable[Fact]) -> tuple[Fact, ...]:
    """The system of a device: what of its environment moves every model when it changes."""
    return tuple(fact for fact in environment if fact.name in SYSTEM_FACTS)


def system_changes(before: Iterable[Fact], after: Iterable[Fact]) -> tuple[str, ...]:
    """How two systems differ, `os: A -> B` each; what one of them does not tell is no change."""
    was = {fact.name: fact.value for fact in system_of(before)}
    return tuple(
        f"{fact.name}: {was[fact.name]} -> {fact.value}"
        for fact in system_of(after)
        if was.get(fact.name, fact.value) != fact.value
    )
