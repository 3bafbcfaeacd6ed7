"""The plots of docs/statistics.md are those that docs/plots.py draws."""

from __future__ import annotations

import importlib.util
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"
STORED = sorted((DOCS / "plots").glob("*.svg"))
MAX_BYTES = 30_000


@pytest.fixture(scope="module")
def plots() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plots", DOCS / "plots.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_plot_is_up_to_date_and_shown(plots: ModuleType, tmp_path: Path) -> None:
    plots.main(tmp_path)
    drawn = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    stored = {path.name: path.read_bytes() for path in STORED}
    stale = sorted(n for n in drawn | stored if drawn.get(n) != stored.get(n))
    assert stale == [], "remake them with 'python docs/plots.py'"
    shown = re.findall(r"\]\(plots/([^)]+)\)", (DOCS / "statistics.md").read_text())
    assert sorted(shown) == sorted(stored)


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_plot_is_small_well_formed_and_says_what_it_shows(path: Path) -> None:
    assert path.stat().st_size < MAX_BYTES
    root = ET.fromstring(path.read_text(encoding="utf-8"))
    title = root.find("{http://www.w3.org/2000/svg}title")
    assert title is not None
    assert title.text
    assert "prefers-color-scheme:dark" in path.read_text(encoding="utf-8")
