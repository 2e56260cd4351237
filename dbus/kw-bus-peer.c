/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-bus"

#include "config.h"

#include "kw-bus-peer.h"

#include "kw-error.h"
#include "kw-limits.h"

#include <gio/gunixfdlist.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <string.h>
#include <unistd.h>

#define BUS_NAME "org.freedesktop.DBus"
#define BUS_PATH "/org/freedesktop/DBus"
#define BUS_TIMEOUT_MSEC 10000
#define MAX_CGROUP_BYTES 4096
#define SYSTEMD_NAME "org.freedesktop.systemd1"
#define SYSTEMD_PATH "/org/freedesktop/systemd1"
#define SYSTEMD_TIMEOUT_MSEC 1000

typedef struct
{
  KwBusPeerFunc func;
  gpointer user_data;
} Waiting;

/* What the bus said of a peer, and what was found out from that in a thread. */
typedef struct
{
  guint32 uid;
  guint32 pid;
  int process_fd; /* owned; −1 when the bus has none */
  gboolean has_groups;
  GArray *groups; /* owned; of guint32 */
  char *unit;     /* owned, nullable */
} Facts;

struct _KwBusPeer
{
  gatomicrefcount n_references;
  char *name;
  KwBusPeers *peers; /* borrowed; NULL when it is gone; written under lock */
  KwCaller
      *caller;  /* owned; NULL while it is being found out; written under the lock of the peers */
  Facts *facts; /* owned, nullable: what is known of it */
  GArray *waiting; /* of Waiting */
  gint n_files;    /* atomic */
  GMutex lock;
  GHashTable *items; /* owned; guarded by lock: what is under way */
};

struct _KwBusPeers
{
  GDBusConnection *connection;
  KwService *service;
  KwBusPeerCancel cancel;
  GMutex lock;
  GHashTable *peers; /* name → KwBusPeer; written under lock, by the main context */
  guint subscription;
  gulong reload_id;
};

static void
facts_free (gpointer data)
{
  Facts *facts = data;

  if (facts->process_fd >= 0)
    close (facts->process_fd);
  g_array_unref (facts->groups);
  g_free (facts->unit);
  g_free (facts);
}

KwBusPeer *
kw_bus_peer_ref (KwBusPeer *self)
{
  g_atomic_ref_count_inc (&self->n_references);
  return self;
}

void
kw_bus_peer_unref (KwBusPeer *self)
{
  if (!g_atomic_ref_count_dec (&self->n_references))
    return;
  g_clear_pointer (&self->caller, kw_caller_unref);
  g_clear_pointer (&self->facts, facts_free);
  g_array_unref (self->waiting);
  g_hash_table_unref (self->items);
  g_mutex_clear (&self->lock);
  g_free (self->name);
  g_free (self);
}

KwCaller *
kw_bus_peer_get_caller (KwBusPeer *self)
{
  return self->caller;
}

/**
 * kw_bus_peer_is_gone:
 * @self: a peer
 *
 * Returns: whether it has left the bus. Main context.
 */
gboolean
kw_bus_peer_is_gone (KwBusPeer *self)
{
  return self->peers == NULL;
}

/**
 * kw_bus_peer_add:
 * @self: a peer
 * @item: what it has under way from now on
 * @limit: how much that may be
 *
 * Returns: %FALSE when it has too much already, or has left. Any thread.
 */
gboolean
kw_bus_peer_add (KwBusPeer *self, gpointer item, guint limit)
{
  gboolean fits;

  g_mutex_lock (&self->lock);
  fits = self->peers != NULL && g_hash_table_size (self->items) < limit;
  if (fits)
    g_hash_table_add (self->items, item);
  g_mutex_unlock (&self->lock);
  return fits;
}

/**
 * kw_bus_peer_add_file:
 * @self: a peer
 *
 * Returns: %FALSE when it has too many files under way already; else kw_bus_peer_remove_file() is due. Any thread.
 */
gboolean
kw_bus_peer_add_file (KwBusPeer *self)
{
  if (g_atomic_int_add (&self->n_files, 1) < KW_MAX_BUS_FILES_PER_PEER)
    return TRUE;
  kw_bus_peer_remove_file (self);
  return FALSE;
}

void
kw_bus_peer_remove_file (KwBusPeer *self)
{
  g_atomic_int_add (&self->n_files, -1);
}

void
kw_bus_peer_remove (KwBusPeer *self, gpointer item)
{
  g_mutex_lock (&self->lock);
  g_hash_table_remove (self->items, item);
  g_mutex_unlock (&self->lock);
}

static KwBusPeer *
peer_new (KwBusPeers *peers, const char *name)
{
  KwBusPeer *self = g_new0 (KwBusPeer, 1);

  g_atomic_ref_count_init (&self->n_references);
  self->peers = peers;
  self->name = g_strdup (name);
  self->waiting = g_array_new (FALSE, FALSE, sizeof (Waiting));
  self->items = g_hash_table_new (NULL, NULL);
  g_mutex_init (&self->lock);
  return self;
}

