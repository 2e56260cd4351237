/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

#include "kw-bus-peer.h"
#include "kw-job.h"
#include "kw-service.h"

G_BEGIN_DECLS

/**
 * KwBusCalls:
 *
 * What calls of methods have in common: who calls is found out and may be refused, and calls at hand are counted. Main
 * context, but for answers of jobs.
 */
typedef struct _KwBusCalls KwBusCalls;

/**
 * KwBusCallFunc:
 * @invocation: the call; the function answers it
 * @caller: who calls, and may
 * @user_data: what was given with it
 */
typedef void (*KwBusCallFunc) (GDBusMethodInvocation *invocation,
                               KwCaller *caller,
                               gpointer user_data);

/**
 * KwBusAnswerFunc:
 * @job: a job that ended well
 *
 * Any thread.
 *
 * Returns: (transfer floating): the values of the answer
 */
typedef GVariant *(*KwBusAnswerFunc) (KwJob *job);

KwBusCalls *kw_bus_calls_new (GDBusConnection *connection, KwService *service);

void kw_bus_calls_quiesce (KwBusCalls *self);

guint kw_bus_calls_get_n_pending (KwBusCalls *self);

void kw_bus_calls_free (KwBusCalls *self);

void kw_bus_calls_authorise (KwBusCalls *self,
                             GDBusMethodInvocation *invocation,
                             KwBusCallFunc func,
                             gpointer user_data);

void kw_bus_calls_submit (KwBusCalls *self,
                          GDBusMethodInvocation *invocation,
                          KwJob *job,
                          KwBusAnswerFunc answer);

void kw_bus_return_error (GDBusMethodInvocation *invocation, const GError *error);

G_END_DECLS
