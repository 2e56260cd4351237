/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>
#include <gio/gunixfdlist.h>

#include "kw-bus-peer.h"
#include "kw-job.h"
#include "kw-service.h"

G_BEGIN_DECLS

/**
 * KwBusCalls:
 *
 * What calls of methods have in common: who calls is found out, polkit is asked where it has to be, calls at hand are counted and
 * end when their caller leaves. Main context, but for answers and methods that are called directly.
 */
typedef struct _KwBusCalls KwBusCalls;

/**
 * KwBusCall:
 *
 * A call that is at hand. It is answered once, on any thread, which ends it.
 */
typedef struct _KwBusCall KwBusCall;

/**
 * KwBusCallFunc:
 * @call: (transfer full): the call; the function has it answered
 * @caller: who calls, with what he was granted for this call
 * @user_data: what was given with it
 *
 * Must not block. Main context; for methods that are called directly, the thread that reads from the bus as well.
 */
typedef void (*KwBusCallFunc) (KwBusCall *call, KwCaller *caller, gpointer user_data);

/**
 * KwBusAnswerFunc:
 * @job: a job that ended well
 *
 * Any thread.
 *
 * Returns: (transfer floating): the values of the answer
 */
typedef GVariant *(*KwBusAnswerFunc) (KwJob *job);

KwBusCalls *kw_bus_calls_new (GDBusConnection *connection, KwConfig *config, KwService *service);

void kw_bus_calls_add_direct (KwBusCalls *self,
                              const char *member,
                              const char *signature,
                              KwVerb verb,
                              KwBusCallFunc func);

void kw_bus_calls_start_filter (KwBusCalls *self);

void kw_bus_calls_quiesce (KwBusCalls *self);

guint kw_bus_calls_get_n_pending (KwBusCalls *self);

void kw_bus_calls_free (KwBusCalls *self);

void kw_bus_calls_begin (KwBusCalls *self,
                         GDBusMethodInvocation *invocation,
                         KwVerb verb,
                         KwBusCallFunc func,
                         gpointer user_data);

GDBusMessage *kw_bus_call_get_message (KwBusCall *self);

GVariant *kw_bus_call_ref_argument (KwBusCall *self, gsize index);

KwConfig *kw_bus_call_get_config (KwBusCall *self);

GCancellable *kw_bus_call_get_cancellable (KwBusCall *self);

KwBusPeer *kw_bus_call_get_peer (KwBusCall *self);

void kw_bus_call_submit (KwBusCall *self, KwJob *job, KwBusAnswerFunc answer);

void kw_bus_call_return (KwBusCall *self, GVariant *values);

void kw_bus_call_return_with_fds (KwBusCall *self, GVariant *values, GUnixFDList *fds);

void kw_bus_call_fail (KwBusCall *self, const GError *error);

void kw_bus_call_take_error (KwBusCall *self, GError *error);

G_END_DECLS
