/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <json-glib/json-glib.h>

#include "kw-secret.h"

G_BEGIN_DECLS

gboolean kw_cli_output_text (const char *text, GError **error);

gboolean kw_cli_output_bytes (gconstpointer data, gsize size, GError **error);

gboolean kw_cli_output_json (JsonBuilder *builder, GError **error);

gboolean kw_cli_output_secret (const char *before,
                               const KwSecret *secret,
                               const char *after,
                               GError **error);

void kw_cli_json_add_string (JsonBuilder *builder, const char *name, const char *value);

void kw_cli_json_add_int (JsonBuilder *builder, const char *name, gint64 value);

KwSecret *kw_cli_read_base64 (const char *argument, GError **error);

KwSecret *kw_cli_decode_base64 (KwSecret *text, GError **error);

KwSecret *kw_cli_encode_base64 (const guint8 *data, gsize size, GError **error);

G_END_DECLS
