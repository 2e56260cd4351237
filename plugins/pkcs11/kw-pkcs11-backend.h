/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-backend.h"
#include "kw-pkcs11-monitor.h"

G_BEGIN_DECLS

#define KW_TYPE_PKCS11_BACKEND (kw_pkcs11_backend_get_type ())
G_DECLARE_FINAL_TYPE (KwPkcs11Backend, kw_pkcs11_backend, KW, PKCS11_BACKEND, GObject)

void kw_pkcs11_backend_set_timing (KwPkcs11Backend *self, const KwPkcs11Timing *timing);

G_END_DECLS
