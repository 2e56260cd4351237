/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-cli-sentence"

#include "config.h"

#include "kw-cli-sentence.h"

#include "kw-cli-output.h"
#include "kw-i18n.h"
#include "kw-limits.h"
#include "kw-names.h"

#include <glib/gi18n.h>
#include <string.h>

/*
 * Sentences of the daemon and of core come in English, as they stand in the log: here they get into the language of whoever
 * reads them. gettext finds a text as it is and not what was made from a format, so its catalogue is read once more here. A
 * sentence is looked for as it is, then by the pattern of a format, then piece by piece; what is not found stays as it is.
 * webui/text.js does the same for the page. The main thread only.
 */

#define MO_MAGIC 0x950412deU
#define MO_HEADER_BYTES 20
#define MO_ENTRY_BYTES 8
#define MIN_PATTERN_CHARACTERS 4 /* beside what is filled in; fewer are in too many sentences */

/* %%, or a conversion: its place, and its letter. */
#define CONVERSION                                                                                 \
  "%(?:%|(?:(\\d+)\\$)?[-+ #0]*(?:\\d+|\\*)?(?:\\.(?:\\d+|\\*))?(?:hh|h|ll|l|z|j|t|q)?"            \
  "([diouxXscpeg]))"

/* A setting, of which something is said: "[server] port must be …". */
#define SETTING "\\A(\\[+[^\\]]+\\]+ \\S+|[a-z0-9]+_\\w+) (.+)\\z"

typedef struct
{
  char *prefix;            /* owned; text before the first conversion */
  char *suffix;            /* owned; text behind the last one */
  gsize n_format;          /* bytes of the format: longer ones are tried first */
  const char *format;      /* borrowed from texts */
  const char *translation; /* borrowed from texts */
  GArray *names;           /* owned; of gboolean: what is filled in is a name, not a sentence */
  GRegex *regex;           /* owned; NULL until it is needed */
} Pattern;

struct _KwCliSentences
{
  GHashTable *texts;   /* owned; English to translated, both owned */
  GPtrArray *patterns; /* owned; of Pattern, the longest first */
  GRegex *conversion;  /* owned */
  GRegex *setting;     /* owned */
};

static char *translate (KwCliSentences *self, const char *sentence, guint depth);

/* --- the catalogue --- */

static void
pattern_free (gpointer data)
{
  Pattern *pattern = data;

  g_free (pattern->prefix);
  g_free (pattern->suffix);
  g_clear_pointer (&pattern->names, g_array_unref);
  g_clear_pointer (&pattern->regex, g_regex_unref);
  g_free (pattern);
}

static guint32
read_number (const guint8 *data, gsize offset, gboolean swapped)
{
  guint32 number;

  memcpy (&number, data + offset, sizeof number);
  return swapped ? GUINT32_SWAP_LE_BE (number) : number;
}

/* The text that an entry of a table of offsets is about, which has to lie in the file and to end there. */
static const char *
read_text (const guint8 *data, gsize size, gsize entry, gboolean swapped)
{
  gsize n_text = read_number (data, entry, swapped);
  gsize offset = read_number (data, entry + 4, swapped);
  const char *text = NULL;

  if (offset >= size || n_text >= size - offset || data[offset + n_text] != '\0')
    return NULL;
  text = (const char *) data + offset;
  return g_utf8_validate (text, -1, NULL) ? text : NULL;
}

