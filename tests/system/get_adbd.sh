#!/bin/sh
# Unpacks Debian's adbd, and the libraries that it needs, into the folder $1; installs nothing.
# It is in the backports of bookworm, so the machine's own sources are read with that suite added.
set -eu
mkdir -p "$1"
folder=$(cd "$1" && pwd)
exec 9>"$folder/lock"
flock 9 # several tests may want it at once
[ -x "$folder/adbd" ] && exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
. /etc/os-release
suite=$VERSION_CODENAME
mkdir -p "$work/lists/partial" "$work/debs" "$work/parts"
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
  [ -f "$file" ] || continue
  # only the stanzas and lines of the distribution itself, not its updates or other archives
  case $file in
    *.sources) sed -n "s/^\(Suites:.*[ :]\)$suite\( .*\)\{0,1\}\$/Suites: $suite $suite-backports/
      H;/^\$/{x;/Suites: $suite $suite-backports/p;d};\${x;/Suites: $suite $suite-backports/p}" \
      "$file" >"$work/parts/$(basename "$file")" ;;
    *) sed -n "s/^\(deb .* \)$suite \(.*\)/\1$suite \2\n\1$suite-backports \2/p" \
      "$file" >"$work/parts/$(basename "$file")" ;;
  esac
done
fetch() {
  apt-get -q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/parts" \
    -o Dir::State::lists="$work/lists" -o APT::Sandbox::User=root "$@" >"$work/log" 2>&1 || {
    cat "$work/log" >&2
    exit 1
  }
}
fetch update
cd "$work/debs"
fetch -t "$suite-backports" download adbd android-libbase android-libboringssl android-libcutils \
  android-liblog libbrotli1 libgcc-s1 liblz4-1 libprotobuf32 libsystemd0 libzstd1 \
  libcap2 libgcrypt20 libgpg-error0 liblzma5
for package in *.deb; do dpkg -x "$package" "$work/all"; done
mkdir -p "$folder/lib"
find "$work/all" -name '*.so*' ! -path '*/doc/*' -exec cp -P {} "$folder/lib/" \;
cp "$(find "$work/all" -name adbd -type f -perm -u+x | head -n 1)" "$folder/adbd.part"
mv "$folder/adbd.part" "$folder/adbd" # appears when all else is there
