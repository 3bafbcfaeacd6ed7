"""Providers that compile a model before they run it, and where the device keeps what they made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from farm.connection import Transport
from farm.shell import COMMAND_S, script

KEPT = 16
"""Compiled models that stay on a device; the longest unused go first."""
CONTEXT = "context.onnx"

# $1: folder of all, $2: this one, $3: how many stay. Prints the model to run if it is compiled.
_FIND = """
cd "$1" 2>/dev/null && [ -f "$2/done" ] || exit 0
touch "$2"
[ -f "$2/context.onnx" ] && echo context || echo cache
"""
_MAKE = """
mkdir -p "$1" && cd "$1" && rm -rf "./$2" && mkdir "$2" || exit 1
ls -1t | tail -n "+$(($3 + 1))" | while read -r old; do rm -rf "./$old"; done
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a provider is told to keep what it compiled.

    Attributes:
        provider_options: for it, in the run that compiles and in all later ones.
        configs: for the session, in the run that compiles.
    """

    provider_options: Mapping[str, str] = field(default_factory=dict)
    configs: Mapping[str, str] = field(default_factory=dict)


def _engine_cache(folder: PurePosixPath) -> Recipe:
    return Recipe(
        provider_options={
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(folder),
        }
    )


def _blob_cache(folder: PurePosixPath) -> Recipe:
    return Recipe(provider_options={"cache_dir": str(folder)})


def _context_model(folder: PurePosixPath) -> Recipe:
    """A model whose compiled parts are single nodes; later runs load it instead of the original."""
    return Recipe(configs={"ep.context_enable": "1", "ep.context_file_path": str(folder / CONTEXT)})


RECIPES: dict[str, Callable[[PurePosixPath], Recipe]] = {
    "tensorrt": _engine_cache,
    "nvtensorrtrtx": _context_model,
    "openvino": _blob_cache,
    "qnn": _context_model,
    "vitisai": _context_model,
}
"""The providers that compile, by the names that the farm has for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledModel:
    """The place on a device for what was made of one model.

    Attributes:
        transport: the way to the device.
        key: hexadecimal; of model, library, accelerator and options.
    """

    transport: Transport
    key: str

    @property
    def folder(self) -> PurePosixPath:
        """Where it is, or will be."""
        return self._all / self.key

    @property
    def _all(self) -> PurePosixPath:
        return self.transport.root / "compiled"

    def find(self, original: PurePosixPath) -> PurePosixPath | None:
        """The model to run if it is compiled: a new one, or the original beside a cache."""
        command = script(_FIND, str(self._all), self.key)
        told = self.transport.run(command, timeout_s=COMMAND_S).stdout.strip()
        return {"context": self.folder / CONTEXT, "cache": original}.get(told)

    def begin(self) -> None:
        """Make an empty folder, and room for it."""
        self.transport.run(script(_MAKE, str(self._all), self.key, str(KEPT)), timeout_s=COMMAND_S)

    def finish(self) -> None:
        """From now on it is found."""
        self.transport.run(("touch", str(self.folder / "done")), timeout_s=COMMAND_S)
