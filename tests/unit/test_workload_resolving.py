"""Which workload and which files a person means by a model's path."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from farm.errors import ConfigError
from farm.workload import bare_workload, resolve_candidate, resolve_workload

KNOWN = "known: .axf, .bin, .elf, .hex, .onnx, .uf2"


def make(folder: Path, models: str = "models: {onnx: model.onnx}\n") -> Path:
    """A workload folder named as its workload."""
    folder.mkdir(parents=True)
    np.savez(folder / "inputs.npz", x=np.zeros((2, 4)))
    (folder / "model.onnx").write_bytes(b"a model")
    (folder / "workload.yaml").write_text(
        f"schema: farm.workload/1\nname: {folder.name}\ninputs: inputs.npz\n{models}"
    )
    return folder


def model(path: Path, data: bytes = b"m") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_the_workload_named_explicitly_wins_then_the_models_then_the_suites(tmp_path):
    explicit, beside, suite = (make(tmp_path / name) for name in ("explicit", "beside", "suite"))
    bare = model(tmp_path / "elsewhere" / "m.onnx")

    def resolve(*models: Path, explicit: Path | None = None, suite: Path | None = suite) -> str:
        return resolve_workload(models, explicit=explicit, suite=suite).name

    assert resolve(beside / "model.onnx", explicit=explicit) == "explicit"
    assert resolve(beside / "model.onnx") == "beside"
    assert resolve(beside, beside / "model.onnx") == "beside"
    assert resolve(bare, beside) == "beside"
    assert resolve(bare) == "suite"
    assert resolve(bare, suite=None) == bare_workload().name


def test_two_models_of_different_workloads_are_refused_unless_one_is_named(tmp_path):
    one, two = make(tmp_path / "one"), make(tmp_path / "two")
    with pytest.raises(ConfigError, match=r"two workloads: .*one and .*two$") as caught:
        resolve_workload((two, one), explicit=None, suite=None)
    assert "--workload" in caught.value.hint
    assert resolve_workload((two, one), explicit=two, suite=None).name == "two"


def test_one_folder_reached_by_two_roads_is_one_workload(tmp_path):
    folder = make(tmp_path / "real")
    (tmp_path / "link").symlink_to(folder)
    found = resolve_workload((folder, tmp_path / "link"), explicit=None, suite=None)
    assert found.name == "real"


def test_an_explicit_folder_without_a_workload_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read '.*workload\.yaml'"):
        resolve_workload((), explicit=tmp_path, suite=None)


def test_a_bare_workload_is_identified_by_its_dimensions_in_any_order():
    digests = {
        bare_workload(d).digest for d in ((), (("batch", 1),), (("batch", 2),), (("time", 1),))
    }
    assert len(digests) == 4
    one, two = (("a", 1), ("b", 2)), (("b", 2), ("a", 1))
    assert bare_workload(one).digest == bare_workload(two).digest
    assert bare_workload(one).dimensions == one
    assert (bare_workload().inputs, bare_workload().labels) == (None, None)


HOSTILE = ["a b.onnx", 'it\'s "so".onnx', "two\nlines.onnx", "$(x).onnx", "-rf.onnx", "`x`;|&.onnx"]


@pytest.mark.parametrize("name", ["model.onnx", "v1.2.onnx", "модель.onnx", *HOSTILE])
def test_a_file_is_a_candidate_whatever_its_name(name, tmp_path):
    candidate = resolve_candidate(model(tmp_path / name, b"the bytes"))
    (file,) = candidate.files
    assert candidate.name == name.removesuffix(".onnx")
    assert (file.format, file.artifact.path) == ("onnx", tmp_path / name)
    assert file.artifact.sha256 == hashlib.sha256(b"the bytes").hexdigest()
    assert candidate.in_format(("tflite", "onnx")) == file.artifact
    assert candidate.in_format(("tflite",)) is None


def test_a_folder_stands_for_the_one_model_in_it(tmp_path):
    model(tmp_path / "release-7" / "net.onnx")
    model(tmp_path / "release-7" / "notes.txt")
    candidate = resolve_candidate(tmp_path / "release-7")
    assert candidate.name == "release-7"
    assert [file.artifact.name for file in candidate.files] == ["net.onnx"]


def test_a_workload_folder_stands_for_the_workloads_own_model(tmp_path):
    folder = make(tmp_path / "digits")
    model(folder / "other.onnx")
    candidate = resolve_candidate(folder)
    assert candidate.name == "digits"
    assert [file.artifact.name for file in candidate.files] == ["model.onnx"]


def test_a_workload_folder_that_names_no_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"workload\.yaml names no model$"):
        resolve_candidate(make(tmp_path / "digits", models=""))


@pytest.mark.parametrize(
    ("files", "complaint", "hint"),
    [
        ((), "no model files", KNOWN),
        (("a.txt",), "no model files", KNOWN),
        (("a.onnx", "b.onnx"), "2 model files", "name one of them"),
    ],
)
def test_a_folder_that_does_not_say_which_model_is_refused(files, complaint, hint, tmp_path):
    for name in files:
        model(tmp_path / "folder" / name)
    (tmp_path / "folder").mkdir(exist_ok=True)
    with pytest.raises(ConfigError, match=complaint) as caught:
        resolve_candidate(tmp_path / "folder")
    assert caught.value.hint == hint


def test_a_bin_beside_a_model_is_no_second_model(tmp_path):
    model(tmp_path / "folder" / "net.onnx")
    model(tmp_path / "folder" / "weights.bin")
    assert [file.format for file in resolve_candidate(tmp_path / "folder").files] == ["onnx"]
    assert resolve_candidate(tmp_path / "folder" / "weights.bin").files[0].format == "firmware"


@pytest.mark.parametrize("name", ["net.tflit", "net", ".onnx", "net.onnx.bak", "net\n.dat"])
def test_a_file_of_no_known_format_is_refused(name, tmp_path):
    with pytest.raises(ConfigError, match=r"is of no known model format$") as caught:
        resolve_candidate(model(tmp_path / name))
    assert caught.value.hint == KNOWN


def test_a_missing_file_is_refused_with_the_nearest_name(tmp_path):
    near = model(tmp_path / "int8_recalibrated.onnx")
    model(tmp_path / "float.onnx")
    with pytest.raises(ConfigError, match=r"^there is no model at") as caught:
        resolve_candidate(tmp_path / "int8_recalibratd.onnx")
    assert caught.value.hint == f"did you mean '{near}'?"


@pytest.mark.parametrize(
    "name", ["no/such/folder/m.onnx", "a\0b.onnx", "x" * 300 + ".onnx", *HOSTILE]
)
def test_a_missing_file_is_refused_in_one_line_whatever_its_name(name, tmp_path):
    for other in HOSTILE:
        if other != name:
            model(tmp_path / other)
    with pytest.raises(ConfigError) as caught:
        resolve_candidate(tmp_path / name)
    assert "\n" not in caught.value.message + caught.value.hint
