"""The shared library of ONNX Runtime for a board or phone, and what must lie beside it."""

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

from drivers.runtimes.elf import read_shared_library
from farm.errors import ConfigError, Evidence
from farm.model import Artifact
from farm.shell import cache_folder, made_once

OFFICIAL = ("x86_64", "aarch64")
"""Architectures that onnxruntime's authors make wheels for."""
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux2014")
DOWNLOAD_S = 900.0
ABIS = {"x86_64": "x86_64", "aarch64": "arm64-v8a", "armv7l": "armeabi-v7a"}
"""What Android calls architectures; folders of an .aar have these names."""

LINUX_C, ANDROID_C = "libc.so.6", "libc.so"
"""What libraries call the C library of Linux distributions (glibc), and that of Android."""

_MAIN = re.compile(r"libonnxruntime\.so[\d.]*", re.ASCII)
_ANY = re.compile(r"lib[\w+.-]+\.so[\w.]*", re.ASCII)
_PROVIDER = re.compile(r"lib(onnxruntime_providers_|Qnn)\w+\.so", re.ASCII)
"""A provider, or a part of Qualcomm's, which the provider opens by its name."""
_FOR_JAVA = re.compile(r"lib\w+_jni\.so", re.ASCII)
_BRIDGE = "libonnxruntime_providers_shared.so"


def find_library(option: str, architecture: str, *, android: bool = False) -> tuple[Path, ...]:
    """The files that a board needs, the library itself first.

    Args:
        option: a .so, a .whl or an .aar of the controller; empty for the official wheel.
        architecture: what they must be made for.
        android: whether they must be made for Android, not for Linux distributions.

    Raises:
        ConfigError: there is none, or it is for another machine.
    """
    path = Path(option).expanduser()
    if not option:
        files = _official(architecture, android=android)
    elif path.suffix == ".whl":
        files = _in_folder(_unpacked(path))
    elif path.suffix == ".aar":
        files = _in_aar(path, architecture)
    else:
        files = (path, *_providers(path.parent))
    _refuse_other_machine(files[0], architecture, android=android)
    return _with_needed(files) if android else files


def _official(architecture: str, *, android: bool) -> tuple[Path, ...]:
    if android:
        raise ConfigError(
            "there is no official wheel of onnxruntime for Android",
            hint="name a library in the inventory: ort_library: FILE.aar (onnxruntime-android), "
            f"or a wheel of sherpa-onnx-core for Android ({_abi(architecture)})",
        )
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


def _unpacked(archive: Path, inside: str = "") -> Path:
    digest = Artifact.of(archive).sha256
    folder = cache_folder() / "onnxruntime" / f"{digest[:32]}{inside.replace('/', '-')}"
    return made_once(folder, lambda made: _unpack(archive, made, inside))


def _unpack(source: Path, target: Path, inside: str = "") -> None:
    """Take the libraries out of the folder of a wheel or .aar that holds ONNX Runtime.

    Only the last part of a member's name is used, and only if it is that of a library, so no name
    leads out of the target.

    Args:
        source: the archive.
        target: where they go.
        inside: the folder in the archive; empty to find it.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            members = {PurePosixPath(member.filename): member for member in archive.infolist()}
            mains = [
                path
                for path in members
                if _MAIN.fullmatch(path.name) and inside in ("", str(path.parent))
            ]
            if not mains:
                raise ConfigError(
                    f"{source.name} holds no {PurePosixPath(inside, 'libonnxruntime.so')}",
                    hint="take a newer onnxruntime, or for example sherpa-onnx-core",
                )
            for path, member in members.items():
                if path.parent == mains[0].parent and _ANY.fullmatch(path.name):
                    with archive.open(member) as data, (target / path.name).open("wb") as copy:
                        shutil.copyfileobj(data, copy)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ConfigError(f"{str(source)!r} is no wheel or .aar: {error}") from error


def _in_aar(archive: Path, architecture: str) -> tuple[Path, ...]:
    """The library and all that lies beside it: somebody put it there for a provider."""
    folder = _unpacked(archive, f"jni/{_abi(architecture)}")
    files = sorted(folder.iterdir(), key=lambda path: (not _MAIN.fullmatch(path.name), path.name))
    return tuple(path for path in files if not _FOR_JAVA.fullmatch(path.name))


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


def _abi(architecture: str) -> str:
    return ABIS.get(architecture, architecture)


def _with_needed(files: tuple[Path, ...]) -> tuple[Path, ...]:
    """And what these need of their folder, such as libc++_shared.so, which no Android has."""
    found = list(files)
    for path in found:  # it grows meanwhile
        library = read_shared_library(path)
        for name in library.needed if library else ():
            beside = path.parent / name
            if _ANY.fullmatch(name) and beside not in found and beside.is_file():
                found.append(beside)
    return tuple(found)


def _refuse_other_machine(library: Path, architecture: str, *, android: bool) -> None:
    try:
        found = read_shared_library(library)
    except OSError as error:
        raise ConfigError(f"cannot read {str(library)!r}: {error.strerror}") from error
    if found is None or not found.architecture:
        raise ConfigError(f"{str(library)!r} is no shared library for a board")
    hint = "name one for the board in the inventory: ort_library"
    if found.architecture != architecture:
        raise ConfigError(
            f"{str(library)!r} is for {found.architecture}, the board is {architecture}", hint=hint
        )
    foreign = LINUX_C if android else ANDROID_C
    if foreign in found.needed:
        here, there = ("Android", "Linux") if android else ("Linux", "Android")
        raise ConfigError(
            f"{str(library)!r} needs {foreign}: it is for {there}, the board runs {here}", hint=hint
        )
