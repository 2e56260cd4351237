/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-pkcs11-module.h"
#include "kw-secret.h"

G_BEGIN_DECLS

/**
 * KwPkcs11Session:
 * @functions: (transfer none): the module's functions
 * @handle: session handle
 * @broken: something odd happened on it: it is closed when given back
 * @last_rv: what the last failed call returned
 *
 * A session on loan, and with it the right to call into the module. One thread.
 */
typedef struct
{
  CK_FUNCTION_LIST *functions;
  CK_SESSION_HANDLE handle;
  gboolean broken;
  CK_RV last_rv;
} KwPkcs11Session;

gboolean
kw_pkcs11_session_check (KwPkcs11Session *session, CK_RV rv, const char *function, GError **error);

gboolean kw_pkcs11_session_is_public (KwPkcs11Session *session);

#define KW_TYPE_PKCS11_POOL (kw_pkcs11_pool_get_type ())
G_DECLARE_FINAL_TYPE (KwPkcs11Pool, kw_pkcs11_pool, KW, PKCS11_POOL, GObject)

KwPkcs11Pool *kw_pkcs11_pool_new (KwPkcs11Module *module,
                                  CK_SLOT_ID slot,
                                  const CK_TOKEN_INFO *token_info,
                                  guint n_sessions);

KwPkcs11Module *kw_pkcs11_pool_get_module (KwPkcs11Pool *self);

guint64 kw_pkcs11_pool_get_generation (KwPkcs11Pool *self);

CK_SLOT_ID kw_pkcs11_pool_get_slot (KwPkcs11Pool *self);

guint kw_pkcs11_pool_get_size (KwPkcs11Pool *self);

gboolean kw_pkcs11_pool_borrow (KwPkcs11Pool *self,
                                gboolean wait,
                                KwPkcs11Session *out_session,
                                GError **error);

void kw_pkcs11_pool_give_back (KwPkcs11Pool *self, KwPkcs11Session *session);

void kw_pkcs11_pool_drop_idle (KwPkcs11Pool *self);

gboolean kw_pkcs11_pool_login (KwPkcs11Pool *self, KwSecret *pin, GError **error);

gboolean kw_pkcs11_pool_is_idle (KwPkcs11Pool *self);

void kw_pkcs11_pool_close (KwPkcs11Pool *self);

void kw_pkcs11_pool_release (KwPkcs11Pool *self);

G_END_DECLS
