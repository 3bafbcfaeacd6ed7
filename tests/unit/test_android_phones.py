"""Trees of files and tools that play a phone, and the facts that phones of each kind tell."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from drivers.platforms.android import AndroidPlatform
from drivers.virtual.phone_tools import write_state, write_tools
from farm.protocols import Limits
from tests.unit.test_linux_trees import BOOT, Board, Tree, shell_words

SEED = 20_250_211
SHELLS = ("mksh", "dash", "busybox")
"""mksh has the applets of toybox and nothing else, busybox its own; dash has this machine's."""
PACK = "sys/class/power_supply/battery"
WORDS = (
    "", "garbage", "-", "nan", "inf", "1e999", "$(touch pwned)", "`id`", "* ?", "a=b=c", "%s%n\\c",
    "\x1b[31m red\r\n\n", "9" * 40, "-1", "0x", "two words", "[x]: [y]", "level: 99999999999999999",
)  # fmt: skip
"""What may stand where a number or a word is expected."""


class Phone(Tree):
    """A folder that plays /proc and /sys of a phone, and another with all that its tools tell."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.state, self.tools = folder / "the state", folder / "the tools"
        write_state(self.state, serial="FARM0001")
        write_tools(self.tools, state=str(self.state))
        shutil.rmtree(self.folder / "etc")
        shutil.rmtree(self.folder / "proc/pressure")  # as SELinux has it
        self.cores(["0xd05"] * 4 + ["0xd0b"] * 2 + ["0xd44"] * 2)
        self.policy(range(4), 1803000, governor="sched_pixel")
        self.policy(range(4, 6), 2253000, governor="sched_pixel")
        self.policy(range(6, 8), 2802000, governor="sched_pixel", now=984000)

    def tell(self, name: str, text: str) -> None:
        """Write into the state."""
        path = self.state / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def told(self, name: str) -> str:
        """What stands in the state; empty if nothing does."""
        path = self.state / name
        return path.read_text().strip() if path.exists() else ""

    def set_properties(self, **properties: str) -> None:
        """Properties, with `__` for a dot; an empty one is not there."""
        for name, value in properties.items():
            path = self.state / "props" / name.replace("__", ".")
            if value:
                path.write_text(f"{value}\n")
            else:
                path.unlink()

    def kept(self) -> list[str]:
        """The names in the farm's folder."""
        return sorted(path.name for path in (self.folder.parent / "farm").iterdir())


def phone_words(shell: str, folder: Path, phone: Phone) -> tuple[str, ...]:
    """How to call a shell that has the phone's tools.

    In mksh no script may need a file of its own for a text in it: there is no folder for that.
    """
    if shell == "mksh":
        toybox = shutil.which("toybox")
        assert toybox
        applets = folder / "toys"
        if not applets.exists():
            applets.mkdir()
            names = subprocess.run([toybox], capture_output=True, text=True, check=True)
            for name in names.stdout.split():
                (applets / name).symlink_to(toybox)
        found = f"{phone.tools}{os.pathsep}{applets}"
        program = shutil.which("mksh")
        assert program
        kept = (f"FARM_TREE={phone.folder}", "TMPDIR=/nowhere")
        return ("env", "-i", f"PATH={found}", *kept, program)
    words = shell_words(shell, folder)
    if shell == "busybox":
        applets = folder / "applets"
        path = f"PATH={phone.tools}{os.pathsep}{applets}"
        return tuple(path if word.startswith("PATH=") else word for word in words)
    return ("env", f"PATH={phone.tools}{os.pathsep}{os.environ['PATH']}", *words)


MakePhone = Callable[..., AndroidPlatform]


def phone_maker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: Callable[[str], None]
) -> MakePhone:
    """Makes the platform of a phone, by a shell, with options of the inventory."""

    def make(phone: Phone, shell: str = "dash", **options: str) -> AndroidPlatform:
        for program in {"mksh": ("mksh", "toybox")}.get(shell, (shell,)):
            if not shutil.which(program):
                lacks(f"no {program}: apt-get install {program}")
        monkeypatch.setenv("FARM_TREE", str(phone.folder))
        return AndroidPlatform(Board(tmp_path, phone_words(shell, tmp_path, phone), **options))

    return make


@pytest.fixture
def platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: Callable[[str], None]
) -> MakePhone:
    return phone_maker(tmp_path, monkeypatch, lacks)


def _facts(platform: AndroidPlatform) -> dict[str, str]:
    return {fact.name: fact.value for fact in platform.facts()}


