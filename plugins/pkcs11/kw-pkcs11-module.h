/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib-object.h>
#include <p11-kit/pkcs11.h>

G_BEGIN_DECLS

#define KW_TYPE_PKCS11_MODULE (kw_pkcs11_module_get_type ())
G_DECLARE_FINAL_TYPE (KwPkcs11Module, kw_pkcs11_module, KW, PKCS11_MODULE, GObject)

KwPkcs11Module *kw_pkcs11_module_new (const char *path);

const char *kw_pkcs11_module_get_path (KwPkcs11Module *self);

gboolean kw_pkcs11_module_load (KwPkcs11Module *self, GError **error);

gboolean
kw_pkcs11_module_initialize (KwPkcs11Module *self, GLogLevelFlags log_level, GError **error);

gboolean kw_pkcs11_module_shut_down (KwPkcs11Module *self, gint64 timeout_usec);

guint64 kw_pkcs11_module_get_generation (KwPkcs11Module *self);

gboolean kw_pkcs11_module_is_initialized (KwPkcs11Module *self);

gboolean kw_pkcs11_module_is_serial (KwPkcs11Module *self);

CK_FUNCTION_LIST *kw_pkcs11_module_enter (KwPkcs11Module *self, guint64 generation, GError **error);

void kw_pkcs11_module_leave (KwPkcs11Module *self);

G_END_DECLS
