"""Supplies that speak SCPI: what they say is power, what they leave unsaid is lost."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from drivers.virtual.machine import switch_all_off
from drivers.virtual.rail import Rail, rail_of
from drivers.virtual.scpi_meter import VirtualScpi
from farm.connection import Connection
from farm.errors import ConfigError, ConnectError, ConnectionLost
from farm.metering import Chunk
from farm.model import Address, Device

if TYPE_CHECKING:
    from drivers.meters.scpi import Scpi

NO_CONNECTION = cast(Connection, None)
PATIENCE_S = 40.0
_numbers = itertools.count()


@pytest.fixture
def scpi(lacks: Callable[[str], None]) -> type[Scpi]:
    try:
        from drivers.meters.scpi import Scpi
    except ModuleNotFoundError as error:
        lacks(f"{error.name} is not installed: pip install 'verdict-farm[scpi]'")
        raise
    return Scpi


@pytest.fixture
def played(scpi: type[Scpi]) -> Iterator[Callable[[str], tuple[Scpi, Rail]]]:
    """Switches a virtual one on, on a rail of its own that idles at 2 W and 5 V, and opens it."""
    opened: list[Scpi] = []

    def play(options: str = "") -> tuple[Scpi, Rail]:
        device = a_device(f"virtual-scpi://{options}", f"supplied-{next(_numbers)}")
        rail = rail_of(device.name, volts=5.0, idle_w=2.0)
        VirtualScpi.check(device)
        opened.append(scpi(replace(device, meter=VirtualScpi.start(device)), NO_CONNECTION))
        return opened[-1], rail

    yield play
    for meter in opened:
        meter.close()
    switch_all_off()


def a_device(meter: str, name: str = "dut") -> Device:
    return Device(name=name, type="t", address=Address.parse("local:"), meter=Address.parse(meter))


def read(meter: Scpi, samples: int) -> list[Chunk]:
    """Chunks with at least so many samples, however slow this machine is."""
    chunks: list[Chunk] = []
    patience = time.monotonic() + PATIENCE_S
    while sum(len(chunk.t_ns) for chunk in chunks) < samples:
        assert time.monotonic() < patience, "it does not answer"
        chunks.append(meter.read(timeout_s=0.2))
    return chunks


def joined(chunks: list[Chunk], field: str) -> Any:
    return np.concatenate([getattr(chunk, field) for chunk in chunks])


def test_it_tells_what_it_is_and_what_flows(played: Callable[..., Any]) -> None:
    meter, _ = played("?gain=1.05")
    facts = meter.facts()
    assert (facts.meter_class, facts.model) == ("supply", "Farm Virtual supply (simulated)")
    assert facts.serial.startswith("SIM")
    assert (facts.firmware, facts.regular) == ("1.0", False)
    assert 0 < facts.rate_hz <= 50
    meter.start()
    began = time.monotonic_ns()
    chunks = read(meter, 20)
    assert joined(chunks, "power_w").mean() == pytest.approx(2.1, rel=3e-3)
    t_ns = joined(chunks, "t_ns")
    assert (np.diff(t_ns) > 0).all()
    assert began < t_ns[0] <= t_ns[-1] < time.monotonic_ns()


def test_volts_and_amperes_are_multiplied(played: Callable[..., Any]) -> None:
    meter, _ = played("?query=MEAS:VOLT? CH1*MEAS:CURR:DC? (@1)")
    meter.start()
    assert joined(read(meter, 5), "power_w").mean() == pytest.approx(2.0, rel=5e-3)


@pytest.mark.parametrize("fault", ["silent", "late", "nan", "garbage", "cut"])
def test_an_answer_that_fails_is_lost_and_the_next_is_its_own(
    played: Callable[..., Any], fault: str
) -> None:
    meter, _ = played(f"?query=MEAS:VOLT?*MEAS:CURR?&fault={fault}:13")
    meter.start()
    chunks = read(meter, 8)
    assert sum(chunk.lost for chunk in chunks) >= 1
    power_w = joined(chunks, "power_w")
    np.testing.assert_allclose(power_w, 2.0, rtol=2e-2)


def test_one_that_is_switched_off_is_lost_and_is_not_found_again(
    played: Callable[..., Any],
) -> None:
    meter, _ = played("?fault=off:12")
    meter.start()
    with pytest.raises(ConnectionLost, match="cannot be reached"):
        read(meter, 1000)
    with pytest.raises(ConnectError, match="no supply can be asked"):
        meter.start()
    meter.close()


def test_what_it_complains_of_is_told(played: Callable[..., Any]) -> None:
    with pytest.raises(ConnectError, match='it says -113,"Undefined header"'):
        played("?query=MEAS:TEMP?")


def test_another_one_is_refused(played: Callable[..., Any]) -> None:
    with pytest.raises(ConnectError, match=r"another instrument is there: SIM.*, not 4711"):
        played("?serial=4711")


def test_nobody_there(scpi: type[Scpi]) -> None:
    with pytest.raises(ConnectError, match=r"no supply can be asked at TCPIP::127\.0\.0\.1::1"):
        scpi(a_device("scpi://127.0.0.1:1"), NO_CONNECTION)
    with pytest.raises(ConnectError, match="no supply can be asked at ASRL"):
        scpi(a_device("scpi://?resource=ASRL/dev/none::INSTR"), NO_CONNECTION)


@pytest.mark.parametrize(
    ("meter", "said"),
    [
        ("scpi://", "'' is no place"),
        ("scpi://host", "'host' is no place"),
        ("scpi://host:0", "'host:0' is no place"),
        ("scpi://host:99999", "is no place"),
        ("scpi://host:5025?resource=USB0::1::2::3::INSTR", "is no place"),
        ("scpi://?resource=USB0", "'USB0' is no place"),
        ("scpi://host:5025?query=OUTP OFF", "'OUTP OFF' is no question"),
        ("scpi://host:5025?query=MEAS:POW?;OUTP OFF", "is no question"),
        ("scpi://host:5025?query=MEAS:POW?*", "'' is no question"),
        ("scpi://host:5025?query=*RST", "'' is no question"),
    ],
)
def test_addresses_that_can_never_work(scpi: type[Scpi], meter: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        scpi.check(a_device(meter))


@pytest.mark.parametrize(
    "meter",
    [
        "scpi://192.168.1.5:5025",
        "scpi://psu.lab:5025?query=MEAS:POW? CH1",
        "scpi://?resource=USB0::0x1AB1::0x0E11::DP8A::INSTR&query=:MEASure:SCALar:POWer:DC? (@2)",
    ],
)
def test_addresses_that_can(scpi: type[Scpi], meter: str) -> None:
    scpi.check(a_device(meter))


@pytest.mark.parametrize("options", ["?gain=x", "?seed=-1", "?fault=melt:1", "?fault=nan"])
def test_a_virtual_one_refuses_what_it_cannot_play(options: str) -> None:
    with pytest.raises(ConfigError):
        VirtualScpi.check(a_device(f"virtual-scpi://{options}"))
