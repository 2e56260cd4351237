/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-bus"

#include "config.h"

#include "kw-bus-call.h"

#include "kw-error.h"

struct _KwBusCalls
{
  gatomicrefcount n_references; /* jobs that run out last have one */
  KwService *service;
  KwBusPeers *peers; /* NULL after the end */
  gboolean quiet;
  gint n_pending; /* atomic */
};

static void
calls_unref (KwBusCalls *self)
{
  if (!g_atomic_ref_count_dec (&self->n_references))
    return;
  g_object_unref (self->service);
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
  self->service = g_object_ref (service);
  self->peers = kw_bus_peers_new (connection, service);
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

typedef struct
{
  KwBusCalls *calls;
  GDBusMethodInvocation *invocation;
  KwBusCallFunc func;
  gpointer user_data;
} Authorisation;

static void
on_peer_found (KwCaller *caller, const GError *error, gpointer user_data)
{
  g_autofree Authorisation *authorisation = user_data;
  if (caller == NULL)
    kw_bus_return_error (authorisation->invocation, error);
  else
    authorisation->func (authorisation->invocation, caller, authorisation->user_data);
}

/**
 * kw_bus_calls_authorise:
 * @self: the calls
 * @invocation: (transfer full): a call
 * @func: answers it, if the caller may
 * @user_data: given to @func; has to live as long as the connection
 */
void
kw_bus_calls_authorise (KwBusCalls *self,
                        GDBusMethodInvocation *invocation,
                        KwBusCallFunc func,
                        gpointer user_data)
{
  Authorisation *authorisation;

  if (self->quiet)
    {
      g_dbus_method_invocation_return_error_literal (invocation, KW_ERROR, KW_ERROR_UNAVAILABLE,
                                                     "The daemon is ending");
      return;
    }
  authorisation = g_new0 (Authorisation, 1);
  authorisation->calls = self;
  authorisation->invocation = invocation;
  authorisation->func = func;
  authorisation->user_data = user_data;
  kw_bus_peers_find (self->peers, g_dbus_method_invocation_get_sender (invocation), on_peer_found,
                     authorisation);
}

typedef struct
{
  KwBusCalls *calls;
  GDBusMethodInvocation *invocation;
  KwBusAnswerFunc answer;
} Submission;

/* In the thread that did the work: the answer need not wait for the main context. */
static void
on_job_done (KwJob *job, gpointer user_data)
{
  g_autofree Submission *submission = user_data;
  const GError *error = kw_job_get_error (job);

  if (error != NULL)
    kw_bus_return_error (submission->invocation, error);
  else
    g_dbus_method_invocation_return_value (submission->invocation, submission->answer (job));
  g_atomic_int_add (&submission->calls->n_pending, -1);
  calls_unref (submission->calls);
}

/**
 * kw_bus_calls_submit:
 * @self: the calls
 * @invocation: (transfer full): a call
 * @job: (transfer none): what it wants done
 * @answer: makes the answer of the job
 */
void
kw_bus_calls_submit (KwBusCalls *self,
                     GDBusMethodInvocation *invocation,
                     KwJob *job,
                     KwBusAnswerFunc answer)
{
  Submission *submission = g_new0 (Submission, 1);

  g_atomic_ref_count_inc (&self->n_references);
  g_atomic_int_inc (&self->n_pending);
  submission->calls = self;
  submission->invocation = invocation;
  submission->answer = answer;
  kw_job_set_callback (job, on_job_done, submission);
  kw_service_submit (self->service, kw_job_ref (job));
}
