/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-rsa-padding"

#include "config.h"

#include "kw-core-fixture.h"
#include "kw-error.h"
#include "kw-limits.h"
#include "kw-rsa-padding.h"

#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <string.h>

#define BLOCK 128 /* RSA-1024 keeps the tables short */
#define THE_ERROR "The data cannot be decrypted with this key"

static const EVP_MD *
digest_of (KwRsaPadding padding)
{
  return padding == KW_RSA_PADDING_OAEP_SHA1 ? EVP_sha1 () : EVP_sha256 ();
}

static gsize
max_message (KwRsaPadding padding, gsize size)
{
  if (padding == KW_RSA_PADDING_PKCS1)
    return size - 11;
  return size - 2 - 2 * (gsize) EVP_MD_get_size (digest_of (padding));
}

static void
assert_refused (KwRsaPadding padding, const guint8 *block, gsize size)
{
  g_autoptr (GError) error = NULL;

  g_assert_null (kw_rsa_unpad (padding, block, size, &error));
  kw_assert_error (error, KW_ERROR_DECRYPT_FAILED, THE_ERROR);
}

static void
assert_message (KwRsaPadding padding,
                const guint8 *block,
                gsize size,
                const guint8 *message,
                gsize n_message)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (KwSecret) plaintext = kw_rsa_unpad (padding, block, size, &error);

  g_assert_no_error (error);
  g_assert_cmpmem (kw_secret_get_data (plaintext), kw_secret_get_size (plaintext), message,
                   n_message);
}

/* EM as RFC 8017 has it, with a message of zeros and ones so that a separator is easily mistaken. */
static void
pad_pkcs1 (guint8 *block, gsize size, gsize n_message)
{
  memset (block, 0xA5, size);
  block[0] = 0;
  block[1] = 2;
  block[size - n_message - 1] = 0;
  for (gsize i = 0; i < n_message; i++)
    block[size - n_message + i] = (guint8) (i % 3);
}

static void
mgf1_xor (const EVP_MD *digest, const guint8 *seed, gsize n_seed, guint8 *data, gsize size)
{
  gsize n_digest = (gsize) EVP_MD_get_size (digest);
  g_autofree guint8 *input = g_malloc (n_seed + 4);
  guint8 output[EVP_MAX_MD_SIZE];

  memcpy (input, seed, n_seed);
  for (gsize i = 0; i < size; i++)
    {
      guint32 counter = GUINT32_TO_BE ((guint32) (i / n_digest));

      memcpy (input + n_seed, &counter, 4);
      if (i % n_digest == 0)
        g_assert_cmpint (EVP_Digest (input, n_seed + 4, output, NULL, digest, NULL), ==, 1);
      data[i] ^= output[i % n_digest];
    }
}

/* DB as RFC 8017 has it; mask_oaep() makes EM of it. */
static void
make_db (KwRsaPadding padding, guint8 *db, gsize n_db, gsize n_message)
{
  gsize n_digest = (gsize) EVP_MD_get_size (digest_of (padding));

  memset (db, 0, n_db);
  g_assert_cmpint (EVP_Digest ("", 0, db, NULL, digest_of (padding), NULL), ==, 1);
  g_assert_cmpuint (n_db, >=, n_digest + 1 + n_message);
  db[n_db - n_message - 1] = 1;
  for (gsize i = 0; i < n_message; i++)
    db[n_db - n_message + i] = (guint8) (i % 3);
}

static void
mask_oaep (KwRsaPadding padding, const guint8 *db, gsize n_db, guint8 *block)
{
  gsize n_digest = (gsize) EVP_MD_get_size (digest_of (padding));
  guint8 *seed = block + 1;

  block[0] = 0;
  memset (seed, 0x3C, n_digest);
  memcpy (seed + n_digest, db, n_db);
  mgf1_xor (digest_of (padding), seed, n_digest, seed + n_digest, n_db);
  mgf1_xor (digest_of (padding), seed + n_digest, n_db, seed, n_digest);
}

