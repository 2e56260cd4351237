/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "card-dkek.h"
#include "card-fixture.h"

#include <openssl/evp.h>
#include <string.h>

#define SHARE_FILE_SIZE 64
#define SHARE_ITERATIONS 10000000

/* Files made by sc-hsm-tool --create-dkek-share, and what is in them. */
static const struct
{
  const char *file;
  const char *password;
  const char *key;
  const char *iv;
  const char *share;
} shares[] = {
  {
      "53616c7465645f5fe288bdbe09febc92d20650054cee1201a14c370e292dea764d74de7708d43eb01f20df3bf4b9110a"
      "8352ac6e2c2f029bbc1950defe340a61",
      "secret1",
      "102884cdb56c2ce6d80d33cd67b6d39d0ee365991db15c7e146d64f1780eff68",
      "2119a519add9b1e8c82e42a15bd31c68",
      "8235d242ebb8ca168aaded9a9ca8850538235ef262d3df83323ac9f9440db8d4",
  },
  {
      "53616c7465645f5fbc0d28dbd054030bf77a86b68e69c734793f1ab9e6037bdbcb7b54304c0914c345db21af4dceee83"
      "40c609611cd1c91b5553fa5fac207b8d",
      "secret2",
      "b6ce092194305e196e8e67765a391f5f9b2d2ea911679549a9e0ad1974f96a20",
      "0f0ae9cf1c19768a32c8858c1f0ae749",
      "881deacd8c31ec48966e5eb7948a35582937849d373273bec12a52fe5e1c6170",
  },
};

#define DKEK "0a28388f6789265e1cc3b32d0822b05d1114da6f55e1ac3df3109b071a11d9a4"
#define CHECK_VALUE "c8669cf006d8f0fa"
#define ENCRYPTION_KEY "0a1720d082a5b92094253d90f970db2995285c212152abfb67e8a2f2af72a86d"
#define MAC_KEY "4f5f6d1e7e9679746b029ffc4a9b03c6c60930d05bbd1ef6d7122f87ed836f52"
#define BLOB_RANDOM "0011223344556677"

static void
assert_hex (gconstpointer bytes, gsize size, const char *wanted)
{
  g_autofree char *upper = g_ascii_strup (wanted, -1);
  g_autofree char *got = card_test_format_hex (bytes, size);

  g_assert_cmpstr (got, ==, upper);
}

static const guint8 *
get_dkek (void)
{
  static guint8 dkek[CARD_DKEK_SIZE];
  g_autoptr (GBytes) bytes = card_test_parse_hex (DKEK);

  memcpy (dkek, g_bytes_get_data (bytes, NULL), sizeof dkek);
  return dkek;
}

/* One digest of the derivation that share files use: MD5 over and over, of what came before, password and salt. */
static void
derive_digest (guint8 digest[16],
               gboolean first,
               const char *password,
               const guint8 *salt,
               guint n_iterations)
{
  EVP_MD_CTX *context = EVP_MD_CTX_new ();
  const EVP_MD *md5 = EVP_md5 ();

  for (guint i = 0; i < n_iterations; i++)
    {
      EVP_DigestInit_ex (context, md5, NULL);
      if (i > 0 || !first)
        EVP_DigestUpdate (context, digest, 16);
      if (i == 0)
        {
          EVP_DigestUpdate (context, password, strlen (password));
          EVP_DigestUpdate (context, salt, 8);
        }
      EVP_DigestFinal_ex (context, digest, NULL);
    }
  EVP_MD_CTX_free (context);
}

static void
derive_key (const char *password,
            const guint8 *salt,
            guint n_iterations,
            guint8 out_key[32],
            guint8 out_iv[16])
{
  guint8 digest[16];

  derive_digest (digest, TRUE, password, salt, n_iterations);
  memcpy (out_key, digest, 16);
  derive_digest (digest, FALSE, password, salt, n_iterations);
  memcpy (out_key + 16, digest, 16);
  derive_digest (digest, FALSE, password, salt, n_iterations);
  memcpy (out_iv, digest, 16);
}

