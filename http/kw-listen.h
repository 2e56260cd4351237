/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

GArray *kw_listen_new_list (void);

gboolean kw_listen_tcp (GArray *sockets, const char *hostname, guint16 port, GError **error);

gboolean kw_listen_unix (GArray *sockets, const char *path, guint mode, GError **error);

char *kw_listen_describe_peer (int fd, gint64 *out_uid);

GArray *kw_listen_get_peer_groups (int fd);

G_END_DECLS
