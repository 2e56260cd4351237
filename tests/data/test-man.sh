#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The manual pages are correct, and say the same as the sample configuration.

set -euo pipefail
# shellcheck source=tap.sh
. "$(dirname "$0")/tap.sh"
tap_need mandoc

cd "$DATA_SOURCE_DIR"

lints () {
  mandoc -T lint -W warning "$1"
}

# A page of one .so line shows another page, named by its place under the folder of manuals.
shows_another_page () {
  local target
  target=$(sed -n 's/^\.so //p' "$1")
  [[ -f $(basename "$target") && $target == "man${target##*.}/$(basename "$target")" ]]
}

documents_every_setting () {
  mandoc -T ascii keyward.toml.5 | sed $'s/.\b//g' >"$tap_scratch/page"
  local name missing=0
  while read -r name; do
    grep -Eq "^ +([a-z_]+, )?$name\b" "$tap_scratch/page" || { printf 'not in the page: %s\n' "$name"; missing=1; }
  done < <(sed -n 's/^#\([a-z_]*\) = .*/\1/p' keyward.toml)
  return "$missing"
}

sample_has_every_setting () {
  local name missing=0
  while read -r name; do
    grep -q "^#$name = " keyward.toml || { printf 'not in the sample: %s\n' "$name"; missing=1; }
  done < <(sed -n '/^\.It Ic [a-z]/{s/^\.It Ic //;s/ , Ic /\n/g;p}' keyward.toml.5)
  return "$missing"
}

for page in *.[1-8]; do
  if grep -q '^\.so ' "$page"; then
    tap_check "/man/$page/shows-another" shows_another_page "$page"
  else
    tap_check "/man/$page/lint" lints "$page"
  fi
done
tap_check /man/documents-every-setting documents_every_setting
tap_check /man/sample-has-every-setting sample_has_every_setting
tap_done
