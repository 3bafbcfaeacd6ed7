"""The tools that a phone has and a Linux computer has not, as sh scripts over files.

All that they tell and all that they set is in a folder of plain files, the *state*: the physics and
tests write there what the phone is to tell. The scripts run in mksh with toybox, as on a phone, and
in dash:

    props/NAME             a property, for getprop
    dumpsys/SERVICE        all that `dumpsys SERVICE` prints; a service without a file is not there
    settings/NAMESPACE/NAME  a setting
    doze                   enabled or disabled
    fixed_performance      true, false or unsupported
    screen                 on once somebody pressed a key
    logcat                 messages in the format `epoch`
"""

from __future__ import annotations

import hashlib
import os
import shlex
from pathlib import Path

from drivers.virtual.machine_files import MachineFiles, write_program
from drivers.virtual.phone_dumps import CPU, SKIN, Heat, battery_dump, thermal_dump

MODEL = "Virtual phone (simulated)"

# mksh has no printf of its own, so each script says all in one.
_GETPROP = r"""
if [ $# = 0 ]; then
  text=
  for file in "$state"/props/*; do
    value=
    read -r value <"$file"
    text="$text[${file##*/}]: [$value]
"
  done
  printf %s "$text"
else
  value=
  [ -f "$state/props/$1" ] && read -r value <"$state/props/$1"
  printf '%s\n' "${value:-$2}"
fi
"""

_DUMPSYS = r"""
missing() { echo "Can't find service: $1" >&2; exit 0; }
[ "$1" = deviceidle ] || {
  [ $# -gt 0 ] && [ -f "$state/dumpsys/$1" ] || missing "$1"
  exec cat "$state/dumpsys/$1"
}
read -r doze <"$state/doze" || missing "$1"
case $2:$3 in
  enabled: | enabled:all | enabled:deep | enabled:light)
    case $doze in enabled) echo 1 ;; *) echo 0 ;; esac ;;
  enable: | disable: | enable:all | disable:all)
    [ "$doze" = "$2d" ] && exit 0
    echo "$2d" >"$state/doze"
    printf '%s idle mode %s\n' Deep "$2d" Light "$2d" ;;
  *) echo "Unknown idle mode: $3" ;;
esac
"""

_SETTINGS = r"""
refuse() { echo "Invalid namespace '$1'" >&2; exit 255; }
case $2 in global | system | secure) ;; *) refuse "$2" ;; esac
file=$state/settings/$2/$3
case $1:$# in
  get:3) if [ -f "$file" ]; then exec cat "$file"; else echo null; fi ;;
  put:4) mkdir -p "${file%/*}" && printf '%s\n' "$4" >"$file" ;;
  delete:3) if [ -f "$file" ]; then rm "$file" && deleted=1; else deleted=0; fi
    echo "Deleted $deleted rows" ;;
  *) echo "Bad arguments" >&2; exit 255 ;;
esac
"""

# The numbers are those of BatteryManager.BATTERY_PLUGGED_*.
_SVC = r"""
case "$1 $2 $3" in
  "power stayon true") value=15 ;;
  "power stayon false") value=0 ;;
  "power stayon ac") value=1 ;;
  "power stayon usb") value=2 ;;
  "power stayon wireless") value=4 ;;
  "power stayon dock") value=8 ;;
  *) echo "usage: svc power stayon [true|false|usb|ac|wireless|dock]" >&2; exit 1 ;;
esac
mkdir -p "$state/settings/global"
echo "$value" >"$state/settings/global/stay_on_while_plugged_in"
"""

_CMD = r"""
[ "$1" = power ] || { echo "cmd: Can't find service: $1" >&2; exit 20; }
[ "$2" = set-fixed-performance-mode-enabled ] || { echo "Unknown command: $2"; exit 255; }
[ $# = 3 ] || { echo "Error: Argument expected after \"$2\"" >&2; exit 255; }
read -r mode <"$state/fixed_performance"
if [ "$mode" = unsupported ]; then
  echo "Failed to set FIXED_PERFORMANCE mode
This is likely because Power HAL AIDL is not implemented on this device" >&2
  exit 255
fi
case $3 in true) mode=true ;; *) mode=false ;; esac
echo "$mode" >"$state/fixed_performance"
"""

_INPUT = r"""
[ "$1" = keyevent ] && [ $# -ge 2 ] || { echo "Error: Unknown command: $1" >&2; exit 255; }
echo on >"$state/screen"
"""

