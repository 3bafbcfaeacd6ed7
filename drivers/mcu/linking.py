"""Compiles the source of a model and links it for a slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from drivers.mcu.codegen import ENTRY
from drivers.mcu.image import HEADER_BYTES, Header, Target
from drivers.mcu.sections import Elf, read_elf
from drivers.mcu.toolchain import Toolchain
from farm.errors import ConfigError, DeployFailed, Evidence, UnsupportedModel

SOURCES = Path(__file__).parent.parent / "ondevice" / "mcu_model"
SECTIONS = ("text", "rodata", "data", "bss")
_FLAGS = ("-w", "-fno-common", "-ffunction-sections", "-fdata-sections", "-fomit-frame-pointer")
_UNDEFINED = (
    "undefined reference to `",
    "undefined symbol: ",
    "implicit declaration of function '",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Linked:
    """A linked model.

    Attributes:
        image: header, code, constants and the start of `.data`.
        header: the one in it.
        sections: text, rodata, data, bss -> bytes; the header belongs to rodata.
    """

    image: bytes
    header: Header
    sections: Mapping[str, int]


def compile_and_link(
    source: Path, elf: Path, *, target: Target, toolchain: Toolchain, cflags: Sequence[str]
) -> None:
    """Make a program of a source and of what every image contains.

    Raises:
        UnsupportedModel: it calls a function that images do not have.
        ConfigError: the toolchain fails.
    """
    own = [str(path) for path in sorted(SOURCES.glob("*.c"))]
    command = [*toolchain.compile(target.cpu), *_FLAGS, *cflags, f"-I{SOURCES}"]
    command += [str(source), *own, "-o", str(elf), f"-Wl,-T,{_script(source.parent, target)}"]
    command += [f"-Wl,-e,{ENTRY}", "-Wl,--gc-sections", "-Wl,--build-id=none"]
    try:
        toolchain.call([*command, *toolchain.link])
    except ConfigError as error:
        told = "".join(exhibit.text for exhibit in error.evidence)
        if missing := _undefined(told):
            raise UnsupportedModel(
                f"the model needs {', '.join(missing)} of the C library, which images do not have",
                hint="replace the operator that needs it, or run the model with onnxruntime",
                evidence=[Evidence(name="stderr", text=told)],
            ) from error
        raise


def _script(folder: Path, target: Target) -> Path:
    """The linker script for a slot; not every linker takes addresses on its command line."""
    text = (SOURCES / "image.ld").read_text()
    for name, value in (
        ("SLOT", target.slot_address), ("RAM", target.ram_address), ("HEADER", HEADER_BYTES),
    ):  # fmt: skip
        text = text.replace(f"@{name}@", f"{value:#x}")
    path = folder / "image.ld"
    path.write_text(text)
    return path


def make_image(elf: Path, *, target: Target, header: Header) -> Linked:
    """Take the image out of a program and fill in its header.

    Args:
        elf: what `compile_and_link` made.
        target: what it was linked for.
        header: what is known without the program.

    Raises:
        DeployFailed: it does not fit.
    """
    program = read_elf(elf)
    at = program.symbols
    load = at["farm_image_end"]
    code = _loaded(program, target.slot_address + HEADER_BYTES, load)
    data = _loaded(program, at["farm_data_start"], at["farm_data_end"])
    filled = replace(
        header,
        total_bytes=HEADER_BYTES + len(code) + len(data),
        base=target.slot_address,
        entry=at[ENTRY] | 1,
        data_address=at["farm_data_start"],
        data_load_address=load,
        data_bytes=len(data),
        bss_address=at["farm_bss_start"],
        bss_bytes=at["farm_bss_end"] - at["farm_bss_start"],
    )
    text = program.sections[".text"].length
    sections = {
        "text": text,
        "rodata": HEADER_BYTES + len(code) - text,
        "data": filled.data_bytes,
        "bss": filled.bss_bytes,
    }
    _fit(header.name, sections, target=target, header=filled)
    return Linked(image=filled.pack() + code + data, header=filled, sections=sections)


def refuse(name: str, what: str, needed: int, there: int, because: str) -> DeployFailed:
    """The error of a model that is too large."""
    return DeployFailed(
        f"'{name}' does not fit: its {what} takes {needed:,} bytes, the board has {there:,} "
        f"for it; {needed - there:,} too many",
        hint=because,
    )


def _fit(name: str, sections: Mapping[str, int], *, target: Target, header: Header) -> None:
    parts = {part: sections[part] for part in ("rodata", "text", "data")}
    told = ", ".join(f"{part} {count:,}" for part, count in parts.items())
    if header.total_bytes > target.slot_bytes:
        raise refuse(name, "image", header.total_bytes, target.slot_bytes, f"of these: {told}")
    ram = sections["data"] + sections["bss"]
    if ram > target.ram_bytes:
        told = f"of these: arena {header.arena_bytes:,}, data {sections['data']:,}"
        raise refuse(name, "memory", ram, target.ram_bytes, told)


def _loaded(program: Elf, start: int, end: int) -> bytes:
    """What lies between two addresses; zeros where no section does."""
    memory = bytearray(end - start)
    for section in program.sections.values():
        at = section.address - start
        if section.allocated and section.data and 0 <= at < len(memory):
            memory[at : at + len(section.data)] = section.data
    if len(memory) != end - start:
        raise ValueError("a section reaches over the end of the image")
    return bytes(memory)


def _undefined(told: str) -> list[str]:
    """Functions that a linker or a compiler misses."""
    names = set()
    for line in told.splitlines():
        for sign in _UNDEFINED:
            if sign in line:
                rest = line.partition(sign)[2]
                names.add(rest.split("'")[0].split()[0].rstrip(";"))
    return sorted(names)
