"""Where a serial line begins on this machine: a path, a USB serial number, or a TCP port.

Names such as `/dev/ttyUSB0` go to whoever is plugged in first. Stable are the links below
`/dev/serial/by-id` (the adapter), `/dev/serial/by-path` (the socket that it sits in), and the
serial number that an adapter or a board tells over USB, as long as it is told by one only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from serial.tools import list_ports
from serial.tools.list_ports_common import ListPortInfo

from drivers.serial_ports.port import TCP
from farm.errors import ConfigError, ConnectError
from farm.model import Address

BY_PATH = Path("/dev/serial/by-path")
_TCP = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s/:@]+):(\d{1,5})", re.ASCII)
_SERIAL = re.compile(r"[^\s/@]+")
"""May hold colons: some chips tell the hardware address of their radio."""


def check_place(address: Address, device: str) -> None:
    """Refuse a place that can never work, on this machine or another; opens nothing.

    That nothing with a serial number is plugged in here is no mistake in the inventory: it is also
    read elsewhere than in the lab. That two tell the same number is one wherever it is seen.

    Args:
        address: of a line, or of a meter.
        device: the inventory name of what it belongs to.

    Raises:
        ConfigError: it names nothing, or two ports.
    """
    place = address.place
    tcp = _TCP.fullmatch(place)
    if (
        not place.isprintable()
        or (tcp and not 0 < int(tcp[2]) < 65536)
        or not (place.startswith("/") or tcp or _SERIAL.fullmatch(place))
    ):
        raise ConfigError(
            f"'{place}' names no serial port",
            device=device,
            hint="write for example {0}:///dev/serial/by-id/NAME, {0}://SERIALNUMBER or "
            "{0}://HOST:PORT".replace("{0}", address.scheme),
        )
    if not place.startswith("/") and not tcp:
        _only_one(place, device, ports_with_number(place))


def find_port(address: Address, device: str) -> str:
    """The path of the port, or `socket://HOST:PORT`; what it says is true at this moment only.

    Raises:
        ConfigError: two ports have the serial number.
        ConnectError: none has it.
    """
    place = address.place
    if place.startswith("/"):
        return place
    if _TCP.fullmatch(place):
        return TCP + place
    found = ports_with_number(place)
    _only_one(place, device, found)
    if not found:
        raise ConnectError(
            f"nothing with the serial number '{place}' is plugged in",
            device=device,
            hint=f"there is: {', '.join(_stable_names(list_ports.comports())) or 'nothing'}",
        )
    return str(found[0].device)


def usb_name(port: str) -> str:
    """Product and serial number of what a port belongs to, empty where it is not known."""
    path = os.path.realpath(port)
    info = next((one for one in list_ports.comports() if one.device == path), None)
    words = (info.product, info.serial_number) if info else ()
    return " ".join(word for word in words if word)


def ports_with_number(number: str) -> list[ListPortInfo]:
    """The ports whose adapter or board tells that serial number over USB."""
    return sorted(port for port in list_ports.comports() if port.serial_number == number)


def _only_one(place: str, device: str, found: list[ListPortInfo]) -> None:
    if len(found) > 1:
        raise ConfigError(
            f"{len(found)} ports have the serial number '{place}'",
            device=device,
            hint=f"write the path of one of them: {', '.join(_stable_names(found))}",
        )


def _stable_names(ports: Sequence[ListPortInfo]) -> list[str]:
    """For each port the link that names its socket, or its path where there is none."""
    links = sorted(BY_PATH.iterdir()) if BY_PATH.is_dir() else []
    names = {os.path.realpath(link): str(link) for link in links}
    return [names.get(os.path.realpath(port.device), port.device) for port in ports]
