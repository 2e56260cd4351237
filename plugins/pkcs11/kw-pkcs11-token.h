/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-pkcs11-module.h"
#include "kw-pkcs11-select.h"
#include "kw-token.h"

G_BEGIN_DECLS

#define KW_TYPE_PKCS11_TOKEN (kw_pkcs11_token_get_type ())
G_DECLARE_FINAL_TYPE (KwPkcs11Token, kw_pkcs11_token, KW, PKCS11_TOKEN, GObject)

KwPkcs11Token *kw_pkcs11_token_new (KwPkcs11Module *module,
                                    const KwPkcs11Slot *slot,
                                    const KwPkcs11Config *config);

const KwPkcs11Config *kw_pkcs11_token_get_config (KwPkcs11Token *self);

gboolean kw_pkcs11_token_is_idle (KwPkcs11Token *self);

gboolean kw_pkcs11_token_check (KwPkcs11Token *self, GError **error);

void kw_pkcs11_token_release (KwPkcs11Token *self);

G_END_DECLS
