/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-sc-cvc"

#include "config.h"

#include "kw-sc-cvc.h"

#include "kw-error.h"
#include "kw-limits.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/x509.h>
#include <string.h>

/*
 * What can be read from the certificates on a card: its serial number from the card-verifiable one in EF 2F02, and the public
 * half of a key from the request that the card made with the key, or from an X.509 certificate that somebody put in its place.
 * Signatures are not checked: a key proves what it is by being used.
 */

#define TAG_REQUEST 0x67
#define TAG_CERTIFICATE 0x7F21
#define TAG_BODY 0x7F4E
#define TAG_HOLDER 0x5F20
#define TAG_PUBLIC_KEY 0x7F49
#define TAG_OID 0x06
#define TAG_SEQUENCE 0x30
#define TAG_RSA_MODULUS 0x81
#define TAG_RSA_EXPONENT 0x82
#define TAG_EC_PRIME 0x81
#define TAG_EC_A 0x82
#define TAG_EC_B 0x83
#define TAG_EC_POINT 0x86

/* The holder's name ends with five digits that count its certificates. */
#define SEQUENCE_LENGTH 5
#define MIN_HOLDER 8
#define MAX_HOLDER 20
#define MAX_POINT 134 /* bytes: P-521, uncompressed */

/* id-TA of BSI TR-03110-3, A.1.1.3; the byte behind it tells RSA (1) from ECDSA (2). */
static const guint8 oid_prefix[] = { 0x04, 0x00, 0x7F, 0x00, 0x07, 0x02, 0x02, 0x02 };

/* The curves that cards know. */
static const int curve_nids[] = {
  NID_X9_62_prime256v1, NID_secp384r1,       NID_secp521r1,       NID_X9_62_prime192v1,
  NID_secp256k1,        NID_secp192k1,       NID_brainpoolP192r1, NID_brainpoolP224r1,
  NID_brainpoolP256r1,  NID_brainpoolP320r1, NID_brainpoolP384r1, NID_brainpoolP512r1,
};

