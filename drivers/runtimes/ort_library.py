"""The shared library of ONNX Runtime for a board, and what must lie beside it."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from drivers.runtimes.controller_cache import made_once
from farm.errors import ConfigError, Evidence
from farm.model import Artifact
from farm.shell import cache_folder

OFFICIAL = ("x86_64", "aarch64")
"""Architectures that onnxruntime's authors make wheels for."""
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux2014")
DOWNLOAD_S = 900.0
MACHINES = {62: "x86_64", 183: "aarch64", 40: "armv7l"}
"""The numbers that ELF files have for architectures."""

_MAIN = re.compile(r"libonnxruntime\.so[\d.]*", re.ASCII)
_ANY = re.compile(r"lib[\w+.-]+\.so[\w.]*", re.ASCII)
_PROVIDER = re.compile(r"libonnxruntime_providers_\w+\.so", re.ASCII)
_BRIDGE = "libonnxruntime_providers_shared.so"


def find_library(option: str, architecture: str) -> tuple[Path, ...]:
    """The files that a board needs, the library itself first.

    Args:
        option: a .so or a .whl of the controller; empty for the official wheel.
        architecture: what they must be made for.

    Raises:
        ConfigError: there is none, or it is for another architecture.
    """
    if not option:
        files = _official(architecture)
    elif option.endswith(".whl"):
        files = _in_folder(_unpacked(Path(option).expanduser()))
    else:
        main = Path(option).expanduser()
        files = (main, *_providers(main.parent))
    _refuse_other_machine(files[0], architecture)
    return files


def _official(architecture: str) -> tuple[Path, ...]:
    if architecture not in OFFICIAL:
        raise ConfigError(
            f"there is no official wheel of onnxruntime for {architecture}",
            hint="name a library in the inventory: ort_library: FILE.so or FILE.whl "
            "(the package sherpa-onnx-core carries one), or board:/path",
        )
    spec = find_spec("onnxruntime")
    if spec and spec.origin and platform.machine() == architecture:
        capi = Path(spec.origin).parent / "capi"
        if any(_MAIN.fullmatch(path.name) for path in capi.iterdir()):
            return _in_folder(capi)
    try:
        wanted = version("onnxruntime")
    except PackageNotFoundError:
        wanted = ""
    folder = cache_folder() / "onnxruntime" / f"{wanted or 'newest'}-{architecture}"
    return _in_folder(made_once(folder, lambda made: _download(wanted, architecture, made)))


def _download(wanted: str, architecture: str, target: Path) -> None:
    wheels = target / "wheels"
    requirement = f"onnxruntime=={wanted}" if wanted else "onnxruntime"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    for name in PLATFORMS:
        command += ["--platform", f"{name}_{architecture}"]
    command += ["--python-version", "3.11", "--implementation", "cp"]
    command += ["--dest", str(wheels), requirement]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_S, check=False)
    if done.returncode:
        raise ConfigError(
            f"pip cannot download {requirement} for {architecture}",
            hint="name a library in the inventory: ort_library: FILE.so, FILE.whl or board:/path",
            evidence=[Evidence(name="stderr", text=done.stderr)],
        )
    for wheel in wheels.glob("*.whl"):
        _unpack(wheel, target)
    shutil.rmtree(wheels)


def _unpacked(wheel: Path) -> Path:
    digest = Artifact.of(wheel).sha256
    return made_once(
        cache_folder() / "onnxruntime" / digest[:32], lambda made: _unpack(wheel, made)
    )


def _unpack(wheel: Path, target: Path) -> None:
    """Take the libraries out of the folder of the wheel that holds ONNX Runtime.

    Only the last part of a member's name is used, and only if it is that of a library, so no name
    leads out of the target.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = {PurePosixPath(member.filename): member for member in archive.infolist()}
            mains = [path for path in members if _MAIN.fullmatch(path.name)]
            if not mains:
                raise ConfigError(
                    f"{wheel.name} holds no libonnxruntime.so",
                    hint="take a newer onnxruntime, or for example sherpa-onnx-core",
                )
            for path, member in members.items():
                if path.parent == mains[0].parent and _ANY.fullmatch(path.name):
                    with archive.open(member) as source, (target / path.name).open("wb") as copy:
                        shutil.copyfileobj(source, copy)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ConfigError(f"{str(wheel)!r} is no wheel: {error}") from error


def _in_folder(folder: Path) -> tuple[Path, ...]:
    """The library, its providers and, if these are more than the bridge to them, all beside it."""
    main = min(path for path in folder.iterdir() if _MAIN.fullmatch(path.name))
    beside = _providers(folder)
    if any(path.name != _BRIDGE for path in beside):
        beside = tuple(
            path for path in sorted(folder.iterdir()) if _ANY.fullmatch(path.name) and path != main
        )
    return (main, *beside)


def _providers(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        return ()
    return tuple(path for path in sorted(folder.iterdir()) if _PROVIDER.fullmatch(path.name))


def _refuse_other_machine(library: Path, architecture: str) -> None:
    try:
        with library.open("rb") as file:
            head = file.read(20)
    except OSError as error:
        raise ConfigError(f"cannot read {str(library)!r}: {error.strerror}") from error
    machine = int.from_bytes(head[18:20], "little")
    if head[:4] != b"\x7fELF" or machine not in MACHINES:
        raise ConfigError(f"{str(library)!r} is no shared library for a board")
    if MACHINES[machine] != architecture:
        raise ConfigError(
            f"{str(library)!r} is for {MACHINES[machine]}, the board is {architecture}",
            hint="name one for the board in the inventory: ort_library",
        )
