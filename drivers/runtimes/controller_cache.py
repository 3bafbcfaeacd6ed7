"""Folders on the controller whose content is made once and found again by what it was made from."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from farm.errors import ConfigError


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder, filled by `make` unless it is there already.

    It appears whole or not at all, also if several processes want it at once.

    Raises:
        ConfigError: it cannot be written.
    """
    if folder.exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as part:
            made = Path(part) / "made"
            made.mkdir()
            make(made)
            try:
                made.rename(folder)
            except OSError:
                if not folder.exists():  # else somebody was faster
                    raise
    except OSError as error:
        raise ConfigError(
            f"cannot write to {str(folder.parent)!r}: {error.strerror}",
            hint="make room, or set XDG_CACHE_HOME to a writable folder",
        ) from error
    return folder
