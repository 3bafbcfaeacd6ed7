"""A phone's battery gauge and its rails, over a shell.

No phone was asked: what the services print is written after the sources of AOSP (BatteryService,
and the power stats HAL of Pixel phones), by hand.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from drivers.meters.android_gauge import AndroidGauge
from drivers.meters.android_rails import AndroidRails, Counts
from drivers.meters.device_files import TICK_NS, DeviceClock, up_time_ns
from drivers.transports.local import LocalTransport
from drivers.virtual.phone_dumps import CHARGING, DISCHARGING, battery_dump
from farm.connection import Stream
from farm.errors import ConfigError, ConnectError, FarmError, MeterGap, PreflightFailed
from farm.metering import Chunk
from farm.model import Address, Device
from farm.protocols import Meter
from farm.shell import Completed
from tests.unit.test_android_phones import PACK, SHELLS, Phone, phone_words

PATIENCE_S = 60.0
MS = 10**6
HAL = "dumpsys/android.hardware.power.stats.IPowerStats/default"
HAL_TEXT = """
============= PowerStats HAL 2.0 energy consumers ==============
                               TPU         12345.00 mWs
========== End of PowerStats HAL 2.0 energy consumers ==========

============= PowerStats HAL 2.0 energy meter ==============
                           Channel    Cumulative Energy
           [S2M_VDD_CPUCL2]:CPU_BIG        {big:.2f} mWs
        [S4M_VDD_CPUCL0]:CPU_LITTLE        {little:.2f} mWs
                [VSYS_PWR_MODEM]:Modem     91234567.00 mWs
