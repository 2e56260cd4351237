/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-secret"

#include "config.h"

#include "kw-core-fixture.h"
#include "kw-error.h"
#include "kw-secret.h"

#include <string.h>

#define SMALL 1024
#define LARGE 5000

static void
assert_zero (const guint8 *data, gsize size)
{
  for (gsize i = 0; i < size; i++)
    g_assert_cmpuint (data[i], ==, 0);
}

/* AddressSanitizer makes mlock() do nothing, so there is nothing to see then. */
#if defined(__SANITIZE_ADDRESS__)
#define WITH_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ADDRESS_SANITIZER 1
#endif
#endif

#ifndef WITH_ADDRESS_SANITIZER
static guint64
locked_kib (void)
{
  g_autofree char *status = NULL;
  const char *line = NULL;

  g_assert_true (g_file_get_contents ("/proc/self/status", &status, NULL, NULL));
  line = strstr (status, "VmLck:");
  g_assert_nonnull (line);
  return g_ascii_strtoull (line + strlen ("VmLck:"), NULL, 10);
}
#endif

static void
test_is_zero_and_reused_zero (void)
{
  for (guint i = 0; i < 300; i++)
    {
      g_autoptr (KwSecret) secret = kw_secret_new (SMALL, NULL);

      g_assert_cmpuint (kw_secret_get_size (secret), ==, SMALL);
      assert_zero (kw_secret_get_data (secret), SMALL);
      memset (kw_secret_get_data (secret), 0xA5, SMALL);
    }
}

/* The slot stays mapped after the last reference, so what is left in it can be looked at. */
static void
test_last_reference_wipes (void)
{
  KwSecret *secret = kw_secret_new (SMALL, NULL);
  guint8 *data = kw_secret_get_data (secret);

  memset (data, 0xA5, SMALL);
  g_assert_true (kw_secret_ref (secret) == secret);
  kw_secret_unref (secret);
  g_assert_cmpuint (data[SMALL - 1], ==, 0xA5);
  kw_secret_truncate (secret, 1);
  data[SMALL - 1] = 0x5A; /* beyond the size, inside what is reserved */
  kw_secret_unref (secret);
  assert_zero (data, SMALL);
}

static void
test_large (void)
{
  g_autoptr (KwSecret) secret = kw_secret_new (LARGE, NULL);

  g_assert_cmpuint (kw_secret_get_size (secret), ==, LARGE);
  assert_zero (kw_secret_get_data (secret), LARGE);
  memset (kw_secret_get_data (secret), 0xA5, LARGE);
}

static void
test_more_than_slots (void)
{
  g_autoptr (GPtrArray) secrets = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_secret_unref);

  for (guint i = 0; i < 200; i++)
    {
      KwSecret *secret = kw_secret_new (SMALL, NULL);

      assert_zero (kw_secret_get_data (secret), SMALL);
      memset (kw_secret_get_data (secret), (int) i, SMALL);
      g_ptr_array_add (secrets, secret);
    }
  for (guint i = 0; i < secrets->len; i++)
    {
      guint8 *data = kw_secret_get_data (g_ptr_array_index (secrets, i));

      g_assert_cmpuint (data[0], ==, (guint8) i);
      g_assert_cmpuint (data[SMALL - 1], ==, (guint8) i);
    }
}

#ifndef WITH_ADDRESS_SANITIZER
static void
test_memory_is_locked (void)
{
  g_autoptr (KwSecret) small G_GNUC_UNUSED = kw_secret_new (1, NULL);
  guint64 before = locked_kib ();
  g_autoptr (KwSecret) large G_GNUC_UNUSED = kw_secret_new (LARGE, NULL);

  g_assert_cmpuint (before, >=, 128);
  g_assert_cmpuint (locked_kib (), >=, before + 8);
}

#endif

static void
test_empty (void)
{
  g_autoptr (KwSecret) secret = kw_secret_new (0, NULL);
  g_autoptr (KwSecret) copy = kw_secret_new_copy (NULL, 0, NULL);

  g_assert_nonnull (kw_secret_get_data (secret));
  g_assert_cmpuint (kw_secret_get_size (secret), ==, 0);
  g_assert_true (kw_secret_equal (copy, "", 0));
  g_assert_false (kw_secret_equal (copy, "x", 1));
}

