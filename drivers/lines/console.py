"""What a device says besides its answers, the end of it."""

from __future__ import annotations

from farm.errors import one_line

KEPT_BYTES = 64 << 10


class Console:
    """Keeps the last 64 KiB and shows them without anything that moves a cursor."""

    def __init__(self) -> None:
        self._kept = bytearray()

    def add(self, data: bytes) -> None:
        """Bytes as they came."""
        self._kept += data[-KEPT_BYTES:]
        del self._kept[:-KEPT_BYTES]

    def add_line(self, data: bytes) -> None:
        """A text of its own, whatever was on the line before it."""
        if self._kept and not self._kept.endswith(b"\n"):
            self.add(b"\n")
        self.add(data.rstrip(b"\r\n") + b"\n")

    def text(self) -> str:
        """Printable lines; at most 64 KiB of UTF-8, though what cannot be printed grows."""
        lines = self._kept.decode(errors="replace").replace("\r\n", "\n").split("\n")
        shown = "\n".join(map(one_line, lines))
        return shown.encode()[-KEPT_BYTES:].decode(errors="ignore")