static gpointer
open_share (gpointer index)
{
  guint i = GPOINTER_TO_UINT (index);
  g_autoptr (GBytes) file = card_test_parse_hex (shares[i].file);
  const guint8 *bytes = g_bytes_get_data (file, NULL);
  guint8 key[32], iv[16], share[SHARE_FILE_SIZE];
  EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new ();
  int size, rest;

  g_assert_cmpuint (g_bytes_get_size (file), ==, SHARE_FILE_SIZE);
  g_assert_cmpmem (bytes, 8, "Salted__", 8);
  derive_key (shares[i].password, bytes + 8, SHARE_ITERATIONS, key, iv);
  assert_hex (key, sizeof key, shares[i].key);
  assert_hex (iv, sizeof iv, shares[i].iv);

  g_assert_true (EVP_DecryptInit_ex2 (context, EVP_aes_256_cbc (), key, iv, NULL));
  g_assert_true (EVP_DecryptUpdate (context, share, &size, bytes + 16, SHARE_FILE_SIZE - 16));
  g_assert_true (EVP_DecryptFinal_ex (context, share + size, &rest));
  g_assert_cmpint (size + rest, ==, CARD_DKEK_SIZE);
  assert_hex (share, CARD_DKEK_SIZE, shares[i].share);
  EVP_CIPHER_CTX_free (context);
  return NULL;
}

static void
test_share_files (void)
{
  GThread *thread = g_thread_new ("share", open_share, GUINT_TO_POINTER (0));

  open_share (GUINT_TO_POINTER (1));
  g_thread_join (thread);
}

static void
test_derivation_of_1000 (void)
{
  g_autoptr (GBytes) file = card_test_parse_hex (shares[0].file);
  guint8 key[32], iv[16];

  derive_key (shares[0].password, (const guint8 *) g_bytes_get_data (file, NULL) + 8, 1000, key,
              iv);
  assert_hex (key, sizeof key, "ebdd782af3965666e8342a656da18fc42b17827cefafa0f1fe4a1901fafb803c");
  assert_hex (iv, sizeof iv, "1359983e9788f45451960989f4d23abc");
}

static void
test_keys (void)
{
  guint8 dkek[CARD_DKEK_SIZE] = { 0 };
  guint8 check_value[CARD_KCV_SIZE];
  guint8 encryption_key[CARD_SHA256_SIZE], mac_key[CARD_SHA256_SIZE];

  for (guint i = 0; i < G_N_ELEMENTS (shares); i++)
    {
      g_autoptr (GBytes) share = card_test_parse_hex (shares[i].share);

      for (guint j = 0; j < sizeof dkek; j++)
        dkek[j] ^= ((const guint8 *) g_bytes_get_data (share, NULL))[j];
    }
  assert_hex (dkek, sizeof dkek, DKEK);

  card_dkek_get_check_value (dkek, check_value);
  assert_hex (check_value, sizeof check_value, CHECK_VALUE);
  card_dkek_derive (dkek, encryption_key, mac_key);
  assert_hex (encryption_key, sizeof encryption_key, ENCRYPTION_KEY);
  assert_hex (mac_key, sizeof mac_key, MAC_KEY);
}

static CardKey *
new_counting_aes (gsize size)
{
  guint8 secret[32];

  for (guint i = 0; i < sizeof secret; i++)
    secret[i] = (guint8) i;
  return card_key_new_aes (secret, size);
}

static void
assert_wraps_to (const CardKey *key, const char *blob)
{
  g_autoptr (GBytes) random = card_test_parse_hex (BLOB_RANDOM);
  g_autoptr (GBytes) wrapped = card_dkek_wrap (get_dkek (), key, g_bytes_get_data (random, NULL));
  g_autoptr (CardKey) unwrapped = NULL;

  assert_hex (g_bytes_get_data (wrapped, NULL), g_bytes_get_size (wrapped), blob);
  unwrapped = card_dkek_unwrap (get_dkek (), g_bytes_get_data (wrapped, NULL),
                                g_bytes_get_size (wrapped));
  g_assert_nonnull (unwrapped);
  g_assert_cmpint (unwrapped->kind, ==, CARD_KEY_AES);
  g_assert_cmpuint (unwrapped->bits, ==, key->bits);
  g_assert_cmpmem (unwrapped->secret, unwrapped->bits / 8, key->secret, key->bits / 8);
  g_assert_cmpmem (unwrapped->algorithms, unwrapped->n_algorithms, key->algorithms,
                   key->n_algorithms);
}

