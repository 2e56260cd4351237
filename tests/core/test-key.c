/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-key"

#include "config.h"

#include "kw-core-fixture.h"
#include "kw-error.h"
#include "kw-key.h"
#include "kw-limits.h"

#include <openssl/bn.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <string.h>

#define NO_RSA_KEY "The token's public key is no RSA key"
#define MODULUS_BYTES 256

typedef struct
{
  EVP_PKEY *pair;
  guint8 modulus[MODULUS_BYTES];
  GBytes *der;
  GBytes *id;
  KwKey *key;
} Fixture;

static void
set_up (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  static const guint8 exponent[] = { 1, 0, 1 };
  BIGNUM *n = NULL;

  fixture->pair = EVP_RSA_gen (2048);
  g_assert_nonnull (fixture->pair);
  g_assert_cmpint (EVP_PKEY_get_bn_param (fixture->pair, "n", &n), ==, 1);
  g_assert_cmpint (BN_bn2binpad (n, fixture->modulus, MODULUS_BYTES), ==, MODULUS_BYTES);
  BN_free (n);
  fixture->der
      = kw_rsa_public_key_to_der (fixture->modulus, MODULUS_BYTES, exponent, sizeof exponent, NULL);
  g_assert_nonnull (fixture->der);
  fixture->id = g_bytes_new_static ("0123456789abcdef", 16);
  fixture->key = kw_key_new (KW_KEY_KIND_RSA, 2048, fixture->id, "label", fixture->der);
}

static void
tear_down (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  kw_key_unref (fixture->key);
  g_bytes_unref (fixture->id);
  g_bytes_unref (fixture->der);
  EVP_PKEY_free (fixture->pair);
}

static void
test_fields (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  KwKey *key = kw_key_ref (fixture->key);

  kw_key_unref (key);
  g_assert_cmpuint (kw_key_get_kind (key), ==, KW_KEY_KIND_RSA);
  g_assert_cmpuint (kw_key_get_bits (key), ==, 2048);
  g_assert_true (g_bytes_equal (kw_key_get_id (key), fixture->id));
  g_assert_cmpstr (kw_key_get_uuid (key), ==, "30313233-3435-3637-3839-616263646566");
  g_assert_cmpstr (kw_key_get_label (key), ==, "label");
  g_assert_true (g_bytes_equal (kw_key_get_public_key_der (key), fixture->der));
}

static void
test_der_is_what_openssl_writes (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  guint8 *der = NULL;
  int n_der = i2d_PUBKEY (fixture->pair, &der);

  g_assert_cmpmem (g_bytes_get_data (fixture->der, NULL), g_bytes_get_size (fixture->der), der,
                   (gsize) n_der);
  OPENSSL_free (der);
}

static void
test_fingerprint_is_sha256_of_der (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autofree char *wanted = g_compute_checksum_for_bytes (G_CHECKSUM_SHA256, fixture->der);

  g_assert_cmpuint (strlen (kw_key_get_fingerprint (fixture->key)), ==, 64);
  g_assert_cmpstr (kw_key_get_fingerprint (fixture->key), ==, wanted);
}

static void
test_pem_reads_back (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autofree char *pem = kw_key_dup_public_key_pem (fixture->key, NULL);
  BIO *input = BIO_new_mem_buf (pem, -1);
  EVP_PKEY *public_key = PEM_read_bio_PUBKEY (input, NULL, NULL, NULL);

  g_assert_true (g_str_has_prefix (pem, "-----BEGIN PUBLIC KEY-----\n"));
  g_assert_true (g_str_has_suffix (pem, "\n-----END PUBLIC KEY-----\n"));
  g_assert_cmpint (EVP_PKEY_eq (public_key, fixture->pair), ==, 1);
  EVP_PKEY_free (public_key);
  BIO_free (input);
}

static void
test_encrypt_is_decrypted_by_openssl (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  static const gsize sizes[] = { 0, 1, 32, 244, 245 };
  guint8 plain[MODULUS_BYTES];

  memset (plain, 0, sizeof plain);
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (GBytes) input = g_bytes_new (plain, sizes[i]);
      g_autoptr (GBytes) ciphertext = kw_key_encrypt_pkcs1 (fixture->key, input, &error);
      EVP_PKEY_CTX *context = EVP_PKEY_CTX_new (fixture->pair, NULL);
      guint8 output[MODULUS_BYTES];
      gsize n_output = sizeof output;

      g_assert_no_error (error);
      g_assert_cmpuint (g_bytes_get_size (ciphertext), ==, MODULUS_BYTES);
      g_assert_cmpint (EVP_PKEY_decrypt_init (context), ==, 1);
      g_assert_cmpint (EVP_PKEY_CTX_set_rsa_padding (context, RSA_PKCS1_PADDING), ==, 1);
      g_assert_cmpint (EVP_PKEY_decrypt (context, output, &n_output,
                                         g_bytes_get_data (ciphertext, NULL), MODULUS_BYTES),
                       ==, 1);
      g_assert_cmpmem (output, n_output, plain, sizes[i]);
      EVP_PKEY_CTX_free (context);
    }
}

