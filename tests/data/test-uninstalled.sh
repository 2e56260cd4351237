#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# From the build tree, by meson devenv: programs are found, and they find plugins and translations.

set -euo pipefail
# shellcheck source=tap.sh
. "$(dirname "$0")/tap.sh"
tap_need meson

in_devenv () {
  meson devenv -C "$BUILD_DIR" "$@"
}

program_is_found () {
  in_devenv "$1" --version | grep -q "^key"
}

plugins_are_found () {
  local paths path
  paths=$(in_devenv printenv KEYWARD_PLUGIN_PATH)
  [[ -n $paths ]]
  IFS=: read -ra paths <<<"$paths"
  for path in "${paths[@]}"; do
    compgen -G "$path/libkeyward-*.so" >/dev/null
  done
}

# LANGUAGE counts only where there is a locale other than C.
help_is_translated () {
  LC_ALL=C.UTF-8 LANGUAGE=de in_devenv "$1" --help | grep -q "$2"
}

for program in keyward hsmdaemon keywardd; do
  tap_check "$program is found" program_is_found "$program"
done
tap_check 'plugins are found' plugins_are_found
tap_check 'the help of keyward is translated' help_is_translated keyward 'Ein RSA-Schlüsselpaar erzeugen'
tap_check 'the help of keywardd is translated' help_is_translated keywardd 'Die Version anzeigen'
tap_done
