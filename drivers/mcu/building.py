"""From an ONNX model to an image for one slot of one board; kept by what it was made from."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from drivers.mcu import codegen, folding, kernels, linking
from drivers.mcu.arena import Arranged, arrange
from drivers.mcu.fusing import Fused, Tensor, fuse, load
from drivers.mcu.image import HEADER_BYTES, Cpu, Header, Target
from drivers.mcu.source import UnknownSource, parse
from drivers.mcu.toolchain import Toolchain, find_toolchain
from farm.errors import ConfigError, UnsupportedModel
from farm.model import Artifact
from farm.shell import cache_folder, made_once

_MODULES = (
    "arena", "building", "codegen", "folding", "fusing", "image", "kernels", "linking", "sections",
    "source", "toolchain",
)  # fmt: skip
"""What an image depends on, besides tools and the C of every image."""
_IMAGE, _ELF, _TOLD = "image.bin", "image.elf", "built.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A model as a board runs it.

    Attributes:
        image: what is written into the slot.
        header: the one in it.
        sections: text, rodata, data, bss -> bytes.
        inputs: its only input.
        outputs: its only output.
        tools: what made it, with versions.
        elf: the linked program with its symbols; None where there is none.
    """

    image: bytes
    header: Header
    sections: Mapping[str, int]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    tools: str
    elf: Path | None


def build_image(
    model: Artifact, target: Target, *, toolchain: str = "", cflags: str = "-O3"
) -> Built:
    """Build a model for a slot, unless the same was built from the same before.

    Args:
        model: the ONNX file.
        target: where the image shall run.
        toolchain: `gcc`, `zig`, or empty for the best that is there.
        cflags: for the compiler, as in a shell.

    Raises:
        UnsupportedModel: it is no model, or cannot be built.
        DeployFailed: the image does not fit; nothing was pushed yet.
        ConfigError: no toolchain, wrong flags, or the cache cannot be written.
    """
    if target.cpu is Cpu.VIRTUAL:
        return _virtual(model, target)
    tools = find_toolchain(toolchain)
    flags = _split(cflags)
    told = f"{tools.version}; {codegen.generator()}; onnxruntime {version('onnxruntime')}"
    digest = hashlib.sha256(repr((model.sha256, model.name, target, flags, told)).encode())
    own = [Path(__file__).parent / f"{name}.py" for name in _MODULES]
    for source in [*own, *sorted(linking.SOURCES.iterdir())]:
        digest.update(repr((source.name, source.read_bytes())).encode())
    folder = cache_folder() / "mcu" / digest.hexdigest()[:32]
    if folder.exists() and _read(folder) is None:
        shutil.rmtree(folder, ignore_errors=True)  # it is made whole: somebody spoiled it
    made_once(folder, lambda part: _make(part, model, target, tools=tools, flags=flags, told=told))
    kept = _read(folder)
    if kept is None:
        raise ConfigError(
            f"what was written to {str(folder)!r} cannot be read again",
            hint="look at the disk, or set XDG_CACHE_HOME to another folder",
        )
    return kept


def _virtual(model: Artifact, target: Target) -> Built:
    """The file itself: the controller runs it for a board that has no processor."""
    plain = load(model)
    file = model.path.read_bytes()
    total = HEADER_BYTES + len(file)
    if total > target.slot_bytes:
        raise linking.refuse(model.name, "image", total, target.slot_bytes, "it is the ONNX file")
    header = _header(model, target, plain, total_bytes=total)
    return Built(
        image=header.pack() + file,
        header=header,
        sections={"text": 0, "rodata": total, "data": 0, "bss": 0},
        inputs=plain.inputs,
        outputs=plain.outputs,
        tools=f"onnxruntime {version('onnxruntime')}",
        elf=None,
    )


