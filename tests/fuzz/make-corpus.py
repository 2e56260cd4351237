#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Usage: make-corpus.py TRACE-FOLDER CORPUS-FOLDER

Makes inputs for the fuzz target of the virtual card from traces of keyward-virtual-card: one of
each trace as a whole, and one of each command alone. What a trace masks is filled with the PINs
that the target's card has.
"""

import pathlib
import re
import sys

USER_PIN = '363438323139'
SO_PIN = '3537363231383830'
# By the number of bytes that are masked.
SECRETS = {6: USER_PIN, 8: SO_PIN, 12: 2 * USER_PIN, 14: SO_PIN + USER_PIN, 16: 2 * SO_PIN}
LOGGED_OUT, LOGGED_IN = 1, 2
MAX_COMMANDS = 64


def unmask(match):
    size = len(match.group(0)) // 2
    return SECRETS.get(size, '11' * size)


def frame(command):
    return len(command).to_bytes(2, 'big') + command


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    corpus = pathlib.Path(sys.argv[2])
    corpus.mkdir(parents=True, exist_ok=True)
    n_inputs = 0
    for trace in sorted(pathlib.Path(sys.argv[1]).glob('*.trace')):
        lines = [line[2:].strip() for line in trace.read_text().splitlines() if line.startswith('> ')]
        commands = [bytes.fromhex(re.sub(r'\*+', unmask, line)) for line in lines]
        inputs = [bytes([LOGGED_IN]) + frame(command) for command in commands]
        inputs += [bytes([LOGGED_OUT]) + b''.join(map(frame, commands[i:i + MAX_COMMANDS]))
                   for i in range(0, len(commands), MAX_COMMANDS)]
        for i, content in enumerate(inputs):
            (corpus / f'{trace.stem}-{i}').write_bytes(content)
        n_inputs += len(inputs)
    if n_inputs == 0:
        sys.exit(f'{sys.argv[1]}: there is no trace')
    print(n_inputs)


main()