static void
test_aes_blobs (void)
{
  g_autoptr (CardKey) aes_128 = new_counting_aes (16);
  g_autoptr (CardKey) aes_256 = new_counting_aes (32);

  memcpy (aes_128->algorithms, "\x10\x11\x18\x99", 4);
  aes_128->n_algorithms = 4;
  assert_wraps_to (
      aes_128,
      "c8669cf006d8f0fa0f0008608648016503040100041011189900000000cf7d9c3bf550cccc365452d3a6f85585"
      "5885fd4a7a97a74aa1ab5985521802d5c240c3c820cffe6493ff6c760fee6feb");
  assert_wraps_to (
      aes_256,
      "c8669cf006d8f0fa0f00086086480165030401000000000000cbb2ffe16ae7b8c3927d9646ff33ae744a114995"
      "f6f09bcba150dec03e06d7fc23dce5d7d0de5c4d0a856afeb8e4adeafb992794a00b72c1d6298174e07948b9");
}

static const guint8 zeros[CARD_BLOB_RANDOM_SIZE];

static void
test_rsa_blobs (void)
{
  static const guint sizes[] = { 1024, 2048 };

  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      g_autoptr (CardKey) key = card_key_generate_rsa (sizes[i], (const guint8 *) "\1\0\1", 3);
      g_autoptr (GBytes) blob = card_dkek_wrap (get_dkek (), key, zeros);
      g_autoptr (CardKey) copy
          = card_dkek_unwrap (get_dkek (), g_bytes_get_data (blob, NULL), g_bytes_get_size (blob));
      guint8 block[256] = { 1 };
      g_autoptr (GBytes) result = NULL;
      g_autoptr (GBytes) result_of_copy = NULL;

      if (sizes[i] == 2048)
        g_assert_cmpuint (g_bytes_get_size (blob), ==, 587);
      g_assert_nonnull (copy);
      result = card_key_rsa_raw (key, block, sizes[i] / 8);
      result_of_copy = card_key_rsa_raw (copy, block, sizes[i] / 8);
      g_assert_nonnull (result);
      g_assert_true (g_bytes_equal (result, result_of_copy));
    }
}

static void
append_field (GByteArray *array, const guint8 *bytes, gsize size)
{
  const guint8 length[] = { (guint8) (size >> 8), (guint8) size };

  g_byte_array_append (array, length, sizeof length);
  g_byte_array_append (array, bytes, (guint) size);
}

static void
append_bn (GByteArray *array, EVP_PKEY *pair, const char *name)
{
  BIGNUM *number = NULL;
  guint8 bytes[CARD_MAX_FIELD_SIZE];
  int size;

  g_assert_true (EVP_PKEY_get_bn_param (pair, name, &number));
  size = BN_bn2bin (number, bytes);
  append_field (array, bytes, (gsize) size);
  BN_clear_free (number);
}

/* Puts head, encrypted fields and MAC together, the way that the layout says and without card_dkek_wrap(). */
static GBytes *
make_blob (guint8 type, const GByteArray *fields, const char *oid)
{
  GByteArray *blob = g_byte_array_new ();
  g_autoptr (GByteArray) plain = g_byte_array_new ();
  g_autoptr (GBytes) head = card_test_parse_hex (CHECK_VALUE);
  g_autoptr (GBytes) oid_bytes = card_test_parse_hex (oid);
  g_autoptr (GBytes) encryption_key = card_test_parse_hex (ENCRYPTION_KEY);
  g_autoptr (GBytes) mac_key = card_test_parse_hex (MAC_KEY);
  guint8 mac[CARD_CMAC_SIZE];

  g_byte_array_append (blob, g_bytes_get_data (head, NULL), CARD_KCV_SIZE);
  g_byte_array_append (blob, &type, 1);
  append_field (blob, g_bytes_get_data (oid_bytes, NULL), g_bytes_get_size (oid_bytes));
  g_byte_array_append (blob, (const guint8 *) "\0\0\0\0\0\0", 6);
  g_byte_array_append (plain, zeros, sizeof zeros);
  g_byte_array_append (plain, fields->data, fields->len);
  while (plain->len % CARD_AES_BLOCK_SIZE != 0)
    g_byte_array_append (plain, zeros, 1);
  card_aes_cbc (g_bytes_get_data (encryption_key, NULL), 32, TRUE, plain->data, plain->len,
                plain->data);
  g_byte_array_append (blob, plain->data, plain->len);
  card_aes_cmac (g_bytes_get_data (mac_key, NULL), 32, blob->data, blob->len, mac);
  g_byte_array_append (blob, mac, sizeof mac);
  return g_byte_array_free_to_bytes (blob);
}

