"""Our own drivers under the classes that anybody's drivers are tested with."""

from __future__ import annotations

from pathlib import Path

import pytest

from farm.model import Artifact, Workload
from farm.workload import read_workload

pytest.register_assert_rewrite("farm.testing")


@pytest.fixture
def model(digits: Path) -> Artifact:
    return Artifact.of(digits / "int8.onnx")


@pytest.fixture
def other_model(digits: Path) -> Artifact:
    return Artifact.of(digits / "float.onnx")


@pytest.fixture
def workload(digits: Path) -> Workload:
    return read_workload(digits)
