"""Programs that nobody here wrote read the virtual inline meters: tc66-serial and pyummeter.

For the LPM01A there is none that can be installed from a package index; its virtual meter is
therefore only tried with our own driver (tests/unit/test_lpm01a.py).
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from drivers.virtual.tc66c_meter import VirtualTc66c
from drivers.virtual.um25c_meter import VirtualUm25c
from tests.unit.serial_meters import metered

pytestmark = pytest.mark.system

TC66C = """
import dataclasses, json, sys
from tc66_serial import Tc66Client
with Tc66Client(sys.argv[1]) as client:
    print(json.dumps([dataclasses.asdict(client.get_reading()) for _ in range(3)]))
"""
UM25C = """
import json, sys
from pyummeter import UMmeter, UMmeterInterfaceTTY
with UMmeter(UMmeterInterfaceTTY(sys.argv[1])) as meter:
    meter.set_timeout(10)
    wanted = ("model", "voltage", "intensity", "power", "temperature_celsius")
    print(json.dumps([{k: meter.get_data()[k] for k in wanted} for _ in range(3)]))
"""


def told_by(python: str, script: str, port: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [python, "-c", script, port], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    readings: list[dict[str, Any]] = json.loads(done.stdout)
    return readings


def test_tc66_serial_reads_the_virtual_tc66c(foreign: str) -> None:
    device, _ = metered("virtual-tc66c://?gain=1.02", volts=5.1234, idle_w=2.0)
    for reading in told_by(foreign, TC66C, VirtualTc66c.start(device).place):
        assert (reading["product_name"], reading["version"]) == ("TC66", "1.14")
        assert all(reading[f"pac{block}_checksum_valid"] for block in (1, 2, 3))
        assert reading["voltage"] == pytest.approx(5.1234)
        assert reading["power"] == pytest.approx(2.04, rel=2e-3)
        assert reading["current"] * reading["voltage"] == pytest.approx(reading["power"], abs=2e-4)


@pytest.mark.parametrize("model", ["UM24C", "UM25C", "UM34C"])
def test_pyummeter_reads_every_virtual_meter_of_the_family(foreign: str, model: str) -> None:
    device, _ = metered(f"virtual-um25c://{model}?gain=0.98", volts=5.12, idle_w=2.0)
    for reading in told_by(foreign, UM25C, VirtualUm25c.start(device).place):
        assert reading["model"] == model
        assert reading["voltage"] == pytest.approx(5.12)
        assert reading["power"] == pytest.approx(1.96, abs=0.006)
        assert reading["intensity"] == pytest.approx(1.96 / 5.12, abs=0.002)
        assert reading["temperature_celsius"] == 25
