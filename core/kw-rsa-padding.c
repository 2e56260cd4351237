/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-rsa-padding"

#include "config.h"

#include "kw-rsa-padding.h"

#include "kw-error.h"
#include "kw-limits.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

/*
 * Takes the padding off the block that a raw RSA operation gave. Whether and where the padding is wrong must not show in
 * time, in memory accesses or in the error: branches and indices depend on sizes alone, until the very last step, which
 * tells success from failure and nothing else.
 *
 * Masks are 0 (no) or all ones (yes).
 */

typedef gsize Mask;

#define PKCS1_MIN_PADDING 8

G_DEFINE_AUTOPTR_CLEANUP_FUNC (EVP_MD_CTX, EVP_MD_CTX_free)

/* Hides a value from the optimiser, which could otherwise turn masks back into branches. */
static inline Mask
opaque (Mask value)
{
  __asm__("" : "+r"(value));
  return value;
}

static inline Mask
mask_top_bit (gsize value)
{
  return opaque (0 - (value >> (sizeof value * 8 - 1)));
}

static inline Mask
mask_is_zero (gsize value)
{
  return mask_top_bit (~value & (value - 1));
}

static inline Mask
mask_equal (gsize a, gsize b)
{
  return mask_is_zero (a ^ b);
}

static inline Mask
mask_less (gsize a, gsize b)
{
  return mask_top_bit (a ^ ((a ^ b) | ((a - b) ^ b)));
}

static inline gsize
choose (Mask mask, gsize yes, gsize no)
{
  return (mask & yes) | (~mask & no);
}

/*
 * Moves the last n_message bytes of block[first…size) to the start of a secret, touching the same memory whatever
 * n_message is: the area is shifted left by each power of two that the distance holds.
 */
static KwSecret *
extract_tail (const guint8 *block,
              gsize size,
              gsize first,
              gsize n_message,
              Mask good,
              GError **error)
{
  gsize n_area = size - first;
  gsize distance = choose (good, n_area - n_message, 0);
  g_autoptr (KwSecret) message = kw_secret_new_copy (block + first, n_area, error);
  guint8 *data = NULL;

  if (message == NULL)
    return NULL;
  data = kw_secret_get_data (message);
  for (gsize step = 1; step < n_area; step <<= 1)
    {
      guint8 move = (guint8) ~mask_is_zero (distance & step);

      for (gsize i = 0; i + step < n_area; i++)
        data[i] = (guint8) ((move & data[i + step]) | (~move & data[i]));
    }
  if (good == 0)
    {
      kw_token_set_decrypt_failed (error);
      return NULL;
    }
  kw_secret_truncate (message, n_message);
  return g_steal_pointer (&message);
}

/* EM = 00 ‖ 02 ‖ PS (at least 8 bytes, none zero) ‖ 00 ‖ M: RFC 8017, 7.2.2. */
static KwSecret *
unpad_pkcs1 (const guint8 *block, gsize size, GError **error)
{
  gsize first = 2 + PKCS1_MIN_PADDING + 1;
  Mask found = 0;
  gsize separator = 0;
  Mask good = 0;

  if (size < first)
    {
      kw_token_set_decrypt_failed (error);
      return NULL;
    }
  good = mask_equal (block[0], 0) & mask_equal (block[1], 2);
  for (gsize i = 2; i < size; i++)
    {
      Mask zero = mask_equal (block[i], 0);

      separator = choose (zero & ~found, i, separator);
      found |= zero;
    }
  good &= found & ~mask_less (separator, 2 + PKCS1_MIN_PADDING);
  return extract_tail (block, size, first, choose (good, size - 1 - separator, 0), good, error);
}

