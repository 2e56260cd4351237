/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-metrics"

#include "config.h"

#include "kw-metrics.h"

#define N_THREADS 4
#define N_EACH 10000

static void
test_nothing_yet (void)
{
  g_autoptr (KwMetrics) metrics = kw_metrics_new ();

  for (guint verb = 0; verb < KW_N_VERBS; verb++)
    {
      KwMetricsReading reading;

      kw_metrics_read (metrics, (KwVerb) verb, &reading);
      g_assert_cmpuint (reading.n_all, ==, 0);
      g_assert_cmpuint (reading.sum_usec, ==, 0);
    }
}

static void
test_results_and_buckets (void)
{
  g_autoptr (KwMetrics) metrics = kw_metrics_new ();
  g_autoptr (GError) failed
      = g_error_new_literal (KW_ERROR, KW_ERROR_DECRYPT_FAILED, "it cannot be decrypted");
  g_autoptr (GError) foreign = g_error_new_literal (G_FILE_ERROR, G_FILE_ERROR_IO, "a disk");
  KwMetricsReading reading;

  kw_metrics_count (metrics, KW_VERB_DECRYPT, NULL, kw_metrics_get_bound (0));
  kw_metrics_count (metrics, KW_VERB_DECRYPT, NULL, kw_metrics_get_bound (0) + 1);
  kw_metrics_count (metrics, KW_VERB_DECRYPT, failed, -5);
  kw_metrics_count (metrics, KW_VERB_DECRYPT, foreign,
                    kw_metrics_get_bound (KW_N_METRICS_BUCKETS - 1) + 1);
  kw_metrics_read (metrics, KW_VERB_DECRYPT, &reading);
  g_assert_cmpuint (reading.n[0], ==, 2);
  g_assert_cmpuint (reading.n[1 + KW_ERROR_DECRYPT_FAILED], ==, 1);
  g_assert_cmpuint (reading.n[1 + KW_ERROR_FAILED], ==, 1);
  g_assert_cmpuint (reading.buckets[0], ==, 2);
  g_assert_cmpuint (reading.buckets[1], ==, 3);
  g_assert_cmpuint (reading.buckets[KW_N_METRICS_BUCKETS - 1], ==, 3);
  g_assert_cmpuint (reading.n_all, ==, 4);
  g_assert_cmpuint (reading.sum_usec, ==,
                    2 * kw_metrics_get_bound (0) + 1
                        + kw_metrics_get_bound (KW_N_METRICS_BUCKETS - 1) + 1);
  kw_metrics_read (metrics, KW_VERB_ENCRYPT, &reading);
  g_assert_cmpuint (reading.n_all, ==, 0);
}

static void
test_bounds_rise (void)
{
  for (guint i = 1; i < KW_N_METRICS_BUCKETS; i++)
    g_assert_cmpint (kw_metrics_get_bound (i), >, kw_metrics_get_bound (i - 1));
}

static gpointer
count_many (gpointer data)
{
  for (guint i = 0; i < N_EACH; i++)
    kw_metrics_count (data, KW_VERB_ENCRYPT, NULL, 1);
  return NULL;
}

static void
test_threads (void)
{
  g_autoptr (KwMetrics) metrics = kw_metrics_new ();
  GThread *threads[N_THREADS];
  KwMetricsReading reading;

  for (guint i = 0; i < N_THREADS; i++)
    threads[i] = g_thread_new ("count", count_many, metrics);
  for (guint i = 0; i < N_THREADS; i++)
    g_thread_join (threads[i]);
  kw_metrics_read (metrics, KW_VERB_ENCRYPT, &reading);
  g_assert_cmpuint (reading.n_all, ==, N_THREADS * N_EACH);
  g_assert_cmpuint (reading.sum_usec, ==, N_THREADS * N_EACH);
}

int
main (int argc, char *argv[])
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/metrics/nothing", test_nothing_yet);
  g_test_add_func ("/metrics/counts", test_results_and_buckets);
  g_test_add_func ("/metrics/bounds", test_bounds_rise);
  g_test_add_func ("/metrics/threads", test_threads);
  return g_test_run ();
}
