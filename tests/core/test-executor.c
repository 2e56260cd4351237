/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "test-executor"

#include "config.h"

#include "kw-core-fixture.h"
#include "kw-error.h"
#include "kw-executor.h"
#include "kw-limits.h"

#include <sched.h>
#include <time.h>

/*
 * Each piece of work waits at a gate of its own until the test opens it, so that little here depends on how long anything takes.
 * What does says so: whether a token computes is told from the time of its calls.
 */

#define LONG_USEC (60 * G_TIME_SPAN_SECOND)

typedef struct
{
  GMutex lock;
  GCond changed;
} Hall;

typedef struct
{
  Hall *hall;
  gboolean open;   /* may leave */
  gboolean inside; /* has begun */
  gboolean left;   /* has come back from its run */
  guint n_done;
  KwWorkOutcome outcome;
  gboolean was_running;
  GThread *ran_on;
  GThread *told_on;
  gint *n_destroyed; /* atomic */
} Gate;

static void
gate_run (gpointer user_data)
{
  Gate *gate = user_data;

  g_mutex_lock (&gate->hall->lock);
  gate->ran_on = g_thread_self ();
  gate->inside = TRUE;
  g_cond_broadcast (&gate->hall->changed);
  while (!gate->open)
    g_cond_wait (&gate->hall->changed, &gate->hall->lock);
  gate->left = TRUE;
  g_cond_broadcast (&gate->hall->changed);
  g_mutex_unlock (&gate->hall->lock);
}

static void
gate_done (gpointer user_data, KwWorkOutcome outcome, gboolean was_running, gint64 duration_usec)
{
  Gate *gate = user_data;

  g_assert_cmpint (duration_usec, >=, 0);
  g_mutex_lock (&gate->hall->lock);
  gate->n_done++;
  gate->outcome = outcome;
  gate->was_running = was_running;
  gate->told_on = g_thread_self ();
  g_cond_broadcast (&gate->hall->changed);
  g_mutex_unlock (&gate->hall->lock);
  g_main_context_wakeup (NULL);
}

static void
gate_destroy (gpointer user_data)
{
  Gate *gate = user_data;

  g_atomic_int_inc (gate->n_destroyed);
  g_main_context_wakeup (NULL);
}

static void
hall_wait (Hall *hall, const gboolean *flag)
{
  g_mutex_lock (&hall->lock);
  while (!*flag)
    g_cond_wait (&hall->changed, &hall->lock);
  g_mutex_unlock (&hall->lock);
}

static gboolean
is_inside (Gate *gate)
{
  gboolean inside = FALSE;

  g_mutex_lock (&gate->hall->lock);
  inside = gate->inside;
  g_mutex_unlock (&gate->hall->lock);
  return inside;
}

static void
hall_wait_done (Gate *gate)
{
  g_mutex_lock (&gate->hall->lock);
  while (gate->n_done == 0)
    g_cond_wait (&gate->hall->changed, &gate->hall->lock);
  g_mutex_unlock (&gate->hall->lock);
}

static void
gate_open (Gate *gate)
{
  g_mutex_lock (&gate->hall->lock);
  gate->open = TRUE;
  g_cond_broadcast (&gate->hall->changed);
  g_mutex_unlock (&gate->hall->lock);
}

#define N_GATES 4

typedef struct
{
  Hall hall;
  Gate gates[N_GATES];
  gint n_destroyed;
  KwExecutor *executor;
  guint n_submitted;
} Fixture;

static void
set_up (Fixture *fixture, gconstpointer data)
{
  g_mutex_init (&fixture->hall.lock);
  g_cond_init (&fixture->hall.changed);
  for (guint i = 0; i < N_GATES; i++)
    {
      fixture->gates[i].hall = &fixture->hall;
      fixture->gates[i].n_destroyed = &fixture->n_destroyed;
    }
  fixture->executor = kw_executor_new ("test", GPOINTER_TO_UINT (data));
}

static void
tear_down (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  for (guint i = 0; i < N_GATES; i++)
    gate_open (&fixture->gates[i]);
  kw_executor_stop (fixture->executor);
  kw_iterate_until ((guint) g_atomic_int_get (&fixture->n_destroyed) == fixture->n_submitted);
  g_object_unref (fixture->executor);
  g_mutex_clear (&fixture->hall.lock);
  g_cond_clear (&fixture->hall.changed);
}

