"""The native runner for Android: its compiler, its library, and how it is started there.

No phone and no NDK is at hand: the NDK here is a fake one whose compilers note what they were
asked and hand it to compilers for Linux, and the phone is this machine, which says it were one.
"""

from __future__ import annotations

import json
import random
import re
import shlex
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from drivers.runtimes import ort_native
from drivers.runtimes.elf import read_shared_library
from drivers.runtimes.native_build import (
    FLAGS,
    LIBRARIES,
    NDK_CLANGS,
    SOURCES,
    build_runner,
    build_with,
    compilers,
)
from drivers.runtimes.ort_library import find_library
from drivers.runtimes.ort_native import OrtNative
from drivers.runtimes.ort_python import OrtPython
from drivers.transports.local import LocalTransport
from farm.connection import Transport
from farm.errors import ConfigError
from farm.model import Address, Artifact, Device, Load
from farm.shell import Completed
from farm.workload import read_workload

ROOT = Path(__file__).parents[2]
LINUX_GCC = {
    "x86_64": "gcc", "aarch64": "aarch64-linux-gnu-gcc", "armv7l": "arm-linux-gnueabihf-gcc",
}  # fmt: skip
X86_64, AARCH64, ARM = 62, 183, 40


class FakeNdk:
    """A folder like Android's NDK whose compilers are scripts of this test.

    Each writes its arguments, one a line, to `asked` and then does `action`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked = folder / "asked"
        self._programs = folder / "toolchains" / "llvm" / "prebuilt" / "linux-x86_64" / "bin"
        self._programs.mkdir(parents=True)
        self.release("27.0.12077973")

    def release(self, revision: str) -> None:
        text = f"Pkg.Desc = Android NDK\nPkg.Revision = {revision}\n"
        (self.folder / "source.properties").write_text(text)

    def clang(self, architecture: str, action: str) -> None:
        program = self._programs / NDK_CLANGS[architecture]
        asked = shlex.quote(str(self.asked))
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >>{asked}\n{action}\n')
        program.chmod(0o755)

    def arguments(self) -> list[str]:
        return self.asked.read_text().splitlines() if self.asked.exists() else []


@pytest.fixture
def ndk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNdk:
    ndk = FakeNdk(tmp_path / "an NDK's $(folder)")
    monkeypatch.delenv("ANDROID_NDK_ROOT", raising=False)
    monkeypatch.setenv("ANDROID_NDK_HOME", str(ndk.folder))
    return ndk


# How a fake compiler knows what it has to make: $out.
MAKES = 'for a; do [ "$p" = -o ] && out=$a; p=$a; done; '


# Compiler


@pytest.mark.system
@pytest.mark.parametrize("architecture", sorted(NDK_CLANGS))
def test_the_runner_is_built_as_android_wants_it(
    architecture: str, ndk: FakeNdk, lacks: Callable[[str], None]
) -> None:
    gcc = LINUX_GCC[architecture]
    if not shutil.which(gcc):
        lacks(f"{gcc} is missing: apt-get install gcc and its cross compilers")
    ndk.clang(architecture, f'exec {gcc} "$@"')
    runner = build_runner(architecture, android=True)
    asked = ndk.arguments()
    assert {"-fPIE", "-pie", "-Wl,-z,max-page-size=16384", "-ldl", "-lm"} <= set(asked)
    assert sum(word.endswith(".c") for word in asked) == len(list(SOURCES.glob("*.c")))
    data = runner.path.read_bytes()
    assert struct.unpack_from("<H", data, 16) == (3,)  # independent of its place in memory
    assert _load_alignments(data) == {16384}
    told = read_shared_library(runner.path)
    assert told
    assert told.architecture == architecture
    assert build_runner(architecture, android=True) == runner
    assert ndk.arguments() == asked  # kept


def _load_alignments(data: bytes) -> set[int]:
    if data[4] == 2:
        (table,), form, at = struct.unpack_from("<Q", data, 32), "<Q", 48
        size, count = struct.unpack_from("<HH", data, 54)
    else:
        (table,), form, at = struct.unpack_from("<I", data, 28), "<I", 28
        size, count = struct.unpack_from("<HH", data, 42)
    entries = [data[table + index * size :][:size] for index in range(count)]
    loads = [entry for entry in entries if entry[:4] == b"\1\0\0\0"]
    return {struct.unpack_from(form, entry, at)[0] for entry in loads}


def test_another_release_of_the_ndk_builds_again(ndk: FakeNdk) -> None:
    ndk.clang("aarch64", MAKES + 'echo x >"$out"')
    build_runner("aarch64", android=True)
    once = len(ndk.arguments())
    build_runner("aarch64", android=True)
    assert len(ndk.arguments()) == once
    ndk.release("28.0.1")
    build_runner("aarch64", android=True)
    assert len(ndk.arguments()) == 2 * once


def test_either_variable_may_name_the_ndk(ndk: FakeNdk, monkeypatch: pytest.MonkeyPatch) -> None:
    ndk.clang("aarch64", MAKES + 'echo x >"$out"')
    monkeypatch.setenv("ANDROID_NDK_ROOT", str(ndk.folder))
    for first in ("", str(ndk.folder.parent)):
        monkeypatch.setenv("ANDROID_NDK_HOME", first)
        assert build_runner("aarch64", android=True).size_bytes == 2


def test_without_an_ndk_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConfigError, match="there is no Android NDK here") as caught:
        build_runner("aarch64", android=True)
    assert "set ANDROID_NDK_HOME" in caught.value.hint


def test_a_folder_that_is_no_ndk_is_named(ndk: FakeNdk) -> None:
    with pytest.raises(ConfigError, match=r"ANDROID_NDK_HOME=.* is no NDK with armv7a-"):
        build_runner("armv7l", android=True)


def test_an_ndk_that_cannot_compile_is_told(ndk: FakeNdk) -> None:
    ndk.clang("aarch64", "echo bad luck >&2; exit 1")
    with pytest.raises(ConfigError, match="cannot build the native runner") as caught:
        build_runner("aarch64", android=True)
    assert "NDK" in caught.value.hint
    assert "bad luck" in caught.value.evidence[0].text


def test_an_architecture_without_runner_is_told(ndk: FakeNdk) -> None:
    with pytest.raises(ConfigError, match="architecture 'i686'"):
        build_runner("i686", android=True)


BIONIC = """
    _Exit _exit abort alarm calloc clock_gettime clock_nanosleep close dlerror dlopen dlsym exit
    fclose fflush fgets fopen fork fprintf fputs fread free fseeko ftello fwrite getopt_long
    ioctl isspace memcmp memcpy mempcpy memset nanosleep open optarg optind pipe posix_memalign
    printf putchar puts qsort read realloc rename rewind sched_setaffinity signal snprintf
    sprintf sscanf stderr stdout stpcpy strchr strcmp strdup strerror strlen strncmp strrchr
    strsep strstr strtod strtol strtoll strtoul tolower uname vasprintf waitpid write
