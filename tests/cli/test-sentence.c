/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-cli-sentence"

#include "config.h"

#include "kw-cli-rig.h"
#include "kw-cli-sentence.h"
#include "kw-limits.h"
#include "kw-names.h"

#include <glib/gstdio.h>
#include <string.h>

/* Sentences of the daemon in the language of the reader: how they are found, and what damaged catalogues do. */

#define MO_MAGIC 0x950412deU

/* Sorted, as a catalogue is. */
static const char *const texts[][2] = {
  { "", "Content-Type: text/plain; charset=UTF-8\n" },
  { "%s holds a secret but its mode is %04o", "%s enthält ein Geheimnis, Modus %04o" },
  { "%s: %s", "%s – %s" },
  { "%u devices ready", "%u Geräte bereit" },
  { "100 %% of %u", "100 %% von %u" },
  { "Cannot %s %s: %s", "%2$s: %1$s unmöglich: %3$s" },
  { "Cannot lock %s", "%s kann nicht gesperrt werden" },
  { "Device %s: %s", "Gerät %s: %s" },
  { "It is gone", "Es ist weg" },
  { "It refused the PIN: ", "Es hat die PIN abgelehnt: " },
  { "Key %s of device %s is weak", "Auf %2$s ist Schlüssel %1$s schwach" },
  { "in table [%s]", "in Tabelle [%s]" },
  { "must be %s", "muss %s sein" },
  { "status %X", "Status %X" },
  { "true or false", "wahr oder falsch" },
  { "unknown key \"%s\" %s", "unbekannt: \"%s\" %s" },
  { "untranslated", "" },
  { "user", "Benutzer" },
  { "write", "Schreiben" },
};

static void
append_number (GByteArray *data, guint32 number, gboolean swapped)
{
  if (swapped)
    number = GUINT32_SWAP_LE_BE (number);
  g_byte_array_append (data, (const guint8 *) &number, sizeof number);
}

/* A catalogue as msgfmt makes it, in the byte order of this machine or in the other one. */
static GByteArray *
make_catalogue (gboolean swapped)
{
  const guint n_texts = G_N_ELEMENTS (texts);
  GByteArray *data = g_byte_array_new ();
  guint32 offset = 7 * 4 + n_texts * 16;

  append_number (data, MO_MAGIC, swapped);
  append_number (data, 0, swapped);
  append_number (data, n_texts, swapped);
  append_number (data, 7 * 4, swapped);
  append_number (data, 7 * 4 + n_texts * 8, swapped);
  append_number (data, 0, swapped);
  append_number (data, 0, swapped);
  for (guint column = 0; column < 2; column++)
    {
      for (guint i = 0; i < n_texts; i++)
        {
          append_number (data, (guint32) strlen (texts[i][column]), swapped);
          append_number (data, offset, swapped);
          offset += (guint32) strlen (texts[i][column]) + 1;
        }
    }
  for (guint column = 0; column < 2; column++)
    {
      for (guint i = 0; i < n_texts; i++)
        g_byte_array_append (data, (const guint8 *) texts[i][column],
                             (guint) strlen (texts[i][column]) + 1);
    }
  return data;
}

static KwCliSentences *
load (const guint8 *data, gsize size)
{
  g_autofree char *path = NULL;
  g_autoptr (GError) error = NULL;
  KwCliSentences *sentences = NULL;
  int fd = g_file_open_tmp ("keyward-sentences-XXXXXX", &path, &error);

  g_assert_no_error (error);
  g_assert_true (g_close (fd, NULL));
  g_assert_true (g_file_set_contents (path, (const char *) data, (gssize) size, &error));
  sentences = kw_cli_sentences_new_from_file (path);
  g_assert_cmpint (g_unlink (path), ==, 0);
  return sentences;
}

static KwCliSentences *
load_good (void)
{
  g_autoptr (GByteArray) data = make_catalogue (FALSE);
  KwCliSentences *sentences = load (data->data, data->len);

  g_assert_nonnull (sentences);
  return sentences;
}

static void
assert_translated (KwCliSentences *sentences, const char *sentence, const char *expected)
{
  g_autofree char *translated = kw_cli_sentences_translate (sentences, sentence);

  g_assert_cmpstr (translated, ==, expected);
}

