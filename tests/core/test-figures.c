/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-figures"

#include "config.h"

#include "kw-figures.h"

static KwFiguresReading
read_figures (KwFigures *figures)
{
  KwFiguresReading reading = { 0 };

  kw_figures_read (figures, &reading);
  return reading;
}

static void
test_counts (void)
{
  g_autoptr (KwFigures) figures = kw_figures_new ();
  g_autoptr (KwFigures) again = kw_figures_ref (figures);
  KwFiguresReading reading = read_figures (figures);

  g_assert_cmpuint (reading.n_jobs, ==, 0);
  g_assert_cmpint (reading.p50_usec, ==, 0);
  kw_figures_count_job (figures, 100, FALSE);
  kw_figures_count_job (figures, -1, TRUE);
  kw_figures_count_failover (again);
  reading = read_figures (again);
  g_assert_cmpuint (reading.n_jobs, ==, 2);
  g_assert_cmpuint (reading.n_errors, ==, 1);
  g_assert_cmpuint (reading.n_failovers, ==, 1);
  g_assert_cmpint (reading.p99_usec, >=, 100);
  g_assert_cmpint (reading.p99_usec, <=, 125);
}

/* At most a fifth too high, from microseconds to half an hour. */
static void
test_precision (void)
{
  for (gint64 usec = 4; usec < 2000000000; usec = usec * 9 / 7 + 1)
    {
      g_autoptr (KwFigures) figures = kw_figures_new ();
      KwFiguresReading reading = { 0 };

      kw_figures_count_job (figures, usec, FALSE);
      reading = read_figures (figures);
      g_assert_cmpint (reading.p50_usec, >, usec);
      g_assert_cmpint (reading.p50_usec, <=, usec + usec / 4 + 1);
    }
}

static void
test_odd_durations (void)
{
  g_autoptr (KwFigures) figures = kw_figures_new ();

  kw_figures_count_job (figures, 0, FALSE);
  g_assert_cmpint (read_figures (figures).p50_usec, ==, 5);
  for (guint i = 0; i < 5; i++)
    kw_figures_count_job (figures, G_MAXINT64, FALSE);
  g_assert_cmpint (read_figures (figures).p50_usec, >, G_TIME_SPAN_MINUTE * 30);
}

static void
test_percentiles (void)
{
  g_autoptr (KwFigures) figures = kw_figures_new ();
  KwFiguresReading reading = { 0 };

  for (guint i = 0; i < 98; i++)
    kw_figures_count_job (figures, 1000, FALSE);
  kw_figures_count_job (figures, 1000000, FALSE);
  kw_figures_count_job (figures, 1000000, FALSE);
  reading = read_figures (figures);
  g_assert_cmpint (reading.p50_usec, <, 1300);
  g_assert_cmpint (reading.p99_usec, >, 1000000);
}

/* A device that became slow shows it, however long it was quick. */
static void
test_old_times_fade (void)
{
  g_autoptr (KwFigures) figures = kw_figures_new ();

  for (guint i = 0; i < 100000; i++)
    kw_figures_count_job (figures, 1000, FALSE);
  for (guint i = 0; i < 6000; i++)
    kw_figures_count_job (figures, 50000, FALSE);
  g_assert_cmpint (read_figures (figures).p50_usec, >, 40000);
  g_assert_cmpuint (read_figures (figures).n_jobs, ==, 106000);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/figures/counts", test_counts);
  g_test_add_func ("/figures/precision", test_precision);
  g_test_add_func ("/figures/odd-durations", test_odd_durations);
  g_test_add_func ("/figures/percentiles", test_percentiles);
  g_test_add_func ("/figures/old-times-fade", test_old_times_fade);
  return g_test_run ();
}
