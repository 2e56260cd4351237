/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-token.h"

#include "kw-sc-monitor.h"

G_BEGIN_DECLS

#define KW_TYPE_SC_TOKEN (kw_sc_token_get_type ())
G_DECLARE_FINAL_TYPE (KwScToken, kw_sc_token, KW, SC_TOKEN, GObject)

KwScToken *kw_sc_token_new (const char *reader, GBytes *atr, GError **error);

void kw_sc_token_set_closer (KwScToken *self, KwScMonitor *closer);

gboolean kw_sc_token_is_blank (const char *reader, gboolean *out_blank, GError **error);

G_END_DECLS
