"""Settings of an Android phone that lower noise, and what undoes them, kept on the phone itself.

The file `restore-phone` in the farm's folder holds the boot and the original values. It is whole
before the first setting is changed, and it goes when all of them are back. A reboot undoes doze and
fixed performance by itself; what keeps the screen on survives it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from drivers.platforms.android_facts import FIND_BOOT
from drivers.platforms.linux_settings import ALONE, Settings, read_settings
from farm.errors import ConfigError
from farm.model import Device

# end PID: with the command that it waits for, which may be about to set something: on a phone it
# takes a second. `awake` and `doze` ask for the state; a phone that answers anything else is left
# alone. Fixed performance cannot be asked for: it is off unless somebody asked for it.
_STATE = (
    ALONE
    + FIND_BOOT
    + """
end() {
  ended=$1
  kill -STOP "$ended"
  for stat in /proc/[0-9]*/stat; do
    { read -r child <"$stat"; } 2>/dev/null || continue
    set -- ${child##*) }
    [ "$2" = "$ended" ] && kill -9 "${child%% *}"
  done
  kill -9 "$ended"
}
stay_on="global stay_on_while_plugged_in"
awake() {
  awake=$(settings get $stay_on 2>/dev/null </dev/null)
  case $awake in null | [0-9] | 1[0-5]) ;; *) awake= ;; esac
}
doze() {
  doze=$(dumpsys deviceidle enabled 2>/dev/null </dev/null)
  case $doze in 0 | 1) ;; *) doze= ;; esac
}
fixed() { cmd power set-fixed-performance-mode-enabled "$1" >/dev/null 2>&1 </dev/null; }
load() {
  old_awake= old_doze= old_fixed= was=none
  { read -r _ was && while read -r name value; do
    case $name=$value in
      stay_on=null | stay_on=[0-9] | stay_on=1[0-5]) old_awake=$value ;;
      doze=1) [ "$was" = "$boot" ] && old_doze=1 ;;
      fixed_performance=false) [ "$was" = "$boot" ] && old_fixed=false ;;
    esac
  done; } 2>/dev/null <restore-phone
}
save() {
  text="boot $boot"
  [ -n "$old_awake" ] && text="$text${newline}stay_on $old_awake"
  [ -n "$old_doze" ] && text="$text${newline}doze $old_doze"
  [ -n "$old_fixed" ] && text="$text${newline}fixed_performance $old_fixed"
  if [ -n "$old_awake$old_doze$old_fixed" ]; then
    keep restore-phone "$text"
  else
    rm -f restore-phone
  fi
}
"""
)

# $1: the farm's folder; $2: `yes` for fixed performance. Prints `set|refused NAME OLD` for each
# setting that differed. 7 is awake on mains, USB and wireless power, 15 in a dock as well.
PREPARE = (
    _STATE
    + """
mkdir -p -- "$1" && cd "$1" || exit 1
alone
find_boot
load
awake
doze
was_awake=$awake was_doze=$doze was_fixed=$old_fixed
case $was_awake in
  '' | 7 | 15) ;;
  *) old_awake=${old_awake:-$was_awake} ;;
esac
[ "$was_doze" = 1 ] && old_doze=1
[ "$2" = yes ] && old_fixed=false
save || { echo unsaved; rm -f tuning; exit 0; }
case $was_awake in
  '') echo "refused stay_on" ;;
  7 | 15) ;;
  *)
    settings put $stay_on 7 >/dev/null 2>&1 </dev/null
    awake
    if [ "$awake" = 7 ]; then echo "set stay_on $was_awake"; else echo "refused stay_on"; fi ;;
esac
input keyevent KEYCODE_WAKEUP >/dev/null 2>&1 </dev/null
if [ "$was_doze" = 1 ]; then
  dumpsys deviceidle disable >/dev/null 2>&1 </dev/null
  doze
  if [ "$doze" = 0 ]; then echo "set doze"; else echo "refused doze"; fi
fi
if [ "$2" = yes ]; then
  if fixed true; then
    echo "set fixed_performance"
  else
    echo "refused fixed_performance"
    old_fixed=$was_fixed
    save
  fi
