/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-fingerprint"

#include "config.h"

#include "kw-fingerprint.h"

#include "kw-error.h"

#include <string.h>

/*
 * A fingerprint of an AES key, which has no public half: what the key makes of one fixed block, hashed. It takes one
 * operation with the key, is the same on each token that has a copy, and says nothing about the key.
 */

#define CHECK_TEXT "keyward-check-01" /* one block */
#define HASH_PREFIX "keyward aes check 1"
#define BLOCK_BYTES 16

G_STATIC_ASSERT (sizeof CHECK_TEXT - 1 == BLOCK_BYTES);

/**
 * kw_fingerprint_from_check:
 * @block: what AES-CBC under the key, with an IV of zeros, makes of the check text
 * @size: its size, 16
 *
 * Returns: (transfer full): the fingerprint: the first 16 bytes of SHA-256 over a fixed prefix and @block, in hex. Any
 *   thread.
 */
char *
kw_fingerprint_from_check (const guint8 *block, gsize size)
{
  g_autoptr (GChecksum) checksum = g_checksum_new (G_CHECKSUM_SHA256);

  g_return_val_if_fail (block != NULL && size == BLOCK_BYTES, NULL);

  g_checksum_update (checksum, (const guchar *) HASH_PREFIX, (gssize) strlen (HASH_PREFIX));
  g_checksum_update (checksum, block, (gssize) size);
  return g_strndup (g_checksum_get_string (checksum), (gsize) 2 * KW_FINGERPRINT_AES_BYTES);
}

/**
 * kw_fingerprint_of_aes:
 * @token: a token
 * @id: CKA_ID of an AES key that may encrypt
 * @error: where to store the error
 *
 * Finds out the fingerprint of a key, with one operation of the token. Blocks; worker threads only.
 *
 * Returns: (transfer full): the fingerprint in hex; %NULL with the token's error
 */
char *
kw_fingerprint_of_aes (KwToken *token, GBytes *id, GError **error)
{
  static const guint8 iv[BLOCK_BYTES] = { 0 };
  g_autoptr (KwSecret) block
      = kw_token_aes_cbc (token, id, TRUE, iv, CHECK_TEXT, BLOCK_BYTES, error);

  if (block == NULL)
    return NULL;
  if (kw_secret_get_size (block) != BLOCK_BYTES)
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_DEVICE_FAILED,
                           "The token answered with a block of the wrong size");
      return NULL;
    }
  return kw_fingerprint_from_check (kw_secret_get_data (block), BLOCK_BYTES);
}

/**
 * kw_fingerprint_get_prefix:
 * @fingerprint: a fingerprint in hex
 * @out_prefix: (out): its first KW_FINGERPRINT_PREFIX_BYTES bytes, as an envelope carries them
 *
 * Returns: %FALSE when @fingerprint is no fingerprint. Any thread.
 */
gboolean
kw_fingerprint_get_prefix (const char *fingerprint, guint8 *out_prefix)
{
  guint8 prefix[KW_FINGERPRINT_PREFIX_BYTES];

  g_return_val_if_fail (fingerprint != NULL && out_prefix != NULL, FALSE);

  if (strlen (fingerprint) < 2 * sizeof prefix)
    return FALSE;
  for (gsize i = 0; i < sizeof prefix; i++)
    {
      gint high = g_ascii_xdigit_value (fingerprint[2 * i]);
      gint low = g_ascii_xdigit_value (fingerprint[2 * i + 1]);

      if (high < 0 || low < 0)
        return FALSE;
      prefix[i] = (guint8) (high * 16 + low);
    }
  memcpy (out_prefix, prefix, sizeof prefix);
  return TRUE;
}
