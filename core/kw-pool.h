/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-backend.h"
#include "kw-device.h"
#include "kw-job.h"

G_BEGIN_DECLS

#define KW_TYPE_POOL (kw_pool_get_type ())
G_DECLARE_FINAL_TYPE (KwPool, kw_pool, KW, POOL, GObject)

KwPool *kw_pool_new (const KwDeviceOptions *options);

void kw_pool_add_backend (KwPool *self, KwBackend *backend);

void kw_pool_set_check_interval (KwPool *self, gint64 interval_usec);

void kw_pool_set_replication (KwPool *self, gboolean replicate, guint min_copies);

void kw_pool_start (KwPool *self);

void kw_pool_stop (KwPool *self);

gboolean kw_pool_is_idle (KwPool *self);

void kw_pool_submit (KwPool *self, KwJob *job);

GPtrArray *kw_pool_unlock (KwPool *self, const char *serial, KwSecret *pin);

void kw_pool_forget_pin (KwPool *self, KwDevice *device);

gboolean kw_pool_find_first_key (KwPool *self, guint8 *out_prefix, char **out_name);

GPtrArray *kw_pool_dup_devices (KwPool *self);

char *kw_pool_dup_trouble (KwPool *self);

GPtrArray *kw_pool_dup_ready_keys (KwPool *self, KwKeyKind kind);

gboolean kw_pool_is_ready (KwPool *self);

char *kw_pool_dup_status_text (KwPool *self);

void kw_pool_check_keys_async (KwPool *self,
                               GCancellable *cancellable,
                               GAsyncReadyCallback callback,
                               gpointer user_data);

KwKeyMatrix *kw_pool_check_keys_finish (KwPool *self, GAsyncResult *result, GError **error);

void kw_pool_judge_keys (KwPool *self);

void kw_pool_reopen_devices (KwPool *self, gboolean keys_changed);

G_END_DECLS
