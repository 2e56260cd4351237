/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-access.h"
#include "kw-audit.h"
#include "kw-config.h"
#include "kw-health.h"
#include "kw-metrics.h"
#include "kw-pool.h"
#include "kw-self-test.h"
#include "kw-ticket.h"
#include "kw-use-counter.h"

G_BEGIN_DECLS

#define KW_TYPE_SERVICE (kw_service_get_type ())
G_DECLARE_FINAL_TYPE (KwService, kw_service, KW, SERVICE, GObject)

KwService *kw_service_new (KwConfig *config, GError **error);

void kw_service_start (KwService *self);

void kw_service_stop (KwService *self);

void kw_service_submit (KwService *self, KwJob *job);

KwSelfTest *
kw_service_test_device (KwService *self, KwCaller *caller, const char *device, GError **error);

KwSelfTest *kw_service_run_test (KwService *self, KwCaller *caller, GError **error);

void kw_service_retry_device_async (KwService *self,
                                    KwCaller *caller,
                                    const char *serial,
                                    GAsyncReadyCallback callback,
                                    gpointer user_data);

gboolean kw_service_retry_device_finish (KwService *self, GAsyncResult *result, GError **error);

void kw_service_accept_key_async (KwService *self,
                                  KwCaller *caller,
                                  const char *id,
                                  const char *fingerprint,
                                  GAsyncReadyCallback callback,
                                  gpointer user_data);

gboolean kw_service_accept_key_finish (KwService *self, GAsyncResult *result, GError **error);

void kw_service_check_keys_async (KwService *self,
                                  KwCaller *caller,
                                  GAsyncReadyCallback callback,
                                  gpointer user_data);

KwKeyMatrix *kw_service_check_keys_finish (KwService *self, GAsyncResult *result, GError **error);

void kw_service_unlock_async (KwService *self,
                              KwCaller *caller,
                              KwSecret *pin,
                              const char *serial,
                              GAsyncReadyCallback callback,
                              gpointer user_data);

gboolean kw_service_unlock_finish (KwService *self, GAsyncResult *result, GError **error);

void kw_service_reload_async (KwService *self,
                              KwCaller *caller,
                              GAsyncReadyCallback callback,
                              gpointer user_data);

GStrv kw_service_reload_finish (KwService *self, GAsyncResult *result, GError **error);

KwSecret *kw_service_make_web_login (KwService *self, KwCaller *caller, GError **error);

void kw_service_audit_refusal (KwService *self,
                               KwCaller *caller,
                               KwVerb verb,
                               const char *key,
                               const GError *error);

KwConfig *kw_service_get_config (KwService *self);

KwGrant *
kw_service_resolve_grant (KwService *self, gint64 uid, const guint32 *groups, gsize n_groups);

KwPool *kw_service_get_pool (KwService *self);

KwKeyring *kw_service_get_keyring (KwService *self);

KwUseCounter *kw_service_get_use_counter (KwService *self);

KwAudit *kw_service_get_audit (KwService *self);

KwHealth *kw_service_get_health (KwService *self);

KwMetrics *kw_service_get_metrics (KwService *self);

KwTickets *kw_service_get_tickets (KwService *self);

G_END_DECLS