static gboolean
submit (Fixture *fixture, guint i, gint64 timeout_usec, gboolean here, GError **error)
{
  fixture->n_submitted++;
  return kw_executor_submit (fixture->executor,
                             kw_work_new (gate_run, gate_done, timeout_usec, &fixture->gates[i],
                                          gate_destroy),
                             here, error);
}

static void
test_runs_on_a_worker (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  Gate *gate = &fixture->gates[0];

  g_assert_true (submit (fixture, 0, LONG_USEC, FALSE, NULL));
  hall_wait (&fixture->hall, &gate->inside);
  g_assert_cmpuint (kw_executor_get_outstanding (fixture->executor), ==, 1);
  gate_open (gate);
  hall_wait_done (gate);
  g_assert_cmpuint (gate->n_done, ==, 1);
  g_assert_cmpuint (gate->outcome, ==, KW_WORK_RAN);
  g_assert_true (gate->was_running);
  g_assert_true (gate->ran_on == gate->told_on);
  g_assert_true (gate->ran_on != g_thread_self ());
  g_assert_cmpuint (kw_executor_get_outstanding (fixture->executor), ==, 0);
}

static void
test_runs_in_place (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  Gate *gate = &fixture->gates[0];

  gate_open (gate);
  g_assert_true (submit (fixture, 0, LONG_USEC, TRUE, NULL));
  g_assert_cmpuint (gate->n_done, ==, 1);
  g_assert_true (gate->ran_on == g_thread_self ());
}

static void
test_not_in_place_when_busy (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  gate_open (&fixture->gates[1]);
  g_assert_true (submit (fixture, 0, LONG_USEC, FALSE, NULL));
  hall_wait (&fixture->hall, &fixture->gates[0].inside);
  g_assert_true (submit (fixture, 1, LONG_USEC, TRUE, NULL));
  g_assert_cmpuint (fixture->gates[1].n_done, ==, 0);
  g_assert_cmpuint (kw_executor_get_outstanding (fixture->executor), ==, 2);
  gate_open (&fixture->gates[0]);
  hall_wait_done (&fixture->gates[1]);
  g_assert_true (fixture->gates[1].ran_on != g_thread_self ());
}

static gpointer
submit_in_place (gpointer user_data)
{
  g_assert_true (submit (user_data, 0, LONG_USEC, TRUE, NULL));
  return NULL;
}

/* Work queued behind a thread that runs in place is taken when that thread is through. */
static void
test_in_place_calls_a_worker_after (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  GThread *thread = g_thread_new ("door", submit_in_place, fixture);

  hall_wait (&fixture->hall, &fixture->gates[0].inside);
  gate_open (&fixture->gates[1]);
  g_assert_true (submit (fixture, 1, LONG_USEC, FALSE, NULL));
  gate_open (&fixture->gates[0]);
  hall_wait_done (&fixture->gates[1]);
  g_thread_join (thread);
}

static void
test_concurrency_is_kept (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  for (guint i = 0; i < 3; i++)
    g_assert_true (submit (fixture, i, LONG_USEC, FALSE, NULL));
  hall_wait (&fixture->hall, &fixture->gates[0].inside);
  hall_wait (&fixture->hall, &fixture->gates[1].inside);
  /* Long enough to be no token that computes. */
  g_usleep (10000);
  g_assert_false (is_inside (&fixture->gates[2]));
  gate_open (&fixture->gates[1]);
  hall_wait (&fixture->hall, &fixture->gates[2].inside);
  g_assert_false (fixture->gates[0].left);
}

/* One idle worker, two pieces of work at once: the second must not wait for the first. */
static void
test_one_idle_worker_is_not_enough (void)
{
  cpu_set_t set;

  g_assert_cmpint (sched_getaffinity (0, sizeof set, &set), ==, 0);
  if (CPU_COUNT (&set) < 2)
    {
      g_test_skip ("one processor runs one piece of work at a time");
      return;
    }
  for (guint round = 0; round < 50; round++)
    {
      Fixture fixture = { 0 };

      set_up (&fixture, GUINT_TO_POINTER (2));
      gate_open (&fixture.gates[0]);
      g_assert_true (submit (&fixture, 0, LONG_USEC, FALSE, NULL));
      kw_iterate_until (g_atomic_int_get (&fixture.n_destroyed) == 1);
      g_assert_true (submit (&fixture, 1, LONG_USEC, FALSE, NULL));
      g_assert_true (submit (&fixture, 2, LONG_USEC, FALSE, NULL));
      hall_wait (&fixture.hall, &fixture.gates[1].inside);
      hall_wait (&fixture.hall, &fixture.gates[2].inside);
      tear_down (&fixture, NULL);
    }
}

