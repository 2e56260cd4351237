#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# meson install into a DESTDIR puts everything in place. MANDIR and UNIT_DIR are empty where the
# build leaves those parts out.

set -euo pipefail
# shellcheck source=tap.sh
. "$(dirname "$0")/tap.sh"
tap_need meson

root=$tap_scratch/root

installs () {
  DESTDIR=$root meson install -C "$BUILD_DIR" --no-rebuild
}

is_file () {
  [[ -s $root$1 && ! -L $root$1 ]] || { find "$root" -type f; return 1; }
}

is_program () {
  [[ -f $root$1 && -x $root$1 ]] || { find "$root" -type f; return 1; }
}

leads_to () {
  [[ $(realpath "$root$1") == "$root$2" ]]
}

# Each folder of plugins/ that was built has its module installed.
has_every_plugin () {
  local built missing=0
  while read -r built; do
    is_file "$PLUGIN_DIR/${built#"$BUILD_DIR"/plugins/*/}" || { printf 'not installed: %s\n' "$built"; missing=1; }
  done < <(find "$BUILD_DIR/plugins" -name '*.so')
  return "$missing"
}

# Nobody who runs on an hsmdaemon.toml may find it hidden by a file of ours.
leaves_the_configuration_alone () {
  [[ ! -e $root/etc/keyward/keyward.toml ]]
}

names_no_build_folder () {
  ! grep -rlF "$BUILD_DIR" "$root$DATADIR" ${UNIT_DIR:+"$root$UNIT_DIR"}
}

completions=$DATADIR/bash-completion/completions
files=("$DATADIR/keyward/keyward.toml" "$completions/keyward"
  "$DATADIR/dbus-1/system.d/org.keyward1.conf" "$DATADIR/dbus-1/interfaces/org.keyward1.xml")
[[ -z $MANDIR ]] || files+=("$MANDIR"/{man8/keywardd.8,man1/keyward.1,man1/hsmdaemon.1,man5/keyward.toml.5})
[[ -z $UNIT_DIR ]] || files+=("$UNIT_DIR"/{keywardd.service,keywardd.socket,keywardd-line.socket}
  "$SYSUSERS_DIR/keyward.conf" "$TMPFILES_DIR/keyward.conf")

tap_check /install/succeeds installs
for program in "$SBINDIR/keywardd" "$BINDIR/keyward" "$BINDIR/hsmdaemon"; do
  tap_check "/install$program" is_program "$program"
done
tap_check /install/plugins has_every_plugin
for file in "${files[@]}"; do
  tap_check "/install$file" is_file "$file"
done
tap_check /install/completion-of-hsmdaemon leads_to "$completions/hsmdaemon" "$completions/keyward"
tap_check /install/no-configuration leaves_the_configuration_alone
tap_check /install/no-build-paths names_no_build_folder
tap_done
