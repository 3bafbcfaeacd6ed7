"""The content-addressed folder on devices whose tools are few or odd; they are real shells here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pytest

from farm.errors import InfraError, OutOfSpace, TransferCorrupt
from farm.model import Artifact
from farm.shell import Completed, Shell, install, script

TOOLS = ("sh", "cat", "ls", "mkdir", "mv", "rm", "touch", "tr", "sha256sum", "openssl", "busybox")
"""What the scripts may use; a device gets those of them that it has."""
PLENTY = 1 << 30


@dataclass(kw_only=True)
class ProcessShell(Shell):
    """A device that is a folder, with a PATH of its own; remembers what was asked of it."""

    root: PurePosixPath
    path: Path
    pushed: list[str] = field(default_factory=list)
    pulled: list[str] = field(default_factory=list)
    after_push: Callable[[Path], None] = lambda path: None

    def run(
        self,
        argv: tuple[str, ...],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        cwd: PurePosixPath | None = None,
    ) -> Completed:
        """Only what the device has is found; also `sh` itself is the device's."""
        began = time.monotonic()
        program = shutil.which(argv[0], path=str(self.path))
        assert program, f"the device has no {argv[0]}"
        done = subprocess.run(
            (argv[0], *argv[1:]),
            executable=program,
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            cwd=cwd or self.root,
            env={"PATH": str(self.path)},
        )
        return Completed(
            returncode=done.returncode,
            stdout=done.stdout.decode(errors="replace"),
            stderr=done.stderr.decode(errors="replace"),
            elapsed_s=time.monotonic() - began,
        )

    def push(self, source: Path, target: PurePosixPath) -> None:
        self.pushed.append(target.name)
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise OutOfSpace(f"cannot write: {error.strerror}") from error
        self.after_push(Path(target))

    def pull(self, source: PurePosixPath, target: Path) -> None:
        self.pulled.append(source.name)
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise InfraError(f"cannot read: {error.strerror}") from error

    @property
    def store(self) -> Path:
        return Path(self.root) / "store"

    def names(self) -> set[str]:
        return {path.name for path in self.store.iterdir()}


def _applets(folder: Path, *without: str) -> None:
    """Links to busybox; without any of them also without its name, by which it offers them all."""
    hidden = folder.parent / "busybox.real"
    shutil.copy(shutil.which("busybox") or "", hidden)
    for tool in TOOLS:
        if tool not in ("openssl", *without) and not (without and tool == "busybox"):
            (folder / tool).symlink_to(hidden)


def _tools(folder: Path, *without: str, shell: str = "dash") -> None:
    """The machine's own, with a shell of choice."""
    for tool in TOOLS:
        if tool not in ("sh", *without):
            (folder / tool).symlink_to(shutil.which(tool) or "/missing")
    (folder / "sh").symlink_to(shutil.which(shell) or "/missing")
    if shell == "mksh":  # it has none of its own
        (folder / "printf").symlink_to(shutil.which("printf") or "/missing")


DEVICES: dict[str, Callable[[Path], None]] = {
    "dash": lambda folder: _tools(folder, "busybox", "openssl"),
    "mksh": lambda folder: _tools(folder, "busybox", "openssl", shell="mksh"),
    "busybox": _applets,
    "only the applet of busybox": lambda folder: _tools(folder, "sha256sum", "openssl"),
    "openssl": lambda folder: _tools(folder, "sha256sum", "busybox"),
    "dash without a digest": lambda f: _tools(f, "sha256sum", "busybox", "openssl"),
    "busybox without a digest": lambda folder: _applets(folder, "sha256sum"),
}
CANNOT_HASH = {name for name in DEVICES if name.endswith("without a digest")}
NEEDED = {"dash": "dash", "mksh": "mksh", "busybox": "busybox", "openssl": "openssl"}


