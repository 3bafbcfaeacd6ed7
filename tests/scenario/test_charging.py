"""Batteries in the rack: kept in their band, judged, and put into quarantine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest

from drivers.virtual.platform import VirtualPlatform
from drivers.virtual.transport import VirtualTransport
from farm import charging
from farm.battery import Look, Suspicion
from farm.connection import Tell, Transport, silent
from farm.errors import CommandTimeout, ConfigError, ConnectError
from farm.inventory import read_inventory
from farm.lease import leased
from farm.model import Device
from farm.protocols import Power
from farm.record import Fact, Reading
from farm.store import schema
from farm.store.batteries import begin_quarantine, end_quarantine, read_looks, save_look
from farm.store.database import open_store

Run = Callable[..., Any]


class FilePower(Power):
    """A port that is a file with its state; a file `stuck` beside it keeps it from obeying."""

    options: ClassVar[tuple[str, ...]] = ("port_file",)

    def __init__(self, device: Device) -> None:
        self._file = Path(device.option("port_file"))

    @classmethod
    def check(cls, device: Device) -> None:
        if not device.option("port_file"):
            raise ConfigError("power 'file' needs 'port_file'", hint="name a file")

    def on(self) -> None:
        self._switch("on")

    def off(self) -> None:
        self._switch("off")

    def _switch(self, word: str) -> None:
        if self._file.with_name("stuck").exists():
            raise CommandTimeout("the port did not switch within 5 s", hint="see to the hub")
        self._file.write_text(word)
        with self._file.with_name("switched").open("a") as log:
            log.write(f"{word} ")


class UsbPhone(VirtualTransport):
    """A virtual phone that is there while its port is on."""

    platform: ClassVar[str] = "bench-phone"

    def __init__(self, device: Device) -> None:
        self.introduce(device)
        super().__init__(device)

    @classmethod
    def introduce(cls, device: Device, tell: Tell = silent) -> tuple[tuple[str, str], ...]:
        port = Path(device.option("port_file"))
        if port.exists() and port.read_text() == "off":
            raise ConnectError("no such phone", device=device.name, hint="plug it in")
        return ()


class BenchPlatform(VirtualPlatform):
    """Tells of the battery what the file `pack` beside the port says."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self._file = Path(transport.device.option("port_file")).with_name("pack")

    def facts(self) -> tuple[Fact, ...]:
        told = self._told("facts")
        return (*super().facts(), *(Fact(name=name, value=str(told[name])) for name in told))

    def sample(self) -> tuple[Reading, ...]:
        told = self._told("readings")
        return tuple(Reading(t_ns=0, name=name, unit="", value=told[name]) for name in told)

    def _told(self, part: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self._file.read_text())
        return told[part]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """One phone with its port and its pack."""

    folder: Path

    def port(self, state: str) -> None:
        (self.folder / "port").write_text(state)

    def pack(self, level: float | None = 55.0, celsius: float = 25.0, **facts: object) -> None:
        readings = {"battery_temperature": celsius} | ({} if level is None else {"battery": level})
        told = {f"battery_{name}": value for name, value in facts.items()}
        (self.folder / "pack").write_text(json.dumps({"readings": readings, "facts": told}))

    def stick(self) -> None:
        (self.folder / "stuck").touch()

    @property
    def switched(self) -> list[str]:
        log = self.folder / "switched"
        return log.read_text().split() if log.exists() else []

    @property
    def entry(self) -> str:
        return (
            "type: phone, address: 'bench-usb://phone', power: file, host: shelf, "
            f"port_file: '{self.folder}/port'"
        )


