/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-key"

#include "config.h"

#include "kw-key.h"

#include "kw-error.h"
#include "kw-limits.h"
#include "kw-uuid.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>

struct _KwKey
{
  gatomicrefcount references;
  KwKeyKind kind;
  guint bits;
  GBytes *id;             /* owned */
  char *uuid;             /* owned; NULL when the id is not 16 bytes long */
  char *label;            /* owned */
  GBytes *public_key_der; /* owned; SubjectPublicKeyInfo; NULL for secret keys */
  char *fingerprint;      /* owned; lower-case hex; NULL when it is not known */
  KwKeyUsage usage;
  guint reference;
  char *weakness; /* owned; NULL when the key is sound */
};

G_DEFINE_AUTOPTR_CLEANUP_FUNC (BIGNUM, BN_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (BIO, BIO_free_all)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (EVP_PKEY, EVP_PKEY_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (EVP_PKEY_CTX, EVP_PKEY_CTX_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (OSSL_PARAM, OSSL_PARAM_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (OSSL_PARAM_BLD, OSSL_PARAM_BLD_free)

static const char *const kind_nicks[] = {
  [KW_KEY_KIND_RSA] = "rsa",
  [KW_KEY_KIND_AES] = "aes",
  [KW_KEY_KIND_EC] = "ec",
};

G_STATIC_ASSERT (G_N_ELEMENTS (kind_nicks) == KW_N_KEY_KINDS);

/* What a key may do whose token does not tell. */
static const KwKeyUsage default_usages[] = {
  [KW_KEY_KIND_RSA] = (KwKeyUsage) (KW_KEY_USAGE_DECRYPT | KW_KEY_USAGE_SIGN),
  [KW_KEY_KIND_AES] = (KwKeyUsage) (KW_KEY_USAGE_ENCRYPT | KW_KEY_USAGE_DECRYPT),
  [KW_KEY_KIND_EC] = KW_KEY_USAGE_SIGN,
};

G_STATIC_ASSERT (G_N_ELEMENTS (default_usages) == KW_N_KEY_KINDS);

static EVP_PKEY *
parse_public_key (const KwKey *self, GError **error)
{
  EVP_PKEY *public_key = NULL;

  if (self->public_key_der != NULL)
    {
      gsize size = 0;
      const guint8 *der = g_bytes_get_data (self->public_key_der, &size);

      public_key = d2i_PUBKEY (NULL, &der, (long) size);
    }
  if (public_key == NULL)
    g_set_error (error, KW_ERROR, KW_ERROR_NOT_SUPPORTED, "The public half of key %s is not known",
                 self->uuid != NULL ? self->uuid : self->label);
  return public_key;
}

/**
 * kw_key_kind_to_string:
 * @kind: a kind of key
 *
 * Returns: (transfer none): its nick: "rsa", "aes" or "ec". Any thread.
 */
const char *
kw_key_kind_to_string (KwKeyKind kind)
{
  g_return_val_if_fail ((guint) kind < G_N_ELEMENTS (kind_nicks), NULL);

  return kind_nicks[kind];
}

/**
 * kw_key_kind_from_string:
 * @nick: nick of a kind of key
 * @out_kind: (out): the kind
 *
 * Returns: %FALSE when @nick is unknown. Any thread.
 */
gboolean
kw_key_kind_from_string (const char *nick, KwKeyKind *out_kind)
{
  g_return_val_if_fail (nick != NULL, FALSE);

  for (guint i = 0; i < G_N_ELEMENTS (kind_nicks); i++)
    {
      if (g_str_equal (nick, kind_nicks[i]))
        {
          *out_kind = (KwKeyKind) i;
          return TRUE;
        }
    }
  return FALSE;
}

/**
 * kw_key_new:
 * @kind: its kind
 * @bits: its size in bits
 * @id: CKA_ID
 * @label: (nullable): CKA_LABEL; made valid UTF-8 when it is not
 * @public_key_der: (nullable): SubjectPublicKeyInfo in DER, for RSA and EC keys
 *
 * Describes a key that may do what keys of its kind are for. Any thread.
 *
 * Returns: (transfer full): the description
 */
KwKey *
kw_key_new (KwKeyKind kind, guint bits, GBytes *id, const char *label, GBytes *public_key_der)
{
  g_return_val_if_fail ((guint) kind < G_N_ELEMENTS (default_usages), NULL);

  return kw_key_new_full (&(KwKeyFields){
      .kind = kind,
      .bits = bits,
      .id = id,
      .label = label,
      .public_key_der = public_key_der,
      .usage = default_usages[kind],
  });
}

/**
 * kw_key_new_full:
 * @fields: what is known of it; copied
 *
 * Describes a key. The fingerprint of a key with a public half is the SHA-256 of its SubjectPublicKeyInfo; one without has
 * none yet, see kw_key_new_with_fingerprint(). Any thread.
 *
 * Returns: (transfer full): the description
 */
KwKey *
kw_key_new_full (const KwKeyFields *fields)
{
  KwKey *self = NULL;

  g_return_val_if_fail (fields != NULL && fields->id != NULL, NULL);
  g_return_val_if_fail ((guint) fields->kind < KW_N_KEY_KINDS, NULL);

  self = g_new0 (KwKey, 1);
  g_atomic_ref_count_init (&self->references);
  self->kind = fields->kind;
  self->bits = fields->bits;
  self->id = g_bytes_ref (fields->id);
  self->uuid = kw_uuid_from_bytes (fields->id);
  self->label = g_utf8_make_valid (fields->label != NULL ? fields->label : "", -1);
  if (fields->public_key_der != NULL)
    {
      self->public_key_der = g_bytes_ref (fields->public_key_der);
      self->fingerprint = g_compute_checksum_for_bytes (G_CHECKSUM_SHA256, fields->public_key_der);
    }
  self->usage = fields->usage;
  self->reference = fields->reference;
  self->weakness = g_strdup (fields->weakness);
  return self;
}

/**
 * kw_key_new_with_fingerprint:
 * @key: a key
 * @fingerprint: (nullable): its fingerprint in lower-case hex
 *
 * Describes a key again, with a fingerprint that was found out by using it. Any thread.
 *
 * Returns: (transfer full): a copy of @key
 */
KwKey *
kw_key_new_with_fingerprint (const KwKey *key, const char *fingerprint)
{
  KwKey *self = NULL;

  g_return_val_if_fail (key != NULL, NULL);

  self = kw_key_new_full (&(KwKeyFields){
      .kind = key->kind,
      .bits = key->bits,
      .id = key->id,
      .label = key->label,
      .public_key_der = key->public_key_der,
      .usage = key->usage,
      .reference = key->reference,
      .weakness = key->weakness,
  });
  g_free (self->fingerprint);
  self->fingerprint = g_strdup (fingerprint);
  return self;
}

/**
 * kw_key_ref:
 * @self: a key
 *
 * Returns: (transfer full): @self with one more reference. Any thread.
 */
KwKey *
kw_key_ref (KwKey *self)
{
  g_return_val_if_fail (self != NULL, NULL);

  g_atomic_ref_count_inc (&self->references);
  return self;
}

/**
 * kw_key_unref:
 * @self: (transfer full): a key
 *
 * Gives a reference back. Any thread.
 */
void
kw_key_unref (KwKey *self)
{
  g_return_if_fail (self != NULL);

  if (!g_atomic_ref_count_dec (&self->references))
    return;
  g_bytes_unref (self->id);
  g_free (self->uuid);
  g_free (self->label);
  g_clear_pointer (&self->public_key_der, g_bytes_unref);
  g_free (self->fingerprint);
  g_free (self->weakness);
  g_free (self);
}

/**
 * kw_key_get_kind:
 * @self: a key
 *
 * Returns: its kind. Any thread.
 */
KwKeyKind
kw_key_get_kind (const KwKey *self)
{
  g_return_val_if_fail (self != NULL, KW_KEY_KIND_RSA);

  return self->kind;
}

/**
 * kw_key_get_bits:
 * @self: a key
 *
 * Returns: its size in bits. Any thread.
 */
guint
kw_key_get_bits (const KwKey *self)
{
  g_return_val_if_fail (self != NULL, 0);

  return self->bits;
}

/**
 * kw_key_get_id:
 * @self: a key
 *
 * Returns: (transfer none): its CKA_ID. Any thread.
 */
GBytes *
kw_key_get_id (const KwKey *self)
{
  g_return_val_if_fail (self != NULL, NULL);

  return self->id;
}

/**
 * kw_key_get_uuid:
 * @self: a key
 *
 * Returns: (transfer none) (nullable): its CKA_ID written as a lower-case UUID, %NULL when that is not 16 bytes long.
 *   Any thread.
 */
const char *
kw_key_get_uuid (const KwKey *self)
{
  g_return_val_if_fail (self != NULL, NULL);

  return self->uuid;
}

/**
 * kw_key_get_label:
 * @self: a key
 *
 * Returns: (transfer none): its label, valid UTF-8, perhaps empty. Any thread.
 */
const char *
kw_key_get_label (const KwKey *self)
{
  g_return_val_if_fail (self != NULL, NULL);

  return self->label;
}

/**
 * kw_key_get_public_key_der:
 * @self: a key
 *
 * Returns: (transfer none) (nullable): its SubjectPublicKeyInfo in DER. Any thread.
 */
GBytes *
kw_key_get_public_key_der (const KwKey *self)
{
  g_return_val_if_fail (self != NULL, NULL);

  return self->public_key_der;
}

/**
 * kw_key_get_fingerprint:
 * @self: a key
 *
 * Returns: (transfer none) (nullable): its fingerprint in lower-case hex. Any thread.
 */
const char *
kw_key_get_fingerprint (const KwKey *self)
{
  g_return_val_if_fail (self != NULL, NULL);

  return self->fingerprint;
}

/**
 * kw_key_get_usage:
 * @self: a key
 *
 * Returns: what the token lets be done with it, flags of #KwKeyUsage. Any thread.
 */
KwKeyUsage
kw_key_get_usage (const KwKey *self)
{
  g_return_val_if_fail (self != NULL, KW_KEY_USAGE_NONE);

  return self->usage;
}

/**
 * kw_key_get_reference:
 * @self: a key
 *
 * Returns: the number it has on its card, 0 where the token has none. Any thread.
 */
guint
kw_key_get_reference (const KwKey *self)
{
  g_return_val_if_fail (self != NULL, 0);

  return self->reference;
}

/**
 * kw_key_is_weak:
 * @self: a key
 *
 * Returns: %TRUE when something is known to be wrong with it. Any thread.
 */
gboolean
kw_key_is_weak (const KwKey *self)
{
  g_return_val_if_fail (self != NULL, TRUE);

  return self->weakness != NULL;
}

/**
 * kw_key_get_weakness:
 * @self: a key
 *
 * Returns: (transfer none) (nullable): a sentence on what is wrong with it, %NULL when nothing is. Any thread.
 */
const char *
kw_key_get_weakness (const KwKey *self)
{
  g_return_val_if_fail (self != NULL, NULL);

  return self->weakness;
}

/**
 * kw_key_compare_places:
 * @a: a key
 * @b: another key of the same token
 *
 * Orders the keys of a token: by the number on the card, and by the bytes of CKA_ID where that does not tell. A key's place
 * in that order is what `hsm_keyid = 0` means. Any thread.
 *
 * Returns: less than, equal to or greater than 0, as for qsort()
 */
int
kw_key_compare_places (const KwKey *a, const KwKey *b)
{
  g_return_val_if_fail (a != NULL && b != NULL, 0);

  if (a->reference != b->reference)
    return a->reference < b->reference ? -1 : 1;
  return g_bytes_compare (a->id, b->id);
}

/**
 * kw_key_dup_public_key_pem:
 * @self: a key
 * @error: where to store the error
 *
 * Returns: (transfer full): the public half as "BEGIN PUBLIC KEY" PEM; %NULL with %KW_ERROR_NOT_SUPPORTED when it is not
 *   known. Any thread.
 */
char *
kw_key_dup_public_key_pem (const KwKey *self, GError **error)
{
  g_autoptr (EVP_PKEY) public_key = NULL;
  g_autoptr (BIO) output = NULL;
  char *text = NULL;
  long size = 0;

  g_return_val_if_fail (self != NULL, NULL);

  public_key = parse_public_key (self, error);
  if (public_key == NULL)
    return NULL;
  output = BIO_new (BIO_s_mem ());
  if (output == NULL || PEM_write_bio_PUBKEY (output, public_key) != 1)
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_FAILED,
                           "The public key cannot be written as PEM");
      return NULL;
    }
  size = BIO_get_mem_data (output, &text);
  return g_strndup (text, (gsize) size);
}

/**
 * kw_key_encrypt_pkcs1:
 * @self: an RSA key
 * @plaintext: at most key size − 11 bytes
 * @error: where to store the error
 *
 * Encrypts under the public half with PKCS#1 v1.5 padding (RFC 8017, 7.2.1), as ownCloud does. Any thread.
 *
 * Returns: (transfer full): the ciphertext, as long as the modulus; %NULL with %KW_ERROR_INVALID_ARGUMENT when @plaintext
 *   is too long
 */
GBytes *
kw_key_encrypt_pkcs1 (const KwKey *self, GBytes *plaintext, GError **error)
{
  g_autoptr (EVP_PKEY) public_key = NULL;
  g_autoptr (EVP_PKEY_CTX) context = NULL;
  g_autofree guint8 *output = NULL;
  gsize n_plaintext = 0;
  const guint8 *input = NULL;
  gsize n_output = 0;

  g_return_val_if_fail (self != NULL, NULL);

  public_key = parse_public_key (self, error);
  if (public_key == NULL)
    return NULL;
  input = g_bytes_get_data (plaintext, &n_plaintext);
  n_output = (gsize) EVP_PKEY_get_size (public_key);
  if (n_plaintext + RSA_PKCS1_PADDING_SIZE > n_output)
    {
      g_set_error (error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                   "%" G_GSIZE_FORMAT
                   " bytes are too long for a key of %u bits: at most %" G_GSIZE_FORMAT " fit",
                   n_plaintext, self->bits, n_output - RSA_PKCS1_PADDING_SIZE);
      return NULL;
    }
  output = g_malloc (n_output);
  context = EVP_PKEY_CTX_new (public_key, NULL);
  if (context == NULL || EVP_PKEY_encrypt_init (context) != 1
      || EVP_PKEY_CTX_set_rsa_padding (context, RSA_PKCS1_PADDING) != 1
      || EVP_PKEY_encrypt (context, output, &n_output, input != NULL ? input : (const guint8 *) "",
                           n_plaintext)
             != 1)
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_FAILED, "RSA encryption failed");
      return NULL;
    }
  return g_bytes_new_take (g_steal_pointer (&output), n_output);
}

