/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-uuid"

#include "config.h"

#include "kw-core-fixture.h"
#include "kw-error.h"
#include "kw-uuid.h"

#include <string.h>

#define EXAMPLE "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
#define EXAMPLE_BYTES "\x6b\xa7\xb8\x10\x9d\xad\x11\xd1\x80\xb4\x00\xc0\x4f\xd4\x30\xc8"

static void
test_round_trip (void)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GBytes) bytes = kw_uuid_to_bytes (EXAMPLE, -1, &error);
  g_autoptr (GBytes) upper = kw_uuid_to_bytes ("6BA7B810-9DAD-11D1-80B4-00C04FD430C8", -1, &error);
  g_autoptr (GBytes) part = kw_uuid_to_bytes (EXAMPLE "/more", KW_UUID_STRING_LENGTH, &error);
  g_autofree char *text = NULL;

  g_assert_no_error (error);
  g_assert_cmpmem (g_bytes_get_data (bytes, NULL), g_bytes_get_size (bytes), EXAMPLE_BYTES,
                   KW_UUID_BYTES);
  g_assert_true (g_bytes_equal (bytes, upper));
  g_assert_true (g_bytes_equal (bytes, part));
  text = kw_uuid_from_bytes (bytes);
  g_assert_cmpstr (text, ==, EXAMPLE);
}

static void
test_malformed (void)
{
  for (gsize length = 0; length < KW_UUID_STRING_LENGTH; length++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *cut = g_strndup (EXAMPLE, length);

      g_assert_null (kw_uuid_to_bytes (cut, -1, &error));
      kw_assert_error (error, KW_ERROR_INVALID_ARGUMENT,
                       "Not a key id: a UUID such as " EXAMPLE " is wanted");
      g_assert_null (kw_uuid_to_bytes (EXAMPLE, (gssize) length, NULL));
    }
  for (gsize i = 0; i < KW_UUID_STRING_LENGTH; i++)
    {
      g_autofree char *text = g_strdup (EXAMPLE);

      for (const char *wrong = "g-\xff _0"; *wrong != '\0'; wrong++)
        {
          if ((EXAMPLE[i] == '-') == (*wrong == '-') && (EXAMPLE[i] == '-' || *wrong == '0'))
            continue;
          text[i] = *wrong;
          g_assert_null (kw_uuid_to_bytes (text, -1, NULL));
        }
    }
  g_assert_null (kw_uuid_to_bytes (EXAMPLE "0", -1, NULL));
  g_assert_null (kw_uuid_to_bytes ("{" EXAMPLE "}", -1, NULL));
  g_assert_null (kw_uuid_to_bytes ("6ba7b810-9dad-11d1-80b4-00c04fd430c8\0", 37, NULL));
}

static void
test_other_sizes_are_no_uuid (void)
{
  for (gsize size = 0; size <= 20; size++)
    {
      g_autoptr (GBytes) bytes = g_bytes_new (EXAMPLE_BYTES EXAMPLE_BYTES, size);
      g_autofree char *text = kw_uuid_from_bytes (bytes);

      g_assert_cmpint (text != NULL, ==, size == KW_UUID_BYTES);
    }
}

static void
test_new_is_version_1 (void)
{
  g_autoptr (GHashTable) seen
      = g_hash_table_new_full (g_bytes_hash, g_bytes_equal, (GDestroyNotify) g_bytes_unref, NULL);

  for (guint i = 0; i < 1000; i++)
    {
      GBytes *bytes = kw_uuid_new_v1 (NULL);
      const guint8 *uuid = g_bytes_get_data (bytes, NULL);

      g_assert_cmpuint (g_bytes_get_size (bytes), ==, KW_UUID_BYTES);
      g_assert_cmpuint (uuid[6] >> 4, ==, 1);
      g_assert_cmpuint (uuid[8] >> 6, ==, 2);
      g_assert_cmpuint (uuid[10] & 1, ==, 1);
      g_assert_true (g_hash_table_add (seen, bytes));
    }
}

static void
test_new_holds_the_time (void)
{
  g_autoptr (GBytes) bytes = kw_uuid_new_v1 (NULL);
  const guint8 *uuid = g_bytes_get_data (bytes, NULL);
  guint64 ticks = 0;
  gint64 seconds = 0;

  for (gsize i = 0; i < 2; i++)
    ticks = ticks << 8 | (i == 0 ? (guint8) (uuid[6] & 0x0F) : uuid[7]);
  ticks = ticks << 16 | (guint64) uuid[4] << 8 | uuid[5];
  for (gsize i = 0; i < 4; i++)
    ticks = ticks << 8 | uuid[i];
  seconds = (gint64) (ticks / 10000000) - G_GINT64_CONSTANT (12219292800);
  g_assert_cmpint (ABS (seconds - g_get_real_time () / G_USEC_PER_SEC), <=, 60);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/uuid/round-trip", test_round_trip);
  g_test_add_func ("/uuid/malformed", test_malformed);
  g_test_add_func ("/uuid/other-sizes-are-no-uuid", test_other_sizes_are_no_uuid);
  g_test_add_func ("/uuid/new-is-version-1", test_new_is_version_1);
  g_test_add_func ("/uuid/new-holds-the-time", test_new_holds_the_time);
  return g_test_run ();
}
