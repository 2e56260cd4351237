/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "card-cvc.h"

#include "card-tlv.h"

#include <string.h>

#define TAG_ROLE 0x7F4C
#define TAG_VALID_FROM 0x5F25
#define TAG_VALID_TO 0x5F24

static const guint8 profile[] = { 0x00 };
static const guint8 cofactor[] = { 0x01 };
static const guint8 oid_rsa[] = { 0x04, 0x00, 0x7F, 0x00, 0x07, 0x02, 0x02, 0x02, 0x01, 0x02 };
static const guint8 oid_ec[] = { 0x04, 0x00, 0x7F, 0x00, 0x07, 0x02, 0x02, 0x02, 0x02, 0x03 };

/* The role that the certificates of real cards have, and dates with one digit to a byte. Nothing reads them. */
static const guint8 role[] = { 0x06, 0x0B, 0x2B, 0x06, 0x01, 0x04, 0x01, 0x81,
                               0xC3, 0x1F, 0x03, 0x01, 0x01, 0x53, 0x01, 0x00 };
static const guint8 valid_from[] = { 2, 4, 0, 1, 0, 1 };
static const guint8 valid_to[] = { 4, 4, 0, 1, 0, 1 };

static void
append_bytes (GByteArray *array, guint16 tag, GBytes *value)
{
  card_tlv_append (array, tag, g_bytes_get_data (value, NULL), g_bytes_get_size (value));
}

static void
append_text (GByteArray *array, guint16 tag, const char *text)
{
  card_tlv_append (array, tag, (const guint8 *) text, strlen (text));
}

/* Appends @content as one element, and frees it. */
static void
append_taken (GByteArray *array, guint16 tag, GByteArray *content)
{
  card_tlv_append (array, tag, content->data, content->len);
  g_byte_array_unref (content);
}

static void
append_public_key (GByteArray *body, const CardKey *key, gboolean with_curve)
{
  GByteArray *public_key = g_byte_array_new ();

  if (key->kind == CARD_KEY_RSA)
    {
      CardRsaNumbers numbers;

      card_key_get_rsa_numbers (key, &numbers);
      card_tlv_append (public_key, CARD_TAG_OID, oid_rsa, sizeof oid_rsa);
      append_bytes (public_key, 0x81, numbers.n);
      append_bytes (public_key, 0x82, numbers.e);
      card_rsa_numbers_clear (&numbers);
    }
  else
    {
      g_autoptr (GBytes) point = card_key_get_ec_point (key);

      card_tlv_append (public_key, CARD_TAG_OID, oid_ec, sizeof oid_ec);
      if (with_curve)
        {
          for (guint i = 0; i < G_N_ELEMENTS (key->curve->parameters); i++)
            append_bytes (public_key, (guint16) (0x81 + i), key->curve->parameters[i]);
        }
      append_bytes (public_key, 0x86, point);
      if (with_curve)
        card_tlv_append (public_key, 0x87, cofactor, sizeof cofactor);
    }
  append_taken (body, CARD_TAG_PUBLIC_KEY, public_key);
}

/**
 * card_cvc_new_certificate:
 * @key: an EC key
 * @holder: its name (CHR)
 * @authority_key: an EC key that signs
 * @authority: its name (CAR)
 *
 * Makes a certificate of the kind that stands in EF 2F02.
 *
 * Returns: (transfer full): the certificate
 */
GBytes *
card_cvc_new_certificate (const CardKey *key,
                          const char *holder,
                          const CardKey *authority_key,
                          const char *authority)
{
  GByteArray *body = g_byte_array_new ();
  GByteArray *content = g_byte_array_new ();
  GByteArray *certificate = g_byte_array_new ();
  g_autoptr (GBytes) signature = NULL;

  card_tlv_append (body, CARD_TAG_PROFILE, profile, sizeof profile);
  append_text (body, CARD_TAG_AUTHORITY, authority);
  append_public_key (body, key, FALSE);
  append_text (body, CARD_TAG_HOLDER, holder);
  card_tlv_append (body, TAG_ROLE, role, sizeof role);
  card_tlv_append (body, TAG_VALID_FROM, valid_from, sizeof valid_from);
  card_tlv_append (body, TAG_VALID_TO, valid_to, sizeof valid_to);
  append_taken (content, CARD_TAG_CERTIFICATE_BODY, body);

  signature = card_key_ecdsa_plain (authority_key, content->data, content->len);
  append_bytes (content, CARD_TAG_SIGNATURE, signature);
  append_taken (certificate, CARD_TAG_CERTIFICATE, content);
  return g_byte_array_free_to_bytes (certificate);
}

