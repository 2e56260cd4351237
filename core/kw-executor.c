/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-executor"

#include "config.h"

#include "kw-executor.h"

#include "kw-error.h"
#include "kw-limits.h"

#include <sched.h>
#include <time.h>

/*
 * Runs blocking work for one device: a bounded queue, as many worker threads as the token can serve at once, a deadline
 * for each piece of work.
 *
 * A door's thread that may be lost to a token (its connections are served by others meanwhile) can run work in place,
 * which saves two thread switches for each request; it takes a place in the token while it does. That is done only while the
 * token answers within IN_PLACE_LIMIT_USEC in the mean, so that a slow token does not hold up a door.
 *
 * A token that computes on our own processors, as SoftHSM does, is not made faster by more threads than there are processors:
 * they would only take them from each other, and from the threads that bring requests and take answers away. So it is looked at how
 * much of the time of a call is processor time; if it is a good part of it, no more threads than processors are inside. Work that
 * takes long does not count there, so that nothing has to wait until a key is made. Where threads have to share the processors with
 * so many others that they get less than that part, the bound is not found out, and all is as it would be without it.
 *
 * Each piece of work ends exactly once: on the thread that ran it, or in the main context when its deadline passes. A
 * thread that comes back from an overdue call drops what it has.
 *
 * Objects are made and stopped in the main context; kw_executor_submit() is for any thread. Everything below the lock is
 * guarded by it.
 */

#define IN_PLACE_LIMIT_USEC 2000
#define WATCHDOG_INTERVAL_USEC (100 * G_TIME_SPAN_MILLISECOND)
#define IDLE_WORKER_USEC (10 * G_TIME_SPAN_SECOND)
#define NSEC_PER_USEC 1000
#define NSEC_PER_SEC 1000000000
#define MEAN_WEIGHT 16
#define STALE_MEAN_WEIGHT 2 /* after a while without work, what was is soon forgotten */
#define HALVING_USEC (500 * G_TIME_SPAN_MILLISECOND)
#define MAX_HALVINGS 30
#define SHORTEST_CALL_USEC                                                                         \
  5 /* what takes less did not ask the token: the work had been called off */
/* A token computes here when its calls are processor time to one part in so many, and until it is less than one in twice as many. */
#define COMPUTING_SHARE 8

typedef enum
{
  WORK_QUEUED,
  WORK_RUNNING,
  WORK_ENDED,
} WorkState;

struct _KwWork
{
  gatomicrefcount references;
  KwWorkFunc run;
  KwWorkDoneFunc done;
  GDestroyNotify destroy;
  gpointer user_data;
  gint64 timeout_usec;
  gint64 deadline;  /* monotonic */
  gint64 started;   /* monotonic */
  WorkState state;  /* guarded by the executor's lock */
  gboolean is_long; /* takes far longer than most, such as making a key */
  GList link;       /* in the queue or among the running */
};

struct _KwExecutor
{
  GObject parent_instance;

  char *name; /* owned */
  guint concurrency;
  guint n_processors;
  GSource *watchdog; /* owned */

  GMutex lock;
  GCond wake;
  GQueue queue;   /* of KwWork, owned */
  GQueue running; /* of KwWork, owned by the threads that run them */
  guint n_busy;   /* threads inside a call, overdue ones too */
  guint n_long;   /* those of them with work that takes long */
  guint n_workers;
  guint n_idle;
  gboolean stopped;
  gboolean watching;
  gint64 mean_nsec;
  gint64 mean_processor_nsec; /* what of it is processor time */
  gboolean computes;          /* a good part of it is */
  gint64 last_end;            /* monotonic: when work ended last; 0 = none did */
};

G_DEFINE_FINAL_TYPE (KwExecutor, kw_executor, G_TYPE_OBJECT)

static KwWork *
work_ref (KwWork *work)
{
  g_atomic_ref_count_inc (&work->references);
  return work;
}

static void
work_unref (KwWork *work)
{
  if (!g_atomic_ref_count_dec (&work->references))
    return;
  if (work->destroy != NULL)
    work->destroy (work->user_data);
  g_free (work);
}

