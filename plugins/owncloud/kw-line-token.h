/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-config.h"

G_BEGIN_DECLS

KwSecret *kw_line_token_new (GError **error);

gboolean kw_line_token_write_file (KwSecret *token, const char *path, GError **error);

#define KW_TYPE_LINE_TOKEN_SENDER (kw_line_token_sender_get_type ())
G_DECLARE_FINAL_TYPE (KwLineTokenSender, kw_line_token_sender, KW, LINE_TOKEN_SENDER, GObject)

KwLineTokenSender *kw_line_token_sender_new (KwSecret *token, KwSecret *jwt_secret, const char *url);

void kw_line_token_sender_start (KwLineTokenSender *self);

void kw_line_token_sender_stop (KwLineTokenSender *self);

G_END_DECLS