# A moment's fraction has three digits; a 1 in front keeps 012 from being octal.
_LOGCAT = r"""
format=threadtime since=0 milli=1000 last=
while getopts db:v:t: option; do
  case $option:$OPTARG in
    v:*) format=$OPTARG ;;
    t:*.*) since=${OPTARG%%.*} milli=${OPTARG#*.}000 milli=1${milli%"${milli#???}"} ;;
    t:*) last=$OPTARG ;;
  esac
done
shown() {
  while read -r moment rest; do
    seconds=${moment%%.*} fraction=1${moment#*.}
    [ "$seconds" -gt "$since" ] ||
      { [ "$seconds" -eq "$since" ] && [ "$fraction" -ge "$milli" ]; } || continue
    [ "$format" = epoch ] && moment="         $moment" ||
      moment="$(date -d "@$seconds" '+%m-%d %H:%M:%S').${moment#*.}"
    printf '%s  %s\n' "$moment" "$rest"
  done <"$state/logcat"
}
echo "--------- beginning of main"
if [ "$last" ]; then shown | tail -n "$last"; else shown; fi
"""

_TOOLS = {
    "getprop": _GETPROP,
    "dumpsys": _DUMPSYS,
    "settings": _SETTINGS,
    "svc": _SVC,
    "cmd": _CMD,
    "input": _INPUT,
    "logcat": _LOGCAT,
}


def write_tools(folder: Path, *, state: str) -> None:
    """Write the scripts.

    Args:
        folder: where; it is made.
        state: the folder with the state, as the phone's processes see it.
    """
    for name, body in _TOOLS.items():
        write_program(folder / name, f"#!/bin/sh\nstate={shlex.quote(state)}{body}")


def write_state(folder: Path, *, serial: str, epoch_s: int = 1_700_000_000) -> None:
    """Fill a folder with the state of a phone that lies on a desk, charged by USB.

    Args:
        folder: where; it is made. What it has is written anew, but for settings: those stay.
        serial: of the phone; phones of one serial number are the same.
        epoch_s: when the message in its log was written.
    """
    skin = Heat(name="VIRTUAL-SKIN", kind=SKIN, celsius=28.0)
    cpu = Heat(name="CPU0", kind=CPU, celsius=30.0)
    files = {f"props/{name}": value for name, value in _properties(serial).items()}
    if not (folder / "settings" / "global").exists():
        files |= {f"settings/global/{name}": value for name, value in _SETTINGS_AT_FIRST.items()}
    files |= {
        "dumpsys/battery": battery_dump(level_pct=65, celsius=26.0),
        "dumpsys/thermalservice": thermal_dump(status=0, sensors=(cpu, skin)),
        "doze": "enabled",
        "fixed_performance": "false",
        "screen": "off",
        "logcat": f"{epoch_s}.000  1000  1000 I boot: completed",
    }
    MachineFiles(folder).write(files)


_SETTINGS_AT_FIRST = {
    "stay_on_while_plugged_in": "0",
    "airplane_mode_on": "0",
    "low_power": "0",
    "window_animation_scale": "1.0",
}


def _properties(serial: str) -> dict[str, str]:
    build = int(hashlib.sha256(os.fsencode(serial)).hexdigest()[:6], 16) % 90 + 10
    fingerprint = f"farm/vphone/vphone:13/VP1A.2301{build}.001/98765{build}:user/release-keys"
    return {
        "ro.boot.serialno": serial,
        "ro.serialno": serial,
        "ro.product.brand": "farm",
        "ro.product.manufacturer": "Farm",
        "ro.product.model": MODEL,
        "ro.product.device": "vphone",
        "ro.product.name": "vphone",
        "ro.product.board": "vphone",
        "ro.soc.manufacturer": "Farm",
        "ro.soc.model": "Virtual SoC (simulated)",
        "ro.board.platform": "vsoc",
        "ro.hardware": "vphone",
        "ro.build.fingerprint": fingerprint,
        "ro.build.id": f"VP1A.2301{build}.001",
        "ro.build.type": "user",
        "ro.build.tags": "release-keys",
        "ro.build.version.release": "13",
        "ro.build.version.sdk": "33",
        "ro.build.version.security_patch": "2023-01-05",
        "ro.product.cpu.abi": "arm64-v8a",
        "ro.product.cpu.abilist": "arm64-v8a,armeabi-v7a,armeabi",
        "ro.debuggable": "0",
        "ro.secure": "1",
        "sys.boot_completed": "1",
    }
