/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-envelope"

#include "config.h"

#include "kw-core-fixture.h"
#include "kw-envelope.h"
#include "kw-error.h"
#include "kw-limits.h"

#include <openssl/evp.h>
#include <openssl/rand.h>
#include <string.h>

#define NOT_OURS "This is no message that Keyward encrypted: "

/*
 * Made with another implementation of AES (the Python package "cryptography"), from the description
 * of the format: key, data key, IV, nonce, message, associated data, and what comes of them.
 */
typedef struct
{
  const char *key;
  const char *data_key;
  const char *wrap_iv;
  const char *nonce;
  const char *message;
  const char *associated;
  const char *fingerprint;
  const char *envelope;
  const char *text;
} Vector;

#define COUNT_32 "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
#define FROM_40 "404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f"

static const Vector vectors[] = {
  {
      COUNT_32,
      FROM_40,
      "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf",
      "c0c1c2c3c4c5c6c7c8c9cacb",
      "",
      NULL,
      "50c660c0f99ebec29d17aad1654f6d5e",
      "4b574531010050c660c0f99ebec2a0a1a2a3a4a5a6a7a8a9aaabacadaeaff97d2631b54672f9e1e9e52f5c5164"
      "85746add56f17ef4bca393666f5dbb06c6c0c1c2c3c4c5c6c7c8c9cacba3d0aa57b6e34b2c11bd5f32e204c474",
      "keyward:1:S1dFMQEAUMZgwPmevsKgoaKjpKWmp6ipqqusra6v+X0mMbVGcvnh6eUvXFFkhXRq3VbxfvS8o5Nmb127"
      "BsbAwcLDxMXGx8jJysuj0KpXtuNLLBG9XzLiBMR0",
  },
  {
      COUNT_32,
      FROM_40,
      "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf",
      "c0c1c2c3c4c5c6c7c8c9cacb",
      "attack at dawn",
      "user 7",
      "50c660c0f99ebec29d17aad1654f6d5e",
      "4b574531010050c660c0f99ebec2a0a1a2a3a4a5a6a7a8a9aaabacadaeaff97d2631b54672f9e1e9e52f5c5164"
      "85746add56f17ef4bca393666f5dbb06c6c0c1c2c3c4c5c6c7c8c9cacb3e3044af19f11d8a00994057dccd102d"
      "8c836f967975d71eb7915a6b084d",
      "keyward:1:S1dFMQEAUMZgwPmevsKgoaKjpKWmp6ipqqusra6v+X0mMbVGcvnh6eUvXFFkhXRq3VbxfvS8o5Nmb127"
      "BsbAwcLDxMXGx8jJyss+MESvGfEdigCZQFfczRAtjINvlnl11x63kVprCE0=",
  },
  {
      "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
      "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a",
      "00000000000000000000000000000000",
      "000000000000000000000000",
      "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
      NULL,
      "f6c21f6f75df362952b83f822b671393",
      "4b5745310100f6c21f6f75df36290000000000000000000000000000000031eb43d26353e864d946c97f706cdc"
      "3fabec4823b1430d08f64345e44395a7000000000000000000000000007e5695013afc3fba55fc847a5f14642e"
      "5426523ea9363a24a930d244ddad3a193f0a1f33d5487bb675eb11bbbafa484645",
      "keyward:1:S1dFMQEA9sIfb3XfNikAAAAAAAAAAAAAAAAAAAAAMetD0mNT6GTZRsl/cGzcP6vsSCOxQw0I9kNF5EOV"
      "pwAAAAAAAAAAAAAAAAB+VpUBOvw/ulX8hHpfFGQuVCZSPqk2OiSpMNJE3a06GT8KHzPVSHu2desRu7r6SEZF",
  },
};

static GBytes *
from_hex (const char *hex)
{
  gsize size = strlen (hex) / 2;
  guint8 *data = g_malloc0 (size + 1);

  for (gsize i = 0; i < size; i++)
    data[i]
        = (guint8) (g_ascii_xdigit_value (hex[2 * i]) * 16 + g_ascii_xdigit_value (hex[2 * i + 1]));
  return g_bytes_new_take (data, size);
}

