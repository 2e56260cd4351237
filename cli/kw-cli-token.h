/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-backend.h"
#include "kw-cli.h"
#include "kw-job.h"

G_BEGIN_DECLS

typedef struct _KwCliToken KwCliToken;

void kw_cli_load_plugins (void);

GPtrArray *kw_cli_new_backends (KwConfig *config, GError **error);

KwCliToken *kw_cli_token_open (KwCli *cli, GError **error);

void kw_cli_token_close (KwCliToken *self);

KwKey *kw_cli_token_find_key (KwCliToken *self, GBytes *id, GError **error);

KwKey *kw_cli_token_generate_rsa (KwCliToken *self, guint bits, const char *label, GError **error);

KwSecret *
kw_cli_token_rsa_decrypt (KwCliToken *self, GBytes *id, GBytes *ciphertext, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwCliToken, kw_cli_token_close)

G_END_DECLS