#define SPIN_NSEC 1000000
#define MAX_SPINS 1000

static gint64
get_processor_nsec (void)
{
  struct timespec used;

  g_assert_cmpint (clock_gettime (CLOCK_THREAD_CPUTIME_ID, &used), ==, 0);
  return (gint64) used.tv_sec * 1000000000 + used.tv_nsec;
}

typedef struct
{
  gint64 duration_usec;
  gint done; /* atomic */
} Spin;

static void
spin_run (gpointer user_data G_GNUC_UNUSED)
{
  gint64 end = get_processor_nsec () + SPIN_NSEC;

  while (get_processor_nsec () < end)
    continue;
}

static void
spin_done (gpointer user_data,
           KwWorkOutcome outcome,
           gboolean was_running G_GNUC_UNUSED,
           gint64 duration_usec)
{
  Spin *spin = user_data;

  g_assert_cmpuint (outcome, ==, KW_WORK_RAN);
  spin->duration_usec = duration_usec;
  g_atomic_int_set (&spin->done, TRUE);
}

/* Leaves one processor to this thread and those it starts. */
static void
take_one_processor (cpu_set_t *out_before)
{
  cpu_set_t one;
  int first = 0;

  g_assert_cmpint (sched_getaffinity (0, sizeof *out_before, out_before), ==, 0);
  while (!CPU_ISSET (first, out_before))
    first++;
  CPU_ZERO (&one);
  CPU_SET (first, &one);
  g_assert_cmpint (sched_setaffinity (0, sizeof one, &one), ==, 0);
}

/* Makes an executor that has seen a call that computes: one that others have not held up for long. */
static void
set_up_computing (Fixture *fixture, guint concurrency)
{
  for (guint i = 0; i < MAX_SPINS; i++)
    {
      Spin spin = { 0, FALSE };

      set_up (fixture, GUINT_TO_POINTER (concurrency));
      g_assert_true (kw_executor_submit (fixture->executor,
                                         kw_work_new (spin_run, spin_done, LONG_USEC, &spin, NULL),
                                         FALSE, NULL));
      while (!g_atomic_int_get (&spin.done))
        g_usleep (100);
      /* Well under what still counts as computing. */
      if (spin.duration_usec * 1000 < 6 * SPIN_NSEC)
        return;
      tear_down (fixture, NULL);
      *fixture = (Fixture){ 0 };
    }
  g_error ("no call of a millisecond is left alone by others");
}

static void
submit_long (Fixture *fixture, guint i)
{
  KwWork *work = kw_work_new (gate_run, gate_done, LONG_USEC, &fixture->gates[i], gate_destroy);

  kw_work_set_long (work);
  fixture->n_submitted++;
  g_assert_true (kw_executor_submit (fixture->executor, work, FALSE, NULL));
}

/* A token that computes on our one processor gets one thread, however many it would take, and what takes long is not counted. */
static void
test_processors_bound_what_computes (void)
{
  Fixture fixture = { 0 };
  cpu_set_t before;

  take_one_processor (&before);
  set_up_computing (&fixture, 3);
  submit_long (&fixture, 2);
  hall_wait (&fixture.hall, &fixture.gates[2].inside);
  g_assert_true (submit (&fixture, 0, LONG_USEC, FALSE, NULL));
  hall_wait (&fixture.hall, &fixture.gates[0].inside);
  g_assert_true (submit (&fixture, 1, LONG_USEC, FALSE, NULL));
  g_usleep (10 * SPIN_NSEC / 1000);
  g_assert_false (is_inside (&fixture.gates[1]));
  gate_open (&fixture.gates[0]);
  hall_wait (&fixture.hall, &fixture.gates[1].inside);
  tear_down (&fixture, NULL);
  g_assert_cmpint (sched_setaffinity (0, sizeof before, &before), ==, 0);
}