static KwSecret *
secret_from_hex (const char *hex)
{
  g_autoptr (GBytes) bytes = from_hex (hex);
  gsize size = 0;
  gconstpointer data = g_bytes_get_data (bytes, &size);

  return kw_secret_new_copy (data, size, NULL);
}

static void
copy_hex (const char *hex, guint8 *out, gsize size)
{
  g_autoptr (GBytes) bytes = from_hex (hex);

  g_assert_cmpuint (g_bytes_get_size (bytes), ==, size);
  memcpy (out, g_bytes_get_data (bytes, NULL), size);
}

static void
cbc (const Vector *vector, const guint8 *iv, const guint8 *input, guint8 *output, gsize size)
{
  g_autoptr (GBytes) key = from_hex (vector->key);
  EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new ();
  int n = 0;

  EVP_EncryptInit_ex (context, EVP_aes_256_cbc (), NULL, g_bytes_get_data (key, NULL), iv);
  EVP_EncryptUpdate (context, output, &n, input, (int) size);
  EVP_CIPHER_CTX_free (context);
}

static GBytes *
associated_data (const Vector *vector)
{
  return vector->associated != NULL ? g_bytes_new (vector->associated, strlen (vector->associated))
                                    : NULL;
}

static void
unref_nullable (GBytes *bytes)
{
  if (bytes != NULL)
    g_bytes_unref (bytes);
}

static void
test_fingerprints (void)
{
  for (guint i = 0; i < G_N_ELEMENTS (vectors); i++)
    {
      static const guint8 zero[16] = { 0 };
      guint8 block[16];
      guint8 prefix[KW_FINGERPRINT_PREFIX_BYTES];
      g_autoptr (GBytes) envelope = from_hex (vectors[i].envelope);
      g_autofree char *fingerprint = NULL;

      cbc (&vectors[i], zero, (const guint8 *) "keyward-check-01", block, sizeof block);
      fingerprint = kw_fingerprint_from_check (block, sizeof block);
      g_assert_cmpstr (fingerprint, ==, vectors[i].fingerprint);
      g_assert_true (kw_fingerprint_get_prefix (fingerprint, prefix));
      g_assert_cmpmem (prefix, sizeof prefix,
                       (const guint8 *) g_bytes_get_data (envelope, NULL) + 6, sizeof prefix);
    }
}

static void
test_no_prefix (void)
{
  static const char *const texts[] = { "", "00", "0011223344556", "001122334455667x" };
  guint8 prefix[KW_FINGERPRINT_PREFIX_BYTES];

  for (guint i = 0; i < G_N_ELEMENTS (texts); i++)
    g_assert_false (kw_fingerprint_get_prefix (texts[i], prefix));
}

static void
test_known_answers (void)
{
  for (guint i = 0; i < G_N_ELEMENTS (vectors); i++)
    {
      const Vector *vector = &vectors[i];
      g_autoptr (GError) error = NULL;
      g_autoptr (KwSecret) data_key = secret_from_hex (vector->data_key);
      g_autoptr (KwSecret) message
          = kw_secret_new_copy (vector->message, strlen (vector->message), NULL);
      GBytes *associated = associated_data (vector);
      g_autoptr (GBytes) wanted = from_hex (vector->envelope);
      g_autoptr (GBytes) envelope = NULL;
      g_autoptr (GBytes) from_text = NULL;
      g_autoptr (KwSecret) opened = NULL;
      g_autofree char *text = NULL;
      KwEnvelopeHeader header = { 0 };
      KwEnvelopeHeader read = { 0 };

      kw_fingerprint_get_prefix (vector->fingerprint, header.prefix);
      copy_hex (vector->wrap_iv, header.wrap_iv, sizeof header.wrap_iv);
      copy_hex (vector->nonce, header.nonce, sizeof header.nonce);
      cbc (vector, header.wrap_iv, kw_secret_get_data (data_key), header.wrapped_key,
           sizeof header.wrapped_key);
      envelope = kw_envelope_seal (&header, data_key, message, associated, &error);
      g_assert_no_error (error);
      g_assert_true (g_bytes_equal (envelope, wanted));
      text = kw_envelope_to_text (envelope);
      g_assert_cmpstr (text, ==, vector->text);
      from_text = kw_envelope_from_text (text, strlen (text), &error);
      g_assert_no_error (error);
      g_assert_true (g_bytes_equal (from_text, wanted));
      g_assert_true (kw_envelope_read_header (wanted, &read, &error));
      g_assert_cmpmem (&read, sizeof read, &header, sizeof header);
      opened = kw_envelope_open (wanted, data_key, associated, &error);
      g_assert_no_error (error);
      g_assert_true (kw_secret_equal (opened, vector->message, strlen (vector->message)));
      unref_nullable (associated);
    }
}

