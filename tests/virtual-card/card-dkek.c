/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Wrapped keys: KCV(8) ‖ type(1) ‖ four fields ‖ ciphertext ‖ CMAC(16). A field is its length in two bytes, then its
 * value. The ciphertext holds random bytes(8) ‖ key size(2) ‖ the fields of the key ‖ padding 80 00…. */

#include "card-dkek.h"

#include <openssl/crypto.h>
#include <string.h>

typedef enum
{
  BLOB_RSA = 5,
  BLOB_RSA_CRT = 6,
  BLOB_EC = 12,
  BLOB_AES = 15,
} BlobType;

static const guint8 oid_rsa[] = { 0x04, 0x00, 0x7F, 0x00, 0x07, 0x02, 0x02, 0x02, 0x01, 0x02 };
static const guint8 oid_ec[] = { 0x04, 0x00, 0x7F, 0x00, 0x07, 0x02, 0x02, 0x02, 0x02, 0x03 };
static const guint8 oid_aes[] = { 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01 };

#define PADDING_MARK 0x80

/**
 * card_dkek_get_check_value:
 * @dkek: the DKEK
 * @out_check_value: (out): first bytes of its SHA-256
 */
void
card_dkek_get_check_value (const guint8 dkek[CARD_DKEK_SIZE], guint8 out_check_value[CARD_KCV_SIZE])
{
  guint8 digest[CARD_SHA256_SIZE];

  card_sha256 (dkek, CARD_DKEK_SIZE, digest);
  memcpy (out_check_value, digest, CARD_KCV_SIZE);
  OPENSSL_cleanse (digest, sizeof digest);
}

/**
 * card_dkek_derive:
 * @dkek: the DKEK
 * @out_encryption_key: (out): AES-256 key that wrapped keys are encrypted under
 * @out_mac_key: (out): AES-256 key of their CMAC
 */
void
card_dkek_derive (const guint8 dkek[CARD_DKEK_SIZE],
                  guint8 out_encryption_key[CARD_SHA256_SIZE],
                  guint8 out_mac_key[CARD_SHA256_SIZE])
{
  guint8 input[CARD_DKEK_SIZE + 4] = { 0 };

  memcpy (input, dkek, CARD_DKEK_SIZE);
  input[sizeof input - 1] = 1;
  card_sha256 (input, sizeof input, out_encryption_key);
  input[sizeof input - 1] = 2;
  card_sha256 (input, sizeof input, out_mac_key);
  OPENSSL_cleanse (input, sizeof input);
}

static void
append_16 (GByteArray *array, gsize number)
{
  const guint8 bytes[] = { (guint8) (number >> 8), (guint8) number };

  g_byte_array_append (array, bytes, sizeof bytes);
}

static void
append_field (GByteArray *array, const guint8 *value, gsize size)
{
  append_16 (array, size);
  g_byte_array_append (array, value, (guint) size);
}

static void
append_bytes_field (GByteArray *array, GBytes *value)
{
  append_field (array, g_bytes_get_data (value, NULL), g_bytes_get_size (value));
}

static void
append_rsa (GByteArray *plain, const CardKey *key)
{
  CardRsaNumbers numbers;

  card_key_get_rsa_numbers (key, &numbers);
  append_16 (plain, key->bits);
  append_bytes_field (plain, numbers.d);
  append_bytes_field (plain, numbers.n);
  append_bytes_field (plain, numbers.e);
  card_rsa_numbers_clear (&numbers);
}

static void
append_ec (GByteArray *plain, const CardKey *key)
{
  GBytes *const *curve = key->curve->parameters;
  g_autoptr (GBytes) scalar = card_key_get_ec_scalar (key);
  g_autoptr (GBytes) point = card_key_get_ec_point (key);

  append_16 (plain, key->bits);
  append_bytes_field (plain, curve[1]); /* a */
  append_bytes_field (plain, curve[2]); /* b */
  append_bytes_field (plain, curve[0]); /* p */
  append_bytes_field (plain, curve[4]); /* n */
  append_bytes_field (plain, curve[3]); /* G */
  append_bytes_field (plain, scalar);
  append_bytes_field (plain, point);
}

/**
 * card_dkek_wrap:
 * @dkek: the DKEK
 * @key: the key to wrap
 * @random: random bytes, fresh for each blob
 *
 * Returns: (transfer full): the wrapped key, with its list of permitted algorithms
 */
