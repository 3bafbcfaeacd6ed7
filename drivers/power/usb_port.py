"""Power of a USB port, switched by the kernel of the controller."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import ClassVar

from farm.errors import ConfigError, InfraError
from farm.model import Device
from farm.protocols import Power

_PORT = re.compile(r"(\d{1,3})-((?:\d{1,2}\.)*)(\d{1,2})", re.ASCII)


class UsbPortPower(Power):
    """Switches a port of a hub that can do so; needs Linux 6.0 or newer, and the right to write.

    A port of a USB 3 hub is two to the kernel, and feeds until both are off: both are switched.

    Options of the device:
        power_port: the port as the kernel names what is plugged in there: `1-1.4`, port 4 of the
            hub 1-1.
    """

    options: ClassVar[tuple[str, ...]] = ("power_port",)

    def __init__(self, device: Device) -> None:
        self._device = device
        self._folder = _folder(device)

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse what is no port."""
        _folder(device)

    def on(self) -> None:
        """Enable the port."""
        self._switch("0")

    def off(self) -> None:
        """Disable it; the device vanishes from the controller's bus as well."""
        self._switch("1")

    def _switch(self, disabled: str) -> None:
        peer = self._folder / "peer"
        peers = (peer.resolve(),) if peer.exists() else ()
        for folder in (self._folder, *peers):
            self._write(folder / "disable", disabled)

    def _write(self, switch: Path, disabled: str) -> None:
        port = switch.parent.name
        if not switch.exists():
            raise InfraError(
                f"there is no switch for the USB port {port} here",
                device=self._device.name,
                hint="compare power_port with 'lsusb -t'; it takes Linux 6.0 or newer",
            )
        try:
            switch.write_text(disabled)
            obeyed = switch.read_text().strip() == disabled
        except OSError as error:
            forbidden = error.errno in (errno.EACCES, errno.EPERM)
            raise InfraError(
                f"cannot switch the USB port {port}: {error.strerror}",
                device=self._device.name,
                hint=_udev_rule(switch.parent) if forbidden else "see the kernel's log: dmesg",
            ) from error
        if not obeyed:
            raise InfraError(
                f"the hub does not switch its port {port}",
                device=self._device.name,
                hint="most hubs cannot; take one that uhubctl lists, or power: command",
            )


def _folder(device: Device) -> Path:
    """The folder of the kernel for a port, below `$FARM_TREE`, which no real controller sets."""
    text = device.option("power_port")
    match = _PORT.fullmatch(text)
    if not match:
        raise ConfigError(
            f"power_port '{text}' is no USB port",
            device=device.name,
            hint="write for example 'power_port: 1-1.4', as 'ls /sys/bus/usb/devices' names it",
        )
    bus, between, port = match.groups()
    hub = f"{bus}-{between.rstrip('.')}" if between else f"usb{bus}"
    interface = f"{hub if between else f'{bus}-0'}:1.0"
    tree = Path(os.environ.get("FARM_TREE") or "/")
    return tree / "sys/bus/usb/devices" / interface / f"{hub}-port{port}"


def _udev_rule(port: Path) -> str:
    """How everybody on the controller may switch a port."""
    return (
        "put into /etc/udev/rules.d/90-farm.rules and replug the hub: "
        f'ACTION=="bind", SUBSYSTEM=="usb", KERNEL=="{port.parent.name}", '
        f'RUN+="/bin/chmod a+w %S%p/{port.name}/disable"'
    )
