"""An emulated aarch64 Linux board: a real kernel, a real sshd, and no Python on it.

It needs QEMU and an image that is downloaded, so it is asked for: `make test-board`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import farm
from farm.cli import app
from farm.model import Arm
from farm.record import Outcome
from tests.board.machine import Board, booted

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(
        os.environ.get("FARM_TEST_BOARD") != "1", reason="boots a board: make test-board"
    ),
]


@pytest.fixture(scope="module")
def board() -> Iterator[Board]:
    """One board for all tests here: a boot is dear, and nothing written on it stays anyway."""
    with booted() as running:
        yield running


def _on(board: Board, command: str) -> str:
    """What `command` prints on the board, by the system's own ssh."""
    done = subprocess.run(
        board.ssh(command), check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip()


# The board itself


def test_the_board_is_another_architecture_with_a_real_processor_description(board: Board) -> None:
    assert _on(board, "uname -m") == "aarch64"
    assert "0xd08" in _on(board, "cat /proc/cpuinfo")  # Cortex-A72


def test_the_board_has_no_python(board: Board) -> None:
    assert _on(board, "command -v python3 || echo none") == "none"


@pytest.mark.parametrize("library", ["libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1"])
def test_the_board_has_what_onnx_runtime_links_to(board: Board, library: str) -> None:
    assert _on(board, f"ls /lib/aarch64-linux-gnu/{library}")


# The farm on the board


@pytest.fixture
def lab(board: Board, tmp_path: Path) -> Path:
    """An inventory with the board, marked as what it is: emulated."""
    path = tmp_path / "inventory.yaml"
    path.write_text(
        "schema: farm.inventory/1\ndevices:\n  emulated:\n    type: qemu-aarch64\n"
        f"    address: ssh://{board.user}@{board.host}:{board.port}\n"
        f"    host_key: {board.fingerprint}\n    key: {board.key}\n    simulated: true\n"
    )
    return path


def test_it_introduces_itself_and_the_doctor_finds_a_runtime(lab: Path, tmp_path: Path) -> None:
    text = lab.read_text()
    pinned = next(line for line in text.splitlines() if "host_key" in line)
    lab.write_text(text.replace(pinned + "\n", ""))
    done = CliRunner().invoke(app, ["enroll", "emulated", "--yes", "--inventory", str(lab)])
    assert done.exit_code == 0, done.output
    assert pinned.split()[1] in lab.read_text()
    store = ["--store", str(tmp_path / "none")]
    told = CliRunner().invoke(app, ["doctor", "emulated", "--inventory", str(lab), *store])
    assert told.exit_code == 0, told.output
    assert "ort_native with cpu" in told.output


def test_models_answer_there_as_they_do_here(
    lab: Path, digits: Path, suite: Callable[..., Path], tmp_path: Path
) -> None:
    summary = farm.run(
        str(suite("accuracy, latency, coldstart")), model=digits / "int8.onnx", inventory=lab,
        store=tmp_path / "store",
    )  # fmt: skip
    (result,) = summary.results
    assert result.outcome is Outcome.COMPLETED, result.error
    assert result.simulated
    facts = {fact.name: fact.value for fact in result.environment}
    assert facts["machine"] == "aarch64"
    here = farm.run(
        str(suite("accuracy")), model=digits / "int8.onnx", devices=["local"],
        inventory=_local(tmp_path), store=tmp_path / "store",
    )  # fmt: skip
    there, local = (r.summary(Arm.CANDIDATE).correct for r in (result, *here.results))
    assert (there == local).all()
    assert len(there) == 900


def _local(folder: Path) -> Path:
    path = folder / "local.yaml"
    path.write_text(
        "schema: farm.inventory/1\ndevices:\n  local: {type: pc, address: 'local://'}\n"
    )
    return path
