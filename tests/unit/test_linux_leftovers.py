"""Strays are ended whatever they did to get away, others are left alone; kernel messages."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drivers.platforms.linux_leftovers import MAX_BYTES, MAX_LINES, recent
from tests.unit.test_linux_trees import SHELLS, MakeBoard, board_maker, rk3588

GONE = 999_999_999


@pytest.fixture
def platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: Callable[[str], None]
) -> MakeBoard:
    return board_maker(tmp_path, monkeypatch, lacks)


class Runs:
    """Folders of runs with real processes in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, script: str = "sleep 600", *, leads: bool = True) -> int:
        """A process that works in a run's folder; it leads a group unless told otherwise."""
        place = self.folder / name
        place.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen(["sh", "-c", script], cwd=place, start_new_session=leads)
        self.processes.append(process)
        return process.pid

    def claim(self, name: str, pid: int, *, file: str = "pid", began: str = "") -> None:
        """Write a process and its beginning into a run's folder."""
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / name / file).write_text(f"{pid} {began or _began(pid)}\n")

    def ended(self, pid: int) -> bool:
        for process in self.processes:
            process.poll()
        return _began(pid) == ""


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    made = Runs(tmp_path / "farm" / "runs")
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("shell", SHELLS)
class TestSweep:
    def test_a_run_on_a_board_has_no_owner_and_is_a_stray(
        self, shell: str, tmp_path: Path, platform: MakeBoard, runs: Runs
    ) -> None:
        pid = runs.start("a run")
        runs.claim("a run", pid)
        store = tmp_path / "farm" / "store"
        store.mkdir(parents=True)
        for name in ("half.part", "whole"):
            (store / name).write_text("x")
        (tmp_path / "farm" / "restore.part").write_text("x")
        assert platform(rk3588(tmp_path), shell).sweep() == ("a run",)
        _until(lambda: runs.ended(pid))
        assert list(runs.folder.iterdir()) == []
        assert [path.name for path in store.iterdir()] == ["whole"]
        assert not (tmp_path / "farm" / "restore.part").exists()

    def test_children_that_left_the_group_are_found_by_where_they_work(
        self, shell: str, tmp_path: Path, platform: MakeBoard, runs: Runs
    ) -> None:
        leader = runs.start("one", "setsid sleep 600 & echo $! >child; wait")
        runs.claim("one", leader)
        (runs.folder / "two" / "deep").mkdir(parents=True)
        orphan = runs.start("two/deep")  # its leader is dead and has left no number
        elsewhere = runs.start("../other")
        child_file = runs.folder / "one" / "child"
        _until(lambda: child_file.exists() and child_file.read_text().strip())
        child = int(child_file.read_text())
        assert platform(rk3588(tmp_path), shell).sweep() == ("one", "two")
        for pid in (leader, child, orphan):
            _until(lambda pid=pid: runs.ended(pid))  # type: ignore[misc]
        assert not runs.ended(elsewhere)
        assert list(runs.folder.iterdir()) == []

    def test_a_number_that_is_used_again_is_left_alone(
        self, shell: str, tmp_path: Path, platform: MakeBoard, runs: Runs
    ) -> None:
        innocent = runs.start("../other")
        runs.claim("old", innocent, began="1")
        for name, text in (("empty", ""), ("torn", "12"), ("garbage", "x y z\n"), ("no", "\n")):
            (runs.folder / name).mkdir()
            (runs.folder / name / "pid").write_text(text)
            (runs.folder / name / "owner").write_text(text)
        assert platform(rk3588(tmp_path), shell).sweep() == ()
        assert not runs.ended(innocent)
        assert list(runs.folder.iterdir()) == []

    def test_the_run_of_a_controller_that_lives_is_left_alone(
        self, shell: str, tmp_path: Path, platform: MakeBoard, runs: Runs
    ) -> None:
        pid = runs.start("its")
        runs.claim("its", pid)
        runs.claim("its", os.getppid(), file="owner")
        mine = runs.start("mine")
        runs.claim("mine", mine)
        runs.claim("mine", os.getpid(), file="owner")
        dead = runs.start("dead")
        runs.claim("dead", dead)
        runs.claim("dead", GONE, file="owner", began="5")
        assert platform(rk3588(tmp_path), shell).sweep() == ("dead", "mine")
        assert not runs.ended(pid)
        assert [path.name for path in runs.folder.iterdir()] == ["its"]

    def test_no_folder_is_no_error(self, shell: str, tmp_path: Path, platform: MakeBoard) -> None:
        assert platform(rk3588(tmp_path), shell).sweep() == ()


class TestEvidence:
    @pytest.mark.parametrize("shell", SHELLS)
    def test_messages_come_from_whatever_may_be_asked(
        self, shell: str, tmp_path: Path, platform: MakeBoard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        board = platform(rk3588(tmp_path), shell)
        tools = tmp_path / "applets"
        tools.mkdir(exist_ok=True)
        now = float(Path("/proc/uptime").read_text().split()[0])
        late = f"[{now - 1:.6f}] Out of memory: Killed process 42 (python3)"
        early = f"[{now - 500:12.6f}] eth0: link up"
        monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
        _tool(tools, "dmesg", f"echo '{early}'; echo '{late}'")
        _tool(tools, "journalctl", "echo no; exit 1")
        (evidence,) = board.evidence(60)
        assert (evidence.name, evidence.text) == ("kernel", late)
        _tool(tools, "dmesg", "echo 'read kernel buffer failed' >&2; exit 1")
        _tool(tools, "journalctl", f"echo '{late} again'")
        (evidence,) = board.evidence(60)
        assert evidence.text == f"{late} again"
        _tool(tools, "journalctl", "exit 1")
        assert board.evidence(60) == ()

    def test_the_window_and_lines_that_go_on(self) -> None:
        told = "[100.50]\n[   10.000000] old\n\tgoes on\n"
        told += "<6>[   96.000000] new\n\tgoes on too\n[97.1] x"
        assert recent(told, 1.0) == "<6>[   96.000000] new\n\tgoes on too\n[97.1] x"
        assert recent(told, 1e9).startswith("[   10.000000] old")

    @pytest.mark.parametrize("told", ["", "\n", "garbage\n[1.0] x", "[1.0]", "[1.0]\nno stamp"])
    def test_what_cannot_be_read_is_nothing(self, told: str) -> None:
        assert recent(told, 10.0) == ""

    def test_it_is_bounded_and_keeps_the_latest(self) -> None:
        many = "[1.00]\n" + "\n".join(f"[0.{n:06d}] m" for n in range(999))
        assert recent(many, 10.0).splitlines()[-1] == "[0.000998] m"
        assert len(recent(many, 10.0).splitlines()) == MAX_LINES
        long = "[1.00]\n" + "\n".join("[0.1] " + "ü" * 500 for _ in range(100))
        assert len(recent(long, 10.0).encode()) <= MAX_BYTES


def _tool(folder: Path, name: str, text: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def _began(pid: int) -> str:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
