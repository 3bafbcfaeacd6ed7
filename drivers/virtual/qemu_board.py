"""Real firmware on an emulated Cortex-M: one QEMU that is switched on and off like a board.

QEMU counts instructions (`-icount`): each takes 2^7 ns of its clock, so that a timer of the board
tells how many were executed, the same number every time. That says nothing of how long they would
take on a real processor.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import socket
import subprocess
from itertools import cycle
from pathlib import Path

from drivers.virtual.mcu_rail import BoardRail
from drivers.virtual.mcu_terminal import Terminal
from drivers.virtual.qemu_pin import PinWatch
from farm.errors import ConfigError, ConnectError, Evidence

PROGRAM = "qemu-system-arm"
ICOUNT_SHIFT = 7
"""An instruction takes 2^7 ns of the board's time."""
START_S = 10.0
"""A firmware that has said nothing by then is a silent one."""
STOP_S = 10.0

# A shell in between, whose standard input ends with the controller, however that ends. It starts
# QEMU, which is its own child, so that no other process can have the number that it kills. QEMU
# gets the far end of the terminal, which the shell must not keep, as descriptor 3.
_GUARD = '"$@" 3<&1 >&2 </dev/null & exec >&2; read -r _; kill -9 $! 2>/dev/null; wait'

_TIMESTAMP = re.compile(r"^\S+Z (?=qemu)", re.MULTILINE)
"""Complaints get one because the trace has to have some."""

BOARDS = {"mps2-an385": "16M", "mps2-an386": "16M", "mps2-an500": "16M", "mps3-an547": "2G"}
"""The boards that QEMU knows, and the size of the memory that is the flash memory here, of which
only what was written takes room on disk."""
DEFAULT_BOARD = "mps2-an386"


def check_qemu() -> None:
    """Refuse to go on without QEMU.

    Raises:
        ConfigError: it is not installed.
    """
    if not shutil.which(PROGRAM):
        raise ConfigError(
            f"{PROGRAM} is not installed",
            hint="apt install qemu-system-arm, or write engine=python for simulated boards",
        )


_cores = cycle(sorted(os.sched_getaffinity(0), reverse=True))
"""Processors of this machine, one for each board in turn."""


class QemuBoard:
    """One emulated board.

    Args:
        board: a name of `BOARDS`.
        kernel: the firmware, an ELF file.
        folder: keeps the flash memory and the complaints of QEMU.
        link: names the serial line while the board is on.
        lock: descriptor of a lock that must be held for as long as QEMU has the flash memory.
        rail: feeds it.
        gdb: serve a debugger as well.

    Attributes:
        gdb: where a debugger finds the board, empty for nowhere.
    """

    def __init__(
        self, board: str, kernel: Path, folder: Path, link: Path,
        *, lock: int, rail: BoardRail, gdb: bool = False,
    ) -> None:  # fmt: skip
        self._board = board
        self._kernel = kernel
        self._folder = folder
        self._link = link
        self._lock = lock
        self._rail = rail
        self._core = next(_cores)
        self._process: subprocess.Popen[bytes] | None = None
        self._terminal: Terminal | None = None
        self._pin: PinWatch | None = None
        self._debugger = _listen() if gdb else None
        self.gdb = f"127.0.0.1:{self._debugger.getsockname()[1]}" if self._debugger else ""

    def on(self) -> None:
        """Start QEMU and wait until the firmware speaks; no error if it is on.

        Raises:
            ConnectError: QEMU does not run.
        """
        if self._terminal and _ended(self._terminal.near, wait_s=0):
            self.off()
        if self._process is None:
            self._start(self._kernel)

    def off(self) -> None:
        """Cut the power: whatever it does, it does no more."""
        if self._process:
            self._process.communicate(timeout=STOP_S)  # the end of its input ends the shell
            self._process = None
        if self._terminal:
            self._terminal.close()
            self._terminal = None
        if self._pin:
            self._pin.join()
            self._pin = None
            self._rail.switch(on=False)

    def launch(self, kernel: Path) -> None:
        """Restart it with another firmware.

        Raises:
            ConnectError: QEMU does not take it; the board is off, and has its old firmware.
        """
        self.off()
        self._start(kernel)
        self._kernel = kernel

    def close(self) -> None:
        """Switch it off for good."""
        self.off()
        if self._debugger:
            self._debugger.close()

    def _start(self, kernel: Path) -> None:
        complaints = self._folder / "qemu.txt"
        self._terminal = Terminal(self._link)
        self._rail.switch(on=True)
        self._pin = PinWatch(lambda t_ns, high: self._rail.set_pin(t_ns, high=high))
        trace = self._pin.descriptor
        keep = [self._lock, trace, *([self._debugger.fileno()] if self._debugger else [])]
        command = (*self._command(kernel), *self._pin.options)
        with complaints.open("wb") as file:
            self._process = subprocess.Popen(
                ("sh", "-c", _GUARD, "sh", *command),
                stdin=subprocess.PIPE, stdout=self._terminal.far, stderr=file,
                pass_fds=keep, start_new_session=True,
            )  # fmt: skip
        os.close(trace)
        self._terminal.give_far_away()
        if _ended(self._terminal.near, wait_s=START_S):
            self.off()
            said = _TIMESTAMP.sub("", complaints.read_text(errors="replace"))
            lines = [line for line in said.splitlines() if "warning:" not in line]
            raise ConnectError(
                f"{PROGRAM} does not run {str(kernel)!r}: {(lines or ['it ended'])[0]}",
                hint=f"look at {str(complaints)!r}",
                evidence=[Evidence(name="qemu", text=said)],
            )
        self._terminal.show()

    def _command(self, kernel: Path) -> tuple[str, ...]:
        flash = str(self._folder / f"flash-{self._board}")
        flash = flash.replace(",", ",,")  # as QEMU reads its options
        size = BOARDS[self._board]
        debugger: tuple[str, ...] = ()
        if self._debugger:
            socket_ = f"socket,id=gdb,fd={self._debugger.fileno()},server=on,wait=off"
            debugger = ("-chardev", socket_, "-gdb", "chardev:gdb")
        # For every byte of the line two threads of QEMU take turns; on two processors they wake
        # each other up all the time, and a byte takes twice as long.
        pinned = ("taskset", "-c", str(self._core)) if shutil.which("taskset") else ()
        return (
            *pinned,
            PROGRAM,
            *("-M", f"{self._board},memory-backend=flash"),
            *("-object", f"memory-backend-file,id=flash,size={size},mem-path={flash},share=on"),
            *("-icount", f"shift={ICOUNT_SHIFT},align=off,sleep=on"),
            *("-nodefaults", "-display", "none", "-monitor", "none"),
            *("-add-fd", "fd=3,set=1", "-chardev", "serial,id=uart,path=/dev/fdset/1"),
            *("-serial", "chardev:uart"),
            *debugger,
            *("-kernel", str(kernel)),
        )


def _listen() -> socket.socket:
    """A port for the debugger; it stays the same while the board is switched off and on."""
    line = socket.socket()
    line.bind(("127.0.0.1", 0))
    line.listen()
    return line


def _ended(terminal: int, *, wait_s: float) -> bool:
    """Wait for the first byte of the far end; whether that is closed instead."""
    poll = select.poll()
    poll.register(terminal, select.POLLIN)
    return any(event & select.POLLHUP for _, event in poll.poll(wait_s * 1000))