/* Called with the lock held. */
static void
start_watching (KwExecutor *self)
{
  if (self->watching || self->watchdog == NULL)
    return;
  self->watching = TRUE;
  g_source_set_ready_time (self->watchdog, g_get_monotonic_time () + WATCHDOG_INTERVAL_USEC);
}

/* Those that we may use, which g_get_num_processors() does not look at. */
static guint
count_processors (void)
{
  cpu_set_t set;

  if (sched_getaffinity (0, sizeof set, &set) != 0)
    return g_get_num_processors ();
  return (guint) MAX (CPU_COUNT (&set), 1);
}

/* What this thread has had of the processors, in nanoseconds. */
static gint64
get_processor_nsec (void)
{
  struct timespec used = { 0, 0 };

  (void) clock_gettime (CLOCK_THREAD_CPUTIME_ID, &used);
  return (gint64) used.tv_sec * NSEC_PER_SEC + used.tv_nsec;
}

/* Called with the lock held: how many threads may be inside the token. */
static guint
get_most_busy (KwExecutor *self)
{
  return self->computes ? MIN (self->concurrency, self->n_processors + self->n_long)
                        : self->concurrency;
}

/* Called with the lock held. */
static void
take_duration (KwExecutor *self, gint64 begun, gint64 duration_usec, gint64 processor_nsec)
{
  gboolean stale = self->last_end != 0 && begun - self->last_end > HALVING_USEC;
  gint64 weight = stale ? STALE_MEAN_WEIGHT : MEAN_WEIGHT;

  self->mean_nsec += (duration_usec * NSEC_PER_USEC - self->mean_nsec) / weight;
  self->mean_processor_nsec += (processor_nsec - self->mean_processor_nsec) / weight;
  self->computes
      = self->mean_processor_nsec * COMPUTING_SHARE * (self->computes ? 2 : 1) > self->mean_nsec;
  self->last_end = begun + duration_usec;
}

static gpointer worker_main (gpointer user_data);

/* Called with the lock held, which it gives back: sees to it that somebody takes what is queued. */
static void
call_worker_and_unlock (KwExecutor *self)
{
  guint n_queued = g_queue_get_length (&self->queue);
  /* Where there is no room, one of those inside takes it or calls a worker when it comes out. */
  gboolean room = n_queued > 0 && self->n_busy < get_most_busy (self);
  gboolean wake = room && self->n_idle > 0;
  g_autoptr (GThread) thread = NULL;

  /* A worker that was called a moment ago may still count as idle: there must be one for each that waits. */
  if (room && self->n_idle < n_queued && self->n_workers < get_most_busy (self))
    {
      thread = g_thread_try_new (self->name, worker_main, g_object_ref (self), NULL);
      if (thread != NULL)
        self->n_workers++;
      else
        g_object_unref (self);
    }
  g_mutex_unlock (&self->lock);
  /* Whoever is woken finds the lock free. */
  if (wake)
    g_cond_signal (&self->wake);
}

/*
 * Called with the lock held; gives it up while the work runs. Takes the reference. Whoever takes work calls the next one, as there
 * may be more room than there was when the rest was queued.
 */
static void
run_work (KwExecutor *self, KwWork *work)
{
  gint64 processor = 0;
  gint64 begun = 0;
  gint64 duration = 0;
  gboolean won = FALSE;

  work->state = WORK_RUNNING;
  work->started = g_get_monotonic_time ();
  g_queue_push_tail_link (&self->running, &work->link);
  self->n_busy++;
  self->n_long += work->is_long;
  call_worker_and_unlock (self);

  /* Who waits for this processor brings requests or takes answers away, which is short: it goes first. */
  g_thread_yield ();
  begun = g_get_monotonic_time ();
  processor = get_processor_nsec ();
  work->run (work->user_data);
  processor = get_processor_nsec () - processor;
  duration = g_get_monotonic_time () - begun;

  g_mutex_lock (&self->lock);
  self->n_busy--;
  self->n_long -= work->is_long;
  won = work->state == WORK_RUNNING;
  if (won)
    {
      g_queue_unlink (&self->running, &work->link);
      work->state = WORK_ENDED;
    }
  if (won && !work->is_long && duration >= SHORTEST_CALL_USEC)
    take_duration (self, begun, duration, processor);
  g_mutex_unlock (&self->lock);

  if (won)
    work->done (work->user_data, KW_WORK_RAN, TRUE, duration);
  work_unref (work);
  g_mutex_lock (&self->lock);
}