"""
"""What the runner calls of the C library, all of it in Android's since version 7 at the latest."""

# What the C library of Linux makes of calls: of those for large files, of newer standards.
LINUX_NAMES = {"__ctype_b_loc": "isspace", "__ctype_tolower_loc": "tolower"}
LINUX_OWN = {"__errno_location", "__libc_start_main", "__cxa_finalize", "__gmon_start__"}


@pytest.mark.system
def test_the_runner_calls_nothing_that_android_lacks(
    tmp_path: Path, lacks: Callable[[str], None]
) -> None:
    if not shutil.which("gcc") or not shutil.which("nm"):
        lacks("gcc or nm is missing: apt-get install gcc binutils")
    program = tmp_path / "runner"
    plain = ("-U_FORTIFY_SOURCE", "-fno-stack-protector", "-o", str(program))
    sources = sorted(map(str, SOURCES.glob("*.c")))
    subprocess.run(["gcc", *FLAGS, *plain, *sources, *LIBRARIES], check=True)
    told = subprocess.run(["nm", "-uD", str(program)], capture_output=True, text=True, check=True)
    names = {line.split()[-1].partition("@")[0] for line in told.stdout.splitlines()}
    names = {LINUX_NAMES.get(name, name) for name in names - LINUX_OWN if "_ITM_" not in name}
    called = {re.sub(r"^__isoc\d\d_|64$", "", name) for name in names}
    assert called - set(BIONIC.split()) == set(), (
        "are they in Android's at level 24? See its libc.map.txt"
    )


