"""The package that the documentation writes is installed and keeps the contract."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "adding-a-driver.md"
BLOCK = re.compile(r"`([\w.]+)`[^`\n]*:\n\n```\w+\n(.*?)```", re.DOTALL)
FIND = """
from farm.model import Address, Device
from farm.plugins import connect, find_platform
transport = connect(Device(name="b", type="t", address=Address.parse("bench:?case=closed")))
facts = find_platform(transport.platform)(transport).facts()
print(*(fact.value for fact in facts if fact.name == "case"))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The files of the page, installed as `pip` would."""
    files = dict(BLOCK.findall(DOCUMENT.read_text()))
    assert set(files) == {"bench_farm.py", "pyproject.toml", "test_bench.py", "conftest.py"}
    folder = tmp_path / "package"
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    project = tomllib.loads(files["pyproject.toml"])["project"]
    info = folder / f"bench_farm-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    groups = project["entry-points"].items()
    lines = [
        f"[{group}]\n{name} = {target}\n"
        for group, points in groups
        for name, target in points.items()
    ]
    (info / "entry_points.txt").write_text("".join(lines))
    return folder


def _python(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=package,
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_the_farm_finds_the_drivers_of_the_page(package: Path) -> None:
    found = _python(package, "-c", FIND)
    assert found.stdout == "closed\n", found.stderr


def test_the_drivers_of_the_page_keep_the_contract(package: Path) -> None:
    done = _python(package, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short")
    assert done.returncode == 0, done.stdout[-3000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) > 70
    assert "skipped" not in done.stdout
