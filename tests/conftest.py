"""What every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "suites" / "workloads" / "digits"


@pytest.fixture(autouse=True)
def _private_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices of a test keep their files in the test's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def digits() -> Path:
    """The shipped workload."""
    return DIGITS


@pytest.fixture
def few(digits: Path, tmp_path: Path) -> Path:
    """The shipped workload, but only its first thirty items."""
    folder = tmp_path / "few"
    folder.mkdir()
    np.savez(folder / "inputs.npz", image=np.load(digits / "inputs.npz")["image"][:30])
    np.save(folder / "labels.npy", np.load(digits / "labels.npy")[:30])
    (folder / "int8.onnx").write_bytes((digits / "int8.onnx").read_bytes())
    (folder / "workload.yaml").write_text(
        "schema: farm.workload/1\nname: few\ninputs: inputs.npz\nlabels: labels.npy\n"
        "metric: accuracy.top1\nmodels:\n  onnx: int8.onnx\n"
    )
    return folder


@pytest.fixture
def inventory(tmp_path: Path) -> Callable[..., Path]:
    """Writes an inventory from device names and addresses."""

    def write(**addresses: str) -> Path:
        lines = ["schema: farm.inventory/1", "devices:"]
        for name, address in addresses.items():
            lines += [f"  {name}:", f"    type: {name}-type", f"    address: {address}"]
        path = tmp_path / "inventory.yaml"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


@pytest.fixture
def suite(tmp_path: Path) -> Callable[..., Path]:
    """Writes a suite with short windows, and a policy beside it."""

    def write(measure: str = "latency", *, workload: bool = True, extra: str = "") -> Path:
        path = tmp_path / "quick.yaml"
        path.write_text(
            "schema: farm.suite/1\nname: quick\ndescription: Short windows.\n"
            + (f"workload: {DIGITS}\n" if workload else "")
            + f"measure: [{measure}]\nrepeats: 2\n{extra}"
            "load: {min_duration_s: 0.01, min_queries: 70, warmup_s: 0.01}\n"
        )
        gates = {"latency": ("latency.p50", "15 %"), "accuracy": ("accuracy.top1", "2 points")}
        rules = "".join(
            f"  {metric}: {{gate: true, margin: {margin}}}\n"
            for family, (metric, margin) in gates.items()
            if family in measure
        )
        policy = f"schema: farm.policy/1\nalpha: 0.05\nblocks: 5\nmetrics:\n{rules}"
        path.with_suffix(".policy.yaml").write_text(policy)
        return path

    return write


@pytest.fixture
def lacks() -> Callable[[str], None]:
    """Skips where a part of the system is missing, with the fix; in CI that is a failure."""

    def lack(message: str) -> None:
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)

    return lack