@pytest.fixture
def build(tmp_path: Path, lacks: Callable[[str], None]) -> Callable[[str], ProcessShell]:
    """A device of a kind, with an empty folder whose name a shell would maul."""

    def build(kind: str) -> ProcessShell:
        for program, package in NEEDED.items():
            if program in kind and not shutil.which(program):
                lacks(f"'{program}' is missing: apt-get install {package}")
        path, root = tmp_path / "bin", tmp_path / "it's a $(touch pwned) root"
        path.mkdir()
        root.mkdir()
        DEVICES[kind](path)
        return ProcessShell(root=PurePosixPath(root), path=path)

    return build


@pytest.fixture(params=DEVICES)
def shell(request: pytest.FixtureRequest, build: Callable[[str], ProcessShell]) -> ProcessShell:
    return build(request.param)


@pytest.fixture
def plain(build: Callable[[str], ProcessShell]) -> ProcessShell:
    """Where only the farm's own doing matters."""
    return build("dash")


@pytest.fixture
def artifact(tmp_path: Path) -> Callable[..., Artifact]:
    def make(content: bytes = b"model", name: str = "") -> Artifact:
        path = tmp_path / (name or f"artifact-{content[:20].hex()}")
        path.write_bytes(content)
        return Artifact.of(path)

    return make


def _age(shell: ProcessShell, *oldest_first: str) -> None:
    for day, name in enumerate(oldest_first, 1):
        os.utime(shell.store / name, (day * 86400, day * 86400))


