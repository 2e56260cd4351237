/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/**
 * KwWebadmLine:
 * @key: name of a setting
 * @value: its value, without quotes
 * @line: where it stands, from 1
 *
 * One setting of a webadm.conf.
 */
typedef struct
{
  char *key;
  char *value;
  guint line;
} KwWebadmLine;

GPtrArray *kw_webadm_conf_parse (const char *data,
                                 gsize size,
                                 const char *const *wanted,
                                 guint *out_line,
                                 GError **error);

gboolean kw_webadm_conf_check_mode (const char *path, GError **error);

G_END_DECLS
