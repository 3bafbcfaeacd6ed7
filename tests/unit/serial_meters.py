"""Virtual meters behind terminals, and the drivers that talk to them, for several tests."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

import numpy as np

from drivers.virtual.rail import Rail, rail_of
from farm.metering import Chunk
from farm.model import Address, Device
from farm.protocols import Meter

PATIENCE_S = 60.0
"""The machine may be busy."""


def metered(address: str, *, volts: float = 5.0, idle_w: float = 1.5) -> tuple[Device, Rail]:
    """A device that draws power, with a meter at an address; nobody else has its rail."""
    name = f"dut-{uuid.uuid4().hex[:12]}"
    rail = rail_of(name, volts=volts, idle_w=idle_w)
    return Device(
        name=name, type="t", address=Address.parse("local:"), meter=Address.parse(address)
    ), rail


def read_until(meter: Meter, enough: Callable[[Chunk], bool]) -> Chunk:
    """Read until all that came together is enough."""
    deadline = time.monotonic() + PATIENCE_S
    chunks = [meter.read(timeout_s=0.2)]
    while not enough(whole := joined(chunks)):
        assert time.monotonic() < deadline, f"only {len(whole.t_ns)} samples, {whole.lost} lost"
        chunks.append(meter.read(timeout_s=0.2))
    return whole


def joined(chunks: list[Chunk]) -> Chunk:
    """Chunks one after the other."""
    return Chunk(
        t_ns=np.concatenate([c.t_ns for c in chunks]),
        power_w=np.concatenate([c.power_w for c in chunks]),
        logic=np.concatenate([c.logic for c in chunks]),
        lost=sum(c.lost for c in chunks),
    )