static GBytes *
sign_with_new_key (const CardKey *key, const GByteArray *body)
{
  guint8 digest[CARD_SHA256_SIZE];

  if (key->kind == CARD_KEY_EC)
    return card_key_ecdsa_plain (key, body->data, body->len);
  card_sha256 (body->data, body->len, digest);
  return card_key_rsa_sign (key, EVP_sha256 (), digest, sizeof digest);
}

static gsize
get_public_key_size (const CardCurve *curve, guint rsa_bits, gsize exponent_size)
{
  gsize size = 0;

  if (!curve)
    return card_tlv_get_size (CARD_TAG_OID, sizeof oid_rsa) + card_tlv_get_size (0x81, rsa_bits / 8)
           + card_tlv_get_size (0x82, exponent_size);
  for (guint i = 0; i < G_N_ELEMENTS (curve->parameters); i++)
    size += card_tlv_get_size ((guint16) (0x81 + i), g_bytes_get_size (curve->parameters[i]));
  return size + card_tlv_get_size (CARD_TAG_OID, sizeof oid_ec)
         + card_tlv_get_size (0x86, 1 + 2 * curve->field_size)
         + card_tlv_get_size (0x87, sizeof cofactor);
}

/**
 * card_cvc_get_request_size:
 * @curve: (nullable): curve of an EC key; %NULL for RSA
 * @rsa_bits: bits of an RSA key
 * @exponent_size: bytes of its public exponent, without zeros before it
 * @holder_size: bytes of its name
 * @authority_size: bytes of the name whom the request is for
 * @device_curve: curve of the card's own key
 * @device_holder_size: bytes of its name
 *
 * Returns: bytes of what card_cvc_new_request() makes of such a key, which thus need not be there yet
 */
gsize
card_cvc_get_request_size (const CardCurve *curve,
                           guint rsa_bits,
                           gsize exponent_size,
                           gsize holder_size,
                           gsize authority_size,
                           const CardCurve *device_curve,
                           gsize device_holder_size)
{
  gsize signature_size = curve ? 2 * curve->field_size : rsa_bits / 8;
  gsize size = card_tlv_get_size (CARD_TAG_PROFILE, sizeof profile)
               + card_tlv_get_size (CARD_TAG_AUTHORITY, authority_size)
               + card_tlv_get_size (CARD_TAG_PUBLIC_KEY,
                                    get_public_key_size (curve, rsa_bits, exponent_size))
               + card_tlv_get_size (CARD_TAG_HOLDER, holder_size);

  size = card_tlv_get_size (CARD_TAG_CERTIFICATE_BODY, size)
         + card_tlv_get_size (CARD_TAG_SIGNATURE, signature_size);
  size = card_tlv_get_size (CARD_TAG_CERTIFICATE, size)
         + card_tlv_get_size (CARD_TAG_AUTHORITY, device_holder_size)
         + card_tlv_get_size (CARD_TAG_SIGNATURE, 2 * device_curve->field_size);
  return card_tlv_get_size (CARD_TAG_REQUEST, size);
}

/**
 * card_cvc_new_request:
 * @key: the key that was made, RSA or EC
 * @holder: its name (CHR), from the command
 * @authority: whom the request is for (CAR), from the command
 * @device_key: the card's own key
 * @device_holder: its name
 *
 * Makes the authenticated request that the card answers a key generation with: signed with the new key inside, with the card's
 * key around.
 *
 * Returns: (transfer full): the request
 */
GBytes *
card_cvc_new_request (const CardKey *key,
                      GBytes *holder,
                      GBytes *authority,
                      const CardKey *device_key,
                      const char *device_holder)
{
  GByteArray *body = g_byte_array_new ();
  GByteArray *inner = g_byte_array_new ();
  GByteArray *outer = g_byte_array_new ();
  GByteArray *request = g_byte_array_new ();
  g_autoptr (GBytes) inner_signature = NULL;
  g_autoptr (GBytes) outer_signature = NULL;

  card_tlv_append (body, CARD_TAG_PROFILE, profile, sizeof profile);
  append_bytes (body, CARD_TAG_AUTHORITY, authority);
  append_public_key (body, key, TRUE);
  append_bytes (body, CARD_TAG_HOLDER, holder);
  append_taken (inner, CARD_TAG_CERTIFICATE_BODY, body);

  inner_signature = sign_with_new_key (key, inner);
  append_bytes (inner, CARD_TAG_SIGNATURE, inner_signature);
  append_taken (outer, CARD_TAG_CERTIFICATE, inner);

  append_text (outer, CARD_TAG_AUTHORITY, device_holder);
  outer_signature = card_key_ecdsa_plain (device_key, outer->data, outer->len);
  append_bytes (outer, CARD_TAG_SIGNATURE, outer_signature);
  append_taken (request, CARD_TAG_REQUEST, outer);
  return g_byte_array_free_to_bytes (request);
}
