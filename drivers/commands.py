"""Commands on the controller that a person wrote into the inventory: for a port, for flashing."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress

from farm.errors import Evidence, InfraError
from farm.model import Device

KEPT_BYTES = 64 << 10
"""How much of what a command prints is kept: the end, where the reason is."""


def run_command(
    words: Sequence[str], *, option: str, device: Device, timeout_s: float, alone: bool = False
) -> None:
    """Run the command of an option; only its program is told, for its words may hold secrets.

    Args:
        words: program and arguments; no shell reads them.
        option: where the inventory has it.
        device: what it is for.
        timeout_s: after that it is killed with all that it has started.
        alone: whether what it leaves behind is killed in any case.

    Raises:
        InfraError: it cannot be run, does not end, or fails.
    """
    what = f"{option}: '{words[0]}'"
    # Into a file: a pipe would stay open as long as something that the command has left behind.
    with tempfile.TemporaryFile() as told:
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise InfraError(
                f"{what} cannot be run: {error.strerror}",
                device=device.name,
                hint="install it on the controller, or give its whole path",
            ) from error
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if alone or process.returncode is None:
                _end(process)
        told.seek(max(0, told.seek(0, os.SEEK_END) - KEPT_BYTES))
        text = told.read().decode("utf-8", "replace").strip()
    if status != 0:
        how = f"did not end in {timeout_s:g} s" if status is None else f"failed, status {status}"
        raise InfraError(
            f"{what} {how}: {text.splitlines()[-1] if text else 'it said nothing'}",
            device=device.name,
            hint="run the command by hand on the controller, as the farm's user",
            evidence=[Evidence(name="output", text=text)],
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the command and what it has started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
