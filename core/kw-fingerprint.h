/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-token.h"

G_BEGIN_DECLS

#define KW_FINGERPRINT_AES_BYTES 16
#define KW_FINGERPRINT_PREFIX_BYTES 8

char *kw_fingerprint_from_check (const guint8 *block, gsize size);

char *kw_fingerprint_of_aes (KwToken *token, GBytes *id, GError **error);

gboolean kw_fingerprint_get_prefix (const char *fingerprint, guint8 *out_prefix);

G_END_DECLS
