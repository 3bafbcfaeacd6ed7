"""A shell and files on a device, and the folder there whose files are known by their content.

The scripts are POSIX sh for dash, busybox, toybox and mksh. A script that a device cannot run as a
whole does without the part that it lacks.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from farm.errors import ConfigError, FarmError, InfraError, OutOfSpace, TransferCorrupt
from farm.model import Artifact

COMMAND_S = 30.0
HASH_S = 300.0
"""Time to hash the largest file on the slowest board."""

# Prints the digest of the file $1, `none` if the device has no tool for it, nothing without a file.
_DIGEST = """
digest() {
  [ -f "$1" ] || return 0
  for tool in sha256sum "busybox sha256sum" "openssl dgst -sha256 -r" "shasum -a 256"; do
    command -v "${tool%% *}" >/dev/null 2>&1 || continue
    $tool <"$1" 2>/dev/null | {
      read -r sum _ && [ ${#sum} = 64 ] && printf '%s\\n' "$sum"
    } && return 0
  done
  echo none
}
"""

# $1: a file that is used again: its time tells how long ago that was.
_LOOK = _DIGEST + '[ -f "$1" ] && touch "$1" 2>/dev/null; digest "$1"'

# $1: folder, $2: kilobytes to come, $3: kilobytes allowed; then names that must stay. What was not
# used for the longest time goes first. mksh counts in 32 bits, and needs a folder of its own for
# here-documents, which a phone may not have.
_MAKE_ROOM = """
mkdir -p -- "$1" && cd "$1" || exit 1
total=$2 allowed=$3
shift 3
stay=" $* "
kilobytes() { case $1 in ????*) kb=${1%???} ;; *) kb=0 ;; esac; }
ls -lntr | {
  files=
  while read -r _ _ _ _ size rest; do
    [ -n "$rest" ] || continue
    kilobytes "$size"
    total=$((total + kb)) files="$files $kb/${rest##* }"
  done
  for file in $files; do
    [ "$total" -gt "$allowed" ] || break
    name=${file#*/}
    case $stay in *" $name "*) continue ;; esac
    rm -f -- "$name" && total=$((total - ${file%%/*}))
  done
}
true
"""

# $1: part, $2: its final name, $3: the digest that it must have. Prints what it has.
_SEAL = (
    _DIGEST
    + """
sum=$(digest "$1")
[ "$sum" = "$3" ] && mv -f -- "$1" "$2"
[ "$sum" = "$3" ] || [ "$sum" = none ] || rm -f -- "$1"
printf '%s\\n' "$sum"
"""
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A command that ended.

    Attributes:
        returncode: its exit status; negative for a signal.
        stdout: what it printed.
        stderr: what it complained about.
        elapsed_s: how long it took, seen from the controller.
    """

    returncode: int
    stdout: str
    stderr: str
    elapsed_s: float


class Shell(Protocol):
    """Commands and files on a device.

    argv lists only: quoting, where a shell is in between, is the implementation's duty.

    Attributes:
        root: the folder on the device that the farm may fill.
    """

    root: PurePosixPath

    @abstractmethod
    def run(
        self,
        argv: tuple[str, ...],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        cwd: PurePosixPath | None = None,
    ) -> Completed:
        """Run a command to its end.

        Raises:
            CommandTimeout: it did not end in time; it was killed.
            InfraError: the device cannot be reached.
        """

    @abstractmethod
    def push(self, source: Path, target: PurePosixPath) -> None:
        """Copy a file to the device; its folder must exist.

        Raises:
            OutOfSpace: no room on the device.
            InfraError: the device cannot be reached.
        """

    @abstractmethod
    def pull(self, source: PurePosixPath, target: Path) -> None:
        """Copy a file from the device.

        Raises:
            InfraError: the device cannot be reached, or has no such file.
        """


def cache_folder() -> Path:
    """Where this machine keeps what can be made again: `$XDG_CACHE_HOME` or `~/.cache`, and `farm`.

    Devices that are played by this machine have their folders there as well.
    """
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # no home at all, as in some containers
        base = tempfile.gettempdir()
    return Path(base) / "farm"


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder of what can be made again, filled by `make` unless it is there already.

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


def script(text: str, *arguments: str) -> tuple[str, ...]:
    """The command that runs a POSIX shell script with arguments."""
    return ("sh", "-c", text, "farm", *arguments)


def insist(clean: Callable[[], object]) -> None:
    """Clean up, and once more if the connection broke meanwhile; then the next session will."""
    for _ in range(2):
        with suppress(InfraError):
            clean()
            return


def install(
    shell: Shell, artifact: Artifact, *, allowed_bytes: int, in_use: Iterable[str] = ()
) -> PurePosixPath:
    """Put a file into the device's content-addressed folder, unless it is there already.

    The name on the device is the digest, so no name that a person gave reaches a shell. The device
    itself hashes what it received before the file gets its final name: whatever stops the
    transfer, a file under its digest is whole. A device that cannot hash sends the file back.

    Args:
        shell: the device.
        artifact: the file.
        allowed_bytes: how much the folder may hold; the longest unused files make room.
        in_use: digests that must stay.

    Raises:
        TransferCorrupt: what arrived is not what was sent.
        OutOfSpace: no room on the device.
    """
    folder, wanted = shell.root / "store", artifact.sha256
    target, part = folder / wanted, folder / f"{wanted}.part"
    present, _ = _digest(shell, script(_LOOK, str(target)), target)
    if present == wanted:
        return target
    to_come, allowed = (str(size // 1000) for size in (artifact.size_bytes, allowed_bytes))
    room = script(_MAKE_ROOM, str(folder), to_come, allowed, *in_use)
    made = shell.run(room, timeout_s=COMMAND_S)
    if made.returncode:
        raise OutOfSpace(f"cannot make the folder {folder}: {made.stderr.strip()}")
    try:
        shell.push(artifact.path, part)
        arrived, sealed = _digest(shell, script(_SEAL, str(part), str(target), wanted), part)
        if arrived != wanted:
            raise TransferCorrupt(
                f"sent {wanted[:12]}, the device has {arrived[:12] or 'nothing'}",
                hint="the transfer is repeated; if this goes on, check cable and storage",
            )
    except FarmError:
        insist(lambda: shell.run(("rm", "-f", str(part)), timeout_s=COMMAND_S))
        raise
    if not sealed:
        shell.run(("mv", "-f", str(part), str(target)), timeout_s=COMMAND_S)
    return target


def _digest(shell: Shell, command: tuple[str, ...], path: PurePosixPath) -> tuple[str, bool]:
    """A file's digest, empty if there is no file; and whether the device knew it by itself."""
    told = shell.run(command, timeout_s=HASH_S).stdout.strip()
    if told != "none":
        return told, True
    with tempfile.TemporaryDirectory(prefix="farm-") as folder:
        copy = Path(folder) / "copy"
        shell.pull(path, copy)
        return hashlib.sha256(copy.read_bytes()).hexdigest(), False