========== End of PowerStats HAL 2.0 energy meter ==========
"""


def device(meter: str, folder: Path) -> Device:
    return Device(
        name="phone",
        type="phone",
        address=Address.parse(f"local://?root={folder / 'farm'}"),
        meter=Address.parse(meter),
    )


class PhoneShell(LocalTransport):
    """Commands run by a phone's shell and with a phone's tools."""

    def __init__(self, unit: Device, words: tuple[str, ...]) -> None:
        super().__init__(unit)
        self._words = words

    def run(self, argv: tuple[str, ...], *, timeout_s: float, **others: object) -> Completed:
        assert argv[0] == "sh"
        return super().run((*self._words, *argv[1:]), timeout_s=timeout_s)

    def stream(self, argv: tuple[str, ...]) -> Stream:
        assert argv[0] == "sh"
        return super().stream((*self._words, *argv[1:]))


MakeMeter = Callable[[str, str], Meter]


@pytest.fixture
def phone(tmp_path: Path) -> Phone:
    phone = Phone(tmp_path)
    unplugged = battery_dump(level_pct=62, celsius=28, plugged="", status=DISCHARGING)
    phone.tell("dumpsys/battery", unplugged)
    return phone


@pytest.fixture
def make(
    phone: Phone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lacks: Callable[[str], None],
) -> MakeMeter:
    monkeypatch.setenv("FARM_TREE", str(phone.folder))
    kinds: dict[str, type[Meter]] = {"gauge": AndroidGauge, "rails": AndroidRails}

    def made(meter: str, shell: str) -> Meter:
        for program in (shell, "toybox" if shell == "mksh" else shell):
            if not shutil.which(program):
                lacks(f"no {program}: apt-get install {program}")
        unit = device(meter, tmp_path)
        words = phone_words(shell, tmp_path, phone)
        assert unit.meter
        return kinds[unit.meter.scheme](unit, PhoneShell(unit, words))

    return made


def gather(meter: Meter, enough: Callable[[list[Chunk]], bool]) -> list[Chunk]:
    """Chunks until there are enough."""
    chunks: list[Chunk] = []
    deadline = time.monotonic() + PATIENCE_S
    while not chunks or not enough(chunks):
        assert time.monotonic() < deadline
        chunks.append(meter.read(timeout_s=0.2))
    return chunks


def some(chunks: list[Chunk]) -> bool:
    return len(chunks[-1].t_ns) > 0


def tells(power_w: float) -> Callable[[list[Chunk]], bool]:
    """Enough is a chunk with this sample alone."""
    return lambda chunks: list(np.round(chunks[-1].power_w, 6)) == [power_w]


def energy_j(chunks: list[Chunk]) -> float:
    times = np.concatenate([c.t_ns for c in chunks])
    powers = np.concatenate([c.power_w for c in chunks])
    return float((powers[1:] * np.diff(times)).sum() / 1e9)


@pytest.mark.parametrize("shell", SHELLS)
class TestGauge:
    def test_a_register_that_changes_is_a_sample(
        self, shell: str, phone: Phone, make: MakeMeter
    ) -> None:
        phone.write(f"{PACK}/current_now", "431000")  # this vendor counts what flows out
        phone.write(f"{PACK}/voltage_now", "4000000")
        meter = make("gauge:", shell)
        assert not meter.facts().in_path
        meter.start()
        gather(meter, tells(1.724))
        assert len(meter.read(timeout_s=1.0).t_ns) == 0  # it keeps its value: nothing new
        phone.write(f"{PACK}/current_now", "-500000")
        gather(meter, tells(2.0))
        meter.close()
        meter.close()

    def test_the_services_tell_where_files_do_not(
        self, shell: str, phone: Phone, make: MakeMeter
    ) -> None:
        cmd = phone.tools / "cmd"
        cmd.write_text('#!/bin/sh\n[ "$*" = "battery get -f current_now" ] && echo -300000\n')
        cmd.chmod(0o755)
        meter = make("gauge:", shell)
        assert meter.facts().rate_hz == 1
        meter.start()
        gather(meter, tells(1.23))
        meter.close()

    @pytest.mark.parametrize(
        ("plugged", "status", "why"),
        [("USB", CHARGING, "fed by usb"), ("AC", 4, "fed by ac"), ("", CHARGING, "discharge")],
    )
    def test_a_phone_that_is_fed(
        self, shell: str, plugged: str, status: int, why: str, phone: Phone, make: MakeMeter
    ) -> None:
        phone.write(f"{PACK}/current_now", "431000")
        dump = battery_dump(level_pct=62, celsius=28, plugged=plugged, status=status)
        phone.tell("dumpsys/battery", dump)
        meter = make("gauge:", shell)
        with pytest.raises(PreflightFailed, match=why) as refused:
            meter.start()
        assert "wireless" in refused.value.hint

    def test_a_service_that_was_told_what_to_say(
        self, shell: str, phone: Phone, make: MakeMeter
    ) -> None:
        phone.write(f"{PACK}/current_now", "431000")
        dump = battery_dump(level_pct=62, celsius=28, plugged="", status=DISCHARGING)
        stopped = "state:\n  (UPDATES STOPPED -- use 'reset' to restart)"
        phone.tell("dumpsys/battery", dump.replace("state:", stopped))
        with pytest.raises(PreflightFailed, match="what to say"):
            make("gauge:", shell).start()

    @pytest.mark.parametrize("current", ["", "garbage", "$(touch pwned)", "12 13"])
    def test_a_phone_that_does_not_tell(
        self, shell: str, current: str, phone: Phone, make: MakeMeter
    ) -> None:
        phone.write(f"{PACK}/current_now", current)
        with pytest.raises(ConnectError, match="does not tell"):
            make("gauge:", shell)

    def test_another_unit(self, shell: str, phone: Phone, make: MakeMeter) -> None:
        phone.write(f"{PACK}/current_now", "431")
        meter = make("gauge:", shell)
        meter.start()
        with pytest.raises(MeterGap, match="431 uA"):
            gather(meter, lambda _: False)
        meter.close()


@pytest.mark.parametrize("shell", SHELLS)
class TestRails:
    def test_the_hal(self, shell: str, phone: Phone, make: MakeMeter) -> None:
        phone.tell(HAL, HAL_TEXT.format(big=1_000_000, little=500))
        meter = make("rails:?rail=S2M_VDD_CPUCL2+S4M_VDD_CPUCL0", shell)
        assert meter.facts().model == "rails S2M_VDD_CPUCL2 + S4M_VDD_CPUCL0"
        meter.start()
        chunks = gather(meter, some)
        phone.tell(HAL, HAL_TEXT.format(big=1_003_000, little=1500))
        chunks += gather(meter, lambda c: bool((c[-1].power_w > 0).any()))
        meter.close()
        assert energy_j(chunks) == pytest.approx(4.0)

    def test_files_with_their_own_time(self, shell: str, phone: Phone, make: MakeMeter) -> None:
        main, sub = (f"sys/bus/iio/devices/iio:device{n}/energy_value" for n in (0, 1))

        def write(t_ms: int, big_uj: int, little_uj: int) -> None:
            phone.write(main, f"t={t_ms}\nCH0(T={t_ms})[BIG], {big_uj}\nCH1(T={t_ms})[TPU], 7")
            phone.write(sub, f"t={t_ms + 3}\nCH0(T={t_ms})[LITTLE], {little_uj}")

        write(1000, 0, 0)
        meter = make("rails:?rail=BIG%2BLITTLE", shell)
        meter.start()
        gather(meter, lambda _: bool(meter._up_ns))  # type: ignore[attr-defined]
        write(2000, 0, 0)
        chunks = gather(meter, some)
        write(3000, 2_000_000, 4_000_000)
        chunks += gather(meter, lambda c: energy_j(chunks + c) > 5.99)
        assert energy_j(chunks) == pytest.approx(6.0)
        assert len(meter.read(timeout_s=0.5).t_ns) == 0  # the kernel says that it is the same
        write(4000, 1_000_000, 4_000_000)
        gather(meter, lambda c: c[-1].lost == 1)  # it began anew
        meter.close()

    @pytest.mark.parametrize(("rail", "named"), [("", "missing"), ("?rail=NO", "no rail NO")])
    def test_a_rail_that_there_is_not(
        self, shell: str, rail: str, named: str, phone: Phone, make: MakeMeter
    ) -> None:
        phone.tell(HAL, HAL_TEXT.format(big=1, little=1))
        with pytest.raises(ConfigError, match=named) as refused:
            make(f"rails:{rail}", shell)
        assert refused.value.hint == "it has: S2M_VDD_CPUCL2, S4M_VDD_CPUCL0, VSYS_PWR_MODEM"

    def test_a_phone_without_them(self, shell: str, phone: Phone, make: MakeMeter) -> None:
        with pytest.raises(ConnectError, match="nothing of its rails"):
            make("rails:?rail=X", shell)


class TestClock:
    def test_a_line_that_is_handed_over_late_has_its_own_time(self) -> None:
        clock = DeviceClock()
        for second in range(1, 6):
            clock.stamp_ns(second * 10**9, second * 10**9 + 100 * MS + second * MS)
        stamp = clock.stamp_ns(6 * 10**9, 6 * 10**9 + 1500 * MS)
        assert abs(stamp - (6 * 10**9 + 101 * MS)) <= TICK_NS

    def test_stamps_never_run_backwards_nor_ahead(self) -> None:
        rng = np.random.default_rng(5)
        clock, stamps = DeviceClock(), []
        true = np.cumsum(rng.integers(20 * MS, 40 * MS, 500))
        for now in true:
            arrived = int(now) + int(rng.exponential(3 * MS))
            stamps.append((clock.stamp_ns(int(now) // TICK_NS * TICK_NS, arrived), arrived))
        assert all(stamp <= arrived for stamp, arrived in stamps)
        assert all(after[0] > before[0] for before, after in pairwise(stamps))
        late = np.array([stamp for stamp, _ in stamps]) - true
        assert np.abs(late[50:]).max() <= 1.5 * TICK_NS

    @pytest.mark.parametrize(
        ("text", "ns"),
        [("12.34", 12_340_000_000), ("0.00", 0), ("12", None), ("", None), ("a.bc", None)],
    )
    def test_time_since_boot(self, text: str, ns: int | None) -> None:
        assert up_time_ns(text) == ns


@pytest.mark.parametrize("meter", ["gauge://phone", "rails://phone?rail=X"])
def test_a_phone_measures_itself_only(meter: str, tmp_path: Path) -> None:
    unit = device(meter, tmp_path)
    kind = AndroidGauge if meter.startswith("gauge") else AndroidRails
    with pytest.raises(FarmError, match="no place"):
        kind.check(unit)


def test_lines_of_older_hals_name_rails_plainly() -> None:
    counts = Counts()
    for line in ("from=1.00", "rail=  VSYS_PWR_WLAN_BT        120.50 mWs", "to=1.04"):
        counts.hear(line)
    assert counts.of(["VSYS_PWR_WLAN_BT"]) == (1_020 * MS, (120_500,))
