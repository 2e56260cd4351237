/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-bus"

#include "config.h"

#include "kw-bus-call.h"

#include "kw-bus-names.h"
#include "kw-bus-polkit.h"
#include "kw-error.h"
#include "kw-limits.h"
#include "kw-log.h"

/*
 * There are two ways for a call. The common one leads through the main context, where the objects are. A method that does
 * nothing but have a job done is met by a filter, on the thread that reads from the bus, if it is known who calls and he needs
 * no word of polkit; that saves a change of thread, and such calls do not wait for what the main context is at.
 */

struct _KwBusCalls
{
  gatomicrefcount n_references; /* calls that end last have one, and the filter */
  GDBusConnection *connection;
  KwConfig *config;
  KwService *service;
  guint filter_id;
  GHashTable *direct; /* name → DirectMethod; complete before the filter is there */
  gint n_pending;     /* atomic */
  GMutex lock; /* the main context writes what follows under it, and others read it under it */
  KwBusPeers *peers; /* NULL after the end */
  gboolean quiet;
};

/* A method that need not be called in the main context. */
typedef struct
{
  char *signature;
  KwVerb verb;
  KwBusCallFunc func;
} DirectMethod;

struct _KwBusCall
{
  KwBusCalls *calls;     /* owned */
  GDBusMessage *message; /* owned */
  KwBusPeer *peer;       /* owned, nullable: until it is known who calls */
  KwVerb verb;
  KwBusCallFunc func;
  gpointer user_data;
  GCancellable *cancellable; /* owned, nullable; set before others see the call */
  KwJob *job;                /* owned, nullable; atomic */
  gint is_cancelled;         /* atomic */
  KwBusAnswerFunc answer;
};

static void
direct_method_free (gpointer data)
{
  DirectMethod *direct = data;

  g_free (direct->signature);
  g_free (direct);
}

static void
calls_unref (KwBusCalls *self)
{
  if (!g_atomic_ref_count_dec (&self->n_references))
    return;
  g_hash_table_unref (self->direct);
  g_mutex_clear (&self->lock);
  g_object_unref (self->service);
  g_object_unref (self->config);
  g_object_unref (self->connection);
  g_free (self);
}

/* Its caller has left. Main context; the lock of the peer is held, so the call lives. */
static void
cancel_call (gpointer item)
{
  KwBusCall *self = item;
  KwJob *job = NULL;

  /* Either the job is seen here, or this is seen by who sets the job. */
  g_atomic_int_set (&self->is_cancelled, TRUE);
  job = g_atomic_pointer_get (&self->job);
  if (job != NULL)
    kw_job_cancel (job);
  if (self->cancellable != NULL)
    g_cancellable_cancel (self->cancellable);
}

/* Any thread. */
static void
call_free (KwBusCall *self)
{
  if (self->peer != NULL)
    {
      kw_bus_peer_remove (self->peer, self);
      kw_bus_peer_unref (self->peer);
    }
  g_clear_object (&self->cancellable);
  g_clear_pointer (&self->job, kw_job_unref);
  g_object_unref (self->message);
  g_atomic_int_add (&self->calls->n_pending, -1);
  calls_unref (self->calls);
  g_free (self);
}

/**
 * kw_bus_calls_new:
 * @connection: the bus
 * @config: the configuration
 * @service: does the work
 *
 * Returns: (transfer full): no calls yet
 */
KwBusCalls *
kw_bus_calls_new (GDBusConnection *connection, KwConfig *config, KwService *service)
{
  KwBusCalls *self = g_new0 (KwBusCalls, 1);

  g_atomic_ref_count_init (&self->n_references);
  g_mutex_init (&self->lock);
  self->direct = g_hash_table_new_full (g_str_hash, g_str_equal, NULL, direct_method_free);
  self->connection = g_object_ref (connection);
  self->config = g_object_ref (config);
  self->service = g_object_ref (service);
  self->peers = kw_bus_peers_new (connection, service, cancel_call);
  return self;
}

/**
 * kw_bus_calls_quiesce:
 * @self: the calls
 *
 * From now on calls are answered with %KW_ERROR_UNAVAILABLE; those at hand go on.
 */
void
kw_bus_calls_quiesce (KwBusCalls *self)
{
  g_mutex_lock (&self->lock);
  self->quiet = TRUE;
  g_mutex_unlock (&self->lock);
}

guint
kw_bus_calls_get_n_pending (KwBusCalls *self)
{
  return (guint) g_atomic_int_get (&self->n_pending);
}

/**
 * kw_bus_calls_free:
 * @self: (transfer full): the calls
 *
 * Those that wait to be authorised are answered with an error.
 */
