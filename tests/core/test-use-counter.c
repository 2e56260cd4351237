/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-use-counter"

#include "config.h"

#include "kw-core-fixture.h"
#include "kw-error.h"
#include "kw-limits.h"
#include "kw-names.h"
#include "kw-use-counter.h"

#include <glib/gstdio.h>
#include <string.h>
#include <time.h>

#define KEY "aes-50c660c0f99ebec29d17aad1654f6d5e"
#define START (G_GINT64_CONSTANT (1795219200) * G_USEC_PER_SEC) /* 2026-11-21 00:00:00 UTC */

/* The wall clock of this program, which a test can set. */
static gint64
set_clock (gint64 usec)
{
  static gint64 now = START; /* lint: allow file-scope */

  if (usec != 0)
    now = usec;
  return now;
}

gint64
g_get_real_time (void)
{
  return set_clock (0);
}

typedef struct
{
  char *directory;
  KwUseCounter *counter;
} Fixture;

static void
set_up (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  set_clock (START);
  fixture->directory = kw_test_make_directory ();
  fixture->counter = kw_use_counter_new (fixture->directory);
}

static void
tear_down (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  kw_use_counter_stop (fixture->counter);
  g_object_unref (fixture->counter);
  kw_test_remove_directory (fixture->directory);
}

static void
assert_report (KwUseCounter *counter,
               const char *first,
               const char *last,
               guint64 encrypted,
               guint64 decrypted,
               guint64 n_signed)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (KwUseReport) report = kw_use_counter_report (counter, KEY, &error);

  g_assert_no_error (error);
  g_assert_cmpstr (report->first_day, ==, first);
  g_assert_cmpstr (report->last_day, ==, last);
  g_assert_cmpuint (report->total[KW_USE_ENCRYPT], ==, encrypted);
  g_assert_cmpuint (report->total[KW_USE_DECRYPT], ==, decrypted);
  g_assert_cmpuint (report->total[KW_USE_SIGN], ==, n_signed);
}

static void
test_never_used (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  assert_report (fixture->counter, NULL, NULL, 0, 0, 0);
}

static void
test_counts_before_and_after_writing (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GError) error = NULL;

  kw_use_counter_count (fixture->counter, KEY, KW_USE_ENCRYPT);
  kw_use_counter_count (fixture->counter, KEY, KW_USE_ENCRYPT);
  kw_use_counter_count (fixture->counter, KEY, KW_USE_DECRYPT);
  assert_report (fixture->counter, "2026-11-21", "2026-11-21", 2, 1, 0);
  g_assert_true (kw_use_counter_flush (fixture->counter, &error));
  assert_report (fixture->counter, "2026-11-21", "2026-11-21", 2, 1, 0);
  set_clock (START + 2 * G_TIME_SPAN_DAY);
  kw_use_counter_count (fixture->counter, KEY, KW_USE_SIGN);
  assert_report (fixture->counter, "2026-11-21", "2026-11-23", 2, 1, 1);
  g_assert_true (kw_use_counter_flush (fixture->counter, &error));
  assert_report (fixture->counter, "2026-11-21", "2026-11-23", 2, 1, 1);
}

static void
test_days_are_utc (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  set_clock (START - 1);
  kw_use_counter_count (fixture->counter, KEY, KW_USE_ENCRYPT);
  set_clock (START);
  kw_use_counter_count (fixture->counter, KEY, KW_USE_ENCRYPT);
  assert_report (fixture->counter, "2026-11-20", "2026-11-21", 2, 0, 0);
}

static void
test_over_a_restart (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  for (guint i = 1; i <= 3; i++)
    {
      KwUseCounter *counter = kw_use_counter_new (fixture->directory);

      kw_use_counter_count (counter, KEY, KW_USE_DECRYPT);
      kw_use_counter_stop (counter);
      g_object_unref (counter);
      assert_report (fixture->counter, "2026-11-21", "2026-11-21", 0, i, 0);
    }
}

static void
test_old_days_are_summed_up (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwUseReport) report = NULL;

  for (guint i = 0; i < KW_MAX_USE_DAYS + 10; i++)
    {
      set_clock (START + i * G_TIME_SPAN_DAY);
      kw_use_counter_count (fixture->counter, KEY, KW_USE_ENCRYPT);
      if (i % 3 == 0)
        g_assert_true (kw_use_counter_flush (fixture->counter, NULL));
    }
  g_assert_true (kw_use_counter_flush (fixture->counter, NULL));
  report = kw_use_counter_report (fixture->counter, KEY, NULL);
  g_assert_cmpuint (report->total[KW_USE_ENCRYPT], ==, KW_MAX_USE_DAYS + 10);
  g_assert_cmpuint (report->days->len, ==, KW_MAX_USE_DAYS + 1);
  g_assert_cmpstr (g_array_index (report->days, KwUseDay, 0).day, ==, "");
  g_assert_cmpuint (g_array_index (report->days, KwUseDay, 0).n[KW_USE_ENCRYPT], ==, 10);
  g_assert_cmpstr (report->first_day, ==, "2026-11-21");
}

