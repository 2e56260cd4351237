/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-sc-key.h"
#include "kw-token.h"

G_BEGIN_DECLS

KwSecret *kw_sc_rsa_decrypt (KwScLink *link,
                             KwScKey *key,
                             KwRsaPadding padding,
                             GBytes *ciphertext,
                             GError **error);

GBytes *kw_sc_sign_sha256 (KwScLink *link, KwScKey *key, GBytes *digest, GError **error);

KwSecret *kw_sc_aes_cbc (KwScLink *link,
                         KwScKey *key,
                         gboolean encrypt,
                         const guint8 *iv,
                         gconstpointer data,
                         gsize size,
                         GError **error);

gboolean kw_sc_random (KwScLink *link, guint8 *data, gsize size, GError **error);

G_END_DECLS