/* Main context. */
static void
tell_all (KwBusPeer *self, const GError *error)
{
  g_autoptr (GArray) waiting = g_steal_pointer (&self->waiting);

  self->waiting = g_array_new (FALSE, FALSE, sizeof (Waiting));
  for (guint i = 0; i < waiting->len; i++)
    {
      const Waiting *one = &g_array_index (waiting, Waiting, i);

      one->func (error == NULL ? self : NULL, error, one->user_data);
    }
}

/* It has left: what it wanted is wanted by nobody. */
static void
peer_leave (KwBusPeer *self, const char *text)
{
  g_autoptr (GError) error = g_error_new_literal (KW_ERROR, KW_ERROR_CANCELLED, text);
  KwBusPeers *peers = self->peers;
  GHashTableIter iter;
  gpointer item;

  g_mutex_lock (&self->lock);
  self->peers = NULL;
  g_mutex_unlock (&self->lock);
  tell_all (self, error);
  g_mutex_lock (&self->lock);
  g_hash_table_iter_init (&iter, self->items);
  while (g_hash_table_iter_next (&iter, &item, NULL))
    peers->cancel (item);
  g_mutex_unlock (&self->lock);
}

/* The last part of the path that is a unit: “0::/system.slice/webadm.service”. */
static char *
find_unit (const char *cgroup)
{
  g_auto (GStrv) parts = g_strsplit_set (cgroup, "/\n", -1);

  for (guint i = g_strv_length (parts); i > 0; i--)
    {
      const char *part = parts[i - 1];

      if ((g_str_has_suffix (part, ".service") || g_str_has_suffix (part, ".scope"))
          && g_utf8_validate (part, -1, NULL))
        return g_strdup (part);
    }
  return NULL;
}

/* A process number may mean another process by now; the descriptor, where there is one, tells. */
static gboolean
process_lives (const Facts *facts)
{
  struct pollfd fd = { facts->process_fd, POLLIN, 0 };

  return facts->process_fd < 0 || poll (&fd, 1, 0) == 0;
}

static void
look_up_unit (Facts *facts)
{
  g_autofree char *path = g_strdup_printf ("/proc/%u/cgroup", facts->pid);
  g_autofree char *text = NULL;
  gsize size = 0;

  if (facts->pid != 0 && g_file_get_contents (path, &text, &size, NULL) && size < MAX_CGROUP_BYTES
      && process_lives (facts))
    facts->unit = find_unit (text);
}

static void
look_up_groups (Facts *facts)
{
  g_autofree char *buffer = g_malloc (MAX_CGROUP_BYTES);
  g_autofree gid_t *groups = g_new0 (gid_t, KW_MAX_PEER_GROUPS);
  int n_groups = KW_MAX_PEER_GROUPS;
  struct passwd user;
  struct passwd *found = NULL;

  if (getpwuid_r (facts->uid, &user, buffer, MAX_CGROUP_BYTES, &found) != 0 || found == NULL
      || getgrouplist (user.pw_name, user.pw_gid, groups, &n_groups) < 0)
    return;
  for (int i = 0; i < n_groups; i++)
    {
      guint32 group = groups[i];

      g_array_append_val (facts->groups, group);
    }
}

static void
lookup_thread (GTask *task,
               gpointer source_object G_GNUC_UNUSED,
               gpointer task_data,
               GCancellable *cancellable G_GNUC_UNUSED)
{
  look_up_unit (task_data);
  if (!((Facts *) task_data)->has_groups)
    look_up_groups (task_data);
  /* They are handed over. */
  g_task_return_pointer (task, task_data, facts_free);
}

static void
make_caller (KwBusPeer *self)
{
  const Facts *facts = self->facts;
  g_autoptr (KwGrant) grant
      = kw_service_resolve_grant (self->peers->service, facts->uid,
                                  (const guint32 *) (gpointer) facts->groups->data,
                                  facts->groups->len);
  g_autofree char *address = facts->pid != 0 ? g_strdup_printf ("%s pid %u", self->name, facts->pid)
                                             : g_strdup (self->name);
  g_autoptr (KwCaller) caller
      = kw_caller_new_with_grant (KW_CALLER_BUS, facts->unit != NULL ? facts->unit : self->name,
                                  NULL, address, facts->uid, grant);
  KwCaller *old = self->caller;

  g_mutex_lock (&self->peers->lock);
  self->caller = g_steal_pointer (&caller);
  g_mutex_unlock (&self->peers->lock);
  g_clear_pointer (&old, kw_caller_unref);
}

