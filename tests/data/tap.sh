# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# Test points in TAP, for the scripts of this folder. Sourced, never run.

tap_count=0
tap_scratch=$(mktemp -d)
trap 'rm -rf "$tap_scratch"' EXIT

# tap_check NAME COMMAND…: the point passes if the command does; what it prints explains a failure.
tap_check () {
  local name=$1
  shift
  tap_count=$((tap_count + 1))
  if "$@" >"$tap_scratch/output" 2>&1; then
    printf 'ok %d - %s\n' "$tap_count" "$name"
  else
    printf 'not ok %d - %s\n' "$tap_count" "$name"
    sed 's/^/# /' "$tap_scratch/output"
  fi
}

# tap_need TOOL: skips the whole script if the tool is missing.
tap_need () {
  command -v "$1" >/dev/null || {
    printf '1..0 # SKIP %s is not installed\n' "$1"
    exit 0
  }
}

tap_done () {
  printf '1..%d\n' "$tap_count"
}