@pytest.fixture(autouse=True)
def drivers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The drivers above, registered as another package's; a phone that is away is soon given up."""
    info = tmp_path / "site" / "bench_phones-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-phones\nVersion: 1.0\n")
    points = (
        ("transports", "bench-usb", "UsbPhone"),
        ("platforms", "bench-phone", "BenchPlatform"),
        ("power", "file", "FilePower"),
    )
    lines = [f"[farm.{group}]\n{name} = {__name__}:{kind}\n" for group, name, kind in points]
    (info / "entry_points.txt").write_text("".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(charging, "ANSWER_S", 0.05)
    monkeypatch.setattr(charging, "POLL_S", 0.01)
    monkeypatch.setenv("USER", "ada")


@pytest.fixture
def shelf(lab: Any) -> Iterator[Shelf]:
    folder = lab.folder / "shelf"
    folder.mkdir()
    made = Shelf(folder=folder)
    made.pack()
    lab.inventory(phone=made.entry)
    return made


def row(ran: Any, name: str = "phone") -> dict[str, Any]:
    found: dict[str, Any] = next(d for d in ran.document["devices"] if d["device"] == name)
    return found


@pytest.mark.parametrize(
    ("level", "switched", "port", "did"),
    [
        (100.0, ["off"], "off", "not charged: 40-70 % is its band"),
        (70.0, ["off"], "off", "not charged: 40-70 % is its band"),
        (69.0, [], "as it was", "in its band of 40-70 %"),
        (41.0, [], "as it was", "in its band of 40-70 %"),
        (40.0, ["on"], "on", "charged to 70 %"),
        (0.0, ["on"], "on", "charged to 70 %"),
    ],
)
def test_the_port_follows_the_band(
    command: Run, shelf: Shelf, level: float, switched: list[str], port: str, did: str
) -> None:
    shelf.pack(level)
    ran = command("charge", "--json")
    assert ran.code == 0
    assert ran.document["schema"] == "farm.charge/1"
    assert (shelf.switched, row(ran)["port"], row(ran)["did"]) == (switched, port, did)
    assert row(ran)["battery"]["level_pct"] == level


@pytest.mark.parametrize(
    ("level", "switched"),
    [(90.0, ["on", "off"]), (55.0, ["on", "off"]), (40.0, ["on"])],
)
def test_a_phone_without_power_is_woken_to_be_asked(
    command: Run, shelf: Shelf, level: float, switched: list[str]
) -> None:
    shelf.pack(level)
    shelf.port("off")
    assert command("charge").code == 0
    assert shelf.switched == switched


def test_a_phone_without_power_is_woken_to_be_met(command: Run, shelf: Shelf) -> None:
    shelf.port("off")
    ran = command("enroll", "phone")
    assert ran.code == 0, ran.err
    assert shelf.switched == ["on"]


def test_a_band_of_its_own_and_a_table_for_people(command: Run, lab: Any, shelf: Shelf) -> None:
    lab.inventory(phone=f"{shelf.entry}, charge_band: 20-50")
    shelf.pack(55.0, 24.5, health="Good")
    ran = command("charge", "phone")
    assert ran.code == 0
    cells = next(line for line in ran.out.splitlines() if "phone" in line).split("  ")
    assert [cell.strip() for cell in cells if cell.strip()] == [
        "phone [simulated]", "55 %", "24.5", "good", "off", "not charged: 20-50 % is its band",
    ]  # fmt: skip


def test_the_shipped_virtual_phone_has_a_battery(command: Run, lab: Any, tmp_path: Path) -> None:
    entry = f"power: file, port_file: '{tmp_path}/port'"
    lab.inventory(v=f"type: phone, address: 'virtual://phone?seed=1', {entry}")
    ran = command("charge", "--json")
    assert ran.code == 0
    assert row(ran, "v")["simulated"]
    assert row(ran, "v")["battery"]["level_pct"] == 65.0


def test_a_session_wakes_the_phone_and_leaves_it_in_its_band(
    command: Run, lab: Any, shelf: Shelf
) -> None:
    shelf.port("off")
    shelf.pack(80.0)
    ran = command("run", lab.suite("latency"), "--model", lab.models.good(), "--json")
    assert ran.code == 0, ran.err
    assert shelf.switched == ["on", "off"]
    shelf.pack(30.0)
    assert command("doctor", "phone").code == 0
    assert shelf.switched == ["on", "off", "on"]


def test_a_port_that_does_not_obey_after_a_job_costs_no_result(
    command: Run, lab: Any, shelf: Shelf
) -> None:
    shelf.pack(80.0)
    shelf.stick()
    ran = command("run", lab.suite("latency"), "--model", lab.models.good(), "--json")
    assert ran.code == 0
    assert ran.document["jobs"][0]["outcome"] == "COMPLETED"
    told = command("charge", "--json")
    assert told.code == 4
    assert row(told)["port"] == "unknown"
    assert row(told)["did"] == "the port did not switch within 5 s"
    assert row(told)["fix"] == "see to the hub"
    assert row(told)["battery"]["level_pct"] == 80.0


def test_a_port_that_does_not_obey_before_a_job_is_the_labs_fault(
    command: Run, lab: Any, shelf: Shelf
) -> None:
    shelf.port("off")
    shelf.stick()
    ran = command("run", lab.suite("latency"), "--model", lab.models.good())
    assert ran.code == 4
    assert "the port did not switch" in ran.complaint


def test_a_phone_that_stays_away_is_told_and_keeps_nobody_from_the_others(
    command: Run, lab: Any, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Shelf(folder=lab.folder / "other")
    other.folder.mkdir()
    other.pack(80.0)
    lab.inventory(phone=shelf.entry, other=other.entry.replace("phone'", "phone?seed=2'"))
    shelf.port("off")
    monkeypatch.setattr(FilePower, "on", lambda self: None)  # a hub that says yes and does nothing
    ran = command("charge", "--json")
    assert ran.code == 4
    assert (row(ran)["did"], row(ran)["fix"]) == ("no such phone", "plug it in")
    assert (row(ran)["battery"], row(ran)["port"]) == (None, "on")
    assert other.switched == ["off"]


def test_a_phone_that_tells_no_charge_is_told(command: Run, shelf: Shelf) -> None:
    shelf.pack(None)
    ran = command("charge", "--json")
    assert ran.code == 4
    assert row(ran)["did"] == "does not tell its charge"
    shelf.pack(177.0, -300.0, cycles="many", capacity_pct="nan")
    ran = command("charge", "--json")
    assert ran.code == 4
    told = row(ran)["battery"]
    assert [told[key] for key in ("level_pct", "temperature_c", "cycles", "capacity_pct")] == 4 * [
        None
    ]


def test_a_phone_in_use_is_left_alone(command: Run, lab: Any, shelf: Shelf) -> None:
    shelf.pack(90.0)
    (device,) = read_inventory(lab.folder / "inventory.yaml").devices
    with open_store(lab.folder / ".farm") as store, leased(store, device, "job:other"):
        ran = command("charge", "--json")
    assert ran.code == 0
    assert "in use by job:other" in row(ran)["did"]
    assert shelf.switched == []


def test_a_phone_in_maintenance_is_left_alone(command: Run, lab: Any, shelf: Shelf) -> None:
    lab.inventory(phone=f"{shelf.entry}, state: maintenance")
    shelf.pack(90.0)
    ran = command("charge", "--json")
    assert (ran.code, row(ran)["did"]) == (0, "in maintenance: left alone")
    assert shelf.switched == []


def test_a_suspicious_pack_is_quarantined_until_a_person_clears_it(
    command: Run, lab: Any, shelf: Shelf
) -> None:
    shelf.pack(30.0, health="Dead", cycles=900)
    ran = command("charge", "--json")
    assert ran.code == 4
    assert row(ran)["did"] == "quarantined: the phone calls its battery 'dead'"
    assert "look for swelling" in row(ran)["fix"]
    assert shelf.switched == ["off"]

    shelf.pack(30.0, health="good")
    again = command("charge")
    assert again.code == 4
    assert 'farm charge phone --cleared "WHY"' in again.out
    assert shelf.switched == ["off", "off"]

    fleet = command("fleet", "--json")
    assert row(fleet)["quarantine"]["saw"] == "the phone calls its battery 'dead'"
    assert row(fleet)["battery"]["cycles"] == 900
    shown = command("fleet").out
    assert "quarantined" in shown
    assert "phone: quarantined: the phone calls its battery 'dead'" in shown
    for words in (("doctor", "phone"), ("doctor",)):
        told = command(*words)
        assert told.code == 4
        assert "its battery is in quarantine: the phone calls its" in told.out
    assert "battery: at 30 %, 25.0 degC, dead, 900 cycles" in command("doctor", "phone").out
    assert shelf.switched == ["off", "off"]

    cleared = command("charge", "phone", "--cleared", "new pack \udcff")
    assert (cleared.code, cleared.out) == (0, "phone: its battery is trusted again\n")
    shelf.port("on")
    assert command("charge").code == 0
    assert command("doctor", "phone").code == 0
    assert row(command("fleet", "--json"))["quarantine"] is None
    with open_store(lab.folder / ".farm") as store, store.reading() as connection:
        (kept,) = connection.execute(schema.quarantine.select()).mappings()
    assert (kept["who"], kept["why"]) == ("ada", "new pack \\xff")


def test_nothing_is_measured_on_a_suspicious_pack(command: Run, lab: Any, shelf: Shelf) -> None:
    shelf.pack(50.0, health="dead")
    command("charge")
    words = ("run", lab.suite("latency"), "--model", lab.models.good())
    ran = command(*words)
    assert ran.code == 4
    assert "in quarantine: the phone calls its battery 'dead'" in ran.complaint
    assert "--cleared" in ran.complaint
    assert shelf.switched == ["off"]
    command("charge", "phone", "--cleared", "it was the wrong phone")
    shelf.port("on")
    shelf.pack(50.0)
    assert command(*words).code == 0


def test_a_job_sees_a_pack_go_bad(command: Run, lab: Any, shelf: Shelf) -> None:
    words = ("run", lab.suite("latency"), "--model", lab.models.good())
    shelf.pack(60.0, 31.0, health="good", cycles=12, capacity_pct=88)
    assert command(*words).code == 0
    told = row(command("fleet", "--json"))["battery"]
    assert (told["level_pct"], told["temperature_c"], told["cycles"]) == (60.0, 31.0, 12)
    assert not told["idle"]
    shelf.pack(60.0, health="over voltage")
    assert command(*words).code == 0
    assert row(command("fleet", "--json"))["quarantine"] is not None
    assert shelf.switched == ["off"]


def test_a_quarantined_phone_whose_port_is_stuck_is_to_be_unplugged(
    command: Run, shelf: Shelf
) -> None:
    shelf.pack(50.0, health="dead")
    shelf.stick()
    ran = command("charge", "--json")
    assert ran.code == 4
    assert row(ran)["port"] == "unknown"
    assert row(ran)["fix"].startswith("unplug it now; take it out of the rack")


def test_old_days_are_thinned_and_what_was_cleared_counts_no_more(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    with open_store(tmp_path / "store") as store:
        for hours in (*range(24), *range(24 * 30, 24 * 31), 24 * 200):
            taken = now - timedelta(hours=hours)
            save_look(store, "phone", Look(taken=taken, idle=hours % 2 == 0, level_pct=50.0))
        save_look(store, "other", Look(taken=now, idle=True))
        looks = read_looks(store, "phone", now)
        assert [look.taken for look in looks] == sorted(look.taken for look in looks)
        old = [look for look in looks if now - look.taken > timedelta(days=2)]
        assert len(looks) - len(old) == 24
        assert 3 <= len(old) <= 6  # the hours lie on two days
        assert all(look.idle for look in old)
        begin_quarantine(store, "phone", [Suspicion(saw="smoke", act="run")])
        assert end_quarantine(store, "phone", who="ada", why="new pack")
        assert not end_quarantine(store, "phone", who="ada", why="again")
        assert read_looks(store, "phone", now) == ()
        assert len(read_looks(store, "other", now)) == 1


@pytest.mark.parametrize(
    ("words", "complaint", "hint"),
    [
        (("charge", "phone", "--cleared", " "), "--cleared is empty", "say in a sentence why"),
        (("charge", "phone", "--cleared", "x", "--who", ""), "nobody is named", "--who"),
        (("charge", "--cleared", "x"), "--cleared needs one device", "farm charge DEVICE"),
        (("charge", "phone", "--cleared", "x"), "phone: is not in quarantine", "farm fleet"),
        (("charge", "phon"), "no device 'phon'", "did you mean 'phone'?"),
        (("charge", "pc"), "pc: no switchable port feeds it", "docs/batteries.md"),
    ],
)
def test_wrong_words_are_refused(
    command: Run, lab: Any, shelf: Shelf, words: tuple[str, ...], complaint: str, hint: str
) -> None:
    lab.inventory("pc", phone=shelf.entry)
    lab.inventory(pc="type: desktop, address: 'local:'", phone=shelf.entry)
    ran = command(*words)
    assert ran.code == 2
    assert complaint in ran.complaint
    assert hint in ran.complaint


def test_a_lab_without_ports_is_told(command: Run) -> None:
    ran = command("charge")
    assert ran.code == 2
    assert "no device is fed by a switchable port" in ran.complaint


@pytest.mark.parametrize(
    ("fields", "complaint", "hint"),
    [
        ("power: fiel, port_file: x", "unknown kind of power 'fiel'", "did you mean"),
        ("power: [file]", "expected", ""),
        ("power: file", "power 'file' needs 'port_file'", "name a file"),
        ("power: file, port_file: x, charge_band: 70-40", "'70-40' is no band", "40-70"),
        ("power: file, port_file: x, charge_band: 70", "'70' is no band", "40-70"),
        ("power: file, port_file: x, charge_bnad: 40-70", "charge_bnad", "charge_band"),
        ("charge_band: 40-70", "'charge_band' needs a 'power'", "docs/batteries.md"),
    ],
)
def test_a_wrong_inventory_is_refused(
    command: Run, lab: Any, fields: str, complaint: str, hint: str
) -> None:
    lab.inventory(p=f"type: phone, address: 'bench-usb://phone', {fields}")
    ran = command("charge")
    assert ran.code == 2
    assert complaint in ran.complaint
    assert hint in ran.complaint
