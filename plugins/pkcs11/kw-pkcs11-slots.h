/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-pkcs11-module.h"
#include "kw-pkcs11-select.h"

G_BEGIN_DECLS

GArray *kw_pkcs11_slots_read (KwPkcs11Module *module, CK_INFO *out_info, GError **error);

GPtrArray *kw_pkcs11_slots_describe (const KwPkcs11Slot *slots, gsize n_slots);

G_END_DECLS
