/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-config.h"

G_BEGIN_DECLS

KwSecret *kw_line_token_new (GError **error);

gboolean kw_line_token_write_file (KwSecret *token, const char *path, GError **error);

GObject *kw_line_token_start_handover (KwSecret *token,
                                       KwSecret *jwt_secret,
                                       const char *url,
                                       GError **error);

G_END_DECLS