G_DEFINE_AUTOPTR_CLEANUP_FUNC (BIGNUM, BN_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (EC_GROUP, EC_GROUP_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (EVP_PKEY, EVP_PKEY_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (EVP_PKEY_CTX, EVP_PKEY_CTX_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (X509, X509_free)

static gpointer
set_unreadable (const char *what, GError **error)
{
  g_set_error (error, KW_ERROR, KW_ERROR_DEVICE_FAILED, "%s on the card cannot be read", what);
  return NULL;
}

/**
 * kw_sc_cvc_dup_serial:
 * @certificates: content of EF 2F02
 * @error: where to store the error
 *
 * Reads the serial number of a card. Any thread.
 *
 * Returns: (transfer full): letters and digits; %NULL with %KW_ERROR_DEVICE_FAILED
 */
char *
kw_sc_cvc_dup_serial (KwScSpan certificates, GError **error)
{
  KwScSpan certificate = { 0 };
  KwScSpan body = { 0 };
  KwScSpan holder = { 0 };

  if (!kw_sc_tlv_read (&certificates, TAG_CERTIFICATE, &certificate)
      || !kw_sc_tlv_find (certificate, TAG_BODY, &body)
      || !kw_sc_tlv_find (body, TAG_HOLDER, &holder) || holder.size < MIN_HOLDER
      || holder.size > MAX_HOLDER)
    return set_unreadable ("The certificate of the device", error);
  for (gsize i = 0; i < holder.size; i++)
    {
      if (!g_ascii_isalnum (holder.data[i]))
        return set_unreadable ("The certificate of the device", error);
    }
  return g_strndup ((const char *) holder.data, holder.size - SEQUENCE_LENGTH);
}

static GBytes *
encode_public_key (EVP_PKEY *public_key, KwKeyKind *out_kind, guint *out_bits, GError **error)
{
  guint8 *der = NULL;
  int n_der = 0;
  GBytes *result = NULL;
  KwKeyKind kind = KW_KEY_KIND_RSA;

  if (EVP_PKEY_is_a (public_key, "EC"))
    kind = KW_KEY_KIND_EC;
  else if (!EVP_PKEY_is_a (public_key, "RSA") || EVP_PKEY_get_bits (public_key) < KW_MIN_RSA_BITS
           || EVP_PKEY_get_bits (public_key) > KW_MAX_RSA_BITS)
    return set_unreadable ("The public key of a kind that is not known", error);
  n_der = i2d_PUBKEY (public_key, &der);
  if (n_der <= 0)
    return set_unreadable ("A public key", error);
  result = g_bytes_new (der, (gsize) n_der);
  OPENSSL_free (der);
  *out_kind = kind;
  *out_bits = (guint) EVP_PKEY_get_bits (public_key);
  return result;
}

static GBytes *
read_x509 (KwScSpan file, KwKeyKind *out_kind, guint *out_bits, GError **error)
{
  const guint8 *at = file.data;
  g_autoptr (X509) certificate = d2i_X509 (NULL, &at, (long) file.size);
  EVP_PKEY *public_key = certificate != NULL ? X509_get0_pubkey (certificate) : NULL;

  if (public_key == NULL)
    return set_unreadable ("An X.509 certificate", error);
  return encode_public_key (public_key, out_kind, out_bits, error);
}

static gboolean
span_is_number (KwScSpan span, const BIGNUM *number)
{
  g_autoptr (BIGNUM) value = BN_bin2bn (span.data, (int) span.size, NULL);

  return value != NULL && BN_cmp (value, number) == 0;
}

static gboolean
curve_is (int nid, KwScSpan prime, KwScSpan a, KwScSpan b)
{
  g_autoptr (EC_GROUP) group = EC_GROUP_new_by_curve_name (nid);
  g_autoptr (BIGNUM) curve_prime = BN_new ();
  g_autoptr (BIGNUM) curve_a = BN_new ();
  g_autoptr (BIGNUM) curve_b = BN_new ();

  return group != NULL && curve_prime != NULL && curve_a != NULL && curve_b != NULL
         && EC_GROUP_get_curve (group, curve_prime, curve_a, curve_b, NULL) == 1
         && span_is_number (prime, curve_prime) && span_is_number (a, curve_a)
         && span_is_number (b, curve_b);
}

static const char *
find_curve (KwScSpan prime, KwScSpan a, KwScSpan b)
{
  for (gsize i = 0; i < G_N_ELEMENTS (curve_nids); i++)
    {
      if (curve_is (curve_nids[i], prime, a, b))
        return OBJ_nid2sn (curve_nids[i]);
    }
  return NULL;
}

static GBytes *
read_ec (KwScSpan template, KwKeyKind *out_kind, guint *out_bits, GError **error)
{
  KwScSpan prime = { 0 };
  KwScSpan a = { 0 };
  KwScSpan b = { 0 };
  KwScSpan point = { 0 };
  const char *curve = NULL;
  g_autoptr (EVP_PKEY_CTX) context = EVP_PKEY_CTX_new_from_name (NULL, "EC", NULL);
  g_autoptr (EVP_PKEY) public_key = NULL;
  OSSL_PARAM params[3];

  if (!kw_sc_tlv_find (template, TAG_EC_PRIME, &prime) || !kw_sc_tlv_find (template, TAG_EC_A, &a)
      || !kw_sc_tlv_find (template, TAG_EC_B, &b)
      || !kw_sc_tlv_find (template, TAG_EC_POINT, &point) || point.size == 0
      || prime.size > MAX_POINT || a.size > MAX_POINT || b.size > MAX_POINT
      || point.size > MAX_POINT)
    return set_unreadable ("An EC public key", error);
  curve = find_curve (prime, a, b);
  if (curve == NULL)
    return set_unreadable ("An EC public key on an unknown curve", error);
  params[0] = OSSL_PARAM_construct_utf8_string (OSSL_PKEY_PARAM_GROUP_NAME, (char *) curve, 0);
  params[1] = OSSL_PARAM_construct_octet_string (OSSL_PKEY_PARAM_PUB_KEY, (void *) point.data,
                                                 point.size);
  params[2] = OSSL_PARAM_construct_end ();
  if (context == NULL || EVP_PKEY_fromdata_init (context) != 1
      || EVP_PKEY_fromdata (context, &public_key, EVP_PKEY_PUBLIC_KEY, params) != 1)
    return set_unreadable ("An EC public key", error);
  return encode_public_key (public_key, out_kind, out_bits, error);
}

static GBytes *
read_rsa (KwScSpan template, KwKeyKind *out_kind, guint *out_bits, GError **error)
{
  KwScSpan modulus = { 0 };
  KwScSpan exponent = { 0 };
  g_autoptr (BIGNUM) number = NULL;
  GBytes *der = NULL;

  if (!kw_sc_tlv_find (template, TAG_RSA_MODULUS, &modulus)
      || !kw_sc_tlv_find (template, TAG_RSA_EXPONENT, &exponent))
    return set_unreadable ("An RSA public key", error);
  der = kw_rsa_public_key_to_der (modulus.data, modulus.size, exponent.data, exponent.size, error);
  if (der == NULL)
    return NULL;
  number = BN_bin2bn (modulus.data, (int) modulus.size, NULL);
  *out_bits = number != NULL ? (guint) BN_num_bits (number) : 0;
  *out_kind = KW_KEY_KIND_RSA;
  return der;
}

static GBytes *
read_cvc (KwScSpan certificate, KwKeyKind *out_kind, guint *out_bits, GError **error)
{
  KwScSpan body = { 0 };
  KwScSpan template = { 0 };
  KwScSpan oid = { 0 };

  if (!kw_sc_tlv_find (certificate, TAG_BODY, &body)
      || !kw_sc_tlv_find (body, TAG_PUBLIC_KEY, &template)
      || !kw_sc_tlv_find (template, TAG_OID, &oid) || oid.size != sizeof oid_prefix + 2
      || memcmp (oid.data, oid_prefix, sizeof oid_prefix) != 0)
    return set_unreadable ("The request for a certificate", error);
  switch (oid.data[sizeof oid_prefix])
    {
    case 1:
      return read_rsa (template, out_kind, out_bits, error);
    case 2:
      return read_ec (template, out_kind, out_bits, error);
    default:
      return set_unreadable ("The request for a certificate", error);
    }
}

/**
 * kw_sc_cvc_dup_public_key:
 * @file: content of a key's EF CExx, or a certificate
 * @out_kind: (out): %KW_KEY_KIND_RSA or %KW_KEY_KIND_EC
 * @out_bits: (out): size of the key
 * @error: where to store the error
 *
 * Reads a public key from a request, a card-verifiable certificate or an X.509 certificate. Any thread.
 *
 * Returns: (transfer full): SubjectPublicKeyInfo in DER; %NULL with %KW_ERROR_DEVICE_FAILED
 */
GBytes *
kw_sc_cvc_dup_public_key (KwScSpan file, KwKeyKind *out_kind, guint *out_bits, GError **error)
{
  KwScSpan rest = file;
  KwScTlv tlv = { 0 };
  KwScSpan certificate = { 0 };

  if (!kw_sc_tlv_next (&rest, &tlv))
    return set_unreadable ("A certificate", error);
  switch (tlv.tag)
    {
    case TAG_SEQUENCE:
      return read_x509 (tlv.whole, out_kind, out_bits, error);
    case TAG_CERTIFICATE:
      return read_cvc (tlv.value, out_kind, out_bits, error);
    case TAG_REQUEST:
      if (!kw_sc_tlv_find (tlv.value, TAG_CERTIFICATE, &certificate))
        return set_unreadable ("The request for a certificate", error);
      return read_cvc (certificate, out_kind, out_bits, error);
    default:
      return set_unreadable ("A certificate", error);
    }
}