static gpointer
worker_main (gpointer user_data)
{
  g_autoptr (KwExecutor) self = user_data;
  gboolean leave = FALSE;

  g_mutex_lock (&self->lock);
  while (!leave)
    {
      GList *link = NULL;

      if (self->n_busy < get_most_busy (self))
        link = g_queue_pop_head_link (&self->queue);
      if (link != NULL)
        {
          run_work (self, link->data);
          continue;
        }
      /* Few threads that stay where they are run faster than many that take turns. */
      leave = self->stopped || self->n_workers > get_most_busy (self);
      if (!leave)
        {
          self->n_idle++;
          leave = !g_cond_wait_until (&self->wake, &self->lock,
                                      g_get_monotonic_time () + IDLE_WORKER_USEC)
                  && g_queue_is_empty (&self->queue);
          self->n_idle--;
        }
    }
  self->n_workers--;
  g_mutex_unlock (&self->lock);
  return NULL;
}

static gboolean
on_watchdog (GSource *source, GSourceFunc callback, gpointer user_data)
{
  return callback (user_data);
}

/* Called with the lock held: moves what is overdue in one queue to @overdue, a reference each. */
static void
collect_overdue (GQueue *queue, gint64 now, GPtrArray *overdue)
{
  for (GList *link = queue->head, *next = NULL; link != NULL; link = next)
    {
      KwWork *work = link->data;

      next = link->next;
      if (work->deadline > now)
        continue;
      g_queue_unlink (queue, link);
      work->state = WORK_ENDED;
      g_ptr_array_add (overdue, work_ref (work));
    }
}

static gboolean
end_overdue_work (gpointer user_data)
{
  g_autoptr (KwExecutor) self = g_weak_ref_get (user_data);
  g_autoptr (GPtrArray) running = g_ptr_array_new_with_free_func ((GDestroyNotify) work_unref);
  g_autoptr (GPtrArray) queued = g_ptr_array_new_with_free_func ((GDestroyNotify) work_unref);
  gint64 now = g_get_monotonic_time ();

  if (self == NULL)
    return G_SOURCE_REMOVE;
  g_mutex_lock (&self->lock);
  collect_overdue (&self->running, now, running);
  collect_overdue (&self->queue, now, queued);
  self->watching = !g_queue_is_empty (&self->running) || !g_queue_is_empty (&self->queue);
  if (self->watchdog != NULL)
    g_source_set_ready_time (self->watchdog, self->watching ? now + WATCHDOG_INTERVAL_USEC : -1);
  /* In case that no thread could be made when work came. */
  call_worker_and_unlock (self);

  for (guint i = 0; i < running->len; i++)
    {
      KwWork *work = g_ptr_array_index (running, i);

      work->done (work->user_data, KW_WORK_OVERDUE, TRUE, now - work->started);
    }
  for (guint i = 0; i < queued->len; i++)
    {
      KwWork *work = g_ptr_array_index (queued, i);

      work->done (work->user_data, KW_WORK_OVERDUE, FALSE, 0);
      work_unref (work); /* the queue's own */
    }
  return G_SOURCE_CONTINUE;
}

static GSourceFuncs watchdog_funcs
    = { .dispatch = on_watchdog }; /* lint: allow file-scope — GLib wants it not const */

static void
weak_reference_free (gpointer data)
{
  GWeakRef *reference = data;

  g_weak_ref_clear (reference);
  g_free (reference);
}

static void
kw_executor_dispose (GObject *object)
{
  KwExecutor *self = KW_EXECUTOR (object);

  kw_executor_stop (self);
  G_OBJECT_CLASS (kw_executor_parent_class)->dispose (object);
}

