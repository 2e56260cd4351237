/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-config.h"
#include "kw-pool.h"

G_BEGIN_DECLS

#define KW_TYPE_VAULT (kw_vault_get_type ())
G_DECLARE_FINAL_TYPE (KwVault, kw_vault, KW, VAULT, GObject)

KwVault *kw_vault_new (KwPool *pool, KwKeyring *keyring, const KwHsmConfig *config);

void kw_vault_set_data_key_ttl (KwVault *self, guint seconds);

void kw_vault_submit (KwVault *self, KwJob *job);

void kw_vault_forget (KwVault *self);

void kw_vault_forget_sealing_key (KwVault *self);

void kw_vault_stop (KwVault *self);

guint kw_vault_get_n_data_keys (KwVault *self);

G_END_DECLS