/**
 * kw_key_verify_sha256:
 * @self: an RSA or EC key
 * @digest: 32 bytes
 * @signature: by PKCS#1 v1.5, or ECDSA in DER
 * @error: where to store the error
 *
 * Checks a signature with the public half. Any thread.
 *
 * Returns: %FALSE with %KW_ERROR_DEVICE_FAILED when it is not by this key, or %KW_ERROR_NOT_SUPPORTED when the public half is
 *   not known
 */
gboolean
kw_key_verify_sha256 (const KwKey *self, GBytes *digest, GBytes *signature, GError **error)
{
  g_autoptr (EVP_PKEY) public_key = NULL;
  g_autoptr (EVP_PKEY_CTX) context = NULL;

  g_return_val_if_fail (self != NULL && digest != NULL && signature != NULL, FALSE);

  public_key = parse_public_key (self, error);
  if (public_key == NULL)
    return FALSE;
  context = EVP_PKEY_CTX_new (public_key, NULL);
  if (context != NULL && EVP_PKEY_verify_init (context) == 1
      && (self->kind != KW_KEY_KIND_RSA
          || EVP_PKEY_CTX_set_rsa_padding (context, RSA_PKCS1_PADDING) == 1)
      && EVP_PKEY_CTX_set_signature_md (context, EVP_sha256 ()) == 1
      && EVP_PKEY_verify (context, g_bytes_get_data (signature, NULL), g_bytes_get_size (signature),
                          g_bytes_get_data (digest, NULL), g_bytes_get_size (digest))
             == 1)
    return TRUE;
  g_set_error_literal (error, KW_ERROR, KW_ERROR_DEVICE_FAILED, "The signature is not by this key");
  return FALSE;
}