static void
kw_executor_finalize (GObject *object)
{
  KwExecutor *self = KW_EXECUTOR (object);

  g_free (self->name);
  g_mutex_clear (&self->lock);
  g_cond_clear (&self->wake);
  G_OBJECT_CLASS (kw_executor_parent_class)->finalize (object);
}

static void
kw_executor_class_init (KwExecutorClass *klass)
{
  G_OBJECT_CLASS (klass)->dispose = kw_executor_dispose;
  G_OBJECT_CLASS (klass)->finalize = kw_executor_finalize;
}

static void
kw_executor_init (KwExecutor *self)
{
  g_mutex_init (&self->lock);
  g_cond_init (&self->wake);
  g_queue_init (&self->queue);
  g_queue_init (&self->running);
}

/**
 * kw_work_new:
 * @run: does the work; blocks; must be able to come back long after its deadline
 * @done: told once how it ended; must not block. The duration is in microseconds
 * @timeout_usec: how long it may take, waiting included, in microseconds
 * @user_data: for @run and @done
 * @destroy: (nullable): frees @user_data once neither is running any more
 *
 * Makes a piece of work for kw_executor_submit(). Any thread.
 *
 * Returns: (transfer full): the work
 */
KwWork *
kw_work_new (KwWorkFunc run,
             KwWorkDoneFunc done,
             gint64 timeout_usec,
             gpointer user_data,
             GDestroyNotify destroy)
{
  KwWork *work = g_new0 (KwWork, 1);

  g_atomic_ref_count_init (&work->references);
  work->run = run;
  work->done = done;
  work->timeout_usec = timeout_usec;
  work->user_data = user_data;
  work->destroy = destroy;
  work->link.data = work;
  return work;
}

/**
 * kw_work_set_long:
 * @work: work that was not submitted yet
 *
 * Says that it takes far longer than most work, so that it is not taken for the measure of the token's speed, and takes nobody's
 * place where processors bound how many run.
 */
void
kw_work_set_long (KwWork *work)
{
  g_return_if_fail (work != NULL);

  work->is_long = TRUE;
}

/**
 * kw_executor_new:
 * @name: name of its threads
 * @concurrency: most pieces of work that run at once
 *
 * Returns: (transfer full): an executor whose deadlines are watched by the thread-default main context
 */
KwExecutor *
kw_executor_new (const char *name, guint concurrency)
{
  KwExecutor *self = g_object_new (KW_TYPE_EXECUTOR, NULL);
  GWeakRef *reference = g_new0 (GWeakRef, 1);

  g_weak_ref_init (reference, self);
  self->name = g_strdup (name);
  self->concurrency = MAX (concurrency, 1);
  self->n_processors = count_processors ();
  self->watchdog = g_source_new (&watchdog_funcs, sizeof (GSource));
  g_source_set_callback (self->watchdog, end_overdue_work, reference, weak_reference_free);
  g_source_attach (self->watchdog, g_main_context_get_thread_default ());
  return self;
}

/**
 * kw_executor_submit:
 * @self: the executor
 * @work: (transfer full): the work; freed when this fails, without a call to its `done`
 * @here: the calling thread may be kept by the work for as long as it takes
 * @error: where to store the error
 *
 * Hands work over. With @here it may have ended when this returns. Any thread.
 *
 * Returns: %FALSE with %KW_ERROR_BUSY when the queue is full or %KW_ERROR_TOKEN_GONE when the executor was stopped
 */
gboolean
kw_executor_submit (KwExecutor *self, KwWork *work, gboolean here, GError **error)
{
  g_return_val_if_fail (KW_IS_EXECUTOR (self), FALSE);

  work->deadline = g_get_monotonic_time () + work->timeout_usec;
  g_mutex_lock (&self->lock);
  if (self->stopped || g_queue_get_length (&self->queue) >= KW_MAX_QUEUED_JOBS)
    {
      gboolean stopped = self->stopped;

      g_mutex_unlock (&self->lock);
      work_unref (work);
      if (stopped)
        g_set_error_literal (error, KW_ERROR, KW_ERROR_TOKEN_GONE, "The device is gone");
      else
        g_set_error_literal (error, KW_ERROR, KW_ERROR_BUSY,
                             "Too many requests are waiting for the device");
      return FALSE;
    }
  start_watching (self);
  if (here && self->n_busy < get_most_busy (self) && g_queue_is_empty (&self->queue)
      && self->mean_nsec < IN_PLACE_LIMIT_USEC * NSEC_PER_USEC)
    {
      run_work (self, work);
    }
  else
    {
      work->state = WORK_QUEUED;
      g_queue_push_tail_link (&self->queue, &work->link);
    }
  call_worker_and_unlock (self);
  return TRUE;
}

