"""One SSH connection to a board: keys, jump host, cipher, and a host key that was pinned before."""

from __future__ import annotations

import base64
import contextlib
import getpass
import hashlib
import logging
import os
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import paramiko
from paramiko.pkey import UnknownKeyType

from farm.errors import ConfigError, ConnectError, ConnectionLost, FarmError
from farm.model import Device

CONNECT_S = 15.0
KEEPALIVE_S = 5
SILENCE_S = 20
"""A peer that acknowledges nothing for so long is gone."""

_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
_FIRST_CIPHER = "aes128-gcm@openssh.com"
"""Half the processor time of the default, where the processor has AES."""
_FIRST_KEY = "ssh-ed25519"
_CHANNEL_WINDOW_ADJUST, _CHANNEL_CLOSE, _CHANNEL_FAILURE = 93, 97, 100  # RFC 4254, section 9

# Paramiko reports every broken connection on its own as well; ours are errors of two lines.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where an SSH server listens, and the key that it must show."""

    user: str
    host: str
    port: int
    host_key: str = ""


def read_endpoint(text: str, host_key: str) -> Endpoint:
    """Read `[user@]host[:port]`.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"'{text}' cannot be read: {error}") from error
    if not host or not host.isprintable() or " " in host or parts.path:
        raise ConfigError(
            f"'{text}' names no SSH server", hint="write for example ssh://lab@192.0.2.10:22"
        )
    if parts.password is not None:
        raise ConfigError(
            "a password must not stand in an address", hint="write 'password: ${env:NAME}' instead"
        )
    if host_key and not _FINGERPRINT.fullmatch(host_key):
        raise ConfigError(
            f"'{host_key}' is no fingerprint of a host key",
            hint="'farm enroll DEVICE' writes it; it begins with SHA256:",
        )
    user = unquote(parts.username or "") or getpass.getuser()
    return Endpoint(user=user, host=host, port=port or 22, host_key=host_key)


class Link:
    """A connection that is made when it is needed, and again after it broke.

    Args:
        device: its address and options say where and how.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._client: paramiko.SSHClient | None = None
        self._jump: paramiko.SSHClient | None = None
        self._channels: list[paramiko.Channel] = []
        self._lock = threading.Lock()

    def takes_another(self) -> bool:
        """Whether a command may begin on it now.

        When a command ends, dropbear closes the channels of its connection that have none yet. So
        there a connection has one command at a time.
        """
        transport = self._client and self._client.get_transport()
        if not transport or "dropbear" not in transport.remote_version:
            return True
        if any(not channel.closed for channel in self._channels):
            return False
        if any(channel.exit_status < 0 for channel in self._channels):
            self.close()  # we hung up on one that still runs, and will end some time
        self._channels.clear()
        return True

    def channel(self) -> paramiko.Channel:
        """A fresh channel of the session kind.

        Raises:
            ConnectError: the board cannot be reached.
            ConnectionLost: it was reached and is gone.
            ConfigError: its host key is not the one that was pinned.
        """
        with self._lock:
            fresh = not self._alive()
            if fresh:
                self._connect()
            try:
                return self._open()
            except (paramiko.SSHException, EOFError, OSError) as error:
                if fresh:
                    raise ConnectionLost(f"the connection broke: {error}") from error
            self._connect()  # it was dead before anything was asked of it
            try:
                return self._open()
            except (paramiko.SSHException, EOFError, OSError) as error:
                raise ConnectionLost(f"the connection broke: {error}") from error

    def cipher(self) -> str:
        """What encrypts, empty without a connection."""
        transport = self._client and self._client.get_transport()
        return str(getattr(transport, "remote_cipher", ""))

    def close(self) -> None:
        """Hang up; closing twice is no error."""
        with self._lock:
            for client in filter(None, (self._client, self._jump)):
                client.close()
            self._client = self._jump = None

    def _alive(self) -> bool:
        transport = self._client and self._client.get_transport()
        return bool(transport and transport.is_active())

    def _open(self) -> paramiko.Channel:
        assert self._client is not None
        transport = self._client.get_transport()
        if transport is None:
            raise EOFError("no connection")
        channel = transport.open_session(timeout=CONNECT_S)
        self._channels = [known for known in self._channels if not known.closed]
        self._channels.append(channel)
        return channel

    def _connect(self) -> None:
        for client in filter(None, (self._client, self._jump)):
            client.close()
        self._client = self._jump = None
        with _told(self._device):
            jump, target = endpoints(self._device)
            if jump:
                self._jump = _authenticated(self._device, jump, _socket(jump))
            self._client = _authenticated(self._device, target, _road(self._jump, target))


