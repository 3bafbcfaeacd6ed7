"""The serial line of a virtual microcontroller: a pseudo-terminal that a stable link names."""

from __future__ import annotations

import os
import tty
from contextlib import suppress
from pathlib import Path


class Terminal:
    """A pseudo-terminal; whoever opens its near end is cut off when the far end closes.

    The near end is held open, so that the far end need not wait for somebody to open it, and so
    that its name belongs to nobody else before `close`.

    Args:
        link: what names it for as long as it is there; a link that is there already is replaced.

    Attributes:
        far: descriptor of the board's end.
        near: descriptor of the host's end.
    """

    def __init__(self, link: Path) -> None:
        self.far, self.near = os.openpty()
        self._link = link
        self._far_is_ours = True
        tty.setraw(self.near)  # else it would send back to the board what the board says

    def show(self) -> None:
        """Let the link name it, in one go."""
        part = self._link.with_name(f"{self._link.name}.part")
        part.unlink(missing_ok=True)
        part.symlink_to(os.ttyname(self.near))
        part.replace(self._link)

    def give_far_away(self) -> None:
        """Somebody else has got the board's end: it closes when they close it."""
        os.close(self.far)
        self._far_is_ours = False

    def close(self) -> None:
        """Let go of it, and take the link away: another terminal may get the same name."""
        with suppress(OSError):  # the folder may be gone
            self._link.unlink(missing_ok=True)
        if self._far_is_ours:
            os.close(self.far)
        os.close(self.near)