/**
 * kw_executor_get_outstanding:
 * @self: the executor
 *
 * Returns: the number of pieces of work that wait or run. Any thread.
 */
guint
kw_executor_get_outstanding (KwExecutor *self)
{
  guint outstanding = 0;

  g_return_val_if_fail (KW_IS_EXECUTOR (self), 0);

  g_mutex_lock (&self->lock);
  outstanding = g_queue_get_length (&self->queue) + self->n_busy;
  g_mutex_unlock (&self->lock);
  return outstanding;
}

/**
 * kw_executor_get_mean_usec:
 * @self: the executor
 *
 * Returns: how long a piece of work took lately, a moving mean in microseconds. Any thread.
 */
gint64
kw_executor_get_mean_usec (KwExecutor *self)
{
  gint64 mean = 0;

  g_return_val_if_fail (KW_IS_EXECUTOR (self), 0);

  g_mutex_lock (&self->lock);
  mean = self->mean_nsec / NSEC_PER_USEC;
  g_mutex_unlock (&self->lock);
  return mean;
}

/**
 * kw_executor_get_expected_usec:
 * @self: the executor
 *
 * Tells how long a piece of work may take: the mean, which counts for less and less while nothing is done, so that a device
 * that was slow once is tried again. Any thread.
 *
 * Returns: a time in microseconds
 */
gint64
kw_executor_get_expected_usec (KwExecutor *self)
{
  gint64 expected = 0;
  gint64 n_halvings = 0;

  g_return_val_if_fail (KW_IS_EXECUTOR (self), 0);

  g_mutex_lock (&self->lock);
  expected = self->mean_nsec / NSEC_PER_USEC;
  if (self->last_end != 0 && self->n_busy == 0)
    n_halvings = (g_get_monotonic_time () - self->last_end) / HALVING_USEC;
  g_mutex_unlock (&self->lock);
  return expected >> CLAMP (n_halvings, 0, MAX_HALVINGS);
}

/**
 * kw_executor_is_finished:
 * @self: an executor that was stopped
 *
 * Returns: %TRUE when nothing runs any more and its threads have ended. Any thread.
 */
gboolean
kw_executor_is_finished (KwExecutor *self)
{
  gboolean finished = FALSE;

  g_return_val_if_fail (KW_IS_EXECUTOR (self), TRUE);

  g_mutex_lock (&self->lock);
  finished = self->n_busy == 0 && self->n_workers == 0;
  g_mutex_unlock (&self->lock);
  return finished;
}

/**
 * kw_executor_stop:
 * @self: the executor
 *
 * Refuses further work and what waits in the queue; what runs ends by itself. Does not wait. May be called again. Main
 * context.
 */
void
kw_executor_stop (KwExecutor *self)
{
  g_autoptr (GPtrArray) refused = NULL;

  g_return_if_fail (KW_IS_EXECUTOR (self));

  refused = g_ptr_array_new_with_free_func ((GDestroyNotify) work_unref);
  g_mutex_lock (&self->lock);
  self->stopped = TRUE;
  collect_overdue (&self->queue, G_MAXINT64, refused);
  g_cond_broadcast (&self->wake);
  if (self->watchdog != NULL && g_queue_is_empty (&self->running))
    {
      g_source_destroy (self->watchdog);
      g_clear_pointer (&self->watchdog, g_source_unref);
    }
  g_mutex_unlock (&self->lock);
  for (guint i = 0; i < refused->len; i++)
    {
      KwWork *work = g_ptr_array_index (refused, i);

      work->done (work->user_data, KW_WORK_REFUSED, FALSE, 0);
      work_unref (work); /* the queue's own */
    }
}
