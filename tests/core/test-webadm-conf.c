/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-webadm-conf"

#include "config.h"

#include "kw-config.h"
#include "kw-core-fixture.h"
#include "kw-error.h"
#include "kw-webadm-conf.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>

typedef struct
{
  char *directory;
  char *path;
} Fixture;

static void
set_up (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  fixture->directory = kw_test_make_directory ();
  fixture->path = g_build_filename (fixture->directory, "webadm.conf", NULL);
}

static void
tear_down (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_free (fixture->path);
  kw_test_remove_directory (fixture->directory);
}

static KwConfig *
read_with (Fixture *fixture, const char *text, const char *more, GError **error)
{
  g_autofree char *toml = g_strdup_printf ("[hsm]\nwebadm_conf = \"%s\"\n%s", fixture->path, more);

  if (text != NULL)
    g_free (kw_test_write_file (fixture->directory, "webadm.conf", text, 0600));
  return kw_config_new_from_data ("test.toml", toml, strlen (toml), error);
}

static void
assert_keys (KwConfig *config, const char *wanted)
{
  g_autoptr (GString) found = g_string_new (NULL);
  GPtrArray *keys = kw_config_get_hsm (config)->key_ids;

  for (guint i = 0; i < keys->len; i++)
    g_string_append_printf (found, "%s%s", i > 0 ? " " : "",
                            kw_key_selector_get_text (g_ptr_array_index (keys, i)));
  g_assert_cmpstr (found->str, ==, wanted);
}

static void
test_four_settings (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (KwConfig) config = read_with (fixture,
                                           "# WebADM\n"
                                           "admin_auth UID\n"
                                           "\n"
                                           "encrypt_hsm  Yes\r\n"
                                           "hsm_model smartcard\n"
                                           "\thsm_keyid\t1, 0 label:old\n"
                                           "hsm_pin \"648219\"\n"
                                           "hsm_vendor_thing x\n"
                                           "# hsm_pin 1\n"
                                           "lonely",
                                           "min_copies = 2\n", &error);
  const KwHsmConfig *hsm = NULL;

  g_assert_no_error (error);
  hsm = kw_config_get_hsm (config);
  g_assert_true (hsm->encrypt_hsm);
  g_assert_cmpint (hsm->model, ==, KW_HSM_MODEL_SMARTCARD);
  assert_keys (config, "1 0 label:old");
  g_assert_true (kw_secret_equal (hsm->pin, "648219", 6));
  g_assert_cmpuint (hsm->min_copies, ==, 2);
  g_assert_true (kw_config_wants_backend (config, "smartcard"));
  g_assert_false (kw_config_wants_backend (config, "pkcs11"));
}

static void
test_values_in_quotes_and_not (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (KwConfig) config
      = read_with (fixture, "encrypt_hsm 'no'\nhsm_keyid \"0\"\nhsm_pin a\"b\nHSM_MODEL SoftHSM\n",
                   "", &error);

  g_assert_no_error (error);
  g_assert_false (kw_config_get_hsm (config)->encrypt_hsm);
  g_assert_true (kw_secret_equal (kw_config_get_hsm (config)->pin, "a\"b", 3));
  g_assert_cmpint (kw_config_get_hsm (config)->model, ==, KW_HSM_MODEL_SOFTHSM);
}

static void
test_bad_lines (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  static const char *const rows[][2] = {
    { "x y\nhsm_keyid\n", ":2: hsm_keyid has no value" },
    { "hsm_keyid \"\"\n", ":1: hsm_keyid has no value" },
    { "hsm_keyid 0\n\nhsm_keyid 1\n",
      ":3: hsm_keyid is set a second time; the first is in line 1" },
    { "hsm_keyd 0\n", ":1: unknown setting \"hsm_keyd\"; did you mean \"hsm_keyid\"?" },
    { "hsm_modell pkcs11\n", ":1: unknown setting \"hsm_modell\"; did you mean \"hsm_model\"?" },
    { "hsm_pim 1\n", ":1: unknown setting \"hsm_pim\"; did you mean \"hsm_pin\"?" },
    { "encrypt_hsm maybe\n", ":1: encrypt_hsm must be true, false, \"Yes\" or \"No\"" },
    { "hsm_model yubihsm\n", ":1: hsm_model must be \"smartcard\", \"pkcs11\" or \"softhsm\"" },
    { "hsm_keyid 0 0\n", ":1: hsm_keyid names a key twice: \"0\"" },
    { "hsm_keyid zero\n",
      ":1: hsm_keyid names no key: \"zero\"; a key is a number (0 is the first AES key of a "
      "device), label:NAME, or id: and its CKA_ID in hex" },
    { "hsm_pin file:pin\n", ":1: hsm_pin must be file: and an absolute path" },
  };

  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *message = g_strconcat (fixture->path, rows[i][1], NULL);

      g_test_message ("%s", rows[i][0]);
      g_assert_null (read_with (fixture, rows[i][0], "", &error));
      kw_assert_error (error, KW_ERROR_CONFIG, message);
    }
}

