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
 * KwKey:
 *
 * Description of a key on a token: kind, size, CKA_ID, label and, for an RSA key, its public half. Immutable and
 * reference-counted; any thread.
 */
typedef struct _KwKey KwKey;

KwKey *
kw_key_new (KwKeyKind kind, guint bits, GBytes *id, const char *label, GBytes *public_key_der);

KwKey *kw_key_ref (KwKey *self);

void kw_key_unref (KwKey *self);

KwKeyKind kw_key_get_kind (const KwKey *self);

guint kw_key_get_bits (const KwKey *self);

GBytes *kw_key_get_id (const KwKey *self);

const char *kw_key_get_uuid (const KwKey *self);

const char *kw_key_get_label (const KwKey *self);

GBytes *kw_key_get_public_key_der (const KwKey *self);

const char *kw_key_get_fingerprint (const KwKey *self);

char *kw_key_dup_public_key_pem (const KwKey *self, GError **error);

GBytes *kw_key_encrypt_pkcs1 (const KwKey *self, GBytes *plaintext, GError **error);

GBytes *kw_rsa_public_key_to_der (const guint8 *modulus,
                                  gsize n_modulus,
                                  const guint8 *exponent,
                                  gsize n_exponent,
                                  GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwKey, kw_key_unref)

G_END_DECLS
