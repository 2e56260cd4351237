/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

#include "kw-service.h"

G_BEGIN_DECLS

/**
 * KwBusPeers:
 *
 * Who is behind the names of a bus. Each is asked for once, and forgotten when the name goes. Main context.
 */
typedef struct _KwBusPeers KwBusPeers;

/**
 * KwBusPeerFunc:
 * @caller: (nullable) (transfer none): who it is, %NULL when the bus does not tell
 * @error: (nullable): why it does not
 * @user_data: what was given with it
 */
typedef void (*KwBusPeerFunc) (KwCaller *caller, const GError *error, gpointer user_data);

KwBusPeers *kw_bus_peers_new (GDBusConnection *connection, KwService *service);

void kw_bus_peers_free (KwBusPeers *self);

void kw_bus_peers_find (KwBusPeers *self, const char *name, KwBusPeerFunc func, gpointer user_data);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwBusPeers, kw_bus_peers_free)

G_END_DECLS
