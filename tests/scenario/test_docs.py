"""The examples of the documentation run."""

from __future__ import annotations

import doctest
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_examples_of_the_python_api_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: Path
) -> None:
    shutil.copy(ROOT / "inventory.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testfile(
        str(ROOT / "docs" / "python-api.md"), module_relative=False, globs={"digits": digits}
    )
    assert failed == 0
    assert tried > 10


def test_every_link_to_a_file_leads_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in document.read_text().split("](")[1:]:
            path = target.split(")")[0].partition("#")[0]
            if "://" not in path:
                assert (document.parent / path).exists(), f"{document.name}: {path}"
