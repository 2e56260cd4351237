#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# German and French are complete, keep placeholders, and are where they belong; what is to translate is found.

set -euo pipefail
# shellcheck source=tap.sh
. "$(dirname "$0")/tap.sh"
tap_need msgmerge
tap_need python3

cd "$PO_DIR"
template=$tap_scratch/keyward.pot

# A tree of its own with one of everything, for the extractor.
make_tree () {
  mkdir -p "$tap_scratch/tree/po" "$tap_scratch/tree/core" "$tap_scratch/tree/webui" "$tap_scratch/tree/data"
  cp extract.py "$tap_scratch/tree/po/"
  cat >"$tap_scratch/tree/core/kw-x.h" <<'END'
#define KW_X_FILE "/etc/x"
END
  cat >"$tap_scratch/tree/core/kw-x.c" <<'END'
#define ADVICE "pull it out " \
  "and put it in again"
/* g_set_error (error, KW_ERROR, 0, "not in a comment"); */
g_set_error (error, KW_ERROR, 0, few ? "Too few of %" G_GUINT64_FORMAT " bytes" : "Too " "many in " KW_X_FILE, n);
g_set_error_literal (error, KW_ERROR, 0, "100% \"quoted\"");
kw_device_set_state (self, STATE, ADVICE);
static const char *const table[] = { N_ ("a text in a table"), "a text that was forgotten" };
g_strdup_printf ("%s: %s", a, b);
kw_log (G_LOG_LEVEL_INFO, "What stands in the log", NULL);
END
  cat >"$tap_scratch/tree/webui/view.js" <<'END'
const a = t('{n} of {all} “that”', { n: 1 }); // t('not in a comment')
const b = { x: N_('it\'s "x"') };
END
  cat >"$tap_scratch/tree/webui/x.html.in" <<'END'
<p data-text>What a page says</p><p>not this</p>
END
  cat >"$tap_scratch/tree/data/x.policy.in" <<'END'
<policyconfig><action id="x"><description>What it is</description><message>Why it asks</message><defaults/></action></policyconfig>
END
}

extracts () {
  "$tap_scratch/tree/po/extract.py" "$tap_scratch/x.pot" || return 1
  msgfmt --check-format --output-file=/dev/null "$tap_scratch/x.pot" || return 1
  grep -A1 'core/kw-x.c:4' "$tap_scratch/x.pot" | grep -q '^#, c-format' || return 1
  grep '^msgid' "$tap_scratch/x.pot" | tail -n +2 | diff - <(cat <<'END'
msgid "Too few of %lu bytes"
msgid "Too many in /etc/x"
msgid "100% \"quoted\""
msgid "pull it out and put it in again"
msgid "a text in a table"
msgid "What it is"
msgid "Why it asks"
msgid "{n} of {all} “that”"
msgid "it's \"x\""
msgid "What a page says"
END
  )
}

tells_what_was_forgotten () {
  "$tap_scratch/tree/po/extract.py" --unmarked | diff - <(echo 'core/kw-x.c:7: a text that was forgotten')
}

nothing_was_forgotten () {
  ./extract.py --unmarked >"$tap_scratch/unmarked" || return 1
  ! grep . "$tap_scratch/unmarked"
}

# Whether po/update would change anything but the order.
is_up_to_date () {
  msgmerge --quiet --no-fuzzy-matching --add-location=file --output-file="$tap_scratch/$1.po" "$1.po" "$template" || return 1
  diff "$1.po" "$tap_scratch/$1.po"
}

is_complete () {
  local statistics
  statistics=$(LC_ALL=C msgfmt --check-format --statistics --output-file=/dev/null "$1.po" 2>&1)
  printf '%s\n' "$statistics"
  [[ $statistics =~ ^[0-9]+\ translated\ messages\.$ ]]
}

# {name} on both sides; blanks and newlines at the ends; one semicolon less would cut advice at another place.
keeps_placeholders () {
  python3 - "$1.po" <<'END'
import re, subprocess, sys, gettext, io
mo = subprocess.run(['msgfmt', '-o', '-', sys.argv[1]], check=True, stdout=subprocess.PIPE).stdout
wrong = 0
for text, translation in gettext.GNUTranslations(io.BytesIO(mo))._catalog.items():
    if not text:
        continue
    for what in (r'\{\w+\}', r'%(?:[sduxXo]|lu|ld|04[oX])'):
        if what[0] == '%' and '$' in translation:
            continue
        if sorted(re.findall(what, text)) != sorted(re.findall(what, translation)):
            print('placeholders:', text, '→', translation)
            wrong = 1
    if text[-1:].isspace() != translation[-1:].isspace() or text.endswith('\n') != translation.endswith('\n'):
        print('end:', text, '→', translation)
        wrong = 1
    if re.search(r'(?i)\b(du|dein|dir|dich)\b' if sys.argv[1] == 'de.po' else r'(?i)\b(tu|ton|tes|toi)\b', translation):
        print('address:', translation)
        wrong = 1
sys.exit(wrong)
END
}

# Everything of the page, and nothing that only commands say.
page_has_it () {
  python3 - "$BUILD_DIR/webui/catalogue-$1.json" "$1" <<'END'
import json, sys
catalogue = json.load(open(sys.argv[1], encoding='utf-8'))
assert catalogue['language'] == sys.argv[2]
for text in ('Devices', 'All is well', 'No device is plugged in', '%u devices ready', 'the PIN is wrong', 'The token was removed'):
    assert catalogue['strings'].get(text) not in (None, text), text
for text in ('List the devices', 'The module is %s'):
    assert text not in catalogue['strings'], text
END
}

notices_have_it () {
  local page
  for page in sign-in link-over; do
    # Each begins with “This” in English.
    grep "^<p lang=\"$1\">" "$BUILD_DIR/webui/$page.html" | grep -qv '>This ' || return 1
  done
}

policy_has_it () {
  local policy=$BUILD_DIR/data/org.keyward1.policy
  [[ $(grep -c "<message xml:lang=\"$1\">" "$policy") -eq $(grep -c '<action ' "$policy") \
    && $(grep -c "<description xml:lang=\"$1\">" "$policy") -eq $(grep -c '<action ' "$policy") ]]
}

make_tree
tap_check /translations/extracts extracts
tap_check /translations/tells-what-was-forgotten tells_what_was_forgotten
tap_check /translations/nothing-was-forgotten nothing_was_forgotten
tap_check /translations/template ./extract.py "$template"
while read -r language; do
  tap_check "/translations/$language/up-to-date" is_up_to_date "$language"
  tap_check "/translations/$language/complete" is_complete "$language"
  tap_check "/translations/$language/placeholders" keeps_placeholders "$language"
  tap_check "/translations/$language/page" page_has_it "$language"
  tap_check "/translations/$language/notices" notices_have_it "$language"
  tap_check "/translations/$language/policy" policy_has_it "$language"
done < <(grep -v '^#' LINGUAS)
tap_done
