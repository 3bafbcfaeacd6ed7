"""Phones over the network, by the ADB protocol itself."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import ClassVar
from urllib.parse import urlsplit

from drivers.transports.adb_keys import Signer, signer
from drivers.transports.adb_link import ACCEPT_S, CONNECT_S, Link, LinkChannel, Unknown, WantsTls
from drivers.transports.adb_phone import PhoneTransport, PhoneWire, insist_on_serial, serial_of
from drivers.transports.adb_wire import Nonsense
from drivers.transports.posix import quota_bytes
from farm.connection import Tell, silent
from farm.errors import ConfigError, ConnectError, ConnectionLost, InfraError
from farm.model import Device
from farm.record import Fact

PORT = 5555
IDLE_LINKS = 4
"""How many connections are kept for the next command."""
REFUSALS = 3
PAUSE_S = 0.1


class AdbTransport(PhoneTransport):
    """A phone whose adbd listens on TCP, as after `adb tcpip 5555`.

    Address: `adb://host[:port]`. Options: `serial`, which `farm enroll` shows (without it no
    command is run: numbers on a network change, and nothing else tells one phone from another);
    `adb_key`, a private key's file (`~/.android/adbkey`, that of adb); `root`, the folder that the
    farm may fill (`/data/local/tmp/farm`); `quota_mib`, how much of it pushed files may take.
    """

    options: ClassVar[tuple[str, ...]] = ("adb_key", "serial", "root", "quota_mib")

    def _make_wire(self, device: Device) -> PhoneWire:
        return _Pool(device)

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse an address or a quota that cannot be read."""
        _place(device)
        quota_bytes(device)

    @classmethod
    def introduce(cls, device: Device, tell: Tell = silent) -> tuple[tuple[str, str], ...]:
        """Its serial number; a phone that does not know our key is asked, for somebody to accept.

        Raises:
            ConnectError: it cannot be reached, or nobody accepted.
        """

        def offer() -> None:
            tell(f"{device.name}: accept this computer on the phone's screen ({ACCEPT_S:g} s)")

        with contextlib.closing(_connected(device, offer)) as link:
            return (("serial", serial_of(link, device.name)),)


class _Pool(PhoneWire):
    """Connections to one phone: one for each service in use, and idle ones for the next."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._links: set[Link] = set()
        self._idle: list[Link] = []
        self._closed = False
        self._keep(self._fresh())

    def open(self, service: bytes) -> LinkChannel:
        link = self._idle_one() or self._fresh()
        try:
            return link.open(service, self._keep)
        except ConnectionRefusedError as error:
            self._keep(link)
            word = service.partition(b":")[0].decode()
            raise InfraError(f"its adbd has no '{word}'", device=self._device.name) from error
        except OSError as error:
            link.close()
            self._keep(link)
            raise ConnectionLost(
                f"the connection broke: {error.strerror or str(error) or 'it is silent'}",
                device=self._device.name,
            ) from error

    def banner(self) -> tuple[Fact, ...]:
        return (Fact(name="adb", value=self._banner),)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for link in self._links:
                link.close()
            self._links.clear()
            self._idle.clear()

    def _idle_one(self) -> Link | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                link = self._idle.pop()
            if link.alive():
                return link
            self._keep(link)

    def _fresh(self) -> Link:
        """Another connection, to the phone that was pinned."""
        link = _connected(self._device)
        try:
            insist_on_serial(link, self._device)
        except BaseException:
            link.close()
            raise
        self.features, self._banner = link.features, link.banner
        self.longest_name, self.block_bytes = link.longest_name, link.block_bytes
        with self._lock:
            self._links.add(link)
        return link

    def _keep(self, link: Link) -> None:
        """For the next service, unless it is of no use any more."""
        with self._lock:
            if link.closed or self._closed or len(self._idle) >= IDLE_LINKS:
                link.close()
                self._links.discard(link)
            else:
                self._idle.append(link)


def _place(device: Device) -> tuple[str, int]:
    """Host and port.

    Raises:
        ConfigError: the address has none.
    """
    text = device.address.place
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"'{text}' cannot be read: {error}", device=device.name) from error
    if not host or not host.isprintable() or " " in host or parts.path or "@" in text:
        raise ConfigError(
            f"'{text}' names no phone",
            device=device.name,
            hint="write for example adb://192.0.2.10:5555; for USB adb-server://SERIAL",
        )
    return host, port or PORT


def _connected(device: Device, offer: Callable[[], None] | None = None) -> Link:
    """A connection to whatever phone is there.

    Raises:
        ConnectError: it cannot be reached, or does not let us in.
        ConfigError: our key cannot be used.
    """
    place, where = _place(device), device.address.place

    def key() -> Signer:
        return signer(device)

    try:
        return _link(place, key, offer)
    except Unknown as error:
        message, hint = f"{where} does not know this computer", f"farm enroll {device.name}"
        raise _refused(device, message, hint) from error
    except WantsTls as error:
        message = f"{where} speaks with paired computers only"
        hint = "'adb pair' it and use adb-server://SERIAL, or open a port: adb tcpip 5555"
        raise _refused(device, message, hint) from error
    except socket.gaierror as error:
        hint = "check the name, or write the phone's number"
        raise _refused(device, f"the name of {where} cannot be found", hint) from error
    except Nonsense as error:
        hint = "check that the port is that of an adbd"
        raise _refused(device, f"{where} does not speak ADB with us: {error}", hint) from error
    except TimeoutError as error:
        asked = f"nobody accepted within {ACCEPT_S:g} s at {where}"
        silent_there = f"{where} does not answer within {CONNECT_S:g} s"
        hint = f"farm enroll {device.name}" if offer else "check power and network"
        raise _refused(device, asked if offer else silent_there, hint) from error
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "check power and network, and whether adbd listens: adb tcpip 5555"
        raise _refused(device, f"{where} cannot be reached: {reason}", hint) from error


def _link(
    place: tuple[str, int], key: Callable[[], Signer], offer: Callable[[], None] | None
) -> Link:
    """A connection; adbd sometimes refuses one that comes just behind the end of another.

    It calls them by their number in the process, which is used again before it is free.
    """
    for _ in range(REFUSALS):
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            return Link(place, key, offer=offer)
        time.sleep(PAUSE_S)
    return Link(place, key, offer=offer)


def _refused(device: Device, message: str, hint: str) -> ConnectError:
    return ConnectError(message, device=device.name, hint=hint)
