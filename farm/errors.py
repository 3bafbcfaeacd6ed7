"""What can go wrong, who acts on it, and whether trying again can help.

    FarmError            acts            kinds (* transient: a retry can help)
    |-- ConfigError      the author      inventory, suite, policy, unknown driver, missing extra
    |-- LeaseError       the farm        LeaseTimeout*, LeaseLost
    |-- InfraError       the lab         ConnectError*, ConnectionLost*, CommandTimeout*,
    |                                    TransferCorrupt*, MeterGap*
    |-- DeviceError      the lab         PreflightFailed*, DeviceRebooted*, OutOfSpace
    |-- WorkloadError    the model team  UnsupportedModel, DeployFailed, RuntimeCrashed,
    |                                    WrongAccelerator, WrongOutput
    |-- StoreError       the farm        SchemaMismatch, StoreUnavailable*
    `-- FarmBug          us              any unexpected exception, wrapped once, never retried

The family decides the verdict: only a `WorkloadError` can be held against a model. Everything else
is the lab's or the farm's, and makes a result INVALID at most.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One exhibit kept with a failure: a name (`stderr`, `command`, ...) and its text."""

    name: str
    text: str


class FarmError(Exception):
    """The root of every error that the farm raises on purpose; message and hint are one line each.

    Args:
        message: what happened, one line, naming the thing that it happened to.
        device: the inventory name of the device concerned.
        hint: what the reader can do about it, one line.
        evidence: exhibits for the record, such as the standard error of a runner.
    """

    family: ClassVar[str] = "farm"
    code: ClassVar[str] = "farm_error"
    transient: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        device: str | None = None,
        hint: str = "",
        evidence: Iterable[Evidence] = (),
    ) -> None:
        self.message = one_line(message)
        super().__init__(self.message)
        self.device = device
        self.hint = one_line(hint)
        self.evidence = tuple(evidence)

    def __str__(self) -> str:
        return f"{self.device}: {self.message}" if self.device else self.message


def one_line(text: str) -> str:
    """A text without anything that breaks a line or moves a cursor, whoever wrote its words."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def as_utf8(text: str) -> str:
    r"""A file's name or a command as text that can be kept; bytes that are no UTF-8 become \xNN."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


class ConfigError(FarmError):
    """What a person wrote is wrong: inventory, suite, policy, workload, command line."""

    family = "config"
    code = "config"


class LeaseError(FarmError):
    """A device could not be had, or is no longer ours."""

    family = "lease"
    code = "lease"


class LeaseTimeout(LeaseError):
    """Somebody else holds the device, and still held it when our patience ran out."""

    code = "lease_timeout"
    transient = True


class LeaseLost(LeaseError):
    """Our lease was taken over; nothing measured after that may be recorded."""

    code = "lease_lost"


class InfraError(FarmError):
    """The road to the device is at fault: cable, network, host."""

    family = "infra"
    code = "infra"
    transient = True


class ConnectError(InfraError):
    """The device could not be reached at all."""

    code = "connect"


class ConnectionLost(InfraError):
    """The device was reached and then vanished."""

    code = "connection_lost"


class CommandTimeout(InfraError):
    """A command did not end by its deadline."""

    code = "command_timeout"


class TransferCorrupt(InfraError):
    """The bytes on the device are not the bytes that were sent."""

    code = "transfer_corrupt"


class MeterGap(InfraError):
    """A power meter stopped sending, or sends what cannot be understood."""

    code = "meter_gap"


class DeviceError(FarmError):
    """The device itself is not fit to measure on."""

    family = "device"
    code = "device"


class PreflightFailed(DeviceError):
    """Too hot, too little battery, or another condition that can pass with time."""

    code = "preflight"
    transient = True


class DeviceRebooted(DeviceError):
    """The device restarted under us."""

    code = "rebooted"
    transient = True


class OutOfSpace(DeviceError):
    """The device has no room for what must be pushed."""

    code = "out_of_space"


class WorkloadError(FarmError):
    """The model is at fault: it cannot run here, or what it computes is unusable."""

    family = "workload"
    code = "workload"


class UnsupportedModel(WorkloadError):
    """The runtime cannot load the file: not a model, truncated, or with an operator it lacks."""

    code = "unsupported_model"


class DeployFailed(WorkloadError):
    """The model loads but does not accept the workload's inputs."""

    code = "deploy_failed"


class RuntimeCrashed(WorkloadError):
    """The process that ran the model died."""

    code = "runtime_crashed"


class WrongAccelerator(WorkloadError):
    """The model ran, or would have run, elsewhere than it was asked to."""

    code = "wrong_accelerator"


class WrongOutput(WorkloadError):
    """The model's outputs are unusable: NaN, infinite, or of an unexpected shape."""

    code = "wrong_output"


class StoreError(FarmError):
    """Results cannot be kept or read."""

    family = "store"
    code = "store"


class SchemaMismatch(StoreError):
    """The store was written by another version of the farm."""

    code = "schema_mismatch"


class StoreUnavailable(StoreError):
    """The store is locked, read-only or out of space."""

    code = "store_unavailable"
    transient = True


class FarmBug(FarmError):
    """An exception that nobody expected: ours to mend."""

    family = "bug"
    code = "bug"


WORKLOAD_ERRORS: dict[str, type[WorkloadError]] = {
    kind.code: kind
    for kind in (UnsupportedModel, DeployFailed, RuntimeCrashed, WrongAccelerator, WrongOutput)
}
"""Every kind of `WorkloadError` by its code, for runners that report theirs as text."""


def nearest_hint(name: str, choices: Iterable[str], *, otherwise: str = "") -> str:
    """A hint naming the valid word nearest to a wrong one.

    If none is near, `otherwise`, or all the valid words.
    """
    known = sorted(choices)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean '{close[0]}'?"
    return otherwise or (f"known: {', '.join(known)}" if known else "none is known here")
