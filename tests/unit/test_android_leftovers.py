"""Strays on a phone are ended, and what it wrote down in the last seconds is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.test_android_phones import SHELLS, MakePhone, Phone, phone_maker
from tests.unit.test_linux_leftovers import Runs


@pytest.fixture
def platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: Callable[[str], None]
) -> MakePhone:
    return phone_maker(tmp_path, monkeypatch, lacks)


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    made = Runs(tmp_path / "farm" / "runs")
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("shell", SHELLS)
def test_strays_are_ended_with_what_left_their_group(
    shell: str, tmp_path: Path, platform: MakePhone, runs: Runs
) -> None:
    board = platform(Phone(tmp_path), shell)
    leader = runs.start("one *")
    runs.claim("one *", leader)
    (runs.folder / "two" / "deep").mkdir(parents=True)
    orphan = runs.start("two/deep")  # its leader is dead and has left no number
    elsewhere = runs.start("../other")
    (tmp_path / "farm" / "restore-phone.77.part").write_text("x")
    assert board.sweep() == ("one *", "two")
    deadline = time.monotonic() + 30
    while not (runs.ended(leader) and runs.ended(orphan)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not runs.ended(elsewhere)
    assert list(runs.folder.iterdir()) == []
    assert not (tmp_path / "farm" / "restore-phone.77.part").exists()
    assert board.sweep() == ()


@pytest.mark.parametrize("shell", SHELLS)
class TestEvidence:
    def test_the_log_of_the_last_seconds(
        self, shell: str, tmp_path: Path, platform: MakePhone
    ) -> None:
        phone = Phone(tmp_path)
        now = int(time.time())
        phone.tell("logcat", f"{now - 5000}.000  1  1 I a: old\n{now}.250  1  1 E a: new")
        told = {e.name: e.text for e in platform(phone, shell).evidence(60.0)}
        assert told["logcat"].endswith("E a: new")
        assert "old" not in told["logcat"]

    def test_a_silent_phone_gives_none(
        self, shell: str, tmp_path: Path, platform: MakePhone
    ) -> None:
        phone = Phone(tmp_path)
        phone.tell("logcat", "1.000  1  1 I a: old")
        assert "logcat" not in {e.name for e in platform(phone, shell).evidence(60.0)}