static void
test_exact (void)
{
  g_autoptr (KwCliSentences) sentences = load_good ();

  assert_translated (sentences, "It is gone", "Es ist weg");
  assert_translated (sentences, "user", "Benutzer");
}

static void
test_pattern (void)
{
  g_autoptr (KwCliSentences) sentences = load_good ();

  assert_translated (sentences, "12 devices ready", "12 Geräte bereit");
  assert_translated (sentences, "100 % of 7", "100 % von 7");
  assert_translated (sentences, "/a b holds a secret but its mode is 0644",
                     "/a b enthält ein Geheimnis, Modus 0644");
  assert_translated (sentences, "status 6F0A", "Status 6F0A");
  /* In another order, and with what is filled in translated as well. */
  assert_translated (sentences, "Key 0 of device X is weak", "Auf X ist Schlüssel 0 schwach");
  assert_translated (sentences, "Cannot write /x: It is gone",
                     "/x: Schreiben unmöglich: Es ist weg");
  assert_translated (sentences, "Device A: It is gone", "Gerät A: Es ist weg");
  /* A number is wanted. */
  assert_translated (sentences, "many devices ready", "many devices ready");
}

/* What is quoted is a name, although it may look like a text. */
static void
test_names (void)
{
  g_autoptr (KwCliSentences) sentences = load_good ();

  assert_translated (sentences, "unknown key \"user\" in table [write]",
                     "unbekannt: \"user\" in Tabelle [write]");
}

static void
test_pieces (void)
{
  g_autoptr (KwCliSentences) sentences = load_good ();

  assert_translated (sentences, "It is gone. 3 devices ready", "Es ist weg. 3 Geräte bereit");
  assert_translated (sentences, "/etc/x:3: It is gone", "/etc/x:3: Es ist weg");
  assert_translated (sentences, "It is gone; plug it in", "Es ist weg; plug it in");
  assert_translated (sentences, "It refused the PIN: It is gone",
                     "Es hat die PIN abgelehnt: Es ist weg");
  assert_translated (sentences, "/etc/x:3: [a] b must be true or false",
                     "/etc/x:3: [a] b muss wahr oder falsch sein");
  assert_translated (sentences, "hsm_pin must be true or false",
                     "hsm_pin muss wahr oder falsch sein");
}

static void
test_unknown (void)
{
  g_autoptr (KwCliSentences) sentences = load_good ();
  g_autoptr (GString) deep = g_string_new ("It is gone");
  g_autofree char *large = g_strnfill (KW_MAX_SENTENCE_BYTES + 1, 'x');

  assert_translated (sentences, "", "");
  assert_translated (sentences, "Something else", "Something else");
  assert_translated (sentences, "untranslated", "untranslated");
  assert_translated (sentences, "a: b", "a: b");
  assert_translated (sentences, "Some thing. And: more; of it", "Some thing. And: more; of it");
  assert_translated (sentences, large, large);
  assert_translated (sentences, "It is gone. \xff", "It is gone. \xff");
  for (guint i = 0; i <= KW_MAX_SENTENCE_DEPTH + 1; i++)
    g_string_prepend (deep, "x: ");
  assert_translated (sentences, deep->str, deep->str);
}

static void
test_other_byte_order (void)
{
  g_autoptr (GByteArray) data = make_catalogue (TRUE);
  g_autoptr (KwCliSentences) sentences = load (data->data, data->len);

  g_assert_nonnull (sentences);
  assert_translated (sentences, "It is gone", "Es ist weg");
}

static void
assert_refused (guint offset, guint32 number)
{
  g_autoptr (GByteArray) data = make_catalogue (FALSE);

  memcpy (data->data + offset, &number, sizeof number);
  g_assert_null (load (data->data, data->len));
}