static void
assert_not_opened (GBytes *envelope, const KwSecret *data_key, GBytes *associated)
{
  g_autoptr (GError) error = NULL;

  g_assert_null (kw_envelope_open (envelope, data_key, associated, &error));
  kw_assert_error (error, KW_ERROR_DECRYPT_FAILED, "The data cannot be decrypted with this key");
}

/* Each bit of each byte: the header is refused as such, or the message cannot be opened. */
static void
test_flipped_bytes (void)
{
  const Vector *vector = &vectors[1];
  g_autoptr (GBytes) good = from_hex (vector->envelope);
  g_autoptr (KwSecret) data_key = secret_from_hex (vector->data_key);
  GBytes *associated = associated_data (vector);
  gsize size = 0;
  const guint8 *data = g_bytes_get_data (good, &size);

  for (gsize i = 0; i < size; i++)
    {
      for (guint bit = 0; bit < 8; bit++)
        {
          g_autofree guint8 *copy = g_memdup2 (data, size);
          g_autoptr (GBytes) bad = NULL;
          g_autoptr (GError) error = NULL;
          KwEnvelopeHeader header;

          copy[i] ^= (guint8) (1u << bit);
          bad = g_bytes_new_take (g_steal_pointer (&copy), size);
          if (kw_envelope_read_header (bad, &header, &error))
            g_assert_cmpuint (i, >=, 6);
          else
            {
              g_assert_cmpuint (i, <, 6);
              g_assert_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT);
            }
          assert_not_opened (bad, data_key, associated);
        }
    }
  g_bytes_unref (associated);
}

static void
test_other_key_and_data (void)
{
  const Vector *vector = &vectors[1];
  g_autoptr (GBytes) good = from_hex (vector->envelope);
  g_autoptr (KwSecret) data_key = secret_from_hex (vector->data_key);
  g_autoptr (KwSecret) other_key = secret_from_hex (vectors[2].data_key);
  g_autoptr (KwSecret) short_key = kw_secret_new (16, NULL);
  GBytes *associated = associated_data (vector);
  g_autoptr (GBytes) other = g_bytes_new_static ("user 8", 6);

  assert_not_opened (good, data_key, NULL);
  assert_not_opened (good, data_key, other);
  assert_not_opened (good, other_key, associated);
  assert_not_opened (good, short_key, associated);
  g_bytes_unref (associated);
}

static void
test_truncations (void)
{
  const Vector *vector = &vectors[1];
  g_autoptr (GBytes) good = from_hex (vector->envelope);
  g_autoptr (KwSecret) data_key = secret_from_hex (vector->data_key);
  GBytes *associated = associated_data (vector);

  for (gsize size = 0; size < g_bytes_get_size (good); size++)
    {
      g_autoptr (GBytes) cut = g_bytes_new_from_bytes (good, 0, size);
      g_autoptr (GError) error = NULL;
      KwEnvelopeHeader header;

      if (kw_envelope_read_header (cut, &header, &error))
        {
          g_assert_cmpuint (size, >=, KW_ENVELOPE_OVERHEAD_BYTES);
          assert_not_opened (cut, data_key, associated);
          continue;
        }
      g_assert_cmpuint (size, <, KW_ENVELOPE_OVERHEAD_BYTES);
      g_assert_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT);
    }
  g_bytes_unref (associated);
}

