/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

#include "kw-service.h"

G_BEGIN_DECLS

/**
 * KwBusPeer:
 *
 * One who is on the bus: who he is, and what of his is under way. Reference-counted; its calls may be changed on any thread, the
 * rest belongs to the main context.
 */
typedef struct _KwBusPeer KwBusPeer;

KwBusPeer *kw_bus_peer_ref (KwBusPeer *self);

void kw_bus_peer_unref (KwBusPeer *self);

KwCaller *kw_bus_peer_get_caller (KwBusPeer *self);

gboolean kw_bus_peer_is_gone (KwBusPeer *self);

/**
 * KwBusPeerCancel:
 * @item: something that is under way
 *
 * Ends it. Called with the peer's lock held: it must not answer there.
 */
typedef void (*KwBusPeerCancel) (gpointer item);

gboolean kw_bus_peer_add (KwBusPeer *self, gpointer item, guint limit);

gboolean kw_bus_peer_add_file (KwBusPeer *self);

void kw_bus_peer_remove_file (KwBusPeer *self);

void kw_bus_peer_remove (KwBusPeer *self, gpointer item);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwBusPeer, kw_bus_peer_unref)

/**
 * KwBusPeers:
 *
 * Who is behind the names of a bus. Each is asked for once, and forgotten when the name goes. Main context, but for
 * kw_bus_peers_ref_known().
 */
typedef struct _KwBusPeers KwBusPeers;

/**
 * KwBusPeerFunc:
 * @peer: (nullable) (transfer none): who it is, %NULL when the bus does not tell
 * @error: (nullable): why it does not
 * @user_data: what was given with it
 */
typedef void (*KwBusPeerFunc) (KwBusPeer *peer, const GError *error, gpointer user_data);

KwBusPeers *
kw_bus_peers_new (GDBusConnection *connection, KwService *service, KwBusPeerCancel cancel);

void kw_bus_peers_free (KwBusPeers *self);

KwBusPeer *kw_bus_peers_ref_known (KwBusPeers *self, const char *name, KwCaller **out_caller);

void kw_bus_peers_find (KwBusPeers *self, const char *name, KwBusPeerFunc func, gpointer user_data);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwBusPeers, kw_bus_peers_free)

G_END_DECLS
