"""What processors count of their own energy, played by trees of files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from drivers.meters.file_looks import Look
from drivers.meters.file_samples import Counted, Samples
from drivers.meters.powercap import Powercap
from drivers.transports.local import LocalTransport
from farm.errors import ConfigError, ConnectError
from farm.metering import Chunk
from farm.model import Address, Device

PATIENCE_S = 60.0
MS = 10**6
RANGE_UJ = 262_143_328_850
"""Of a real processor."""
WRITE_ONLY = Path("/sys/bus/platform/drivers_probe")
"""The kernel lets nobody read it, not even root."""


def device(meter: str, folder: Path) -> Device:
    return Device(
        name="server",
        type="server",
        address=Address.parse(f"local://?root={folder / 'farm'}"),
        meter=Address.parse(meter),
    )


class Package:
    """A zone below a root that plays `/sys`."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "the sys"
        self.folder = self.root / "class" / "powercap" / "intel-rapl:0"
        self.folder.mkdir(parents=True)
        self.write("name", "package-0")
        self.write("max_energy_range_uj", str(RANGE_UJ))
        self.write("energy_uj", str(RANGE_UJ - 1_000_000))

    def write(self, name: str, text: str) -> None:
        part = self.root / "part"
        part.write_text(f"{text}\n")
        part.replace(self.folder / name)

    def meter(self, folder: Path, at: str = "host", zone: str = "intel-rapl:0") -> Powercap:
        unit = device(f"powercap://{zone}?at={at}&root={self.root}", folder)
        return Powercap(unit, LocalTransport(unit))


def _energy_j(chunks: list[Chunk]) -> float:
    if not chunks:
        return 0.0
    times = np.concatenate([c.t_ns for c in chunks])
    powers = np.concatenate([c.power_w for c in chunks])
    return float((powers[1:] * np.diff(times)).sum() / 1e9)


@pytest.mark.parametrize("at", ["host", "device"])
def test_a_counter_that_wraps(at: str, tmp_path: Path) -> None:
    package = Package(tmp_path)
    meter = package.meter(tmp_path, at)
    assert meter.facts().model == "intel-rapl:0 package-0"
    assert not meter.facts().in_path
    meter.start()
    chunks: list[Chunk] = []
    deadline = time.monotonic() + PATIENCE_S
    while _energy_j(chunks) < 2.9:
        assert time.monotonic() < deadline
        chunks.append(meter.read(timeout_s=0.2))
        if len(chunks[-1].t_ns):
            package.write("energy_uj", "2000000")
    meter.close()
    assert _energy_j(chunks) == pytest.approx(3.0)
    assert sum(c.lost for c in chunks) == 0


def test_what_may_have_wrapped_twice_is_unknown() -> None:
    samples = Samples(Counted(unit_j=1e-6, wraps_at=65_000_000), period_s=0.01, counter=True)
    looks = [
        Look(t_ns=t_ms * MS, values=(uj,)) for t_ms, uj in ((0, 0), (10, 10_000), (200, 20_000))
    ]
    chunk = samples.chunk(looks)
    assert (list(chunk.t_ns), chunk.lost) == ([10 * MS], 1)


def test_a_machine_without_it(tmp_path: Path) -> None:
    with pytest.raises(ConnectError, match="no zone") as refused:
        Package(tmp_path).meter(tmp_path, zone="intel-rapl:1")
    assert "intel-rapl:0 (package-0)" in refused.value.hint


@pytest.mark.parametrize(
    "meter", ["powercap:", "powercap://../../etc", "powercap://intel-rapl", "powercap://a:0?at=x"]
)
def test_what_can_never_work(meter: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Powercap.check(device(meter, tmp_path))


@pytest.mark.parametrize("at", ["host", "device"])
def test_only_root_may_read_it(at: str, tmp_path: Path, lacks: Callable[[str], None]) -> None:
    package = Package(tmp_path)
    path = package.folder / "energy_uj"
    if os.getuid():
        path.chmod(0)
    elif WRITE_ONLY.exists():
        path.unlink()
        path.symlink_to(WRITE_ONLY)
    else:
        lacks("root may read everything here: run as another user")
    meter = package.meter(tmp_path, at)
    with pytest.raises(ConnectError) as refused:
        meter.start()
    assert "chmod a+r" in refused.value.hint
    meter.close()