/* The format of GNU's .mo files: a header, and two tables with length and offset of each text. */
static gboolean
read_catalogue (GHashTable *texts, const guint8 *data, gsize size)
{
  gboolean swapped;
  gsize n_texts, originals, translations;

  if (size < MO_HEADER_BYTES)
    return FALSE;
  swapped = read_number (data, 0, FALSE) == GUINT32_SWAP_LE_BE (MO_MAGIC);
  if (read_number (data, 0, swapped) != MO_MAGIC || read_number (data, 4, swapped) >> 16 != 0)
    return FALSE;
  n_texts = read_number (data, 8, swapped);
  originals = read_number (data, 12, swapped);
  translations = read_number (data, 16, swapped);
  if (n_texts > KW_MAX_CATALOGUE_TEXTS || originals > size || translations > size
      || n_texts * MO_ENTRY_BYTES > size - originals
      || n_texts * MO_ENTRY_BYTES > size - translations)
    return FALSE;
  for (gsize i = 0; i < n_texts; i++)
    {
      const char *original = read_text (data, size, originals + i * MO_ENTRY_BYTES, swapped);
      const char *translation = read_text (data, size, translations + i * MO_ENTRY_BYTES, swapped);

      if (original == NULL || translation == NULL)
        return FALSE;
      if (*original != '\0' && *translation != '\0')
        g_hash_table_insert (texts, g_strdup (original), g_strdup (translation));
    }
  return TRUE;
}

/* --- patterns --- */

static gint
compare_patterns (gconstpointer a, gconstpointer b)
{
  const Pattern *one = *(const Pattern *const *) a;
  const Pattern *other = *(const Pattern *const *) b;

  if (one->n_format != other->n_format)
    return one->n_format > other->n_format ? -1 : 1;
  return strcmp (one->format, other->format);
}

static void
append_plain (GString *plain, const char *text, gsize n_text)
{
  g_string_append_len (plain, text, (gssize) n_text);
  g_string_replace (plain, "%%", "%", 0);
}

/* Whether a quotation mark or a bracket was opened right before @at: then a name follows. */
static gboolean
is_quoted (const char *format, gsize at)
{
  guint n_marks = 0;

  if (at >= strlen ("“") && g_str_has_prefix (format + at - strlen ("“"), "“"))
    return TRUE;
  if (at == 0 || (format[at - 1] != '"' && format[at - 1] != '['))
    return FALSE;
  for (gsize i = 0; i < at; i++)
    n_marks += format[i] == '"';
  return format[at - 1] == '[' || n_marks % 2 == 1;
}

/* Adds @format, if it is one and has enough words to be known by. */
static void
add_pattern (KwCliSentences *self, const char *format, const char *translation)
{
  g_autoptr (GMatchInfo) match = NULL;
  g_autoptr (GString) words = g_string_new (NULL);
  g_autoptr (GArray) names = g_array_new (FALSE, FALSE, sizeof (gboolean));
  g_autofree char *prefix = NULL;
  Pattern *pattern = NULL;
  gint at = 0;

  g_regex_match (self->conversion, format, 0, &match);
  for (; g_match_info_matches (match); g_match_info_next (match, NULL))
    {
      gint start, end;
      gboolean is_name;
      g_autofree char *letter = g_match_info_fetch (match, 2);

      if (letter == NULL || *letter == '\0')
        continue;
      g_match_info_fetch_pos (match, 0, &start, &end);
      g_string_append_len (words, format + at, start - at);
      if (prefix == NULL)
        prefix = g_strndup (format, (gsize) start);
      is_name = is_quoted (format, (gsize) start);
      g_array_append_val (names, is_name);
      at = end;
    }
  if (prefix == NULL)
    return;
  g_string_append (words, format + at);
  if (strlen (g_strstrip (words->str)) < MIN_PATTERN_CHARACTERS)
    return;
  pattern = g_new0 (Pattern, 1);
  g_string_truncate (words, 0);
  append_plain (words, prefix, strlen (prefix));
  pattern->prefix = g_strdup (words->str);
  g_string_truncate (words, 0);
  append_plain (words, format + at, strlen (format + at));
  pattern->suffix = g_strdup (words->str);
  pattern->n_format = strlen (format);
  pattern->format = format;
  pattern->translation = translation;
  pattern->names = g_steal_pointer (&names);
  g_ptr_array_add (self->patterns, pattern);
}

static const char *
get_class (char letter)
{
  if (strchr ("diu", letter) != NULL)
    return "(-?[0-9]+)";
  return strchr ("oxX", letter) != NULL ? "([0-9A-Fa-f]+)" : "(.*?)";
}

