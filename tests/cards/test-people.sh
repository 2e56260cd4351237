#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What dev/cards runs: the commands that it tells people to try do what they should.

set -u
# shellcheck source=../data/tap.sh
. "$TAP_DIR/tap.sh"

"$NAMESPACE_PROGRAM" --probe || {
  printf '1..0 # SKIP a private pcscd needs namespaces\n'
  exit 0
}

export LC_ALL=C.UTF-8 NO_COLOR=1
pin=648219

command_status_is_passed_on () {
  "$CARDS_PROGRAM" 1 -- sh -c 'exit 7'
  [[ $? -eq 7 ]]
}

missing_command_is_127 () {
  "$CARDS_PROGRAM" 1 -- "$tap_scratch/no-such-program"
  [[ $? -eq 127 ]]
}

wrong_line_is_refused () {
  local said status
  said=$("$CARDS_PROGRAM" "$@" 2>&1)
  status=$?
  printf '%s\n' "$said"
  [[ $status -eq 2 && $said == *'See dev/cards --help.'* ]]
}

commands_to_try () {
  "$CARDS_PROGRAM" 2 -- bash -euxo pipefail -c "
    cd '$tap_scratch'
    sc-hsm-tool --reader 0 | grep 'DKEK key check value'
    pkcs11-tool --list-slots | grep 'Card 2 (UserPIN)'
    pkcs11-tool --login --pin $pin --keypairgen --key-type rsa:2048 --id 10 --label mine
    pkcs11-tool --list-objects | grep 'label:      mine'
    date | pkcs11-tool --login --pin $pin --sign --id 10 --mechanism SHA256-RSA-PKCS \
      --output-file signature
    test \$(stat -c %s signature) -eq 256
    sc-hsm-tool --reader 0 --pin $pin --key-reference 1 --wrap-key key.bin
    sc-hsm-tool --reader 1 --pin $pin --key-reference 9 --unwrap-key key.bin
    pkcs11-tool --slot-index 1 --list-objects | grep 'label:      mine'
  "
}

state_is_kept () {
  local state=$tap_scratch/state
  "$CARDS_PROGRAM" --state-dir "$state" 1 -- \
    pkcs11-tool --login --pin $pin --keypairgen --key-type EC:prime256v1 --id 20 --label kept \
    && "$CARDS_PROGRAM" --state-dir "$state" 1 -- pkcs11-tool --list-objects \
    | grep 'label:      kept'
}

ends_when_told () {
  local pid folder tries=0 status=0
  "$CARDS_PROGRAM" 1 >"$tap_scratch/told" &
  pid=$!
  until grep -q Ctrl-C "$tap_scratch/told"; do
    tries=$((tries + 1))
    [[ $tries -lt 1200 ]] && kill -0 "$pid" || return 1
    sleep 0.05
  done
  folder=$(sed -n '/^PIN/{n;p}' "$tap_scratch/told")
  cat "$tap_scratch/told"
  [[ -S $folder/card1.sock ]] || return 1
  awk 'length > 80 { long = 1 } END { exit long }' "$tap_scratch/told" || return 1
  kill -TERM "$pid"
  wait "$pid" || status=$?
  [[ $status -eq 0 && ! -e $folder ]]
}

# NAME STATUS: a signal to the program is for the command, which ends in its own way.
signal_is_passed_on () {
  local pid tries=0 status=0 folder
  # shellcheck disable=SC2016
  "$CARDS_PROGRAM" 1 -- sh -c '
    trap "exit 41" TERM
    trap "exit 42" HUP
    printf "%s\n" "$KEYWARD_CARD_CONTROLS"
    while :; do sleep 0.05; done' >"$tap_scratch/controls" &
  pid=$!
  until [[ -s $tap_scratch/controls ]]; do
    tries=$((tries + 1))
    [[ $tries -lt 1200 ]] && kill -0 "$pid" || return 1
    sleep 0.05
  done
  folder=$(dirname "$(cat "$tap_scratch/controls")")
  rm "$tap_scratch/controls"
  [[ -d $folder ]] || return 1
  kill -"$1" "$pid"
  wait "$pid" || status=$?
  [[ $status -eq $2 && ! -e $folder ]]
}

command_ends_with_the_program () {
  local pid command tries=0
  # shellcheck disable=SC2016
  "$CARDS_PROGRAM" 1 -- sh -c 'printf "%s\n" $$; exec sleep 600' >"$tap_scratch/command" &
  pid=$!
  until [[ -s $tap_scratch/command ]]; do
    tries=$((tries + 1))
    [[ $tries -lt 1200 ]] && kill -0 "$pid" || return 1
    sleep 0.05
  done
  command=$(cat "$tap_scratch/command")
  kill -KILL "$pid"
  wait "$pid"
  for ((tries = 0; tries < 200; tries++)); do
    # A zombie that nobody has waited for is gone as well.
    [[ -e /proc/$command && $(sed 's/.*) //; s/ .*//' "/proc/$command/stat") != Z ]] || return 0
    sleep 0.05
  done
  return 1
}

tap_check 'status of the command is passed on' command_status_is_passed_on
tap_check 'a command that does not exist is 127' missing_command_is_127
tap_check 'SIGTERM is passed on to the command' signal_is_passed_on TERM 41
tap_check 'SIGHUP is passed on to the command' signal_is_passed_on HUP 42
tap_check 'the command ends with the program' command_ends_with_the_program
for line in 0 9 x '1 2' '1 --' --nothing; do
  # shellcheck disable=SC2086
  tap_check "a wrong command line is refused: $line" wrong_line_is_refused $line
done
tap_check 'the commands to try work' commands_to_try
tap_check 'with --state-dir the cards keep what they hold' state_is_kept
tap_check 'ends when told to, and leaves nothing' ends_when_told
tap_done
