/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-bus"

#include "config.h"

#include "kw-bus-call.h"

#include "kw-bus-polkit.h"
#include "kw-error.h"
#include "kw-limits.h"

struct _KwBusCalls
{
  gatomicrefcount n_references; /* calls that end last have one */
  GDBusConnection *connection;
  KwService *service;
  KwBusPeers *peers; /* NULL after the end */
  gboolean quiet;
  gint n_pending; /* atomic */
};

struct _KwBusCall
{
  KwBusCalls *calls; /* owned */
  GDBusMethodInvocation *invocation;
  KwBusPeer *peer; /* owned, nullable: until it is known who calls */
  KwVerb verb;
  KwBusCallFunc func;
  gpointer user_data;
  GCancellable *cancellable; /* owned, nullable; set before others see the call */
  KwJob *job;                /* owned, nullable; likewise */
  KwBusAnswerFunc answer;
};

static void
calls_unref (KwBusCalls *self)
{
  if (!g_atomic_ref_count_dec (&self->n_references))
    return;
  g_object_unref (self->service);
  g_object_unref (self->connection);
  g_free (self);
}

/* Its caller has left. Any thread; the lock of the peer is held, so the call lives. */
static void
cancel_call (gpointer item)
{
  KwBusCall *self = item;

  if (self->job != NULL)
    kw_job_cancel (self->job);
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
  g_atomic_int_add (&self->calls->n_pending, -1);
  calls_unref (self->calls);
  g_free (self);
}

/**
 * kw_bus_calls_new:
 * @connection: the bus
 * @service: does the work
 *
 * Returns: (transfer full): no calls yet
 */
KwBusCalls *
kw_bus_calls_new (GDBusConnection *connection, KwService *service)
{
  KwBusCalls *self = g_new0 (KwBusCalls, 1);

  g_atomic_ref_count_init (&self->n_references);
  self->connection = g_object_ref (connection);
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
  self->quiet = TRUE;
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
  self->quiet = TRUE;
  g_clear_pointer (&self->peers, kw_bus_peers_free);
  calls_unref (self);
}

/**
 * kw_bus_return_error:
 * @invocation: (transfer full): a call
 * @error: why it failed
 *
 * Answers with an error of ours. Any thread.
 */
void
kw_bus_return_error (GDBusMethodInvocation *invocation, const GError *error)
{
  /* Nobody outside has to do with where an error comes from. */
  if (error->domain == KW_ERROR)
    g_dbus_method_invocation_return_gerror (invocation, error);
  else
    g_dbus_method_invocation_return_error_literal (invocation, KW_ERROR, KW_ERROR_FAILED,
                                                   error->message);
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
  g_dbus_method_invocation_return_value (self->invocation, values);
  call_free (self);
}

/**
 * kw_bus_call_return_with_fds:
 * @self: (transfer full): a call
 * @values: (transfer floating): its answer
 * @fds: descriptors that go with it
 *
 * Answers. Any thread.
 */
void
kw_bus_call_return_with_fds (KwBusCall *self, GVariant *values, GUnixFDList *fds)
{
  g_dbus_method_invocation_return_value_with_unix_fd_list (self->invocation, values, fds);
  call_free (self);
}

/**
 * kw_bus_call_fail:
 * @self: (transfer full): a call
 * @error: why it failed
 *
 * Answers with an error. Any thread.
 */
void
kw_bus_call_fail (KwBusCall *self, const GError *error)
{
  kw_bus_return_error (self->invocation, error);
  call_free (self);
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
  GDBusMessage *message = NULL;

  if (peer == NULL)
    {
      kw_bus_call_fail (self, error);
      return;
    }
  if (!kw_bus_peer_add (peer, self, KW_MAX_BUS_CALLS_PER_PEER))
    {
      fail_literal (self, KW_ERROR_BUSY,
                    "This caller has too many calls under way; wait for answers");
      return;
    }
  self->peer = kw_bus_peer_ref (peer);
  caller = kw_bus_peer_get_caller (peer);
  if (kw_access_check_verb (caller, self->verb, NULL))
    {
      self->func (self, caller, self->user_data);
      return;
    }
  message = g_dbus_method_invocation_get_message (self->invocation);
  self->cancellable = g_cancellable_new ();
  kw_bus_polkit_check (self->calls->connection,
                       g_dbus_method_invocation_get_sender (self->invocation),
                       kw_verb_get_class (self->verb),
                       (g_dbus_message_get_flags (message)
                        & G_DBUS_MESSAGE_FLAGS_ALLOW_INTERACTIVE_AUTHORIZATION)
                           != 0,
                       self->cancellable, on_polkit, self);
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
  KwBusCall *call = g_new0 (KwBusCall, 1);

  g_atomic_ref_count_inc (&self->n_references);
  call->calls = self;
  call->invocation = invocation;
  call->verb = verb;
  call->func = func;
  call->user_data = user_data;
  if (g_atomic_int_add (&self->n_pending, 1) >= KW_MAX_BUS_CALLS)
    fail_literal (call, KW_ERROR_BUSY, "Too many calls are under way; try again in a moment");
  else if (self->quiet)
    fail_literal (call, KW_ERROR_UNAVAILABLE, "The daemon is ending");
  else
    kw_bus_peers_find (self->peers, g_dbus_method_invocation_get_sender (invocation), on_peer_found,
                       call);
}

GDBusMethodInvocation *
kw_bus_call_get_invocation (KwBusCall *self)
{
  return self->invocation;
}

KwBusPeer *
kw_bus_call_get_peer (KwBusCall *self)
{
  return self->peer;
}

/**
 * kw_bus_call_get_cancellable:
 * @self: a call, before it is in the hands of others
 *
 * Returns: (transfer none): cancelled when the caller leaves. Main context.
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
 */
void
kw_bus_call_submit (KwBusCall *self, KwJob *job, KwBusAnswerFunc answer)
{
  self->job = kw_job_ref (job);
  self->answer = answer;
  kw_job_set_callback (job, on_job_done, self);
  kw_service_submit (self->calls->service, kw_job_ref (job));
}
