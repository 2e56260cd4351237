/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

#define KW_UUID_BYTES 16
#define KW_UUID_STRING_LENGTH 36

GBytes *kw_uuid_new_v1 (GError **error);

GBytes *kw_uuid_to_bytes (const char *text, gssize length, GError **error);

char *kw_uuid_from_bytes (GBytes *bytes);

G_END_DECLS
