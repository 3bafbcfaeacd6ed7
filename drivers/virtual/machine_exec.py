"""Begins the commands that clients of a virtual board or phone run."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

NO_COMMAND = 126
"""The status of a line that no kernel takes."""


def begin(
    command: bytes, *, environment: Mapping[str, str], folder: Path, merged: bool = False
) -> subprocess.Popen[bytes]:
    """Run a command by `sh` in a session of its own.

    Args:
        command: a line for the shell; nothing for a shell that reads its lines.
        environment: everything that the process knows of its surroundings.
        folder: where it begins.
        merged: whether it complains where it prints.

    Raises:
        OSError: no kernel takes that line.
        ValueError: nor does it have null bytes in it.
    """
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [b"sh", b"-c", command] if command else [b"sh"],
        stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT if merged else pipe,
        bufsize=0, env=environment, cwd=folder, start_new_session=True,
    )  # fmt: skip
