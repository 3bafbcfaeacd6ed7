"""Settings of a Linux device that lower noise, and what undoes them, kept on the device itself.

The file `restore` in the farm's folder holds the boot and the original values. It is whole before
the first setting is changed, and it goes when all of them are back. After a reboot the settings are
gone by themselves: a file of another boot is only removed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from drivers.platforms.linux_told import BEGAN, GET
from farm.errors import ConfigError
from farm.model import Device

FILES = {"governor": "scaling_governor", "max_khz": "scaling_max_freq"}
"""The file of each setting, one in every frequency domain."""
_NAMES = {file: name for name, file in FILES.items()}

# alone: a script whose controller was killed may still be at work; the file `tuning` names it. The
# later one ends the earlier, and one whose starter is gone ends itself before it changes anything.
# keep FILE TEXT: whole and on the disk, or not at all.
ALONE = (
    GET
    + BEGAN
    + """
newline='
'
still_wanted() {
  parent=$PPID
  { read -r _ _ _ parent _ <"/proc/$$/stat"; } 2>/dev/null
  [ "$parent" = "$PPID" ] || exit 0
}
end() { kill -9 "$1"; }
alone() {
  still_wanted
  began $$
  mine=$began
  if { read -r pid since <tuning; } 2>/dev/null && began "$pid" && [ "$began" = "$since" ]; then
    [ "$since" -gt "$mine" ] && exit 0
    end "$pid"
  fi
  { echo "$$ $mine" >tuning; } 2>/dev/null
  still_wanted
}
keep() {
  part=$1.$$.part
  { printf '%s\\n' "$2" >"$part" && { sync "$part" || sync; } && mv -f "$part" "$1"; } \\
    2>/dev/null || { rm -f "$part"; false; }
}
"""
)

# put FILE VALUE: as whom we are, otherwise as root where that needs no password.
_PUT = (
    ALONE
    + """
policies=$cpus/cpufreq
boot= sudo=
get "$tree/proc/sys/kernel/random/boot_id" && boot=$got
may_sudo() {
  [ -n "$sudo" ] || { sudo=no; sudo -n true >/dev/null 2>&1 </dev/null && sudo=yes; }
  [ "$sudo" = yes ]
}
put() {
  { echo "$2" >"$1"; } 2>/dev/null && return
  may_sudo && echo "$2" | sudo -n tee "$1" >/dev/null 2>&1
}
"""
)

# $1: the farm's folder; then `FILE=VALUE` for each setting.
# Prints `set|denied|refused FILE POLICY OLD NOW` for each setting that differed.
PREPARE = (
    _PUT
    + """
mkdir -p -- "$1" && cd "$1" || exit 1
shift
alone
text="boot $boot" original=' ' was=none
[ -r restore ] && read -r _ was <restore
[ "$was" = "$boot" ] && while read -r policy file value; do
  [ "$policy" = boot ] && continue
  original="$original$policy/$file " text="$text$newline$policy $file $value"
done <restore
for want in "$@"; do
  file=${want%%=*}
  for folder in "$policies"/policy[0-9]*; do
    get "$folder/$file" && [ "$got" != "${want#*=}" ] || continue
    policy=${folder##*/}
    case $original in *" $policy/$file "*) continue ;; esac
    original="$original$policy/$file " text="$text$newline$policy $file $got"
  done
done
if [ "$original" != ' ' ]; then
  keep restore "$text" || { echo unsaved; rm -f tuning; exit 0; }
