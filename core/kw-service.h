/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-audit.h"
#include "kw-config.h"
#include "kw-pool.h"
#include "kw-self-test.h"
#include "kw-use-counter.h"

G_BEGIN_DECLS

#define KW_TYPE_SERVICE (kw_service_get_type ())
G_DECLARE_FINAL_TYPE (KwService, kw_service, KW, SERVICE, GObject)

KwService *kw_service_new (KwConfig *config, GError **error);

void kw_service_start (KwService *self);

void kw_service_stop (KwService *self);

void kw_service_submit (KwService *self, KwJob *job);

KwSelfTest *kw_service_run_test (KwService *self);

gboolean kw_service_retry_device (KwService *self, const char *serial, GError **error);

KwPool *kw_service_get_pool (KwService *self);

KwKeyring *kw_service_get_keyring (KwService *self);

KwUseCounter *kw_service_get_use_counter (KwService *self);

KwAudit *kw_service_get_audit (KwService *self);

G_END_DECLS
