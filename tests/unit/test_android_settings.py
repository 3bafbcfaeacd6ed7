"""Settings of a phone are made, told and undone, with what undoes them kept on the phone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from drivers.platforms import android_settings
from drivers.platforms.android import AndroidPlatform
from drivers.platforms.android_settings import (
    PREPARE,
    prepared_lines,
    read_phone_settings,
    restored_names,
)
from farm.errors import ConfigError
from farm.model import Address, Device
from tests.unit.test_android_phones import SHELLS, MakePhone, Phone, phone_maker, phone_words

STAY_ON = "settings/global/stay_on_while_plugged_in"
AWAKE = "stay_on: the screen stays on while measuring, 0 before"
NO_DOZE = "doze: off while measuring"


@pytest.fixture
def platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: Callable[[str], None]
) -> MakePhone:
    return phone_maker(tmp_path, monkeypatch, lacks)


def _fixed(board: AndroidPlatform) -> str:
    return {fact.name: fact.value for fact in board.facts()}["fixed_performance"]


@pytest.mark.parametrize("shell", SHELLS)
class TestEndToEnd:
    def test_what_was_set_is_put_back(
        self, shell: str, tmp_path: Path, platform: MakePhone
    ) -> None:
        phone = Phone(tmp_path)
        board = platform(phone, shell, fixed_performance="yes")
        assert board.prepare() == (
            AWAKE,
            NO_DOZE,
            "fixed_performance: on while measuring, at speeds that the phone can hold",
        )
        assert phone.told(STAY_ON) == "7"
        assert phone.told("doze") == "disabled"
        assert phone.told("fixed_performance") == "true"
        assert phone.told("screen") == "on"
        assert phone.kept() == ["restore-phone"]
        assert _fixed(board) == "on"
        assert board.restore() == ("stay_on", "doze", "fixed_performance")
        assert phone.told(STAY_ON) == "0"
        assert phone.told("doze") == "enabled"
        assert phone.told("fixed_performance") == "false"
        assert _fixed(board) == "off"
        assert phone.kept() == []
        assert board.restore() == ()

    def test_what_was_never_set_is_deleted_again(
        self, shell: str, tmp_path: Path, platform: MakePhone
    ) -> None:
        phone = Phone(tmp_path)
        (phone.state / STAY_ON).unlink()
        board = platform(phone, shell)
        assert "unset before" in board.prepare()[0]
        assert phone.told(STAY_ON) == "7"
        assert board.restore() == ("stay_on", "doze")
        assert not (phone.state / STAY_ON).exists()

    @pytest.mark.parametrize("value", ["7", "15"])
    def test_what_is_set_already_is_left_alone(
        self, shell: str, value: str, tmp_path: Path, platform: MakePhone
    ) -> None:
        phone = Phone(tmp_path)
        phone.tell(STAY_ON, value)
        phone.tell("doze", "disabled")
        board = platform(phone, shell)
        assert board.prepare() == ()
        assert phone.kept() == []
        assert board.restore() == ()
        assert phone.told(STAY_ON) == value
        assert phone.told("doze") == "disabled"

    def test_a_second_prepare_keeps_the_first_original(
        self, shell: str, tmp_path: Path, platform: MakePhone
    ) -> None:
        phone = Phone(tmp_path)
        phone.tell(STAY_ON, "3")
        platform(phone, shell).prepare()
        platform(phone, shell, fixed_performance="yes").prepare()
        assert platform(phone, shell).restore() == ("stay_on", "doze", "fixed_performance")
        assert phone.told(STAY_ON) == "3"
        assert phone.told("doze") == "enabled"

    def test_a_reboot_undoes_all_but_what_the_system_remembers(
        self, shell: str, tmp_path: Path, platform: MakePhone
    ) -> None:
        phone = Phone(tmp_path)
        platform(phone, shell, fixed_performance="yes").prepare()
        phone.write("proc/sys/kernel/random/boot_id", "another")
        phone.tell("doze", "disabled")  # somebody's wish, after the boot
        phone.tell("fixed_performance", "true")
        assert platform(phone, shell).restore() == ("stay_on",)
        assert phone.told(STAY_ON) == "0"
        assert phone.told("doze") == "disabled"
        assert phone.told("fixed_performance") == "true"
        assert phone.kept() == []

    def test_a_prepare_after_a_reboot_keeps_what_the_system_remembers(
        self, shell: str, tmp_path: Path, platform: MakePhone
    ) -> None:
        phone = Phone(tmp_path)
        platform(phone, shell, fixed_performance="yes").prepare()
        phone.write("proc/sys/kernel/random/boot_id", "another")
        phone.tell("doze", "disabled")
        assert platform(phone, shell).prepare() == ()
        assert (tmp_path / "farm/restore-phone").read_text() == "boot another\nstay_on 0\n"
        assert platform(phone, shell).restore() == ("stay_on",)

    def test_a_mode_that_a_phone_lacks_is_told_and_recorded(
        self, shell: str, tmp_path: Path, platform: MakePhone
    ) -> None:
        phone = Phone(tmp_path)
        phone.tell("fixed_performance", "unsupported")
        board = platform(phone, shell, fixed_performance="yes")
        assert board.prepare()[-1] == (
            "fixed_performance: not supported by this phone, it runs without"
        )
        assert _fixed(board) == "unsupported"
        assert board.restore() == ("stay_on", "doze")
        assert board.restore() == ()

    def test_what_a_phone_does_not_take_is_told(
        self, shell: str, tmp_path: Path, platform: MakePhone
    ) -> None:
        phone = Phone(tmp_path)
        (phone.tools / "settings").write_text(
            '#!/bin/sh\n[ $1 = get ] && echo 0 || echo "Security exception: no" >&2\n'
        )
        dumpsys = (phone.tools / "dumpsys").read_text()
        (phone.tools / "dumpsys").write_text(dumpsys.replace('"$2d" >', '"$doze" >'))
        board = platform(phone, shell)
        lines = board.prepare()
        assert [line.partition(":")[0] for line in lines] == ["stay_on", "doze"]
        assert all("expect noise" in line for line in lines)
        assert board.restore() == ()
        assert phone.kept() == []

    def test_what_cannot_be_put_back_is_tried_again(
        self, shell: str, tmp_path: Path, platform: MakePhone
    ) -> None:
        phone = Phone(tmp_path)
        board = platform(phone, shell)
        board.prepare()
        settings = phone.tools / "settings"
        settings.rename(tmp_path / "away")
        assert board.restore() == ("stay_on (it cannot be put back)", "doze")
        assert phone.kept() == ["restore-phone"]
        (tmp_path / "away").rename(settings)
        assert board.restore() == ("stay_on",)
        assert phone.told(STAY_ON) == "0"
        assert phone.kept() == []

    def test_a_file_that_others_wrote_into_sets_nothing_else(
        self, shell: str, tmp_path: Path, platform: MakePhone
    ) -> None:
        phone = Phone(tmp_path)
        board = platform(phone, shell)
        board.prepare()
        with (tmp_path / "farm/restore-phone").open("a") as file:
            file.write("stay_on $(touch pwned)\nstay_on\nstay_on 99\ndoze 0\nadb_enabled 0\n\n x\n")
        assert board.restore() == ("stay_on", "doze")
        assert phone.told(STAY_ON) == "0"
        assert not list(tmp_path.rglob("pwned"))

    def test_frequencies_are_set_where_the_shell_is_root(
        self, shell: str, tmp_path: Path, platform: MakePhone
    ) -> None:
        phone = Phone(tmp_path)
        before = phone.tuned()
        board = platform(phone, shell, governor="performance", max_khz="1100000")
        assert "governor: performance while measuring, sched_pixel before" in board.prepare()
        assert {text.strip() for text in phone.tuned().values()} == {"performance", "1100000"}
        assert board.restore() == ("stay_on", "doze", "governor", "max_khz")
        assert phone.tuned() == before
        assert phone.kept() == []

    def test_nothing_is_set_if_what_undoes_it_cannot_be_kept(
        self, shell: str, tmp_path: Path, platform: MakePhone, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        phone = Phone(tmp_path)
        board = platform(phone, shell, fixed_performance="yes")
        full = "mv() { return 1; }\n"  # as a full disk would refuse it
        monkeypatch.setattr(android_settings, "PREPARE", full + PREPARE)
        (line,) = board.prepare()
        assert "nothing is set" in line
        assert phone.told(STAY_ON) == "0"
        assert phone.told("doze") == "enabled"
        assert phone.told("fixed_performance") == "false"
        assert phone.kept() == []

    def test_a_script_that_nobody_waits_for_is_ended_first(
        self, shell: str, tmp_path: Path, platform: MakePhone
    ) -> None:
        board = platform(Phone(tmp_path), shell)
        command = ["sh", "-c", "sleep 600 & echo $!; wait"]
        sleeper = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert sleeper.stdout
        child = Path("/proc") / sleeper.stdout.readline().strip()
        began = Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(")")[2].split()[19]
        (tmp_path / "farm").mkdir(exist_ok=True)
        tuning = tmp_path / "farm" / "tuning"
        tuning.write_text(f"{sleeper.pid} {began}\n")
        board.restore()
        assert sleeper.wait(30) == -9
        sleeper.stdout.close()
        assert not child.exists() or "Z" in (child / "stat").read_text()  # nobody may reap it here
        assert not tuning.exists()

    def test_a_script_whose_starter_is_gone_changes_nothing(
        self, shell: str, tmp_path: Path, platform: MakePhone
    ) -> None:
        phone = Phone(tmp_path)
        platform(phone, shell)
        orphan = PREPARE.replace('= "$PPID" ]', '= "$((PPID + 1))" ]')  # it has another parent now
        assert orphan != PREPARE
        words = phone_words(shell, tmp_path, phone)
        command = [*words, "-c", orphan, "farm", str(tmp_path / "farm"), "yes"]
        environment = {"FARM_TREE": str(phone.folder), "PATH": os.environ["PATH"]}
        subprocess.run(command, check=True, env=environment)
        assert phone.told(STAY_ON) == "0"
        assert phone.told("doze") == "enabled"


class TestOptions:
    def test_they_are_read(self) -> None:
        settings = self._read(fixed_performance="yes", cpus="4-7", governor="performance")
        assert settings.fixed_performance
        assert not settings.allow_test_builds
        assert settings.linux.cores == (4, 5, 6, 7)
        assert settings.linux.governor == "performance"
        assert not self._read(fixed_performance="no").fixed_performance
        assert self._read(allow_test_builds="yes").allow_test_builds

    @pytest.mark.parametrize("name", ["fixed_performance", "allow_test_builds"])
    @pytest.mark.parametrize("value", ["true", "Yes", "1", "y", "yes please"])
    def test_what_is_neither_yes_nor_no_is_refused(self, name: str, value: str) -> None:
        with pytest.raises(ConfigError, match=name) as caught:
            self._check(**{name: value})
        assert caught.value.hint == f"write {name}: yes"

    @pytest.mark.parametrize(
        ("name", "value"), [("governor", "$(id)"), ("max_khz", "fast"), ("cpus", "two")]
    )
    def test_what_linux_refuses_is_refused(self, name: str, value: str) -> None:
        with pytest.raises(ConfigError, match=name):
            self._check(**{name: value})

    def _device(self, **options: str) -> Device:
        address = Address.parse("adb://192.0.2.1")
        return Device(name="d", type="t", address=address, options=tuple(options.items()))

    def _read(self, **options: str) -> android_settings.PhoneSettings:
        return read_phone_settings(self._device(**options))

    def _check(self, **options: str) -> None:
        AndroidPlatform.check(self._device(**options))


def test_what_a_shell_says_at_login_is_no_setting() -> None:
    assert restored_names("Welcome\n\nback home\nback doze\n") == ("doze",)
    assert prepared_lines("Welcome\nset sail\nset doze\n") == (NO_DOZE,)