static void
append_escaped (GString *regex, const char *text, gsize n_text)
{
  g_autoptr (GString) plain = g_string_new (NULL);
  g_autofree char *escaped = NULL;

  append_plain (plain, text, n_text);
  escaped = g_regex_escape_string (plain->str, (gint) plain->len);
  g_string_append (regex, escaped);
}

static GRegex *
new_regex (KwCliSentences *self, const char *format)
{
  g_autoptr (GMatchInfo) match = NULL;
  g_autoptr (GString) regex = g_string_new ("\\A");
  gint at = 0;

  g_regex_match (self->conversion, format, 0, &match);
  for (; g_match_info_matches (match); g_match_info_next (match, NULL))
    {
      gint start, end;
      g_autofree char *letter = g_match_info_fetch (match, 2);

      if (letter == NULL || *letter == '\0')
        continue;
      g_match_info_fetch_pos (match, 0, &start, &end);
      append_escaped (regex, format + at, (gsize) (start - at));
      g_string_append (regex, get_class (*letter));
      at = end;
    }
  append_escaped (regex, format + at, strlen (format + at));
  g_string_append (regex, "\\z");
  return g_regex_new (regex->str, G_REGEX_DOTALL, 0, NULL);
}

/* The values of @found, translated themselves, where the translation has its conversions. */
static char *
fill (KwCliSentences *self, const Pattern *pattern, GMatchInfo *found, guint depth)
{
  g_autoptr (GMatchInfo) match = NULL;
  g_autoptr (GString) result = g_string_new (NULL);
  gint at = 0;
  guint next = 1;

  g_regex_match (self->conversion, pattern->translation, 0, &match);
  for (; g_match_info_matches (match); g_match_info_next (match, NULL))
    {
      gint start, end;
      g_autofree char *place = g_match_info_fetch (match, 1);
      g_autofree char *letter = g_match_info_fetch (match, 2);
      g_autofree char *value = NULL;
      g_autofree char *translated = NULL;
      guint number;

      g_match_info_fetch_pos (match, 0, &start, &end);
      g_string_append_len (result, pattern->translation + at, start - at);
      at = end;
      if (letter == NULL || *letter == '\0')
        {
          g_string_append_c (result, '%');
          continue;
        }
      number
          = place != NULL && *place != '\0' ? (guint) g_ascii_strtoull (place, NULL, 10) : next++;
      if (number < 1 || number > pattern->names->len)
        continue;
      value = g_match_info_fetch (found, (gint) number);
      translated = g_array_index (pattern->names, gboolean, number - 1)
                       ? g_strdup (value)
                       : translate (self, value, depth + 1);
      g_string_append (result, translated);
    }
  g_string_append (result, pattern->translation + at);
  return g_string_free (g_steal_pointer (&result), FALSE);
}

static char *
translate_by_pattern (KwCliSentences *self, const char *sentence, guint depth)
{
  for (guint i = 0; i < self->patterns->len; i++)
    {
      Pattern *pattern = g_ptr_array_index (self->patterns, i);
      g_autoptr (GMatchInfo) found = NULL;

      if (!g_str_has_prefix (sentence, pattern->prefix)
          || !g_str_has_suffix (sentence, pattern->suffix))
        continue;
      if (pattern->regex == NULL)
        pattern->regex = new_regex (self, pattern->format);
      if (pattern->regex != NULL && g_regex_match (pattern->regex, sentence, 0, &found))
        return fill (self, pattern, found, depth);
    }
  return NULL;
}

/* As a whole, exact or by its pattern; NULL when it is not known. */
static char *
look_up (KwCliSentences *self, const char *sentence, guint depth)
{
  const char *known = g_hash_table_lookup (self->texts, sentence);

  return known != NULL ? g_strdup (known) : translate_by_pattern (self, sentence, depth);
}