void
kw_bus_calls_free (KwBusCalls *self)
{
  KwBusPeers *peers = self->peers;

  if (self->filter_id != 0)
    g_dbus_connection_remove_filter (self->connection, self->filter_id);
  g_mutex_lock (&self->lock);
  self->quiet = TRUE;
  self->peers = NULL;
  g_mutex_unlock (&self->lock);
  kw_bus_peers_free (peers);
  calls_unref (self);
}

/* @reply: (transfer full). Any thread. */
static void
send_reply (KwBusCall *self, GDBusMessage *reply)
{
  g_autoptr (GDBusMessage) taken = reply;

  g_autoptr (GError) error = NULL;

  if ((g_dbus_message_get_flags (self->message) & G_DBUS_MESSAGE_FLAGS_NO_REPLY_EXPECTED) == 0
      && !g_dbus_connection_send_message (self->calls->connection, taken,
                                          G_DBUS_SEND_MESSAGE_FLAGS_NONE, NULL, &error)
      && !g_error_matches (error, G_IO_ERROR, G_IO_ERROR_CLOSED))
    kw_log (G_LOG_LEVEL_WARNING, "An answer cannot be sent", "caller",
            g_dbus_message_get_sender (self->message), "method",
            g_dbus_message_get_member (self->message), "error", error->message, NULL);
  call_free (self);
}

/**
 * kw_bus_call_return:
 * @self: (transfer full): a call
 * @values: (transfer floating) (nullable): its answer
 *
 * Answers. Any thread.
 */
void
kw_bus_call_return (KwBusCall *self, GVariant *values)
{
  kw_bus_call_return_with_fds (self, values, NULL);
}

/**
 * kw_bus_call_return_with_fds:
 * @self: (transfer full): a call
 * @values: (transfer floating) (nullable): its answer
 * @fds: (nullable): descriptors that go with it
 *
 * Answers. Any thread.
 */
void
kw_bus_call_return_with_fds (KwBusCall *self, GVariant *values, GUnixFDList *fds)
{
  GDBusMessage *reply = g_dbus_message_new_method_reply (self->message);

  if (values != NULL)
    g_dbus_message_set_body (reply, values);
  if (fds != NULL)
    g_dbus_message_set_unix_fd_list (reply, fds);
  send_reply (self, reply);
}

/**
 * kw_bus_call_fail:
 * @self: (transfer full): a call
 * @error: why it failed
 *
 * Answers with an error of ours. Any thread.
 */
void
kw_bus_call_fail (KwBusCall *self, const GError *error)
{
  g_autoptr (GError) failed = g_error_new_literal (KW_ERROR, KW_ERROR_FAILED, error->message);
  /* Nobody outside has to do with where an error comes from. */
  g_autofree char *name = g_dbus_error_encode_gerror (error->domain == KW_ERROR ? error : failed);

  send_reply (self, g_dbus_message_new_method_error_literal (self->message, name, error->message));
}

/* As kw_bus_call_fail(); @error: (transfer full) */
void
kw_bus_call_take_error (KwBusCall *self, GError *error)
{
  kw_bus_call_fail (self, error);
  g_error_free (error);
}

static void
fail_literal (KwBusCall *self, KwError code, const char *text)
{
  kw_bus_call_take_error (self, g_error_new_literal (KW_ERROR, (gint) code, text));
}

/* Or it has left, and does not hear this. */
static void
fail_with_too_many (KwBusCall *self)
{
  fail_literal (self, KW_ERROR_BUSY, "This caller has too many calls under way; wait for answers");
}

/* polkit has answered. */
static void
on_polkit (GObject *source G_GNUC_UNUSED, GAsyncResult *result, gpointer user_data)
{
  KwBusCall *self = user_data;
  KwVerbClass verb_class = kw_verb_get_class (self->verb);
  KwCaller *caller = kw_bus_peer_get_caller (self->peer);
  g_autoptr (GError) error = NULL;
  g_autoptr (KwGrant) more = NULL;
  g_autoptr (KwGrant) grant = NULL;
  g_autoptr (KwCaller) authorised = NULL;

  if (!kw_bus_polkit_check_finish (result, &error))
    {
      kw_service_audit_refusal (self->calls->service, caller, self->verb, NULL, error);
      kw_bus_call_fail (self, error);
      return;
    }
  if (kw_bus_peer_is_gone (self->peer) || self->calls->quiet)
    {
      fail_literal (self, KW_ERROR_UNAVAILABLE, "The daemon is ending, or the caller has left");
      return;
    }
  more = kw_grant_new (1u << verb_class, NULL);
  grant = kw_grant_merge (kw_caller_get_grant (caller), more);
  authorised = kw_caller_new_with_grant (KW_CALLER_BUS, kw_caller_get_name (caller), NULL,
                                         kw_caller_get_address (caller), kw_caller_get_uid (caller),
                                         grant);
  self->func (self, authorised, self->user_data);
}

