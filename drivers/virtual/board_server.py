"""The SSH server of a virtual board: one user, one key, commands and nothing else."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import logging
import socket
import threading
from collections.abc import Callable

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from drivers.virtual.machine_listener import Listener

USER = "lab"

# Paramiko reports every broken connection; here a client that goes is no news.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

Execute = Callable[[paramiko.Channel, bytes], None]


class BoardServer:
    """Listens on an ephemeral port of this machine's loopback.

    Args:
        execute: runs a command for a channel, in a thread of its own.
        heard: called with every command before it is begun; False drops its connection instead.

    Attributes:
        port: where it listens.
        fingerprint: of its host key, as OpenSSH writes it.
        client_key: the private key that it lets in, in OpenSSH's format.
    """

    def __init__(self, execute: Execute, *, heard: Callable[[], bool]) -> None:
        self._execute = execute
        self._heard = heard
        self._host_key = _read(_new_key())
        self.fingerprint = _fingerprint(self._host_key)
        self.client_key = _new_key()
        self._allowed = _read(self.client_key).asbytes()
        self._lock = threading.Lock()
        self._connections: dict[paramiko.Transport, _Line] = {}
        line = socket.create_server(("127.0.0.1", 0))
        self.port = int(line.getsockname()[1])
        self._listener = Listener(line, self._serve)

    def drop_all(self) -> None:
        """Break every connection, as a cable does that is pulled."""
        with self._lock:
            lines = list(self._connections.values())
        for line in lines:
            line.drop()

    def close(self) -> None:
        """Serve nobody any more."""
        self._listener.close()
        self.drop_all()

    def _serve(self, accepted: socket.socket) -> None:
        line = _Line(fileno=accepted.detach())
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else an exec takes 40 ms
        transport = paramiko.Transport(line)
        transport.add_server_key(self._host_key)
        with self._lock:
            self._connections = {t: s for t, s in self._connections.items() if t.is_alive()}
            self._connections[transport] = line
        connection = _Connection(transport, line, self._allowed, self._execute, self._heard)
        transport.start_server(event=threading.Event(), server=connection)


class _Line(socket.socket):
    """A client's connection, read by one thread.

    A command begins when that thread reads on: by then the client has been told that it begins. It
    must not hear of the end before.
    """

    promised: list[threading.Thread] | None = None

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Begin what was promised, and read on."""
        promised, self.promised = self.promised, None
        for thread in promised or ():
            thread.start()
        return super().recv(size, flags)

    def drop(self) -> None:
        """Break it; the thread that reads notices, and closes it."""
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)


class _Connection(paramiko.ServerInterface):
    """What one client may do; everything that is not allowed here is refused."""

    def __init__(
        self,
        transport: paramiko.Transport,
        line: _Line,
        allowed: bytes,
        execute: Execute,
        heard: Callable[[], bool],
    ) -> None:
        self._transport = transport
        self._line = line
        self._allowed = allowed
        self._execute = execute
        self._heard = heard

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        if username == USER and key.asbytes() == self._allowed:
            return paramiko.common.AUTH_SUCCESSFUL
        return paramiko.common.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        if kind == "session":
            return paramiko.common.OPEN_SUCCEEDED
        return paramiko.common.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self._transport.accept(0)  # the list of new channels must not grow
        if not self._heard():
            self._line.drop()
            return False
        thread = threading.Thread(target=self._execute, args=(channel, command), daemon=True)
        self._line.promised = [*(self._line.promised or ()), thread]
        return True


def _new_key() -> str:
    return (
        Ed25519PrivateKey.generate()
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        .decode()
    )


def _read(key: str) -> paramiko.PKey:
    return paramiko.Ed25519Key.from_private_key(io.StringIO(key))


def _fingerprint(key: paramiko.PKey) -> str:
    digest = hashlib.sha256(key.asbytes()).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