def endpoints(device: Device) -> tuple[Endpoint | None, Endpoint]:
    """The jump host, if there is one, and the board.

    Raises:
        ConfigError: one of them cannot be read.
    """
    jump = device.option("jump")
    return (
        read_endpoint(jump, device.option("jump_host_key")) if jump else None,
        read_endpoint(device.address.place, device.option("host_key")),
    )


def shown_keys(device: Device) -> tuple[tuple[str, str], ...]:
    """The fingerprints that jump host and board show to somebody who does not know them.

    Raises:
        ConnectError: one of them cannot be reached.
    """
    with _told(device):
        jump, target = endpoints(device)
        if not jump:
            return (("host_key", _shown_key(_socket(target))),)
        seen = _shown_key(_socket(jump))
        known = Endpoint(user=jump.user, host=jump.host, port=jump.port, host_key=seen)
        with contextlib.closing(_authenticated(device, known, _socket(jump))) as client:
            return (
                ("jump_host_key", seen),
                ("host_key", _shown_key(_road(client, target))),
            )


def fingerprint(key: paramiko.PKey) -> str:
    """`SHA256:...`, as OpenSSH writes it."""
    digest = hashlib.sha256(key.asbytes()).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


class _Orderly(paramiko.Transport):
    """Sends nothing for a channel behind its close.

    The library lets one thread send the end of a command's input just after another answered that
    the command has ended. OpenSSH overlooks it, dropbear ends the whole connection.
    """

    def __init__(self, sock: Any, **options: Any) -> None:
        self._ended: set[int] = set()
        super().__init__(sock, **options)

    def open_channel(self, *args: Any, **options: Any) -> paramiko.Channel:
        """A fresh channel; the other side may give it the number of one that ended."""
        channel: paramiko.Channel = super().open_channel(*args, **options)
        self._ended.discard(channel.remote_chanid)
        return channel

    def _send_message(self, data: paramiko.Message) -> None:
        """Messages about channels come one at a time, under the library's lock."""
        message = data.asbytes()
        if _CHANNEL_WINDOW_ADJUST <= message[0] <= _CHANNEL_FAILURE:
            number = int.from_bytes(message[1:5])
            if number in self._ended:
                return
            if message[0] == _CHANNEL_CLOSE:
                self._ended.add(number)
        super()._send_message(data)  # type: ignore[misc]  # not in the stubs


class _Pinned(paramiko.MissingHostKeyPolicy):
    """Accepts one key."""

    def __init__(self, device: Device, endpoint: Endpoint) -> None:
        self._device = device
        self._endpoint = endpoint

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        shown, pinned = fingerprint(key), self._endpoint.host_key
        if shown == pinned:
            return
        what = f"now shows the host key {shown}" if pinned else f"shows the unknown key {shown}"
        raise ConfigError(
            f"{self._endpoint.host} {what}" + (f", {pinned} was pinned" if pinned else ""),
            device=self._device.name,
            hint=f"if the board was set up anew: farm enroll {self._device.name}"
            if pinned
            else f"compare it with the board's own and pin it: farm enroll {self._device.name}",
        )


