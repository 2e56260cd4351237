#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Usage: run.sh TARGET MAKE-CORPUS TRACE-FOLDER
#
# Runs a libFuzzer target for FUZZ_SECONDS (60) from a corpus made of traces, and says so in TAP.
# An input that it fails on is kept, and its path printed.

set -uo pipefail
target=$1 make_corpus=$2 traces=$3
seconds=${FUZZ_SECONDS:-60}
name=${target##*/}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
artifacts=$(dirname "$target")/$name-findings/
mkdir -p "$artifacts"

printf 'TAP version 13\n1..2\n'
if n_inputs=$("$make_corpus" "$traces" "$work/corpus"); then
  printf 'ok 1 - %s: %s inputs made from traces\n' "$name" "$n_inputs"
else
  printf 'not ok 1 - %s: no corpus\nBail out! no corpus\n' "$name"
  exit 1
fi

log=$work/log
if "$target" -max_total_time="$seconds" -timeout=30 -rss_limit_mb=4096 -max_len=70000 \
  -artifact_prefix="$artifacts" -print_final_stats=1 "$work/corpus" >"$log" 2>&1 </dev/null; then
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  if [[ ${runs:-0} -gt 0 ]]; then
    printf 'ok 2 - %s: nothing found in %s s\n# %s inputs were run\n' "$name" "$seconds" "$runs"
    exit 0
  fi
fi
tail -n 60 "$log" | sed 's/^/# /'
printf 'not ok 2 - %s: see above; the input is in %s\n' "$name" "$artifacts"
exit 1
