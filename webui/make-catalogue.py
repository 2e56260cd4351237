#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Usage: make-catalogue.py MSGFMT LANGUAGE OUTPUT [PO-FILE]

Makes the page's texts in one language from a po file: {"language": …, "strings": {English: translated}}.
"""

import gettext
import json
import subprocess
import sys
import tempfile


def main(msgfmt, language, output, po_file=None):
    strings = {}
    if po_file:
        with tempfile.NamedTemporaryFile(suffix='.mo') as mo_file:
            subprocess.run([msgfmt, '--check', '--output-file', mo_file.name, po_file], check=True)
            mo_file.seek(0)
            catalogue = gettext.GNUTranslations(mo_file)._catalog
        strings = {key: text for key, text in sorted(catalogue.items())
                   if isinstance(key, str) and key and text and text != key}
    with open(output, 'w', encoding='utf-8') as file:
        json.dump({'language': language, 'strings': strings}, file, ensure_ascii=False, separators=(',', ':'))


main(*sys.argv[1:])
