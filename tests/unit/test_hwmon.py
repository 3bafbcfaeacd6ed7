"""Meters that are files: chips below `/sys/class/hwmon`, played by trees of files."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from drivers.meters.file_looks import HostFiles, Look, read_whole
from drivers.meters.file_samples import Counted, Samples, Told
from drivers.meters.hwmon import Hwmon
from drivers.meters.hwmon_channels import find_channel, read_items
from drivers.transports.local import LocalTransport
from drivers.virtual.hwmon_meter import VirtualHwmon, switch_all_off
from drivers.virtual.rail import rail_of
from farm.errors import ConfigError, ConnectError, ConnectionLost, FarmError
from farm.metering import Chunk
from farm.model import Address, Device

PATIENCE_S = 60.0
"""This machine may be busy."""
MS = 10**6
WRITE_ONLY = Path("/sys/bus/platform/drivers_probe")
"""The kernel lets nobody read it, not even root."""


def device(meter: str, folder: Path, name: str = "board") -> Device:
    return Device(
        name=name,
        type="board",
        address=Address.parse(f"local://?root={folder / 'farm'}"),
        meter=Address.parse(meter),
    )


class Chip:
    """A folder below a root that plays `/sys`."""

    def __init__(self, folder: Path, number: int = 0, **files: str) -> None:
        self.root = folder / "the sys"
        self.folder = self.root / "class" / "hwmon" / f"hwmon{number}"
        self.folder.mkdir(parents=True)
        for name, text in files.items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        """In one go, as the kernel does."""
        part = self.root / "part"
        part.write_text(f"{text}\n")
        part.replace(self.folder / name)

    def meter(self, address: str, folder: Path) -> Hwmon:
        """A meter of this tree."""
        unit = device(f"{address}{'&' if '?' in address else '?'}root={self.root}", folder)
        return Hwmon(unit, LocalTransport(unit))


INA3221 = {
    "name": "ina3221",
    "in1_input": "5000", "in1_label": "VDD_IN", "curr1_input": "400", "curr1_label": "VDD_IN",
    "in2_input": "900", "in2_label": "VDD_CPU", "curr2_input": "1000", "curr2_label": "VDD_CPU",
    "in3_input": "1800", "curr3_input": "10",
    "in4_input": "4", "in5_input": "10", "in6_input": "0",
}  # fmt: skip
POWERZ = {
    "name": "powerz",
    "in0_input": "9012", "in0_label": "VBUS", "in1_input": "410", "in1_label": "VCC1",
    "in2_input": "0", "in2_label": "VCC2", "curr1_input": "-512", "curr1_label": "IBUS",
    "temp1_input": "31000", "temp1_label": "TEMP",
}  # fmt: skip
INA219 = {
    "name": "ina219", "in0_input": "4", "in1_input": "5000", "curr1_input": "400",
    "power1_input": "2000000", "update_interval": "18",
}  # fmt: skip


def gather(meter: Hwmon, enough: Callable[[list[Chunk]], bool]) -> list[Chunk]:
    """Chunks until there are enough."""
    chunks: list[Chunk] = []
    deadline = time.monotonic() + PATIENCE_S
    while not enough(chunks):
        assert time.monotonic() < deadline, [len(c.t_ns) for c in chunks]
        chunks.append(meter.read(timeout_s=0.2))
    return chunks


def several(chunks: list[Chunk]) -> bool:
    return sum(len(c.t_ns) for c in chunks) >= 5


class TestChannels:
    @pytest.mark.parametrize(
        ("chip", "wanted", "found"),
        [
            (POWERZ, "", ("in0_input", "curr1_input")),
            (POWERZ, "VBUS", ("in0_input", "curr1_input")),
            (POWERZ, "curr1", ("in0_input", "curr1_input")),
            (INA219, "", ("power1_input",)),
            (INA219, "curr1", ("in1_input", "curr1_input")),
            (INA3221, "VDD_CPU", ("in2_input", "curr2_input")),
            (INA3221, "in1", ("in1_input", "curr1_input")),
            (INA3221, "curr3", ("in3_input", "curr3_input")),
            (INA219 | {"energy1_input": "1"}, "", ("energy1_input",)),
        ],
    )
    def test_what_is_meant(self, chip: dict[str, str], wanted: str, found: tuple[str, ...]) -> None:
        assert find_channel(read_items(chip), wanted, "board").files == found

    @pytest.mark.parametrize(
        ("chip", "wanted"),
        [
            (INA3221, ""),  # three of them
            (INA3221, "VDD_GPU"),
            (INA3221, "in4"),  # a shunt, which has no current
            (POWERZ, "TEMP"),
            ({"name": "empty"}, ""),
        ],
    )
    def test_what_is_refused_with_what_there_is(self, chip: dict[str, str], wanted: str) -> None:
        with pytest.raises(ConfigError) as refused:
            find_channel(read_items(chip), wanted, "board")
        assert refused.value.hint
        assert "input" not in refused.value.hint
        for label in (text for name, text in chip.items() if name.endswith("_label")):
            assert label in refused.value.hint or label == "TEMP"


class TestAddress:
    @pytest.mark.parametrize(
        "meter", ["hwmon:", "hwmon://ina219?at=moon", "hwmon://ina219?class=gold"]
    )
    def test_what_can_never_work(self, meter: str, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as refused:
            Hwmon.check(device(meter, tmp_path))
        assert refused.value.hint

    def test_a_name_that_two_have_is_refused_and_a_folder_is_not(self, tmp_path: Path) -> None:
        chip = Chip(tmp_path, 0, **INA219)
        Chip(tmp_path / "other", 0, **INA219).folder.rename(chip.folder.with_name("hwmon7"))
        with pytest.raises(ConfigError, match="2 chips"):
            chip.meter("hwmon://ina219", tmp_path)
        assert chip.meter(f"hwmon://{chip.folder}", tmp_path).facts().model.startswith("ina219")

    def test_the_folder_of_what_the_chip_belongs_to(self, tmp_path: Path) -> None:
        chip = Chip(tmp_path, 3, **POWERZ)
        port = tmp_path / "usb1"
        (port / "1-2:1.0").mkdir(parents=True)
        (port / "serial").write_text("007965\n")
        chip.folder.rename(chip.folder.with_name("moved"))
        (port / "1-2:1.0" / "hwmon").symlink_to(tmp_path / "hwmons")
        (tmp_path / "hwmons").mkdir()
        home = tmp_path / "hwmons" / "hwmon3"
        chip.folder.with_name("moved").rename(home)
        (home / "device").symlink_to(port / "1-2:1.0")
        facts = chip.meter(f"hwmon://{port}/1-2:1.0", tmp_path).facts()
        assert (facts.serial, facts.meter_class) == ("007965", "km003c")
        assert facts.in_path

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        chip = Chip(tmp_path, **INA219)
        with pytest.raises(ConnectError, match="powerz") as refused:
            chip.meter("hwmon://powerz", tmp_path)
        assert "ina219" in refused.value.hint

    def test_a_chip_that_nobody_knows_needs_a_class(self, tmp_path: Path) -> None:
        chip = Chip(tmp_path, name="pac1934", power1_input="5")
        with pytest.raises(ConfigError, match="worth"):
            chip.meter("hwmon://pac1934", tmp_path)
        assert chip.meter("hwmon://pac1934?class=ina", tmp_path).facts().meter_class == "ina"


@pytest.mark.parametrize(
    ("at", "interval", "look_s", "conversion_s"),
    [
        ("host", "", 0.002, 0.0),
        ("host", "1", 0.002, 0.0),
        ("host", "140", 0.035, 0.140),
        ("device", "18", 0.05, 0.0),  # each look finds another reading
        ("device", "140", 0.05, 0.140),
    ],
)
def test_how_often_it_is_looked_at(
    at: str, interval: str, look_s: float, conversion_s: float, tmp_path: Path
) -> None:
    chip = Chip(tmp_path, **INA219 | {"update_interval": interval})
    plan = chip.meter(f"hwmon://ina219?at={at}", tmp_path).plan
    assert (plan.look_s, plan.conversion_s) == pytest.approx((look_s, conversion_s))


@pytest.mark.parametrize("at", ["host", "device"])
class TestReading:
    def test_power(self, at: str, tmp_path: Path) -> None:
        chip = Chip(tmp_path, **INA219)
        meter = chip.meter(f"hwmon://ina219?at={at}", tmp_path)
        assert meter.facts().in_path == (at == "host")
        before_ns = time.monotonic_ns()
        meter.start()
        chunks = gather(meter, several)
        meter.stop()
        times = np.concatenate([c.t_ns for c in chunks])
        assert (np.diff(times) > 0).all()
        assert before_ns - 20 * MS <= times[0]
        assert times[-1] <= time.monotonic_ns()
        assert set(np.concatenate([c.power_w for c in chunks])) == {2.0}

    def test_a_current_shows_how_an_inline_meter_is_plugged_in(
        self, at: str, tmp_path: Path
    ) -> None:
        meter = Chip(tmp_path, **POWERZ).meter(f"hwmon://powerz?at={at}", tmp_path)
        meter.start()
        chunks = gather(meter, several)
        meter.close()
        meter.close()
        assert np.concatenate([c.power_w for c in chunks]) == pytest.approx(9.012 * 0.512)

    def test_a_chip_that_vanishes(self, at: str, tmp_path: Path) -> None:
        chip = Chip(tmp_path, **INA219)
        meter = chip.meter(f"hwmon://ina219?at={at}", tmp_path)
        meter.start()
        gather(meter, several)
        chip.folder.rename(tmp_path / "away")
        with pytest.raises(ConnectionLost):
            gather(meter, lambda _: False)
        with pytest.raises(ConnectError):
            meter.start()
        meter.close()

    def test_half_a_number_is_none(self, at: str, tmp_path: Path) -> None:
        chip = Chip(tmp_path, **INA219 | {"update_interval": "0"})
        meter = chip.meter(f"hwmon://ina219?at={at}", tmp_path)
        meter.start()
        gather(meter, several)
        (chip.folder / "power1_input").write_text("20")
        time.sleep(0.3)
        chip.write("power1_input", "3000000")
        chunks = gather(meter, lambda c: bool(c) and 3.0 in c[-1].power_w)
        meter.close()
        assert set(np.concatenate([c.power_w for c in chunks])) <= {2.0, 3.0}
        assert sum(c.lost for c in chunks) > 0


def test_what_was_read_before_it_vanished_counts(tmp_path: Path) -> None:
    chip = Chip(tmp_path, **INA219)
    files = HostFiles("board", "")
    files.start((str(chip.folder / "power1_input"),), 0.01)
    deadline = time.monotonic() + PATIENCE_S
    while files._found.qsize() < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    chip.folder.rename(tmp_path / "away")
    assert files._thread
    files._thread.join(PATIENCE_S)
    assert len(files.looks(timeout_s=0)) >= 5
    with pytest.raises(ConnectionLost):
        files.looks(timeout_s=0)
    files.stop()


def test_no_right_to_read_is_told_with_the_fix(
    tmp_path: Path, lacks: Callable[[str], None]
) -> None:
    chip = Chip(tmp_path, **INA219)
    path = chip.folder / "power1_input"
    if os.getuid():
        path.chmod(0)
    elif WRITE_ONLY.exists():
        path.unlink()
        path.symlink_to(WRITE_ONLY)
    else:
        lacks("root may read everything here: run as another user")
    meter = chip.meter("hwmon://ina219", tmp_path)
    with pytest.raises(ConnectError, match="no right") as refused:
        meter.start()
    assert "udev" in refused.value.hint


class TestVirtual:
    @pytest.fixture(autouse=True)
    def off(self) -> Iterator[None]:
        yield
        switch_all_off()

    def _meter(self, name: str, options: str, folder: Path) -> Hwmon:
        unit = device(f"virtual-hwmon://?noise_ma=0&{options}", folder, name)
        address = VirtualHwmon.start(unit)
        assert VirtualHwmon.start(unit) == address
        unit = device(f"hwmon://{address.place}", folder, name)
        object.__setattr__(unit, "meter", address)
        return Hwmon(unit, LocalTransport(unit))

    def test_it_follows_the_rail(self, tmp_path: Path) -> None:
        rail = rail_of("hwmon-follows", idle_w=1.0)
        meter = self._meter("hwmon-follows", "gain=1.1", tmp_path)
        assert meter.facts().rate_hz == pytest.approx(1 / 0.018)
        meter.start()
        before = np.concatenate([c.power_w for c in gather(meter, several)])
        rail.step(time.monotonic_ns(), 2.0)
        gather(meter, lambda c: bool(c) and bool((abs(c[-1].power_w - 2.2) < 0.01).any()))
        meter.close()
        assert before == pytest.approx(1.1, abs=0.002)

    @pytest.mark.parametrize("fault", ["eagain", "torn"])
    def test_what_it_does_not_tell_is_lost_and_not_filled_in(
        self, fault: str, tmp_path: Path
    ) -> None:
        rail_of(f"hwmon-{fault}", idle_w=1.0)
        meter = self._meter(f"hwmon-{fault}", f"fault={fault}:0.5", tmp_path)
        meter.start()
        chunks = gather(meter, lambda c: any(chunk.lost for chunk in c))
        chunks += gather(meter, several)
        meter.close()
        times = np.concatenate([c.t_ns for c in chunks])
        assert np.diff(times).max() > 100 * MS
        assert np.concatenate([c.power_w for c in chunks]) == pytest.approx(1.0, abs=0.002)

    def test_it_vanishes(self, tmp_path: Path) -> None:
        rail_of("hwmon-vanishes", idle_w=1.0)
        meter = self._meter("hwmon-vanishes", "fault=vanish:0.5", tmp_path)
        meter.start()
        with pytest.raises(ConnectionLost):
            gather(meter, lambda _: False)
        meter.close()

    def test_a_bus_that_hangs_tells_the_same_for_ever(self, tmp_path: Path) -> None:
        rail = rail_of("hwmon-hangs", idle_w=1.0)
        meter = self._meter("hwmon-hangs", "fault=stall:0.3", tmp_path)
        meter.start()
        gather(meter, several)
        time.sleep(0.4)
        rail.step(time.monotonic_ns(), 3.0)
        time.sleep(0.3)
        chunks = gather(meter, several)
        meter.close()
        assert np.concatenate([c.power_w for c in chunks]) == pytest.approx(1.0, abs=0.002)

    @pytest.mark.parametrize(
        "options",
        [
            "averages=7",
            "gain=x",
            "gain=-1",
            "seed=nan",
            "fault=fire:1",
            "fault=stall",
            "noise_ma=inf",
        ],
    )
    def test_what_it_cannot_be(self, options: str, tmp_path: Path) -> None:
        with pytest.raises(ConfigError):
            VirtualHwmon.check(device(f"virtual-hwmon://?{options}", tmp_path))


def looks(*values: int | None, every_ms: int = 10) -> list[Look]:
    return [Look(t_ns=i * every_ms * MS, values=(v,)) for i, v in enumerate(values)]


class TestSamples:
    def test_the_same_reading_of_a_slow_chip_is_one_sample(self) -> None:
        samples = Samples(Told(unit_w=1.0), period_s=0.04, conversion_s=0.04, counter=False)
        chunk = samples.chunk(looks(5, 5, 5, *[6] * 12, 7))
        assert list(chunk.t_ns // MS) == [0, 30, 70, 110, 150]
        assert list(chunk.power_w) == [5, 6, 6, 6, 7]
        assert chunk.lost == 0

    def test_what_was_not_seen_while_looks_were_late_is_not_filled_in(self) -> None:
        samples = Samples(Told(unit_w=1.0), period_s=0.04, conversion_s=0.04, counter=False)
        late = Look(t_ns=1000 * MS, values=(5,))
        chunk = samples.chunk([*looks(5, 5), late])
        assert (list(chunk.t_ns // MS), chunk.lost) == ([0, 1000], 24)

    @pytest.mark.parametrize("noise", [0.0, 1.0])
    def test_every_reading_has_the_time_of_one_conversion(self, noise: float) -> None:
        seed = random.randrange(1 << 32)
        rng = np.random.default_rng(seed)
        conversion, count = 40.0, 2000
        values = rng.integers(1, 5, count) * 1000 + np.round(noise * rng.normal(size=count))
        times = np.cumsum(rng.uniform(9, 11, round(count * conversion / 10) - 50))
        found = [Look(t_ns=int(t * MS), values=(int(values[int(t / conversion)]),)) for t in times]
        samples = Samples(Told(unit_w=1.0), period_s=0.04, conversion_s=0.04, counter=False)
        chunk = samples.chunk(found)
        energy = (chunk.power_w[1:] * np.diff(chunk.t_ns)).sum()
        seen = int(chunk.t_ns[-1] / MS / conversion)
        true = values[1:seen].sum() * conversion * MS
        assert energy == pytest.approx(true, rel=0.01), seed
        assert chunk.lost == 0

    def test_a_look_that_failed_is_a_sample_that_is_lost(self) -> None:
        samples = Samples(Told(unit_w=1.0), period_s=0.01, counter=False)
        chunk = samples.chunk(looks(5, None, None, 5, 5))
        assert list(chunk.t_ns // MS) == [0, 30, 40]
        assert chunk.lost == 2

    def test_a_failed_look_between_two_conversions_loses_nothing(self) -> None:
        samples = Samples(Told(unit_w=1.0), period_s=0.04, conversion_s=0.04, counter=False)
        assert samples.chunk(looks(5, None, 5, 5, 6)).lost == 0

    def test_a_long_silence_is_a_loss(self) -> None:
        samples = Samples(Told(unit_w=1.0), period_s=0.01, counter=False)
        assert samples.chunk(looks(5, 5, every_ms=500)).lost == 49

    def test_a_counter_loses_nothing_by_a_look_that_failed(self) -> None:
        samples = Samples(Counted(unit_j=1e-6), period_s=0.01, counter=True)
        chunk = samples.chunk(looks(0, 10_000, None, 40_000))
        assert list(chunk.power_w) == pytest.approx([1.0, 1.5])
        assert chunk.lost == 0

    def test_a_counter_that_begins_anew_is_a_gap(self) -> None:
        samples = Samples(Counted(unit_j=1e-6), period_s=0.01, counter=True)
        chunk = samples.chunk(looks(50_000, 60_000, 100, 10_100))
        assert list(chunk.power_w) == pytest.approx([1.0, 1.0])
        assert chunk.lost == 1

    def test_energy_is_kept_whatever_the_looks(self) -> None:
        seed = random.randrange(1 << 32)
        rng = random.Random(seed)
        wraps_at, count, times, found = 200_000_000, 199_000_000, [0], []
        for _ in range(200):
            times.append(times[-1] + rng.randrange(1, 9 * MS))
            found.append(Look(t_ns=times[-1], values=(count if rng.random() < 0.8 else None,)))
            count = (count + rng.randrange(50_000)) % wraps_at
        whole = [look for look in found if None not in look.values]
        samples = Samples(Counted(unit_j=1e-6, wraps_at=wraps_at), period_s=0.005, counter=True)
        parts = [samples.chunk([look]) for look in found]
        edges = np.concatenate([[whole[0].t_ns], *(p.t_ns for p in parts)])
        energy_j = float((np.concatenate([p.power_w for p in parts]) * np.diff(edges)).sum() / 1e9)
        grown = 0
        for before, now in pairwise(whole):
            was, value = before.values[0], now.values[0]
            assert was is not None
            assert value is not None
            grown += (value - was) % wraps_at
        assert energy_j == pytest.approx(grown * 1e-6), seed


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"12\n", 12), (b"-7\n", -7), (b" 5 \n", 5), (b"12", None), (b"", None), (b"\n", None),
        (b"nan\n", None), (b"1.5\n", None), (b"0x10\n", None), (b"--1\n", None), (b"\xff\n", None),
    ],
)  # fmt: skip
def test_what_is_a_number(text: bytes, number: int | None) -> None:
    assert read_whole(text) == number


def test_a_thread_is_left_to_nobody(tmp_path: Path) -> None:
    meter = Chip(tmp_path, **INA219).meter("hwmon://ina219", tmp_path)
    for _ in range(3):
        meter.start()
    meter.close()
    assert "files" not in {thread.name for thread in threading.enumerate()}


def test_a_device_without_a_shell_has_no_meter_on_it(tmp_path: Path) -> None:
    unit = device("hwmon://ina219?at=device", tmp_path)

    class Mute(LocalTransport):
        has_shell = False

    with pytest.raises(FarmError, match="shell"):
        Hwmon(unit, Mute(unit))
