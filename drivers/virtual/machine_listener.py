"""Waits for whoever connects to a part of a virtual board or phone."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable


class Listener:
    """A thread that serves connections.

    Args:
        line: a socket that is bound.
        serve: gets every connection, and must not take long.
    """

    def __init__(self, line: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        self._line = line
        self._serve = serve
        line.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Serve nobody any more."""
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)  # the thread waits for somebody to connect
        self._line.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                self._serve(self._line.accept()[0])