static char *
translate_setting (KwCliSentences *self, const char *sentence, guint depth)
{
  g_autoptr (GMatchInfo) match = NULL;
  g_autofree char *setting = NULL;
  g_autofree char *said = NULL;
  g_autofree char *translated = NULL;

  if (!g_regex_match (self->setting, sentence, 0, &match))
    return NULL;
  setting = g_match_info_fetch (match, 1);
  said = g_match_info_fetch (match, 2);
  translated = translate (self, said, depth + 1);
  return g_str_equal (translated, said) ? NULL : g_strconcat (setting, " ", translated, NULL);
}

/* In two at @cut, if one of the two is known, or the first with the cut. */
static char *
translate_known (KwCliSentences *self,
                 const char *sentence,
                 const char *at,
                 const char *cut,
                 guint depth)
{
  const char *rest = at + strlen (cut);
  g_autofree char *before = g_strndup (sentence, (gsize) (at - sentence));
  g_autofree char *before_and_cut = g_strconcat (before, cut, NULL);
  g_autofree char *first = look_up (self, before_and_cut, depth + 1);
  g_autofree char *second = NULL;

  if (first != NULL)
    cut = "";
  else
    first = look_up (self, before, depth + 1);
  second = first != NULL ? translate (self, rest, depth + 1) : look_up (self, rest, depth + 1);
  if (second == NULL)
    return NULL;
  if (first == NULL)
    first = translate (self, before, depth + 1);
  return g_strconcat (first, cut, second, NULL);
}

/* Cut where one sentence was put behind another: where one of the two is known, else at the first place. */
static char *
translate_pieces (KwCliSentences *self, const char *sentence, guint depth)
{
  static const char *const cuts[] = { ". ", ": ", "; " };
  const char *first_at = NULL;
  const char *first_cut = NULL;
  g_autofree char *before = NULL;
  g_autofree char *one = NULL;
  g_autofree char *other = NULL;
  char *whole = translate_setting (self, sentence, depth);

  for (guint i = 0; whole == NULL && i < G_N_ELEMENTS (cuts); i++)
    {
      const char *at = strstr (sentence, cuts[i]);

      if (at == NULL || at == sentence)
        continue;
      whole = translate_known (self, sentence, at, cuts[i], depth);
      if (first_at == NULL || at < first_at)
        {
          first_at = at;
          first_cut = cuts[i];
        }
    }
  if (whole != NULL || first_at == NULL)
    return whole;
  before = g_strndup (sentence, (gsize) (first_at - sentence));
  one = translate (self, before, depth + 1);
  other = translate (self, first_at + strlen (first_cut), depth + 1);
  return g_strconcat (one, first_cut, other, NULL);
}

static char *
translate (KwCliSentences *self, const char *sentence, guint depth)
{
  char *result = NULL;

  if (*sentence == '\0' || depth > KW_MAX_SENTENCE_DEPTH)
    return g_strdup (sentence);
  result = look_up (self, sentence, depth);
  if (result == NULL)
    result = translate_pieces (self, sentence, depth);
  return result != NULL ? result : g_strdup (sentence);
}

/**
 * kw_cli_sentences_new_from_file:
 * @path: a compiled catalogue (.mo)
 *
 * Returns: (transfer full) (nullable): what is in it; %NULL when it is not there, or damaged
 */
KwCliSentences *
kw_cli_sentences_new_from_file (const char *path)
{
  g_autoptr (GMappedFile) file = NULL;
  g_autoptr (KwCliSentences) self = NULL;
  GHashTableIter iter;
  gpointer original, translation;

  g_return_val_if_fail (path != NULL, NULL);

  file = g_mapped_file_new (path, FALSE, NULL);
  if (file == NULL || g_mapped_file_get_length (file) > KW_MAX_CATALOGUE_BYTES)
    return NULL;
  self = g_new0 (KwCliSentences, 1);
  self->texts = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, g_free);
  self->patterns = g_ptr_array_new_with_free_func (pattern_free);
  self->conversion = g_regex_new (CONVERSION, 0, 0, NULL);
  self->setting = g_regex_new (SETTING, G_REGEX_DOTALL, 0, NULL);
  if (self->conversion == NULL || self->setting == NULL
      || !read_catalogue (self->texts, (const guint8 *) g_mapped_file_get_contents (file),
                          g_mapped_file_get_length (file)))
    return NULL;
  g_hash_table_iter_init (&iter, self->texts);
  while (g_hash_table_iter_next (&iter, &original, &translation))
    add_pattern (self, original, translation);
  g_ptr_array_sort (self->patterns, compare_patterns);
  return g_steal_pointer (&self);
}