fi
for want in "$@"; do
  file=${want%%=*} value=${want#*=} seen=
  for folder in "$policies"/policy[0-9]*; do
    get "$folder/$file" || continue
    seen=yes old=$got how=denied
    [ "$old" = "$value" ] && continue
    { [ -w "$folder/$file" ] || may_sudo; } && how=refused
    put "$folder/$file" "$value"
    get "$folder/$file"
    [ "$got" = "$value" ] && how=set
    echo "$how $file ${folder##*/} $old $got"
  done
  [ -n "$seen" ] || echo "absent $file"
done
rm -f tuning
true
"""
)

# $1: the farm's folder. Prints `back|stays FILE POLICY VALUE` for each setting that differed. What
# is no setting of ours is left alone, whoever wrote it into the file.
RESTORE = (
    _PUT
    + """
cd "$1" 2>/dev/null || exit 0
[ -f restore ] || [ -f tuning ] || exit 0
alone
bad= was=none
[ -r restore ] && read -r _ was <restore
[ "$was" = "$boot" ] && while read -r policy file value; do
  case ${policy#policy} in '' | *[!0-9]*) continue ;; esac
  case $file in scaling_governor | scaling_max_freq) ;; *) continue ;; esac
  get "$policies/$policy/$file"
  [ "$got" = "$value" ] && continue
  put "$policies/$policy/$file" "$value"
  get "$policies/$policy/$file"
  if [ "$got" = "$value" ]; then
    echo "back $file $policy $got"
  else
    echo "stays $file $policy $got"
    bad=yes
  fi
done <restore
[ -n "$bad" ] || rm -f restore
rm -f tuning
true
"""
)

_FILE = f"({'|'.join(_NAMES)})"
_PREPARED = re.compile(
    rf"^(set|denied|refused|absent) {_FILE}(?: (\S+) (\S*) ?(\S*))?$", re.MULTILINE
)
_RESTORED = re.compile(rf"^(back|stays) {_FILE} (\S+) (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the inventory wants of a device.

    Attributes:
        governor: how the kernel chooses frequencies; empty to leave it alone.
        max_khz: the highest frequency, below turbo for example; empty to leave it alone.
        cores: the cores under test, empty for all. Runtimes keep to them; here they must exist.
    """

    governor: str = ""
    max_khz: str = ""
    cores: tuple[int, ...] = ()

    def arguments(self) -> tuple[str, ...]:
        """What the script is told to set."""
        wanted = {"governor": self.governor, "max_khz": self.max_khz}
        return tuple(f"{FILES[name]}={value}" for name, value in wanted.items() if value)


def read_settings(device: Device) -> Settings:
    """The settings that the inventory gives a device.

    Raises:
        ConfigError: one of them can never be set.
    """
    governor, max_khz = device.option("governor"), device.option("max_khz")
    if not re.fullmatch(r"[a-z_]*", governor):
        raise ConfigError(f"governor '{governor}' is no word", hint="write governor: performance")
    if not re.fullmatch(r"([1-9][0-9]{3,8})?", max_khz):
        raise ConfigError(f"max_khz '{max_khz}' is no frequency", hint="write max_khz: 1800000")
    return Settings(governor=governor, max_khz=max_khz, cores=device.cpus())


def prepared_lines(settings: Settings, told: str) -> tuple[str, ...]:
    """Lines for people, from what the script that prepares printed."""
    if told.startswith("unsaved"):
        return ("tuning: nothing is set, what would undo it cannot be kept on the device",)
    wanted = {"governor": settings.governor, "max_khz": settings.max_khz}
    lines: dict[str, None] = {}
    for how, file, _, old, now in _PREPARED.findall(told):
        name = _NAMES[file]
        lines[_prepared_line(name, wanted[name], how, old, now)] = None
    return tuple(lines)


def _prepared_line(name: str, value: str, how: str, old: str, now: str) -> str:
    if how == "set":
        return f"{name}: {value} while measuring, {old} before"
    if how == "absent":
        return f"{name}: the device has no frequency scaling, {value} cannot be set"
    stays = f"it stays {now or old}: expect noise"
    if how == "denied":
        return f"{name}: not allowed to set {value}, {stays}"
    if now and now != old:
        return (
            f"{name}: {now} while measuring, which is as near to {value} as it goes; {old} before"
        )
    return f"{name}: the device does not take {value}, {stays}"


def restored_names(told: str) -> tuple[str, ...]:
    """The settings that were put back, and those that could not be, as the script printed them."""
    names: dict[str, None] = {}
    for how, file, policy, value in _RESTORED.findall(told):
        name = _NAMES[file]
        stays = f"{name} of {policy} (it cannot be put back, {value or 'gone'} stays)"
        names[name if how == "back" else stays] = None
    return tuple(names)