GBytes *
card_dkek_wrap (const guint8 dkek[CARD_DKEK_SIZE],
                const CardKey *key,
                const guint8 random[CARD_BLOB_RANDOM_SIZE])
{
  static const guint8 padding_mark = PADDING_MARK;
  guint8 encryption_key[CARD_SHA256_SIZE];
  guint8 mac_key[CARD_SHA256_SIZE];
  guint8 head[CARD_KCV_SIZE + 1];
  guint8 mac[CARD_CMAC_SIZE];
  GByteArray *blob = g_byte_array_new ();
  g_autoptr (GByteArray) plain = g_byte_array_new ();
  guint size;

  card_dkek_derive (dkek, encryption_key, mac_key);
  card_dkek_get_check_value (dkek, head);
  g_byte_array_append (plain, random, CARD_BLOB_RANDOM_SIZE);

  switch (key->kind)
    {
    case CARD_KEY_RSA:
      head[CARD_KCV_SIZE] = BLOB_RSA;
      g_byte_array_append (blob, head, sizeof head);
      append_field (blob, oid_rsa, sizeof oid_rsa);
      append_rsa (plain, key);
      break;
    case CARD_KEY_EC:
      head[CARD_KCV_SIZE] = BLOB_EC;
      g_byte_array_append (blob, head, sizeof head);
      append_field (blob, oid_ec, sizeof oid_ec);
      append_ec (plain, key);
      break;
    case CARD_KEY_AES:
    default:
      head[CARD_KCV_SIZE] = BLOB_AES;
      g_byte_array_append (blob, head, sizeof head);
      append_field (blob, oid_aes, sizeof oid_aes);
      append_16 (plain, key->bits / 8);
      g_byte_array_append (plain, key->secret, key->bits / 8);
      break;
    }
  append_field (blob, key->algorithms, key->n_algorithms);
  append_field (blob, NULL, 0); /* access conditions */
  append_field (blob, NULL, 0); /* OID of the key */

  g_byte_array_append (plain, &padding_mark, 1);
  size = plain->len;
  g_byte_array_set_size (plain, (size + CARD_AES_BLOCK_SIZE - 1) / CARD_AES_BLOCK_SIZE
                                    * CARD_AES_BLOCK_SIZE);
  memset (plain->data + size, 0, plain->len - size);

  card_aes_cbc (encryption_key, sizeof encryption_key, TRUE, plain->data, plain->len, plain->data);
  g_byte_array_append (blob, plain->data, plain->len);
  card_aes_cmac (mac_key, sizeof mac_key, blob->data, blob->len, mac);
  g_byte_array_append (blob, mac, sizeof mac);

  OPENSSL_cleanse (encryption_key, sizeof encryption_key);
  OPENSSL_cleanse (mac_key, sizeof mac_key);
  return g_byte_array_free_to_bytes (blob);
}

/* A place in bytes that are taken apart; data is NULL once something was missing. */
typedef struct
{
  const guint8 *data;
  gsize size;
} Reader;

static const guint8 *
take (Reader *reader, gsize size)
{
  const guint8 *taken = reader->data;

  if (!taken || reader->size < size)
    {
      reader->data = NULL;
      return NULL;
    }
  reader->data += size;
  reader->size -= size;
  return taken;
}

static gsize
take_16 (Reader *reader)
{
  const guint8 *bytes = take (reader, 2);

  return bytes ? (gsize) bytes[0] << 8 | bytes[1] : 0;
}

static GBytes *
take_number (Reader *reader, gsize max_size)
{
  gsize size = take_16 (reader);
  const guint8 *bytes = size <= max_size ? take (reader, size) : NULL;

  if (!bytes || size == 0)
    reader->data = NULL;
  return g_bytes_new (bytes, bytes ? size : 0);
}

static CardKey *
read_rsa (Reader *reader)
{
  gsize bits = take_16 (reader);
  g_autoptr (GBytes) d = take_number (reader, CARD_MAX_FIELD_SIZE);
  g_autoptr (GBytes) n = take_number (reader, CARD_MAX_FIELD_SIZE);
  g_autoptr (GBytes) e = take_number (reader, CARD_MAX_FIELD_SIZE);
  CardRsaNumbers numbers = { .n = n, .e = e, .d = d };
  g_autoptr (CardKey) key = reader->data ? card_key_new_rsa (&numbers) : NULL;

  return key && key->bits == bits ? g_steal_pointer (&key) : NULL;
}

static CardKey *
read_rsa_crt (Reader *reader)
{
  gsize bits = take_16 (reader);
  g_autoptr (GBytes) dp = take_number (reader, CARD_MAX_FIELD_SIZE);
  g_autoptr (GBytes) dq = take_number (reader, CARD_MAX_FIELD_SIZE);
  g_autoptr (GBytes) p = take_number (reader, CARD_MAX_FIELD_SIZE);
  g_autoptr (GBytes) inverse = take_number (reader, CARD_MAX_FIELD_SIZE);
  g_autoptr (GBytes) q = take_number (reader, CARD_MAX_FIELD_SIZE);
  g_autoptr (GBytes) n = take_number (reader, CARD_MAX_FIELD_SIZE);
  g_autoptr (GBytes) e = take_number (reader, CARD_MAX_FIELD_SIZE);
  CardRsaNumbers numbers = { .n = n, .e = e, .p = p, .q = q };
  g_autoptr (CardKey) key
      = reader->data ? card_key_new_rsa_from_crt (&numbers, dp, dq, inverse) : NULL;

  return key && key->bits == bits ? g_steal_pointer (&key) : NULL;
}

