/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/**
 * KwFigures:
 *
 * What was counted and measured of one device, over all times it was plugged in. Reference-counted; any thread.
 */
typedef struct _KwFigures KwFigures;

/**
 * KwFiguresReading:
 * @n_jobs: jobs that ran to an end, good or bad
 * @n_errors: those that ended with trouble of the device
 * @n_failovers: those that were given to another device then
 * @p50_usec: half of the jobs took at most so long lately, in microseconds; 0 before the first
 * @p99_usec: all but one in a hundred did
 */
typedef struct
{
  guint64 n_jobs;
  guint64 n_errors;
  guint64 n_failovers;
  gint64 p50_usec;
  gint64 p99_usec;
} KwFiguresReading;

KwFigures *kw_figures_new (void);

KwFigures *kw_figures_ref (KwFigures *self);

void kw_figures_unref (KwFigures *self);

void kw_figures_count_job (KwFigures *self, gint64 duration_usec, gboolean trouble);

void kw_figures_count_failover (KwFigures *self);

void kw_figures_read (KwFigures *self, KwFiguresReading *out_reading);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwFigures, kw_figures_unref)

G_END_DECLS