void
kw_cli_sentences_free (KwCliSentences *self)
{
  g_return_if_fail (self != NULL);

  g_clear_pointer (&self->texts, g_hash_table_unref);
  g_clear_pointer (&self->patterns, g_ptr_array_unref);
  g_clear_pointer (&self->conversion, g_regex_unref);
  g_clear_pointer (&self->setting, g_regex_unref);
  g_free (self);
}

/**
 * kw_cli_sentences_translate:
 * @self: the sentences of a language
 * @sentence: a sentence in English
 *
 * Returns: (transfer full): it in that language, as far as it is known there
 */
char *
kw_cli_sentences_translate (KwCliSentences *self, const char *sentence)
{
  g_return_val_if_fail (self != NULL, NULL);
  g_return_val_if_fail (sentence != NULL, NULL);

  if (strlen (sentence) > KW_MAX_SENTENCE_BYTES || !g_utf8_validate (sentence, -1, NULL))
    return g_strdup (sentence);
  return translate (self, sentence, 0);
}

/* --- the language of the reader --- */

/* In English there is nothing to read; and nothing is mixed where gettext itself stays with English, as in locale C. */
static KwCliSentences *
load_sentences (void)
{
  const char *const *languages = g_get_language_names ();

  if (*gettext ("") == '\0')
    return NULL;
  for (guint i = 0; languages[i] != NULL; i++)
    {
      g_autofree char *path = g_build_filename (kw_i18n_get_directory (), languages[i],
                                                "LC_MESSAGES", GETTEXT_PACKAGE ".mo", NULL);
      KwCliSentences *sentences = kw_cli_sentences_new_from_file (path);

      if (sentences != NULL)
        return sentences;
    }
  return NULL;
}

/* Read once, when the first sentence is shown. */
static KwCliSentences *
get_sentences (void)
{
  static gsize once = 0;
  static KwCliSentences *sentences = NULL;

  if (g_once_init_enter (&once))
    {
      sentences = load_sentences ();
      g_once_init_leave (&once, 1);
    }
  return sentences;
}

/**
 * kw_cli_translate:
 * @sentence: a sentence of the daemon, of core or of a command, in English
 *
 * Returns: (transfer full): it in the language of the reader, as far as it is known there
 */
char *
kw_cli_translate (const char *sentence)
{
  KwCliSentences *sentences = get_sentences ();

  g_return_val_if_fail (sentence != NULL, NULL);

  return sentences != NULL ? kw_cli_sentences_translate (sentences, sentence) : g_strdup (sentence);
}

/**
 * kw_cli_translate_output:
 * @sentence: a sentence in English, for standard output
 *
 * As kw_cli_translate(), but what ownCloud's scripts read of hsmdaemon stays as it is.
 *
 * Returns: (transfer full): it in the language of the reader
 */
char *
kw_cli_translate_output (const char *sentence)
{
  g_return_val_if_fail (sentence != NULL, NULL);

  if (g_strcmp0 (g_get_prgname (), KW_PROGRAM_HSMDAEMON) == 0)
    return g_strdup (sentence);
  return kw_cli_translate (sentence);
}

/**
 * kw_cli_output_sentence:
 * @sentence: what a command did, in English, with its newline
 * @error: where to store the error
 *
 * Says it on standard output, in the language of the reader.
 *
 * Returns: %FALSE with an error
 */
gboolean
kw_cli_output_sentence (const char *sentence, GError **error)
{
  g_autofree char *translated = NULL;

  g_return_val_if_fail (sentence != NULL, FALSE);

  translated = kw_cli_translate_output (sentence);
  return kw_cli_output_text (translated, error);
}