static CardKey *
read_ec (Reader *reader)
{
  const gsize max_size = 1 + 2 * CARD_MAX_FIELD_SIZE;
  gsize bits = take_16 (reader);
  g_autoptr (GBytes) a = take_number (reader, max_size);
  g_autoptr (GBytes) b = take_number (reader, max_size);
  g_autoptr (GBytes) p = take_number (reader, max_size);
  g_autoptr (GBytes) n = take_number (reader, max_size);
  g_autoptr (GBytes) generator = take_number (reader, max_size);
  g_autoptr (GBytes) scalar = take_number (reader, max_size);
  g_autoptr (GBytes) point = take_number (reader, max_size);
  GBytes *const parameters[] = { p, a, b, generator, n };
  const guint8 *values[G_N_ELEMENTS (parameters)];
  gsize sizes[G_N_ELEMENTS (parameters)];
  const CardCurve *curve;
  g_autoptr (CardKey) key = NULL;
  g_autoptr (GBytes) own_point = NULL;

  if (!reader->data)
    return NULL;
  for (guint i = 0; i < G_N_ELEMENTS (parameters); i++)
    values[i] = g_bytes_get_data (parameters[i], &sizes[i]);
  curve = card_curve_find_by_parameters (values, sizes);
  if (!curve || curve->bits != bits)
    return NULL;

  key = card_key_new_ec (curve, g_bytes_get_data (scalar, NULL), g_bytes_get_size (scalar));
  if (!key)
    return NULL;
  own_point = card_key_get_ec_point (key);
  return g_bytes_equal (own_point, point) ? g_steal_pointer (&key) : NULL;
}

static CardKey *
read_aes (Reader *reader)
{
  gsize size = take_16 (reader);
  const guint8 *secret = take (reader, size);

  return secret ? card_key_new_aes (secret, size) : NULL;
}

/* The ciphertext is whole blocks, checked by the caller. */
static CardKey *
decrypt_key (const guint8 *encryption_key, guint8 type, const Reader *ciphertext)
{
  g_autofree guint8 *plain = g_malloc (ciphertext->size);
  Reader reader = { plain, ciphertext->size };
  CardKey *key = NULL;

  card_aes_cbc (encryption_key, CARD_SHA256_SIZE, FALSE, ciphertext->data, ciphertext->size, plain);
  take (&reader, CARD_BLOB_RANDOM_SIZE);
  switch (type)
    {
    case BLOB_RSA:
      key = read_rsa (&reader);
      break;
    case BLOB_RSA_CRT:
      key = read_rsa_crt (&reader);
      break;
    case BLOB_EC:
      key = read_ec (&reader);
      break;
    case BLOB_AES:
      key = read_aes (&reader);
      break;
    default:
      break;
    }
  OPENSSL_cleanse (plain, ciphertext->size);
  return key;
}

/**
 * card_dkek_unwrap:
 * @dkek: the DKEK
 * @blob: a wrapped key
 * @size: bytes of it
 *
 * Takes what cards of all firmware versions make: the OIDs are not looked at, because some of them write those of AES
 * keys in another way.
 *
 * Returns: (transfer full) (nullable): the key, or %NULL when @blob was made under another DKEK, was changed, or holds no key
 * that the card can use
 */
CardKey *
card_dkek_unwrap (const guint8 dkek[CARD_DKEK_SIZE], const guint8 *blob, gsize size)
{
  Reader reader = { blob, size };
  guint8 encryption_key[CARD_SHA256_SIZE];
  guint8 mac_key[CARD_SHA256_SIZE];
  guint8 check_value[CARD_KCV_SIZE];
  guint8 mac[CARD_CMAC_SIZE];
  const guint8 *type;
  const guint8 *algorithms;
  gsize n_algorithms;
  gboolean genuine;
  CardKey *key = NULL;

  if (size < CARD_KCV_SIZE + 1 + CARD_CMAC_SIZE || size > CARD_MAX_BLOB)
    return NULL;

  card_dkek_get_check_value (dkek, check_value);
  card_dkek_derive (dkek, encryption_key, mac_key);
  card_aes_cmac (mac_key, sizeof mac_key, blob, size - CARD_CMAC_SIZE, mac);
  genuine = card_equal (check_value, sizeof check_value, blob, CARD_KCV_SIZE)
            & card_equal (mac, sizeof mac, blob + size - CARD_CMAC_SIZE, CARD_CMAC_SIZE);

  reader.size -= CARD_CMAC_SIZE;
  take (&reader, CARD_KCV_SIZE);
  type = take (&reader, 1);
  take (&reader, take_16 (&reader)); /* OID of the default algorithm */
  n_algorithms = take_16 (&reader);
  algorithms = take (&reader, n_algorithms);
  take (&reader, take_16 (&reader)); /* access conditions */
  take (&reader, take_16 (&reader)); /* OID of the key */

  if (genuine && reader.data && reader.size > 0 && reader.size % CARD_AES_BLOCK_SIZE == 0
      && n_algorithms <= CARD_MAX_ALGORITHMS)
    key = decrypt_key (encryption_key, *type, &reader);
  if (key && n_algorithms > 0)
    {
      memcpy (key->algorithms, algorithms, n_algorithms);
      key->n_algorithms = n_algorithms;
    }

  OPENSSL_cleanse (encryption_key, sizeof encryption_key);
  OPENSSL_cleanse (mac_key, sizeof mac_key);
  return key;
}
