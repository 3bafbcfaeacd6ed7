"""Builds the farm's firmware for a board, once per content of its sources and compiler."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from drivers.mcu.image import Cpu
from drivers.mcu.toolchain import Toolchain, find_toolchain
from farm.errors import ConfigError, nearest_hint
from farm.shell import cache_folder, made_once

SOURCES = Path(__file__).parent.parent / "ondevice" / "mcu_firmware"
ELF = "firmware.elf"
_FLAGS = ("-Os", "-Wall", "-Wextra", "-Werror", "-ffunction-sections", "-fdata-sections")
_LINK_FLAGS = ("-Wl,--gc-sections", "-Wl,-e,farm_reset_handler")


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """How the firmware of one board is made.

    Attributes:
        port: the folder with what is special about the board.
        cpu: what it runs on.
        flags: what tells one board of the port from the others.
    """

    port: Path
    cpu: Cpu
    flags: tuple[str, ...] = ()


_MPS2 = SOURCES / "ports" / "mps2"
BUILDS = {
    "mps2-an385": Build(port=_MPS2, cpu=Cpu.CORTEX_M3, flags=("-DBOARD_AN385",)),
    "mps2-an386": Build(port=_MPS2, cpu=Cpu.CORTEX_M4F, flags=("-DBOARD_AN386",)),
    "mps2-an500": Build(port=_MPS2, cpu=Cpu.CORTEX_M7, flags=("-DBOARD_AN500",)),
    "mps3-an547": Build(port=_MPS2, cpu=Cpu.CORTEX_M55, flags=("-DBOARD_AN547",)),
    "stm32f405": Build(port=SOURCES / "ports" / "stm32f405", cpu=Cpu.CORTEX_M4F),
}
"""Every board that the farm has a firmware for."""


def build_firmware(board: str, *, toolchain: str = "") -> Path:
    """The firmware for a board, an ELF file.

    Args:
        board: a name of `BUILDS`.
        toolchain: as in `find_toolchain`.

    Raises:
        ConfigError: no such board, no compiler, or it does not compile.
    """
    if board not in BUILDS:
        raise ConfigError(
            f"the farm has no firmware for the board '{board}'",
            hint=nearest_hint(board, BUILDS),
        )
    return build(BUILDS[board], find_toolchain(toolchain))


def build(made: Build, toolchain: Toolchain) -> Path:
    """Compile, unless the same compiler has compiled the same sources before.

    Raises:
        ConfigError: it does not compile, or the cache cannot be written.
    """
    sources = sorted(path for folder in (SOURCES, made.port) for path in folder.glob("*.*"))
    digest = hashlib.sha256(
        repr((toolchain.name, toolchain.version, made.cpu, made.flags, _FLAGS)).encode()
    )
    for source in sources:
        digest.update(repr((source.name, source.read_bytes())).encode())
    folder = cache_folder() / "mcu" / "firmware" / digest.hexdigest()[:32]
    return made_once(folder, lambda part: _compile(made, toolchain, sources, part)) / ELF


def _compile(made: Build, toolchain: Toolchain, sources: list[Path], folder: Path) -> None:
    command = [
        *toolchain.compile(made.cpu), *_FLAGS, *made.flags, f"-I{SOURCES}", f"-I{made.port}",
        *(str(source) for source in sources if source.suffix == ".c"),
    ]  # fmt: skip
    # One script: zig's linker takes no second one, and finds none that is included.
    script = folder / "link.ld"
    memories = (made.port / "link.ld").read_text()
    script.write_text(memories + (SOURCES / "cortex_m.ld").read_text())
    link = (*_LINK_FLAGS, f"-T{script}", *toolchain.link)
    toolchain.call([*command, *link, "-o", str(folder / ELF)])
