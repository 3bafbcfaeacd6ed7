"""Builds the models of revisions with a command of the user's, each once."""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from farm.errors import ConfigError, Evidence
from farm.workload import resolve_candidate

SHELL = "/bin/sh"
OUTPUT_LIMIT = 64 << 10
"""Bytes kept of what a build prints, from the end."""

_NAME_LENGTH = 40
_VARIABLES = {"{rev}": "FARM_BISECT_REV", "{path}": "FARM_BISECT_PATH"}
"""Placeholders of a build command, and the environment variables that carry their values."""


class BuildFailed(ConfigError):
    """A revision has no model: its build failed, hung, or made nothing usable."""

    code = "build"


@dataclass(frozen=True, slots=True, kw_only=True)
class Builds:
    """Models by revision; whoever gives the folder removes it.

    Attributes:
        command: what `/bin/sh -c` runs, with `{rev}` and `{path}`.
        cwd: where.
        folder: where the models go, each into a folder of its own.
        timeout_s: how long one build may take.
    """

    command: str
    cwd: Path
    folder: Path
    timeout_s: float
    _made: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for placeholder in _VARIABLES:
            if placeholder not in self.command:
                raise ConfigError(
                    f"the build command has no {placeholder}",
                    hint="write for example --build 'make model REV={rev} OUT={path}'",
                )
        if not 0 < self.timeout_s < math.inf:
            raise ConfigError(f"a build cannot end within {self.timeout_s:g} s")
        if not self.cwd.is_dir():
            raise ConfigError(f"there is no folder {str(self.cwd)!r}")

    def model(self, revision: str) -> Path:
        """The model of a revision, built if it is not there yet.

        Raises:
            BuildFailed: with the output of the build as evidence.
        """
        if revision not in self._made:
            self._made[revision] = self._build(revision)
        return self._made[revision]

    def _build(self, revision: str) -> Path:
        """Values reach the shell as variables: no quoting of the command can let one execute."""
        home = self.folder / str(len(list(self.folder.iterdir())))
        home.mkdir()
        path = home / f"{_file_name(revision)}.onnx"
        command = self.command
        for placeholder, variable in _VARIABLES.items():
            command = command.replace(placeholder, f'"${{{variable}}}"')
        values = dict(zip(_VARIABLES.values(), (revision, str(path)), strict=True))
        log = self.folder / f"{home.name}.log"
        trouble = _run(command, self.cwd, {**os.environ, **values}, log, self.timeout_s)
        if not trouble:
            try:
                resolve_candidate(path)
            except ConfigError as error:
                trouble = "it made no model at {path}" if not path.exists() else error.message
        if trouble:
            output = _tail(log)
            raise BuildFailed(
                f"the build of {revision} failed: {trouble}",
                hint=next((line for line in reversed(output.splitlines()) if line.strip()), ""),
                evidence=(Evidence(name="output", text=output),),
            )
        return path


def _file_name(revision: str) -> str:
    """A name for people: what the gate calls the model."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", revision)[:_NAME_LENGTH]
    return safe.strip(".-") or "model"


def _run(command: str, cwd: Path, env: dict[str, str], log: Path, timeout_s: float) -> str:
    """Run a command in a group of its own; what went wrong, empty if nothing did."""
    with log.open("wb") as output, _group(command, cwd, env, output.fileno()) as process:
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return f"it did not end within {timeout_s:g} s"
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}" if code else ""


@contextlib.contextmanager
def _group(
    command: str, cwd: Path, env: dict[str, str], output: int
) -> Iterator[subprocess.Popen[bytes]]:
    """A shell and all that it starts; nothing of it outlives the block, however that ends."""
    process = None
    try:
        with _interruptions_wait():
            process = subprocess.Popen(
                (SHELL, "-c", command),
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        yield process
    finally:
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def _interruptions_wait() -> Iterator[None]:
    """Signals that interrupt take effect at the end of the block.

    Between the birth of a process and the moment that we know its number, an interruption would
    leave it behind.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is ever interrupted
        return
    came: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = {which: signal.signal(which, remember) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, signal.SIG_DFL if handler is None else handler)
        for number in came:
            signal.raise_signal(number)


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - OUTPUT_LIMIT))
        return file.read().decode(errors="replace")
