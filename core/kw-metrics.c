/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-metrics"

#include "config.h"

#include "kw-metrics.h"

#include <stdatomic.h>

/*
 * What was asked of the service, counted and timed by verb. Counters are atomic and never go back, so that counting costs a
 * request next to nothing and a reader needs no lock; he may see a request counted in one of them and not yet in another.
 *
 * Any thread.
 */
typedef struct
{
  _Atomic guint64 n[1 + KW_N_ERRORS];
  _Atomic guint64
      buckets[KW_N_METRICS_BUCKETS + 1]; /* each for itself; the last is for what is longer */
  _Atomic guint64 sum_usec;
} Counters;

struct _KwMetrics
{
  gatomicrefcount references;
  Counters counters[KW_N_VERBS];
};

/* From what a software token needs to a card that makes a key. */
static const gint64 bounds_usec[KW_N_METRICS_BUCKETS] = {
  100, 250, 500, 1000, 2500, 5000, 25000, 100000, 500000, 1000000, 5000000, 30000000,
};

/**
 * kw_metrics_new:
 *
 * Returns: (transfer full): nothing counted yet. Any thread.
 */
KwMetrics *
kw_metrics_new (void)
{
  KwMetrics *self = g_new0 (KwMetrics, 1);

  g_atomic_ref_count_init (&self->references);
  return self;
}

/**
 * kw_metrics_ref:
 * @self: metrics
 *
 * Returns: (transfer full): @self with one more reference. Any thread.
 */
KwMetrics *
kw_metrics_ref (KwMetrics *self)
{
  g_atomic_ref_count_inc (&self->references);
  return self;
}

/**
 * kw_metrics_unref:
 * @self: (transfer full): metrics
 *
 * Gives a reference back. Any thread.
 */
void
kw_metrics_unref (KwMetrics *self)
{
  if (g_atomic_ref_count_dec (&self->references))
    g_free (self);
}

/**
 * kw_metrics_count:
 * @self: metrics
 * @verb: what was asked
 * @error: (nullable): how it failed
 * @duration_usec: how long it took, in microseconds
 *
 * Counts one request. Any thread.
 */
void
kw_metrics_count (KwMetrics *self, KwVerb verb, const GError *error, gint64 duration_usec)
{
  Counters *counters = &self->counters[verb];
  guint result = error == NULL               ? 0
                 : error->domain == KW_ERROR ? 1 + (guint) error->code
                                             : 1 + (guint) KW_ERROR_FAILED;
  guint bucket = 0;

  g_return_if_fail ((guint) verb < KW_N_VERBS && result <= KW_N_ERRORS);

  while (bucket < KW_N_METRICS_BUCKETS && duration_usec > bounds_usec[bucket])
    bucket++;
  atomic_fetch_add_explicit (&counters->n[result], 1, memory_order_relaxed);
  atomic_fetch_add_explicit (&counters->buckets[bucket], 1, memory_order_relaxed);
  atomic_fetch_add_explicit (&counters->sum_usec, (guint64) MAX (duration_usec, 0),
                             memory_order_relaxed);
}

/**
 * kw_metrics_read:
 * @self: metrics
 * @verb: what was asked
 * @out_reading: (out): what was counted of it
 *
 * Reads what was counted. Any thread.
 */
void
kw_metrics_read (KwMetrics *self, KwVerb verb, KwMetricsReading *out_reading)
{
  Counters *counters = &self->counters[verb];
  guint64 n = 0;

  g_return_if_fail ((guint) verb < KW_N_VERBS);

  for (guint i = 0; i <= KW_N_ERRORS; i++)
    out_reading->n[i] = atomic_load_explicit (&counters->n[i], memory_order_relaxed);
  for (guint i = 0; i < KW_N_METRICS_BUCKETS; i++)
    {
      n += atomic_load_explicit (&counters->buckets[i], memory_order_relaxed);
      out_reading->buckets[i] = n;
    }
  out_reading->n_all
      = n + atomic_load_explicit (&counters->buckets[KW_N_METRICS_BUCKETS], memory_order_relaxed);
  out_reading->sum_usec = atomic_load_explicit (&counters->sum_usec, memory_order_relaxed);
}

/**
 * kw_metrics_get_bound:
 * @bucket: number of a bucket
 *
 * Returns: the longest duration that is counted into it, in microseconds. Any thread.
 */
gint64
kw_metrics_get_bound (guint bucket)
{
  g_return_val_if_fail (bucket < KW_N_METRICS_BUCKETS, 0);

  return bounds_usec[bucket];
}
