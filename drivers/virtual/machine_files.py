"""The files in which a virtual board or phone describes itself, and what else it needs on disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path


class MachineFiles:
    """A folder of small text files that scripts read at any moment.

    Args:
        folder: where; it is made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._told: Mapping[str, str] = {}

    def write(self, files: Mapping[str, str]) -> None:
        """Write files anew, whatever was written into them, while nobody reads."""
        for name, text in files.items():
            path = self.folder / name
            try:
                path.write_bytes(_line(text))
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(_line(text))
        self._told = {}

    def link(self, name: str, target: str) -> None:
        """Make a symbolic link, unless something is there."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_symlink():
            path.symlink_to(target)

    def tell(self, now: Mapping[str, str]) -> None:
        """Write those files whose text is not what was told last, each in one go."""
        for name, text in now.items():
            if self._told.get(name) != text:
                path = self.folder / name
                part = path.with_name(f"{path.name}.part")
                try:
                    part.write_bytes(_line(text))
                except FileNotFoundError:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    part.write_bytes(_line(text))
                part.replace(path)
        self._told = now


def _line(text: str) -> bytes:
    return os.fsencode(text if text.endswith("\n") else f"{text}\n")


def write_program(path: Path, text: str) -> None:
    """Write a script that anybody may run, in one go: another process may have the same folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}-{os.urandom(8).hex()}")
    part.write_bytes(os.fsencode(text))
    part.chmod(0o755)
    part.replace(path)


def remove_stale(folder: Path) -> None:
    """Remove the `boot-PID-*` of machines whose process was killed."""
    for left in folder.glob("boot-*-*"):
        pid = left.name.split("-")[1]
        if not pid.isdigit() or not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True)