class TestInstall:
    def test_a_file_arrives_under_its_digest_once(
        self, shell: ProcessShell, artifact: Callable[..., Artifact]
    ) -> None:
        model = artifact(bytes(range(256)) * 100)
        place = install(shell, model, allowed_bytes=PLENTY)
        assert Path(place).read_bytes() == model.path.read_bytes()
        assert install(shell, model, allowed_bytes=PLENTY) == place
        assert shell.pushed == [f"{model.sha256}.part"]
        assert shell.names() == {model.sha256}

    def test_only_a_device_that_cannot_hash_sends_files_back(
        self,
        request: pytest.FixtureRequest,
        shell: ProcessShell,
        artifact: Callable[..., Artifact],
    ) -> None:
        model = artifact()
        install(shell, model, allowed_bytes=PLENTY)
        install(shell, model, allowed_bytes=PLENTY)
        cannot = request.node.callspec.params["shell"] in CANNOT_HASH
        assert shell.pulled == ([f"{model.sha256}.part", model.sha256] if cannot else [])

    def test_a_damaged_file_is_replaced(
        self, shell: ProcessShell, artifact: Callable[..., Artifact]
    ) -> None:
        model = artifact()
        place = Path(install(shell, model, allowed_bytes=PLENTY))
        place.write_bytes(b"rotten")
        install(shell, model, allowed_bytes=PLENTY)
        assert place.read_bytes() == b"model"

    def test_a_bit_that_flips_on_the_way_is_noticed_and_nothing_stays(
        self, shell: ProcessShell, artifact: Callable[..., Artifact]
    ) -> None:
        shell.after_push = lambda path: path.write_bytes(b"modem")
        with pytest.raises(TransferCorrupt, match="the device has"):
            install(shell, artifact(), allowed_bytes=PLENTY)
        assert shell.names() == set()

    def test_a_file_that_never_arrives_is_noticed(
        self, shell: ProcessShell, artifact: Callable[..., Artifact]
    ) -> None:
        shell.after_push = Path.unlink
        with pytest.raises(TransferCorrupt, match="the device has nothing"):
            install(shell, artifact(), allowed_bytes=PLENTY)
        assert shell.names() == set()

    def test_an_empty_file_is_a_file(
        self, shell: ProcessShell, artifact: Callable[..., Artifact]
    ) -> None:
        model = artifact(b"", "empty")
        install(shell, model, allowed_bytes=PLENTY)
        install(shell, model, allowed_bytes=PLENTY)
        assert shell.names() == {model.sha256}
        assert len(shell.pushed) == 1

    def test_what_was_used_last_goes_last(
        self, shell: ProcessShell, artifact: Callable[..., Artifact]
    ) -> None:
        first, second, third, new = (artifact(bytes([n]) * 100_000) for n in range(4))
        for model in (first, second, third):
            install(shell, model, allowed_bytes=PLENTY)
        _age(shell, first.sha256, third.sha256, second.sha256)
        install(shell, first, allowed_bytes=PLENTY)
        install(shell, new, allowed_bytes=399_000)
        assert shell.names() == {first.sha256, second.sha256, new.sha256}

    def test_exactly_as_much_as_is_allowed_is_allowed(
        self, shell: ProcessShell, artifact: Callable[..., Artifact]
    ) -> None:
        old, new = artifact(b"a" * 100_000), artifact(b"b" * 100_000)
        install(shell, old, allowed_bytes=PLENTY)
        install(shell, new, allowed_bytes=200_000)
        assert shell.names() == {old.sha256, new.sha256}

    def test_as_many_go_as_must_and_what_is_in_use_stays(
        self, shell: ProcessShell, artifact: Callable[..., Artifact]
    ) -> None:
        models = [artifact(bytes([n]) * 100_000) for n in range(4)]
        for model in models:
            install(shell, model, allowed_bytes=PLENTY)
        _age(shell, *(model.sha256 for model in models))
        used = [models[0].sha256, models[2].sha256]
        new = artifact(b"new" * 100_000)
        install(shell, new, allowed_bytes=1, in_use=used)
        assert shell.names() == {*used, new.sha256}

    def test_a_large_file_makes_much_room(
        self, shell: ProcessShell, artifact: Callable[..., Artifact]
    ) -> None:
        models = [artifact(bytes([n]) * 100_000) for n in range(5)]
        for model in models:
            install(shell, model, allowed_bytes=PLENTY)
        _age(shell, *(model.sha256 for model in models))
        new = artifact(b"x" * 250_000)
        install(shell, new, allowed_bytes=500_000)
        assert shell.names() == {models[3].sha256, models[4].sha256, new.sha256}

    def test_more_than_32_bits_of_bytes_are_counted(
        self, shell: ProcessShell, artifact: Callable[..., Artifact]
    ) -> None:
        """The shell of Android counts no further."""
        kept, gone = artifact(b"kept"), artifact(b"gone")
        for model in (gone, kept):
            install(shell, model, allowed_bytes=PLENTY)
        _age(shell, gone.sha256, kept.sha256)
        os.truncate(shell.store / gone.sha256, 3 << 30)
        os.utime(shell.store / gone.sha256, (1, 1))
        install(shell, artifact(b"new"), allowed_bytes=4 << 30)
        assert gone.sha256 in shell.names()
        install(shell, artifact(b"newer"), allowed_bytes=2 << 30)
        assert gone.sha256 not in shell.names()
        assert kept.sha256 in shell.names()

    def test_an_old_part_counts_and_goes(
        self, shell: ProcessShell, artifact: Callable[..., Artifact]
    ) -> None:
        shell.store.mkdir()
        (shell.store / f"{'0' * 64}.part").write_bytes(b"x" * 1_000_000)
        new = artifact()
        install(shell, new, allowed_bytes=500_000)
        assert shell.names() == {new.sha256}

    def test_files_that_nobody_put_there_do_no_harm(
        self, shell: ProcessShell, artifact: Callable[..., Artifact]
    ) -> None:
        shell.store.mkdir()
        kept = artifact(b"kept")
        strange = ["-rf", "a b", "$(touch pwned)", "*", "\udcff", "a\nb", " ", "'\"`"]
        for name in strange:
            (shell.store / name).write_bytes(b"x" * 1_000_000)
        (shell.store / "folder").mkdir()
        install(shell, kept, allowed_bytes=PLENTY)
        new = artifact()
        install(shell, new, allowed_bytes=1, in_use=[kept.sha256])
        assert {kept.sha256, new.sha256, "folder"} <= shell.names()
        assert not list(Path(shell.root).glob("**/pwned"))