fi
rm -f tuning
true
"""
)

# $1: the farm's folder. Prints `back|stays NAME` for each setting that differed.
RESTORE = (
    _STATE
    + """
cd "$1" 2>/dev/null || exit 0
[ -f restore-phone ] || [ -f tuning ] || exit 0
alone
find_boot
load
bad=
judge() {
  if [ "$2" = "$3" ]; then echo "back $1"; else echo "stays $1"; bad=yes; fi
}
if [ -n "$old_awake" ]; then
  awake
  if [ "$awake" != "$old_awake" ]; then
    if [ "$old_awake" = null ]; then
      settings delete $stay_on >/dev/null 2>&1 </dev/null
    else
      settings put $stay_on "$old_awake" >/dev/null 2>&1 </dev/null
    fi
    awake
    judge stay_on "$awake" "$old_awake"
  fi
fi
if [ -n "$old_doze" ]; then
  doze
  if [ "$doze" != 1 ]; then
    dumpsys deviceidle enable >/dev/null 2>&1 </dev/null
    doze
    judge doze "$doze" 1
  fi
fi
if [ -n "$old_fixed" ]; then
  fixed false
  judge fixed_performance $? 0
fi
[ -n "$bad" ] || rm -f restore-phone
rm -f tuning
true
"""
)

_NAME = "(stay_on|doze|fixed_performance)"
_PREPARED = re.compile(rf"^(set|refused) {_NAME}(?: (\S+))?$", re.MULTILINE)
_RESTORED = re.compile(rf"^(back|stays) {_NAME}$", re.MULTILINE)
_SET = {
    "stay_on": "stay_on: the screen stays on while measuring, {} before",
    "doze": "doze: off while measuring",
    "fixed_performance": "fixed_performance: on while measuring, at speeds that the phone can hold",
}
_REFUSED = {
    "stay_on": "stay_on: the phone does not let it be set, it may fall asleep: expect noise",
    "doze": "doze: the phone does not let it be switched off: expect noise",
    "fixed_performance": "fixed_performance: not supported by this phone, it runs without",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PhoneSettings:
    """What the inventory wants of a phone.

    Attributes:
        linux: what it wants of any Linux, where the shell is allowed to.
        fixed_performance: whether it shall run at speeds that it can hold.
        allow_test_builds: whether it may be an emulator or an engineering build.
    """

    linux: Settings
    fixed_performance: bool = False
    allow_test_builds: bool = False


def read_phone_settings(device: Device) -> PhoneSettings:
    """The settings that the inventory gives a phone.

    Raises:
        ConfigError: one of them can never be set.
    """
    return PhoneSettings(
        linux=read_settings(device),
        fixed_performance=_read_yes(device, "fixed_performance"),
        allow_test_builds=_read_yes(device, "allow_test_builds"),
    )


def prepared_lines(told: str) -> tuple[str, ...]:
    """Lines for people, from what the script that prepares printed."""
    if told.startswith("unsaved"):
        return ("tuning: nothing is set, what would undo it cannot be kept on the device",)
    return tuple(
        _SET[name].format("unset" if old == "null" else old) if how == "set" else _REFUSED[name]
        for how, name, old in _PREPARED.findall(told)
    )


def fixed_performance(told: str) -> str:
    """What became of that mode: it is part of what a result means."""
    how = {name: how for how, name, _ in _PREPARED.findall(told)}.get("fixed_performance")
    return {"set": "on", "refused": "unsupported"}.get(how or "", "off")


def restored_names(told: str) -> tuple[str, ...]:
    """The settings that were put back, and those that could not be, as the script printed them."""
    return tuple(
        name if how == "back" else f"{name} (it cannot be put back)"
        for how, name in _RESTORED.findall(told)
    )


def _read_yes(device: Device, name: str) -> bool:
    word = device.option(name, "no")
    if word not in ("yes", "no"):
        raise ConfigError(f"{name} '{word}' is neither yes nor no", hint=f"write {name}: yes")
    return word == "yes"
