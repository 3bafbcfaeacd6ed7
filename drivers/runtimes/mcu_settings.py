"""What the inventory may say of a microcontroller for the runtime."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from farm.errors import ConfigError
from farm.model import Device

TOOLCHAINS = ("gcc", "zig")
DEFAULT_CFLAGS = "-O3"
MAX_SHIFT = 10
"""The longest instruction that an emulator can be told is 2^10 ns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How models are built for a board, and what its ticks are.

    Attributes:
        toolchain: `gcc`, `zig`, or empty for the one that is there.
        cflags: for the code of the model.
        icount_shift: an emulator lets 2^n ns pass per instruction; None on real boards.
    """

    toolchain: str
    cflags: str
    icount_shift: int | None


def read_settings(device: Device) -> Settings:
    """Read the options of a device.

    Raises:
        ConfigError: one of them cannot be used.
    """
    toolchain, shift = device.option("toolchain"), device.option("icount_shift")
    cflags = device.option("cflags", DEFAULT_CFLAGS)
    if toolchain and toolchain not in TOOLCHAINS:
        raise ConfigError(
            f"there is no toolchain '{toolchain}'",
            device=device.name,
            hint=f"write {' or '.join(TOOLCHAINS)}, or leave it out",
        )
    if shift and not (shift.isdecimal() and int(shift) <= MAX_SHIFT):
        raise ConfigError(
            f"icount_shift '{shift}' is no number from 0 to {MAX_SHIFT}",
            device=device.name,
            hint="only virtual boards need it, and they set it themselves",
        )
    try:
        shlex.split(cflags)
    except ValueError as error:
        raise ConfigError(
            f"cflags '{cflags}' cannot be read: {error}",
            device=device.name,
            hint="write for example 'cflags: -O2'",
        ) from error
    return Settings(toolchain=toolchain, cflags=cflags, icount_shift=int(shift) if shift else None)
