/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-bus"

#include "config.h"

#include "kw-bus-peer.h"

#include "kw-error.h"

#define BUS_NAME "org.freedesktop.DBus"
#define BUS_PATH "/org/freedesktop/DBus"
#define BUS_TIMEOUT_MSEC 10000

struct _KwBusPeers
{
  GDBusConnection *connection;
  KwService *service;
  GHashTable *peers; /* name → Peer */
  GCancellable *cancellable;
  guint subscription;
};

typedef struct
{
  KwBusPeerFunc func;
  gpointer user_data;
} Waiting;

typedef struct
{
  char *name;
  KwCaller *caller; /* NULL while the bus is asked */
  GArray *waiting;  /* of Waiting */
} Peer;

static void
peer_free (gpointer data)
{
  Peer *peer = data;

  g_clear_pointer (&peer->caller, kw_caller_unref);
  g_array_unref (peer->waiting);
  g_free (peer->name);
  g_free (peer);
}

static void
tell_all (Peer *peer, const GError *error)
{
  g_autoptr (GArray) waiting = g_steal_pointer (&peer->waiting);
  g_autoptr (KwCaller) caller = peer->caller != NULL ? kw_caller_ref (peer->caller) : NULL;

  peer->waiting = g_array_new (FALSE, FALSE, sizeof (Waiting));
  for (guint i = 0; i < waiting->len; i++)
    {
      const Waiting *one = &g_array_index (waiting, Waiting, i);

      one->func (caller, error, one->user_data);
    }
}

static void
on_credentials (GObject *source, GAsyncResult *result, gpointer user_data)
{
  g_autofree char *name = user_data;
  g_autoptr (GError) error = NULL;
  g_autoptr (GVariant) reply
      = g_dbus_connection_call_finish (G_DBUS_CONNECTION (source), result, &error);
  KwBusPeers *self;
  Peer *peer;
  guint32 uid = 0;

  if (g_error_matches (error, G_IO_ERROR, G_IO_ERROR_CANCELLED))
    return;
  self = g_object_get_data (source, "kw-bus-peers");
  peer = g_hash_table_lookup (self->peers, name);
  if (peer == NULL)
    return;

  if (reply != NULL)
    {
      g_autoptr (GVariant) credentials = g_variant_get_child_value (reply, 0);

      if (g_variant_lookup (credentials, "UnixUserID", "u", &uid))
        {
          g_autoptr (KwGrant) grant = kw_service_resolve_grant (self->service, uid, NULL, 0);

          peer->caller = kw_caller_new_with_grant (KW_CALLER_BUS, name, NULL, NULL, uid, grant);
        }
      else
        g_set_error (&error, KW_ERROR, KW_ERROR_NOT_AUTHORIZED,
                     "The bus does not tell which user %s is", name);
    }
  tell_all (peer, error);
  if (error != NULL)
    g_hash_table_remove (self->peers, name);
}

static void
on_owner_changed (GDBusConnection *connection G_GNUC_UNUSED,
                  const char *sender G_GNUC_UNUSED,
                  const char *path G_GNUC_UNUSED,
                  const char *interface G_GNUC_UNUSED,
                  const char *signal G_GNUC_UNUSED,
                  GVariant *parameters,
                  gpointer user_data)
{
  KwBusPeers *self = user_data;
  const char *name = NULL;
  const char *new_owner = NULL;
  Peer *peer;

  g_variant_get (parameters, "(&s&s&s)", &name, NULL, &new_owner);
  peer = *new_owner == '\0' ? g_hash_table_lookup (self->peers, name) : NULL;
  if (peer == NULL)
    return;
  if (peer->waiting->len > 0)
    {
      g_autoptr (GError) error
          = g_error_new (KW_ERROR, KW_ERROR_CANCELLED, "%s has left the bus", name);

      tell_all (peer, error);
    }
  g_hash_table_remove (self->peers, name);
}

/**
 * kw_bus_peers_new:
 * @connection: the bus
 * @service: knows what users may do
 *
 * Returns: (transfer full): nobody known yet
 */
KwBusPeers *
kw_bus_peers_new (GDBusConnection *connection, KwService *service)
{
  KwBusPeers *self = g_new0 (KwBusPeers, 1);

  self->connection = g_object_ref (connection);
  self->service = g_object_ref (service);
  self->cancellable = g_cancellable_new ();
  self->peers = g_hash_table_new_full (g_str_hash, g_str_equal, NULL, peer_free);
  self->subscription
      = g_dbus_connection_signal_subscribe (connection, BUS_NAME, BUS_NAME, "NameOwnerChanged",
                                            BUS_PATH, NULL, G_DBUS_SIGNAL_FLAGS_NONE,
                                            on_owner_changed, self, NULL);
  g_object_set_data (G_OBJECT (connection), "kw-bus-peers", self);
  return self;
}

void
kw_bus_peers_free (KwBusPeers *self)
{
  g_autoptr (GError) error = g_error_new_literal (KW_ERROR, KW_ERROR_CANCELLED, "The bus is gone");
  GHashTableIter iter;
  gpointer peer;

  g_hash_table_iter_init (&iter, self->peers);
  while (g_hash_table_iter_next (&iter, NULL, &peer))
    {
      if (((Peer *) peer)->caller == NULL)
        tell_all (peer, error);
    }
  g_cancellable_cancel (self->cancellable);
  g_dbus_connection_signal_unsubscribe (self->connection, self->subscription);
  g_object_set_data (G_OBJECT (self->connection), "kw-bus-peers", NULL);
  g_hash_table_unref (self->peers);
  g_object_unref (self->cancellable);
  g_object_unref (self->service);
  g_object_unref (self->connection);
  g_free (self);
}

/**
 * kw_bus_peers_find:
 * @self: the peers
 * @name: unique name of one
 * @func: is told who that is, before this returns if it is known already
 * @user_data: given to @func
 */
void
kw_bus_peers_find (KwBusPeers *self, const char *name, KwBusPeerFunc func, gpointer user_data)
{
  Peer *peer = g_hash_table_lookup (self->peers, name);
  const Waiting one = { func, user_data };

  if (peer != NULL && peer->caller != NULL)
    {
      func (peer->caller, NULL, user_data);
      return;
    }
  if (peer == NULL)
    {
      peer = g_new0 (Peer, 1);
      peer->name = g_strdup (name);
      peer->waiting = g_array_new (FALSE, FALSE, sizeof (Waiting));
      g_hash_table_insert (self->peers, peer->name, peer);
      g_dbus_connection_call (self->connection, BUS_NAME, BUS_PATH, BUS_NAME,
                              "GetConnectionCredentials", g_variant_new ("(s)", name),
                              G_VARIANT_TYPE ("(a{sv})"), G_DBUS_CALL_FLAGS_NONE, BUS_TIMEOUT_MSEC,
                              self->cancellable, on_credentials, g_strdup (name));
    }
  g_array_append_val (peer->waiting, one);
}
