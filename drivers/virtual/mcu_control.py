"""The control socket of a virtual microcontroller: its power switch and its flash programmer.

A stream socket of this machine; one line of JSON each way, one request per connection:

    {"power": "off" | "on" | "cycle"}      {"ok": true}
    {"kernel": "/path/image.elf"}          {"ok": false, "error": "..."}
"""

from __future__ import annotations

import json
import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from drivers.virtual.machine_listener import Listener
from farm.errors import FarmError, InfraError

REQUEST_S = 5.0
"""Whoever connects says what they want within that time."""
MAX_BYTES = 64 << 10


class Engine(Protocol):
    """What plays a board."""

    def on(self) -> None:
        """Switch it on; no error if it is on."""

    def off(self) -> None:
        """Cut its power; no error if it is off."""

    def launch(self, kernel: Path) -> None:
        """Restart it with another firmware."""

    def close(self) -> None:
        """Switch it off for good."""


class ControlSocket:
    """Does what is asked over a socket, one request after the other.

    Args:
        folder: has the socket.
        engine: what is controlled.

    Attributes:
        path: of the socket: by way of this process, because a socket's path may not be long, and
            because only the same user may go that way.
    """

    def __init__(self, folder: Path, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self.path = f"/proc/{os.getpid()}/fd/{self._folder}/control"
        Path(self.path).unlink(missing_ok=True)
        line = socket.socket(socket.AF_UNIX)
        line.bind(self.path)
        self._listener = Listener(line, self._serve)

    def close(self) -> None:
        """Listen no more; what is being done is finished first."""
        with self._lock:
            self._listener.close()
        with suppress(OSError):
            Path(self.path).unlink(missing_ok=True)
        os.close(self._folder)

    def _serve(self, line: socket.socket) -> None:
        with line, suppress(OSError), self._lock:
            line.settimeout(REQUEST_S)
            try:
                self._obey(json.loads(_read_line(line)))
                answer: dict[str, Any] = {"ok": True}
            except FarmError as error:
                answer = {"ok": False, "error": error.message}
            except ValueError as error:
                answer = {"ok": False, "error": f"the request cannot be read: {error}"}
            except Exception as error:  # whatever it is, the one who asked must hear of it
                answer = {"ok": False, "error": repr(error)}
            line.sendall(json.dumps(answer).encode() + b"\n")

    def _obey(self, request: Any) -> None:
        match request:
            case {"power": "on"}:
                self._engine.on()
            case {"power": "off"}:
                self._engine.off()
            case {"power": "cycle"}:
                self._engine.off()
                self._engine.on()
            case {"kernel": str(kernel)}:
                self._engine.launch(Path(kernel))
            case _:
                raise ValueError("it is neither 'power' nor 'kernel'")


def control(path: str, request: dict[str, str], *, timeout_s: float = 30.0) -> None:
    """Ask something of the board behind a control socket.

    Raises:
        InfraError: it cannot be reached, or does not obey.
    """
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(timeout_s)
            line.connect(path)
            line.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(_read_line(line))
            complaint = "" if answer["ok"] else str(answer["error"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InfraError(f"the virtual board's control socket does not answer: {error}") from error
    if complaint:
        raise InfraError(complaint)


def _read_line(line: socket.socket) -> bytes:
    got = b""
    while not got.endswith(b"\n") and len(got) < MAX_BYTES and (piece := line.recv(MAX_BYTES)):
        got += piece
    return got
