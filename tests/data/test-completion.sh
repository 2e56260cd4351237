#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Completion in bash: what is offered for a line with the cursor at its end.

set -euo pipefail
# shellcheck source=tap.sh
. "$(dirname "$0")/tap.sh"

# shellcheck source=../../data/keyward.bash
. "$DATA_SOURCE_DIR/keyward.bash"

# offers EXPECTED WORD…: the last word is the one being completed.
offers () {
  local expected=$1
  shift
  COMP_WORDS=("$@")
  COMP_CWORD=$(($# - 1))
  COMPREPLY=()
  _keyward
  [[ ${COMPREPLY[*]} == "$expected" ]] || {
    printf 'expected: %s\noffered:  %s\n' "$expected" "${COMPREPLY[*]}"
    return 1
  }
}

is_registered () {
  [[ $(complete -p "$1") == "complete -F _keyward $1" ]]
}

offers_files () {
  cd "$tap_scratch"
  : >settings.toml
  offers settings.toml keyward --config sett
}

# knows_every_command: whatever keyward(1) describes is offered.
knows_every_command () {
  local name
  while read -r name; do
    COMP_WORDS=(keyward "$name") COMP_CWORD=1 COMPREPLY=()
    _keyward
    [[ " ${COMPREPLY[*]} " == *" $name "* ]] || { printf 'not offered: %s\n' "$name"; return 1; }
  done < <(sed -n 's/^\.It Ic \([a-z]*\).*/\1/p' "$DATA_SOURCE_DIR/keyward.1")
}

# A daemon that lists two devices and two keys.
keyward () {
  case $2 in
    devices) printf '    "serial" : "DENK%s",\n    "label" : "x"\n' 01 02 ;;
    keys) printf '    "id" : "%s"\n' 0 label:old ;;
  esac
}

all='check decrypt device devices encrypt genkey install keys listslots monitor random reload rewrap setup showkey status test unlock webui'
tap_check /completion/keyward is_registered keyward
tap_check /completion/hsmdaemon is_registered hsmdaemon
tap_check /completion/commands offers "$all" keyward ''
tap_check /completion/prefix offers 'setup showkey status' hsmdaemon s
tap_check /completion/after-options offers "$all" keyward --json --config x ''
tap_check /completion/common-options offers '--bus-address --config --json --module --session --verbose --help --version' keyward --
tap_check /completion/options-of-genkey offers '--bits' keyward genkey --bi
tap_check /completion/bits offers '2048 3072 4096' keyward genkey label --bits ''
tap_check /completion/options-of-setup offers '--token-label' keyward setup --t
tap_check /completion/device offers retry keyward device ''
tap_check /completion/serials-to-retry offers 'DENK01 DENK02' keyward device retry ''
tap_check /completion/serials-to-unlock offers DENK02 keyward unlock DENK02
tap_check /completion/keys-to-accept offers '0 label:old' keyward keys accept ''
tap_check /completion/keys-to-encrypt offers 0 keyward encrypt --key 0
tap_check /completion/kinds offers 'aes256 rsa2048 rsa3072 rsa4096' keyward keys generate --kind ''
tap_check /completion/keys offers 'accept generate' keyward keys ''
tap_check /completion/nothing-for-an-id offers '' keyward showkey ''
tap_check /completion/files offers_files
tap_check /completion/every-command knows_every_command
tap_done