static void
test_truncate_wipes_the_rest (void)
{
  g_autoptr (KwSecret) secret = kw_secret_new_copy ("0123456789", 10, NULL);

  kw_secret_truncate (secret, 4);
  g_assert_cmpuint (kw_secret_get_size (secret), ==, 4);
  g_assert_true (kw_secret_equal (secret, "0123", 4));
  assert_zero (kw_secret_get_data (secret) + 4, 6);
}

static void
test_equal (void)
{
  g_autoptr (KwSecret) secret = kw_secret_new_copy ("648219", 6, NULL);

  g_assert_true (kw_secret_equal (secret, "648219", 6));
  g_assert_false (kw_secret_equal (secret, "648218", 6));
  g_assert_false (kw_secret_equal (secret, "748219", 6));
  g_assert_false (kw_secret_equal (secret, "64821", 5));
  g_assert_false (kw_secret_equal (secret, "648219\0", 7));
}

static void
test_take_string (void)
{
  g_autoptr (KwSecret) secret = kw_secret_new_take_string (g_strdup ("648219"), NULL);
  g_autoptr (KwSecret) empty = kw_secret_new_take_string (g_strdup (""), NULL);

  g_assert_true (kw_secret_equal (secret, "648219", 6));
  g_assert_cmpuint (kw_secret_get_size (empty), ==, 0);
}

static void
test_random (void)
{
  g_autoptr (KwSecret) one = kw_secret_new_random (32, NULL);
  g_autoptr (KwSecret) other = kw_secret_new_random (32, NULL);

  g_assert_cmpuint (kw_secret_get_size (one), ==, 32);
  g_assert_false (kw_secret_equal (one, kw_secret_get_data (other), 32));
}

static void
test_from_file (void)
{
  static const struct
  {
    const char *text;
    const char *wanted; /* NULL = too long */
  } rows[] = {
    { "", "" },
    { "\n", "" },
    { "\r\n", "" },
    { "1234567", "1234567" },
    { "12345678", "12345678" },
    { "12345678\n", "12345678" },
    { "12345678\r\n", "12345678" },
    { "1234\n\n", "1234\n" },
    { " 12 \n", " 12 " },
    { "123456789", NULL },
    { "123456789\n", NULL },
    { "123456789\r\n", NULL },
    { "12345678\n\n", NULL },
    { "12345678\n9", NULL },
    { "12345678\r\n9", NULL },
    { "12345678\r\n\r\n", NULL },
    { "1234567890123456789", NULL },
  };
  char *directory = kw_test_make_directory ();

  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *path = kw_test_write_file (directory, "secret", rows[i].text, 0600);
      g_autofree char *message = g_strdup_printf ("%s is longer than 8 bytes", path);
      g_autoptr (KwSecret) secret = kw_secret_new_from_file (path, 8, &error);

      g_test_message ("row %u", i);
      if (rows[i].wanted == NULL)
        {
          g_assert_null (secret);
          kw_assert_error (error, KW_ERROR_FAILED, message);
          continue;
        }
      g_assert_no_error (error);
      g_assert_true (kw_secret_equal (secret, rows[i].wanted, strlen (rows[i].wanted)));
    }
  kw_test_remove_directory (directory);
}

static void
test_from_no_file (void)
{
  g_autoptr (GError) error = NULL;
  char *directory = kw_test_make_directory ();
  g_autofree char *missing = g_build_filename (directory, "none", NULL);
  g_autofree char *no_file = g_strdup_printf ("Cannot open %s: No such file or directory", missing);
  g_autofree char *is_directory = g_strdup_printf ("Cannot read %s: Is a directory", directory);

  g_assert_null (kw_secret_new_from_file (missing, 8, &error));
  kw_assert_error (error, KW_ERROR_FAILED, no_file);
  g_assert_null (kw_secret_new_from_file (directory, 8, &error));
  kw_assert_error (error, KW_ERROR_FAILED, is_directory);
  kw_test_remove_directory (directory);
}

