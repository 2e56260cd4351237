/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-config.h"
#include "kw-service.h"

G_BEGIN_DECLS

#define KW_TYPE_LINE_SERVER (kw_line_server_get_type ())
G_DECLARE_FINAL_TYPE (KwLineServer, kw_line_server, KW, LINE_SERVER, GObject)

KwLineServer *kw_line_server_new (const KwLineConfig *config, KwService *service, KwSecret *token);

gboolean kw_line_server_start (KwLineServer *self, GArray *sockets, GError **error);

GBytes *kw_line_server_dup_key_id (KwLineServer *self, GError **error);

void kw_line_server_quiesce (KwLineServer *self);

guint kw_line_server_get_n_pending (KwLineServer *self);

void kw_line_server_stop (KwLineServer *self);

G_END_DECLS