/* What comes right behind work that takes long does not wait for it, though there was no room when it came. */
static void
test_long_work_makes_room (void)
{
  cpu_set_t before;

  take_one_processor (&before);
  for (guint round = 0; round < 20; round++)
    {
      Fixture fixture = { 0 };

      set_up_computing (&fixture, 3);
      submit_long (&fixture, 2);
      g_assert_true (submit (&fixture, 0, LONG_USEC, FALSE, NULL));
      hall_wait (&fixture.hall, &fixture.gates[0].inside);
      hall_wait (&fixture.hall, &fixture.gates[2].inside);
      tear_down (&fixture, NULL);
    }
  g_assert_cmpint (sched_setaffinity (0, sizeof before, &before), ==, 0);
}

/* A token that makes us wait after all gets all threads, also for what is queued already. */
static void
test_waiting_lifts_the_bound (void)
{
  Fixture fixture = { 0 };
  cpu_set_t before;

  take_one_processor (&before);
  set_up_computing (&fixture, 3);
  for (guint i = 0; i < 3; i++)
    g_assert_true (submit (&fixture, i, LONG_USEC, FALSE, NULL));
  hall_wait (&fixture.hall, &fixture.gates[0].inside);
  g_usleep (1000 * SPIN_NSEC / 1000);
  g_assert_false (is_inside (&fixture.gates[1]));
  gate_open (&fixture.gates[0]);
  hall_wait (&fixture.hall, &fixture.gates[1].inside);
  hall_wait (&fixture.hall, &fixture.gates[2].inside);
  tear_down (&fixture, NULL);
  g_assert_cmpint (sched_setaffinity (0, sizeof before, &before), ==, 0);
}

static void
test_deadline_of_running_work (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  Gate *gate = &fixture->gates[0];

  g_assert_true (submit (fixture, 0, 1, FALSE, NULL));
  hall_wait (&fixture->hall, &gate->inside);
  kw_iterate_until (gate->n_done > 0);
  g_assert_cmpuint (gate->outcome, ==, KW_WORK_OVERDUE);
  g_assert_true (gate->was_running);
  g_assert_true (gate->told_on == g_thread_self ());
  g_assert_cmpuint (kw_executor_get_outstanding (fixture->executor), ==, 1);
  g_assert_cmpint (g_atomic_int_get (&fixture->n_destroyed), ==, 0);

  /* It comes back late: nobody is told a second time. */
  gate_open (gate);
  kw_iterate_until (g_atomic_int_get (&fixture->n_destroyed) == 1);
  g_assert_true (gate->left);
  g_assert_cmpuint (gate->n_done, ==, 1);
  g_assert_cmpuint (kw_executor_get_outstanding (fixture->executor), ==, 0);
}

static void
test_deadline_of_queued_work (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  Gate *gate = &fixture->gates[1];

  g_assert_true (submit (fixture, 0, LONG_USEC, FALSE, NULL));
  hall_wait (&fixture->hall, &fixture->gates[0].inside);
  g_assert_true (submit (fixture, 1, 1, FALSE, NULL));
  kw_iterate_until (gate->n_done > 0);
  g_assert_cmpuint (gate->outcome, ==, KW_WORK_OVERDUE);
  g_assert_false (gate->was_running);
  g_assert_false (gate->inside);
  g_assert_cmpuint (fixture->gates[0].n_done, ==, 0);
}

static void
test_late_worker_takes_what_waits (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_assert_true (submit (fixture, 0, 1, FALSE, NULL));
  hall_wait (&fixture->hall, &fixture->gates[0].inside);
  kw_iterate_until (fixture->gates[0].n_done > 0);
  gate_open (&fixture->gates[1]);
  g_assert_true (submit (fixture, 1, LONG_USEC, FALSE, NULL));
  g_assert_false (fixture->gates[1].inside);
  gate_open (&fixture->gates[0]);
  hall_wait_done (&fixture->gates[1]);
  g_assert_cmpuint (fixture->gates[1].outcome, ==, KW_WORK_RAN);
}

static void
run_nothing (gpointer user_data G_GNUC_UNUSED)
{
}

static void
count_refused (gpointer user_data,
               KwWorkOutcome outcome,
               gboolean was_running,
               gint64 duration_usec G_GNUC_UNUSED)
{
  guint *n_refused = user_data;

  g_assert_cmpuint (outcome, ==, KW_WORK_REFUSED);
  g_assert_false (was_running);
  (*n_refused)++;
}