/* Too large to be locked, all else as ever, also when its pages were in use before. */
static void
test_unlocked (void)
{
  static const gsize sizes[] = { 0, 1, 4096, 70000, 1 << 20, 3 << 20 };

  for (guint round = 0; round < 3; round++)
    {
      for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
        {
          g_autoptr (KwSecret) first = kw_secret_new_unlocked (sizes[i], NULL);
          g_autoptr (KwSecret) second = kw_secret_new_unlocked (sizes[i], NULL);

          g_assert_cmpuint (kw_secret_get_size (first), ==, sizes[i]);
          assert_zero (kw_secret_get_data (first), sizes[i]);
          assert_zero (kw_secret_get_data (second), sizes[i]);
          g_assert_true (kw_secret_get_data (first) != kw_secret_get_data (second));
          memset (kw_secret_get_data (first), 0xA5, sizes[i]);
          memset (kw_secret_get_data (second), 0x5A, sizes[i]);
        }
    }
}

static void
test_many_unlocked (void)
{
  KwSecret *secrets[40];

  for (guint round = 0; round < 3; round++)
    {
      for (guint i = 0; i < G_N_ELEMENTS (secrets); i++)
        {
          secrets[i] = kw_secret_new_unlocked (100000 + i * 10000, NULL);
          assert_zero (kw_secret_get_data (secrets[i]), 100000 + i * 10000);
          memset (kw_secret_get_data (secrets[i]), 0xA5, 100000 + i * 10000);
        }
      for (guint i = 0; i < G_N_ELEMENTS (secrets); i++)
        kw_secret_unref (secrets[i]);
    }
}

static gpointer
churn_unlocked (gpointer data G_GNUC_UNUSED)
{
  for (guint i = 0; i < 1000; i++)
    {
      g_autoptr (KwSecret) secret = kw_secret_new_unlocked (70000, NULL);

      assert_zero (kw_secret_get_data (secret), 100);
      memset (kw_secret_get_data (secret), 0xA5, 70000);
    }
  return NULL;
}

static void
test_threads_share_pages (void)
{
  GThread *threads[4];

  for (guint i = 0; i < G_N_ELEMENTS (threads); i++)
    threads[i] = g_thread_new ("churn", churn_unlocked, NULL);
  for (guint i = 0; i < G_N_ELEMENTS (threads); i++)
    g_thread_join (threads[i]);
}

static gpointer
churn (gpointer data G_GNUC_UNUSED)
{
  for (guint i = 0; i < 5000; i++)
    {
      g_autoptr (KwSecret) secret = kw_secret_new (64, NULL);
      guint8 *bytes = kw_secret_get_data (secret);

      assert_zero (bytes, 64);
      memset (bytes, 0xA5, 64);
    }
  return NULL;
}

static void
test_threads_share_slots (void)
{
  GThread *threads[4];

  for (guint i = 0; i < G_N_ELEMENTS (threads); i++)
    threads[i] = g_thread_new ("churn", churn, NULL);
  for (guint i = 0; i < G_N_ELEMENTS (threads); i++)
    g_thread_join (threads[i]);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/secret/is-zero-and-reused-zero", test_is_zero_and_reused_zero);
  g_test_add_func ("/secret/last-reference-wipes", test_last_reference_wipes);
  g_test_add_func ("/secret/large", test_large);
  g_test_add_func ("/secret/unlocked", test_unlocked);
  g_test_add_func ("/secret/many-unlocked", test_many_unlocked);
  g_test_add_func ("/secret/threads-share-pages", test_threads_share_pages);
  g_test_add_func ("/secret/more-than-slots", test_more_than_slots);
#ifndef WITH_ADDRESS_SANITIZER
  g_test_add_func ("/secret/memory-is-locked", test_memory_is_locked);
#endif
  g_test_add_func ("/secret/empty", test_empty);
  g_test_add_func ("/secret/truncate-wipes-the-rest", test_truncate_wipes_the_rest);
  g_test_add_func ("/secret/equal", test_equal);
  g_test_add_func ("/secret/take-string", test_take_string);
  g_test_add_func ("/secret/random", test_random);
  g_test_add_func ("/secret/from-file", test_from_file);
  g_test_add_func ("/secret/from-no-file", test_from_no_file);
  g_test_add_func ("/secret/threads-share-slots", test_threads_share_slots);
  return g_test_run ();
}