static void
test_openssl_round_trip (gconstpointer data)
{
  KwRsaPadding padding = (KwRsaPadding) GPOINTER_TO_UINT (data);
  EVP_PKEY *pair = EVP_RSA_gen (1536);
  gsize size = (gsize) EVP_PKEY_get_size (pair);
  guint8 message[512];

  for (gsize i = 0; i < sizeof message; i++)
    message[i] = (guint8) (i * 7);
  for (gsize n = 0; n <= max_message (padding, size); n++)
    {
      EVP_PKEY_CTX *context = EVP_PKEY_CTX_new (pair, NULL);
      guint8 ciphertext[512];
      guint8 block[512];
      gsize n_output = sizeof ciphertext;

      g_assert_cmpint (EVP_PKEY_encrypt_init (context), ==, 1);
      if (padding == KW_RSA_PADDING_PKCS1)
        g_assert_cmpint (EVP_PKEY_CTX_set_rsa_padding (context, RSA_PKCS1_PADDING), ==, 1);
      else
        {
          g_assert_cmpint (EVP_PKEY_CTX_set_rsa_padding (context, RSA_PKCS1_OAEP_PADDING), ==, 1);
          g_assert_cmpint (EVP_PKEY_CTX_set_rsa_oaep_md (context, digest_of (padding)), ==, 1);
          g_assert_cmpint (EVP_PKEY_CTX_set_rsa_mgf1_md (context, digest_of (padding)), ==, 1);
        }
      g_assert_cmpint (EVP_PKEY_encrypt (context, ciphertext, &n_output, message, n), ==, 1);
      g_assert_cmpint (EVP_PKEY_decrypt_init (context), ==, 1);
      g_assert_cmpint (EVP_PKEY_CTX_set_rsa_padding (context, RSA_NO_PADDING), ==, 1);
      n_output = sizeof block;
      g_assert_cmpint (EVP_PKEY_decrypt (context, block, &n_output, ciphertext, size), ==, 1);
      EVP_PKEY_CTX_free (context);
      assert_message (padding, block, n_output, message, n);
    }
  EVP_PKEY_free (pair);
}

static void
test_each_length (gconstpointer data)
{
  KwRsaPadding padding = (KwRsaPadding) GPOINTER_TO_UINT (data);
  guint8 block[BLOCK + 64] = { 0 };
  guint8 db[BLOCK + 64] = { 0 };
  guint8 message[BLOCK + 64];
  gsize size = sizeof block;

  for (gsize i = 0; i < sizeof message; i++)
    message[i] = (guint8) (i % 3);
  for (gsize n = 0; n <= max_message (padding, size); n++)
    {
      if (padding == KW_RSA_PADDING_PKCS1)
        pad_pkcs1 (block, size, n);
      else
        {
          gsize n_db = size - 1 - (gsize) EVP_MD_get_size (digest_of (padding));

          make_db (padding, db, n_db, n);
          mask_oaep (padding, db, n_db, block);
        }
      assert_message (padding, block, size, message, n);
    }
}

static void
test_pkcs1_first_bytes (void)
{
  guint8 block[BLOCK];

  for (guint first = 0; first <= 0xFF; first++)
    {
      pad_pkcs1 (block, BLOCK, 32);
      block[0] = (guint8) first;
      if (first != 0)
        assert_refused (KW_RSA_PADDING_PKCS1, block, BLOCK);
      pad_pkcs1 (block, BLOCK, 32);
      block[1] = (guint8) first;
      if (first != 2)
        assert_refused (KW_RSA_PADDING_PKCS1, block, BLOCK);
    }
}

/* A zero among the first eight bytes of the padding comes too early; later it is a separator. */
static void
test_pkcs1_zero_at_each_position (void)
{
  guint8 block[BLOCK];

  for (gsize i = 2; i < BLOCK - 32; i++)
    {
      pad_pkcs1 (block, BLOCK, 32);
      block[i] = 0;
      if (i < 10)
        assert_refused (KW_RSA_PADDING_PKCS1, block, BLOCK);
      else
        assert_message (KW_RSA_PADDING_PKCS1, block, BLOCK, block + i + 1, BLOCK - i - 1);
    }
}

