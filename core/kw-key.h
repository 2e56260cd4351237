/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/**
 * KwKeyKind:
 * @KW_KEY_KIND_RSA: an RSA private key
 * @KW_KEY_KIND_AES: an AES secret key
 * @KW_KEY_KIND_EC: an EC private key
 *
 * What sort of key it is.
 */
typedef enum
{
  KW_KEY_KIND_RSA,
  KW_KEY_KIND_AES,
  KW_KEY_KIND_EC,
} KwKeyKind;

#define KW_N_KEY_KINDS (KW_KEY_KIND_EC + 1)

const char *kw_key_kind_to_string (KwKeyKind kind);

gboolean kw_key_kind_from_string (const char *nick, KwKeyKind *out_kind);

/**
 * KwKeyUsage:
 * @KW_KEY_USAGE_NONE: nothing
 * @KW_KEY_USAGE_ENCRYPT: encrypt; for an AES key by CBC
 * @KW_KEY_USAGE_DECRYPT: decrypt; for an AES key by CBC
 * @KW_KEY_USAGE_SIGN: sign
 * @KW_KEY_USAGE_WRAP: be wrapped, so that it can be cloned to another token
 * @KW_KEY_USAGE_UNWRAP: unwrap other keys
 *
 * What a token lets be done with a key.
 */
typedef enum
{
  KW_KEY_USAGE_NONE = 0,
  KW_KEY_USAGE_ENCRYPT = 1 << 0,
  KW_KEY_USAGE_DECRYPT = 1 << 1,
  KW_KEY_USAGE_SIGN = 1 << 2,
  KW_KEY_USAGE_WRAP = 1 << 3,
  KW_KEY_USAGE_UNWRAP = 1 << 4,
} KwKeyUsage;

/**
 * KwKey:
 *
 * Description of a key on a token: kind, size, CKA_ID, label, what it may do and, for an RSA key, its public half.
 * Immutable and reference-counted; any thread.
 */
typedef struct _KwKey KwKey;

/**
 * KwKeyFields:
 * @kind: its kind
 * @bits: its size in bits
 * @id: CKA_ID
 * @label: (nullable): CKA_LABEL; made valid UTF-8 when it is not
 * @public_key_der: (nullable): SubjectPublicKeyInfo in DER, for RSA and EC keys
 * @usage: what the token lets be done with it
 * @reference: the number it has on a card, by which keys are ordered; 0 where the token has none
 * @weakness: (nullable): why it should not be used, as a sentence for the administrator
 *
 * What a back end tells of a key. Fields that are not named in an initialiser are empty.
 */
typedef struct
{
  KwKeyKind kind;
  guint bits;
  GBytes *id;
  const char *label;
  GBytes *public_key_der;
  KwKeyUsage usage;
  guint reference;
  const char *weakness;
} KwKeyFields;

KwKey *
kw_key_new (KwKeyKind kind, guint bits, GBytes *id, const char *label, GBytes *public_key_der);

KwKey *kw_key_new_full (const KwKeyFields *fields);

KwKey *kw_key_new_with_fingerprint (const KwKey *key, const char *fingerprint);

KwKey *kw_key_ref (KwKey *self);

void kw_key_unref (KwKey *self);

KwKeyKind kw_key_get_kind (const KwKey *self);

guint kw_key_get_bits (const KwKey *self);

GBytes *kw_key_get_id (const KwKey *self);

const char *kw_key_get_uuid (const KwKey *self);

const char *kw_key_get_label (const KwKey *self);

GBytes *kw_key_get_public_key_der (const KwKey *self);

const char *kw_key_get_fingerprint (const KwKey *self);

KwKeyUsage kw_key_get_usage (const KwKey *self);

guint kw_key_get_reference (const KwKey *self);

gboolean kw_key_is_weak (const KwKey *self);

const char *kw_key_get_weakness (const KwKey *self);

int kw_key_compare_places (const KwKey *a, const KwKey *b);

char *kw_key_dup_public_key_pem (const KwKey *self, GError **error);

GBytes *kw_key_encrypt_pkcs1 (const KwKey *self, GBytes *plaintext, GError **error);

gboolean
kw_key_verify_sha256 (const KwKey *self, GBytes *digest, GBytes *signature, GError **error);

GBytes *kw_rsa_public_key_to_der (const guint8 *modulus,
                                  gsize n_modulus,
                                  const guint8 *exponent,
                                  gsize n_exponent,
                                  GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwKey, kw_key_unref)

G_END_DECLS
