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

from farm.errors import ConfigError, Evidence
from farm.model import Artifact
from farm.shell import cache_folder, made_once

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

NDK_CLANGS = {
    "x86_64": "x86_64-linux-android24-clang",
    "aarch64": "aarch64-linux-android24-clang",
    "armv7l": "armv7a-linux-androideabi24-clang",
}
"""The compilers of Android's NDK, for Android 7 and newer."""
NDK_FLAGS = ("-fPIE", "-pie", "-Wl,-z,max-page-size=16384")
"""Android starts nothing else, and newer phones have pages of 16 KiB."""
NDK_FOLDERS = ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT")
"""Variables of the environment that may name the NDK's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiler:
    """A C compiler for one architecture.

    Attributes:
        command: how it is called, target included.
        version: its version, as it tells it.
    """

    command: tuple[str, ...]
    version: str


def build_runner(architecture: str, *, android: bool = False) -> Artifact:
    """The runner for an architecture, by the best compiler that is there.

    Args:
        architecture: what it must run on.
        android: whether the C library there is Android's, not that of Linux distributions.

    Raises:
        ConfigError: no compiler for it, or it does not compile.
    """
    if android:
        return build_with(ndk_compiler(architecture))
    found = compilers(architecture)
    if not found:
        raise ConfigError(
            f"there is no C compiler here for a board of architecture {architecture}",
            hint="pip install 'verdict-farm[native]'",
        )
    return build_with(found[0])


def ndk_compiler(architecture: str) -> Compiler:
    """The compiler of Android's NDK, which alone has the headers of Android's C library.

    Raises:
        ConfigError: there is no NDK.
    """
    _refuse_unknown(architecture)
    name = NDK_CLANGS[architecture]
    message = f"there is no Android NDK here, whose {name} builds the runner"
    for variable in NDK_FOLDERS:
        if not os.environ.get(variable):
            continue
        folder = Path(os.environ[variable])
        programs = sorted(folder.glob(f"toolchains/llvm/prebuilt/*/bin/{name}"))
        if programs:
            return Compiler(command=(str(programs[0]), *NDK_FLAGS), version=_ndk_version(folder))
        message = f"{variable}={str(folder)!r} is no NDK with {name}"
    raise ConfigError(
        message,
        hint="unpack Android's NDK (r21 or newer) here and set ANDROID_NDK_HOME to its folder",
    )


def compilers(architecture: str) -> tuple[Compiler, ...]:
    """The compilers for Linux on an architecture, best first.

    zig comes first because it links against the C library of a chosen version. The system's gcc
    links against its own: built beside a new C library, the runner asks for symbols such as
    `dlopen@GLIBC_2.34`, and does not start on an older board.

    Raises:
        ConfigError: the runner cannot be built for that architecture.
    """
    _refuse_unknown(architecture)
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
            hint="the complaint is in the record; reinstall the compiler: for Linux that is "
            "pip install 'verdict-farm[native]', for Android the NDK",
            evidence=[Evidence(name="stderr", text=done.stderr)],
        )


def _refuse_unknown(architecture: str) -> None:
    if architecture not in TRIPLES:
        raise ConfigError(
            f"the native runner cannot be built for the architecture '{architecture}'",
            hint=f"it runs on {', '.join(TRIPLES)}; elsewhere use the runtime ort_python",
        )


def _ndk_version(folder: Path) -> str:
    """What the NDK tells of itself: all of it, as no two releases tell the same."""
    try:
        return (folder / "source.properties").read_text(errors="replace")
    except OSError:
        return ""


def _told_version(path: str) -> str:
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0]
