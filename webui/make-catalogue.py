#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Usage: make-catalogue.py MSGFMT MSGGREP LANGUAGE OUTPUT [PO-FILE]

Makes the page's texts in one language from a po file: {"language": …, "strings": {English: translated}}. The page weighs as
little as it can: what only the commands say stays out.
"""

import gettext
import io
import json
import subprocess
import sys


SHOWN = ['core/*', 'http/*', 'plugins/pkcs11/*', 'plugins/smartcard/*', 'webui/*']


def main(msgfmt, msggrep, language, output, po_file=None):
    strings = {}
    if po_file:
        shown = subprocess.run([msggrep, *(f'--location={place}' for place in SHOWN), po_file], check=True,
                               stdout=subprocess.PIPE).stdout
        compiled = subprocess.run([msgfmt, '--check-format', '--output-file', '-', '-'], check=True, input=shown,
                                  stdout=subprocess.PIPE).stdout
        catalogue = gettext.GNUTranslations(io.BytesIO(compiled))._catalog
        strings = {key: text for key, text in sorted(catalogue.items())
                   if isinstance(key, str) and key and text and text != key}
    with open(output, 'w', encoding='utf-8') as file:
        json.dump({'language': language, 'strings': strings}, file, ensure_ascii=False, separators=(',', ':'))


main(*sys.argv[1:])
