/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-keyring"

#include "config.h"

#include "kw-core-fixture.h"
#include "kw-error.h"
#include "kw-fake-token.h"
#include "kw-keyring.h"
#include "kw-names.h"

#include <string.h>

typedef struct
{
  char *directory;
  KwKeyring *keyring;
} Fixture;

static void
set_up (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  fixture->directory = kw_test_make_directory ();
  fixture->keyring = kw_keyring_new (fixture->directory);
  g_assert_true (kw_keyring_load (fixture->keyring, NULL, NULL));
}

static void
tear_down (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_object_unref (fixture->keyring);
  kw_test_remove_directory (fixture->directory);
}

/* Shows one key to a keyring; TRUE when it may be used. */
static gboolean
admit (KwKeyring *keyring, const char *id, const char *material)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GPtrArray) keys = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_unref);
  g_autoptr (GPtrArray) different = NULL;
  g_autoptr (GPtrArray) admitted = NULL;

  g_ptr_array_add (keys, kw_fake_key_new (id, material));
  admitted = kw_keyring_admit (keyring, keys, &different, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (admitted->len + different->len, ==, 1);
  return admitted->len == 1;
}

static void
test_first_seen_is_recorded (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwKeyring) next = kw_keyring_new (fixture->directory);

  g_assert_true (admit (fixture->keyring, "one", "material"));
  g_assert_true (admit (fixture->keyring, "one", "material"));
  g_assert_true (kw_keyring_load (next, NULL, NULL));
  g_assert_true (admit (next, "one", "material"));
  g_assert_false (admit (next, "one", "other"));
}

static void
test_different_is_refused (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_assert_true (admit (fixture->keyring, "one", "material"));
  g_assert_false (admit (fixture->keyring, "one", "other"));
  g_assert_true (admit (fixture->keyring, "two", "other"));
  g_assert_true (admit (fixture->keyring, "one", "material"));
}

/* A command recorded the key after the daemon read the record: the daemon must not admit another. */
static void
test_recorded_by_another_process (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwKeyring) command = kw_keyring_new (fixture->directory);
  g_autofree char *before = NULL;
  g_autofree char *after = NULL;

  g_assert_true (admit (command, "one", "material"));
  before = kw_test_read_file (fixture->directory, KW_STATE_FILE_KEYS);
  g_assert_false (admit (fixture->keyring, "one", "other"));
  g_assert_false (admit (fixture->keyring, "one", "other"));
  g_assert_true (admit (fixture->keyring, "one", "material"));
  after = kw_test_read_file (fixture->directory, KW_STATE_FILE_KEYS);
  g_assert_cmpstr (before, ==, after);
}

static void
test_uuid_and_hex_names (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autofree char *text = NULL;

  g_assert_true (admit (fixture->keyring, "0123456789abcdef", "material"));
  g_assert_true (admit (fixture->keyring, "\x01\xff", "material"));
  text = kw_test_read_file (fixture->directory, KW_STATE_FILE_KEYS);
  g_assert_nonnull (strstr (text, "\nrsa-30313233-3435-3637-3839-616263646566="));
  g_assert_nonnull (strstr (text, "\nrsa-01ff="));
}

static void
test_no_fingerprint_is_left_out (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GBytes) id = g_bytes_new_static ("x", 1);
  g_autoptr (GPtrArray) keys = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_unref);
  g_autoptr (GPtrArray) different = NULL;
  g_autoptr (GPtrArray) admitted = NULL;

  g_ptr_array_add (keys, kw_key_new (KW_KEY_KIND_AES, 256, id, "x", NULL));
  admitted = kw_keyring_admit (fixture->keyring, keys, &different, NULL);
  g_assert_cmpuint (admitted->len, ==, 0);
  g_assert_cmpuint (different->len, ==, 0);
}

static void
test_forget (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GBytes) one = g_bytes_new_static ("one", 3);
  gboolean known = FALSE;

  g_assert_true (admit (fixture->keyring, "one", "material"));
  g_assert_true (kw_keyring_forget (fixture->keyring, one, &known, NULL));
  g_assert_true (known);
  g_assert_true (kw_keyring_forget (fixture->keyring, one, &known, NULL));
  g_assert_false (known);
  g_assert_true (kw_keyring_load (fixture->keyring, NULL, NULL));
  g_assert_true (admit (fixture->keyring, "one", "other"));
  g_assert_false (admit (fixture->keyring, "one", "material"));
}

static void
test_damaged_record (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = NULL;
  g_autoptr (GBytes) one = g_bytes_new_static ("one", 3);
  gboolean known = TRUE;

  g_assert_true (admit (fixture->keyring, "one", "material"));
  path = kw_test_write_file (fixture->directory, KW_STATE_FILE_KEYS, "nonsense", 0600);
  g_assert_false (kw_keyring_load (fixture->keyring, NULL, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_FAILED);
  g_clear_error (&error);
  g_assert_false (admit (fixture->keyring, "one", "other")); /* what was known stays */
  g_assert_false (kw_keyring_forget (fixture->keyring, one, &known, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_FAILED);
  g_assert_true (known);
}

/* What cannot be recorded is not used, not even the second time. */
static void
test_record_cannot_be_written (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autofree char *path G_GNUC_UNUSED
      = kw_test_write_file (fixture->directory, KW_STATE_FILE_KEYS, "bad", 0600);
  g_autoptr (GPtrArray) keys = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_unref);

  g_ptr_array_add (keys, kw_fake_key_new ("one", "material"));
  for (guint i = 0; i < 2; i++)
    {
      g_autoptr (GError) error = NULL;
      GPtrArray *different = NULL;

      g_assert_null (kw_keyring_admit (fixture->keyring, keys, &different, &error));
      g_assert_error (error, KW_ERROR, KW_ERROR_FAILED);
      g_assert_null (different);
    }
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
  add ("/keyring/first-seen-is-recorded", test_first_seen_is_recorded);
  add ("/keyring/different-is-refused", test_different_is_refused);
  add ("/keyring/recorded-by-another-process", test_recorded_by_another_process);
  add ("/keyring/uuid-and-hex-names", test_uuid_and_hex_names);
  add ("/keyring/no-fingerprint-is-left-out", test_no_fingerprint_is_left_out);
  add ("/keyring/forget", test_forget);
  add ("/keyring/damaged-record", test_damaged_record);
  add ("/keyring/record-cannot-be-written", test_record_cannot_be_written);
  return g_test_run ();
}
