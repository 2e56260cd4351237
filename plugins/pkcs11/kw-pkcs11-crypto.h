/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-pkcs11-object.h"
#include "kw-token.h"

G_BEGIN_DECLS

KwSecret *kw_pkcs11_decrypt_raw (KwPkcs11Session *session,
                                 KwPkcs11Object *object,
                                 KwRsaPadding padding,
                                 GBytes *ciphertext,
                                 GError **error);

KwSecret *kw_pkcs11_decrypt_padded (KwPkcs11Session *session,
                                    KwPkcs11Object *object,
                                    KwRsaPadding padding,
                                    GBytes *ciphertext,
                                    GError **error);

GBytes *kw_pkcs11_sign_sha256 (KwPkcs11Session *session,
                               KwPkcs11Object *object,
                               GBytes *digest,
                               GError **error);

KwSecret *kw_pkcs11_aes_cbc (KwPkcs11Session *session,
                             KwPkcs11Object *object,
                             gboolean encrypt,
                             const guint8 *iv,
                             gconstpointer data,
                             gsize size,
                             GError **error);

gboolean kw_pkcs11_random (KwPkcs11Session *session, guint8 *data, gsize size, GError **error);

G_END_DECLS
