#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Usage: make-notice.py MSGFMT OUTPUT TEMPLATE PO-FILE…

Makes a page for those who are not signed in, and so have no language yet: what is marked by data-text stands there in all.
"""

import gettext
import html
import io
import os
import re
import subprocess
import sys


def read_catalogue(msgfmt, po_file):
    compiled = subprocess.run([msgfmt, '--output-file', '-', po_file], check=True, stdout=subprocess.PIPE).stdout
    return gettext.GNUTranslations(io.BytesIO(compiled))


def main(msgfmt, output, template, *po_files):
    catalogues = [(os.path.basename(path)[:-len('.po')], read_catalogue(msgfmt, path)) for path in po_files]

    def say(match):
        texts = [('en', match.group(1))] + [(language, catalogue.gettext(match.group(1))) for language, catalogue in catalogues]
        return '\n'.join(f'<p lang="{language}">{html.escape(text, quote=False)}</p>' for language, text in texts)

    with open(template, encoding='utf-8') as file:
        page = re.sub(r'<p data-text>(.*?)</p>', say, file.read())
    with open(output, 'w', encoding='utf-8') as file:
        file.write(page)


main(*sys.argv[1:])