/* Somebody else's lines do no harm, whatever is in them. */
static void
test_strange_bytes (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  static const char text[] = "\xff\xfe x\nhsm_pin\0 1\n \t \nhsm_keyid 0\n\0\0\n\n\n#";
  static const char *const wanted[] = { "hsm_pin", "hsm_keyid", NULL };
  g_autoptr (GError) error = NULL;
  guint line = 0;
  g_autoptr (GPtrArray) lines = kw_webadm_conf_parse (text, sizeof text - 1, wanted, &line, &error);

  g_assert_no_error (error);
  g_assert_cmpuint (lines->len, ==, 1);
  g_assert_cmpstr (((KwWebadmLine *) g_ptr_array_index (lines, 0))->value, ==, "0");
  g_assert_cmpuint (((KwWebadmLine *) g_ptr_array_index (lines, 0))->line, ==, 4);
  for (gsize size = 0; size < sizeof text; size++)
    {
      g_autoptr (GPtrArray) part = kw_webadm_conf_parse (text, size, wanted, &line, NULL);

      g_assert_true (part == NULL || part->len <= 1);
    }
}

static void
test_settings_stand_in_one_place (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  static const char *const settings[]
      = { "encrypt_hsm = false", "hsm_model = \"pkcs11\"", "hsm_keyid = 0", "hsm_pin = \"1\"",
          "hsm_pin = \"credential:pin\"" };
  g_autofree char *message = g_strdup_printf (
      "test.toml: [hsm] webadm_conf is set, so encrypt_hsm, hsm_model, hsm_keyid and hsm_pin are "
      "read from %s; leave them out here",
      fixture->path);

  for (guint i = 0; i < G_N_ELEMENTS (settings); i++)
    {
      g_autoptr (GError) error = NULL;

      g_assert_null (read_with (fixture, "hsm_keyid 0\n", settings[i], &error));
      kw_assert_error (error, KW_ERROR_CONFIG, message);
    }
}

static void
test_missing_file (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *message
      = g_strdup_printf ("test.toml: [hsm] webadm_conf: Cannot open %s: No such file or directory",
                         fixture->path);

  g_assert_null (read_with (fixture, NULL, "", &error));
  kw_assert_error (error, KW_ERROR_FAILED, message);
  g_assert_false (kw_webadm_conf_check_mode (fixture->path, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_PERMISSION);
}

static void
test_modes (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  static const struct
  {
    int mode;
    gboolean good;
    gboolean good_for_root; /* when the group is root's */
  } rows[] = { { 0600, TRUE, TRUE },   { 0400, TRUE, TRUE },   { 0640, FALSE, TRUE },
               { 0660, FALSE, FALSE }, { 0644, FALSE, FALSE }, { 0604, FALSE, FALSE },
               { 0601, FALSE, FALSE } };

  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      g_autoptr (GError) error = NULL;
      struct stat info;
      gboolean good = FALSE;

      g_free (kw_test_write_file (fixture->directory, "webadm.conf", "hsm_keyid 0\n", 0600));
      g_assert_cmpint (g_chmod (fixture->path, (mode_t) rows[i].mode), ==, 0);
      g_assert_cmpint (stat (fixture->path, &info), ==, 0);
      good = info.st_gid == 0 ? rows[i].good_for_root : rows[i].good;
      g_assert_true (kw_webadm_conf_check_mode (fixture->path, &error) == good);
      if (good)
        continue;
      g_assert_error (error, KW_ERROR, KW_ERROR_PERMISSION);
      g_assert_nonnull (strstr (error->message, "run: chown root:keyward"));
      g_clear_error (&error);
      g_assert_null (read_with (fixture, NULL, "", &error));
      g_assert_error (error, KW_ERROR, KW_ERROR_PERMISSION);
    }
}

/* A PIN in webadm.conf does not make a secret of our own file. */
static void
test_own_file_stays_open (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *toml = g_strdup_printf ("[hsm]\nwebadm_conf = \"%s\"\n", fixture->path);
  g_autofree char *path = kw_test_write_file (fixture->directory, "x.toml", toml, 0644);
  g_autoptr (KwConfig) config = NULL;
  g_auto (GStrv) files = NULL;

  g_free (kw_test_write_file (fixture->directory, "webadm.conf", "hsm_pin 648219\n", 0600));
  config = kw_config_new_from_file (path, &error);
  g_assert_no_error (error);
  files = kw_config_dup_secret_files (config);
  g_assert_cmpstr (files[0], ==, fixture->path);
}

static void
add (const char *path, void (*test) (Fixture *, gconstpointer))
{
  g_test_add (path, Fixture, NULL, set_up, test, tear_down);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  add ("/webadm-conf/four-settings", test_four_settings);
  add ("/webadm-conf/values-in-quotes-and-not", test_values_in_quotes_and_not);
  add ("/webadm-conf/bad-lines", test_bad_lines);
  add ("/webadm-conf/strange-bytes", test_strange_bytes);
  add ("/webadm-conf/settings-stand-in-one-place", test_settings_stand_in_one_place);
  add ("/webadm-conf/missing-file", test_missing_file);
  add ("/webadm-conf/modes", test_modes);
  add ("/webadm-conf/own-file-stays-open", test_own_file_stays_open);
  return g_test_run ();
}