static void
test_damaged (void)
{
  g_autoptr (GByteArray) data = make_catalogue (FALSE);
  const guint32 n_translations = 7 * 4 + G_N_ELEMENTS (texts) * 8;

  g_assert_null (kw_cli_sentences_new_from_file ("/nonexistent/keyward.mo"));
  for (gsize size = 0; size < data->len; size += size < 64 ? 1 : 13)
    g_assert_null (load (data->data, size));
  g_assert_null (load (data->data, data->len - 1));
  assert_refused (0, MO_MAGIC + 1);
  assert_refused (4, 2 << 16);
  assert_refused (8, KW_MAX_CATALOGUE_TEXTS + 1);
  assert_refused (8, G_MAXUINT32);
  assert_refused (12, data->len);
  assert_refused (12, G_MAXUINT32);
  assert_refused (16, data->len - 8);
  assert_refused (16, G_MAXUINT32);
  /* The second text: its length and its place; then those of its translation. */
  assert_refused (7 * 4 + 8, G_MAXUINT32);
  assert_refused (7 * 4 + 8, 3);
  assert_refused (7 * 4 + 12, G_MAXUINT32);
  assert_refused (n_translations + 8, data->len);
  assert_refused (n_translations + 12, data->len);
  /* The last byte before the NUL at the end. */
  data->data[data->len - 2] = 0xff;
  g_assert_null (load (data->data, data->len));
  g_byte_array_set_size (data, KW_MAX_CATALOGUE_BYTES + 1);
  g_assert_null (load (data->data, data->len));
}

/* --- as a program --- */

static KwCliRun *
run_in (const char *locale, const char *language, const char *directory, const char *program)
{
  g_autoptr (GSubprocessLauncher) launcher
      = kw_cli_rig_new_launcher (G_SUBPROCESS_FLAGS_STDIN_PIPE | G_SUBPROCESS_FLAGS_STDOUT_PIPE
                                 | G_SUBPROCESS_FLAGS_STDERR_PIPE);

  g_subprocess_launcher_setenv (launcher, "LC_ALL", locale, TRUE);
  g_subprocess_launcher_setenv (launcher, "LANGUAGE", language, TRUE);
  g_subprocess_launcher_setenv (launcher, KW_ENV_LOCALE_PATH, directory, TRUE);
  return kw_cli_rig_run_by (launcher, "", kw_cli_rig_get_program (program), "showkey", "x", NULL);
}

static void
assert_says (const char *locale,
             const char *language,
             const char *directory,
             const char *program,
             const char *expected)
{
  g_autoptr (KwCliRun) run = run_in (locale, language, directory, program);
  g_autofree char *line = g_strdup_printf ("%s: %s ", program, expected);

  g_assert_true (g_str_has_prefix (run->err, line));
}

#define NOT_A_KEY "Not a key id: a UUID such as 6ba7b810-9dad-11d1-80b4-00c04fd430c8 is wanted; see"
#define KEINE_KENNUNG                                                                              \
  "Keine Schlüsselkennung: verlangt ist eine UUID wie 6ba7b810-9dad-11d1-80b4-00c04fd430c8; siehe"

static void
test_program (void)
{
  assert_says ("C.UTF-8", "de", KW_TEST_LOCALE_DIR, "keyward", KEINE_KENNUNG);
  assert_says ("C.UTF-8", "xx:de_AT", KW_TEST_LOCALE_DIR, "keyward", KEINE_KENNUNG);
  assert_says ("C.UTF-8", "de", KW_TEST_LOCALE_DIR, "hsmdaemon", KEINE_KENNUNG);
  assert_says ("C.UTF-8", "", KW_TEST_LOCALE_DIR, "keyward", NOT_A_KEY);
  assert_says ("C", "de", KW_TEST_LOCALE_DIR, "keyward", NOT_A_KEY);
  assert_says ("C.UTF-8", "de", "/nonexistent", "keyward", NOT_A_KEY);
}

