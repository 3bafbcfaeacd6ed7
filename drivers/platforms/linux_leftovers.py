"""What is left on a Linux device: runs that nobody waits for, and what its kernel wrote down."""

from __future__ import annotations

import re

from drivers.platforms.linux_told import BEGAN

MAX_LINES = 200
MAX_BYTES = 16 << 10
CLOCK_SLACK_S = 5.0
"""The clock of kernel messages drifts against the uptime, by seconds over weeks."""

# $1: the farm's folder, $2: the process that asks. A run is a stray if its process still is the one
# that was started, unless the controller that owns it is alive and is not the one that asks; on a
# board nobody owns it. What has left the group is found by where it works. A killed process may
# still write for a moment, so its folder may take two attempts. Nobody writes a `.part` now.
SWEEP = (
    BEGAN
    + """
rm -f -- "$1"/*.part "$1"/store/*.part
cd "$1/runs" 2>/dev/null || exit 0
here=$(pwd -P)
newline='
'
links=
for run in */; do
  run=${run%/} stray=
  [ -d "$run" ] || continue
  if { read -r owner since <"$run/owner"; } 2>/dev/null && [ "$owner" != "$2" ]; then
    began "$owner" && [ "$began" = "$since" ] && continue
  fi
  if { read -r pid since <"$run/pid"; } 2>/dev/null; then
    began "$pid" && [ "$began" = "$since" ] && kill -9 "-$pid" 2>/dev/null && stray=yes
  fi
  [ -n "$links" ] || links=$(ls -l /proc/[0-9]*/cwd 2>/dev/null)
  IFS=$newline
  set -f
  for link in $links; do
    case $link in *" -> $here/$run" | *" -> $here/$run/"*) ;; *) continue ;; esac
    link=${link%%/cwd -> *}
    kill -9 "${link##*/proc/}" 2>/dev/null && stray=yes
  done
  set +f
  unset IFS
  [ -z "$stray" ] || echo "$run"
  rm -rf -- "$run" 2>/dev/null || { sleep 1; rm -rf -- "$run"; }
done
true
"""
)

# Kernel messages with seconds since boot; reading them may need rights that nobody gave us.
KERNEL = """
{ read -r now _ </proc/uptime; } 2>/dev/null && echo "[$now]"
lines=$(dmesg 2>/dev/null | tail -n 1000)
[ -n "$lines" ] ||
  lines=$(journalctl -k -q -n 1000 -o short-monotonic --no-pager 2>/dev/null)
printf '%s\\n' "$lines"
"""
_STAMP = re.compile(r"(?:<\d+>)?\[\s*(\d+\.\d+)\]")


def recent(told: str, last_s: float) -> str:
    """The kernel's messages of the last seconds, the latest if they are too many.

    Args:
        told: what the script printed: the uptime, then messages in the order of time.
        last_s: how far back to look, in seconds.
    """
    first, _, rest = told.partition("\n")
    now = _STAMP.match(first)
    if not now:
        return ""
    since = float(now[1]) - last_s - CLOCK_SLACK_S
    kept: list[str] = []
    within = False
    for line in rest.splitlines():
        if stamp := _STAMP.match(line):
            within = float(stamp[1]) >= since
        if within and line:  # a line without a stamp goes on with the message before it
            kept.append(line)
    return latest(kept)


def latest(lines: list[str]) -> str:
    """The last of many lines, as many as are kept for people."""
    text = "\n".join(lines[-MAX_LINES:]).encode()[-MAX_BYTES:]
    return text.decode(errors="ignore")