static void
test_encrypt_too_long (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GError) error = NULL;
  guint8 plain[246] = { 0 };
  g_autoptr (GBytes) input = g_bytes_new (plain, sizeof plain);

  g_assert_null (kw_key_encrypt_pkcs1 (fixture->key, input, &error));
  kw_assert_error (error, KW_ERROR_INVALID_ARGUMENT,
                   "246 bytes are too long for a key of 2048 bits: at most 245 fit");
}

static void
test_without_public_half (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GBytes) short_id = g_bytes_new_static ("x", 1);
  g_autoptr (GBytes) nonsense = g_bytes_new_static ("nonsense", 8);
  g_autoptr (KwKey) secret = kw_key_new (KW_KEY_KIND_AES, 256, short_id, "label", NULL);
  g_autoptr (KwKey) damaged = kw_key_new (KW_KEY_KIND_RSA, 2048, fixture->id, NULL, nonsense);

  g_assert_null (kw_key_get_fingerprint (secret));
  g_assert_null (kw_key_get_uuid (secret));
  g_assert_null (kw_key_get_public_key_der (secret));
  g_assert_null (kw_key_dup_public_key_pem (secret, &error));
  kw_assert_error (error, KW_ERROR_NOT_SUPPORTED, "The public half of key label is not known");
  g_assert_null (kw_key_encrypt_pkcs1 (damaged, nonsense, &error));
  kw_assert_error (error, KW_ERROR_NOT_SUPPORTED,
                   "The public half of key 30313233-3435-3637-3839-616263646566 is not known");
}

static void
test_label_is_made_valid (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (KwKey) odd = kw_key_new (KW_KEY_KIND_AES, 256, fixture->id, "a\xff", NULL);
  g_autoptr (KwKey) none = kw_key_new (KW_KEY_KIND_AES, 256, fixture->id, NULL, NULL);

  g_assert_cmpstr (kw_key_get_label (odd), ==, "a\xef\xbf\xbd");
  g_assert_cmpstr (kw_key_get_label (none), ==, "");
}

static void
test_usage_follows_the_kind (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  static const guint usages[] = {
    [KW_KEY_KIND_RSA] = KW_KEY_USAGE_DECRYPT | KW_KEY_USAGE_SIGN,
    [KW_KEY_KIND_AES] = KW_KEY_USAGE_ENCRYPT | KW_KEY_USAGE_DECRYPT,
    [KW_KEY_KIND_EC] = KW_KEY_USAGE_SIGN,
  };

  for (guint kind = 0; kind < KW_N_KEY_KINDS; kind++)
    {
      g_autoptr (KwKey) key = kw_key_new ((KwKeyKind) kind, 256, fixture->id, NULL, NULL);

      g_assert_cmpuint (kw_key_get_usage (key), ==, usages[kind]);
      g_assert_cmpuint (kw_key_get_reference (key), ==, 0);
      g_assert_false (kw_key_is_weak (key));
      g_assert_null (kw_key_get_weakness (key));
    }
}

static void
test_all_fields (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  const KwKeyFields fields = { .kind = KW_KEY_KIND_AES,
                               .bits = 256,
                               .id = fixture->id,
                               .label = "label",
                               .usage = KW_KEY_USAGE_WRAP,
                               .reference = 7,
                               .weakness = "Made by firmware 3.1" };
  g_autoptr (KwKey) plain = kw_key_new_full (&fields);
  g_autoptr (KwKey) key = kw_key_new_with_fingerprint (plain, "00ff");

  g_assert_null (kw_key_get_fingerprint (plain));
  g_assert_cmpstr (kw_key_get_fingerprint (key), ==, "00ff");
  g_assert_cmpint (kw_key_get_kind (key), ==, KW_KEY_KIND_AES);
  g_assert_cmpuint (kw_key_get_bits (key), ==, 256);
  g_assert_true (g_bytes_equal (kw_key_get_id (key), fixture->id));
  g_assert_cmpstr (kw_key_get_label (key), ==, "label");
  g_assert_cmpuint (kw_key_get_usage (key), ==, KW_KEY_USAGE_WRAP);
  g_assert_cmpuint (kw_key_get_reference (key), ==, 7);
  g_assert_true (kw_key_is_weak (key));
  g_assert_cmpstr (kw_key_get_weakness (key), ==, "Made by firmware 3.1");
}

