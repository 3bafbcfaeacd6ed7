"""An emulated aarch64 Linux board: a real kernel, a real sshd, and no Python on it.

It needs QEMU and an image that is downloaded, so it is asked for: `make test-board`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

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