def _make(
    folder: Path, model: Artifact, target: Target, *, tools: Toolchain, flags: list[str], told: str
) -> None:
    """Build in a folder of its own, and leave in `folder` what is kept."""
    fused = fuse(model)
    _refuse_weights(model, fused, target)
    with tempfile.TemporaryDirectory(prefix="farm-") as name:
        work = Path(name)
        arranged = _source(model, fused, target, work)
        source, elf = work / "model.c", work / _ELF
        source.write_text(arranged.text)
        linking.compile_and_link(source, elf, target=target, toolchain=tools, cflags=flags)
        header = _header(model, target, fused, arena_bytes=arranged.arena_bytes)
        linked = linking.make_image(elf, target=target, header=header)
        facts = {
            "sha256": hashlib.sha256(linked.image).hexdigest(),
            "sections": dict(linked.sections),
            "inputs": [asdict(tensor) for tensor in fused.inputs],
            "outputs": [asdict(tensor) for tensor in fused.outputs],
            "tools": told,
        }
        (folder / _IMAGE).write_bytes(linked.image)
        (folder / _TOLD).write_text(json.dumps(facts))
        shutil.copyfile(elf, folder / _ELF)


def _source(model: Artifact, fused: Fused, target: Target, work: Path) -> Arranged:
    """The C source, its tensors in an arena that fits the board."""
    text = codegen.generate(model.name, fused, work)
    try:
        arranged = arrange(parse(improve(text), codegen.ENTRY))
    except UnknownSource as error:
        raise UnsupportedModel(
            f"'{model.name}' cannot be built for a microcontroller: {error}",
            hint=f"{codegen.generator()} made something that the farm does not know",
        ) from error
    if arranged.arena_bytes > target.ram_bytes:
        peak = arranged.largest_moment()
        told = "at the worst moment: " + ", ".join(f"{life.name} {life.bytes:,}" for life in peak)
        raise linking.refuse(
            model.name, "arena", arranged.arena_bytes, target.ram_bytes, told[:300]
        )
    return arranged


def improve(text: str) -> str:
    """A generated source that needs less memory and fewer instructions for the same bits.

    Raises:
        UnknownSource: it cannot be told apart.
    """
    return kernels.replace(folding.fold(text, codegen.ENTRY), codegen.ENTRY)


def _refuse_weights(model: Artifact, fused: Fused, target: Target) -> None:
    """Do not even generate what cannot fit: source and compiler would take minutes."""
    import onnx

    sizes = {
        value.name: onnx.numpy_helper.to_array(value).nbytes
        for value in fused.model.graph.initializer
    }
    if sum(sizes.values()) + HEADER_BYTES > target.slot_bytes:
        name, most = max(sizes.items(), key=lambda pair: pair[1])
        needed = sum(sizes.values()) + HEADER_BYTES
        told = f"the largest are those of '{name}': {most:,} bytes"
        raise linking.refuse(model.name, "weights", needed, target.slot_bytes, told)


def _read(folder: Path) -> Built | None:
    """What lies in the cache, None if it is not whole."""
    try:
        image = (folder / _IMAGE).read_bytes()
        facts: dict[str, Any] = json.loads((folder / _TOLD).read_text())
        if hashlib.sha256(image).hexdigest() != facts["sha256"] or not (folder / _ELF).exists():
            return None
        return Built(
            image=image,
            header=Header.unpack(image),
            sections=facts["sections"],
            inputs=_tensors(facts["inputs"]),
            outputs=_tensors(facts["outputs"]),
            tools=facts["tools"],
            elf=folder / _ELF,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _tensors(told: list[dict[str, Any]]) -> tuple[Tensor, ...]:
    return tuple(Tensor(**{**tensor, "shape": tuple(tensor["shape"])}) for tensor in told)


def _header(
    model: Artifact, target: Target, fused: Fused, *, total_bytes: int = 0, arena_bytes: int = 0
) -> Header:
    """A header without what only the linked program tells."""
    return Header(
        cpu=target.cpu,
        total_bytes=total_bytes,
        base=0,
        entry=0,
        data_address=0,
        data_load_address=0,
        data_bytes=0,
        bss_address=0,
        bss_bytes=0,
        in_bytes=fused.inputs[0].bytes,
        out_bytes=fused.outputs[0].bytes,
        arena_bytes=arena_bytes,
        model_sha256=bytes.fromhex(model.sha256),
        name=Path(model.name).stem,
    )


def _split(cflags: str) -> list[str]:
    try:
        return shlex.split(cflags)
    except ValueError as error:
        raise ConfigError(f"cflags {cflags!r} cannot be read: {error}") from error
