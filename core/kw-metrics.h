/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "kw-error.h"
#include "kw-job.h"

G_BEGIN_DECLS

#define KW_N_METRICS_BUCKETS 12

/**
 * KwMetrics:
 *
 * What was asked of the service, counted and timed, since it was started. Reference-counted; any thread.
 */
typedef struct _KwMetrics KwMetrics;

/**
 * KwMetricsReading:
 * @n: how many requests ended, by result: index 0 is success, index 1 + code an error
 * @buckets: how many took at most kw_metrics_get_bound() each, counted into all that fit
 * @n_all: all of them
 * @sum_usec: how long all of them took together, in microseconds
 */
typedef struct
{
  guint64 n[1 + KW_N_ERRORS];
  guint64 buckets[KW_N_METRICS_BUCKETS];
  guint64 n_all;
  guint64 sum_usec;
} KwMetricsReading;

KwMetrics *kw_metrics_new (void);

KwMetrics *kw_metrics_ref (KwMetrics *self);

void kw_metrics_unref (KwMetrics *self);

void kw_metrics_count (KwMetrics *self, KwVerb verb, const GError *error, gint64 duration_usec);

void kw_metrics_read (KwMetrics *self, KwVerb verb, KwMetricsReading *out_reading);

gint64 kw_metrics_get_bound (guint bucket);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (KwMetrics, kw_metrics_unref)

G_END_DECLS