/* Who has left, or is not told of by the bus. */
static void
forget_peer (KwBusPeers *self, const char *name)
{
  g_mutex_lock (&self->lock);
  g_hash_table_remove (self->peers, name);
  g_mutex_unlock (&self->lock);
}

/* “/org/freedesktop/systemd1/unit/webadm_2eservice” */
static char *
unit_from_path (const char *path)
{
  const char *label = strrchr (path, '/');
  GString *unit = g_string_new (NULL);

  for (const char *at = label != NULL ? label + 1 : ""; *at != '\0'; at++)
    {
      if (at[0] == '_' && g_ascii_isxdigit (at[1]) && g_ascii_isxdigit (at[2]))
        {
          g_string_append_c (unit, (char) (g_ascii_xdigit_value (at[1]) * 16
                                           + g_ascii_xdigit_value (at[2])));
          at += 2;
        }
      else
        g_string_append_c (unit, *at);
    }
  return g_string_free (unit, FALSE);
}

static void
on_unit (GObject *source, GAsyncResult *result, gpointer user_data)
{
  g_autoptr (KwBusPeer) peer = user_data;
  g_autoptr (GVariant) reply
      = g_dbus_connection_call_finish (G_DBUS_CONNECTION (source), result, NULL);
  const char *path = NULL;

  if (peer->peers == NULL)
    return;
  if (reply != NULL && process_lives (peer->facts))
    {
      g_variant_get (reply, "(&o)", &path);
      peer->facts->unit = unit_from_path (path);
    }
  make_caller (peer);
  tell_all (peer, NULL);
}

static void
on_looked_up (GObject *source G_GNUC_UNUSED, GAsyncResult *result, gpointer user_data)
{
  g_autoptr (KwBusPeer) peer = user_data;

  if (peer->peers == NULL)
    return;
  peer->facts = g_task_propagate_pointer (G_TASK (result), NULL);
  /* The daemon's unit hides other users' processes from it; systemd can be asked. */
  if (peer->facts->unit == NULL && peer->facts->pid != 0)
    {
      g_dbus_connection_call (peer->peers->connection, SYSTEMD_NAME, SYSTEMD_PATH,
                              SYSTEMD_NAME ".Manager", "GetUnitByPID",
                              g_variant_new ("(u)", peer->facts->pid), G_VARIANT_TYPE ("(o)"),
                              G_DBUS_CALL_FLAGS_NO_AUTO_START, SYSTEMD_TIMEOUT_MSEC, NULL, on_unit,
                              kw_bus_peer_ref (peer));
      return;
    }
  make_caller (peer);
  tell_all (peer, NULL);
}

static void
take_groups (Facts *facts, GVariant *credentials)
{
  g_autoptr (GVariant) value
      = g_variant_lookup_value (credentials, "UnixGroupIDs", G_VARIANT_TYPE ("au"));
  gsize n = 0;
  const guint32 *groups = NULL;

  facts->groups = g_array_new (FALSE, FALSE, sizeof (guint32));
  if (value == NULL)
    return;
  facts->has_groups = TRUE;
  groups = g_variant_get_fixed_array (value, &n, sizeof (guint32));
  if (n > 0)
    g_array_append_vals (facts->groups, groups, (guint) MIN (n, KW_MAX_PEER_GROUPS));
}

static void
take_credentials (KwBusPeer *peer, GVariant *credentials, GUnixFDList *fds)
{
  Facts *facts = g_new0 (Facts, 1);
  g_autoptr (GTask) task = g_task_new (NULL, NULL, on_looked_up, kw_bus_peer_ref (peer));
  gint32 handle = -1;

  facts->process_fd = -1;
  (void) g_variant_lookup (credentials, "UnixUserID", "u", &facts->uid);
  (void) g_variant_lookup (credentials, "ProcessID", "u", &facts->pid);
  if (fds != NULL && g_variant_lookup (credentials, "ProcessFD", "h", &handle))
    facts->process_fd = g_unix_fd_list_get (fds, handle, NULL);
  take_groups (facts, credentials);
  g_task_set_task_data (task, facts, NULL);
  g_task_run_in_thread (task, lookup_thread);
}