static void
test_queue_is_bounded (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GError) error = NULL;
  guint n_refused = 0;

  g_assert_true (submit (fixture, 0, LONG_USEC, FALSE, NULL));
  hall_wait (&fixture->hall, &fixture->gates[0].inside);
  for (guint i = 0; i < KW_MAX_QUEUED_JOBS; i++)
    g_assert_true (
        kw_executor_submit (fixture->executor,
                            kw_work_new (run_nothing, count_refused, LONG_USEC, &n_refused, NULL),
                            FALSE, NULL));
  g_assert_false (submit (fixture, 1, LONG_USEC, TRUE, &error));
  kw_assert_error (error, KW_ERROR_BUSY, "Too many requests are waiting for the device");
  g_assert_cmpint (g_atomic_int_get (&fixture->n_destroyed), ==, 1);
  g_assert_cmpuint (fixture->gates[1].n_done, ==, 0);
  g_assert_cmpuint (kw_executor_get_outstanding (fixture->executor), ==, KW_MAX_QUEUED_JOBS + 1);
  kw_executor_stop (fixture->executor);
  g_assert_cmpuint (n_refused, ==, KW_MAX_QUEUED_JOBS);
}

static void
test_stop (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_autoptr (GError) error = NULL;

  g_assert_true (submit (fixture, 0, LONG_USEC, FALSE, NULL));
  hall_wait (&fixture->hall, &fixture->gates[0].inside);
  g_assert_true (submit (fixture, 1, LONG_USEC, FALSE, NULL));
  kw_executor_stop (fixture->executor);
  g_assert_cmpuint (fixture->gates[1].n_done, ==, 1);
  g_assert_cmpuint (fixture->gates[1].outcome, ==, KW_WORK_REFUSED);
  kw_executor_stop (fixture->executor);
  g_assert_false (submit (fixture, 2, LONG_USEC, FALSE, &error));
  kw_assert_error (error, KW_ERROR_TOKEN_GONE, "The device is gone");
  g_assert_cmpuint (fixture->gates[0].n_done, ==, 0);

  /* What runs ends by itself. */
  gate_open (&fixture->gates[0]);
  hall_wait_done (&fixture->gates[0]);
  g_assert_cmpuint (fixture->gates[0].outcome, ==, KW_WORK_RAN);
}

static void
test_deadline_after_stop (Fixture *fixture, gconstpointer data G_GNUC_UNUSED)
{
  g_assert_true (submit (fixture, 0, 1, FALSE, NULL));
  hall_wait (&fixture->hall, &fixture->gates[0].inside);
  kw_executor_stop (fixture->executor);
  kw_iterate_until (fixture->gates[0].n_done > 0);
  g_assert_cmpuint (fixture->gates[0].outcome, ==, KW_WORK_OVERDUE);
}

static void
add (const char *path, guint concurrency, void (*test) (Fixture *, gconstpointer))
{
  g_test_add (path, Fixture, GUINT_TO_POINTER (concurrency), set_up, test, tear_down);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  add ("/executor/runs-on-a-worker", 1, test_runs_on_a_worker);
  add ("/executor/runs-in-place", 0, test_runs_in_place); /* 0 means 1 */
  add ("/executor/not-in-place-when-busy", 1, test_not_in_place_when_busy);
  add ("/executor/in-place-calls-a-worker-after", 1, test_in_place_calls_a_worker_after);
  add ("/executor/concurrency-is-kept", 2, test_concurrency_is_kept);
  g_test_add_func ("/executor/one-idle-worker-is-not-enough", test_one_idle_worker_is_not_enough);
  g_test_add_func ("/executor/processors-bound-what-computes", test_processors_bound_what_computes);
  g_test_add_func ("/executor/long-work-makes-room", test_long_work_makes_room);
  g_test_add_func ("/executor/waiting-lifts-the-bound", test_waiting_lifts_the_bound);
  add ("/executor/deadline-of-running-work", 1, test_deadline_of_running_work);
  add ("/executor/deadline-of-queued-work", 1, test_deadline_of_queued_work);
  add ("/executor/late-worker-takes-what-waits", 1, test_late_worker_takes_what_waits);
  add ("/executor/queue-is-bounded", 1, test_queue_is_bounded);
  add ("/executor/stop", 1, test_stop);
  add ("/executor/deadline-after-stop", 1, test_deadline_after_stop);
  return g_test_run ();
}
