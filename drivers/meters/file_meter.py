"""What meters have in common that are files of this machine or of the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from drivers.meters.device_files import DeviceFiles
from drivers.meters.file_looks import Files, HostFiles, Look
from drivers.meters.file_samples import Samples
from farm.connection import Connection
from farm.errors import ConfigError, nearest_hint
from farm.metering import Chunk
from farm.model import Device
from farm.protocols import Meter

HOST, ON_DEVICE = "host", "device"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How files are made samples of.

    Attributes:
        paths: of the files.
        power_w, conversion_s, counter: as in `Samples`.
        look_s: from one look to the next.
    """

    paths: tuple[str, ...]
    power_w: Callable[[Look | None, Look], float | None]
    look_s: float
    conversion_s: float = 0.0
    counter: bool = False

    @property
    def period_s(self) -> float:
        """From one sample to the next."""
        return max(self.look_s, self.conversion_s)

    def begin(self) -> Samples:
        """Samples that know of nothing before."""
        return Samples(
            self.power_w,
            period_s=self.period_s,
            conversion_s=self.conversion_s,
            counter=self.counter,
        )


class FileMeter(Meter):
    """Looks at files, at a pace that its plan names.

    Subclasses find `files` and make a `plan`.

    Args:
        device: whose meter it is; the option `at` tells whose files they are.
        connection: to it.
        fix: what gives the right to read the files, for people.
    """

    plan: Plan

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse files of neither this machine nor the device."""
        at = where(device)
        if at not in (HOST, ON_DEVICE):
            raise ConfigError(
                f"at '{at}' means nothing for a meter",
                device=device.name,
                hint=nearest_hint(at, (HOST, ON_DEVICE)),
            )

    def __init__(self, device: Device, connection: Connection, fix: str) -> None:
        self.check(device)
        self.files: Files = (
            HostFiles(device.name, fix) if where(device) == HOST else DeviceFiles(connection, fix)
        )

    def start(self) -> None:
        """Begin with looks."""
        self._samples = self.plan.begin()
        self.files.start(self.plan.paths, self.plan.look_s)

    def read(self, *, timeout_s: float) -> Chunk:
        """What the looks since the last call told."""
        return self._samples.chunk(self.files.looks(timeout_s=timeout_s))

    def stop(self) -> None:
        """End the looks."""
        self.files.stop()

    def close(self) -> None:
        """Nothing is held."""
        self.stop()


def where(device: Device) -> str:
    """Whose files a meter's are: those of this machine, unless its address says otherwise."""
    return device.meter.option("at", HOST) if device.meter else HOST