@pytest.mark.system
def test_cmake_builds_it_too(tmp_path: Path, lacks: Callable[[str], None]) -> None:
    if not shutil.which("cmake") or not shutil.which("cc"):
        lacks("cmake or a C compiler is missing: apt-get install cmake gcc make")
    build = str(tmp_path / "build")
    for command in (["-S", str(SOURCES), "-B", build], ["--build", build]):
        subprocess.run(["cmake", *command], check=True, capture_output=True)
    command = [f"{build}/ort_runner", "facts", "--library", str(find_library("", "x86_64")[0])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert '"accelerators": "cpu"' in done.stdout


# ELF files


def test_real_libraries_tell_what_they_need() -> None:
    ours = read_shared_library(find_library("", "x86_64")[0])
    assert ours
    assert ours.architecture == "x86_64"
    assert {"libc.so.6", "libm.so.6"} <= set(ours.needed)


@pytest.mark.system
@pytest.mark.parametrize("architecture", sorted(LINUX_GCC))
def test_what_was_linked_is_what_is_read(
    architecture: str, tmp_path: Path, lacks: Callable[[str], None]
) -> None:
    library = _linked(tmp_path / "libx.so", architecture, lacks, "-nostdlib")
    told = read_shared_library(library)
    assert told
    assert (told.architecture, told.needed) == (architecture, ("libc.so",))


def _linked(
    target: Path, architecture: str, lacks: Callable[[str], None], *flags: str, source: str = ""
) -> Path:
    """A real shared library that asks for `libc.so`, as those of Android do."""
    gcc = LINUX_GCC[architecture]
    if not shutil.which(gcc):
        lacks(f"{gcc} is missing: apt-get install gcc and its cross compilers")
    stub, code = target.with_name("stub"), target.with_name("x.c")
    stub.mkdir(exist_ok=True)
    code.write_text(source or "int x;")
    shared = [gcc, "-shared", "-fPIC", "-x", "c", str(code), "-Wl,--no-as-needed"]
    subprocess.run(
        [*shared, "-nostdlib", "-Wl,-soname,libc.so", "-o", str(stub / "libc.so")], check=True
    )
    subprocess.run([*shared, *flags, "-o", str(target), f"-L{stub}", "-l:libc.so"], check=True)
    return target


def test_broken_files_break_nothing(tmp_path: Path) -> None:
    data = Path(sys.executable).read_bytes()[:65536]
    path = tmp_path / "x.so"
    for size in (*range(0, 1200, 7), 4096, 20000):
        path.write_bytes(data[:size])
        read_shared_library(path)
    draw = random.Random(7)
    for _ in range(500):
        broken = bytearray(data)
        for _ in range(8):
            broken[draw.randrange(4, 1200)] = draw.choice((0, 1, 0x7F, 0xFF))
        path.write_bytes(broken)
        read_shared_library(path)


# Libraries


def _elf(machine: int) -> bytes:
    return b"\x7fELF" + bytes(14) + machine.to_bytes(2, "little") + bytes(100)


def _archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def _aar(path: Path, **more: bytes) -> Path:
    """An archive as onnxruntime-android is one."""
    abis = {"arm64-v8a": AARCH64, "armeabi-v7a": ARM, "x86_64": X86_64, "x86": 3}
    members = {"AndroidManifest.xml": b"<manifest/>", "classes.jar": b"PK"}
    for abi, machine in abis.items():
        members[f"jni/{abi}/libonnxruntime4j_jni.so"] = _elf(machine)
        members[f"jni/{abi}/libonnxruntime.so"] = _elf(machine)
    return _archive(path, **members, **more)


@pytest.mark.parametrize("architecture", sorted(NDK_CLANGS))
def test_an_aar_gives_the_library_of_the_phone(architecture: str, tmp_path: Path) -> None:
    files = find_library(str(_aar(tmp_path / "x.aar")), architecture, android=True)
    assert [path.name for path in files] == ["libonnxruntime.so"]
    told = read_shared_library(files[0])
    assert told
    assert told.architecture == architecture


def test_what_lies_beside_the_library_in_an_aar_comes_along(tmp_path: Path) -> None:
    parts = ("libQnnHtp.so", "libQnnHtpV73Skel.so", "libQnnHtpV73Stub.so", "libc++_shared.so")
    more = {f"jni/arm64-v8a/{name}": _elf(164) for name in parts}
    aar = _aar(tmp_path / "qnn.aar", **more, **{"jni/x86_64/libother.so": _elf(X86_64)})
    files = find_library(str(aar), "aarch64", android=True)
    assert [path.name for path in files] == ["libonnxruntime.so", *parts]


def test_parts_of_qnn_beside_a_library_come_along(tmp_path: Path) -> None:
    for name in ("libonnxruntime.so", "libQnnHtp.so", "libQnnHtpV73Skel.so", "libQnn x.so"):
        (tmp_path / name).write_bytes(_elf(AARCH64))
    files = find_library(str(tmp_path / "libonnxruntime.so"), "aarch64", android=True)
    assert [path.name for path in files] == [
        "libonnxruntime.so", "libQnnHtp.so", "libQnnHtpV73Skel.so",
    ]  # fmt: skip


@pytest.mark.system
def test_what_a_library_needs_of_its_folder_comes_along(
    tmp_path: Path, lacks: Callable[[str], None]
) -> None:
    inner = _linked(tmp_path / "libinner.so", "aarch64", lacks, "-nostdlib")
    shared = _linked(
        tmp_path / "libc++_shared.so", "aarch64", lacks, "-nostdlib", f"-L{tmp_path}", "-linner"
    )
    library = _linked(
        tmp_path / "libonnxruntime.so", "aarch64", lacks, "-nostdlib", f"-L{tmp_path}",
        "-l:libc++_shared.so",
    )  # fmt: skip
    assert find_library(str(library), "aarch64", android=True) == (library, shared, inner)


def test_an_aar_without_the_phones_library_is_told(tmp_path: Path) -> None:
    aar = _archive(tmp_path / "x.aar", **{"jni/x86_64/libonnxruntime.so": _elf(X86_64)})
    with pytest.raises(ConfigError, match=r"holds no jni/arm64-v8a/libonnxruntime\.so"):
        find_library(str(aar), "aarch64", android=True)
    (tmp_path / "y.aar").write_bytes(b"no archive")
    with pytest.raises(ConfigError, match=r"no wheel or \.aar"):
        find_library(str(tmp_path / "y.aar"), "aarch64", android=True)
    with pytest.raises(ConfigError, match="cannot read"):
        find_library(str(tmp_path / "missing.aar"), "aarch64", android=True)


def test_hostile_names_in_an_aar_lead_nowhere(tmp_path: Path) -> None:
    names = ("../libup.so", "lib$(touch x).so", "deep/libdeep.so", "lib\n.so", "/../../libroot.so")
    more = {f"jni/arm64-v8a/{name}": _elf(AARCH64) for name in names}
    files = find_library(str(_aar(tmp_path / "x.aar", **more)), "aarch64", android=True)
    assert [path.name for path in files] == ["libonnxruntime.so"]
    assert not list(tmp_path.rglob("libup.so"))
    assert not list(tmp_path.rglob("libroot.so"))


def test_there_is_no_official_library_for_android() -> None:
    with pytest.raises(ConfigError, match="no official wheel of onnxruntime for Android") as caught:
        find_library("", "aarch64", android=True)
    assert "FILE.aar (onnxruntime-android)" in caught.value.hint
    assert "sherpa-onnx-core for Android (arm64-v8a)" in caught.value.hint


@pytest.mark.system
def test_the_library_of_another_system_is_refused(
    tmp_path: Path, lacks: Callable[[str], None]
) -> None:
    linux = find_library("", "x86_64")[0]
    with pytest.raises(ConfigError, match=r"needs libc\.so\.6: it is for Linux.* runs Android"):
        find_library(str(linux), "x86_64", android=True)
    android = _linked(tmp_path / "libonnxruntime.so", "x86_64", lacks, "-nostdlib")
    assert find_library(str(android), "x86_64", android=True) == (android,)
    with pytest.raises(ConfigError, match=r"needs libc\.so: it is for Android.* runs Linux"):
        find_library(str(android), "x86_64")
    with pytest.raises(ConfigError, match="is for x86_64, the board is aarch64"):
        find_library(str(android), "aarch64", android=True)


@pytest.mark.system
@pytest.mark.parametrize(("abi", "other"), [("arm64_v8a", "armv7l"), ("armeabi_v7a", "aarch64")])
def test_a_true_wheel_for_android_is_read(
    abi: str, other: str, tmp_path: Path, lacks: Callable[[str], None]
) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    command += [str(tmp_path), "--only-binary=:all:", "--platform", f"android_24_{abi}"]
    done = subprocess.run([*command, "sherpa-onnx-core"], capture_output=True, check=False)
    if done.returncode:
        lacks(f"sherpa-onnx-core for Android {abi} cannot be downloaded: check pip's index")
    (wheel,) = tmp_path.glob("*.whl")
    architecture = {"armv7l": "aarch64", "aarch64": "armv7l"}[other]
    (library,) = find_library(str(wheel), architecture, android=True)
    told = read_shared_library(library)
    assert told
    assert {"libc.so", "libdl.so", "libm.so"} <= set(told.needed)
    with pytest.raises(ConfigError, match="it is for Android, the board runs Linux"):
        find_library(str(wheel), architecture)
    with pytest.raises(ConfigError, match=f"the board is {other}"):
        find_library(str(wheel), other, android=True)


# On a device


@pytest.mark.parametrize("shell", ["sh", "dash", "busybox", "mksh"])
@pytest.mark.parametrize(
    ("loaders", "told"),
    [(("linker", "linker64"), "64 android"), (("linker",), "32 android"), ((), None)],
)
def test_androids_loader_tells_android(
    shell: str, loaders: tuple[str, ...], told: str | None, tmp_path: Path,
    lacks: Callable[[str], None],
) -> None:  # fmt: skip
    if not shutil.which(shell):
        lacks(f"no {shell}: apt-get install {shell}")
    for name in loaders:
        (tmp_path / name).touch()
    text = ort_native._MACHINE.replace("/system/bin", str(tmp_path))
    words = [shell, "sh", "-c", text] if shell == "busybox" else [shell, "-c", text]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    bits = subprocess.run(["getconf", "LONG_BIT"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1] == (told or bits.stdout.strip())


class Phone(LocalTransport):
    """This machine, which says that it were a phone with Android."""

    machine = "x86_64\n64 android\n"

    def run(
        self, argv: tuple[str, ...], *, timeout_s: float, stdin: bytes = b"",
        cwd: PurePosixPath | None = None,
    ) -> Completed:  # fmt: skip
        if ort_native._MACHINE in argv:
            return Completed(returncode=0, stdout=self.machine, stderr="", elapsed_s=0.0)
        return super().run(argv, timeout_s=timeout_s, stdin=stdin, cwd=cwd)


def _phone(tmp_path: Path, machine: str = Phone.machine, **options: str) -> Transport:
    root = tmp_path / "it's a=b $(touch pwned) root"
    address = Address(scheme="local", place="", options=(("root", str(root)),))
    phone = Phone(Device(name="p", type="t", address=address, options=tuple(options.items())))
    phone.machine = machine
    return phone


@pytest.mark.parametrize(
    ("machine", "architecture"),
    [("aarch64\n64 android\n", "aarch64"), ("aarch64\n32 android\n", "armv7l"),
     ("armv8l\n32 android\n", "armv7l"), ("x86_64\n64 android\n", "x86_64")],
)  # fmt: skip
def test_a_phone_gets_the_runner_and_the_library_for_it(
    machine: str, architecture: str, ndk: FakeNdk, tmp_path: Path
) -> None:
    # The runner that this one makes only tells where it was started, and by which name.
    told = '#!/bin/sh\nprintf "%s" "{\\"ld\\": \\"$LD_LIBRARY_PATH\\", '
    told += '\\"adsp\\": \\"$ADSP_LIBRARY_PATH\\", \\"library\\": \\"$3\\"}"\n'
    ndk.clang(architecture, MAKES + f'printf "%s" {shlex.quote(told)} >"$out"')
    more = {"jni/arm64-v8a/libQnnHtp.so": _elf(AARCH64)}
    phone = _phone(tmp_path, machine, ort_library=str(_aar(tmp_path / "x.aar", **more)))
    facts = {fact.name: fact.value for fact in OrtNative(phone).facts()}
    library = Path(facts["library"])
    told_by_elf = read_shared_library(library)
    assert told_by_elf
    assert told_by_elf.architecture == architecture
    assert facts["ld"] == facts["adsp"] == str(library.parent)
    beside = ["libQnnHtp.so"] if architecture == "aarch64" else []
    assert sorted(path.name for path in library.parent.iterdir()) == [*beside, "libonnxruntime.so"]


def test_where_links_are_forbidden_copies_are_whole(
    ndk: FakeNdk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "ln").write_text("#!/bin/sh\necho 'ln: Permission denied' >&2\nexit 1\n")
    (tools / "ln").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    ndk.clang("x86_64", MAKES + 'printf "#!/bin/sh\\necho {}" >"$out"')
    phone = _phone(tmp_path, ort_library=str(_aar(tmp_path / "x.aar")))
    OrtNative(phone).facts()
    (library,) = Path(phone.root / "libraries").glob("*/*")
    assert library.read_bytes() == _elf(X86_64)
    assert library.stat().st_nlink == 1


@pytest.mark.system
def test_a_phone_without_a_library_is_told_what_to_take(ndk: FakeNdk, tmp_path: Path) -> None:
    ndk.clang("x86_64", MAKES + 'echo x >"$out"')
    with pytest.raises(ConfigError, match="no official wheel of onnxruntime for Android"):
        OrtNative(_phone(tmp_path)).facts()


@pytest.mark.system
def test_a_model_runs_by_the_command_of_a_phone(
    ndk: FakeNdk, tmp_path: Path, digits: Path, lacks: Callable[[str], None]
) -> None:
    if not shutil.which("gcc"):
        lacks("gcc is missing: apt-get install gcc")
    ndk.clang("x86_64", 'exec gcc "$@"')
    phone = _phone(tmp_path, ort_library=f"board:{find_library('', 'x86_64')[0]}")
    native, python = (
        kind(phone).deploy(
            Artifact.of(digits / "float.onnx"), read_workload(digits), accelerator="cpu"
        )
        for kind in (OrtNative, OrtPython)
    )
    (ours,), (theirs,) = native.infer(), python.infer()
    np.testing.assert_array_equal(ours.values, theirs.values)
    measured = native.measure(Load(min_duration_s=0.01, min_queries=30, warmup_s=0.01))
    assert len(measured.traces[0].values) >= 30


# NNAPI, whose function takes flags


WITH_NNAPI = """
#include <dlfcn.h>
#include <stdio.h>
#include "onnxruntime_c_api.h"

static const OrtApiBase *real;
static OrtApi api;

static OrtStatus *ORT_API_CALL providers(char ***names, int *count)
{
    static char *all[] = {"NnapiExecutionProvider", "CPUExecutionProvider"};
    *names = all;
    *count = 2;
    return NULL;
}

static OrtStatus *ORT_API_CALL release(char **names, int count)
{
    (void)names, (void)count;
    return NULL;
}

static const OrtApi *ORT_API_CALL get(uint32_t level)
{
    const OrtApi *found = level <= ORT_API_VERSION ? real->GetApi(level) : NULL;
    if (!found)
        return NULL;
    api = *found;
    api.GetAvailableProviders = providers;
    api.ReleaseAvailableProviders = release;
    return &api;
}

const OrtApiBase *OrtGetApiBase(void)
{
    static OrtApiBase base;
    const OrtApiBase *(*get_base)(void);
    *(void **)&get_base = dlsym(dlopen(REAL, RTLD_NOW), "OrtGetApiBase");
    real = get_base();
    base.GetApi = get;
    base.GetVersionString = real->GetVersionString;
    return &base;
}

OrtStatus *OrtSessionOptionsAppendExecutionProvider_Nnapi(
    OrtSessionOptions *session, uint32_t flags)
{
    (void)session;
    fprintf(stderr, "flags=%u\\n", (unsigned)flags);
    return NULL;
}
"""
"""The library of this machine, which says that it had NNAPI: nothing is accelerated."""

Runs = subprocess.CompletedProcess[str]


def _library_with_nnapi(folder: Path, real: str) -> Path:
    """Make it; it opens the real one by that name."""
    source, library = folder / "nnapi.c", folder / "libonnxruntime.so"
    source.write_text(f"#define REAL {json.dumps(real)}\n{WITH_NNAPI}")
    command = [*compilers("x86_64")[0].command, "-shared", "-fPIC", f"-I{SOURCES}"]
    subprocess.run([*command, "-o", str(library), str(source), "-ldl"], check=True)
    return library


@pytest.fixture
def _has_compiler(lacks: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(ROOT / "build" / "native-cache"))
    if not compilers("x86_64"):
        lacks("no C compiler: pip install 'verdict-farm[native]'")


@pytest.fixture
def with_nnapi(_has_compiler: None, tmp_path: Path) -> Callable[..., Runs]:
    """Runs the digits on the NNAPI that is none, and returns what the runner did."""
    library = _library_with_nnapi(tmp_path, str(find_library("", "x86_64")[0]))
    program = build_with(compilers("x86_64")[0]).path
    (tmp_path / "work").mkdir()

    def run(*words: str, model: Path) -> subprocess.CompletedProcess[str]:
        command = [str(program), "compile", "--library", str(library), "--model", str(model)]
        return subprocess.run(
            [*command, "--accelerator", "nnapi+cpu", *words], cwd=tmp_path / "work",
            capture_output=True, text=True, check=True,
        )  # fmt: skip

    return run


@pytest.mark.system
@pytest.mark.parametrize(
    ("words", "flags"),
    [((), 4), (("--ep-option", "flags", "0"), 0), (("--ep-option", "flags", "0x5"), 5)],
)
def test_nnapi_never_runs_on_the_processor_unless_told(
    with_nnapi: Callable[..., Runs], digits: Path, words: tuple[str, ...], flags: int
) -> None:
    done = with_nnapi(*words, model=digits / "float.onnx")
    assert f"flags={flags}\n" in done.stderr
    assert '"error"' not in done.stdout


@pytest.mark.system
@pytest.mark.parametrize("words", [("use_fp16", "1"), ("flags", "much"), ("flags", "")])
def test_other_options_of_nnapi_are_refused(
    with_nnapi: Callable[..., Runs], digits: Path, words: tuple[str, str]
) -> None:
    done = with_nnapi("--ep-option", *words, model=digits / "float.onnx")
    assert "nnapi cannot be used: its only option is flags, a number" in done.stdout
    assert "flags=" not in done.stderr


@pytest.mark.system
@pytest.mark.usefixtures("_has_compiler")
def test_what_the_library_opens_by_name_is_found_beside_it(ndk: FakeNdk, tmp_path: Path) -> None:
    """As the provider for Qualcomm's processors opens libQnnHtp.so."""
    ndk.clang("x86_64", f'exec {shlex.join(compilers("x86_64")[0].command)} "$@"')
    (tmp_path / "libreal.so").symlink_to(find_library("", "x86_64")[0])
    library = _library_with_nnapi(tmp_path, "libreal.so")
    phone = _phone(tmp_path, ort_library=f"board:{library}")
    facts = {fact.name: fact.value for fact in OrtNative(phone).facts()}
    assert facts["accelerators"] == "nnapi,cpu"
