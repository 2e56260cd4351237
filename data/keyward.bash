# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# Completion of keyward and hsmdaemon for bash.

# _keyward_words WORD…: offers those that begin as the current word does.
_keyward_words () {
  mapfile -t COMPREPLY < <(compgen -W "$*" -- "$cur")
}

_keyward_files () {
  compopt -o filenames 2>/dev/null
  mapfile -t COMPREPLY < <(compgen -f -- "$cur")
}

_keyward () {
  local cur=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
  local commands='check decrypt device encrypt genkey install keys listslots setup showkey'
  local common='--config --json --module --verbose --help --version'
  local command='' operands=0 index
  COMPREPLY=()

  # The command is the first word that is neither an option nor the value of one.
  for ((index = 1; index < COMP_CWORD; index++)); do
    case ${COMP_WORDS[index]} in
      --config | --module | --bits | --output | --token-label | --pin-file) ((index++)) ;;
      -?*) ;;
      *) if [[ -z $command ]]; then command=${COMP_WORDS[index]}; else ((operands++)); fi ;;
    esac
  done

  case $previous in
    --config | --module | --output | --pin-file) _keyward_files; return ;;
    --bits) _keyward_words 2048 3072 4096; return ;;
    --token-label) return ;;
  esac

  if [[ $cur == -* ]]; then
    case $command in
      genkey) _keyward_words --bits "$common" ;;
      setup) _keyward_words --output --token-label --pin-file --force "$common" ;;
      *) _keyward_words "$common" ;;
    esac
  elif [[ -z $command ]]; then
    _keyward_words "$commands"
  elif [[ $command == device && $operands -eq 0 ]]; then
    _keyward_words retry
  elif [[ $command == keys && $operands -eq 0 ]]; then
    _keyward_words accept
  fi
}

complete -F _keyward keyward hsmdaemon
