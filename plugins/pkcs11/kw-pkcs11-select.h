/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <p11-kit/pkcs11.h>

#include "kw-config.h"

G_BEGIN_DECLS

/**
 * KwPkcs11Slot:
 * @id: slot id
 * @slot_info: what C_GetSlotInfo told
 * @has_token: @token_info is valid
 * @token_info: what C_GetTokenInfo told
 *
 * One slot, as the module described it at one moment.
 */
typedef struct
{
  CK_SLOT_ID id;
  CK_SLOT_INFO slot_info;
  gboolean has_token;
  CK_TOKEN_INFO token_info;
} KwPkcs11Slot;

char *kw_pkcs11_dup_text (const guint8 *text, gsize size);

gboolean kw_pkcs11_text_equal (const guint8 *text, gsize size, const char *expected);

gboolean kw_pkcs11_check_criteria (const KwPkcs11Config *config, GError **error);

const KwPkcs11Slot *kw_pkcs11_select_slot (const KwPkcs11Config *config,
                                           const CK_INFO *module_info,
                                           const KwPkcs11Slot *slots,
                                           gsize n_slots,
                                           GError **error);

G_END_DECLS
