"""What the content-addressed folder of a device must do."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

import pytest

from farm.connection import Transport
from farm.errors import TransferCorrupt
from farm.model import Artifact
from farm.shell import script
from farm.testing.probes import ASK_S, again, is_there, names, read, write

SIZE = 1000
"""Of every file whose place in the folder is counted."""


class ArtifactContract:
    """`Transport.install`."""

    @pytest.fixture
    def store(self, transport: Transport) -> PurePosixPath:
        """The folder, empty."""
        store = transport.root / "store"
        transport.run(("rm", "-rf", str(store)), timeout_s=ASK_S)
        return store

    def test_a_file_is_pushed_once(
        self, transport: Transport, store: PurePosixPath, tmp_path: Path
    ) -> None:
        """Its name is its digest; a second install has nothing to read and needs nothing."""
        artifact = _artifact(tmp_path, "model")
        place = transport.install(artifact)
        artifact.path.unlink()
        assert transport.install(artifact) == place == store / artifact.sha256
        assert len(read(transport, place, tmp_path)) == SIZE
        later = again(transport)
        assert later.install(artifact) == place
        later.close()

    def test_an_empty_file_is_installed(
        self, transport: Transport, store: PurePosixPath, tmp_path: Path
    ) -> None:
        """Empty is not missing."""
        path = tmp_path / "empty"
        path.touch()
        artifact = Artifact.of(path)
        transport.install(artifact)
        assert names(transport, store) == {artifact.sha256}

    def test_no_name_reaches_the_device(
        self, transport: Transport, store: PurePosixPath, tmp_path: Path
    ) -> None:
        """A file's name is for people; only its content counts."""
        artifact = _artifact(tmp_path, "model", "$(touch pwned) '\n\udcff.onnx")
        transport.install(artifact)
        assert names(transport, store) == {artifact.sha256}

    def test_a_damaged_file_is_replaced(
        self, transport: Transport, store: PurePosixPath, tmp_path: Path
    ) -> None:
        """The device hashes what it has before it is used."""
        artifact = _artifact(tmp_path, "model")
        place = transport.install(artifact)
        write(transport, place, b"rotten", tmp_path)
        transport.install(artifact)
        assert read(transport, place, tmp_path) == artifact.path.read_bytes()
        assert names(transport, store) == {artifact.sha256}

    def test_what_a_broken_transfer_left_is_overwritten(
        self, transport: Transport, store: PurePosixPath, tmp_path: Path
    ) -> None:
        """A part that is longer than the file as well."""
        artifact = _artifact(tmp_path, "model")
        transport.run(("mkdir", str(store)), timeout_s=ASK_S)
        write(transport, store / f"{artifact.sha256}.part", b"x" * 2 * SIZE, tmp_path)
        place = transport.install(artifact)
        assert read(transport, place, tmp_path) == artifact.path.read_bytes()
        assert names(transport, store) == {artifact.sha256}

    def test_a_file_that_arrives_changed_is_refused_and_removed(
        self, transport: Transport, store: PurePosixPath, tmp_path: Path
    ) -> None:
        """Neither it nor a part of it stays."""
        path = tmp_path / "changed"
        path.write_bytes(b"not what was promised")
        promised = hashlib.sha256(b"what was promised").hexdigest()
        with pytest.raises(TransferCorrupt):
            transport.install(Artifact(path=path, sha256=promised, size_bytes=21))
        assert names(transport, store) == set()

    def test_the_longest_unused_files_make_room(
        self, transport: Transport, store: PurePosixPath, tmp_path: Path
    ) -> None:
        """As many as must, oldest first; to be installed again is to be used."""
        oldest, older, newer, new = (_artifact(tmp_path, name) for name in ("a", "b", "c", "d"))
        for artifact in (oldest, older, newer):
            transport.install(artifact)
        _set_age(transport, store, oldest, newer, older)
        user = again(transport)
        user.install(oldest)
        user.close()
        later = again(transport)
        later.allowed_bytes = 3 * SIZE
        later.install(new)
        assert names(later, store) == {a.sha256 for a in (oldest, older, new)}
        later.close()

    def test_what_is_in_use_stays(
        self, transport: Transport, store: PurePosixPath, tmp_path: Path
    ) -> None:
        """However old it is and however little is allowed; what is not goes."""
        used, unused, new = (_artifact(tmp_path, name) for name in ("a", "b", "c"))
        for artifact in (used, unused):
            transport.install(artifact)
        later = again(transport)
        later.install(used)
        _set_age(later, store, used, unused)
        later.allowed_bytes = 1
        later.install(new)
        assert names(later, store) == {used.sha256, new.sha256}
        assert later.in_use == {used.sha256, new.sha256}
        assert is_there(later, store / used.sha256)
        later.close()


def _artifact(folder: Path, content: str, name: str = "") -> Artifact:
    path = folder / (name or f"{content}.bin")
    path.write_bytes(content.encode().ljust(SIZE, b"."))
    return Artifact.of(path)


def _set_age(transport: Transport, store: PurePosixPath, *oldest_first: Artifact) -> None:
    """Dates in the past, a day apart, so that no clock decides the test."""
    for day, artifact in enumerate(oldest_first, 1):
        dated = script('touch -t "$1" "$2"', f"2020010{day}0000", str(store / artifact.sha256))
        done = transport.run(dated, timeout_s=ASK_S)
        assert done.returncode == 0, done.stderr