/**
 * kw_rsa_public_key_to_der:
 * @modulus: CKA_MODULUS, big-endian
 * @n_modulus: its size in bytes
 * @exponent: CKA_PUBLIC_EXPONENT, big-endian
 * @n_exponent: its size in bytes
 * @error: where to store the error
 *
 * Writes an RSA public key as SubjectPublicKeyInfo. The numbers come from a token and are checked: sizes, an odd
 * modulus, an odd exponent of at least 3. Any thread.
 *
 * Returns: (transfer full): DER; %NULL with %KW_ERROR_DEVICE_FAILED when this is no RSA key
 */
GBytes *
kw_rsa_public_key_to_der (const guint8 *modulus,
                          gsize n_modulus,
                          const guint8 *exponent,
                          gsize n_exponent,
                          GError **error)
{
  g_autoptr (BIGNUM) n = NULL;
  g_autoptr (BIGNUM) e = NULL;
  g_autoptr (OSSL_PARAM_BLD) builder = NULL;
  g_autoptr (OSSL_PARAM) params = NULL;
  g_autoptr (EVP_PKEY_CTX) context = NULL;
  g_autoptr (EVP_PKEY) public_key = NULL;
  guint8 *der = NULL;
  int n_der = 0;
  GBytes *result = NULL;

  g_return_val_if_fail (modulus != NULL && exponent != NULL, NULL);

  if (n_modulus <= KW_MAX_RSA_BYTES + 1 && n_exponent <= KW_MAX_RSA_BYTES)
    {
      n = BN_bin2bn (modulus, (int) n_modulus, NULL);
      e = BN_bin2bn (exponent, (int) n_exponent, NULL);
    }
  if (n == NULL || e == NULL || BN_num_bits (n) < KW_MIN_RSA_BITS
      || BN_num_bits (n) > KW_MAX_RSA_BITS || !BN_is_odd (n) || !BN_is_odd (e) || BN_is_one (e))
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_DEVICE_FAILED,
                           "The token's public key is no RSA key");
      return NULL;
    }
  builder = OSSL_PARAM_BLD_new ();
  if (builder != NULL && OSSL_PARAM_BLD_push_BN (builder, OSSL_PKEY_PARAM_RSA_N, n) == 1
      && OSSL_PARAM_BLD_push_BN (builder, OSSL_PKEY_PARAM_RSA_E, e) == 1)
    params = OSSL_PARAM_BLD_to_param (builder);
  context = EVP_PKEY_CTX_new_from_name (NULL, "RSA", NULL);
  if (params != NULL && context != NULL && EVP_PKEY_fromdata_init (context) == 1
      && EVP_PKEY_fromdata (context, &public_key, EVP_PKEY_PUBLIC_KEY, params) == 1)
    n_der = i2d_PUBKEY (public_key, &der);
  if (n_der <= 0)
    {
      g_set_error_literal (error, KW_ERROR, KW_ERROR_DEVICE_FAILED,
                           "The token's public key cannot be encoded");
      return NULL;
    }
  result = g_bytes_new (der, (gsize) n_der);
  OPENSSL_free (der);
  return result;
}
