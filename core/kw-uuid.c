/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-uuid"

#include "config.h"

#include "kw-uuid.h"

#include "kw-error.h"

#include <openssl/rand.h>
#include <string.h>

/* 100-nanosecond steps from 1582-10-15, where RFC 4122 (4.1.4) starts counting, to 1970-01-01. */
#define UUID_EPOCH_OFFSET G_GUINT64_CONSTANT (0x01B21DD213814000)

/**
 * kw_uuid_new_v1:
 * @error: where to store the error
 *
 * Makes a version-1 UUID (RFC 4122, 4.2) from the time, with a random clock sequence and a random node whose multicast
 * bit is set (4.5), so that it tells nothing about the machine and two made in the same instant differ. Any thread.
 *
 * Returns: (transfer full): its 16 bytes; %NULL with %KW_ERROR_FAILED when there are no random numbers
 */
GBytes *
kw_uuid_new_v1 (GError **error)
{
  guint8 uuid[KW_UUID_BYTES];
  guint64 ticks = (guint64) g_get_real_time () * 10 + UUID_EPOCH_OFFSET;
  guint32 time_low = GUINT32_TO_BE ((guint32) ticks);
  guint16 time_mid = GUINT16_TO_BE ((guint16) (ticks >> 32));
  guint16 time_high = GUINT16_TO_BE ((guint16) (((ticks >> 48) & 0x0FFF) | 0x1000));

  if (RAND_bytes (uuid + 8, 8) != 1)
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_FAILED, "The random number generator failed");
      return NULL;
    }
  memcpy (uuid, &time_low, 4);
  memcpy (uuid + 4, &time_mid, 2);
  memcpy (uuid + 6, &time_high, 2);
  uuid[8] = (guint8) ((uuid[8] & 0x3F) | 0x80);
  uuid[10] |= 0x01;
  return g_bytes_new (uuid, sizeof uuid);
}

/**
 * kw_uuid_to_bytes:
 * @text: a UUID as text, in either case
 * @length: its length in bytes, −1 when it ends with a NUL
 * @error: where to store the error
 *
 * Reads a UUID of the form 8-4-4-4-12. Any thread.
 *
 * Returns: (transfer full): its 16 bytes; %NULL with %KW_ERROR_INVALID_ARGUMENT
 */
GBytes *
kw_uuid_to_bytes (const char *text, gssize length, GError **error)
{
  guint8 uuid[KW_UUID_BYTES];
  gsize n_text = 0;
  gsize n = 0;
  gboolean valid = FALSE;

  g_return_val_if_fail (text != NULL, NULL);

  n_text = length < 0 ? strlen (text) : (gsize) length;
  valid = n_text == KW_UUID_STRING_LENGTH;
  for (gsize i = 0; valid && i < n_text;)
    {
      if (i == 8 || i == 13 || i == 18 || i == 23)
        {
          valid = text[i] == '-';
          i++;
        }
      else
        {
          int high = g_ascii_xdigit_value (text[i]);
          int low = g_ascii_xdigit_value (text[i + 1]);

          valid = high >= 0 && low >= 0;
          if (valid)
            uuid[n++] = (guint8) (high << 4 | low);
          i += 2;
        }
    }
  if (!valid)
    {
      g_set_error_literal (
          error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
          "Not a key id: a UUID such as 6ba7b810-9dad-11d1-80b4-00c04fd430c8 is wanted");
      return NULL;
    }
  return g_bytes_new (uuid, sizeof uuid);
}

/**
 * kw_uuid_from_bytes:
 * @bytes: a CKA_ID
 *
 * Writes 16 bytes as a lower-case UUID. Any thread.
 *
 * Returns: (transfer full) (nullable): the text, %NULL when @bytes is not 16 bytes long
 */
char *
kw_uuid_from_bytes (GBytes *bytes)
{
  gsize size = 0;
  const guint8 *b = NULL;

  g_return_val_if_fail (bytes != NULL, NULL);

  b = g_bytes_get_data (bytes, &size);
  if (size != KW_UUID_BYTES)
    return NULL;
  return g_strdup_printf ("%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
                          b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11],
                          b[12], b[13], b[14], b[15]);
}
