"""What the services of phones of several generations and makers print is understood."""

from __future__ import annotations

import random

import pytest

from drivers.platforms.android_log import recent_log
from drivers.platforms.android_told import Battery, Heat, read_battery, read_heat
from drivers.platforms.linux_leftovers import MAX_BYTES, MAX_LINES
from drivers.platforms.linux_told import Pairs
from tests.unit.test_android_phones import SEED, WORDS

ANDROID_10 = """
IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 1
\tkilled: false
\tbroadcasts count: -1
ThermalStatusListeners:
\tcallbacks: 3
\tkilled: false
\tbroadcasts count: -1
Thermal Status: 1
Cached temperatures:
\tTemperature{mValue=99.0, mType=3, mName=skin, mStatus=1}
HAL Ready: true
HAL connection:
\tThermalHAL 2.0 connected: yes
Current temperatures from HAL:
\tTemperature{mValue=41.2, mType=3, mName=skin, mStatus=1}
\tTemperature{mValue=30.1, mType=2, mName=battery, mStatus=0}
\tTemperature{mValue=57.4, mType=0, mName=cpu-0-0-usr, mStatus=0}
\tTemperature{mValue=55.0, mType=0, mName=cpu-1-0-usr, mStatus=0}
Current cooling devices from HAL:
\tCoolingDevice{mValue=0, mType=2, mName=thermal-cpufreq-0}
\tCoolingDevice{mValue=0, mType=3, mName=thermal-devfreq-0}
"""
ANDROID_13_WITH_LIMITS = """
IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 2
\tkilled: false
\tbroadcasts count: -1
ThermalStatusListeners:
\tcallbacks: 1
\tkilled: false
\tbroadcasts count: -1
Thermal Status: 0
Cached temperatures:
\tTemperature{mValue=29.9, mType=3, mName=VIRTUAL-SKIN, mStatus=0}
\tTemperature{mValue=12.0, mType=6, mName=vbat, mStatus=0}
HAL Ready: true
HAL connection:
\tThermalHAL 2.0 connected: yes
Current temperatures from HAL:
\tTemperature{mValue=-40.0, mType=9, mName=TPU OFF, mStatus=0}
\tTemperature{mValue=1225.0, mType=7, mName=ibat, mStatus=0}
\tTemperature{mValue=4123.0, mType=6, mName=vbat, mStatus=0}
\tTemperature{mValue=83.0, mType=8, mName=soc, mStatus=0}
\tTemperature{mValue=NaN, mType=1, mName=G3D, mStatus=0}
\tTemperature{mValue=-3.5, mType=3, mName=VIRTUAL-SKIN, mStatus=0}
Current cooling devices from HAL:
\tCoolingDevice{mValue=2, mType=2, mName=thermal-cpufreq-2}
\tCoolingDevice{mValue=7, mType=1, mName=fcc}
Temperature static thresholds from HAL:
\tTemperatureThreshold{type=3, name=VIRTUAL-SKIN, hot=[NaN, 39.0, 43.0], cold=[NaN, NaN]}
"""
ANDROID_15_AIDL = """
IsStatusOverride: false
Thermal Status: 3
Cached temperatures:
HAL Ready: true
HAL connection:
\tThermal HAL AIDL 2  connected: yes
Current temperatures from HAL:
\tTemperature{mValue=61.0, mType=13, mName=SOC, mStatus=0}
\tTemperature{mValue=66.0, mType=12, mName=modem, mStatus=0}
Current cooling devices from HAL:
Temperature static thresholds from HAL:
Temperature headroom thresholds:
[NaN, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3]
"""
NO_SECTION = """
IsStatusOverride: false
Thermal Status: 0
Cached temperatures:
\tTemperature{mValue=33.0, mType=3, mName=xo therm {x}, mStatus=0}
HAL Ready: true
"""
NOT_READY = """
IsStatusOverride: false
Thermal Status: 0
Cached temperatures:
\tTemperature{mValue=20.0, mType=3, mName=skin, mStatus=0}
HAL Ready: false
"""
OVERRIDDEN = NO_SECTION.replace("Override: false", "Override: true")