static void
test_written_by_itself (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autofree char *path = g_build_filename (fixture->directory, KW_STATE_FILE_USES, NULL);

  kw_use_counter_count (fixture->counter, KEY, KW_USE_ENCRYPT);
  kw_iterate_until (g_file_test (path, G_FILE_TEST_EXISTS));
}

/* Nothing is lost when the disk is full for a while. */
static void
test_not_written (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = kw_test_write_file (fixture->directory, KW_STATE_FILE_USES, "bad", 0600);

  kw_use_counter_count (fixture->counter, KEY, KW_USE_ENCRYPT);
  g_assert_false (kw_use_counter_flush (fixture->counter, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_FAILED);
  g_clear_error (&error);
  g_assert_null (kw_use_counter_report (fixture->counter, KEY, &error));
  g_assert_error (error, KW_ERROR, KW_ERROR_FAILED);
  g_clear_error (&error);
  kw_use_counter_count (fixture->counter, KEY, KW_USE_ENCRYPT);
  g_assert_cmpint (g_unlink (path), ==, 0);
  g_assert_true (kw_use_counter_flush (fixture->counter, &error));
  assert_report (fixture->counter, "2026-11-21", "2026-11-21", 2, 0, 0);
}

/* Both what was taken for writing and what came meanwhile. */
static void
test_nonsense_in_the_file (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_free (kw_test_write_file (fixture->directory, KW_STATE_FILE_USES,
                              "[" KEY "]\nfirst=2026-01-01\n2026-01-01=1 x 3\n2026-01-02=5\n"
                              "2026-13=4 4 4\nolder=\n9999-99-9x=1 1 1\n",
                              0600));
  assert_report (fixture->counter, "2026-01-01", "2026-01-02", 6, 0, 3);
  kw_use_counter_count (fixture->counter, KEY, KW_USE_DECRYPT);
  g_assert_true (kw_use_counter_flush (fixture->counter, NULL));
  assert_report (fixture->counter, "2026-01-01", "2026-11-21", 6, 1, 3);
}

static void
test_number_of_keys_is_bounded (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GKeyFile) contents = g_key_file_new ();
  g_autofree char *text = NULL;
  gsize n_groups = 0;
  g_auto (GStrv) groups = NULL;

  for (guint round = 0; round < 2; round++)
    {
      for (guint i = 0; i < KW_MAX_USE_KEYS + 5; i++)
        {
          g_autofree char *name = g_strdup_printf ("rsa-%u-%u", round, i);

          kw_use_counter_count (fixture->counter, name, KW_USE_DECRYPT);
        }
      g_assert_true (kw_use_counter_flush (fixture->counter, NULL));
    }
  text = kw_test_read_file (fixture->directory, KW_STATE_FILE_USES);
  g_assert_true (g_key_file_load_from_data (contents, text, strlen (text), G_KEY_FILE_NONE, NULL));
  groups = g_key_file_get_groups (contents, &n_groups);
  g_assert_cmpuint (n_groups, ==, KW_MAX_USE_KEYS);
}

static void
test_names (Fixture *fixture G_GNUC_UNUSED, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GBytes) uuid = g_bytes_new_static ("0123456789abcdef", 16);
  g_autoptr (GBytes) odd = g_bytes_new_static ("\x01\xff", 2);
  g_autofree char *aes = kw_use_counter_dup_aes_name ("50c660c0f99ebec29d17aad1654f6d5e");
  g_autofree char *with_uuid = kw_use_counter_dup_rsa_name (uuid);
  g_autofree char *without = kw_use_counter_dup_rsa_name (odd);

  g_assert_cmpstr (aes, ==, KEY);
  g_assert_cmpstr (with_uuid, ==, "rsa-30313233-3435-3637-3839-616263646566");
  g_assert_cmpstr (without, ==, "rsa-01ff");
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
  kw_test_keep_quiet ();
  add ("/use-counter/never-used", test_never_used);
  add ("/use-counter/counts-before-and-after-writing", test_counts_before_and_after_writing);
  add ("/use-counter/days-are-utc", test_days_are_utc);
  add ("/use-counter/over-a-restart", test_over_a_restart);
  add ("/use-counter/old-days-are-summed-up", test_old_days_are_summed_up);
  add ("/use-counter/written-by-itself", test_written_by_itself);
  add ("/use-counter/not-written", test_not_written);
  add ("/use-counter/nonsense-in-the-file", test_nonsense_in_the_file);
  add ("/use-counter/number-of-keys-is-bounded", test_number_of_keys_is_bounded);
  add ("/use-counter/names", test_names);
  return g_test_run ();
}
