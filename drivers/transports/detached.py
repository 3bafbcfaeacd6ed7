"""Processes on a device that outlive the connection they were started over, by POSIX sh alone.

Every run has a folder. `pid` holds number, beginning and boot of the process that leads the run's
process group: numbers are used again, and after a restart of the device nobody runs. `rc` appears
whole when it has ended.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from pathlib import PurePosixPath

from farm.connection import Detached
from farm.errors import CommandTimeout, DeviceRebooted, InfraError
from farm.shell import COMMAND_S, Completed, Shell, script

OUTPUT_LIMIT = 64 << 10
"""Bytes kept of what a detached process prints, from the end."""
POLL_S = 1.0
OUTAGE_S = 90.0
"""How long a board may be out of reach while something runs on it."""

_STATUS = re.compile(r"-?\d{1,3}", re.ASCII)

# A virtual board has a tree of its own for what a device tells of itself.
_BOOT = '$(cat "${FARM_TREE}/proc/sys/kernel/random/boot_id" 2>/dev/null)'

# $1: folder, then the command; file 3 hears `started` once anybody can find the run.
_SUPERVISE = f"""
cd "$1" && shift || exit 1
echo $$ "$(cut -d' ' -f22 /proc/$$/stat)" "{_BOOT}" >pid.part && mv pid.part pid
echo started >&3
exec 3>&-
"$@" >out 2>err
echo $? >rc.part && mv rc.part rc
"""

# Prints the state of the run in the folder $1, and behind it what it has printed.
_STATE = f"""
alive() {{
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  set -- "$2" ${{stat##*) }}
  [ "$2" != Z ] && [ "$2" != X ] && [ "$1" = "${{21}}" ]
}}
state() {{
  [ -f rc ] && echo "ended $(cat rc)" && return
  read -r pid began boot <pid || {{ echo "ended -9"; return; }}
  if [ "$boot" != "{_BOOT}" ]; then echo rebooted
  elif alive "$pid" "$began"; then echo running
  else echo "ended $(cat rc || echo -9)"
  fi
}}
tell() {{
  cd "$1" 2>/dev/null || {{ echo "ended -9"; return; }}
  state 2>/dev/null
  tail -c {OUTPUT_LIMIT} out 2>/dev/null
  tail -c {OUTPUT_LIMIT} err >&2 2>/dev/null
}}
"""

_POLL = _STATE + 'tell "$1"; true'

_KILL = (
    _STATE
    + f"""
cd "$1" 2>/dev/null && read -r pid began boot <pid 2>/dev/null || exit 0
[ "$boot" = "{_BOOT}" ] && alive "$pid" "$began" && kill -9 "-$pid"
true
"""
)

# $1: the supervising script, $2: folder, then the command. Waits for the end without costing the
# device anything, and then tells like _POLL.
_START = (
    _STATE
    + """
supervise=$1 folder=$2
shift
mkdir -p -- "$folder" || exit 1
setsid sh -c "$supervise" farm-run "$@" 3>&1 </dev/null >/dev/null 2>&1 &
exec 4>&2 2>/dev/null # a shell would complain of a killed child
wait $!
exec 2>&4
tell "$folder"
"""
)


def start_script(argv: tuple[str, ...], folder: PurePosixPath) -> tuple[str, ...]:
    """The command that starts a run: prints `started`, and at its end what `poll` would."""
    return script(_START, _SUPERVISE, str(folder), *argv)


class ShellDetached(Detached):
    """A process group, known by its folder.

    Args:
        shell: the device.
        folder: the run's.
        listen: blocks until the process that started it over this connection has ended, at most
            so many seconds, and returns what it then told; None when that cannot be known.
        device: for messages.
    """

    def __init__(
        self,
        shell: Shell,
        folder: PurePosixPath,
        *,
        device: str,
        listen: Callable[[float], Completed | None] | None = None,
    ) -> None:
        self.id = str(folder)
        self._shell = shell
        self._device = device
        self._listen = listen or _deaf
        self._started = time.monotonic()

    def poll(self) -> Completed | None:
        """The ended process, None while it runs."""
        told = self._shell.run(script(_POLL, self.id), timeout_s=COMMAND_S)
        return self._understood(told)

    def wait(self, timeout_s: float) -> Completed:
        """Wait for its end, over broken connections; at the deadline its whole group is killed."""
        deadline = time.monotonic() + timeout_s
        lost_since: float | None = None
        listen, self._listen = self._listen, _deaf  # a channel is heard to its end once
        told = listen(timeout_s)
        done = self._understood(told) if told else None
        while done is None:
            if time.monotonic() > deadline:
                self.kill()
                raise CommandTimeout(
                    f"the run did not end within {timeout_s:g} s", device=self._device
                )
            try:
                done = self.poll()
                lost_since = None
            except InfraError:
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > OUTAGE_S:
                    raise
            if done is None:
                time.sleep(min(POLL_S, max(0.0, deadline - time.monotonic())))
        return done

    def kill(self) -> None:
        """End the whole group."""
        self._shell.run(script(_KILL, self.id), timeout_s=COMMAND_S)

    def _understood(self, told: Completed) -> Completed | None:
        head, _, printed = told.stdout.partition("\n")
        word, _, status = head.partition(" ")
        if word == "running":
            return None
        if word == "rebooted":
            raise DeviceRebooted("it restarted under the run", device=self._device)
        if word != "ended":
            raise InfraError(f"it does not tell about the run: {told.stderr.strip()[:200]}")
        return Completed(
            returncode=int(status) if _STATUS.fullmatch(status) else -signal.SIGKILL,
            stdout=printed,
            stderr=told.stderr,
            elapsed_s=time.monotonic() - self._started,
        )


def _deaf(timeout_s: float) -> None:
    """Hears nothing, so that the state is asked for."""
