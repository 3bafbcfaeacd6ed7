"""What a contract asks of a device to see whether a promise was kept."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from farm.connection import Transport
from farm.shell import script

ASK_S = 30.0
"""Deadline of a command that is expected to end at once; only a broken driver meets it."""

HOSTILE = (
    "a b",
    "it's",
    'say "hi"',
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned",
    "${HOME} ~ * ? [a-z] {a,b}",
    "back\\slash\\n \\",
    "-n",
    "--",
    "new\nline",
    "tab\tand\rreturn",
    "ünï ☃",
    "bytes that are no UTF-8: \udcff\udcfe",
    "trailing newline\n",
    "#!",
    "%s %%",
    "",
)
"""Arguments that a shell in between would maul."""

PAUSE = "sleep 0.1 2>/dev/null || sleep 1"
"""Some boards sleep whole seconds only."""

FAMILY = "trap '' HUP INT TERM PIPE; echo $$ >parent; sleep 600 & echo $! >child; wait; sleep 600"
"""A process with a child, both of which only a kill ends."""

_GONE = """
kill -0 "$1" 2>/dev/null || exit 0
read -r line 2>/dev/null <"/proc/$1/stat"
case ${line##*") "} in [ZX]*) exit 0 ;; esac
exit 1
"""


def again(transport: Transport) -> Transport:
    """The same device, reached anew, as a later session does."""
    return type(transport)(transport.device)


def new_folder(transport: Transport) -> PurePosixPath:
    """A folder on the device for one test."""
    folder = transport.root / f"contract-{uuid.uuid4().hex}"
    made = transport.run(("mkdir", str(folder)), timeout_s=ASK_S)
    assert made.returncode == 0, made.stderr
    return folder


def write(transport: Transport, target: PurePosixPath, data: bytes, tmp_path: Path) -> None:
    """A file on the device with these bytes."""
    source = tmp_path / f"source-{uuid.uuid4().hex}"
    source.write_bytes(data)
    transport.push(source, target)


def read(transport: Transport, source: PurePosixPath, tmp_path: Path) -> bytes:
    """The bytes of a file on the device."""
    target = tmp_path / f"copy-{uuid.uuid4().hex}"
    transport.pull(source, target)
    return target.read_bytes()


def names(transport: Transport, folder: PurePosixPath) -> set[str]:
    """What lies in a folder of the device; nothing if there is none. For names without spaces."""
    listed = transport.run(script('ls -A "$1" 2>/dev/null', str(folder)), timeout_s=ASK_S)
    return set(listed.stdout.split())


def is_there(transport: Transport, path: PurePosixPath) -> bool:
    """Whether the device has a file of exactly that name."""
    return transport.run(script('[ -f "$1" ]', str(path)), timeout_s=ASK_S).returncode == 0


def is_gone(transport: Transport, pid: int) -> bool:
    """Whether a process of the device has ended; a corpse that nobody buried has."""
    return transport.run(script(_GONE, str(pid)), timeout_s=ASK_S).returncode == 0


def read_pid(transport: Transport, path: PurePosixPath, tmp_path: Path) -> int:
    """The number of a process, once it has written it down."""
    wait_until(
        lambda: transport.run(script('[ -s "$1" ]', str(path)), timeout_s=ASK_S).returncode == 0,
        f"{path} was never written",
    )
    return int(read(transport, path, tmp_path))


def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    """Ask until it holds; a device that needs a minute has broken the promise."""
    deadline = time.monotonic() + ASK_S
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(otherwise)
        time.sleep(0.05)


def wait_until_gone(transport: Transport, *pids: int) -> None:
    """A signal is sent at once; the kernel takes a moment."""
    for pid in pids:

        def gone(pid: int = pid) -> bool:
            return is_gone(transport, pid)

        wait_until(gone, f"process {pid} still runs")