static void
on_peer_found (KwBusPeer *peer, const GError *error, gpointer user_data)
{
  KwBusCall *self = user_data;
  KwCaller *caller = NULL;

  if (peer == NULL)
    {
      kw_bus_call_fail (self, error);
      return;
    }
  if (!kw_bus_peer_add (peer, self, KW_MAX_BUS_CALLS_PER_PEER))
    {
      fail_with_too_many (self);
      return;
    }
  self->peer = kw_bus_peer_ref (peer);
  caller = kw_bus_peer_get_caller (peer);
  if (kw_access_check_verb (caller, self->verb, NULL))
    {
      self->func (self, caller, self->user_data);
      return;
    }
  self->cancellable = g_cancellable_new ();
  kw_bus_polkit_check (self->calls->connection, g_dbus_message_get_sender (self->message),
                       kw_verb_get_class (self->verb),
                       (g_dbus_message_get_flags (self->message)
                        & G_DBUS_MESSAGE_FLAGS_ALLOW_INTERACTIVE_AUTHORIZATION)
                           != 0,
                       self->cancellable, on_polkit, self);
}

/* It counts as pending from now on. */
static KwBusCall *
call_new (KwBusCalls *calls,
          GDBusMessage *message,
          KwVerb verb,
          KwBusCallFunc func,
          gpointer user_data)
{
  KwBusCall *self = g_new0 (KwBusCall, 1);

  g_atomic_ref_count_inc (&calls->n_references);
  g_atomic_int_inc (&calls->n_pending);
  self->calls = calls;
  self->message = g_object_ref (message);
  self->verb = verb;
  self->func = func;
  self->user_data = user_data;
  return self;
}

/**
 * kw_bus_calls_begin:
 * @self: the calls
 * @invocation: (transfer full): a call
 * @verb: what it is about
 * @func: takes it on, if the caller may
 * @user_data: given to @func; has to live as long as the connection
 *
 * Finds out who calls, and whether he may: root and those in `[[access]]`, else polkit decides.
 */
void
kw_bus_calls_begin (KwBusCalls *self,
                    GDBusMethodInvocation *invocation,
                    KwVerb verb,
                    KwBusCallFunc func,
                    gpointer user_data)
{
  g_autoptr (GDBusMethodInvocation) taken = invocation;
  KwBusCall *call
      = call_new (self, g_dbus_method_invocation_get_message (taken), verb, func, user_data);

  if (kw_bus_calls_get_n_pending (self) > KW_MAX_BUS_CALLS)
    fail_literal (call, KW_ERROR_BUSY, "Too many calls are under way; try again in a moment");
  else if (self->quiet)
    fail_literal (call, KW_ERROR_UNAVAILABLE, "The daemon is ending");
  else
    kw_bus_peers_find (self->peers, g_dbus_method_invocation_get_sender (taken), on_peer_found,
                       call);
}

/*
 * A call that need not go through the main context, with who calls; %NULL leaves it to that, with all that is to be said of calls
 * that are wrong. The thread of the bus.
 */
static KwBusCall *
take_direct_call (KwBusCalls *self, GDBusMessage *message, KwCaller **out_caller)
{
  g_autoptr (KwCaller) caller = NULL;
  g_autoptr (KwBusPeer) peer = NULL;
  KwBusCall *call = NULL;
  const DirectMethod *direct = NULL;
  const char *member = g_dbus_message_get_member (message);
  const char *sender = g_dbus_message_get_sender (message);

  if (g_dbus_message_get_message_type (message) != G_DBUS_MESSAGE_TYPE_METHOD_CALL || sender == NULL
      || g_strcmp0 (g_dbus_message_get_path (message), KW_BUS_PATH) != 0
      || g_strcmp0 (g_dbus_message_get_interface (message), KW_BUS_MANAGER_INTERFACE) != 0)
    return NULL;
  direct = g_hash_table_lookup (self->direct, member);
  if (direct == NULL || g_strcmp0 (g_dbus_message_get_signature (message), direct->signature) != 0)
    return NULL;

  g_mutex_lock (&self->lock);
  if (!self->quiet)
    peer = kw_bus_peers_ref_known (self->peers, sender, &caller);
  if (peer != NULL && kw_access_check_verb (caller, direct->verb, NULL)
      && kw_bus_calls_get_n_pending (self) < KW_MAX_BUS_CALLS)
    call = call_new (self, message, direct->verb, direct->func, NULL);
  g_mutex_unlock (&self->lock);
  if (call == NULL)
    return NULL;
  call->peer = g_steal_pointer (&peer);
  *out_caller = g_steal_pointer (&caller);
  return call;
}

