"""The demo on this machine's real processor and on virtual devices."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.alone
def test_the_demo_finds_what_is_planted_on_every_device(tmp_path: Path) -> None:
    shutil.copy(ROOT / "inventory.yaml", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "farm.cli", "demo", "--json"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    document = json.loads(done.stdout)
    gates = {gate["candidate"]: gate for gate in document["gates"]}
    told = json.dumps(document, indent=1)
    assert document["schema"] == "farm.demo/1"
    assert {name: gate["verdict"] for name, gate in gates.items()} == {
        "int8_recalibrated": "PASS",
        "int8_ruined": "FAIL",
        "int8_slow": "FAIL",
    }, told
    for name, metric in (("int8_ruined", "accuracy.top1"), ("int8_slow", "latency.p50")):
        failed = [c for c in gates[name]["cells"] if c["gate"] and c["verdict"] == "FAIL"]
        assert {cell["metric"] for cell in failed} == {metric}, told
        assert {cell["device_type"] for cell in failed} == {
            "this-machine", "virtual-phone", "virtual-board", "virtual-camera",
        }, told  # fmt: skip
        assert [c["simulated"] for c in failed if c["device_type"] == "this-machine"] == [False]
    assert done.returncode == 0, told
