# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# What the scripts in this folder share. Sourced, never run.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
prog=${0#"$top"/}

# Colours where a person looks on, plain text everywhere else.
# shellcheck disable=SC2034
if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
  bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
else
  bold='' dim='' red='' green='' plain=''
fi

say () {
  printf '%s==> %s%s\n' "$bold" "$*" "$plain"
}

# die WHAT-HAPPENED [WHAT-TO-DO]
die () {
  printf '%s%s: %s%s\n' "$red" "$prog" "$1" "$plain" >&2
  [[ $# -lt 2 ]] || printf '%s\n' "$2" >&2
  exit 1
}

# A wrong command line: status 2, as the programs themselves do it.
die_usage () {
  printf '%s: %s\nSee %s --help.\n' "$prog" "$1" "$prog" >&2
  exit 2
}

# help_and_exit: the block of comment lines below the SPDX line of the script is its help.
help_and_exit () {
  sed -n '3,/^[^#]/{s/^# \{0,1\}//p}' "$0"
  exit 0
}

# ensure_setup DIR [MESON-OPTION…]: configures DIR once; ninja keeps it up to date from then on.
ensure_setup () {
  local dir=$1
  shift
  [[ -f $top/meson.build ]] || die 'there is no meson.build here' 'Run this from a complete source tree.'
  if [[ ! -f $dir/build.ninja ]]; then
    say "Configuring ${dir#"$top"/}"
    meson setup "$dir" "$top" "$@" </dev/null \
      || die 'meson setup failed' "The reason is above; ${dir#"$top"/}/meson-logs/meson-log.txt has more."
  fi
}

# compile DIR [TARGET…]
compile () {
  say "Building ${1#"$top"/}"
  ninja -C "$1" ${NINJA_JOBS:+-j "$NINJA_JOBS"} "${@:2}" </dev/null \
    || die 'the build failed' "Mend what the compiler names above, then run $prog again."
}

# source_files GLOB…: the files of the tree, those git does not ignore, or all outside build trees.
source_files () {
  if git -C "$top" rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git -C "$top" ls-files --cached --others --exclude-standard -- "$@"
  else
    local glob tests=()
    for glob in "$@"; do
      tests+=(-o -name "$glob")
    done
    (cd "$top" && find . -path './build*' -prune -o -path ./.git -prune \
      -o -type f \( "${tests[@]:1}" \) -printf '%P\n')
  fi | LC_ALL=C sort -u | while IFS= read -r file; do
    [[ ! -f $top/$file ]] || printf '%s\n' "$file"
  done
}
