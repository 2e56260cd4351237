/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-pkcs11-object.h"

G_BEGIN_DECLS

/**
 * KwPkcs11NewKey:
 * @bits: size of the key
 * @id: CKA_ID
 * @label: CKA_LABEL
 * @extractable: CKA_EXTRACTABLE
 *
 * What a new key shall be like.
 */
typedef struct
{
  guint bits;
  GBytes *id;
  const char *label;
  gboolean extractable;
} KwPkcs11NewKey;

gboolean kw_pkcs11_check_id_is_free (KwPkcs11Session *session, GBytes *id, GError **error);

KwKey *kw_pkcs11_generate_rsa (KwPkcs11Session *session,
                               const KwPkcs11NewKey *wanted,
                               KwPkcs11Object **out_object,
                               GError **error);

KwKey *kw_pkcs11_generate_aes (KwPkcs11Session *session,
                               const KwPkcs11NewKey *wanted,
                               KwPkcs11Object **out_object,
                               GError **error);

gboolean kw_pkcs11_destroy_all (KwPkcs11Session *session, GBytes *id, GError **error);

gboolean
kw_pkcs11_destroy_key (KwPkcs11Session *session, KwKeyKind kind, GBytes *id, GError **error);

G_END_DECLS
