"""The arrays of a workload: whatever is in these files, a person is told on which line."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from farm.errors import ConfigError
from farm.workload import read_workload

ITEMS = 6


@pytest.fixture
def refused(folder, refusal):
    """The complaint about the workload in the folder as it is now; no file of it stays open."""

    def refuse():
        found = refusal(read_workload, (folder / "workload.yaml").read_text())
        assert not still_open(folder)
        return found

    return refuse


def still_open(folder: Path) -> list[str]:
    """Files of the folder that this process holds open, where the system tells."""
    held = Path("/proc/self/fd").glob("*")
    return [path for fd in held if (path := os.path.realpath(fd)).startswith(str(folder))]


def write(folder: Path, key: str, array: np.ndarray) -> None:
    if key == "labels":
        np.save(folder / "labels.npy", array, allow_pickle=True)
    else:
        np.savez(folder / f"{key}.npz", x=array)


LINES = {"inputs": 3, "labels": 4, "reference": 5}


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("labels", (ITEMS + 1,)),
        ("labels", (ITEMS - 1,)),
        ("labels", (0,)),
        ("labels", ()),
        ("reference", (ITEMS + 1, 3)),
        ("reference", (0, 3)),
        ("inputs", (ITEMS + 1, 4)),
    ],
)
def test_files_with_other_numbers_of_items_are_refused(key, shape, folder, refused):
    write(folder, key, np.zeros(shape, np.int64))
    assert refused().line == LINES.get("labels" if key == "inputs" else key)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"x": np.zeros((3, 2)), "y": np.zeros((4, 2))},
        {"x": np.zeros((0, 2))},
        {"x": np.array(1)},
    ],
    ids=["no array", "arrays of 3 and 4 items", "no item", "no axis of items"],
)
def test_inputs_without_a_common_number_of_items_are_refused(arrays, folder, refused):
    np.savez(folder / "inputs.npz", **arrays)
    found = refused()
    assert (found.line, found.text) == (3, "the arrays of 'inputs.npz' have no common items")


@pytest.mark.parametrize(
    "labels",
    [
        np.zeros(ITEMS),
        np.zeros((ITEMS, 1), np.int64),
        np.full(ITEMS, -1),
        np.array(["cat"] * ITEMS),
        np.full(ITEMS, np.nan),
    ],
    ids=["real numbers", "a column", "negative", "words", "NaN"],
)
def test_labels_that_are_not_one_class_per_item_are_refused(labels, folder, refused):
    write(folder, "labels", labels)
    assert refused().line == 4


def archive(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name.replace("_", "."), data)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def spoil_header(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros((ITEMS, 2)))
    path.write_bytes(path.read_bytes().replace(b"}", b"("))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(b"no array\n"), id="text"),
        pytest.param(lambda path: path.write_bytes(b"PK\x03\x04junk"), id="only the head of a zip"),
        pytest.param(shorten, id="cut short"),
        pytest.param(spoil_header, id="header that does not parse"),
        pytest.param(lambda path: archive(path, readme_txt=b"hello"), id="zip of something else"),
        pytest.param(
            lambda path: archive(path, x_npy=b"hello"), id="zip of a member that is no array"
        ),
    ],
)
def test_a_damaged_file_is_refused_and_closed(damage, folder, refused):
    damage(folder / "inputs.npz")
    found = refused()
    assert found.line == 3
    assert "'inputs.npz'" in found.text


@pytest.mark.parametrize("compressed", [True, False])
def test_no_single_damaged_byte_escapes_as_another_error(compressed, folder):
    path = folder / "inputs.npz"
    save = np.savez_compressed if compressed else np.savez
    save(path, x=np.random.default_rng(0).normal(size=(ITEMS, 40)))
    good = path.read_bytes()
    escaped = {}
    for position in range(0, len(good), 5):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0xFF]) + good[position + 1 :])
        try:
            read_workload(folder)
        except ConfigError:
            pass
        except Exception as error:  # whichever it is, it is the finding
            escaped[position] = repr(error)
    assert not escaped


class Exploit:
    """Runs code of its author's when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("key", ["inputs", "labels"])
def test_pickled_objects_are_refused_and_never_run(key, folder, tmp_path, refused):
    trace = tmp_path / "it-ran"
    write(folder, key, np.array([Exploit(trace)] * ITEMS, dtype=object))
    found = refused()
    assert found.line == LINES[key]
    assert "pickle" in found.text
    assert not trace.exists()
