"""What a board tells of itself now, whatever stands in its files, and what forbids measuring."""

from __future__ import annotations

import math
import os
import random
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from drivers.platforms import linux_fitness, linux_readings, linux_watch
from drivers.platforms.linux_facts import FACTS
from drivers.platforms.linux_fitness import FITNESS
from drivers.platforms.linux_readings import LOOK, SAMPLE, read_look
from drivers.platforms.linux_settings import PREPARE, RESTORE
from drivers.platforms.linux_told import read_pairs, write_cores
from drivers.platforms.linux_watch import WATCH, LinuxWatch, read_times, share_below, spare_mask
from farm.connection import Stream
from farm.model import read_cores
from farm.protocols import Limits
from farm.record import Reading
from tests.unit.test_linux_trees import (
    CPU,
    PI_FILE,
    SHELLS,
    MakeBoard,
    Tree,
    board_maker,
    jetson_orin,
    laptop,
    raspberry_pi_5,
    rk3588,
    shell_words,
)

SEED = 20_250_211
UNITS = {
    "load": "processes",
    "temperature": "degC",
    "pressure": "pct",
    "memory_available": "bytes",
    "throttled": "flag",
    "below_max_frequency": "ratio",
}


@pytest.fixture
def platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: Callable[[str], None]
) -> MakeBoard:
    return board_maker(tmp_path, monkeypatch, lacks)


def _values(readings: tuple[Reading, ...]) -> dict[str, float]:
    for reading in readings:
        expected = "kHz" if reading.name.startswith("frequency.") else UNITS[reading.name]
        assert reading.unit == expected
        assert math.isfinite(reading.value)
    return {reading.name: reading.value for reading in readings}


