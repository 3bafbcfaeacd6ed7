"""Programs of others that talk to virtual meters: in an environment of their own, never imported.

One that nobody here wrote is what shows that a simulated device speaks the true protocol.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

PINNED = Path(__file__).with_suffix(".txt")
HOME = Path(__file__).parents[2] / "build" / "foreign-clients"


def foreign_python() -> str:
    """The interpreter of the environment that has them all; made on first use.

    Raises:
        OSError: they cannot be installed: no network, or no right to write below `build/`.
    """
    HOME.mkdir(parents=True, exist_ok=True)
    python, stamp = HOME / "env" / "bin" / "python", HOME / "installed"
    with (HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several workers may want it at once
        if not stamp.exists() or stamp.read_text() != PINNED.read_text():
            _run(sys.executable, "-m", "venv", "--clear", "--without-pip", str(HOME / "env"))
            _run(
                sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet",
                "--disable-pip-version-check", "--require-hashes", "-r", str(PINNED),
            )  # fmt: skip
            stamp.write_text(PINNED.read_text())
    return str(python)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command[:4])}: {done.stderr.strip()[-400:]}")