static GDBusMessage *
on_message (GDBusConnection *connection G_GNUC_UNUSED,
            GDBusMessage *message,
            gboolean incoming,
            gpointer user_data)
{
  g_autoptr (KwCaller) caller = NULL;
  KwBusCall *call = incoming ? take_direct_call (user_data, message, &caller) : NULL;

  if (call == NULL)
    return message;
  if (kw_bus_peer_add (call->peer, call, KW_MAX_BUS_CALLS_PER_PEER))
    call->func (call, caller, NULL);
  else
    fail_with_too_many (call);
  g_object_unref (message);
  return NULL;
}

/**
 * kw_bus_calls_add_direct:
 * @self: the calls, before kw_bus_calls_start_filter()
 * @member: a method of the manager; the string has to stay
 * @signature: types of its arguments
 * @verb: what it is about
 * @func: takes it on; on any thread, and without user data
 *
 * Has a method called on the thread that reads from the bus, where nothing has to be found out or asked for first.
 */
void
kw_bus_calls_add_direct (KwBusCalls *self,
                         const char *member,
                         const char *signature,
                         KwVerb verb,
                         KwBusCallFunc func)
{
  DirectMethod *direct = g_new0 (DirectMethod, 1);

  direct->signature = g_strdup (signature);
  direct->verb = verb;
  direct->func = func;
  g_hash_table_insert (self->direct, (gpointer) member, direct);
}

static void
release_calls (gpointer data)
{
  calls_unref (data);
}

/**
 * kw_bus_calls_start_filter:
 * @self: the calls
 *
 * Has the methods that were added called directly from now on.
 */
void
kw_bus_calls_start_filter (KwBusCalls *self)
{
  g_atomic_ref_count_inc (&self->n_references);
  self->filter_id
      = g_dbus_connection_add_filter (self->connection, on_message, self, release_calls);
}

/**
 * kw_bus_call_get_message:
 * @self: a call
 *
 * Returns: (transfer none): what was sent. Any thread.
 */
GDBusMessage *
kw_bus_call_get_message (KwBusCall *self)
{
  return self->message;
}

/**
 * kw_bus_call_ref_argument:
 * @self: a call
 * @index: number of an argument that its method has
 *
 * Returns: (transfer full): the argument. Any thread.
 */
GVariant *
kw_bus_call_ref_argument (KwBusCall *self, gsize index)
{
  return g_variant_get_child_value (g_dbus_message_get_body (self->message), index);
}

/**
 * kw_bus_call_get_config:
 * @self: a call
 *
 * Returns: (transfer none): the configuration that the daemon was started with. Any thread.
 */
KwConfig *
kw_bus_call_get_config (KwBusCall *self)
{
  return self->calls->config;
}

/**
 * kw_bus_call_get_peer:
 * @self: a call
 *
 * Returns: (transfer none): who calls. Any thread.
 */
KwBusPeer *
kw_bus_call_get_peer (KwBusCall *self)
{
  return self->peer;
}

/**
 * kw_bus_call_get_cancellable:
 * @self: a call, before it is in the hands of others
 *
 * Returns: (transfer none): cancelled when the caller leaves. Main context, so not for methods that are called directly.
 */
GCancellable *
kw_bus_call_get_cancellable (KwBusCall *self)
{
  if (self->cancellable == NULL)
    self->cancellable = g_cancellable_new ();
  return self->cancellable;
}

/* In the thread that did the work: the answer need not wait for the main context. */
static void
on_job_done (KwJob *job, gpointer user_data)
{
  KwBusCall *self = user_data;
  const GError *error = kw_job_get_error (job);

  if (error != NULL)
    kw_bus_call_fail (self, error);
  else
    kw_bus_call_return (self, self->answer (job));
}

/**
 * kw_bus_call_submit:
 * @self: (transfer full): a call
 * @job: (transfer none): what it wants done
 * @answer: makes the answer of the job
 *
 * Has it done, and the call answered with what came of it. Any thread.
 */
void
kw_bus_call_submit (KwBusCall *self, KwJob *job, KwBusAnswerFunc answer)
{
  self->answer = answer;
  kw_job_set_callback (job, on_job_done, self);
  g_atomic_pointer_set (&self->job, kw_job_ref (job));
  if (g_atomic_int_get (&self->is_cancelled))
    kw_job_cancel (job);
  kw_service_submit (self->calls->service, kw_job_ref (job));
}