/* By the number on the card; by the id where there is none. */
static void
test_places (void)
{
  g_autoptr (GBytes) low = g_bytes_new_static ("a", 1);
  g_autoptr (GBytes) high = g_bytes_new_static ("b", 1);
  g_autoptr (KwKey) two
      = kw_key_new_full (&(KwKeyFields){ .kind = KW_KEY_KIND_AES, .id = low, .reference = 2 });
  g_autoptr (KwKey) one
      = kw_key_new_full (&(KwKeyFields){ .kind = KW_KEY_KIND_AES, .id = high, .reference = 1 });
  g_autoptr (KwKey) a = kw_key_new (KW_KEY_KIND_AES, 256, low, NULL, NULL);
  g_autoptr (KwKey) b = kw_key_new (KW_KEY_KIND_AES, 256, high, NULL, NULL);

  g_assert_cmpint (kw_key_compare_places (one, two), <, 0);
  g_assert_cmpint (kw_key_compare_places (two, one), >, 0);
  g_assert_cmpint (kw_key_compare_places (a, b), <, 0);
  g_assert_cmpint (kw_key_compare_places (b, a), >, 0);
  g_assert_cmpint (kw_key_compare_places (a, a), ==, 0);
}

/* A modulus of the wanted number of bits, odd. */
static gsize
make_modulus (guint8 *modulus, guint bits)
{
  gsize size = (bits + 7) / 8;

  memset (modulus, 0x55, size);
  modulus[0] = (guint8) (1u << ((bits - 1) % 8));
  modulus[size - 1] |= 1;
  return size;
}

static void
test_hostile_public_keys (void)
{
  guint8 modulus[KW_MAX_RSA_BYTES + 8] = { 0 };
  guint8 exponent[KW_MAX_RSA_BYTES + 8] = { 0 };
  const struct
  {
    const char *what;
    guint bits;
    gsize n_leading_zeros;
    gboolean even;
    gsize n_exponent;
    guint8 last; /* of the exponent */
    gboolean good;
  } rows[] = {
    { "smallest", 1024, 0, FALSE, 1, 3, TRUE },
    { "largest", 4096, 0, FALSE, 3, 1, TRUE },
    { "leading zero", 4096, 1, FALSE, 3, 1, TRUE },
    { "odd size", 2047, 0, FALSE, 3, 1, TRUE },
    { "too small", 1023, 0, FALSE, 1, 3, FALSE },
    { "too large", 4097, 0, FALSE, 1, 3, FALSE },
    { "too many bytes", 4096, 2, FALSE, 1, 3, FALSE },
    { "even modulus", 2048, 0, TRUE, 1, 3, FALSE },
    { "no exponent", 2048, 0, FALSE, 0, 0, FALSE },
    { "exponent 0", 2048, 0, FALSE, 1, 0, FALSE },
    { "exponent 1", 2048, 0, FALSE, 1, 1, FALSE },
    { "exponent 2", 2048, 0, FALSE, 1, 2, FALSE },
    { "exponent 1 with zeros", 2048, 0, FALSE, 0, 1, FALSE },
    { "exponent too long", 2048, 0, FALSE, KW_MAX_RSA_BYTES + 1, 3, FALSE },
  };

  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (GBytes) der = NULL;
      gsize size = 0;

      g_test_message ("%s", rows[i].what);
      memset (modulus, 0, sizeof modulus);
      memset (exponent, 0, sizeof exponent);
      size = make_modulus (modulus + rows[i].n_leading_zeros, rows[i].bits)
             + rows[i].n_leading_zeros;
      if (rows[i].even)
        modulus[size - 1] &= 0xFE;
      if (rows[i].n_exponent == 3)
        exponent[0] = 1;
      if (rows[i].n_exponent > 0)
        exponent[rows[i].n_exponent - 1] = rows[i].last;
      der = kw_rsa_public_key_to_der (modulus, size, exponent, rows[i].n_exponent, &error);
      if (rows[i].good)
        {
          g_assert_no_error (error);
          g_assert_nonnull (der);
          continue;
        }
      g_assert_null (der);
      kw_assert_error (error, KW_ERROR_DEVICE_FAILED, NO_RSA_KEY);
    }
  g_assert_null (kw_rsa_public_key_to_der (modulus, 0, exponent, 0, NULL));
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
  add ("/key/fields", test_fields);
  add ("/key/der-is-what-openssl-writes", test_der_is_what_openssl_writes);
  add ("/key/fingerprint-is-sha256-of-der", test_fingerprint_is_sha256_of_der);
  add ("/key/pem-reads-back", test_pem_reads_back);
  add ("/key/encrypt-is-decrypted-by-openssl", test_encrypt_is_decrypted_by_openssl);
  add ("/key/encrypt-too-long", test_encrypt_too_long);
  add ("/key/without-public-half", test_without_public_half);
  add ("/key/label-is-made-valid", test_label_is_made_valid);
  add ("/key/usage-follows-the-kind", test_usage_follows_the_kind);
  add ("/key/all-fields", test_all_fields);
  g_test_add_func ("/key/places", test_places);
  g_test_add_func ("/key/hostile-public-keys", test_hostile_public_keys);
  return g_test_run ();
}
