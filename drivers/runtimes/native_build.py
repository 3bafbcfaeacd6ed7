"""Builds the native runner for a board, once per content of its sources and compiler."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from drivers.runtimes.controller_cache import made_once
from farm.errors import ConfigError, Evidence
from farm.model import Artifact
from farm.shell import cache_folder

SOURCES = Path(__file__).parent.parent / "ondevice" / "ort_runner"
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64", "-O2")
LIBRARIES = ("-ldl", "-lm")
BUILD_S = 300.0

TRIPLES = {
    "x86_64": "x86_64-linux-gnu",
    "aarch64": "aarch64-linux-gnu",
    "armv7l": "arm-linux-gnueabihf",
}
"""Every architecture that the runner is built for, and what compilers call it."""
GLIBC = "2.28"
"""The oldest C library that onnxruntime's wheels run on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiler:
    """A C compiler for one architecture.

    Attributes:
        command: how it is called, target included.
        version: its version, as it tells it.
    """

    command: tuple[str, ...]
    version: str


def build_runner(architecture: str) -> Artifact:
    """The runner for an architecture, by the best compiler that is there.

    Raises:
        ConfigError: no compiler for it, or it does not compile.
    """
    found = compilers(architecture)
    if not found:
        raise ConfigError(
            f"there is no C compiler here for a board of architecture {architecture}",
            hint="pip install 'verdict-farm[native]'",
        )
    return build_with(found[0])


def compilers(architecture: str) -> tuple[Compiler, ...]:
    """The compilers for an architecture, best first.

    zig comes first because it links against the C library of a chosen version. The system's gcc
    links against its own: built beside a new C library, the runner asks for symbols such as
    `dlopen@GLIBC_2.34`, and does not start on an older board.

    Raises:
        ConfigError: the runner cannot be built for that architecture.
    """
    if architecture not in TRIPLES:
        raise ConfigError(
            f"the native runner cannot be built for the architecture '{architecture}'",
            hint=f"it runs on {', '.join(TRIPLES)}; elsewhere use the runtime ort_python",
        )
    triple = TRIPLES[architecture]
    found = []
    if find_spec("ziglang"):
        command = (sys.executable, "-m", "ziglang", "cc", "-target", f"{triple}.{GLIBC}")
        found.append(Compiler(command=command, version=version("ziglang")))
    native = ("cc",) if platform.machine() == architecture else ()
    for name in (*native, f"{triple}-gcc"):
        if path := shutil.which(name):
            found.append(Compiler(command=(path,), version=_told_version(path)))
    return tuple(found)


def build_with(compiler: Compiler) -> Artifact:
    """Compile, unless the same compiler has compiled the same sources before.

    Raises:
        ConfigError: it does not compile.
    """
    sources = sorted([*SOURCES.glob("*.c"), *SOURCES.glob("*.h")])
    digest = hashlib.sha256(repr((compiler, FLAGS, LIBRARIES)).encode())
    for source in sources:
        digest.update(repr((source.name, source.read_bytes())).encode())
    folder = made_once(
        cache_folder() / "native" / digest.hexdigest()[:32],
        lambda made: _compile(compiler, sources, made / "ort_runner"),
    )
    return Artifact.of(folder / "ort_runner")


def _compile(compiler: Compiler, sources: list[Path], target: Path) -> None:
    files = [str(source) for source in sources if source.suffix == ".c"]
    zig = str(cache_folder() / "native" / "zig")  # what it compiles of the C library, kept
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": zig, "ZIG_LOCAL_CACHE_DIR": zig}
    command = [*compiler.command, *FLAGS, "-s", "-o", str(target), *files, *LIBRARIES]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=BUILD_S, check=False
    )
    if done.returncode:
        raise ConfigError(
            f"'{' '.join(compiler.command)}' cannot build the native runner",
            hint="pip install 'verdict-farm[native]'; the complaint is in the record",
            evidence=[Evidence(name="stderr", text=done.stderr)],
        )


def _told_version(path: str) -> str:
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0]
