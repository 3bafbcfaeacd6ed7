"""Settings are made, told and undone, with what undoes them kept on the board."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drivers.platforms import linux_settings
from drivers.platforms.linux import LinuxPlatform
from drivers.platforms.linux_settings import (
    PREPARE,
    Settings,
    prepared_lines,
    read_settings,
    restored_names,
)
from farm.errors import ConfigError
from farm.model import Address, Device
from tests.unit.test_linux_trees import (
    CPU,
    SHELLS,
    Board,
    MakeBoard,
    Tree,
    board_maker,
    raspberry_pi_5,
    rk3588,
)

NOBODY = 65534


@pytest.fixture
def platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: Callable[[str], None]
) -> MakeBoard:
    return board_maker(tmp_path, monkeypatch, lacks)


@pytest.mark.parametrize("shell", SHELLS)
class TestEndToEnd:
    def test_what_was_set_is_put_back(
        self, shell: str, tmp_path: Path, platform: MakeBoard
    ) -> None:
        tree = rk3588(tmp_path)
        tree.write(f"{CPU}/cpufreq/policy4/scaling_governor", "ondemand")
        before = tree.tuned()
        board = platform(tree, shell, governor="performance", max_khz="1800000")
        assert board.prepare() == (
            "governor: performance while measuring, schedutil before",
            "governor: performance while measuring, ondemand before",
            "max_khz: 1800000 while measuring, 2256000 before",
            "max_khz: 1800000 while measuring, 2304000 before",
        )
        assert {text.strip() for text in tree.tuned().values()} == {"performance", "1800000"}
        assert board.restore() == ("governor", "max_khz")
        assert tree.tuned() == before
        assert _kept(tmp_path) == []
        assert board.restore() == ()

    def test_nothing_is_set_that_nobody_asked_for(
        self, shell: str, tmp_path: Path, platform: MakeBoard
    ) -> None:
        tree = rk3588(tmp_path)
        before = tree.tuned()
        board = platform(tree, shell, cpus="4-7")
        assert board.prepare() == ()
        assert board.restore() == ()
        assert tree.tuned() == before
        assert _kept(tmp_path) == []

    def test_what_is_set_already_is_left_alone(
        self, shell: str, tmp_path: Path, platform: MakeBoard
    ) -> None:
        board = platform(raspberry_pi_5(tmp_path), shell, governor="ondemand")
        assert board.prepare() == ()
        assert _kept(tmp_path) == []

    def test_a_second_prepare_keeps_the_first_original(
        self, shell: str, tmp_path: Path, platform: MakeBoard
    ) -> None:
        tree = rk3588(tmp_path)
        before = tree.tuned()
        platform(tree, shell, governor="performance").prepare()
        platform(tree, shell, governor="powersave", max_khz="1008000").prepare()
        assert {text.strip() for text in tree.tuned().values()} == {"powersave", "1008000"}
        assert platform(tree, shell).restore() == ("governor", "max_khz")
        assert tree.tuned() == before

    def test_after_a_reboot_there_is_nothing_to_undo(
        self, shell: str, tmp_path: Path, platform: MakeBoard
    ) -> None:
        tree = rk3588(tmp_path)
        board = platform(tree, shell, governor="performance")
        board.prepare()
        tree.write("proc/sys/kernel/random/boot_id", "another")
        tree.write(f"{CPU}/cpufreq/policy0/scaling_governor", "interactive")  # set after the boot
        after = tree.tuned()
        assert board.restore() == ()
        assert tree.tuned() == after
        assert _kept(tmp_path) == []

    def test_what_somebody_else_changed_meanwhile_goes_back_too(
        self, shell: str, tmp_path: Path, platform: MakeBoard
    ) -> None:
        tree = rk3588(tmp_path)
        before = tree.tuned()
        board = platform(tree, shell, governor="performance")
        board.prepare()
        tree.write(f"{CPU}/cpufreq/policy0/scaling_governor", "userspace")
        assert board.restore() == ("governor",)
        assert tree.tuned() == before

    def test_what_cannot_be_put_back_is_tried_again(
        self, shell: str, tmp_path: Path, platform: MakeBoard
    ) -> None:
        tree = rk3588(tmp_path)
        before = tree.tuned()
        board = platform(tree, shell, governor="performance")
        board.prepare()
        policy = tree.folder / CPU / "cpufreq" / "policy6"
        policy.rename(tmp_path / "away")  # its cores went offline
        assert board.restore() == (
            "governor",
            "governor of policy6 (it cannot be put back, gone stays)",
        )
        assert _kept(tmp_path) == ["restore"]
        (tmp_path / "away").rename(policy)
        assert board.restore() == ("governor",)
        assert tree.tuned() == before
        assert _kept(tmp_path) == []

    def test_a_file_that_others_wrote_into_changes_no_other_file(
        self, shell: str, tmp_path: Path, platform: MakeBoard
    ) -> None:
        tree = rk3588(tmp_path)
        board = platform(tree, shell, governor="performance")
        board.prepare()
        target = tree.write("precious", "untouched")
        with (tmp_path / "farm" / "restore").open("a") as file:
            file.write("policy0/../../../../../.. precious pwned\npolicy0 ../../precious pwned\n")
            file.write("policy0\n\npolicyx scaling_governor x\n")
        board.restore()
        assert target.read_text() == "untouched\n"
        assert _kept(tmp_path) == []

    def test_a_board_without_frequencies(
        self, shell: str, tmp_path: Path, platform: MakeBoard
    ) -> None:
        board = platform(Tree(tmp_path), shell, governor="performance")
        assert board.prepare() == (
            "governor: the device has no frequency scaling, performance cannot be set",
        )
        assert board.restore() == ()
        assert _kept(tmp_path) == []

    def test_nothing_is_set_if_what_undoes_it_cannot_be_kept(
        self, shell: str, tmp_path: Path, platform: MakeBoard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tree = rk3588(tmp_path)
        before = tree.tuned()
        board = platform(tree, shell, governor="performance")
        full = "mv() { return 1; }\n"  # as a full disk would refuse it
        monkeypatch.setattr(linux_settings, "PREPARE", full + PREPARE)
        (line,) = board.prepare()
        assert "nothing is set" in line
        assert tree.tuned() == before
        assert _kept(tmp_path) == []

    def test_a_script_that_nobody_waits_for_is_ended_first(
        self, shell: str, tmp_path: Path, platform: MakeBoard
    ) -> None:
        board = platform(rk3588(tmp_path), shell)
        sleeper = subprocess.Popen(["sleep", "600"])
        began = Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(")")[2].split()[19]
        tuning = tmp_path / "farm" / "tuning"
        tuning.write_text(f"{sleeper.pid} 1\n")  # the number was used again
        board.restore()
        assert sleeper.poll() is None
        tuning.write_text(f"{sleeper.pid} {began}\n")
        board.restore()
        assert sleeper.wait(30) == -9
        for torn in ("", "\n", "x y\n", f"{os.getpid()}\n"):
            tuning.write_text(torn)
            assert board.restore() == ()
        assert _kept(tmp_path) == []


class TestWithoutRights:
    """As an ordinary user, whose shell owns files that it may not write."""

    @pytest.fixture
    def place(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(prefix="farm-", dir="/tmp"))
        folder.chmod(0o755)
        yield folder
        shutil.rmtree(folder)

    @pytest.fixture
    def user(
        self, place: Path, monkeypatch: pytest.MonkeyPatch, lacks: Callable[[str], None]
    ) -> Callable[[Tree], LinuxPlatform]:
        def make(tree: Tree) -> LinuxPlatform:
            monkeypatch.setenv("FARM_TREE", str(tree.folder))
            words = ("dash",)
            (place / "farm").mkdir()
            for path in (*tree.folder.glob(f"{CPU}/cpufreq/policy*/scaling_[gm]*"),):
                path.chmod(0o444)
                if os.geteuid() == 0:
                    os.chown(path, NOBODY, NOBODY)
            if os.geteuid() == 0:
                if not shutil.which("setpriv"):
                    lacks("no setpriv: apt-get install util-linux")
                os.chown(place / "farm", NOBODY, NOBODY)
                rights = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
                words = ("setpriv", *rights, "dash")
            return LinuxPlatform(Board(place, words, governor="performance"))

        return make

    def test_what_is_not_allowed_is_a_line_for_people(
        self,
        place: Path,
        user: Callable[[Tree], LinuxPlatform],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        tree = raspberry_pi_5(place)
        self._sudo(place, monkeypatch, "exit 1")
        before = tree.tuned()
        board = user(tree)
        assert board.prepare() == (
            "governor: not allowed to set performance, it stays ondemand: expect noise",
        )
        assert board.restore() == ()
        assert tree.tuned() == before

    def test_sudo_without_a_password_is_used(
        self,
        place: Path,
        user: Callable[[Tree], LinuxPlatform],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        tree = raspberry_pi_5(place)
        before = tree.tuned()
        script = '[ "$1" = -n ] || exit 9; shift; [ "$1" = tee ] && chmod u+w "$2"; "$@"'
        self._sudo(place, monkeypatch, f'{script}; done=$?; chmod a-w "$2" 2>/dev/null; exit $done')
        board = user(tree)
        assert board.prepare() == ("governor: performance while measuring, ondemand before",)
        assert board.restore() == ("governor",)
        assert tree.tuned() == before

    def _sudo(self, place: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        tools = place / "tools"
        tools.mkdir()
        (tools / "sudo").write_text(f"#!/bin/sh\n{text}\n")
        (tools / "sudo").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")


def test_a_script_whose_starter_is_gone_changes_nothing(
    tmp_path: Path, platform: MakeBoard
) -> None:
    tree = rk3588(tmp_path)
    before = tree.tuned()
    platform(tree)
    orphan = PREPARE.replace('= "$PPID" ]', '= "$((PPID + 1))" ]')  # it has another parent now
    assert orphan != PREPARE
    command = ["dash", "-c", orphan, "farm", str(tmp_path / "farm"), "scaling_governor=performance"]
    subprocess.run(command, check=True)
    assert tree.tuned() == before


class TestOptions:
    def test_they_are_read(self) -> None:
        settings = self._read(governor="performance", max_khz="1800000", cpus="0, 2-3")
        assert settings == Settings(governor="performance", max_khz="1800000", cores=(0, 2, 3))
        assert self._read() == Settings()

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("governor", "per formance"),
            ("governor", "$(id)"),
            ("max_khz", "fast"),
            ("max_khz", "0"),
            ("max_khz", "1.8GHz"),
            ("cpus", "two"),
            ("cpus", "3-"),
            ("cpus", "3-2"),
            ("cpus", "0-9999999"),
            ("cpus", ","),
        ],
    )
    def test_what_can_never_be_set_is_refused(self, name: str, value: str) -> None:
        with pytest.raises(ConfigError, match=name) as caught:
            self._read(**{name: value})
        assert caught.value.hint

    def _read(self, **options: str) -> Settings:
        address = Address.parse("local://")
        device = Device(name="d", type="t", address=address, options=tuple(options.items()))
        return read_settings(device)


class TestLines:
    def test_what_the_kernel_made_of_a_value(self) -> None:
        told = "refused scaling_max_freq policy0 2400000 1992000\n"
        assert prepared_lines(Settings(max_khz="2000000"), told) == (
            "max_khz: 1992000 while measuring, which is as near to 2000000 as it goes; "
            "2400000 before",
        )

    def test_what_the_kernel_refuses(self) -> None:
        told = "refused scaling_governor policy0 schedutil schedutil\n"
        assert prepared_lines(Settings(governor="warp"), told) == (
            "governor: the device does not take warp, it stays schedutil: expect noise",
        )

    def test_what_a_login_shell_says_is_no_setting(self) -> None:
        assert restored_names("Welcome\n\nback home\nback scaling_governor policy0 x\n") == (
            "governor",
        )


def _kept(place: Path) -> list[str]:
    return sorted(path.name for path in (place / "farm").iterdir())
