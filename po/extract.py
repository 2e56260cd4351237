#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Usage: po/extract.py [--unmarked] [OUTPUT]

Writes every sentence that a person may see as a template for translations (standard output without OUTPUT). It does for
this tree what xgettext cannot: sentences that core and the plugins only pass on are found by the function that takes them,
a literal may be put together from formats of GLib and from macros, and both branches of a condition count.

--unmarked lists literals that look like sentences, and that nothing takes, instead.
"""

import functools
import glob
import os
import re
import sys
import xml.etree.ElementTree as ElementTree

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SOURCES = ['core/*.c', 'core/*.cc', 'plugins/*/*.c', 'http/*.c', 'dbus/*.c', 'daemon/*.c', 'cli/*.c', 'webui/*.js', 'webui/*.html.in',
           'data/*.policy.in']

# Marks: whatever is in them is taken.
MARKS = {'_', 'N_', 't'}

# Functions, and the first argument that is a sentence; formats are followed by words that go into them.
ERRORS = {
    'g_error_new': 3, 'g_error_new_literal': 3, 'g_prefix_error': 2, 'g_set_error': 4, 'g_set_error_literal': 4,
    'g_task_return_new_error': 4, 'g_signal_emit': 5, 'fail': 2, 'fail_job': 3, 'fail_literal': 3, 'fail_usage': 2, 'kw_cli_set_usage_error': 2,
    'kw_cli_add_notice': 2, 'kw_cli_report_note': 3, 'kw_cli_report_ok': 3, 'kw_cli_report_problem': 3,
    'kw_api_respond_problem': 4, 'kw_http_request_respond_text': 3, 'kw_http_request_respond_text_with': 3, 'not_supported': 2,
    'peer_leave': 2, 'refuse': 2, 'report_error': 4, 'set_file_error': 2, 'set_malformed': 2, 'set_read_error': 2,
    'set_reason': 2, 'set_unreadable': 1, 'wrong_type': 1,
}
TEXTS = {
    'g_strdup': 1, 'g_strdup_printf': 1, 'add_finding': 3, 'kw_cli_prompt_secret': 1,
    'kw_device_set_state': 3, 'news_new': 3,
    'print_done': 2, 'print_event': 3, 'run_list': 3, 'set_run': 5,
}

GLIB_FORMATS = {'G_GINT64_FORMAT': 'ld', 'G_GUINT64_FORMAT': 'lu', 'G_GSIZE_FORMAT': 'lu', 'G_GSSIZE_FORMAT': 'ld'}
FORMAT = re.compile(r'%(?:\d+\$)?[-+ #0]*(?:\d+|\*)?(?:\.(?:\d+|\*))?(?:hh|h|ll|l|z|j|t|q)?[diouxXscpeg]')
TOKEN = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`|\'(?:\\.|[^\'\\\n])*\'|[A-Za-z_]\w*|\s+|.', re.S)
DEFINE = re.compile(r'^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+((?:[^\n]*\\\n)*[^\n]*)', re.M)

# For --unmarked: what takes texts that nobody translates (logs, figures, files, what ownCloud and its scripts read), and others
# that only look like sentences (commands, classes of the page, texts that go into a hash).
QUIET = {
    'add_boolean', 'add_field', 'add_text', 'add_version', 'append_fields', 'begin_metric', 'g_debug', 'g_error',
    'g_key_file_set_comment', 'g_printerr', 'g_variant_new', 'g_warning', 'kw_log', 'kw_sd_notify', 'refuse_connection',
    'set_output_text',
}
UNSAID = re.compile(r'(?:keyward|device|keys|webui|systemctl) [a-z]+( .*)?|hsm_keyid before|(?:plain|chip) [a-z]+|(?:\'\\n)?occ config.*|'
                    r'# Written by .*|built-in configuration|Available slots:\\n|the (?:session|system) bus|Bearer realm.*|'
                    r'The token is not valid\\n|Jobs that .*\.|Tries left of the .*\.|card reader')

# What is no sentence although it has letters: names of functions, of settings, of tools.
NAME = re.compile(r'\[\w+\] \w+|[a-z]+_\w+|\w*[a-z][A-Z]\w*|[\w.]+\.\w+|[A-Z]\w*(?:-[A-Z]\w*)+|\S+=.*|/\S*|\S+\.json|alive|'
                  r'%s key %s by %s %s: %s')


class Literal:
    def __init__(self, text, line, calls):
        self.text, self.line, self.calls = text, line, calls


def resolve(source, macros):
    """Adds the macros that stand for text."""
    for match in DEFINE.finditer(source):
        pieces = re.findall(r'"((?:\\.|[^"\\\n])*)"|(\w+)', re.sub(r'/\*.*?\*/', '', match.group(2)))
        if '"' in match.group(2) and all(literal or not word or word in macros for literal, word in pieces):
            macros[match.group(1)] = ''.join(literal or macros.get(word, '') for literal, word in pieces)
    return macros


@functools.lru_cache(maxsize=1)
def read_headers():
    macros = {}
    for path in glob.glob(os.path.join(TOP, '*/*.h')) + glob.glob(os.path.join(TOP, 'plugins/*/*.h')):
        with open(path, encoding='utf-8') as file:
            resolve(file.read(), macros)
    return macros


def scan(source, is_c):
    """Yields the literals of a source with the calls they stand in, the innermost last."""
    macros = dict(GLIB_FORMATS)
    if is_c:
        macros.update(read_headers())
        resolve(source, macros)
        # What is defined is taken where it is used; lines stay.
        source = DEFINE.sub(lambda match: '\n' * match.group(0).count('\n'), source)
    calls, previous, current, line = [], '', None, 1
    for match in TOKEN.finditer(source):
        token, at = match.group(0), line
        line += token.count('\n')
        if token.isspace() or token.startswith(('/*', '//')):
            continue
        is_literal = token[0] == '"' or (not is_c and token[0] == "'" and len(token) > 1)
        if is_literal or (is_c and token in macros):
            piece = macros[token] if is_c and token in macros else token[1:-1]
            current = current or Literal('', at, [tuple(call) for call in calls])
            current.text += piece if is_c else piece.replace('"', '\\"').replace("\\'", "'")
            previous = token
            continue
        if current:
            yield current
            current = None
        if token in '([{':
            calls.append([previous if token == '(' else token, 1])
        elif token in ')]}' and calls:
            calls.pop()
        elif token == ',' and calls:
            calls[-1][1] += 1
        previous = token


def is_worded(text, n_words):
    """Some formats hold no sentence."""
    bare = FORMAT.sub(' ', re.sub(r'\\.', ' ', text))
    return len(re.findall(r'[a-z]{2,}', bare)) >= n_words and not bare.startswith('{') and not NAME.fullmatch(text)


def is_taken(literal):
    if any(name in MARKS for name, _ in literal.calls[-2:]):
        return True
    name, place = literal.calls[-1] if literal.calls else ('', 0)
    if name == '(' or name in ('if', 'return'):
        name, place = literal.calls[-2] if len(literal.calls) > 1 else ('', 0)
    if name in ERRORS and place >= ERRORS[name]:
        return is_worded(literal.text, 1 if place == ERRORS[name] else 2)
    return name in TEXTS and place >= TEXTS[name] and is_worded(literal.text, 2)


def find_files():
    return sorted(path for pattern in SOURCES for path in glob.glob(os.path.join(TOP, pattern)))


def read_policy(path):
    """Yields descriptions and messages of polkit's actions."""
    lines = open(path, encoding='utf-8').read().split('\n')
    for action in ElementTree.parse(path).getroot().iter('action'):
        for element in action:
            if element.tag in ('description', 'message') and not element.attrib:
                line = next(i for i, text in enumerate(lines, 1) if element.text in text)
                yield Literal(element.text, line, [])