@pytest.mark.parametrize("shell", SHELLS)
class TestReadingsOfBoards:
    def test_a_raspberry_pi(self, shell: str, tmp_path: Path, platform: MakeBoard) -> None:
        board = platform(raspberry_pi_5(tmp_path), shell)
        assert _values(board.sample()) == {
            "load": 0.5,
            "temperature": 48.25,
            "pressure": 1.25,
            "memory_available": 4096000 * 1024,
            "throttled": 0.0,
            "frequency.cpu0": 1500000.0,
        }
        uptime_ns = float(Path("/proc/uptime").read_text().split()[0]) * 1e9
        (t_ns,) = {reading.t_ns for reading in board.sample()}
        assert -1e3 <= t_ns - uptime_ns < 60e9  # both are rounded

    def test_three_clusters(self, shell: str, tmp_path: Path, platform: MakeBoard) -> None:
        values = _values(platform(rk3588(tmp_path), shell).sample())
        assert values["temperature"] == 52.769
        assert values["frequency.cpu0"] == 1800000
        assert values["frequency.cpu4"] == 2256000
        assert values["frequency.cpu6"] == 1200000
        assert values["throttled"] == 0

    def test_a_sensor_that_is_off_is_ignored(
        self, shell: str, tmp_path: Path, platform: MakeBoard
    ) -> None:
        tree = jetson_orin(tmp_path)
        tree.zone(2, "151000")
        assert _values(platform(tree, shell).sample())["temperature"] == 46.5

    def test_a_command_knows_a_pis_bits_too(
        self, shell: str, tmp_path: Path, platform: MakeBoard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tree = raspberry_pi_5(tmp_path)
        (tree.folder / PI_FILE).unlink()
        board = platform(tree, shell)
        tools = tmp_path / "applets"
        tools.mkdir(exist_ok=True)
        (tools / "vcgencmd").write_text("#!/bin/sh\necho throttled=0x80008\n")
        (tools / "vcgencmd").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
        assert _values(board.sample())["throttled"] == 1
        facts = {fact.name: fact.value for fact in board.facts()}
        assert facts["throttled_since_boot"] == "soft limit"

    def test_an_x86_that_throttled_since_the_last_look(
        self, shell: str, tmp_path: Path, platform: MakeBoard
    ) -> None:
        tree = laptop(tmp_path)
        (tree.folder / "sys/class/thermal/cooling_device0/cur_state").unlink()
        board = platform(tree, shell)
        assert "throttled" not in _values(board.sample())  # nothing to compare with
        assert _values(board.sample())["throttled"] == 0
        tree.write(f"{CPU}/cpu2/thermal_throttle/core_throttle_count", "4")
        assert _values(board.sample())["throttled"] == 1
        assert _values(board.sample())["throttled"] == 0

    def test_a_cooling_device_that_slows_it_down(
        self, shell: str, tmp_path: Path, platform: MakeBoard
    ) -> None:
        tree = rk3588(tmp_path)
        tree.cooler(1, "cpufreq-cpu4", "3")
        assert _values(platform(tree, shell).sample())["throttled"] == 1

    def test_what_cannot_be_known_is_absent(
        self, shell: str, tmp_path: Path, platform: MakeBoard
    ) -> None:
        assert set(_values(platform(Tree(tmp_path), shell).sample())) == {
            "load",
            "pressure",
            "memory_available",
        }

    def test_hostile_files_are_no_error(
        self, shell: str, tmp_path: Path, platform: MakeBoard
    ) -> None:
        dice = random.Random(f"{SEED} {shell}")
        words = [
            *("", "garbage", "-", "nan", "inf", "1e999", "$(touch pwned)", "`id`", "* ?", "a=b=c"),
            *("\x1b[31m red\r\n\n", "9" * 40, "-1", "0x", "two words", "\udcff\udcfe", "%s%n\\c"),
        ]
        for build in (raspberry_pi_5, rk3588, jetson_orin, laptop):
            place = tmp_path / build.__name__
            tree = build(place)
            board = platform(tree, shell)
            files = [path for path in tree.folder.rglob("*") if path.is_file()]
            for path in files:
                kind = dice.random()
                if kind < 0.1:
                    path.unlink()
                    path.mkdir()
                elif kind < 0.8:
                    tree.write(str(path.relative_to(tree.folder)), dice.choice(words))
            told = f"seed {SEED}"
            assert all(f.value and f.value.isprintable() for f in board.facts()), told
            _values(board.sample())
            board.preflight(Limits())
        assert not list(tmp_path.rglob("pwned"))


class TestFitness:
    @pytest.mark.parametrize(
        ("bits", "expected"),
        [
            ("0", []),
            ("50000", []),  # long ago
            ("1", [("undervoltage", True, False)]),
            ("50005", [("undervoltage", True, False)]),
            ("4", [("throttled", True, True)]),
            ("8", [("throttled", True, True)]),
        ],
    )
    def test_a_pis_bits(
        self,
        bits: str,
        expected: list[tuple[str, bool, bool]],
        tmp_path: Path,
        platform: MakeBoard,
    ) -> None:
        findings = platform(raspberry_pi_5(tmp_path, bits)).preflight(Limits())
        assert [(f.code, f.blocking, f.passing) for f in findings] == expected
        if bits == "1":
            assert "power supply" in findings[0].message

    @pytest.mark.parametrize("shell", SHELLS)
    def test_everything_that_can_be_wrong(
        self, shell: str, tmp_path: Path, platform: MakeBoard
    ) -> None:
        tree = rk3588(tmp_path)
        tree.write("proc/meminfo", "MemTotal: 500000 kB\nMemFree: 1 kB\nMemAvailable: 30000 kB")
        tree.write("proc/loadavg", "9.50 1 1 1/2 3")
        tree.zone(0, "88000")
        tree.cooler(0, "thermal-cpufreq-0", "1")
        tree.write(f"{CPU}/online", "0-5")
        board = platform(tree, shell, cpus="5-7")
        found = {f.code: f for f in board.preflight(Limits(min_free_bytes=1 << 62))}
        blocking = {code for code, finding in found.items() if finding.blocking}
        passing = {code for code, finding in found.items() if finding.passing}
        assert blocking == {"low_space", "low_memory", "hot", "throttled", "no_core"}
        assert passing == {"low_memory", "hot", "throttled"}
        assert set(found) - blocking == {"busy", "offline"}
        assert "6-7" in found["no_core"].message
        assert "88 degC" in found["hot"].message
        assert "29 MiB" in found["low_memory"].message

    def test_pressure_tells_before_the_load_does(self, tmp_path: Path, platform: MakeBoard) -> None:
        tree = rk3588(tmp_path)
        tree.write("proc/pressure/cpu", "some avg10=35.00 avg60=1.00 avg300=0.00 total=1")
        (finding,) = platform(tree).preflight(Limits())
        assert (finding.code, finding.blocking) == ("busy", False)
        assert "35 %" in finding.message

    @pytest.mark.parametrize(
        ("df", "low"),
        [
            ("/dev/root 30000000 29990000 10000 100% /", True),
            ("a name with 7 words 30000000 1 29990000 1% /data", False),
            ("overlay 1 1 0 100% /", True),
            ("tmpfs - - - - /", False),
            ("nonsense", False),
        ],
    )
    def test_free_room_is_read_from_any_df(self, df: str, low: bool) -> None:
        findings = linux_fitness.find([("df", df)], Limits(), ())
        assert [f.code for f in findings] == ["low_space"] * low


def _until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Lines(Stream):
    """A script whose lines are given."""

    def __init__(self) -> None:
        self.waiting: list[str] = []
        self.closed = False

    def lines(self) -> tuple[str, ...]:
        given, self.waiting = tuple(self.waiting), []
        return given

    def close(self) -> None:
        self.closed = True


def _ticks(low: int, high: int) -> str:
    return f"time.0:4:2400000= 1500000:{low} 2400000:{high}"


class TestWatch:
    def test_only_whole_looks_count(self) -> None:
        stream = Lines()
        watch = LinuxWatch(stream)
        assert watch.readings() == ()
        stream.waiting = ["load=1", "uptime=5.00", "", "load=2"]
        assert [(r.name, r.value, r.t_ns) for r in watch.readings()] == [("load", 1, 5_000_000_000)]
        stream.waiting = ["uptime=6.00", "", ""]
        assert [(r.name, r.value, r.t_ns) for r in watch.readings()] == [("load", 2, 6_000_000_000)]
        watch.close()
        assert stream.closed

    def test_the_share_below_the_highest_frequency_is_since_the_last_call(self) -> None:
        stream = Lines()
        watch = LinuxWatch(stream)

        def shares() -> list[float]:
            return [r.value for r in watch.readings() if r.name == "below_max_frequency"]

        stream.waiting = [_ticks(1000, 1000), "uptime=1.0", ""]
        assert shares() == []  # nothing to compare with
        stream.waiting = [_ticks(1025, 1075), "uptime=2.0", ""]
        assert shares() == [0.25]
        stream.waiting = [_ticks(1025, 1175), "uptime=3.0", "", _ticks(1025, 1275), ""]
        assert shares() == [0.0]
        assert shares() == []

    def test_throttling_is_seen_from_one_second_to_the_next(self) -> None:
        stream = Lines()
        watch = LinuxWatch(stream)
        counts = (7, 7, 8, 8)
        stream.waiting = [line for n in counts for line in (f"throttles={n}", "uptime=1", "")]
        assert [r.value for r in watch.readings()] == [0, 1, 0]

    @pytest.mark.parametrize(
        ("before", "after", "share"),
        [
            ("4:2400000= 1:0 2400000:0", "4:2400000= 1:30 2400000:10", 0.75),
            ("4:1= 1:0 2400000:0", "4:1= 1:30 2400000:10", 0.0),  # it is allowed no more than 1
            ("4:= 1:0 2:0", "4:= 1:30 2:10", 0.75),
            ("4:2= 1:0 2:0", "4:2= 1:0 2:0", None),
            ("4:2= 1:50 2:0", "4:2= 1:0 2:0", None),  # somebody has reset the counters
            ("4:2= 1:x nonsense 2:0", "4:2= 1:30 2:10", 0.0),
            ("x:2= 1:0", "x:2= 1:1", None),
        ],
    )
    def test_shares(self, before: str, after: str, share: float | None) -> None:
        was, now = (read_times(read_pairs(f"time.0:{text}")) for text in (before, after))
        assert share_below(was, now) == share

    def test_domains_count_by_their_cores(self) -> None:
        lines = (f"time.0:3:2= 1:{n} 2:0\ntime.3:1:2= 1:0 2:{n}" for n in (0, 100))
        was, now = (read_times(read_pairs(text)) for text in lines)
        assert share_below(was, now) == 0.75

    def test_a_mask_leaves_out_what_is_measured(self) -> None:
        assert spare_mask(()) == ""
        assert spare_mask((2, 3)) == "fffffff3"
        assert spare_mask(tuple(range(32))) == ""
        assert spare_mask((40,)) == "ffffffff"

    @pytest.mark.parametrize("shell", SHELLS)
    def test_the_script_starts_nothing_but_sleep_and_ends_when_nobody_reads(
        self, shell: str, tmp_path: Path, platform: MakeBoard
    ) -> None:
        platform(rk3588(tmp_path), shell)
        words = shell_words(shell, tmp_path)
        program = subprocess.run(
            ["which", words[0]], capture_output=True, text=True, check=True
        ).stdout.strip()
        tools = tmp_path / "tools"
        tools.mkdir()
        (tools / "sleep").write_text("#!/bin/sh\nexit 0\n")  # a second that takes no time
        (tools / "sleep").chmod(0o755)
        (tree,) = (word for word in tmp_path.iterdir() if word.name == "a board")
        environment = {"PATH": str(tools), "FARM_TREE": str(tree)}
        command = [program, *words[1:]]
        if shell == "busybox":
            command = [str(tmp_path / "applets" / "sh")]
        process = subprocess.Popen(
            [*command, "-c", WATCH, "farm", "1", " 4 5 "],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        assert process.stderr
        stream = Lines()
        while stream.waiting.count("\n") < 3:
            stream.waiting.append(process.stdout.readline())
            assert stream.waiting[-1], process.stderr.read()
        process.stdout.close()
        assert process.wait(30) != 0
        assert process.stderr.read().count("not found") == 0
        process.stderr.close()
        stream.waiting = [line.rstrip("\n") for line in stream.waiting]
        assert "time.4:2:2256000= 408000:1000 2256000:500" in stream.waiting
        assert not any(line.startswith("time.0") for line in stream.waiting)
        values = _values(LinuxWatch(stream).readings())
        assert values["frequency.cpu6"] == 1200000

    def test_the_script_ends_with_the_one_who_started_it(
        self, tmp_path: Path, platform: MakeBoard
    ) -> None:
        platform(rk3588(tmp_path))
        out = tmp_path / "out"  # a file, which takes everything for ever
        starter = subprocess.Popen(
            ["dash", "-c", '"$@" >out & echo $!; read -r end', "farm", "dash", "-c", WATCH, "farm"],
            cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert starter.stdout
        pid = int(starter.stdout.readline())
        _until(lambda: out.exists() and "\n\n" in out.read_text())
        starter.kill()
        starter.communicate()
        _until(lambda: not Path(f"/proc/{pid}").exists())

    def test_on_this_machine(self, tmp_path: Path, platform: MakeBoard) -> None:
        watch = platform(raspberry_pi_5(tmp_path), cpus="0").watch()
        readings: list[Reading] = []
        _until(lambda: readings.extend(watch.readings()) or readings)
        watch.close()
        watch.close()
        assert _values(tuple(readings))["frequency.cpu0"] == 1500000


def test_a_look_starts_no_process() -> None:
    assert not re.search(r"\$\([^(]|`|\|\s", LOOK.replace("'' | *[!0-9]* | ??", ""))


@pytest.mark.parametrize("text", [FACTS, SAMPLE, FITNESS, WATCH, PREPARE, RESTORE])
def test_hardware_is_read_below_the_tree(text: str) -> None:
    """Processes and time are the true ones: they stay where they are."""
    true_ones = ('"/proc/$1/stat"', '"/proc/$$/stat"', "get /proc/uptime")
    for name in true_ones:
        text = text.replace(name, "")
    assert re.findall(r'(?<!\w)(?<!tree")/(?:proc|sys)/\S*', text) == []


def test_a_look_at_nothing() -> None:
    assert read_look([]) == linux_readings.Look(t_ns=0)
    assert linux_watch.read_times([]) == {}


@pytest.mark.parametrize(
    ("text", "cores", "short"),
    [("0-3,6", (0, 1, 2, 3, 6), "0-3,6"), ("2 0 1", (0, 1, 2), "0-2"), ("5", (5,), "5")],
)
def test_lists_of_cores(text: str, cores: tuple[int, ...], short: str) -> None:
    assert read_cores(text) == cores
    assert write_cores(cores) == short


@pytest.mark.parametrize("text", ["x", "1-", "-1", "0-99999999", "1,,x"])
def test_what_is_no_list_of_cores(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_cores(text)
