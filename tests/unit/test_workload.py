"""Workload folders: what they hold, what identifies them, and what is wrong in the document."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from farm.workload import read_workload


def test_a_workload_is_read_from_its_folder_or_its_file(folder):
    workload = read_workload(folder)
    assert workload == read_workload(folder / "workload.yaml")
    assert (workload.name, workload.metric) == ("digits", "accuracy.top1")
    assert (
        workload.inputs.sha256 == hashlib.sha256((folder / "inputs.npz").read_bytes()).hexdigest()
    )
    assert workload.labels.path == folder / "labels.npy"
    assert workload.reference.size_bytes == (folder / "reference.npz").stat().st_size
    (file,) = workload.model.files
    assert (workload.model.name, file.format, file.artifact.name) == (
        "digits",
        "onnx",
        "model.onnx",
    )


def test_only_inputs_are_required(folder):
    (folder / "workload.yaml").write_text("schema: farm.workload/1\nname: w\ninputs: inputs.npz\n")
    workload = read_workload(folder)
    assert (workload.labels, workload.reference, workload.model) == (None, None, None)
    assert workload.metric == ""


def test_the_identity_of_a_workload_does_not_depend_on_the_model(folder):
    before = read_workload(folder).digest
    (folder / "model.onnx").write_bytes(b"another model")
    assert read_workload(folder).digest == before
    text = (folder / "workload.yaml").read_text()
    (folder / "workload.yaml").write_text(text.replace("models:\n  onnx: model.onnx\n", ""))
    assert read_workload(folder).digest == before


def test_golden_outputs_belong_to_the_model_and_not_to_the_identity(folder):
    before = read_workload(folder)
    np.savez(folder / "golden.npz", y=np.zeros((6, 3)))
    text = (folder / "workload.yaml").read_text()
    (folder / "workload.yaml").write_text(f"{text}golden: golden.npz\n")
    after = read_workload(folder)
    assert after.golden is not None
    assert (before.golden, before.digest) == (None, after.digest)


@pytest.mark.parametrize("name", ["inputs.npz", "labels.npy", "reference.npz"])
def test_the_identity_of_a_workload_depends_on_inputs_and_oracle(name, folder):
    before = read_workload(folder).digest
    if name.endswith(".npy"):
        np.save(folder / name, np.zeros(6, np.int64))
    else:
        np.savez(folder / name, x=np.zeros((6, 4)))
    assert read_workload(folder).digest != before


def test_the_identity_of_a_workload_depends_on_its_name_and_on_having_an_oracle(folder):
    text = (folder / "workload.yaml").read_text()
    texts = [
        text,
        text.replace("digits", "letters"),
        text.replace("reference: reference.npz\n", ""),
        text.replace("labels: labels.npy\n", "").replace("metric: accuracy.top1\n", ""),
    ]
    digests = set()
    for text in texts:
        (folder / "workload.yaml").write_text(text)
        digests.add(read_workload(folder).digest)
    assert len(digests) == len(texts)


@pytest.mark.parametrize(
    ("old", "new", "line", "complaint", "hint"),
    [
        ("inputs.npz", "absent.npz", 3, "No such file", ""),
        ("labels.npy", "absent.npy", 4, "No such file", ""),
        ("model.onnx", "absent.onnx", 8, "No such file", ""),
        ("inputs.npz", ".", 3, "Is a directory", ""),
        ("inputs.npz", '""', 3, "inputs", ""),
        ("model.onnx", '""', 8, "onnx", ""),
        ("inputs.npz", '"a\\0b"', 3, "", ""),
        ("inputs: inputs.npz\n", "", 1, "'inputs' is missing", ""),
        ("accuracy.top1", "accuracy.topl", 6, "unknown metric", "did you mean 'accuracy.top1'?"),
        ("accuracy.top1", "latency.p50", 6, "latency.p50", ""),
        ("metric: accuracy.top1\n", "", 1, "'metric' is missing", ""),
        ("onnx:", "onx:", 8, "unknown model format 'onx'", "did you mean 'onnx'?"),
        ("models:", "model:", 7, "unknown key 'model'", "did you mean 'models'?"),
    ],
)
def test_a_workload_that_is_wrong_is_refused_on_its_line(
    old, new, line, complaint, hint, folder, refusal
):
    text = (folder / "workload.yaml").read_text()
    found = refusal(read_workload, text.replace(old, new, 1))
    assert complaint in found.text
    assert hint in found.hint
    assert found.line == line