static void
test_pkcs1_no_separator (void)
{
  guint8 block[BLOCK];

  memset (block, 0xA5, BLOCK);
  block[0] = 0;
  block[1] = 2;
  assert_refused (KW_RSA_PADDING_PKCS1, block, BLOCK);
  memset (block, 0, BLOCK);
  assert_refused (KW_RSA_PADDING_PKCS1, block, BLOCK);
  memset (block, 0xFF, BLOCK);
  assert_refused (KW_RSA_PADDING_PKCS1, block, BLOCK);
}

static void
test_short_blocks (gconstpointer data)
{
  KwRsaPadding padding = (KwRsaPadding) GPOINTER_TO_UINT (data);
  guint8 block[BLOCK] = { 0, 2, 1, 1, 1, 1, 1, 1, 1, 1, 0 };
  gsize smallest = padding == KW_RSA_PADDING_PKCS1
                       ? 11
                       : 2 * (gsize) EVP_MD_get_size (digest_of (padding)) + 2;

  for (gsize size = 0; size < smallest; size++)
    assert_refused (padding, block, size);
  if (padding == KW_RSA_PADDING_PKCS1)
    assert_message (padding, block, smallest, block, 0);
  else
    assert_refused (padding, block, smallest);
}

static void
test_oaep_each_byte_wrong (gconstpointer data)
{
  KwRsaPadding padding = (KwRsaPadding) GPOINTER_TO_UINT (data);
  gsize n_digest = (gsize) EVP_MD_get_size (digest_of (padding));
  gsize n_db = BLOCK - 1 - n_digest;
  gsize n_message = 8;
  guint8 db[BLOCK];
  guint8 block[BLOCK];

  for (gsize i = 0; i < n_db - n_message; i++)
    {
      make_db (padding, db, n_db, n_message);
      db[i] ^= 0x82; /* neither 0 nor 1 whatever was there */
      mask_oaep (padding, db, n_db, block);
      assert_refused (padding, block, BLOCK);
    }
  for (guint first = 1; first <= 0xFF; first++)
    {
      make_db (padding, db, n_db, n_message);
      mask_oaep (padding, db, n_db, block);
      block[0] = (guint8) first;
      assert_refused (padding, block, BLOCK);
    }
  /* Any change of the masked block spoils the hash of the label. */
  for (gsize i = 1; i < BLOCK; i++)
    {
      make_db (padding, db, n_db, n_message);
      mask_oaep (padding, db, n_db, block);
      block[i] ^= 0x40;
      assert_refused (padding, block, BLOCK);
    }
}

static void
test_oaep_separator (gconstpointer data)
{
  KwRsaPadding padding = (KwRsaPadding) GPOINTER_TO_UINT (data);
  gsize n_digest = (gsize) EVP_MD_get_size (digest_of (padding));
  gsize n_db = BLOCK - 1 - n_digest;
  guint8 db[BLOCK];
  guint8 block[BLOCK];

  /* An earlier 1 is a separator like any other. */
  for (gsize i = n_digest; i < n_db; i++)
    {
      make_db (padding, db, n_db, 0);
      db[i] = 1;
      mask_oaep (padding, db, n_db, block);
      assert_message (padding, block, BLOCK, db + i + 1, n_db - i - 1);
    }
  /* None at all. */
  make_db (padding, db, n_db, 0);
  db[n_db - 1] = 0;
  mask_oaep (padding, db, n_db, block);
  assert_refused (padding, block, BLOCK);
}

/*
 * RSAES-OAEP with SHA-1 as RSA Laboratories' PKCS#1 v2.1 test material (oaep-int) has it step by
 * step: EM for M = d4 36 e9 95 69 fd 32 a7 c8 a0 5b bc 90 d3 2c 49.
 */
