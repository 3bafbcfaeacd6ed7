"""Programs of others read the virtual PPK2, and tell what its device draws."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, cast

import pytest

from drivers.meters.ppk2 import Ppk2
from drivers.virtual.machine import switch_all_off
from drivers.virtual.ppk2_meter import VirtualPpk2
from drivers.virtual.rail import rail_of
from farm.connection import Connection
from farm.model import Address, Device

pytestmark = pytest.mark.system

VOLTS = 3.3
LEVELS_W = (30e-6, 1e-3, 6.6e-3, 0.1, 0.9)
"""One for every range."""

PPK2_API = """
import json, sys, time
from ppk2_api.ppk2_api import PPK2_API
meter = PPK2_API(sys.argv[1], timeout=1)
meter.ser.reset_input_buffer()
meter.get_modifiers()
meter.use_ampere_meter()
meter.set_source_voltage(3300)
meter.toggle_DUT_power("ON")
meter.start_measuring()
data = b""
while len(data) < 4 * 60_000:
    data += meter.ser.read(4000)
meter.stop_measuring()
told = meter.get_samples(data)[0][20_000:]
constants = {key: list(meter.modifiers[key].values())
             for key in ("R", "GS", "GI", "O", "S", "I", "UG")}
print(json.dumps({"constants": constants, "mean_a": sum(told) / len(told) / 1e6}))
"""

PPK2LAB = """
import json, sys
from ppk2lab.device import PPK2
from ppk2lab.types import Mode
with PPK2.open(port=sys.argv[1], simulate=False) as meter:
    changed = [meter.set_mode(Mode.SOURCE), meter.set_source_voltage_mv(3300)]
    meter.set_dut_power(True)
    samples, total, gaps = 0, 0.0, 0
    with meter.stream(sample_limit=60_000) as events:
        for event in events:
            if not hasattr(event, "adc"):
                gaps += 1
                continue
            for current in meter.calibration.convert_block(event, 3300):
                samples += 1
                if samples > 20_000:
                    total += current
    told = meter.metadata.to_json()
print(json.dumps({
    "constants": told["calibration"], "warnings": told["warnings"], "vdd": told["vdd_mv"],
    "mode": told["mode"], "samples": samples, "gaps": gaps,
    "mean_a": total / (samples - 20_000) / 1e6, "applied": [one.applied for one in changed],
}))
"""


@pytest.fixture
def device() -> Iterator[Callable[[float], Device]]:
    """A device that draws so much, with its virtual meter switched on."""
    yield switched_on
    switch_all_off()


def switched_on(power_w: float) -> Device:
    name = f"draws-{power_w:g}"
    rail_of(name, volts=VOLTS, idle_w=power_w).step(time.monotonic_ns() - 10**9, power_w)
    asked = Device(
        name=name,
        type="kit",
        address=Address.parse("local:"),
        meter=Address.parse(f"virtual-ppk2:?volts={VOLTS}"),
    )
    return replace(asked, meter=VirtualPpk2.start(asked))


def ask(foreign: str, script: str, device: Device) -> dict[str, Any]:
    assert device.meter is not None
    done = subprocess.run(
        [foreign, "-c", script, device.meter.place], capture_output=True, text=True, timeout=100,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def ours(device: Device) -> dict[str, list[float]]:
    """The constants as our own driver reads them."""
    with closing(Ppk2(device, cast(Connection, None))) as meter:
        read = meter._calibration
    families = (
        read.shunt_ohm, read.square, read.gain, read.offset, read.per_volt, read.constant,
        read.user_gain,
    )  # fmt: skip
    return dict(zip(("R", "GS", "GI", "O", "S", "I", "UG"), map(list, families), strict=True))


@pytest.mark.parametrize("power_w", LEVELS_W)
def test_ppk2_api_reads_the_same_constants_and_the_true_mean(
    foreign: str, device: Callable[[float], Device], power_w: float
) -> None:
    kit = device(power_w)
    told = ask(foreign, PPK2_API, kit)
    assert told["mean_a"] == pytest.approx(power_w / VOLTS, rel=2e-3, abs=2e-8)
    assert told["constants"] == ours(kit)


@pytest.mark.parametrize("power_w", LEVELS_W[1:4])
def test_ppk2lab_reads_the_same_constants_and_the_true_mean(
    foreign: str, device: Callable[[float], Device], power_w: float
) -> None:
    kit = device(power_w)
    told = ask(foreign, PPK2LAB, kit)
    assert (told["gaps"], told["warnings"]) == (0, [])
    assert told["samples"] >= 60_000
    assert (told["mode"], told["vdd"], told["applied"]) == (2, 3300, [True, True])
    assert told["mean_a"] == pytest.approx(power_w / VOLTS, rel=2e-3)
    assert told["constants"] == ours(kit)