/* XORs MGF1 (RFC 8017, B.2.1) of the seed onto the data. */
static gboolean
mgf1_xor (const EVP_MD *digest, const guint8 *seed, gsize n_seed, guint8 *data, gsize size)
{
  g_autoptr (EVP_MD_CTX) context = EVP_MD_CTX_new ();
  gsize n_digest = (gsize) EVP_MD_get_size (digest);
  guint8 output[EVP_MAX_MD_SIZE];
  gboolean ok = context != NULL;
  gsize done = 0;

  for (guint32 counter = 0; ok && done < size; counter++)
    {
      guint32 counter_be = GUINT32_TO_BE (counter);

      ok = EVP_DigestInit_ex (context, digest, NULL) == 1
           && EVP_DigestUpdate (context, seed, n_seed) == 1
           && EVP_DigestUpdate (context, &counter_be, sizeof counter_be) == 1
           && EVP_DigestFinal_ex (context, output, NULL) == 1;
      for (gsize i = 0; ok && i < n_digest && done < size; i++)
        data[done++] ^= output[i];
    }
  OPENSSL_cleanse (output, sizeof output);
  return ok;
}

/* EM = 00 ‖ maskedSeed ‖ maskedDB, DB = lHash ‖ 00… ‖ 01 ‖ M: RFC 8017, 7.1.2; the label is empty. */
static KwSecret *
unpad_oaep (const EVP_MD *digest, const guint8 *block, gsize size, GError **error)
{
  gsize n_digest = (gsize) EVP_MD_get_size (digest);
  guint8 label_hash[EVP_MAX_MD_SIZE];
  g_autoptr (KwSecret) copy = NULL;
  guint8 *seed = NULL;
  guint8 *db = NULL;
  gsize n_db = 0;
  gsize separator = 0;
  Mask found = 0;
  Mask good = 0;

  if (size < 2 * n_digest + 2)
    {
      kw_token_set_decrypt_failed (error);
      return NULL;
    }
  copy = kw_secret_new_copy (block, size, error);
  if (copy == NULL)
    return NULL;
  seed = kw_secret_get_data (copy) + 1;
  db = seed + n_digest;
  n_db = size - 1 - n_digest;
  if (!mgf1_xor (digest, db, n_db, seed, n_digest) || !mgf1_xor (digest, seed, n_digest, db, n_db)
      || EVP_Digest ("", 0, label_hash, NULL, digest, NULL) != 1)
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_FAILED,
                           "The digest that OAEP needs is not available");
      return NULL;
    }
  good = mask_equal (block[0], 0);
  good &= mask_is_zero ((gsize) (guint) CRYPTO_memcmp (db, label_hash, n_digest));
  for (gsize i = n_digest; i < n_db; i++)
    {
      Mask zero = mask_equal (db[i], 0);
      Mask one = mask_equal (db[i], 1);

      separator = choose (one & ~found, i, separator);
      good &= zero | one | found;
      found |= one;
    }
  good &= found;
  return extract_tail (db, n_db, n_digest + 1, choose (good, n_db - 1 - separator, 0), good, error);
}

/**
 * kw_rsa_unpad:
 * @padding: how the plaintext was padded
 * @block: what the raw RSA operation gave, as long as the modulus
 * @size: its size in bytes
 * @error: where to store the error
 *
 * Takes the padding off, in constant time. Any thread.
 *
 * Returns: (transfer full): the message, perhaps empty; %NULL with %KW_ERROR_DECRYPT_FAILED, whatever was wrong
 */
KwSecret *
kw_rsa_unpad (KwRsaPadding padding, const guint8 *block, gsize size, GError **error)
{
  g_return_val_if_fail (block != NULL, NULL);
  g_return_val_if_fail (size <= KW_MAX_RSA_BYTES, NULL);

  switch (padding)
    {
    case KW_RSA_PADDING_PKCS1:
      return unpad_pkcs1 (block, size, error);
    case KW_RSA_PADDING_OAEP_SHA1:
      return unpad_oaep (EVP_sha1 (), block, size, error);
    case KW_RSA_PADDING_OAEP_SHA256:
      return unpad_oaep (EVP_sha256 (), block, size, error);
    default:
      g_return_val_if_reached (NULL);
    }
}
