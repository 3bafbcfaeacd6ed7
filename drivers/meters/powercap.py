"""What processors count of their own energy: RAPL, below `/sys/class/powercap`."""

from __future__ import annotations

import re
from typing import ClassVar

from drivers.meters.file_meter import HOST, ON_DEVICE, FileMeter, Plan, where
from drivers.meters.file_samples import Counted
from farm.connection import Connection
from farm.errors import ConfigError, ConnectError
from farm.metering import ClockDomain, MeterFacts
from farm.model import Device

PERIOD_S = {HOST: 0.01, ON_DEVICE: 0.05}
"""A counter moves once a millisecond or so: more often, its steps would look like peaks."""
FIX = (
    "only root may read it; allow it until the next start with: "
    "sudo chmod a+r /sys/class/powercap/*/energy_uj, or for good in a udev rule"
)
_ZONE = re.compile(r"[A-Za-z][\w.-]*(:\d+)+", re.ASCII)


class Powercap(FileMeter):
    """One zone of a processor: a package, its cores, its memory; nothing else of the device.

    Address: `powercap://intel-rapl:0`. Options: `at`, `host` (the default) or `device`: whose
    processor it is; `root`, instead of `/sys`.
    """

    options: ClassVar[tuple[str, ...]] = ("at", "root")
    meter_class: ClassVar[str] = "rapl"

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse what is no zone."""
        super().check(device)
        if not _ZONE.fullmatch(device.metered_by.place):
            raise ConfigError(
                f"'{device.metered_by.place}' is no zone of powercap",
                device=device.name,
                hint="write for example powercap://intel-rapl:0; see: ls /sys/class/powercap",
            )

    def __init__(self, device: Device, connection: Connection) -> None:
        super().__init__(device, connection, FIX)
        root, zone = device.metered_by.option("root") or "/sys", device.metered_by.place
        folder = f"{root}/class/powercap/{zone}"
        told = self.files.tell((f"{folder}/name", f"{folder}/max_energy_range_uj"))
        if not told:
            zones = self.files.tell((f"{root}/class/powercap/*:*/name",)).items()
            there = (f"{path.split('/')[-2]} ({name})" for path, name in zones)
            raise ConnectError(
                f"no zone '{zone}' is there",
                device=device.name,
                hint=f"there is: {', '.join(sorted(there)) or 'nothing'}",
            )
        self._model = f"{zone} {told.get(f'{folder}/name', '')}".strip()
        wraps_at = told.get(f"{folder}/max_energy_range_uj", "")
        self.plan = Plan(
            paths=(f"{folder}/energy_uj",),
            power_w=Counted(unit_j=1e-6, wraps_at=int(wraps_at) if wraps_at.isdigit() else 0),
            look_s=PERIOD_S[where(device)],
            counter=True,
        )

    def facts(self) -> MeterFacts:
        """A processor's own account: not in the path of what the device draws."""
        return MeterFacts(
            meter_class=self.meter_class,
            model=self._model,
            clock=ClockDomain.HOST,
            rate_hz=1 / self.plan.period_s,
            in_path=False,
        )