static void
on_credentials (GObject *source, GAsyncResult *result, gpointer user_data)
{
  g_autoptr (KwBusPeer) peer = user_data;
  g_autoptr (GError) error = NULL;
  g_autoptr (GUnixFDList) fds = NULL;
  g_autoptr (GVariant) reply
      = g_dbus_connection_call_with_unix_fd_list_finish (G_DBUS_CONNECTION (source), &fds, result,
                                                         &error);
  g_autoptr (GVariant) credentials = NULL;
  guint32 uid = 0;

  if (peer->peers == NULL)
    return;
  if (reply != NULL)
    {
      credentials = g_variant_get_child_value (reply, 0);
      if (g_variant_lookup (credentials, "UnixUserID", "u", &uid))
        {
          take_credentials (peer, credentials, fds);
          return;
        }
      g_set_error (&error, KW_ERROR, KW_ERROR_NOT_AUTHORIZED,
                   "The bus does not tell which user %s is", peer->name);
    }
  tell_all (peer, error);
  forget_peer (peer->peers, peer->name);
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
  KwBusPeer *peer;

  g_variant_get (parameters, "(&s&s&s)", &name, NULL, &new_owner);
  peer = *new_owner == '\0' ? g_hash_table_lookup (self->peers, name) : NULL;
  if (peer == NULL)
    return;
  kw_bus_peer_ref (peer);
  forget_peer (self, name);
  peer_leave (peer, "The caller has left the bus");
  kw_bus_peer_unref (peer);
}

/* Users may have other rights now. */
static void
on_reloaded (KwBusPeers *self)
{
  GHashTableIter iter;
  gpointer peer;

  g_hash_table_iter_init (&iter, self->peers);
  while (g_hash_table_iter_next (&iter, NULL, &peer))
    {
      if (((KwBusPeer *) peer)->facts != NULL)
        make_caller (peer);
    }
}

/**
 * kw_bus_peers_new:
 * @connection: the bus
 * @service: knows what users may do
 * @cancel: ends what a peer has under way when it leaves
 *
 * Returns: (transfer full): nobody known yet
 */
KwBusPeers *
kw_bus_peers_new (GDBusConnection *connection, KwService *service, KwBusPeerCancel cancel)
{
  KwBusPeers *self = g_new0 (KwBusPeers, 1);

  self->connection = g_object_ref (connection);
  self->service = g_object_ref (service);
  self->cancel = cancel;
  g_mutex_init (&self->lock);
  self->peers
      = g_hash_table_new_full (g_str_hash, g_str_equal, NULL, (GDestroyNotify) kw_bus_peer_unref);
  self->subscription
      = g_dbus_connection_signal_subscribe (connection, BUS_NAME, BUS_NAME, "NameOwnerChanged",
                                            BUS_PATH, NULL, G_DBUS_SIGNAL_FLAGS_NONE,
                                            on_owner_changed, self, NULL);
  self->reload_id = g_signal_connect_swapped (service, "reloaded", G_CALLBACK (on_reloaded), self);
  return self;
}

void
kw_bus_peers_free (KwBusPeers *self)
{
  GHashTableIter iter;
  gpointer peer;

  g_dbus_connection_signal_unsubscribe (self->connection, self->subscription);
  g_signal_handler_disconnect (self->service, self->reload_id);
  g_hash_table_iter_init (&iter, self->peers);
  while (g_hash_table_iter_next (&iter, NULL, &peer))
    peer_leave (peer, "The bus is gone");
  g_hash_table_unref (self->peers);
  g_mutex_clear (&self->lock);
  g_object_unref (self->service);
  g_object_unref (self->connection);
  g_free (self);
}

/**
 * kw_bus_peers_ref_known:
 * @self: the peers
 * @name: unique name of one
 * @out_caller: (out) (transfer full): who that is
 *
 * Looks for a peer without asking anybody. Any thread.
 *
 * Returns: (transfer full) (nullable): the peer; %NULL when it is not known yet who that is
 */
KwBusPeer *
kw_bus_peers_ref_known (KwBusPeers *self, const char *name, KwCaller **out_caller)
{
  KwBusPeer *peer = NULL;

  g_mutex_lock (&self->lock);
  peer = g_hash_table_lookup (self->peers, name);
  if (peer != NULL && peer->caller != NULL)
    *out_caller = kw_caller_ref (peer->caller);
  else
    peer = NULL;
  if (peer != NULL)
    kw_bus_peer_ref (peer);
  g_mutex_unlock (&self->lock);
  return peer;
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
  KwBusPeer *peer = g_hash_table_lookup (self->peers, name);
  const Waiting one = { func, user_data };

  if (peer != NULL && peer->caller != NULL)
    {
      func (peer, NULL, user_data);
      return;
    }
  if (peer == NULL)
    {
      peer = peer_new (self, name);
      g_mutex_lock (&self->lock);
      g_hash_table_insert (self->peers, peer->name, peer);
      g_mutex_unlock (&self->lock);
      g_dbus_connection_call_with_unix_fd_list (self->connection, BUS_NAME, BUS_PATH, BUS_NAME,
                                                "GetConnectionCredentials",
                                                g_variant_new ("(s)", name),
                                                G_VARIANT_TYPE ("(a{sv})"), G_DBUS_CALL_FLAGS_NONE,
                                                BUS_TIMEOUT_MSEC, NULL, NULL, on_credentials,
                                                kw_bus_peer_ref (peer));
    }
  g_array_append_val (peer->waiting, one);
}