static CardKey *
unwrap (GBytes *blob)
{
  return card_dkek_unwrap (get_dkek (), g_bytes_get_data (blob, NULL), g_bytes_get_size (blob));
}

#define OID_RSA "04007f00070202020102"
#define OID_EC "04007f00070202020203"
#define OID_AES "6086480165030401"

static void
test_rsa_crt_blob (void)
{
  static const char *const names[] = {
    "rsa-exponent1", "rsa-exponent2", "rsa-factor1", "rsa-coefficient1", "rsa-factor2", "n", "e"
  };
  g_autoptr (CardKey) key = card_key_generate_rsa (2048, (const guint8 *) "\1\0\1", 3);

  /* With one number off, whichever it is, the key is refused. */
  for (gsize changed = 0; changed <= G_N_ELEMENTS (names); changed++)
    {
      g_autoptr (GByteArray) fields = g_byte_array_new ();
      g_autoptr (GBytes) blob = NULL;
      g_autoptr (CardKey) copy = NULL;

      g_byte_array_append (fields, (const guint8 *) "\x08\x00", 2);
      for (guint i = 0; i < G_N_ELEMENTS (names); i++)
        {
          append_bn (fields, key->pair, names[i]);
          if (i == changed)
            fields->data[fields->len - 1] ^= 0x02;
        }
      blob = make_blob (6, fields, OID_RSA);
      copy = unwrap (blob);
      if (changed < G_N_ELEMENTS (names))
        {
          g_assert_null (copy);
          continue;
        }
      g_assert_nonnull (copy);
      g_assert_cmpint (EVP_PKEY_eq (copy->pair, key->pair), ==, 1);
    }
}

static void
test_ec_blobs (void)
{
  const CardCurve *const *curves;
  gsize n_curves = card_curve_list (&curves);
  g_autoptr (CardRandom) random = card_random_new ();

  g_assert_cmpuint (n_curves, ==, 12);
  for (gsize i = 0; i < n_curves; i++)
    {
      g_autoptr (CardKey) key = card_key_generate_ec (curves[i], random);
      g_autoptr (GBytes) blob = card_dkek_wrap (get_dkek (), key, zeros);
      g_autoptr (CardKey) copy = unwrap (blob);

      g_assert_nonnull (copy);
      g_assert_true (copy->curve == curves[i]);
      g_assert_cmpint (EVP_PKEY_eq (copy->pair, key->pair), ==, 1);
    }
}

/* A blob of EC fields: curve, scalar and point. */
static GBytes *
make_ec_blob (guint bits, GBytes *const *parameters, GBytes *scalar, GBytes *point)
{
  static const guint order[] = { 1, 2, 0, 4, 3 };
  g_autoptr (GByteArray) fields = g_byte_array_new ();
  const guint8 size[] = { (guint8) (bits >> 8), (guint8) bits };

  g_byte_array_append (fields, size, sizeof size);
  for (guint i = 0; i < G_N_ELEMENTS (order); i++)
    append_field (fields, g_bytes_get_data (parameters[order[i]], NULL),
                  g_bytes_get_size (parameters[order[i]]));
  append_field (fields, g_bytes_get_data (scalar, NULL), g_bytes_get_size (scalar));
  append_field (fields, g_bytes_get_data (point, NULL), g_bytes_get_size (point));
  return make_blob (12, fields, OID_EC);
}

static void
assert_no_key (GBytes *taken_blob)
{
  g_autoptr (GBytes) blob = taken_blob;

  g_assert_null (unwrap (blob));
}

static void
test_bad_ec_blobs (void)
{
  const CardCurve *curve = card_curve_find ("prime256v1");
  g_autoptr (CardRandom) random = card_random_new ();
  g_autoptr (CardKey) key = card_key_generate_ec (curve, random);
  g_autoptr (CardKey) other = card_key_generate_ec (curve, random);
  g_autoptr (GBytes) scalar = card_key_get_ec_scalar (key);
  g_autoptr (GBytes) point = card_key_get_ec_point (key);
  g_autoptr (GBytes) other_point = card_key_get_ec_point (other);
  g_autoptr (GBytes) zero = g_bytes_new_static ("\0", 1);
  GBytes *wrong[5];
  g_autoptr (GBytes) good = make_ec_blob (256, curve->parameters, scalar, point);
  g_autoptr (CardKey) copy = unwrap (good);

  g_assert_nonnull (copy);
  assert_no_key (make_ec_blob (255, curve->parameters, scalar, point));
  assert_no_key (make_ec_blob (256, curve->parameters, scalar, other_point));
  assert_no_key (make_ec_blob (256, curve->parameters, zero, point));
  assert_no_key (make_ec_blob (256, curve->parameters, curve->parameters[4], point));
  for (guint i = 0; i < G_N_ELEMENTS (wrong); i++)
    {
      memcpy (wrong, curve->parameters, sizeof wrong);
      wrong[i] = other_point;
      assert_no_key (make_ec_blob (256, wrong, scalar, point));
    }
}

