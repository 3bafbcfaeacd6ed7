"""Opens the recordings of others by what they are called."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from drivers.recordings.csv_file import read_csv
from drivers.recordings.recording import ForeignRecording
from farm.errors import ConfigError


def open_recording(path: Path, *, volts: float | None, sync: str) -> ForeignRecording:
    """What a file holds: `.jls` of Joulescopes, and text with columns whatever it is called.

    Args:
        path: of the file.
        volts: of the supply, for a file that has only a current.
        sync: the logic input that is wired to the device; with `!` before it, low means high.

    Raises:
        ConfigError: it cannot be read or understood, or what reads it is not installed.
    """
    if path.suffix.lower() != ".jls":
        return read_csv(path, volts=volts, sync=sync)
    try:
        reader = import_module("drivers.recordings.jls_file")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{path.name} needs the module '{error.name}', which is not installed",
            hint="pip install 'verdict-farm[joulescope]'",
        ) from error
    found: ForeignRecording = reader.read_jls(path, volts=volts, sync=sync)
    return found
