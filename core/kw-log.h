/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-config.h"

G_BEGIN_DECLS

void kw_log (GLogLevelFlags level, const char *message, const char *first_field, ...)
    G_GNUC_NULL_TERMINATED;

#define KW_TYPE_LOGGER (kw_logger_get_type ())
G_DECLARE_FINAL_TYPE (KwLogger, kw_logger, KW, LOGGER, GObject)

KwLogger *kw_logger_new (const KwLogConfig *config, GError **error);

void kw_logger_install (KwLogger *self);

void kw_logger_set_level (KwLogger *self, GLogLevelFlags level);

gboolean kw_logger_reopen (KwLogger *self, GError **error);

gboolean kw_log_level_from_string (const char *nick, GLogLevelFlags *out_level);

void kw_log_append_json_string (GString *json, const char *text);

G_END_DECLS