static void
assert_refused (GBytes *envelope, const char *message)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *whole = g_strconcat (NOT_OURS, message, NULL);
  KwEnvelopeHeader header;

  g_assert_false (kw_envelope_read_header (envelope, &header, &error));
  kw_assert_error (error, KW_ERROR_INVALID_ARGUMENT, whole);
}

static void
test_errors_name_what_is_wrong (void)
{
  static const struct
  {
    gsize place;
    guint8 value;
    const char *message;
  } rows[] = {
    { 0, 'k', "it does not begin with \"KWE1\"" },
    { 3, '2', "its version is not 1" },
    { 3, 1, "its version is not 1" },
    { 4, 0, "its suite is 0, and only 1 is known" },
    { 4, 2, "its suite is 2, and only 1 is known" },
    { 5, 1, "it has flags (0x01), and none are known" },
    { 5, 0x80, "it has flags (0x80), and none are known" },
  };
  g_autoptr (GBytes) good = from_hex (vectors[0].envelope);
  g_autoptr (GBytes) empty = g_bytes_new_static ("", 0);
  g_autoptr (GBytes) start = g_bytes_new_from_bytes (good, 0, 3);
  g_autoptr (GBytes) cut = g_bytes_new_from_bytes (good, 0, 89);
  gsize size = (gsize) KW_MAX_PLAINTEXT_BYTES + KW_ENVELOPE_OVERHEAD_BYTES + 1;
  guint8 *large = g_malloc0 (size);
  g_autoptr (GBytes) too_large = NULL;

  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      g_autofree guint8 *copy = g_memdup2 (g_bytes_get_data (good, NULL), g_bytes_get_size (good));
      g_autoptr (GBytes) bad = NULL;

      copy[rows[i].place] = rows[i].value;
      bad = g_bytes_new_take (g_steal_pointer (&copy), g_bytes_get_size (good));
      assert_refused (bad, rows[i].message);
    }
  assert_refused (empty, "it does not begin with \"KWE1\"");
  assert_refused (start, "its version is not 1");
  assert_refused (cut, "it has 89 bytes, and the shortest one has 90");
  memcpy (large, g_bytes_get_data (good, NULL), 6);
  too_large = g_bytes_new_take (large, size);
  assert_refused (too_large, "it has 67108955 bytes, and the longest one has 67108954");
}

static void
test_bad_text (void)
{
  static const char *const rows[][2] = {
    { "", "as text it begins with \"keyward:1:\"" },
    { "keyward:2:S1dF", "as text it begins with \"keyward:1:\"" },
    { "KEYWARD:1:S1dF", "as text it begins with \"keyward:1:\"" },
    { "keyward:1:", "what follows \"keyward:1:\" is not base64" },
    { "keyward:1:S1d", "what follows \"keyward:1:\" is not base64" },
    { "keyward:1:S1dF\n", "what follows \"keyward:1:\" is not base64" },
    { "keyward:1:S1d F1dF", "what follows \"keyward:1:\" is not base64" },
    { "keyward:1:S1-_", "what follows \"keyward:1:\" is not base64" },
    { "keyward:1:S===", "what follows \"keyward:1:\" is not base64" },
    { "keyward:1:====", "what follows \"keyward:1:\" is not base64" },
    { "keyward:1:S1==S1dF", "what follows \"keyward:1:\" is not base64" },
    { "keyward:1:S1==", "what follows \"keyward:1:\" is not base64" },
    { "keyward:1:S1d=", "what follows \"keyward:1:\" is not base64" },
  };

  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *whole = g_strconcat (NOT_OURS, rows[i][1], NULL);

      g_assert_null (kw_envelope_from_text (rows[i][0], strlen (rows[i][0]), &error));
      kw_assert_error (error, KW_ERROR_INVALID_ARGUMENT, whole);
    }
}