def read_page(path):
    """Yields what a page says in all languages at once."""
    with open(path, encoding='utf-8') as file:
        for i, line in enumerate(file, 1):
            yield from (Literal(text.replace('"', '\\"'), i, []) for text in re.findall(r'<p data-text>(.*?)</p>', line))


def find_sentences():
    """{text: (list of places, whether it is a format of C)}, in order."""
    found = {}
    for path in find_files():
        name = os.path.relpath(path, TOP)
        is_c = name.endswith(('.c', '.cc'))
        if name.endswith('.policy.in'):
            literals = read_policy(path)
        elif name.endswith('.html.in'):
            literals = read_page(path)
        else:
            literals = (one for one in scan(open(path, encoding='utf-8').read(), is_c) if one.text and is_taken(one))
        for literal in literals:
            places, is_format = found.get(literal.text, ([], False))
            found[literal.text] = (places + [f'{name}:{literal.line}'], is_format or (is_c and bool(FORMAT.search(literal.text))))
    return found


def find_unmarked():
    """Yields what looks like a sentence and is not taken anywhere."""
    taken = find_sentences()
    for path in find_files():
        if path.endswith('.in'):
            continue
        for literal in scan(open(path, encoding='utf-8').read(), not path.endswith('.js')):
            is_quiet = any(name in QUIET for name, _ in literal.calls[-2:])
            if literal.text not in taken and not is_quiet and not UNSAID.fullmatch(literal.text) and re.search(r'[A-Za-z]{2,} [a-z]{2,}', literal.text):
                yield f'{os.path.relpath(path, TOP)}:{literal.line}: {literal.text}'


def write_template(file):
    file.write('msgid ""\nmsgstr ""\n"Project-Id-Version: keyward\\n"\n"MIME-Version: 1.0\\n"\n'
               '"Content-Type: text/plain; charset=UTF-8\\n"\n"Content-Transfer-Encoding: 8bit\\n"\n')
    for text, (places, is_format) in find_sentences().items():
        file.write('\n' + ''.join(f'#: {place}\n' for place in places))
        file.write(('#, c-format\n' if is_format else '') + f'msgid "{text}"\nmsgstr ""\n')


def main(arguments):
    if arguments[:1] == ['--unmarked']:
        print('\n'.join(find_unmarked()))
    elif arguments:
        with open(arguments[0], 'w', encoding='utf-8') as file:
            write_template(file)
    else:
        write_template(sys.stdout)


if __name__ == '__main__':
    main(sys.argv[1:])
