"""An open serial port, or the TCP port of a serial server.

Opening must not restart the board. Linux raises DTR and RTS of a port that is opened, and drops
them when it is closed; many boards restart at one of these edges. So both stay raised as Linux
raises them (lowered one after the other they put an ESP32 into its loader), and the port is told to
keep them when it is closed (`HUPCL` off): after the first opening since it was plugged in there are
no edges any more. A board that is held in reset by a raised RTS needs another cable.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import termios

import serial

from farm.errors import ConnectError, ConnectionLost

TCP = "socket://"
CONNECT_S = 5.0
READ_BYTES = 64 << 10
SILENCE_S = 20
"""The far end of a TCP connection that acknowledges nothing for so long is gone."""


class Port:
    """A port that is ours alone as long as it is open.

    Args:
        name: a path, or `socket://HOST:PORT`.
        baud: bits per second; a pseudo terminal and a TCP port do not care.
        device: the inventory name of what is behind it.

    Raises:
        ConnectError: it is not there, not allowed, or in use.
    """

    def __init__(self, name: str, baud: int, device: str) -> None:
        self.name = name
        self._device = device
        self._port: serial.Serial | _Tcp
        try:
            if name.startswith(TCP):
                self._port = _Tcp(name)
            else:
                self._port = serial.Serial(name, baud, timeout=0, write_timeout=0, exclusive=True)
                _tune(self._port)
        except (OSError, ValueError, termios.error) as error:
            raise self._unopened(error) from error

    def turn(self, unsent: bytes | memoryview, timeout_s: float) -> tuple[bytes, int]:
        """Wait until bytes come or some of `unsent` can go; what came, and how many went.

        Raises:
            ConnectionLost: the port vanished; it is closed.
        """
        try:
            port = self._port.fileno()
            writers = (port,) if unsent else ()
            readable, writable, _ = select.select((port,), writers, (), max(0.0, timeout_s))
            data = self._port.read(READ_BYTES) if readable else b""
            gone = self._port.write(unsent[:READ_BYTES]) if writable else 0
        except (OSError, ValueError, TypeError, termios.error) as error:
            self.close()
            why = getattr(error, "strerror", None) or "the other end hung up"
            raise ConnectionLost(
                f"{self.name} vanished: {why}",
                device=self._device,
                hint="was it unplugged, switched off, or read by another program?",
            ) from error
        return data, gone or 0

    def close(self) -> None:
        """Let go of it; closing twice is no error."""
        with contextlib.suppress(OSError, termios.error):
            self._port.close()

    def _unopened(self, error: Exception) -> ConnectError:
        """Why it could not be opened, and what helps."""
        number = getattr(error, "errno", None)
        path = self.name
        if number == errno.ENOENT:
            message, hint = f"{path} is not there", "plug it in; see: ls -l /dev/serial/by-id"
        elif number in (errno.EACCES, errno.EPERM):
            message = f"no right to open {path}"
            hint = 'sudo usermod -aG dialout "$USER", and log in again'
        elif number in (errno.EBUSY, errno.EAGAIN):
            message = f"another program holds {path}"
            hint = f"close it; this names it: fuser -v {path}"
        else:
            message, hint = f"{path} cannot be opened: {error}", "check cable, power and 'baud'"
        return ConnectError(message, device=self._device, hint=hint)


class _Tcp:
    """What a port needs of a TCP connection; the library's own sleeps when it is closed."""

    def __init__(self, name: str) -> None:
        host, _, port = name.removeprefix(TCP).rpartition(":")
        self._socket = socket.create_connection((host.strip("[]"), int(port)), CONNECT_S)
        self._socket.setblocking(False)
        for level, option, value in (
            (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENCE_S // 2),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENCE_S // 4),
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_S * 1000),
        ):
            self._socket.setsockopt(level, option, value)

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self, size: int) -> bytes:
        data = self._socket.recv(size)
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "the other end hung up")
        return data

    def write(self, data: bytes | memoryview) -> int:
        return self._socket.send(data)

    def close(self) -> None:
        self._socket.close()


def _tune(port: serial.Serial) -> None:
    """Keep DTR and RTS over a closing, and pass on bytes at once (an FTDI chip waits 16 ms)."""
    attributes = termios.tcgetattr(port.fileno())
    attributes[2] &= ~termios.HUPCL
    termios.tcsetattr(port.fileno(), termios.TCSANOW, attributes)
    with contextlib.suppress(OSError, ValueError, NotImplementedError):
        port.set_low_latency_mode(True)
