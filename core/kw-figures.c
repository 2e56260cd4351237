/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-figures"

#include "config.h"

#include "kw-figures.h"

/*
 * Counters and a histogram of durations. The histogram has four buckets for each doubling, so that a percentile is at most
 * a fifth too high; all its counts are halved now and then, so that it tells of the last few thousand jobs.
 */

#define STEPS_PER_DOUBLING 4
#define N_DOUBLINGS 32
#define N_BUCKETS (STEPS_PER_DOUBLING * N_DOUBLINGS)
#define MAX_SAMPLES 4096

struct _KwFigures
{
  gatomicrefcount references;

  GMutex lock;
  guint64 n_jobs; /* guarded by lock, like all below */
  guint64 n_errors;
  guint64 n_failovers;
  guint n_samples;
  guint buckets[N_BUCKETS];
};

static guint
bucket_of (gint64 usec)
{
  guint64 value = (guint64) CLAMP (usec, STEPS_PER_DOUBLING, G_MAXINT32);
  guint doubling = (guint) g_bit_storage ((gulong) value) - 1;
  guint step = (guint) (value >> (doubling - 2)) & (STEPS_PER_DOUBLING - 1);

  return MIN (doubling * STEPS_PER_DOUBLING + step, N_BUCKETS - 1);
}

/* The upper end of a bucket. */
static gint64
end_of_bucket (guint bucket)
{
  guint doubling = bucket / STEPS_PER_DOUBLING;
  guint step = bucket % STEPS_PER_DOUBLING;

  return ((gint64) (STEPS_PER_DOUBLING + step + 1) << doubling) / STEPS_PER_DOUBLING;
}

/* Called with the lock held. */
static gint64
percentile (const KwFigures *self, guint percent)
{
  guint wanted = (self->n_samples * percent + 99) / 100;
  guint n = 0;

  for (guint i = 0; i < N_BUCKETS && self->n_samples > 0; i++)
    {
      n += self->buckets[i];
      if (n >= wanted)
        return end_of_bucket (i);
    }
  return 0;
}

/* Called with the lock held. */
static void
halve (KwFigures *self)
{
  self->n_samples = 0;
  for (guint i = 0; i < N_BUCKETS; i++)
    {
      self->buckets[i] /= 2;
      self->n_samples += self->buckets[i];
    }
}

/**
 * kw_figures_new:
 *
 * Returns: (transfer full): figures of which nothing was counted yet
 */
KwFigures *
kw_figures_new (void)
{
  KwFigures *self = g_new0 (KwFigures, 1);

  g_atomic_ref_count_init (&self->references);
  g_mutex_init (&self->lock);
  return self;
}

/**
 * kw_figures_ref:
 * @self: figures
 *
 * Returns: (transfer full): @self with one more reference. Any thread.
 */
KwFigures *
kw_figures_ref (KwFigures *self)
{
  g_return_val_if_fail (self != NULL, NULL);

  g_atomic_ref_count_inc (&self->references);
  return self;
}

/**
 * kw_figures_unref:
 * @self: (transfer full): figures
 *
 * Gives a reference back. Any thread.
 */
void
kw_figures_unref (KwFigures *self)
{
  g_return_if_fail (self != NULL);

  if (!g_atomic_ref_count_dec (&self->references))
    return;
  g_mutex_clear (&self->lock);
  g_free (self);
}

/**
 * kw_figures_count_job:
 * @self: figures
 * @duration_usec: how long the device worked on it, in microseconds; less than 0 when that is not known
 * @trouble: it ended with trouble of the device
 *
 * Counts a job. Any thread.
 */
void
kw_figures_count_job (KwFigures *self, gint64 duration_usec, gboolean trouble)
{
  g_return_if_fail (self != NULL);

  g_mutex_lock (&self->lock);
  self->n_jobs++;
  if (trouble)
    self->n_errors++;
  if (duration_usec >= 0)
    {
      self->buckets[bucket_of (duration_usec)]++;
      self->n_samples++;
      if (self->n_samples >= MAX_SAMPLES)
        halve (self);
    }
  g_mutex_unlock (&self->lock);
}

/**
 * kw_figures_count_failover:
 * @self: figures
 *
 * Counts a job that was given to another device after this one failed. Any thread.
 */
void
kw_figures_count_failover (KwFigures *self)
{
  g_return_if_fail (self != NULL);

  g_mutex_lock (&self->lock);
  self->n_failovers++;
  g_mutex_unlock (&self->lock);
}

/**
 * kw_figures_read:
 * @self: figures
 * @out_reading: (out): what they are now
 *
 * Reads all figures at one moment. Any thread.
 */
void
kw_figures_read (KwFigures *self, KwFiguresReading *out_reading)
{
  g_return_if_fail (self != NULL && out_reading != NULL);

  g_mutex_lock (&self->lock);
  *out_reading = (KwFiguresReading){
    .n_jobs = self->n_jobs,
    .n_errors = self->n_errors,
    .n_failovers = self->n_failovers,
    .p50_usec = percentile (self, 50),
    .p99_usec = percentile (self, 99),
  };
  g_mutex_unlock (&self->lock);
}
