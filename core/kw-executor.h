/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct _KwWork KwWork;

/**
 * KwWorkOutcome:
 * @KW_WORK_RAN: it ran; called on the thread that ran it
 * @KW_WORK_OVERDUE: its deadline passed, while it waited or while it runs; called in the main context. If it runs, it goes on,
 *   and what it produces is dropped
 * @KW_WORK_REFUSED: the executor stopped before it ran; called where that was seen
 */
typedef enum
{
  KW_WORK_RAN,
  KW_WORK_OVERDUE,
  KW_WORK_REFUSED,
} KwWorkOutcome;

typedef void (*KwWorkFunc) (gpointer user_data);
typedef void (*KwWorkDoneFunc) (gpointer user_data,
                                KwWorkOutcome outcome,
                                gboolean was_running,
                                gint64 duration_usec);

KwWork *kw_work_new (KwWorkFunc run,
                     KwWorkDoneFunc done,
                     gint64 timeout_usec,
                     gpointer user_data,
                     GDestroyNotify destroy);

void kw_work_set_long (KwWork *work);

#define KW_TYPE_EXECUTOR (kw_executor_get_type ())
G_DECLARE_FINAL_TYPE (KwExecutor, kw_executor, KW, EXECUTOR, GObject)

KwExecutor *kw_executor_new (const char *name, guint concurrency);

gboolean kw_executor_submit (KwExecutor *self, KwWork *work, gboolean here, GError **error);

guint kw_executor_get_outstanding (KwExecutor *self);

gint64 kw_executor_get_mean_usec (KwExecutor *self);

gint64 kw_executor_get_expected_usec (KwExecutor *self);

gboolean kw_executor_is_finished (KwExecutor *self);

void kw_executor_stop (KwExecutor *self);

G_END_DECLS
