"""What forbids measuring on a phone, what passes, and what is only worth a word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from drivers.platforms.android_fitness import find
from drivers.platforms.linux_told import Pairs
from drivers.virtual.phone_dumps import (
    BATTERY,
    CPU,
    DISCHARGING,
    SKIN,
    Heat,
    battery_dump,
    thermal_dump,
)
from farm.protocols import Limits
from farm.record import Finding
from tests.unit.test_android_phones import PACK, SHELLS, MakePhone, Phone, phone_maker

USER = "google/shiba/shiba:14/AP1A.240405.002/11480754:user/release-keys"
BLOCKS, PASSES, NOTE = (True, False), (True, True), (False, False)
"""What a finding does: whether it blocks, and whether waiting can cure it."""


@pytest.fixture
def platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: Callable[[str], None]
) -> MakePhone:
    return phone_maker(tmp_path, monkeypatch, lacks)


def _dump(name: str, text: str) -> Pairs:
    return [(name, line.strip()) for line in text.splitlines()]


def _find(
    *,
    limits: Limits | None = None,
    allow_test_builds: bool = False,
    battery: str = "",
    heat: str = "",
    **told: str,
) -> dict[str, Finding]:
    """What is found on a good phone of which some things are told otherwise."""
    cool = thermal_dump(status=0, sensors=[Heat(name="BIG", kind=CPU, celsius=30.0)])
    pairs = [
        *{"booted": "1", "fingerprint": USER, "build": "user", "hardware": "shiba", **told}.items(),
        *_dump("battery", battery or battery_dump(level_pct=60, celsius=27.0)),
        *_dump("heat", heat or cool),
    ]
    found = find(pairs, limits or Limits(), (), allow_test_builds=allow_test_builds)
    assert len(found) == len({f.code for f in found})
    assert all(f.message and "\n" not in f.message for f in found)
    return {finding.code: finding for finding in found}


def _kinds(found: dict[str, Finding]) -> dict[str, tuple[bool, bool]]:
    return {code: (finding.blocking, finding.passing) for code, finding in found.items()}


def test_a_good_phone_has_nothing_against_it() -> None:
    assert _find() == {}


@pytest.mark.parametrize("booted", ["", "0", "false"])
def test_a_phone_that_boots_will_be_there_soon(booted: str) -> None:
    assert _kinds(_find(booted=booted)) == {"booting": PASSES}


EMULATED = [
    {"emulated": "1"},
    {"emulated_kernel": "1"},
    {"hardware": "ranchu"},
    {"fingerprint": "generic/sdk_phone/generic_x86:11/RSR1/1:user/release-keys"},
    {"fingerprint": "google/sdk_gphone64/emu64x:14/UE1A/1:userdebug/dev-keys"},
]
ENGINEERING = [
    {"build": "eng"},
    {"fingerprint": "acme/p1/p1:14/AB1C/1:eng/test-keys", "build": ""},
]


@pytest.mark.parametrize("told", EMULATED + ENGINEERING)
def test_what_is_no_phone_that_people_have_is_refused_unless_it_is_allowed(
    told: dict[str, str],
) -> None:
    found = _find(**told)
    assert _kinds(found) == {"test_build": BLOCKS}
    assert "allow_test_builds: yes" in found["test_build"].message
    allowed = _find(allow_test_builds=True, **told)
    assert _kinds(allowed) == {"test_build": NOTE}


def test_a_userdebug_build_is_worth_a_word() -> None:
    found = _find(fingerprint=USER.replace(":user/", ":userdebug/"))
    assert _kinds(found) == {"test_build": NOTE}
    assert "userdebug" in found["test_build"].message


class TestBattery:
    @pytest.mark.parametrize(
        ("usb", "status", "kind", "words"),
        [
            (True, 2, PASSES, "it charges"),
            (False, DISCHARGING, BLOCKS, "nothing charges it"),
            (True, DISCHARGING, BLOCKS, "nothing charges it"),  # the port gives too little
        ],
    )
    def test_a_low_one_passes_if_it_charges(
        self, usb: bool, status: int, kind: tuple[bool, bool], words: str
    ) -> None:
        dump = battery_dump(level_pct=12, celsius=27.0, status=status)
        dump = dump.replace("USB powered: true", f"USB powered: {str(usb).lower()}")
        found = _find(battery=dump)
        assert _kinds(found) == {"low_battery": kind}
        assert "12 %, 25 needed" in found["low_battery"].message
        assert words in found["low_battery"].message
        assert _find(battery=dump, limits=Limits(min_battery_pct=10)) == {}

    def test_a_faked_one_is_told_with_what_to_do(self) -> None:
        dump = battery_dump(level_pct=60, celsius=27.0)
        stopped = dump.replace(
            "state:\n", "state:\n  (UPDATES STOPPED -- use 'reset' to restart)\n"
        )
        found = _find(battery=stopped)
        assert _kinds(found) == {"faked_battery": BLOCKS}
        assert "dumpsys battery reset" in found["faked_battery"].message

    @pytest.mark.parametrize(
        ("health", "code", "kind"),
        [
            (3, "hot", PASSES),
            (4, "battery_suspect", BLOCKS),
            (5, "battery_suspect", BLOCKS),
            (6, "battery_suspect", BLOCKS),
            (7, "cold", PASSES),
        ],
    )
    def test_the_phones_own_word(self, health: int, code: str, kind: tuple[bool, bool]) -> None:
        dump = battery_dump(level_pct=60, celsius=27.0).replace("health: 2", f"health: {health}")
        assert _kinds(_find(battery=dump)) == {code: kind}

    @pytest.mark.parametrize(
        ("level", "celsius", "kind"),
        [
            (60, 46.0, PASSES),  # it may have come from a job: it is looked at again
            (60, 64.0, BLOCKS),
            (60, -30.0, BLOCKS),
            (140, 27.0, BLOCKS),
            (-1, 27.0, BLOCKS),
            (60, 44.0, None),
        ],
    )
    def test_a_suspicious_one_is_told_with_what_to_do(
        self, level: int, celsius: float, kind: tuple[bool, bool] | None
    ) -> None:
        found = _find(battery=battery_dump(level_pct=level, celsius=celsius))
        suspect = found.get("battery_suspect")
        assert (suspect and (suspect.blocking, suspect.passing)) == kind
        if suspect:
            assert "take the phone out" in suspect.message
            assert "bulges" in suspect.message

    def test_a_warm_one_beside_a_chip_that_is_warmer_is_no_wonder(self) -> None:
        chip = thermal_dump(status=0, sensors=[Heat(name="BIG", kind=CPU, celsius=58.0)])
        assert _find(battery=battery_dump(level_pct=60, celsius=46.0), heat=chip) == {}

    def test_a_worn_one_is_suspicious(self) -> None:
        found = _find(charge_full="2500000", charge_full_design="4500000")
        assert _kinds(found) == {"battery_suspect": BLOCKS}
        assert "56 %" in found["battery_suspect"].message
        assert _find(charge_full="2800000", charge_full_design="4500000") == {}

    @pytest.mark.parametrize(
        "dump",
        [
            battery_dump(level_pct=0, celsius=-40.0).replace("present: true", "present: false"),
            "Can't find service: battery",
            battery_dump(level_pct=7, celsius=27.0).replace("  level: 7\n", ""),
        ],
    )
    def test_none_is_worth_a_word(self, dump: str) -> None:
        assert _kinds(_find(battery=dump)) == {"no_battery": NOTE}


class TestHeat:
    def test_the_hottest_sensor_that_matters_is_named(self) -> None:
        sensors = [
            Heat(name="BIG", kind=CPU, celsius=41.0),
            Heat(name="VIRTUAL-SKIN", kind=SKIN, celsius=43.0),
            Heat(name="battery", kind=BATTERY, celsius=60.0),
        ]
        heat = thermal_dump(status=0, sensors=sensors)
        found = _find(heat=heat, limits=Limits(max_temperature_c=40.0))
        assert _kinds(found) == {"hot": PASSES}
        assert found["hot"].message == "VIRTUAL-SKIN is at 43 degC, at most 40 to start"

    def test_the_battery_is_held_to_the_same_limit(self) -> None:
        dump = battery_dump(level_pct=60, celsius=41.0)
        found = _find(battery=dump, limits=Limits(max_temperature_c=40.0))
        assert _kinds(found) == {"hot": PASSES}
        assert "its battery" in found["hot"].message

    @pytest.mark.parametrize(("status", "word"), [(1, "light"), (3, "severe"), (6, "shutdown")])
    def test_a_status_above_none_passes(self, status: int, word: str) -> None:
        found = _find(heat=thermal_dump(status=status, sensors=[]))
        assert _kinds(found) == {"throttled": PASSES}
        assert f"thermal status {status} ({word})" in found["throttled"].message

    def test_a_cooling_device_passes(self) -> None:
        assert _kinds(_find(cooler="2")) == {"throttled": PASSES}
        heat = thermal_dump(status=0, sensors=[], cooling=1)
        assert _kinds(_find(heat=heat)) == {"throttled": PASSES}

    @pytest.mark.parametrize(
        "heat",
        [
            thermal_dump(status=0, sensors=[], ready=False),
            "Can't find service: thermalservice",  # before Android 10
        ],
    )
    def test_unknown_is_not_cool(self, heat: str) -> None:
        found = _find(heat=heat)
        assert _kinds(found) == {"unknown_heat": NOTE}
        assert found["unknown_heat"].message.endswith("is not seen")
        assert _find(heat=heat, cooler="0")["unknown_heat"].message.endswith("devices only")
        assert "hot" in _find(heat=heat, zone="90000")

    def test_a_faked_status_is_told_with_what_to_do(self) -> None:
        heat = thermal_dump(status=0, sensors=[]).replace("Override: false", "Override: true")
        found = _find(heat=heat)
        assert _kinds(found) == {"faked_heat": BLOCKS}
        assert "thermalservice reset" in found["faked_heat"].message


@pytest.mark.parametrize("shell", SHELLS)
def test_everything_that_can_be_wrong(shell: str, tmp_path: Path, platform: MakePhone) -> None:
    phone = Phone(tmp_path)
    phone.set_properties(sys__boot_completed="0", ro__build__type="eng")
    phone.write("proc/meminfo", "MemTotal: 500000 kB\nMemFree: 1 kB\nMemAvailable: 30000 kB")
    phone.write("sys/devices/system/cpu/online", "0-5")
    phone.write(f"{PACK}/charge_full", "1000")
    phone.write(f"{PACK}/charge_full_design", "3000")
    sensors = [Heat(name="BIG", kind=CPU, celsius=81.0)]
    phone.tell("dumpsys/thermalservice", thermal_dump(status=2, sensors=sensors))
    phone.tell("dumpsys/battery", battery_dump(level_pct=3, celsius=41.0))
    (tmp_path / "farm").mkdir()
    board = platform(phone, shell, cpus="5-7")
    found = {f.code: f for f in board.preflight(Limits(min_free_bytes=1 << 62))}
    passing = {code for code, finding in found.items() if finding.passing}
    assert passing == {"booting", "low_memory", "low_battery", "hot", "throttled"}
    blocking = {code for code, finding in found.items() if finding.blocking} - passing
    assert blocking == {"test_build", "low_space", "battery_suspect", "no_core"}
    assert set(found) - passing - blocking == {"offline"}
    assert "33 %" in found["battery_suspect"].message
    assert "MiB free" in found["low_space"].message
    phone.set_properties(ro__build__type="user")
    assert "test_build" not in {f.code for f in board.preflight(Limits())}