static void
test_bad_fields (void)
{
  static const struct
  {
    guint8 type;
    const char *fields;
    const char *oid;
  } bad[] = {
    { 15, "0011 000102030405060708090a0b0c0d0e0f10", OID_AES }, /* no size of AES */
    { 15, "0020 0001020304", OID_AES },                         /* shorter than it says */
    { 15, "0000", OID_AES },
    { 5, "0400 0000 0000 0000", OID_RSA },          /* empty numbers */
    { 5, "0400 0001 03 0001 0F 0001 03", OID_RSA }, /* a modulus that is no size of the card */
    { 5, "0400 FFFF 03", OID_RSA },                 /* longer than any number */
    { 12, "0100 0001 01", OID_EC },
    { 7, "0010 000102030405060708090a0b0c0d0e0f", OID_AES }, /* no type of key */
  };

  for (guint i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autoptr (GBytes) bytes = card_test_parse_hex (bad[i].fields);
      g_autoptr (GByteArray) fields = g_byte_array_new ();

      g_byte_array_append (fields, g_bytes_get_data (bytes, NULL),
                           (guint) g_bytes_get_size (bytes));
      assert_no_key (make_blob (bad[i].type, fields, bad[i].oid));
    }
}

/* Firmware 3.0 to 3.2 wrote the OID of AES in another way. */
static void
test_foreign_oid (void)
{
  g_autoptr (GBytes) bytes = card_test_parse_hex ("0010 000102030405060708090a0b0c0d0e0f");
  g_autoptr (GByteArray) fields = g_byte_array_new ();
  g_autoptr (GBytes) blob = NULL;
  g_autoptr (CardKey) key = NULL;

  g_byte_array_append (fields, g_bytes_get_data (bytes, NULL), (guint) g_bytes_get_size (bytes));
  blob = make_blob (15, fields, "0102030405");
  key = unwrap (blob);
  g_assert_nonnull (key);
}

static void
test_every_byte_counts (void)
{
  g_autoptr (CardKey) key = new_counting_aes (32);
  g_autoptr (GBytes) blob = card_dkek_wrap (get_dkek (), key, zeros);
  gsize size = g_bytes_get_size (blob);
  g_autofree guint8 *changed = g_memdup2 (g_bytes_get_data (blob, NULL), size);

  for (gsize i = 0; i < size; i++)
    {
      changed[i] ^= 0x01;
      g_assert_null (card_dkek_unwrap (get_dkek (), changed, size));
      changed[i] ^= 0x01;
      g_assert_null (card_dkek_unwrap (get_dkek (), changed, i));
    }
  key = (card_key_free (key), card_dkek_unwrap (get_dkek (), changed, size));
  g_assert_nonnull (key);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/card-dkek/share-files", test_share_files);
  g_test_add_func ("/card-dkek/derivation-of-1000", test_derivation_of_1000);
  g_test_add_func ("/card-dkek/keys", test_keys);
  g_test_add_func ("/card-dkek/aes-blobs", test_aes_blobs);
  g_test_add_func ("/card-dkek/rsa-blobs", test_rsa_blobs);
  g_test_add_func ("/card-dkek/rsa-crt-blob", test_rsa_crt_blob);
  g_test_add_func ("/card-dkek/ec-blobs", test_ec_blobs);
  g_test_add_func ("/card-dkek/bad-ec-blobs", test_bad_ec_blobs);
  g_test_add_func ("/card-dkek/bad-fields", test_bad_fields);
  g_test_add_func ("/card-dkek/foreign-oid", test_foreign_oid);
  g_test_add_func ("/card-dkek/every-byte-counts", test_every_byte_counts);
  return g_test_run ();
}
