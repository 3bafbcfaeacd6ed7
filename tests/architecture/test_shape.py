"""The shape that the code keeps: sizes, names, surfaces, and documents that agree with it."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import typer

import farm
from farm.cli import app

ROOT = Path(__file__).parents[2]
PACKAGES = ("farm", "drivers", "suites", "dashboard")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 40
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "manager"}


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=_id)
def test_a_module_is_short_and_has_a_telling_name(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_MODULE_LINES
    assert path.stem not in BANNED_NAMES


def _code_lines(function: ast.FunctionDef) -> int:
    """Lines of a function without its signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", [p for p in MODULES if p.parent.name != "versions"], ids=_id)
def test_functions_are_short(path: Path) -> None:
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    long = {f.name: n for f in functions if (n := _code_lines(f)) > MAX_FUNCTION_LINES}
    assert long == {}


def test_packages_have_empty_init_files_except_the_public_surface() -> None:
    filled = [_id(p) for p in MODULES if p.name == "__init__.py" and p.read_text().strip()]
    assert filled == ["farm/__init__.py"]


def test_the_public_surface_is_pinned_and_everything_in_it_is_there() -> None:
    assert farm.__all__ == [
        "FarmError", "Outcome", "Verdict", "gate", "plan", "report", "results", "run",
    ]  # fmt: skip
    for name in farm.__all__:
        assert getattr(farm, name).__doc__
    with pytest.raises(AttributeError):
        farm.nonsense  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, farm; print([m for m in ('numpy', 'pandas', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_command_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    group = typer.main.get_command(app)
    for name in group.commands:  # type: ignore[attr-defined]
        assert f"farm {name}" in readme, name


def test_the_wheel_carries_the_product_and_no_tests(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == set(PACKAGES)
    for needed in (
        "suites/smoke.yaml",
        "suites/workloads/digits/int8.onnx",
        "drivers/ondevice/loadgen.py",
        "drivers/ondevice/metered.py",
        "drivers/ondevice/ort_runner/main.c",
        "drivers/ondevice/ort_runner/onnxruntime_c_api.h",
        "drivers/ondevice/mcu_firmware/farm_core.c",
        "drivers/ondevice/mcu_firmware/cortex_m.ld",
        "drivers/ondevice/mcu_firmware/ports/stm32f405/link.ld",
        "drivers/ondevice/mcu_model/image.ld",
        "farm/testing/transports.py",
        "farm/store/migrations/versions/0001_first.py",
    ):
        assert needed in names
    assert not [name for name in names if Path(name).name.startswith("test_")]


def test_the_lock_has_every_direct_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(name for extra in extras for name in extra)]
    lock = (ROOT / "requirements.lock").read_text().lower()
    for requirement in wanted:
        name = requirement.split(">")[0].strip().lower()
        assert f"\n{name}==" in lock, name


def test_the_shipped_workload_is_small() -> None:
    folder = ROOT / "suites" / "workloads" / "digits"
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 300_000