@pytest.mark.parametrize("shell", SHELLS)
class TestFacts:
    def test_a_phone(self, shell: str, tmp_path: Path, platform: MakePhone) -> None:
        phone = Phone(tmp_path)
        fingerprint = "google/shiba/shiba:14/AP1A.240405.002/11480754:user/release-keys"
        phone.set_properties(
            ro__product__model="Pixel 8",
            ro__product__manufacturer="Google",
            ro__soc__manufacturer="Google",
            ro__soc__model="Tensor G3",
            ro__build__fingerprint=fingerprint,
            ro__build__version__release="14",
            ro__build__version__sdk="34",
            ro__build__version__security_patch="2024-04-05",
        )
        phone.write(f"{PACK}/cycle_count", "212")
        phone.write(f"{PACK}/charge_full", "4187000")
        phone.write(f"{PACK}/charge_full_design", "4485000")
        facts = _facts(platform(phone, shell))
        assert facts["serial"] == "FARM0001"
        assert facts["boot_id"] == BOOT
        assert (facts["manufacturer"], facts["model"]) == ("Google", "Pixel 8")
        assert facts["soc"] == "Google Tensor G3"
        assert facts["os"] == "Android 14"
        assert (facts["sdk"], facts["security_patch"]) == ("34", "2024-04-05")
        assert facts["fingerprint"] == fingerprint
        assert facts["abi"] == "arm64-v8a"
        assert facts["cpu"] == "4 x Cortex-A55, 2 x Cortex-A76, 2 x Cortex-X1"
        assert facts["clusters"] == "0-3:1803000,4-5:2253000,6-7:2802000"
        assert facts["governor"] == "sched_pixel"
        assert facts["online"] == "0-7"
        assert facts["memory_kib"] == "8000000"
        assert facts["kernel"] == os.uname().release
        assert facts["battery_health"] == "good"
        assert facts["battery_cycles"] == "212"
        assert facts["battery_capacity_pct"] == "93.4"
        assert facts["fixed_performance"] == "off"
        status = Path("/proc/self/status").read_text().split("Cpus_allowed_list:")[1]
        assert facts["affinity"] == status.split()[0]
        assert "simulated" not in facts

    def test_what_a_phone_hides_is_absent(
        self, shell: str, tmp_path: Path, platform: MakePhone
    ) -> None:
        phone = Phone(tmp_path)
        shutil.rmtree(phone.folder / "sys")
        phone.write(f"{PACK}/cycle_count", "0")  # a gauge that does not count
        (phone.state / "dumpsys" / "battery").unlink()
        phone.set_properties(
            ro__soc__manufacturer="unknown", ro__soc__model="", ro__board__platform="msm8998"
        )
        facts = _facts(platform(phone, shell))
        assert facts["soc"] == "msm8998"
        assert facts["clusters"] == "0-3:0xd05,4-5:0xd0b,6-7:0xd44"
        assert not [name for name in facts if name.startswith("battery")]
        assert {"governor", "min_khz", "max_khz", "online"}.isdisjoint(facts)

    def test_the_boot_has_a_name_even_where_the_file_is_hidden(
        self, shell: str, tmp_path: Path, platform: MakePhone
    ) -> None:
        phone = Phone(tmp_path)
        board = platform(phone, shell)
        (phone.folder / "proc/sys/kernel/random/boot_id").unlink()
        assert "boot_id" not in _facts(board)
        phone.write("proc/stat", "cpu 1 2 3\nbtime 1700000000\nprocesses 7")
        assert _facts(board)["boot_id"] == "1700000000"
        phone.set_properties(ro__boottime__init="731244518")
        assert _facts(board)["boot_id"] == "731244518"

    def test_a_phone_that_tells_nothing_is_no_error(
        self, shell: str, tmp_path: Path, platform: MakePhone
    ) -> None:
        phone = Phone(tmp_path)
        shutil.rmtree(phone.folder)
        shutil.rmtree(phone.tools)
        board = platform(phone, shell)
        told = {"kernel", "machine", "affinity", "missing_tools", "fixed_performance"}
        assert set(_facts(board)) <= told
        assert {reading.name for reading in board.sample()} == set()
        assert {f.code for f in board.preflight(Limits())} == {
            "booting",
            "no_battery",
            "unknown_heat",
        }
        assert board.prepare() == (
            "stay_on: the phone does not let it be set, it may fall asleep: expect noise",
        )
        assert board.restore() == ()
        assert board.evidence(10.0) is not None

    def test_hostile_words_are_no_error(
        self, shell: str, tmp_path: Path, platform: MakePhone
    ) -> None:
        dice = random.Random(f"{SEED} {shell}")
        for turn in range(4):
            place = tmp_path / str(turn)
            phone = Phone(place)
            board = platform(phone, shell, fixed_performance="yes")
            (place / "farm").mkdir()
            files = [
                path
                for folder in (phone.folder, phone.state)
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            ]
            for path in files:
                kind = dice.random()
                if kind < 0.1:
                    path.unlink()
                elif kind < 0.8:
                    path.write_text(f"{dice.choice(WORDS)}\n")
            facts = board.facts()
            assert all(fact.value and fact.value.isprintable() for fact in facts), SEED
            assert len(facts) == len({fact.name for fact in facts})
            board.preflight(Limits())
            board.sample()
            board.prepare()
            board.restore()
            board.evidence(10.0)
        assert not list(tmp_path.rglob("pwned"))


def test_a_value_of_several_lines_names_no_other_fact(tmp_path: Path, platform: MakePhone) -> None:
    phone = Phone(tmp_path)
    (phone.tools / "getprop").write_text(
        "#!/bin/sh\nprintf '[ro.product.model]: [Pixel\\nserial=evil\\n[ro.serialno]: [A1]\\n"
        "[ro.build.version.release]: [15]\\n[xro.serialno]: [B2]\\n[roxserialno]: [C3]\\n'\n"
    )
    facts = _facts(platform(phone))
    assert facts["serial"] == "A1"
    assert facts["os"] == "Android 15"
    assert "model" not in facts


def test_a_phone_that_is_none_says_so(
    tmp_path: Path, platform: MakePhone, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = platform(Phone(tmp_path))
    monkeypatch.setenv("FARM_SIMULATED", "a tree of files")
    assert _facts(board)["simulated"] == "a tree of files"
