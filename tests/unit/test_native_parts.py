"""What the native runtime needs on the controller: inputs, libraries, compilers, options."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from drivers.runtimes import native_build, ort_library
from drivers.runtimes.compiled_models import KEPT, RECIPES, CompiledModel
from drivers.runtimes.device_options import read_provider_options, read_sync_gpio
from drivers.runtimes.native_build import TRIPLES, Compiler, build_runner, build_with, compilers
from drivers.runtimes.ort_library import find_library
from drivers.runtimes.ort_native import OrtNative
from drivers.runtimes.ort_python import OrtPython
from drivers.runtimes.raw_inputs import raw_inputs
from drivers.transports.local import LocalTransport
from farm.errors import ConfigError
from farm.model import Address, Artifact, Device
from farm.protocols import Runtime
from farm.shell import cache_folder, made_once

X86_64, AARCH64, ARM = 62, 183, 40


def _elf(machine: int) -> bytes:
    return b"\x7fELF" + bytes(14) + machine.to_bytes(2, "little") + bytes(100)


def _wheel(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


# Folders that are made once


def test_a_folder_is_made_once_and_whole(tmp_path: Path) -> None:
    calls = []

    def make(made: Path) -> None:
        calls.append(made)
        (made / "file").write_text("x")

    for _ in range(2):
        assert (made_once(tmp_path / "a" / "b", make) / "file").read_text() == "x"
    assert len(calls) == 1


def test_what_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    def make(made: Path) -> None:
        (made / "half").write_text("x")
        raise ConfigError("no")

    with pytest.raises(ConfigError):
        made_once(tmp_path / "folder", make)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_somebody_made_meanwhile_is_used(tmp_path: Path) -> None:
    folder = tmp_path / "folder"

    def make(made: Path) -> None:
        (made / "mine").touch()
        folder.mkdir()
        (folder / "theirs").touch()

    assert [path.name for path in made_once(folder, make).iterdir()] == ["theirs"]


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write to"):
        made_once(tmp_path / "file" / "folder", lambda made: None)


# Inputs


def test_inputs_become_plain_bytes_with_type_and_shape(tmp_path: Path) -> None:
    path = tmp_path / "inputs.npz"
    big_endian = np.arange(12, dtype=">i4").reshape(3, 4)
    fortran = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 2, 2))
    names = {"a=b\n": big_endian, "--form": fortran, "flags": np.ones(3, np.bool_)}
    np.savez(path, **names)  # type: ignore[arg-type]
    found = raw_inputs(Artifact.of(path))
    assert [(entry.name, entry.form) for entry in found] == [
        ("a=b\n", "int32:1x4"), ("--form", "float32:1x2x2"), ("flags", "bool:1"),
    ]  # fmt: skip
    assert found[0].data.path.read_bytes() == big_endian.astype("<i4").tobytes()
    assert found[1].data.path.read_bytes() == fortran.tobytes()
    path.unlink()
    assert raw_inputs(Artifact(path=path, sha256=found[0].data.path.parent.name, size_bytes=0))


@pytest.mark.parametrize("values", [np.array(["a", "b"]), np.array(1.0), np.array([1j])])
def test_inputs_that_are_no_numbers_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    np.savez(tmp_path / "inputs.npz", words=values)
    with pytest.raises(ConfigError, match="input 'words' of type"):
        raw_inputs(Artifact.of(tmp_path / "inputs.npz"))


# Options


def _device(*, meter: str = "", **options: str) -> Device:
    address = Address(scheme="local", place="")
    return Device(
        name="b", type="t", address=address, options=tuple(options.items()),
        meter=Address.parse(meter) if meter else None,
    )  # fmt: skip


def test_processors_are_read() -> None:
    assert _device().cpus() == ()
    assert _device(cpus="5, 2-3").cpus() == (2, 3, 5)


@pytest.mark.parametrize("text", ["a", "3-2", "-1", "1-", "1024", "٣", "0-9999"])
def test_no_list_of_processors_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match="no list of cores"):
        _device(cpus=text).cpus()


def test_provider_options_are_read() -> None:
    assert read_provider_options(_device()) == {}
    text = "device_id=0 'path=/a b/c=d' empty="
    assert read_provider_options(_device(ep_options=text)) == {
        "device_id": "0", "path": "/a b/c=d", "empty": "",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["word", "=x", "'open=1"])
def test_provider_options_that_cannot_be_read_are_told(text: str) -> None:
    with pytest.raises(ConfigError, match="ep_options"):
        read_provider_options(_device(ep_options=text))


@pytest.mark.parametrize("text", ["/dev/gpiochip0:17", "/dev/gpiochip0:!17", "/dev/a.b-c/d:0"])
def test_pins_are_read(text: str) -> None:
    assert read_sync_gpio(_device(sync_gpio=text, meter="ppk2://1?sync=D0")) == text


def test_a_device_without_a_wire_needs_no_pin() -> None:
    assert read_sync_gpio(_device()) == ""
    assert read_sync_gpio(_device(meter="tc66c://")) == ""


@pytest.mark.parametrize("kind", [OrtPython, OrtNative])
@pytest.mark.parametrize(
    "text",
    ["17", "gpiochip0:17", "/dev/gpiochip0", "/dev/gpiochip0:", "/dev/gpiochip0:!", "/dev/g:-1",
     "/dev/g:1x", "/dev/g:1\n", "/dev/$(x):1", "/dev/g:!!1", "/dev/g:\u0663", "/dev/g:9999999999"],
)  # fmt: skip
def test_a_pin_that_is_none_is_refused(kind: type[Runtime], text: str) -> None:
    with pytest.raises(ConfigError, match="sync_gpio") as caught:
        kind.check(_device(sync_gpio=text))
    assert "/dev/gpiochip0:17" in caught.value.hint


@pytest.mark.parametrize("kind", [OrtPython, OrtNative])
def test_a_wire_without_a_pin_is_refused(kind: type[Runtime]) -> None:
    with pytest.raises(ConfigError, match="'sync_gpio' does not name it") as caught:
        kind.check(_device(meter="ppk2://1?sync=D0"))
    assert "/dev/gpiochip0:17" in caught.value.hint
    kind.check(_device(meter="ppk2://1?sync=D0", sync_gpio="/dev/gpiochip0:17"))


# Libraries


def test_the_installed_library_is_used_where_it_fits() -> None:
    files = find_library("", "x86_64")
    assert files[0].name.startswith("libonnxruntime.so")
    assert all(path.exists() for path in files)


def test_there_is_no_official_library_for_every_board() -> None:
    with pytest.raises(ConfigError, match="no official wheel") as caught:
        find_library("", "armv7l")
    assert "ort_library" in caught.value.hint


def test_a_library_of_another_architecture_is_refused(tmp_path: Path) -> None:
    library = tmp_path / "libonnxruntime.so"
    library.write_bytes(_elf(AARCH64))
    assert find_library(str(library), "aarch64") == (library,)
    with pytest.raises(ConfigError, match="is for aarch64, the board is armv7l"):
        find_library(str(library), "armv7l")


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"MZ" + bytes(50), _elf(3)])
def test_what_is_no_library_for_a_board_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.so").write_bytes(data)
    with pytest.raises(ConfigError, match="no shared library"):
        find_library(str(tmp_path / "x.so"), "x86_64")
    with pytest.raises(ConfigError, match="cannot read"):
        find_library(str(tmp_path / "missing.so"), "x86_64")


def test_providers_beside_a_library_come_along(tmp_path: Path) -> None:
    for name in ("libonnxruntime.so.1.2", "libonnxruntime_providers_cuda.so", "libother.so"):
        (tmp_path / name).write_bytes(_elf(X86_64))
    files = find_library(str(tmp_path / "libonnxruntime.so.1.2"), "x86_64")
    assert [path.name for path in files] == [
        "libonnxruntime.so.1.2", "libonnxruntime_providers_cuda.so",
    ]  # fmt: skip


def test_a_wheel_gives_the_library_and_what_its_providers_need(tmp_path: Path) -> None:
    arm = _elf(ARM)
    plain = {"p/lib/libonnxruntime.so": arm, "p/lib/libp-core.so": arm, "p/x.py": b""}
    wheel = _wheel(tmp_path / "plain.whl", **plain)
    assert [p.name for p in find_library(str(wheel), "armv7l")] == ["libonnxruntime.so"]
    rich = {**plain, "p/lib/libonnxruntime_providers_npu.so": arm}
    files = find_library(str(_wheel(tmp_path / "rich.whl", **rich)), "armv7l")
    assert [path.name for path in files] == [
        "libonnxruntime.so", "libonnxruntime_providers_npu.so", "libp-core.so",
    ]  # fmt: skip


def test_hostile_names_in_a_wheel_lead_nowhere(tmp_path: Path) -> None:
    elf = _elf(X86_64)
    hostile = {
        "../../libescaped.so": elf, "/libabsolute.so": elf, "capi/../../libup.so": elf,
        "capi/lib$(touch x).so": elf, "capi/libonnxruntime.so": elf, "capi/libonnx\n.so": elf,
        "capi/libonnxruntime_providers_x.so": elf,
    }  # fmt: skip
    files = find_library(str(_wheel(tmp_path / "x.whl", **hostile)), "x86_64")
    assert [path.name for path in files] == [
        "libonnxruntime.so", "libonnxruntime_providers_x.so",
    ]  # fmt: skip
    made = {path.name for path in cache_folder().rglob("*") if path.is_file()}
    assert made == {path.name for path in files}
    assert not list(tmp_path.rglob("libescaped.so"))


def test_a_wheel_without_a_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.whl").write_bytes(b"no wheel")
    with pytest.raises(ConfigError, match="no wheel"):
        find_library(str(tmp_path / "x.whl"), "x86_64")
    wheel = _wheel(tmp_path / "y.whl", **{"y/y.py": b""})
    for _ in range(2):  # the failure is not kept
        with pytest.raises(ConfigError, match=r"no libonnxruntime\.so"):
            find_library(str(wheel), "x86_64")


def test_a_download_that_fails_is_told_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort_library, "version", lambda name: "0.0.0")  # no such version
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ConfigError, match="pip cannot download onnxruntime") as caught:
        find_library("", "aarch64")
    assert "ort_library" in caught.value.hint


# Compilers


def test_zig_comes_first_and_links_to_an_old_c_library() -> None:
    pytest.importorskip("ziglang")
    for architecture, triple in TRIPLES.items():
        assert compilers(architecture)[0].command[-1] == f"{triple}.2.28"


def test_an_architecture_that_nobody_builds_for_is_told() -> None:
    with pytest.raises(ConfigError, match="architecture 'riscv64'"):
        build_runner("riscv64")


def test_without_a_compiler_the_error_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_build, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError) as caught:
        build_runner("aarch64")
    assert caught.value.hint == "pip install 'verdict-farm[native]'"


def test_a_build_is_kept_until_sources_or_compiler_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = tmp_path / "calls"
    script = tmp_path / "compiler"
    script.write_text(
        f'#!/bin/sh\necho call >>"{calls}"\n'
        'for a; do [ "$p" = -o ] && echo "$#" >"$a"; p=$a; done\n'
    )
    script.chmod(0o755)
    compiler = Compiler(command=(str(script),), version="1")
    first = build_with(compiler)
    assert build_with(compiler) == first
    assert calls.read_text() == "call\n"
    build_with(Compiler(command=(str(script),), version="2"))
    copy = tmp_path / "sources"
    shutil.copytree(native_build.SOURCES, copy)
    (copy / "loop.c").write_text((copy / "loop.c").read_text() + "\n")
    monkeypatch.setattr(native_build, "SOURCES", copy)
    build_with(compiler)
    assert calls.read_text() == "call\n" * 3


def test_a_compiler_that_fails_is_an_error_with_its_complaint() -> None:
    compiler = Compiler(
        command=(sys.executable, "-c", "import sys; sys.exit('bad luck')"), version=""
    )
    with pytest.raises(ConfigError, match="cannot build the native runner") as caught:
        build_with(compiler)
    assert "bad luck" in caught.value.evidence[0].text


@pytest.mark.system
@pytest.mark.parametrize("name", ["cc", "aarch64-linux-gnu-gcc", "arm-linux-gnueabihf-gcc"])
def test_the_sources_compile_without_a_warning(
    name: str, tmp_path: Path, lacks: Callable[[str], None]
) -> None:
    if not shutil.which(name):
        lacks(f"{name} is missing: apt-get install gcc and its cross compilers")
    sources = sorted(map(str, native_build.SOURCES.glob("*.c")))
    strict = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror"]
    command = [
        name,
        *native_build.FLAGS,
        *strict,
        *sources,
        "-o",
        str(tmp_path / "r"),
        "-ldl",
        "-lm",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_source_names_a_registry() -> None:
    for path in native_build.SOURCES.iterdir():
        assert not {"pypi.org", "nuget.org", "npmjs"} & set(path.read_text().split("/")), path


# Compiled models on the device


@pytest.fixture
def local(tmp_path: Path) -> LocalTransport:
    address = Address(scheme="local", place="", options=(("root", str(tmp_path / "a root")),))
    return LocalTransport(Device(name="b", type="t", address=address))


def test_a_compiled_model_is_found_when_it_is_finished(local: LocalTransport) -> None:
    compiled = CompiledModel(transport=local, key="a" * 32)
    original = local.root / "model"
    assert compiled.find(original) is None
    compiled.begin()
    assert compiled.find(original) is None
    compiled.finish()
    assert compiled.find(original) == original
    Path(compiled.folder / "context.onnx").touch()
    assert compiled.find(original) == compiled.folder / "context.onnx"
    compiled.begin()
    assert list(Path(compiled.folder).iterdir()) == []


def test_the_longest_unused_compiled_models_make_room(local: LocalTransport) -> None:
    models = [CompiledModel(transport=local, key=f"{n:032x}") for n in range(KEPT + 2)]
    for day, compiled in enumerate(models, 1):
        compiled.begin()
        compiled.finish()
        local.run(("touch", "-t", f"202001{day:02}0000", str(compiled.folder)), timeout_s=10)
    assert models[2].find(local.root) == local.root  # used now
    CompiledModel(transport=local, key="f" * 32).begin()
    kept = {path.name for path in Path(local.root / "compiled").iterdir()}
    assert models[2].key in kept
    assert models[0].key not in kept
    assert len(kept) == KEPT


def test_every_recipe_keeps_its_files_in_the_folder(local: LocalTransport) -> None:
    folder = local.root / "compiled" / "x"
    for recipe in RECIPES.values():
        made = recipe(folder)
        assert any(str(folder) in v for v in {**made.provider_options, **made.configs}.values())
