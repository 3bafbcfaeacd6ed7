"""C compilers for microcontrollers, and how each is called for a processor."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec

from drivers.mcu.image import Cpu
from farm.errors import ConfigError, Evidence
from farm.shell import cache_folder

GCC = "arm-none-eabi-gcc"
COMPILE_S = 300.0
"""The longest that one call of a compiler may take; zig builds its runtime in its first one."""

_GCC_CPUS = {
    Cpu.CORTEX_M3: ("-mcpu=cortex-m3", "-mfloat-abi=soft"),
    Cpu.CORTEX_M4: ("-mcpu=cortex-m4", "-mfloat-abi=soft"),
    Cpu.CORTEX_M4F: ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"),
    Cpu.CORTEX_M7: ("-mcpu=cortex-m7", "-mfpu=fpv5-d16", "-mfloat-abi=hard"),
    Cpu.CORTEX_M33: ("-mcpu=cortex-m33", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"),
    Cpu.CORTEX_M55: ("-mcpu=cortex-m55", "-mfloat-abi=hard"),
}
_ZIG_CPUS = {
    Cpu.CORTEX_M3: ("thumb-freestanding-eabi", "cortex_m3"),
    Cpu.CORTEX_M4: ("thumb-freestanding-eabi", "cortex_m4"),
    Cpu.CORTEX_M4F: ("thumb-freestanding-eabihf", "cortex_m4+vfp4d16sp"),
    Cpu.CORTEX_M7: ("thumb-freestanding-eabihf", "cortex_m7+fp_armv8d16"),
    Cpu.CORTEX_M33: ("thumb-freestanding-eabihf", "cortex_m33+fp_armv8d16sp"),
    Cpu.CORTEX_M55: ("thumb-freestanding-eabihf", "cortex_m55+fp_armv8d16"),
}
# Contraction would fuse a*b+c into one rounding on some processors: other bits than elsewhere.
_FLAGS = ("-mthumb", "-std=c11", "-ffreestanding", "-ffp-contract=off", "-fno-math-errno")
_ZIG_FLAGS = ("-fno-sanitize=all", "-fno-unwind-tables", "-fno-asynchronous-unwind-tables")


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """A C compiler for microcontrollers.

    Attributes:
        name: `gcc` or `zig`.
        version: as it tells it, one line.
        command: how the compiler is called.
    """

    name: str
    version: str
    command: tuple[str, ...]

    def compile(self, cpu: Cpu) -> tuple[str, ...]:
        """The start of a command that compiles C for a processor.

        Raises:
            ConfigError: no code can be made for it.
        """
        if self.name == "gcc" and cpu in _GCC_CPUS:
            return (*self.command, *_GCC_CPUS[cpu], *_FLAGS)
        if self.name == "zig" and cpu in _ZIG_CPUS:
            triple, model = _ZIG_CPUS[cpu]
            target = ("-target", triple, f"-mcpu={model}")
            return (*self.command, *target, *_FLAGS, *_ZIG_FLAGS)
        raise ConfigError(f"{self.name} makes no code for {cpu.name}")

    @property
    def link(self) -> tuple[str, ...]:
        """The end of a command that links: no C library, only the compiler's own arithmetic."""
        # zig would leave its arithmetic out with -nostdlib, and has no start-up code to leave out.
        return ("-nostdlib", "-lgcc") if self.name == "gcc" else ()

    def call(self, command: Sequence[str]) -> None:
        """Run a command that `compile` begins.

        Raises:
            ConfigError: it fails; its complaint is in the evidence.
        """
        zig = str(cache_folder() / "native" / "zig")  # what it builds of its runtime, kept
        environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": zig, "ZIG_LOCAL_CACHE_DIR": zig}
        environment["LC_ALL"] = "C"  # complaints that can be read by programs
        try:
            done = subprocess.run(
                command, capture_output=True, env=environment, timeout=COMPILE_S, check=False
            )
            complaint = done.stderr.decode(errors="replace") if done.returncode else ""
        except (OSError, subprocess.TimeoutExpired) as error:
            complaint = str(error)
        if complaint:
            raise ConfigError(
                f"{self.name} ({self.version}) cannot build for a microcontroller",
                hint="the complaint is in the record; try the other toolchain: gcc or zig",
                evidence=[Evidence(name="stderr", text=complaint)],
            )


def find_toolchain(wanted: str = "") -> Toolchain:
    """The compiler of that name; without a name gcc if it is there, else zig.

    Args:
        wanted: `gcc`, `zig` or empty.

    Raises:
        ConfigError: it is not there, or no such name is known.
    """
    if wanted not in ("", "gcc", "zig"):
        raise ConfigError(f"there is no toolchain '{wanted}'", hint="known: gcc, zig")
    gcc = shutil.which(GCC)
    if gcc and wanted != "zig":
        return Toolchain(name="gcc", version=_told_version(gcc), command=(gcc,))
    if find_spec("ziglang") and wanted != "gcc":
        zig = (sys.executable, "-m", "ziglang", "cc")
        return Toolchain(name="zig", version=f"zig {version('ziglang')}", command=zig)
    missing = GCC if wanted == "gcc" else "C compiler for microcontrollers"
    raise ConfigError(f"there is no {missing} here", hint="pip install 'verdict-farm[mcu]'")


def _told_version(path: str) -> str:
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0]
