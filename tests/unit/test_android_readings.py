"""What a phone tells of itself now, and from second to second."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from drivers.platforms.android_facts import FACTS
from drivers.platforms.android_fitness import FITNESS
from drivers.platforms.android_log import LOG
from drivers.platforms.android_readings import (
    BATTERY_EVERY,
    HEAT_EVERY,
    SAMPLE,
    WATCH,
    AndroidWatch,
)
from drivers.platforms.android_settings import PREPARE, RESTORE
from drivers.platforms.linux_leftovers import KERNEL, SWEEP
from drivers.virtual.phone_dumps import CPU, SKIN, Heat, battery_dump, thermal_dump
from farm.connection import Stream
from farm.record import Reading
from tests.unit.test_android_phones import (
    PACK,
    SHELLS,
    MakePhone,
    Phone,
    phone_maker,
    phone_words,
)

UNITS = {
    "load": "processes",
    "temperature": "degC",
    "memory_available": "bytes",
    "throttled": "flag",
    "below_max_frequency": "ratio",
    "thermal_status": "level",
    "battery": "pct",
    "battery_temperature": "degC",
    "battery_voltage": "V",
    "battery_current": "A",
    "battery_charge": "C",
    "usb_data": "flag",
}
SCRIPTS = (FACTS, SAMPLE, FITNESS, WATCH, PREPARE, RESTORE, SWEEP, LOG, KERNEL)
LOOKS = 11
"""Enough to see when services are asked."""


@pytest.fixture
def platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: Callable[[str], None]
) -> MakePhone:
    return phone_maker(tmp_path, monkeypatch, lacks)


def _values(readings: tuple[Reading, ...]) -> dict[str, float]:
    for reading in readings:
        expected = "kHz" if reading.name.startswith("frequency.") else UNITS[reading.name]
        assert reading.unit == expected
        assert math.isfinite(reading.value)
    return {reading.name: reading.value for reading in readings}


def _heat(celsius: float, status: int = 0, cooling: int = 0) -> str:
    sensors = (
        Heat(name="BIG", kind=CPU, celsius=celsius),
        Heat(name="VIRTUAL-SKIN", kind=SKIN, celsius=31.0, status=status),
    )
    return thermal_dump(status=status, sensors=sensors, cooling=cooling)


@pytest.mark.parametrize("shell", SHELLS)
class TestSample:
    def test_a_phone(self, shell: str, tmp_path: Path, platform: MakePhone) -> None:
        phone = Phone(tmp_path)
        phone.tell("dumpsys/thermalservice", _heat(52.5))
        phone.tell("dumpsys/battery", battery_dump(level_pct=62, celsius=28.7, status=3))
        phone.write(f"{PACK}/current_now", "431000")
        phone.write(f"{PACK}/voltage_now", "3911000")
        phone.zone(0, "99000")  # where the HAL tells, nothing else is asked for the temperature
        values = _values(platform(phone, shell).sample())
        assert values == pytest.approx(
            {
                "load": 0.5,
                "temperature": 52.5,
                "memory_available": 4096000 * 1024,
                "throttled": 0.0,
                "frequency.cpu0": 1803000,
                "frequency.cpu4": 2253000,
                "frequency.cpu6": 984000,
                "thermal_status": 0.0,
                "battery": 62,
                "battery_temperature": 28.7,
                "battery_voltage": 3.911,
                "battery_current": -0.431,
                "battery_charge": 10_800,
            }
        )

    @pytest.mark.parametrize("told", ["file", "question", "dump"])
    def test_what_is_left_in_the_battery(
        self, told: str, shell: str, tmp_path: Path, platform: MakePhone
    ) -> None:
        phone = Phone(tmp_path)
        phone.tell("dumpsys/battery", battery_dump(level_pct=62, celsius=28, charge_uah=2_000_000))
        words = "2500000" if told == "question" else "Unknown get option: counter"
        cmd = phone.tools / "cmd"
        cmd.write_text(f'#!/bin/sh\n[ "$*" = "battery get -f counter" ] && echo "{words}"\n')
        cmd.chmod(0o755)
        if told == "file":
            phone.write(f"{PACK}/charge_counter", "3000000")
        values = _values(platform(phone, shell).sample())
        expected = {"file": 10_800, "question": 9_000, "dump": 7_200}
        assert values["battery_charge"] == pytest.approx(expected[told])

    @pytest.mark.parametrize(("configured", "value"), [("true", 1), ("false", 0), ("", None)])
    def test_whether_a_host_has_configured_it(
        self,
        configured: str,
        value: float | None,
        shell: str,
        tmp_path: Path,
        platform: MakePhone,
    ) -> None:
        phone = Phone(tmp_path)
        line = f"\n      configured={configured}" if configured else ""
        phone.tell("dumpsys/usb", f"usb={{\n    handler={{\n      connected=true{line}\n    }}")
        assert _values(platform(phone, shell).sample()).get("usb_data") == value

    @pytest.mark.parametrize(("status", "cooling"), [(1, 0), (3, 4), (0, 2)])
    def test_a_light_status_and_a_cooling_device_are_throttling(
        self, shell: str, status: int, cooling: int, tmp_path: Path, platform: MakePhone
    ) -> None:
        phone = Phone(tmp_path)
        phone.tell("dumpsys/thermalservice", _heat(60, status, cooling))
        values = _values(platform(phone, shell).sample())
        assert (values["throttled"], values["thermal_status"]) == (1, status)

    def test_without_a_thermal_hal_nothing_is_known(
        self, shell: str, tmp_path: Path, platform: MakePhone
    ) -> None:
        phone = Phone(tmp_path)
        phone.tell("dumpsys/thermalservice", thermal_dump(status=0, sensors=(), ready=False))
        board = platform(phone, shell)
        assert {"throttled", "temperature", "thermal_status"}.isdisjoint(_values(board.sample()))
        phone.zone(3, "47250")
        phone.cooler(0, "thermal-cpufreq-0", "3")
        values = _values(board.sample())
        assert (values["throttled"], values["temperature"]) == (1, 47.25)

    def test_what_cannot_be_is_absent(
        self, shell: str, tmp_path: Path, platform: MakePhone
    ) -> None:
        phone = Phone(tmp_path)
        phone.tell(
            "dumpsys/battery",
            battery_dump(level_pct=400, celsius=-127.0, voltage_mv=0, charge_uah=0),
        )
        told = _values(platform(phone, shell).sample())
        assert not [name for name in told if name.startswith("battery")]


class Lines(Stream):
    """A script whose lines are given."""

    def __init__(self) -> None:
        self.waiting: list[str] = []

    def lines(self) -> tuple[str, ...]:
        given, self.waiting = tuple(self.waiting), []
        return given

    def close(self) -> None:
        pass


def _look(second: int, *lines: str) -> list[str]:
    return [*lines, f"uptime={second}.00", ""]


HOT = (
    "heat=asked",
    "heat=Thermal Status: 2",
    "heat=Current temperatures from HAL:",
    "heat=Temperature{mValue=61.0, mType=0, mName=BIG, mStatus=0}",
)


class TestWatch:
    def test_a_status_holds_until_the_next_one_and_a_temperature_is_no_second_older(self) -> None:
        stream = Lines()
        watch = AndroidWatch(stream)
        stream.waiting = [
            *_look(1, *HOT, "zone=70000"),
            *_look(2, "zone=71000", "cooler=0"),
            *_look(3, "heat=asked", "zone=72000"),
        ]
        readings = watch.readings()
        seconds = {name: [r.t_ns // 10**9 for r in readings if r.name == name] for name in UNITS}
        assert seconds["throttled"] == [1, 2]
        assert seconds["thermal_status"] == [1]
        assert [r.value for r in readings if r.name == "throttled"] == [1, 1]
        assert [(r.t_ns // 10**9, r.value) for r in readings if r.name == "temperature"] == [
            (1, 61.0),
            (3, 72.0),  # the service is gone: zones are what is left
        ]

    def test_the_sign_of_the_current_is_that_of_the_last_status(self) -> None:
        stream = Lines()
        watch = AndroidWatch(stream)
        stream.waiting = [
            *_look(1, "current_now=500000", "battery=status: 3", "battery=level: 50"),
            *_look(2, "current_now=600000"),
        ]
        readings = watch.readings()
        assert [r.value for r in readings if r.name == "battery_current"] == pytest.approx(
            [-0.5, -0.6]
        )
        assert [r.value for r in readings if r.name == "battery"] == [50]

    def test_the_share_below_the_highest_frequency_is_that_of_linux(self) -> None:
        stream = Lines()
        watch = AndroidWatch(stream)
        stream.waiting = [
            *_look(1, "time.4:2:2253000= 1:0 2253000:0"),
            *_look(2, "time.4:2:2253000= 1:25 2253000:75"),
        ]
        watch.readings()
        stream.waiting = _look(3, "time.4:2:2253000= 1:50 2253000:150")
        (share,) = [r.value for r in watch.readings() if r.name == "below_max_frequency"]
        assert share == 0.25

    @pytest.mark.parametrize("shell", SHELLS)
    def test_services_are_asked_less_often_and_it_ends_when_nobody_reads(
        self, shell: str, tmp_path: Path, platform: MakePhone
    ) -> None:
        phone = Phone(tmp_path)
        phone.write(f"{PACK}/current_now", "431000")
        platform(phone, shell)
        log = tmp_path / "asked"
        dumpsys = phone.tools / "dumpsys"
        dumpsys.write_text(
            dumpsys.read_text().replace("\n", f'\necho "$1" >>"{log}"\n', 1)  # after the first line
        )
        (phone.tools / "sleep").write_text("#!/bin/sh\nexit 0\n")  # a second that takes no time
        (phone.tools / "sleep").chmod(0o755)
        process = subprocess.Popen(
            [*phone_words(shell, tmp_path, phone), "-c", WATCH, "farm", "1", " 4 5 "],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        assert process.stderr
        stream = Lines()
        while stream.waiting.count("") < LOOKS:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            stream.waiting.append(line.rstrip("\n"))
        process.stdout.close()
        assert process.wait(30) != 0
        assert process.stderr.read().count("not found") == 0
        process.stderr.close()
        assert "time.4:2:2253000= 408000:1000 2253000:500" in stream.waiting
        assert not any(line.startswith("time.0") for line in stream.waiting)
        readings = AndroidWatch(stream).readings()
        counts = {name: sum(r.name == name for r in readings) for name in UNITS}
        assert counts["battery_current"] == LOOKS
        assert counts["thermal_status"] == math.ceil(LOOKS / HEAT_EVERY)
        assert counts["battery"] == math.ceil(LOOKS / BATTERY_EVERY)
        assert counts["throttled"] == LOOKS
        assert set(log.read_text().split()) == {"thermalservice", "battery"}

    def test_on_this_machine(self, tmp_path: Path, platform: MakePhone) -> None:
        watch = platform(Phone(tmp_path), cpus="0").watch()
        readings: list[Reading] = []
        deadline = time.monotonic() + 30
        while not readings:
            assert time.monotonic() < deadline
            readings.extend(watch.readings())
            time.sleep(0.01)
        watch.close()
        watch.close()
        assert _values(tuple(readings))["thermal_status"] == 0


@pytest.mark.parametrize("text", [FACTS, SAMPLE, FITNESS, WATCH, PREPARE, RESTORE])
def test_hardware_is_read_below_the_tree(text: str) -> None:
    """Processes and time are the true ones: they stay where they are."""
    processes = ('"/proc/$1/stat"', '"/proc/$$/stat"', "/proc/$$/status", "/proc/[0-9]*/stat;")
    for name in (*processes, "get /proc/uptime"):
        text = text.replace(name, "")
    assert re.findall(r'(?<!\w)(?<!tree")/(?:proc|sys)/\S*', text) == []


@pytest.mark.parametrize("text", SCRIPTS)
def test_no_script_needs_a_file_for_a_text(text: str) -> None:
    """As mksh does for here-documents: it has no folder for it where nobody named one."""
    assert "<<" not in text


@pytest.mark.parametrize("text", SCRIPTS)
def test_scripts_are_posix(text: str, tmp_path: Path, lacks: Callable[[str], None]) -> None:
    for shell in ("mksh", "dash"):
        if not shutil.which(shell):
            lacks(f"no {shell}: apt-get install {shell}")
        done = subprocess.run([shell, "-n", "-c", text], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
