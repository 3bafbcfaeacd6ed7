"""The virtual supply, asked by PyVISA in a process and an environment of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from drivers.virtual.machine import switch_all_off
from drivers.virtual.rail import rail_of
from drivers.virtual.scpi_meter import VirtualScpi
from farm.model import Address, Device

pytestmark = pytest.mark.system

CLIENT = """
import json, sys
import pyvisa
manager = pyvisa.ResourceManager("@py")
supply = manager.open_resource(sys.argv[1], read_termination="\\n", write_termination="\\n")
supply.timeout = 20000
values = [supply.query_ascii_values("MEAS:POW?")[0] for _ in range(20)]
supply.write("MEAS:TEMP?")
print(json.dumps({
    "identity": supply.query("*IDN?"),
    "power_w": values,
    "voltage_v": supply.query_ascii_values("MEASURE:VOLTAGE? CH1")[0],
    "current_a": supply.query_ascii_values("MEAS:CURR:DC? (@1)")[0],
    "errors": [supply.query("SYST:ERR?") for _ in range(2)],
}))
supply.close()
manager.close()
"""


@pytest.fixture
def supply() -> Iterator[str]:
    """What VISA calls a supply that feeds 3 W at 5 V."""
    device = Device(
        name="foreign-supplied", type="t", address=Address.parse("local:"),
        meter=Address.parse("virtual-scpi://?seed=1"),
    )  # fmt: skip
    rail_of(device.name, volts=5.0, idle_w=3.0)
    host, _, port = VirtualScpi.start(device).place.partition(":")
    yield f"TCPIP::{host}::{port}::SOCKET"
    switch_all_off()


def test_pyvisa_understands_it(foreign: str, supply: str) -> None:
    done = subprocess.run(
        [foreign, "-c", CLIENT, supply], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["identity"].startswith("Farm,Virtual supply (simulated),SIM")
    assert said["power_w"] == pytest.approx([3.0] * 20, rel=1e-2)
    assert said["voltage_v"] == 5.0
    assert said["current_a"] == pytest.approx(0.6, rel=1e-2)
    assert said["errors"] == ['-113,"Undefined header"', '+0,"No error"']
