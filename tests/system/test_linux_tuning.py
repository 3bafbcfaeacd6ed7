"""A controller that is killed at any moment leaves a board that the next session puts right."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.test_linux_trees import MakeBoard, board_maker, rk3588

SEED = 20_250_211
KILLS = 15
LONGEST_S = 0.12

# Sessions without end, as short as they can be: every moment of one comes up.
CONTROLLER = """
import sys
from drivers.platforms.linux import LinuxPlatform
from drivers.transports.local import LocalTransport
from farm.model import Address, Device

address = Address.parse(f"local://?root={sys.argv[1]}")
options = (("governor", "performance"), ("max_khz", "1008000"))
device = Device(name="d", type="t", address=address, options=options)
platform = LinuxPlatform(LocalTransport(device))
print("ready", flush=True)
while True:
    platform.sweep()
    platform.restore()
    platform.prepare()
"""


@pytest.fixture
def platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: Callable[[str], None]
) -> MakeBoard:
    return board_maker(tmp_path, monkeypatch, lacks)


def test_a_kill_at_any_moment_is_undone(tmp_path: Path, platform: MakeBoard) -> None:
    tree = rk3588(tmp_path)
    before = tree.tuned()
    board = platform(tree)
    dice = random.Random(SEED)
    changed = 0
    for _ in range(KILLS):
        command = [sys.executable, "-c", CONTROLLER, str(tmp_path / "farm")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        delay_s = dice.uniform(0.0, LONGEST_S)
        time.sleep(delay_s)
        process.kill()
        process.communicate()
        changed += tree.tuned() != before
        board.sweep()
        board.restore()
        moment = f"seed {SEED}, killed after {delay_s:.4f} s"
        assert tree.tuned() == before, moment
    while list((tmp_path / "farm").iterdir()):  # what the last one's scripts had begun
        board.sweep()
        assert board.restore() == ()
    assert tree.tuned() == before
    assert changed, "no kill came while something was changed: the test shows nothing"
