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

# _keyward_ids COMMAND MEMBER: offers what the running daemon lists under that name.
_keyward_ids () {
  local ids
  ids=$("${COMP_WORDS[0]}" --json "$1" 2>/dev/null | sed -n "s/^ *\"$2\" : \"\([^\"]*\)\".*/\1/p")
  # Words may have colons, at which bash breaks them.
  mapfile -t COMPREPLY < <(compgen -W "$ids" -- "$cur")
}

_keyward () {
  local cur=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
  local commands='check decrypt device devices encrypt genkey install keys listslots monitor random reload rewrap setup showkey status test unlock webui'
  local common='--bus-address --config --json --module --session --verbose --help --version'
  local command='' operands=0 index
  COMPREPLY=()

  # The command is the first word that is neither an option nor the value of one.
  for ((index = 1; index < COMP_CWORD; index++)); do
    case ${COMP_WORDS[index]} in
      --bus-address | --config | --module | --bits | --output | --token-label | --pin-file | --associated-data | --fingerprint | --key | --kind | --label) ((index++)) ;;
      -?*) ;;
      *) if [[ -z $command ]]; then command=${COMP_WORDS[index]}; else ((operands++)); fi ;;
    esac
  done

  case $previous in
    --key) _keyward_ids keys id; return ;;
    --config | --module | --output | --pin-file) _keyward_files; return ;;
    --bits) _keyward_words 2048 3072 4096; return ;;
    --kind) _keyward_words aes256 rsa2048 rsa3072 rsa4096; return ;;
    --bus-address | --token-label | --associated-data | --fingerprint | --label) return ;;
  esac

  if [[ $cur == -* ]]; then
    case $command in
      decrypt) _keyward_words --associated-data --output --stream "$common" ;;
      encrypt) _keyward_words --associated-data --binary --key --output --stream "$common" ;;
      rewrap) _keyward_words --associated-data --binary "$common" ;;
      genkey) _keyward_words --bits "$common" ;;
      keys) _keyward_words --fingerprint --kind --label "$common" ;;
      random) _keyward_words --binary "$common" ;;
      setup) _keyward_words --output --token-label --pin-file --force "$common" ;;
      *) _keyward_words "$common" ;;
    esac
  elif [[ -z $command ]]; then
    _keyward_words "$commands"
  elif [[ $command == device && $operands -eq 0 ]]; then
    _keyward_words retry
  elif [[ $command == webui && $operands -eq 0 ]]; then
    _keyward_words login
  elif [[ ( $command == device && $operands -eq 1 ) || ( $command == unlock && $operands -eq 0 ) ]]; then
    _keyward_ids devices serial
  elif [[ $command == keys && $operands -eq 0 ]]; then
    _keyward_words accept generate
  elif [[ $command == keys && $operands -eq 1 && ${COMP_WORDS[*]} == *' accept '* ]]; then
    _keyward_ids keys id
  elif [[ $command == @(encrypt|decrypt|rewrap) && $operands -eq 0 ]]; then
    _keyward_files
  fi
}

complete -F _keyward keyward hsmdaemon