LISTINGS = {
    "toybox": "-rw-rw---- 1 0 0 {size} {year}-01-02 03:04 {name}",
    "busybox": "-rw-r--r--    1 0        0             {size} Jan  2  {year} {name}",
    "gnu": "-rw-r--r-- 1 0 0 {size} Jan  2  {year} {name}",
}
"""`ls -ln` of other systems, which the machine does not have: the columns are theirs."""


class TestListings:
    @pytest.mark.parametrize("system", LISTINGS)
    def test_sizes_and_names_are_read_from_any_listing(
        self, plain: ProcessShell, artifact: Callable[..., Artifact], system: str
    ) -> None:
        old, older = artifact(b"a" * 100_000), artifact(b"b" * 100_000)
        for model in (old, older):
            install(plain, model, allowed_bytes=PLENTY)
        oldest_first = [
            LISTINGS[system].format(size=100_000, year=year, name=model.sha256)
            for year, model in ((2020, older), (2021, old))
        ]
        listing = "\n".join(["total 8", *oldest_first])
        (plain.path / "ls").unlink()
        (plain.path / "ls").write_text(f"#!{sys.executable}\nprint({listing!r})\n")
        (plain.path / "ls").chmod(0o755)
        new = artifact(b"c" * 100_000)
        install(plain, new, allowed_bytes=200_000)
        assert plain.names() == {old.sha256, new.sha256}


class TestFailures:
    @pytest.fixture
    def disk(self, plain: ProcessShell, lacks: Callable[[str], None]) -> Iterator[ProcessShell]:
        """A device whose folder lies on a disk of 64 KiB."""
        plain.store.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(plain.store)]
        if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
            lacks("a full disk needs root and mount: run as root, in Docker --cap-add SYS_ADMIN")
        yield plain
        subprocess.run(["umount", str(plain.store)], check=True)

    def test_a_full_disk_is_told_and_leaves_no_half_file_under_a_digest(
        self, disk: ProcessShell, artifact: Callable[..., Artifact]
    ) -> None:
        small, large = artifact(b"small"), artifact(b"x" * 200_000)
        install(disk, small, allowed_bytes=PLENTY)
        with pytest.raises(OutOfSpace):
            install(disk, large, allowed_bytes=PLENTY)
        assert large.sha256 not in disk.names()
        assert (disk.store / small.sha256).read_bytes() == b"small"

    def test_a_disk_that_was_full_is_not_full_of_the_part_that_did_not_fit(
        self, disk: ProcessShell, artifact: Callable[..., Artifact]
    ) -> None:
        with pytest.raises(OutOfSpace):
            install(disk, artifact(b"x" * 200_000), allowed_bytes=PLENTY)
        assert disk.names() == set()

    def test_a_folder_that_cannot_be_made_is_told(
        self, plain: ProcessShell, artifact: Callable[..., Artifact]
    ) -> None:
        plain.store.write_text("a file is in the way")
        with pytest.raises(OutOfSpace, match=r"cannot make the folder .*/store"):
            install(plain, artifact(), allowed_bytes=PLENTY)
        assert plain.pushed == []

    def test_a_folder_that_cannot_be_written_is_told(
        self,
        plain: ProcessShell,
        artifact: Callable[..., Artifact],
        lacks: Callable[[str], None],
    ) -> None:
        plain.store.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(plain.store)]
        if os.geteuid():
            plain.store.chmod(0o500)
        elif subprocess.run(mount, capture_output=True).returncode:
            lacks("a read-only disk needs mount: in Docker --cap-add SYS_ADMIN")
        try:
            with pytest.raises(OutOfSpace, match="cannot write"):
                install(plain, artifact(), allowed_bytes=PLENTY)
            assert plain.names() == set()
        finally:
            if os.geteuid():
                plain.store.chmod(0o700)
            else:
                subprocess.run(["umount", str(plain.store)], check=True)


def test_arguments_of_a_script_are_arguments(plain: ProcessShell) -> None:
    done = plain.run(script('printf "<%s>" "$@"', "a b", "-n", "", "$(id)"), timeout_s=30)
    assert done.stdout == "<a b><-n><><$(id)>"
