#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The systemd units: correct, and as strict as promised.

set -euo pipefail
# shellcheck source=tap.sh
. "$(dirname "$0")/tap.sh"
tap_need systemd-analyze

units=$tap_scratch/units
unit=$units/keywardd.service
mkdir "$units"
cp "$DATA_BUILD_DIR/keywardd.service" "$DATA_SOURCE_DIR"/*.socket "$units"

everything_is_filled_in () {
  ! grep -n '@[A-Z_]*@' "$unit"
}

starts_the_installed_daemon () {
  grep -Fx "ExecStart=$SBINDIR/keywardd" "$unit"
}

# The program is not installed while this runs, so another stands in for it.
is_valid () {
  local true_path
  true_path=$(command -v true)
  sed -i "s|^ExecStart=.*|ExecStart=$true_path|" "$unit"
  # The host's own units may be faulty; only what is said about ours counts.
  local status=0
  SYSTEMD_UNIT_PATH=$units: systemd-analyze verify --man=no --recursive-errors=no "$units"/* \
    2>"$tap_scratch/verify" || status=$?
  cat "$tap_scratch/verify"
  [[ $status -eq 0 ]] && ! grep -q keywardd "$tap_scratch/verify"
}

is_exposed_1_5_at_most () {
  systemd-analyze security --no-pager --offline=true --threshold=15 "$unit"
}

# Settings of the sandbox that open something have a comment above them.
each_relaxation_says_why () {
  local setting
  for setting in ReadWritePaths= PrivateUsers=no RestrictAddressFamilies= IPAddressDeny=; do
    grep -B3 "^$setting" "$unit" | grep -q '^#' || {
      printf 'no comment above %s\n' "$setting"
      return 1
    }
  done
}

names_the_sockets_as_the_daemon_does () {
  grep -Fx FileDescriptorName=http "$units/keywardd.socket" \
    && grep -Fx FileDescriptorName=line "$units/keywardd-line.socket" \
    && grep -Fx SocketMode=0660 "$units/keywardd-line.socket"
}

# The user, and its membership in the group that owns SoftHSM2's tokens.
makes_the_accounts () {
  mkdir -p "$tap_scratch/root/etc"
  systemd-sysusers --dry-run --root="$tap_scratch/root" "$DATA_SOURCE_DIR/keyward.sysusers" 2>&1 \
    | tee "$tap_scratch/accounts"
  grep -q "user 'keyward'" "$tap_scratch/accounts" && grep -q "group 'softhsm'" "$tap_scratch/accounts"
}

has_the_old_name_too () {
  grep -Fx Alias=hsmdaemon.service "$unit"
}

tap_check /unit/is-filled-in everything_is_filled_in
tap_check /unit/starts-the-installed-daemon starts_the_installed_daemon
tap_check /unit/verifies is_valid
tap_check /unit/exposure-at-most-1.5 is_exposed_1_5_at_most
tap_check /unit/each-relaxation-says-why each_relaxation_says_why
tap_check /unit/socket-names names_the_sockets_as_the_daemon_does
tap_check /unit/accounts makes_the_accounts
tap_check /unit/alias has_the_old_name_too
tap_done
