"""Trees of files that play a board, and the facts that a board of each kind tells."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

import pytest

from drivers.platforms.linux import LinuxPlatform
from drivers.transports.local import LocalTransport
from farm.connection import Stream
from farm.model import Address, Device
from farm.shell import Completed

BOOT = "0d9aa3f6-5c1b-4c39-9d2c-4a4f2f2f7d10"
SHELLS = ("dash", "bash", "busybox")
CPU = "sys/devices/system/cpu"
PI_FILE = "sys/devices/platform/soc/soc:firmware/get_throttled"


class Tree:
    """A folder that plays /proc and /sys; its name holds a space on purpose."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "a board"
        self.write("proc/sys/kernel/random/boot_id", BOOT)
        self.write("proc/loadavg", "0.50 0.40 0.30 1/200 4242")
        self.write("proc/pressure/cpu", "some avg10=1.25 avg60=0.50 avg300=0.10 total=99")
        self.write("proc/meminfo", "MemTotal:  8000000 kB\nMemFree: 1 kB\nMemAvailable: 4096000 kB")
        self.write("etc/os-release", 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"')
        self.write("etc/machine-id", "0123456789abcdef0123456789abcdef")

    def write(self, path: str, text: str) -> Path:
        """Write one file, as the kernel would show it."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode("utf-8", "surrogateescape") + b"\n")
        return target

    def read(self, path: str) -> str:
        return (self.folder / path).read_text().strip()

    def cores(self, parts: Iterable[str]) -> None:
        """ARM cores by their part numbers."""
        parts = list(parts)
        blocks = [f"processor\t: {n}\nCPU part\t: {part}\n" for n, part in enumerate(parts)]
        self.write("proc/cpuinfo", "\n".join(blocks))
        for name in ("online", "present"):
            self.write(f"{CPU}/{name}", f"0-{len(parts) - 1}")

    def policy(
        self, cores: range, highest: int, *, governor: str = "schedutil", now: int = 0
    ) -> None:
        """A frequency domain."""
        place = f"{CPU}/cpufreq/policy{cores[0]}"
        self.write(f"{place}/related_cpus", " ".join(map(str, cores)))
        self.write(f"{place}/cpuinfo_max_freq", str(highest))
        self.write(f"{place}/scaling_min_freq", "408000")
        self.write(f"{place}/scaling_max_freq", str(highest))
        self.write(f"{place}/scaling_cur_freq", str(now or highest))
        self.write(f"{place}/scaling_governor", governor)
        self.write(f"{place}/stats/time_in_state", f"408000 1000\n{highest} 500")

    def zone(self, number: int, milli: str) -> None:
        self.write(f"sys/class/thermal/thermal_zone{number}/type", "a zone")
        self.write(f"sys/class/thermal/thermal_zone{number}/temp", milli)

    def cooler(self, number: int, kind: str, state: str) -> None:
        self.write(f"sys/class/thermal/cooling_device{number}/type", kind)
        self.write(f"sys/class/thermal/cooling_device{number}/cur_state", state)

    def tuned(self) -> dict[str, str]:
        """Every setting that can be changed, by its path."""
        files = self.folder.glob(f"{CPU}/cpufreq/policy*/scaling_[gm][ao]*")
        return {str(file.relative_to(self.folder)): file.read_text() for file in files}


def raspberry_pi_5(folder: Path, bits: str = "0") -> Tree:
    tree = Tree(folder)
    tree.write("proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    tree.write("proc/device-tree/serial-number", "1f2e3d4c5b6a7988\0")
    tree.write("proc/device-tree/compatible", "raspberrypi,5-model-b\0brcm,bcm2712\0")
    tree.cores(["0xd0b"] * 4)
    tree.policy(range(4), 2400000, governor="ondemand", now=1500000)
    tree.zone(0, "48250")
    tree.cooler(0, "pwm-fan", "2")
    tree.write(PI_FILE, bits)
    return tree


def rk3588(folder: Path) -> Tree:
    tree = Tree(folder)
    tree.write("proc/device-tree/model", "Radxa ROCK 5B\0")
    tree.write("proc/device-tree/compatible", "radxa,rock-5b\0rockchip,rk3588\0")
    tree.cores(["0xd05"] * 4 + ["0xd0b"] * 4)
    tree.policy(range(4), 1800000)
    tree.policy(range(4, 6), 2256000)
    tree.policy(range(6, 8), 2304000, now=1200000)
    for number, milli in enumerate(("51846", "52769", "49000")):
        tree.zone(number, milli)
    for number, kind in enumerate(("cpufreq-cpu0", "cpufreq-cpu4", "devfreq-fb000000.gpu")):
        tree.cooler(number, kind, "0")
    return tree


def jetson_orin(folder: Path) -> Tree:
    tree = Tree(folder)
    tree.write("proc/device-tree/model", "NVIDIA Jetson AGX Orin Developer Kit\0")
    tree.write("proc/device-tree/serial-number", "1420921055981\0")
    tree.write(
        "proc/device-tree/compatible",
        "nvidia,p3737-0000+p3701-0005\0nvidia,p3701-0005\0nvidia,tegra234\0",
    )
    tree.write("sys/devices/soc0/family", "Tegra")
    tree.write("sys/devices/soc0/soc_id", "35")
    tree.write("var/lib/nvpmodel/status", "pmode:0000 fmode:fanNull")
    tree.cores(["0xd42"] * 12)
    for first in (0, 4, 8):
        tree.policy(range(first, first + 4), 2201600)
    tree.zone(0, "46500")
    tree.zone(1, "-256000")  # a sensor of a part that is switched off
    tree.cooler(0, "devfreq-17000000.gpu", "0")
    return tree


def laptop(folder: Path, throttles: int = 3) -> Tree:
    tree = Tree(folder)
    tree.write("sys/class/dmi/id/sys_vendor", "LENOVO")
    tree.write("sys/class/dmi/id/product_name", "ThinkPad X1 Carbon Gen 9")
    block = "processor\t: {}\nmodel name\t: 11th Gen Intel(R) Core(TM) i7-1165G7 @ 2.80GHz\n"
    tree.write("proc/cpuinfo", "\n".join(block.format(n) for n in range(4)))
    for name in ("online", "present"):
        tree.write(f"{CPU}/{name}", "0-3")
    for core in range(4):
        tree.policy(range(core, core + 1), 4700000, governor="powersave")
        shutil.rmtree(tree.folder / f"{CPU}/cpufreq/policy{core}/stats")  # as intel_pstate has it
        tree.write(f"{CPU}/cpu{core}/thermal_throttle/core_throttle_count", str(throttles))
        tree.write(f"{CPU}/cpu{core}/thermal_throttle/package_throttle_count", "0")
    tree.zone(0, "61000")
    tree.cooler(0, "Processor", "0")
    tree.cooler(1, "intel_powerclamp", "-1")
    return tree


class Board(LocalTransport):
    """This machine by a shell of choice, with a tree for its hardware."""

    def __init__(self, folder: Path, words: tuple[str, ...], **options: str) -> None:
        address = Address.parse(f"local://?root={folder / 'farm'}")
        device = Device(name="a board", type="t", address=address, options=tuple(options.items()))
        super().__init__(device)
        self._words = words

    def run(
        self,
        argv: tuple[str, ...],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        cwd: PurePosixPath | None = None,
    ) -> Completed:
        return super().run(self._by(argv), timeout_s=timeout_s, stdin=stdin, cwd=cwd)

    def stream(self, argv: tuple[str, ...]) -> Stream:
        return super().stream(self._by(argv))

    def _by(self, argv: tuple[str, ...]) -> tuple[str, ...]:
        return (*self._words, *argv[1:]) if argv[0] == "sh" else argv


def shell_words(shell: str, folder: Path) -> tuple[str, ...]:
    """How to call a shell; busybox has its applets and nothing else."""
    if shell == "bash":
        return ("bash", "--posix")
    if shell == "dash":
        return ("dash",)
    busybox = shutil.which("busybox")
    assert busybox
    applets = folder / "applets"
    if not applets.exists():
        applets.mkdir()
        names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
        for name in names.stdout.split():
            (applets / name).symlink_to(busybox)
    kept = [f"{name}={os.environ[name]}" for name in ("FARM_TREE",) if name in os.environ]
    return ("env", "-i", f"PATH={applets}", *kept, str(applets / "sh"))


MakeBoard = Callable[..., LinuxPlatform]


def board_maker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: Callable[[str], None]
) -> MakeBoard:
    """Makes the platform of a board from its tree, by a shell, with options of the inventory."""

    def make(tree: Tree, shell: str = "dash", **options: str) -> LinuxPlatform:
        if not shutil.which(shell):
            lacks(f"no {shell}: apt-get install {shell}")
        monkeypatch.setenv("FARM_TREE", str(tree.folder))
        return LinuxPlatform(Board(tmp_path, shell_words(shell, tmp_path), **options))

    return make


@pytest.fixture
def platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: Callable[[str], None]
) -> MakeBoard:
    return board_maker(tmp_path, monkeypatch, lacks)


def _facts(platform: LinuxPlatform) -> dict[str, str]:
    return {fact.name: fact.value for fact in platform.facts()}


@pytest.mark.parametrize("shell", SHELLS)
class TestFactsOfBoards:
    def test_a_raspberry_pi(self, shell: str, tmp_path: Path, platform: MakeBoard) -> None:
        facts = _facts(platform(raspberry_pi_5(tmp_path, "50005"), shell))
        assert facts["model"] == "Raspberry Pi 5 Model B Rev 1.0"
        assert facts["soc"] == "brcm,bcm2712"
        assert facts["serial"] == "1f2e3d4c5b6a7988"
        assert facts["machine_id"] == "0123456789ab"
        assert facts["boot_id"] == BOOT
        assert facts["os"] == "Debian GNU/Linux 12 (bookworm)"
        assert facts["cpu"] == "4 x Cortex-A76"
        assert facts["cores"] == "4"
        assert facts["clusters"] == "0-3:2400000"
        assert facts["governor"] == "ondemand"
        assert (facts["min_khz"], facts["max_khz"]) == ("408000", "2400000")
        assert facts["online"] == "0-3"
        assert facts["memory_kib"] == "8000000"
        assert facts["throttled_since_boot"] == "under-voltage, throttled"
        assert facts["kernel"] == os.uname().release
        assert facts["machine"] == os.uname().machine

    def test_three_clusters(self, shell: str, tmp_path: Path, platform: MakeBoard) -> None:
        tree = rk3588(tmp_path)
        tree.write(f"{CPU}/cpufreq/policy6/scaling_governor", "performance")
        facts = _facts(platform(tree, shell))
        assert facts["clusters"] == "0-3:1800000,4-5:2256000,6-7:2304000"
        assert facts["governor"] == "policy0:schedutil,policy4:schedutil,policy6:performance"
        assert facts["cpu"] == "4 x Cortex-A55, 4 x Cortex-A76"
        assert facts["soc"] == "rockchip,rk3588"
        assert "serial" not in facts
        assert "throttled_since_boot" not in facts

    def test_a_jetson(self, shell: str, tmp_path: Path, platform: MakeBoard) -> None:
        facts = _facts(platform(jetson_orin(tmp_path), shell))
        assert facts["soc"] == "Tegra 35"
        assert facts["power_model"] == "pmode:0000 fmode:fanNull"
        assert facts["clusters"] == "0-11:2201600"
        assert facts["cpu"] == "12 x Cortex-A78AE"

    def test_a_laptop(self, shell: str, tmp_path: Path, platform: MakeBoard) -> None:
        facts = _facts(platform(laptop(tmp_path), shell))
        assert facts["model"] == "LENOVO ThinkPad X1 Carbon Gen 9"
        assert facts["cpu"] == "11th Gen Intel(R) Core(TM) i7-1165G7 @ 2.80GHz"
        assert facts["governor"] == "powersave"
        assert facts["clusters"] == "0-3:4700000"
        assert "soc" not in facts

    def test_an_empty_tree_tells_only_what_needs_no_file(
        self, shell: str, tmp_path: Path, platform: MakeBoard
    ) -> None:
        tree = Tree(tmp_path)
        shutil.rmtree(tree.folder)
        tree.folder.mkdir()
        facts = _facts(platform(tree, shell))
        assert set(facts) <= {"kernel", "machine", "libc", "missing_tools", "simulated"}


def test_cores_without_frequencies_are_grouped_by_their_kind(
    tmp_path: Path, platform: MakeBoard
) -> None:
    tree = Tree(tmp_path)
    tree.cores(["0xd03", "0xd03", "0xd08"])
    assert _facts(platform(tree))["clusters"] == "0-1:0xd03,2:0xd08"


def test_a_board_that_is_none_says_so(
    tmp_path: Path, platform: MakeBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = platform(rk3588(tmp_path))
    assert "simulated" not in _facts(board)
    monkeypatch.setenv("FARM_SIMULATED", "a tree of files")
    assert _facts(board)["simulated"] == "a tree of files"


def test_missing_tools_are_named(tmp_path: Path, platform: MakeBoard) -> None:
    board = platform(rk3588(tmp_path), "busybox")
    (tmp_path / "applets" / "taskset").unlink()
    (tmp_path / "applets" / "sha256sum").unlink()
    assert _facts(board)["missing_tools"] == "sha256sum,taskset"