static void
test_oaep_known_answer (void)
{
  static const guint8 message[] = { 0xd4, 0x36, 0xe9, 0x95, 0x69, 0xfd, 0x32, 0xa7,
                                    0xc8, 0xa0, 0x5b, 0xbc, 0x90, 0xd3, 0x2c, 0x49 };
  static const guint8 block[] = {
    0x00, 0xeb, 0x7a, 0x19, 0xac, 0xe9, 0xe3, 0x00, 0x63, 0x50, 0xe3, 0x29, 0x50, 0x4b, 0x45, 0xe2,
    0xca, 0x82, 0x31, 0x0b, 0x26, 0xdc, 0xd8, 0x7d, 0x5c, 0x68, 0xf1, 0xee, 0xa8, 0xf5, 0x52, 0x67,
    0xc3, 0x1b, 0x2e, 0x8b, 0xb4, 0x25, 0x1f, 0x84, 0xd7, 0xe0, 0xb2, 0xc0, 0x46, 0x26, 0xf5, 0xaf,
    0xf9, 0x3e, 0xdc, 0xfb, 0x25, 0xc9, 0xc2, 0xb3, 0xff, 0x8a, 0xe1, 0x0e, 0x83, 0x9a, 0x2d, 0xdb,
    0x4c, 0xdc, 0xfe, 0x4f, 0xf4, 0x77, 0x28, 0xb4, 0xa1, 0xb7, 0xc1, 0x36, 0x2b, 0xaa, 0xd2, 0x9a,
    0xb4, 0x8d, 0x28, 0x69, 0xd5, 0x02, 0x41, 0x21, 0x43, 0x58, 0x11, 0x59, 0x1b, 0xe3, 0x92, 0xf9,
    0x82, 0xfb, 0x3e, 0x87, 0xd0, 0x95, 0xae, 0xb4, 0x04, 0x48, 0xdb, 0x97, 0x2f, 0x3a, 0xc1, 0x4f,
    0x7b, 0xc2, 0x75, 0x19, 0x52, 0x81, 0xce, 0x32, 0xd2, 0xf1, 0xb7, 0x6d, 0x4d, 0x35, 0x3e, 0x2d,
  };

  assert_message (KW_RSA_PADDING_OAEP_SHA1, block, sizeof block, message, sizeof message);
  assert_refused (KW_RSA_PADDING_OAEP_SHA256, block, sizeof block);
}

static void
test_largest_block (void)
{
  guint8 block[KW_MAX_RSA_BYTES];

  pad_pkcs1 (block, sizeof block, sizeof block - 11);
  assert_message (KW_RSA_PADDING_PKCS1, block, sizeof block, block + 11, sizeof block - 11);
}

static void
add (const char *name, GTestDataFunc test, gboolean pkcs1_too)
{
  static const char *const paddings[] = { "pkcs1", "oaep-sha1", "oaep-sha256" };

  for (guint i = pkcs1_too ? 0 : 1; i < G_N_ELEMENTS (paddings); i++)
    {
      g_autofree char *path = g_strdup_printf ("/rsa-padding/%s/%s", paddings[i], name);

      g_test_add_data_func (path, GUINT_TO_POINTER (i), test);
    }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  add ("openssl-round-trip", test_openssl_round_trip, TRUE);
  add ("each-length", test_each_length, TRUE);
  add ("short-blocks", test_short_blocks, TRUE);
  add ("each-byte-wrong", test_oaep_each_byte_wrong, FALSE);
  add ("separator", test_oaep_separator, FALSE);
  g_test_add_func ("/rsa-padding/pkcs1/first-bytes", test_pkcs1_first_bytes);
  g_test_add_func ("/rsa-padding/pkcs1/zero-at-each-position", test_pkcs1_zero_at_each_position);
  g_test_add_func ("/rsa-padding/pkcs1/no-separator", test_pkcs1_no_separator);
  g_test_add_func ("/rsa-padding/pkcs1/largest-block", test_largest_block);
  g_test_add_func ("/rsa-padding/oaep-sha1/known-answer", test_oaep_known_answer);
  return g_test_run ();
}