def _authenticated(device: Device, endpoint: Endpoint, road: Any) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(_Pinned(device, endpoint))
    password = device.option("password")
    try:
        key = _private_key(device)
        client.connect(
            endpoint.host,
            port=endpoint.port,
            username=endpoint.user,
            password=password or None,
            pkey=key,
            allow_agent=key is None and not password,
            look_for_keys=key is None and not password,
            sock=road,
            transport_factory=_transport,
            banner_timeout=CONNECT_S,
            auth_timeout=CONNECT_S,
            channel_timeout=CONNECT_S,
        )
    except BaseException:
        client.close()
        road.close()
        raise
    transport = client.get_transport()
    assert transport is not None
    transport.set_keepalive(KEEPALIVE_S)
    return client


def _private_key(device: Device) -> paramiko.PKey | None:
    path = device.option("key")
    if not path:
        return None
    secret = device.option("passphrase").encode() or None
    hint = "name the private key's file, not the one that ends in .pub"
    try:
        return paramiko.PKey.from_path(Path(path), secret)  # type: ignore[arg-type]  # takes bytes
    except OSError as error:
        reason = error.strerror or str(error)
    except TypeError:  # what the library makes of a passphrase that is missing, or needless
        if secret is None:
            reason = "it needs a passphrase"
            hint = "give 'passphrase: ${env:NAME}'; or leave 'key' out and load it into an agent"
        else:
            reason, hint = "it has no passphrase", "take 'passphrase' out of the inventory"
    except (ValueError, paramiko.SSHException, UnknownKeyType):
        reason = "it is no private key, or the passphrase is wrong"
    raise ConfigError(f"cannot use the key {path!r}: {reason}", device=device.name, hint=hint)


def _transport(sock: Any, **options: Any) -> paramiko.Transport:
    transport = _Orderly(sock, **options)
    security = transport.get_security_options()
    security.ciphers = _first(_FIRST_CIPHER, security.ciphers)
    security.key_types = _first(_FIRST_KEY, security.key_types)
    return transport


def _first(name: str, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda other: other != name))


def _shown_key(road: Any) -> str:
    transport = _transport(road)
    try:
        transport.start_client(timeout=CONNECT_S)
        return fingerprint(transport.get_remote_server_key())
    finally:
        transport.close()


def _road(jump: paramiko.SSHClient | None, target: Endpoint) -> Any:
    """Bytes to the board: a socket, or a channel through the jump host."""
    if jump is None:
        return _socket(target)
    transport = jump.get_transport()
    assert transport is not None
    return transport.open_channel(
        "direct-tcpip", (target.host, target.port), ("127.0.0.1", 0), timeout=CONNECT_S
    )


def _socket(endpoint: Endpoint) -> socket.socket:
    """A socket that sends at once and notices a dead peer; without that every exec takes 40 ms."""
    made = socket.create_connection((endpoint.host, endpoint.port), timeout=CONNECT_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_S * 1000)
    return made


@contextlib.contextmanager
def _told(device: Device) -> Iterator[None]:
    """The library's complaints about a connection as ours."""
    where = device.address.place
    try:
        yield
    except FarmError:
        raise
    except socket.gaierror as error:
        hint = "check the name, or write the board's number"
        raise _refused(device, f"the name of {where} cannot be found", hint) from error
    except paramiko.AuthenticationException as error:
        hint = "install the public key there: ssh-copy-id, or give 'key:' or 'password:'"
        raise _refused(device, f"{where} refuses to let us in: {error}", hint) from error
    except TimeoutError as error:
        hint = "check power and network"
        raise _refused(device, f"{where} does not answer within {CONNECT_S:g} s", hint) from error
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        hint = "check power and network, and whether sshd runs there"
        raise _refused(device, f"{where} cannot be reached: {reason}", hint) from error
    except (paramiko.SSHException, EOFError, ValueError) as error:
        hint = "check that the port is that of an SSH server"
        raise _refused(device, f"{where} does not speak SSH with us: {error}", hint) from error


def _refused(device: Device, message: str, hint: str) -> ConnectError:
    return ConnectError(message, device=device.name, hint=hint)