/* What we write as text reads back, for each length of what is left over. */
static void
test_text_of_all_lengths (void)
{
  for (gsize size = 1; size < 300; size++)
    {
      g_autofree guint8 *data = g_malloc (size);
      g_autoptr (GBytes) bytes = NULL;
      g_autoptr (GBytes) text_bytes = NULL;
      g_autoptr (GBytes) back = NULL;
      g_autoptr (GError) error = NULL;
      g_autofree char *text = NULL;

      g_assert_cmpint (RAND_bytes (data, (int) size), ==, 1);
      bytes = g_bytes_new_take (g_steal_pointer (&data), size);
      text = kw_envelope_to_text (bytes);
      text_bytes = g_bytes_new (text, strlen (text));
      g_assert_true (kw_envelope_is_text (text_bytes));
      back = kw_envelope_decode (text_bytes, &error);
      g_assert_no_error (error);
      g_assert_true (g_bytes_equal (back, bytes));
    }
}

static void
test_random_sizes (void)
{
  g_autoptr (KwSecret) data_key = kw_secret_new_random (32, NULL);

  for (guint i = 0; i < 1000; i++)
    {
      guint16 size = 0;
      g_autoptr (KwSecret) message = NULL;
      g_autoptr (GBytes) envelope = NULL;
      g_autoptr (KwSecret) back = NULL;
      g_autoptr (GError) error = NULL;
      KwEnvelopeHeader header;

      g_assert_cmpint (RAND_bytes ((guint8 *) &size, sizeof size), ==, 1);
      g_assert_cmpint (RAND_bytes ((guint8 *) &header, sizeof header), ==, 1);
      message = kw_secret_new_unlocked (size, &error);
      g_assert_no_error (error);
      g_assert_cmpint (RAND_bytes (kw_secret_get_data (message), size), ==, 1);
      envelope = kw_envelope_seal (&header, data_key, message, NULL, &error);
      g_assert_no_error (error);
      g_assert_cmpuint (g_bytes_get_size (envelope), ==, (gsize) size + 90);
      back = kw_envelope_open (envelope, data_key, NULL, &error);
      g_assert_no_error (error);
      g_assert_true (kw_secret_equal (back, kw_secret_get_data (message), size));
    }
}

static void
test_largest (void)
{
  g_autoptr (KwSecret) data_key = kw_secret_new_random (32, NULL);
  g_autoptr (KwSecret) message = kw_secret_new_unlocked (KW_MAX_PLAINTEXT_BYTES, NULL);
  g_autoptr (GBytes) envelope = NULL;
  g_autoptr (KwSecret) back = NULL;
  g_autoptr (GError) error = NULL;
  KwEnvelopeHeader header = { { 0 }, { 0 }, { 0 }, { 0 } };

  memset (kw_secret_get_data (message), 0xE1, KW_MAX_PLAINTEXT_BYTES);
  envelope = kw_envelope_seal (&header, data_key, message, NULL, &error);
  g_assert_no_error (error);
  back = kw_envelope_open (envelope, data_key, NULL, &error);
  g_assert_no_error (error);
  g_assert_true (kw_secret_equal (back, kw_secret_get_data (message), KW_MAX_PLAINTEXT_BYTES));
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/envelope/fingerprints", test_fingerprints);
  g_test_add_func ("/envelope/no-prefix", test_no_prefix);
  g_test_add_func ("/envelope/known-answers", test_known_answers);
  g_test_add_func ("/envelope/flipped-bytes", test_flipped_bytes);
  g_test_add_func ("/envelope/other-key-and-data", test_other_key_and_data);
  g_test_add_func ("/envelope/truncations", test_truncations);
  g_test_add_func ("/envelope/errors-name-what-is-wrong", test_errors_name_what_is_wrong);
  g_test_add_func ("/envelope/bad-text", test_bad_text);
  g_test_add_func ("/envelope/text-of-all-lengths", test_text_of_all_lengths);
  g_test_add_func ("/envelope/random-sizes", test_random_sizes);
  g_test_add_func ("/envelope/largest", test_largest);
  return g_test_run ();
}