/* gettext is content with this one, and we are not. */
static void
test_program_damaged (void)
{
  g_autoptr (GByteArray) data = make_catalogue (FALSE);
  g_autoptr (GError) error = NULL;
  g_autofree char *directory = g_dir_make_tmp ("keyward-sentences-XXXXXX", &error);
  g_autofree char *language = g_build_filename (directory, "de", NULL);
  g_autofree char *messages = g_build_filename (language, "LC_MESSAGES", NULL);
  g_autofree char *path = g_build_filename (messages, "keyward.mo", NULL);

  g_assert_no_error (error);
  g_assert_cmpint (g_mkdir_with_parents (messages, 0755), ==, 0);
  data->data[data->len - 2] = 0xff;
  g_assert_true (g_file_set_contents (path, (const char *) data->data, data->len, &error));
  g_assert_cmpint (g_chmod (path, 0644), ==, 0);
  g_assert_cmpint (g_chmod (directory, 0755), ==, 0);
  assert_says ("C.UTF-8", "de", directory, "keyward", NOT_A_KEY);
  g_assert_cmpint (g_unlink (path), ==, 0);
  g_assert_cmpint (g_rmdir (messages), ==, 0);
  g_assert_cmpint (g_rmdir (language), ==, 0);
  g_assert_cmpint (g_rmdir (directory), ==, 0);
}

/* Findings, with what to do: taken apart, but translated as one sentence. */
static void
test_program_check (void)
{
  g_autoptr (KwCliRig) rig = kw_cli_rig_new ();
  g_autoptr (GSubprocessLauncher) launcher
      = kw_cli_rig_new_launcher (G_SUBPROCESS_FLAGS_STDIN_PIPE | G_SUBPROCESS_FLAGS_STDOUT_PIPE
                                 | G_SUBPROCESS_FLAGS_STDERR_PIPE);
  g_autoptr (KwCliRun) german = NULL;
  g_autoptr (KwCliRun) french = NULL;
  g_autoptr (KwCliRun) json = NULL;
  g_autoptr (KwCliRun) script = NULL;

  kw_cli_rig_configure (rig, KW_SOFTHSM_MODULE, "", NULL);
  g_assert_cmpint (g_chmod (rig->config, 0644), ==, 0);
  g_subprocess_launcher_setenv (launcher, KW_ENV_LOCALE_PATH, KW_TEST_LOCALE_DIR, TRUE);
  g_subprocess_launcher_setenv (launcher, "LANGUAGE", "de", TRUE);
  german = kw_cli_rig_run_by (launcher, "", kw_cli_rig_get_program ("keyward"), "--config",
                              rig->config, "check", NULL);
  g_assert_cmpint (german->status, ==, 1);
  g_assert_nonnull (strstr (german->out, " enthält ein Geheimnis, hat aber den Modus 0644"));
  g_assert_nonnull (strstr (german->out, "zu tun: chmod 0600 "));
  g_assert_null (strstr (german->out, "what to do"));
  json = kw_cli_rig_run_by (launcher, "", kw_cli_rig_get_program ("keyward"), "--config",
                            rig->config, "--json", "check", NULL);
  g_assert_nonnull (strstr (json->out, " holds a secret but its mode is 0644"));
  script = kw_cli_rig_run_by (launcher, "", kw_cli_rig_get_program ("hsmdaemon"), "--config",
                              rig->config, "check", NULL);
  g_assert_nonnull (strstr (script->out, " holds a secret but its mode is 0644"));
  g_subprocess_launcher_setenv (launcher, "LANGUAGE", "fr", TRUE);
  french = kw_cli_rig_run_by (launcher, "", kw_cli_rig_get_program ("keyward"), "--config",
                              rig->config, "check", NULL);
  g_assert_nonnull (strstr (french->out, "son mode est 0644, donc d’autres y ont accès\n"));
  g_assert_nonnull (strstr (french->out, "à faire\302\240: chmod 0600 "));
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/sentence/exact", test_exact);
  g_test_add_func ("/sentence/pattern", test_pattern);
  g_test_add_func ("/sentence/names", test_names);
  g_test_add_func ("/sentence/pieces", test_pieces);
  g_test_add_func ("/sentence/unknown", test_unknown);
  g_test_add_func ("/sentence/other-byte-order", test_other_byte_order);
  g_test_add_func ("/sentence/damaged", test_damaged);
  g_test_add_func ("/sentence/program", test_program);
  g_test_add_func ("/sentence/program-damaged", test_program_damaged);
  g_test_add_func ("/sentence/program-check", test_program_check);
  return g_test_run ();
}