def _lines(name: str, text: str) -> Pairs:
    return [(name, line.strip()) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize(
    ("text", "heat"),
    [
        (ANDROID_10, Heat(status=1, sensor="cpu-0-0-usr", temperature_c=57.4, cooler=0)),
        (
            ANDROID_13_WITH_LIMITS,
            Heat(status=0, sensor="VIRTUAL-SKIN", temperature_c=-3.5, cooler=2),
        ),
        (ANDROID_15_AIDL, Heat(status=3, sensor="SOC", temperature_c=61.0)),
        (NO_SECTION, Heat(status=0, sensor="xo therm {x}", temperature_c=33.0)),
        (NOT_READY, Heat()),
        (OVERRIDDEN, Heat(faked=True, status=0, sensor="xo therm {x}", temperature_c=33.0)),
        ("Can't find service: thermalservice", Heat()),
        ("Thermal Status: 77", Heat()),
        ("Thermal Status: 99999999999999999999999", Heat()),
        ("Thermal Status: -1", Heat()),
        ("", Heat()),
    ],
)
def test_heat(text: str, heat: Heat) -> None:
    assert read_heat(_lines("heat", text)) == heat


@pytest.mark.parametrize(
    ("heat", "slowed"),
    [
        (Heat(), None),
        (Heat(status=0), 0),
        (Heat(status=1), 1),
        (Heat(status=0, cooler=2), 2),
        (Heat(cooler=0), 0),
    ],
)
def test_what_takes_speed_away(heat: Heat, slowed: float | None) -> None:
    assert heat.slowed == slowed


PIXEL_14 = """
Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Dock powered: false
  Max charging current: 500000
  Max charging voltage: 5000000
  Charge counter: 3571000
  status: 2
  health: 2
  present: true
  level: 83
  scale: 100
  voltage: 4123
  temperature: 287
  technology: Li-ion
  Charging state: 0
  Charging policy: 1
  Capacity level: 3
"""
SAMSUNG = """
Current Battery Service state:
  AC powered: false
  USB powered: false
  Wireless powered: false
  Max charging current: 0
  Max charging voltage: 0
  Charge counter: 2411000
  status: 3
  health: 7
  present: true
  level: 1
  scale: 4
  voltage: 3
  temperature: -35
  technology: Li-ion
  batteryMiscEvent: 65536
  batteryCurrentEvent: 0
  mSecPlugTypeSummary: 0
  LED Charging: false
  current now: -312
  charge counter: 2411
  Adaptive Fast Charging Settings: true
  temperature: 999
  level: 77
"""
FAKED = """
Current Battery Service state:
  (UPDATES STOPPED -- use 'reset' to restart)
  AC powered: true
  status: 5
  present: false
  voltage: 7821000
"""


@pytest.mark.parametrize(
    ("text", "battery"),
    [
        (
            PIXEL_14,
            Battery(
                powered=True, present=True, status=2, health="good", level_pct=83.0,
                temperature_c=28.7, voltage_v=4.123,
            ),
        ),
        (
            SAMSUNG,
            Battery(
                powered=False, present=True, status=3, health="cold", level_pct=25.0,
                temperature_c=-3.5, voltage_v=3.0,
            ),
        ),
        (FAKED, Battery(faked=True, powered=True, present=False, status=5, voltage_v=7.821)),
        ("Can't find service: battery", Battery()),
        ("level: 50\nscale: 0", Battery()),
        ("level: many\nhealth: 12\nstatus: -1\npresent: perhaps\nvoltage: -4", Battery()),
        ("temperature: nan\nlevel: inf\nvoltage: 1e30\nhealth: 9999999999999", Battery()),
        ("", Battery()),
    ],
)  # fmt: skip
def test_battery(text: str, battery: Battery) -> None:
    assert read_battery(_lines("battery", text)) == battery


@pytest.mark.parametrize(
    ("status", "told", "amperes"),
    [
        ("2", "350000", 0.35),
        ("2", "-350000", 0.35),  # a vendor that turns the sign
        ("3", "350000", -0.35),
        ("3", "-350000", -0.35),
        ("5", "-1000", -0.001),
        ("", "2000", 0.002),
        ("2", "0", 0.0),
        ("2", "9" * 30, None),
        ("2", "unknown", None),
    ],
)
def test_the_current_flows_in_while_it_charges(
    status: str, told: str, amperes: float | None
) -> None:
    pairs = [("current_now", told), ("battery", f"status: {status}")]
    assert read_battery(pairs).current_a == (None if amperes is None else pytest.approx(amperes))


def test_a_look_that_did_not_ask_the_service_knows_what_it_said_before() -> None:
    assert read_battery([("current_now", "1000000")], 3).current_a == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("full", "design", "share"),
    [
        ("4187000", "4485000", 93.36),
        ("4485000", "0", None),
        ("0", "4485000", None),
        ("-1", "-1", None),
        ("4485", "4485000", None),  # another unit
        ("x", "4485000", None),
        ("9" * 40, "4485000", None),
    ],
)
def test_what_is_left_of_the_capacity(full: str, design: str, share: float | None) -> None:
    found = read_battery([("charge_full", full), ("charge_full_design", design)]).capacity_pct
    assert found == (None if share is None else pytest.approx(share, abs=0.01))


@pytest.mark.parametrize(("told", "cycles"), [("212", 212), ("0", None), ("-1", None), ("x", None)])
def test_cycles(told: str, cycles: int | None) -> None:
    assert read_battery([("cycle_count", told)]).cycles == cycles


def test_lines_that_were_cut_or_mixed_are_no_error() -> None:
    dice = random.Random(SEED)
    texts = (ANDROID_10, ANDROID_13_WITH_LIMITS, ANDROID_15_AIDL, PIXEL_14, SAMSUNG, FAKED)
    for _ in range(400):
        words = "".join(dice.choices(texts, k=2)).split(" ")
        for _ in range(dice.randrange(8)):
            words[dice.randrange(len(words))] = dice.choice(WORDS)
        text = " ".join(words)[: dice.randrange(3000)]
        read_heat(_lines("heat", text))
        read_battery(_lines("battery", text))


def test_the_log_is_bounded_and_headings_are_nothing() -> None:
    assert recent_log("--------- beginning of main\n--------- beginning of system\n") == ""
    assert recent_log("") == ""
    lines = [f"04-05 12:00:00.{n:03}  1000  1000 I tag: message {n}" for n in range(300)]
    kept = recent_log("\n".join(lines)).splitlines()
    assert kept == lines[-MAX_LINES:]
    assert len(recent_log("x" * 99999).encode()) == MAX_BYTES
