"""A controller that is killed at any moment leaves a phone that the next session puts right."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.test_android_phones import SEED, MakePhone, Phone, phone_maker

KILLS = 12
LONGEST_S = 0.3

# Sessions without end, as short as they can be: every moment of one comes up.
CONTROLLER = """
import sys
from drivers.platforms.android import AndroidPlatform
from drivers.transports.local import LocalTransport
from farm.model import Address, Device

address = Address.parse(f"local://?root={sys.argv[1]}")
options = (("fixed_performance", "yes"), ("governor", "performance"))
device = Device(name="d", type="t", address=address, options=options)
platform = AndroidPlatform(LocalTransport(device))
print("ready", flush=True)
while True:
    platform.sweep()
    platform.restore()
    platform.prepare()
"""


@pytest.fixture
def platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: Callable[[str], None]
) -> MakePhone:
    return phone_maker(tmp_path, monkeypatch, lacks)


def _set(phone: Phone) -> dict[str, str]:
    """Every setting that may be changed."""
    names = ("settings/global/stay_on_while_plugged_in", "doze", "fixed_performance")
    return {name: phone.told(name) for name in names} | phone.tuned()


def test_a_kill_at_any_moment_is_undone(tmp_path: Path, platform: MakePhone) -> None:
    phone = Phone(tmp_path)
    before = _set(phone)
    board = platform(phone)
    dice = random.Random(SEED)
    environment = {**os.environ, "PATH": f"{phone.tools}{os.pathsep}{os.environ['PATH']}"}
    changed = 0
    for _ in range(KILLS):
        command = [sys.executable, "-c", CONTROLLER, str(tmp_path / "farm")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        delay_s = dice.uniform(0.0, LONGEST_S)
        time.sleep(delay_s)
        process.kill()
        process.communicate()
        changed += _set(phone) != before
        board.sweep()
        board.restore()
        assert _set(phone) == before, f"seed {SEED}, killed after {delay_s:.4f} s"
    while list((tmp_path / "farm").iterdir()):  # what the last one's scripts had begun
        board.sweep()
        assert board.restore() == ()
    assert _set(phone) == before
    assert changed, "no kill came while something was changed: the test shows nothing"
