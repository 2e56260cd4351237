/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-pool"

#include "config.h"

#include "kw-pool.h"

#include "kw-error.h"
#include "kw-job-private.h"
#include "kw-limits.h"
#include "kw-log.h"
#include "kw-uuid.h"

/*
 * All devices, and which of them takes a job.
 *
 * The main context owns devices and back ends. Whenever something changes it publishes a new roster: which ready device
 * holds which key. A roster never changes, so any thread may take a reference and choose from it; that is all a request
 * needs on its way to a token.
 *
 * A job that meets trouble with its device is given to another one that holds the key. Where there is none, it is parked
 * until a device comes (back), its deadline at the longest. New jobs are parked too while a device is on its way.
 */

#define JOB_TIMEOUT_FACTOR                                                                         \
  2 /* a job may take this many times as long as one operation, attempts and waits included */
#define EXPECT_USEC                                                                                \
  (5 * G_TIME_SPAN_SECOND) /* how long jobs wait for a device that was there just now */
#define KEY_REFRESH_USEC                                                                           \
  (1 * G_TIME_SPAN_SECOND) /* keys made by others are looked for at most this often */
#define PARKED_INTERVAL_MSEC 50

typedef struct
{
  gatomicrefcount references;
  GPtrArray *devices; /* owned; of KwDevice: the ready ones */
  GHashTable *by_key; /* owned; KwKey's kind and id (LookupKey) → GPtrArray of KwDevice */
  GPtrArray *keys;    /* owned; of KwKey: each once */
  char *status_text;  /* owned: why there is no device, for callers */
  gint64
      expecting_until; /* monotonic: a device is thought to come until then; NEVER_AGAIN when stopped */
  guint64 refresh_started; /* how often keys were looked for */
  guint64 refresh_done;    /* how many of these have ended */
} Roster;

#define NEVER_AGAIN (-1)

typedef struct
{
  KwKeyKind kind;
  GBytes *id;
} LookupKey;

struct _KwPool
{
  GObject parent_instance;

  GMainContext *context; /* owned */
  KwDeviceOptions options;
  GPtrArray *backends; /* main context; of KwBackend */
  GPtrArray *devices;  /* main context; of KwDevice */
  GPtrArray *closing;  /* main context; of KwExecutor: devices that were closed by the stop */
  GHashTable *owners; /* main context; KwDevice → KwBackend, both borrowed from the arrays above */
  gint64 expecting_until;
  gboolean stopped;
  guint parked_source; /* main context: looks after parked jobs */
  gint64 last_refresh; /* main context: when keys were looked for */
  guint64 refresh_started;
  guint64 refresh_done;

  GMutex lock;
  Roster *roster; /* guarded by lock; replaced, never changed */
  GQueue parked;  /* guarded by lock; of KwJob, owned */
};

G_DEFINE_FINAL_TYPE (KwPool, kw_pool, G_TYPE_OBJECT)

enum
{
  SIGNAL_CHANGED,
  N_SIGNALS
};

static guint signals[N_SIGNALS];

/* One try of a job on one device. */
typedef struct
{
  KwPool *pool;     /* owned */
  KwDevice *device; /* owned */
  KwJob *job;       /* owned */
  KwVerb verb;
  GBytes *key_id; /* owned */
  KwRsaPadding padding;
  GBytes *input; /* owned, nullable */
  guint bits;
  char *label; /* owned, nullable */

  /* Written by the thread that runs it, read by `done` only if that thread came in time. */
  KwSecret *plaintext;
  KwKey *key;
  GError *error;
} Attempt;

static void pool_dispatch (KwPool *self, KwJob *job);

static void publish_roster (KwPool *self);

static guint
lookup_key_hash (gconstpointer data)
{
  const LookupKey *key = data;

  return g_bytes_hash (key->id) ^ (guint) key->kind;
}

static gboolean
lookup_key_equal (gconstpointer a, gconstpointer b)
{
  const LookupKey *key_a = a;
  const LookupKey *key_b = b;

  return key_a->kind == key_b->kind && g_bytes_equal (key_a->id, key_b->id);
}

static void
lookup_key_free (gpointer data)
{
  LookupKey *key = data;

  g_bytes_unref (key->id);
  g_free (key);
}

static Roster *
roster_new (void)
{
  Roster *roster = g_new0 (Roster, 1);

  g_atomic_ref_count_init (&roster->references);
  roster->devices = g_ptr_array_new_with_free_func (g_object_unref);
  roster->keys = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_unref);
  roster->by_key = g_hash_table_new_full (lookup_key_hash, lookup_key_equal, lookup_key_free,
                                          (GDestroyNotify) g_ptr_array_unref);
  return roster;
}

static void
roster_unref (Roster *roster)
{
  if (!g_atomic_ref_count_dec (&roster->references))
    return;
  g_ptr_array_unref (roster->devices);
  g_ptr_array_unref (roster->keys);
  g_hash_table_unref (roster->by_key);
  g_free (roster->status_text);
  g_free (roster);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Roster, roster_unref)

static void
roster_add_device (Roster *roster, KwDevice *device)
{
  GPtrArray *keys = kw_device_get_keys (device);

  g_ptr_array_add (roster->devices, g_object_ref (device));
  for (guint i = 0; i < keys->len; i++)
    {
      KwKey *key = g_ptr_array_index (keys, i);
      LookupKey probe = { kw_key_get_kind (key), kw_key_get_id (key) };
      GPtrArray *holders = g_hash_table_lookup (roster->by_key, &probe);

      if (holders == NULL)
        {
          LookupKey *name = g_new0 (LookupKey, 1);

          name->kind = probe.kind;
          name->id = g_bytes_ref (probe.id);
          holders = g_ptr_array_new_with_free_func (g_object_unref);
          g_hash_table_insert (roster->by_key, name, holders);
          g_ptr_array_add (roster->keys, kw_key_ref (key));
        }
      g_ptr_array_add (holders, g_object_ref (device));
    }
}

static Roster *
pool_ref_roster (KwPool *self)
{
  Roster *roster = NULL;

  g_mutex_lock (&self->lock);
  roster = self->roster;
  g_atomic_ref_count_inc (&roster->references);
  g_mutex_unlock (&self->lock);
  return roster;
}

static void
pool_invoke (KwPool *self, GSourceFunc function, gpointer data, GDestroyNotify destroy)
{
  g_autoptr (GSource) source = g_idle_source_new ();

  g_source_set_priority (source, G_PRIORITY_DEFAULT);
  g_source_set_callback (source, function, data, destroy);
  g_source_attach (source, self->context);
}

static char *
describe_absence (KwPool *self)
{
  for (guint i = 0; i < self->devices->len; i++)
    {
      KwDevice *device = g_ptr_array_index (self->devices, i);

      if (kw_device_get_state (device) != KW_DEVICE_READY)
        return g_strdup_printf ("Device %s: %s", kw_device_get_name (device),
                                kw_device_get_state_text (device));
    }
  for (guint i = 0; i < self->backends->len; i++)
    {
      const char *text = kw_backend_get_status_text (g_ptr_array_index (self->backends, i));

      if (text != NULL)
        return g_strdup (text);
    }
  return g_strdup (self->stopped ? "The service is stopping" : "No device is plugged in");
}

static void
finish_job (KwJob *job)
{
  job->service_callback (job, job->service_data);
  kw_job_unref (job);
}

static void
fail_job (KwJob *job, KwError code, const char *text)
{
  g_clear_error (&job->error);
  g_set_error_literal (&job->error, KW_ERROR, (gint) code, text);
  finish_job (job);
}

/* After a failed attempt its reason says more than what the devices are like by now. */
static void
fail_unavailable (KwJob *job, const Roster *roster)
{
  gboolean stopped = roster->expecting_until == NEVER_AGAIN;
  g_autofree char *text = job->last_reason != NULL && !stopped
                              ? g_strdup_printf ("The device failed: %s", job->last_reason)
                              : g_strdup_printf ("No device is ready: %s", roster->status_text);

  fail_job (job, KW_ERROR_UNAVAILABLE, text);
}

/* Main context: ends parked jobs whose time is over and tries the others again. */
static void
revive_parked_jobs (KwPool *self)
{
  GQueue parked = G_QUEUE_INIT;
  KwJob *job = NULL;

  g_mutex_lock (&self->lock);
  parked = self->parked;
  g_queue_init (&self->parked);
  g_mutex_unlock (&self->lock);
  while ((job = g_queue_pop_head (&parked)) != NULL)
    pool_dispatch (self, job);
}

static gboolean
on_parked_interval (gpointer user_data)
{
  KwPool *self = KW_POOL (user_data);
  gboolean more = FALSE;

  revive_parked_jobs (self);
  g_mutex_lock (&self->lock);
  more = !g_queue_is_empty (&self->parked);
  g_mutex_unlock (&self->lock);
  if (more)
    return G_SOURCE_CONTINUE;
  self->parked_source = 0;
  return G_SOURCE_REMOVE;
}

static gboolean
watch_parked_jobs (gpointer user_data)
{
  KwPool *self = KW_POOL (user_data);
  g_autoptr (GSource) source = NULL;

  /* Parked by a thread that did not see yet that the pool was stopped: it is told now. */
  if (self->stopped)
    revive_parked_jobs (self);
  if (self->parked_source != 0 || self->stopped)
    return G_SOURCE_REMOVE;
  source = g_timeout_source_new (PARKED_INTERVAL_MSEC);
  g_source_set_callback (source, on_parked_interval, self, NULL);
  self->parked_source = g_source_attach (source, self->context);
  return G_SOURCE_REMOVE;
}

/* Any thread. */
static void
park_job (KwPool *self, KwJob *job)
{
  gboolean parked = FALSE;
  gboolean stopped = FALSE;

  job->may_run_here = FALSE;
  g_mutex_lock (&self->lock);
  stopped = self->roster->expecting_until == NEVER_AGAIN;
  parked = !stopped && g_queue_get_length (&self->parked) < KW_MAX_PARKED_JOBS;
  if (parked)
    g_queue_push_tail (&self->parked, job);
  g_mutex_unlock (&self->lock);
  if (parked)
    pool_invoke (self, watch_parked_jobs, g_object_ref (self), g_object_unref);
  else if (stopped)
    fail_job (job, KW_ERROR_UNAVAILABLE, "The service is stopping");
  else
    fail_job (job, KW_ERROR_BUSY, "Too many requests are waiting for a device");
}

static gboolean
refresh_keys (gpointer user_data)
{
  KwPool *self = KW_POOL (user_data);
  gint64 now = g_get_monotonic_time ();

  if (now - self->last_refresh < KEY_REFRESH_USEC)
    return G_SOURCE_REMOVE;
  self->last_refresh = now;
  self->refresh_started++;
  for (guint i = 0; i < self->devices->len; i++)
    {
      KwDevice *device = g_ptr_array_index (self->devices, i);

      if (kw_device_get_state (device) == KW_DEVICE_READY)
        kw_device_refresh_keys (device);
    }
  publish_roster (self);
  return G_SOURCE_REMOVE;
}

static gboolean
was_tried (const KwJob *job, KwDevice *device)
{
  for (guint i = 0; i < job->n_attempts; i++)
    {
      if (job->tried[i] == kw_device_get_number (device))
        return TRUE;
    }
  return FALSE;
}

/* The device with the least work waiting, weighted by how long its work takes. */
static KwDevice *
choose_device (GPtrArray *candidates, const KwJob *job)
{
  KwDevice *best = NULL;
  gint64 best_cost = G_MAXINT64;

  for (guint i = 0; i < candidates->len; i++)
    {
      KwDevice *device = g_ptr_array_index (candidates, i);
      KwExecutor *executor = kw_device_get_executor (device);
      gint64 cost = 0;

      if (was_tried (job, device))
        continue;
      if (candidates->len == 1)
        return device;
      cost = (gint64) (kw_executor_get_outstanding (executor) + 1)
             * (kw_executor_get_mean_usec (executor) + 1);
      if (cost < best_cost)
        {
          best_cost = cost;
          best = device;
        }
    }
  return best;
}

static void
attempt_free (Attempt *attempt)
{
  g_object_unref (attempt->pool);
  g_object_unref (attempt->device);
  kw_job_unref (attempt->job);
  g_clear_pointer (&attempt->key_id, g_bytes_unref);
  g_clear_pointer (&attempt->input, g_bytes_unref);
  g_free (attempt->label);
  g_clear_pointer (&attempt->plaintext, kw_secret_unref);
  g_clear_pointer (&attempt->key, kw_key_unref);
  g_clear_error (&attempt->error);
  g_free (attempt);
}

static void
attempt_run (gpointer user_data)
{
  Attempt *attempt = user_data;

  switch (attempt->verb)
    {
    case KW_VERB_RSA_DECRYPT:
      attempt->plaintext
          = kw_device_rsa_decrypt (attempt->device, attempt->key_id, attempt->padding,
                                   attempt->input, &attempt->error);
      break;
    case KW_VERB_GENERATE_RSA:
      attempt->key = kw_device_generate_rsa (attempt->device, attempt->bits, attempt->key_id,
                                             attempt->label, &attempt->error);
      break;
    default:
      g_return_if_reached ();
    }
}

/* A job with a lasting effect is never said twice: it may have had it. */
static gboolean
verb_can_be_repeated (KwVerb verb)
{
  return verb == KW_VERB_RSA_DECRYPT;
}

typedef struct
{
  KwPool *pool;     /* owned */
  KwDevice *device; /* owned */
  KwJob *job;       /* owned, nullable */
  KwKey *key;       /* owned, nullable */
  KwDeviceState state;
  char *text; /* owned */
} News;

static News *
news_new (Attempt *attempt, KwDeviceState state, const char *text)
{
  News *news = g_new0 (News, 1);

  news->pool = g_object_ref (attempt->pool);
  news->device = g_object_ref (attempt->device);
  news->state = state;
  news->text = g_strdup (text);
  return news;
}

static void
news_free (News *news)
{
  g_object_unref (news->pool);
  g_object_unref (news->device);
  g_clear_pointer (&news->job, kw_job_unref);
  g_clear_pointer (&news->key, kw_key_unref);
  g_free (news->text);
  g_free (news);
}

/* Main context: the new key is known to everybody before the caller hears of it. */
static gboolean
take_new_key (gpointer user_data)
{
  News *news = user_data;

  if (kw_device_get_state (news->device) == KW_DEVICE_READY)
    kw_device_add_key (news->device, news->key);
  finish_job (g_steal_pointer (&news->job));
  return G_SOURCE_REMOVE;
}

static gboolean
take_trouble (gpointer user_data)
{
  News *news = user_data;

  if (kw_device_get_state (news->device) != KW_DEVICE_READY)
    return G_SOURCE_REMOVE;
  if (news->state == KW_DEVICE_PIN_REFUSED)
    kw_device_set_state (news->device, news->state, news->text);
  else
    g_signal_emit_by_name (news->device, "trouble", news->state, news->text);
  return G_SOURCE_REMOVE;
}

/* Gives a job to another device, or to the same one when it is back; @harmless: the attempt can have had no effect. */
static void
retry_or_fail (KwPool *self, KwJob *job, const GError *reason, gboolean harmless)
{
  g_free (job->last_reason);
  job->last_reason = g_strdup (reason->message);
  if ((!harmless && !verb_can_be_repeated (job->verb))
      || job->n_attempts >= KW_MAX_ATTEMPTS_PER_JOB)
    {
      g_autofree char *text = g_strdup_printf ("The device failed: %s", reason->message);

      fail_job (job, KW_ERROR_UNAVAILABLE, text);
      return;
    }
  job->park_until = MIN (g_get_monotonic_time () + EXPECT_USEC, job->deadline);
  job->may_run_here = FALSE;
  pool_dispatch (self, job);
}

/* A login that could not be renewed because of the PIN: starting the device anew would present it again. */
static gboolean
is_pin_trouble (const GError *error)
{
  return error != NULL && error->domain == KW_ERROR
         && (error->code == KW_ERROR_PIN_REQUIRED || error->code == KW_ERROR_PIN_INVALID
             || error->code == KW_ERROR_PIN_REFUSED || error->code == KW_ERROR_PIN_LATCHED
             || error->code == KW_ERROR_PIN_PROTECTED || error->code == KW_ERROR_PIN_LOCKED);
}

static void
end_attempt (Attempt *attempt, KwJob *job)
{
  gboolean pin_trouble = is_pin_trouble (attempt->error);
  gboolean trouble = pin_trouble || kw_error_is_device_trouble (attempt->error);

  kw_device_count_job (attempt->device, trouble);
  if (trouble)
    {
      pool_invoke (attempt->pool, take_trouble,
                   news_new (attempt, pin_trouble ? KW_DEVICE_PIN_REFUSED : KW_DEVICE_DEGRADED,
                             attempt->error->message),
                   (GDestroyNotify) news_free);
      retry_or_fail (attempt->pool, job, attempt->error, pin_trouble);
      return;
    }
  /* Started anew, the device shows its keys as they are now, and none is used that is not the recorded one. */
  if (g_error_matches (attempt->error, KW_ERROR, KW_ERROR_KEY_MISMATCH))
    pool_invoke (attempt->pool, take_trouble,
                 news_new (attempt, KW_DEVICE_DEGRADED, attempt->error->message),
                 (GDestroyNotify) news_free);
  job->device_name = g_strdup (kw_device_get_name (attempt->device));
  job->plaintext = g_steal_pointer (&attempt->plaintext);
  job->error = g_steal_pointer (&attempt->error);
  if (attempt->key != NULL)
    {
      News *news = news_new (attempt, KW_DEVICE_READY, NULL);

      job->key = kw_key_ref (attempt->key);
      news->key = g_steal_pointer (&attempt->key);
      news->job = job;
      pool_invoke (attempt->pool, take_new_key, news, (GDestroyNotify) news_free);
      return;
    }
  finish_job (job);
}

static void
on_attempt_done (gpointer user_data,
                 KwWorkOutcome outcome,
                 gboolean was_running,
                 gint64 duration_usec G_GNUC_UNUSED)
{
  Attempt *attempt = user_data;
  KwJob *job = kw_job_ref (attempt->job);
  g_autoptr (GError) reason = NULL;

  if (outcome == KW_WORK_RAN)
    {
      end_attempt (attempt, job);
      return;
    }
  if (outcome == KW_WORK_OVERDUE && was_running)
    {
      kw_device_count_job (attempt->device, TRUE);
      pool_invoke (attempt->pool, take_trouble,
                   news_new (attempt, KW_DEVICE_STUCK, "A call did not return in time"),
                   (GDestroyNotify) news_free);
    }
  g_set_error_literal (&reason, KW_ERROR, KW_ERROR_TIMEOUT,
                       outcome == KW_WORK_OVERDUE ? "it did not answer in time" : "it is gone");
  retry_or_fail (attempt->pool, job, reason, !was_running);
}

/* Gives a job to a device. Any thread. */
static void
start_attempt (KwPool *self, KwDevice *device, KwJob *job)
{
  g_autoptr (GError) error = NULL;
  Attempt *attempt = g_new0 (Attempt, 1);
  gint64 timeout = kw_device_get_timeout_usec (device);
  KwWork *work = NULL;

  attempt->pool = g_object_ref (self);
  attempt->device = g_object_ref (device);
  attempt->job = kw_job_ref (job);
  attempt->verb = job->verb;
  attempt->key_id = g_bytes_ref (job->key_id);
  attempt->padding = job->padding;
  attempt->input = job->input != NULL ? g_bytes_ref (job->input) : NULL;
  attempt->bits = job->bits;
  attempt->label = g_strdup (job->label);
  job->tried[job->n_attempts++] = kw_device_get_number (device);
  if (job->verb == KW_VERB_GENERATE_RSA)
    timeout *= KW_GENERATE_TIMEOUT_FACTOR;
  work
      = kw_work_new (attempt_run, on_attempt_done, timeout, attempt, (GDestroyNotify) attempt_free);
  if (job->verb == KW_VERB_GENERATE_RSA)
    kw_work_set_long (work);
  if (kw_executor_submit (kw_device_get_executor (device), work, job->may_run_here, &error))
    {
      /* From here on the job belongs to the attempt, which holds a reference of its own. */
      kw_job_unref (job);
      return;
    }
  if (g_error_matches (error, KW_ERROR, KW_ERROR_BUSY))
    fail_job (job, KW_ERROR_BUSY, error->message);
  else
    retry_or_fail (self, job, error, TRUE);
}

/* No ready device holds the key: wait for one, look for the key once, or give up. Any thread. */
static void
postpone_or_fail (KwPool *self, KwJob *job, const Roster *roster, gint64 now)
{
  gint64 wait_until = MAX (job->park_until, MIN (roster->expecting_until, job->deadline));

  if (roster->expecting_until == NEVER_AGAIN)
    {
      fail_unavailable (job, roster);
      return;
    }
  if (roster->devices->len == 0 || job->n_attempts > 0)
    {
      if (now < wait_until)
        park_job (self, job);
      else
        fail_unavailable (job, roster);
      return;
    }
  if (job->wants_refresh == 0)
    {
      job->wants_refresh = roster->refresh_started + 1;
      job->park_until = MIN (now + KEY_REFRESH_USEC + EXPECT_USEC, job->deadline);
    }
  if (roster->refresh_done < job->wants_refresh && now < job->park_until)
    {
      pool_invoke (self, refresh_keys, g_object_ref (self), g_object_unref);
      park_job (self, job);
      return;
    }
  fail_job (job, KW_ERROR_KEY_NOT_FOUND, "No device holds this key");
}

/* Takes the job. Any thread; in place when the job allows it. */
static void
pool_dispatch (KwPool *self, KwJob *job)
{
  g_autoptr (Roster) roster = pool_ref_roster (self);
  KwDevice *device = NULL;
  gint64 now = g_get_monotonic_time ();

  if (now >= job->deadline)
    {
      fail_job (job, KW_ERROR_TIMEOUT, "No device answered in time");
      return;
    }
  if (job->verb == KW_VERB_GENERATE_RSA)
    device = choose_device (roster->devices, job);
  else
    {
      LookupKey probe = { KW_KEY_KIND_RSA, job->key_id };
      GPtrArray *holders = g_hash_table_lookup (roster->by_key, &probe);

      if (holders != NULL)
        device = choose_device (holders, job);
    }
  if (device != NULL)
    start_attempt (self, device, job);
  else
    postpone_or_fail (self, job, roster, now);
}

/* Main context. */
static void
publish_roster (KwPool *self)
{
  Roster *fresh = roster_new ();
  Roster *old = NULL;
  gint64 now = g_get_monotonic_time ();
  gboolean on_its_way = FALSE;
  gboolean looking = FALSE;

  for (guint i = 0; i < self->devices->len; i++)
    {
      KwDevice *device = g_ptr_array_index (self->devices, i);

      if (kw_device_get_state (device) == KW_DEVICE_READY)
        roster_add_device (fresh, device);
      on_its_way |= kw_device_get_state (device) == KW_DEVICE_PROBING
                    || kw_device_get_state (device) == KW_DEVICE_CHECKING;
      looking |= kw_device_is_busy (device);
    }
  if (!looking)
    self->refresh_done = self->refresh_started;
  fresh->refresh_started = self->refresh_started;
  fresh->refresh_done = self->refresh_done;
  if (fresh->devices->len > 0 || on_its_way || self->roster->devices->len > 0)
    self->expecting_until = now + EXPECT_USEC;
  fresh->expecting_until = self->stopped ? NEVER_AGAIN : self->expecting_until;
  fresh->status_text = describe_absence (self);
  g_mutex_lock (&self->lock);
  old = self->roster;
  self->roster = fresh;
  g_mutex_unlock (&self->lock);
  g_clear_pointer (&old, roster_unref);
  revive_parked_jobs (self);
  g_signal_emit (self, signals[SIGNAL_CHANGED], 0);
}

static void
on_device_changed (KwDevice *device G_GNUC_UNUSED, KwPool *self)
{
  publish_roster (self);
}

static void
on_device_trouble (KwDevice *device, guint state, const char *text, KwPool *self)
{
  KwBackend *backend = g_hash_table_lookup (self->owners, device);

  kw_device_set_state (device, (KwDeviceState) state, text);
  if (backend != NULL)
    kw_backend_reset_token (backend, kw_device_get_token (device));
}

static void
remove_device (KwPool *self, KwDevice *device)
{
  g_autoptr (KwDevice) keep_alive G_GNUC_UNUSED = g_object_ref (device);

  g_signal_handlers_disconnect_by_data (device, self);
  g_hash_table_remove (self->owners, device);
  g_ptr_array_remove (self->devices, device);
  kw_device_close (device);
  publish_roster (self);
}

static void
on_token_added (KwBackend *backend, KwToken *token, KwPool *self)
{
  g_autoptr (KwDevice) device = NULL;
  KwDeviceOptions options = { 0 };
  KwTokenAccess access = { 0 };

  self->options.number++;
  options = self->options;
  if (kw_backend_get_access (backend, token, &access))
    {
      options.pin = access.pin;
      options.pin_name = access.pin_name;
      options.timeout_usec = access.timeout_usec;
    }
  device = kw_device_new (token, &options);
  g_signal_connect (device, "changed", G_CALLBACK (on_device_changed), self);
  g_signal_connect (device, "trouble", G_CALLBACK (on_device_trouble), self);
  g_ptr_array_add (self->devices, g_object_ref (device));
  g_hash_table_insert (self->owners, device, backend);
  publish_roster (self);
  kw_device_open (device);
}

static void
on_token_removed (KwBackend *backend G_GNUC_UNUSED, KwToken *token, KwPool *self)
{
  for (guint i = 0; i < self->devices->len; i++)
    {
      KwDevice *device = g_ptr_array_index (self->devices, i);

      if (kw_device_get_token (device) == token)
        {
          remove_device (self, device);
          return;
        }
    }
}

static void
on_backend_status_changed (KwBackend *backend, KwPool *self)
{
  const char *text = kw_backend_get_status_text (backend);

  if (text != NULL && self->devices->len == 0)
    self->expecting_until = 0;
  if (text != NULL)
    kw_log (G_LOG_LEVEL_WARNING, "Waiting for a device", "backend", kw_backend_get_name (backend),
            "text", text, NULL);
  publish_roster (self);
}

static void
kw_pool_dispose (GObject *object)
{
  KwPool *self = KW_POOL (object);

  kw_pool_stop (self);
  g_ptr_array_set_size (self->closing, 0);
  g_clear_object (&self->options.guard);
  g_clear_object (&self->options.keyring);
  G_OBJECT_CLASS (kw_pool_parent_class)->dispose (object);
}

static void
kw_pool_finalize (GObject *object)
{
  KwPool *self = KW_POOL (object);

  g_clear_pointer (&self->options.pin, kw_secret_unref);
  g_ptr_array_unref (self->backends);
  g_ptr_array_unref (self->devices);
  g_ptr_array_unref (self->closing);
  g_hash_table_unref (self->owners);
  roster_unref (self->roster);
  g_main_context_unref (self->context);
  g_mutex_clear (&self->lock);
  G_OBJECT_CLASS (kw_pool_parent_class)->finalize (object);
}

static void
kw_pool_class_init (KwPoolClass *klass)
{
  GObjectClass *object_class = G_OBJECT_CLASS (klass);

  object_class->dispose = kw_pool_dispose;
  object_class->finalize = kw_pool_finalize;

  /**
   * KwPool::changed:
   * @self: the pool
   *
   * A device came, went, or is in another state, or its keys are others. Main context.
   */
  signals[SIGNAL_CHANGED] = g_signal_new ("changed", KW_TYPE_POOL, G_SIGNAL_RUN_LAST, 0, NULL, NULL,
                                          NULL, G_TYPE_NONE, 0);
}

static void
kw_pool_init (KwPool *self)
{
  g_mutex_init (&self->lock);
  g_queue_init (&self->parked);
  self->context = g_main_context_ref_thread_default ();
  self->backends = g_ptr_array_new_with_free_func (g_object_unref);
  self->devices = g_ptr_array_new_with_free_func (g_object_unref);
  self->closing = g_ptr_array_new_with_free_func (g_object_unref);
  self->owners = g_hash_table_new (NULL, NULL);
  self->roster = roster_new ();
  self->roster->status_text = g_strdup ("The service is starting");
}

/**
 * kw_pool_new:
 * @options: what devices work with; copied
 *
 * Returns: (transfer full): an empty pool. Main context.
 */
KwPool *
kw_pool_new (const KwDeviceOptions *options)
{
  KwPool *self = g_object_new (KW_TYPE_POOL, NULL);

  self->options.guard = g_object_ref (options->guard);
  self->options.keyring = g_object_ref (options->keyring);
  self->options.pin = options->pin != NULL ? kw_secret_ref (options->pin) : NULL;
  self->options.pin_name = options->pin_name;
  self->options.timeout_usec = options->timeout_usec;
  return self;
}

/**
 * kw_pool_add_backend:
 * @self: a pool that was not started
 * @backend: a configured back end
 *
 * Lets tokens come from there. Main context.
 */
void
kw_pool_add_backend (KwPool *self, KwBackend *backend)
{
  g_return_if_fail (KW_IS_POOL (self));

  g_ptr_array_add (self->backends, g_object_ref (backend));
  g_signal_connect (backend, "token-added", G_CALLBACK (on_token_added), self);
  g_signal_connect (backend, "token-removed", G_CALLBACK (on_token_removed), self);
  g_signal_connect (backend, "status-changed", G_CALLBACK (on_backend_status_changed), self);
}

/**
 * kw_pool_start:
 * @self: a pool
 *
 * Starts the back ends. Jobs may be submitted at once; they wait a moment for the first device. Main context.
 */
void
kw_pool_start (KwPool *self)
{
  g_return_if_fail (KW_IS_POOL (self));

  self->expecting_until = g_get_monotonic_time () + EXPECT_USEC;
  publish_roster (self);
  for (guint i = 0; i < self->backends->len; i++)
    kw_backend_start (g_ptr_array_index (self->backends, i));
}

/**
 * kw_pool_stop:
 * @self: a pool
 *
 * Stops the back ends, closes the devices and ends all waiting jobs. May be called again. Main context.
 */
void
kw_pool_stop (KwPool *self)
{
  g_return_if_fail (KW_IS_POOL (self));

  if (self->stopped)
    return;
  self->stopped = TRUE;
  if (self->parked_source != 0)
    {
      g_source_destroy (g_main_context_find_source_by_id (self->context, self->parked_source));
      self->parked_source = 0;
    }
  for (guint i = 0; i < self->backends->len; i++)
    {
      KwBackend *backend = g_ptr_array_index (self->backends, i);

      g_signal_handlers_disconnect_by_data (backend, self);
    }
  while (self->devices->len > 0)
    {
      KwDevice *device = g_ptr_array_index (self->devices, 0);

      g_ptr_array_add (self->closing, g_object_ref (kw_device_get_executor (device)));
      remove_device (self, device);
    }
  for (guint i = 0; i < self->backends->len; i++)
    kw_backend_stop (g_ptr_array_index (self->backends, i));
  publish_roster (self);
}

/**
 * kw_pool_is_idle:
 * @self: a pool that was stopped
 *
 * Tells whether all calls into tokens have returned, so that the process may end: the modules' libraries are taken apart
 * by then. Main context.
 *
 * Returns: %TRUE when none is under way
 */
gboolean
kw_pool_is_idle (KwPool *self)
{
  g_return_val_if_fail (KW_IS_POOL (self), TRUE);

  for (guint i = 0; i < self->closing->len; i++)
    {
      if (!kw_executor_is_finished (g_ptr_array_index (self->closing, i)))
        return FALSE;
    }
  return TRUE;
}

/**
 * kw_pool_submit:
 * @self: a pool
 * @job: (transfer full): a job whose service callback is set
 *
 * Has a job done by the device that suits it best. The callback is called exactly once, on any thread, perhaps before this
 * returns. Any thread.
 */
void
kw_pool_submit (KwPool *self, KwJob *job)
{
  g_return_if_fail (KW_IS_POOL (self));

  job->started = g_get_monotonic_time ();
  job->deadline = job->started + self->options.timeout_usec * JOB_TIMEOUT_FACTOR;
  if (job->verb == KW_VERB_GENERATE_RSA)
    {
      job->deadline += self->options.timeout_usec * KW_GENERATE_TIMEOUT_FACTOR;
      if (job->key_id == NULL)
        job->key_id = kw_uuid_new_v1 (&job->error);
      if (job->key_id == NULL)
        {
          finish_job (job);
          return;
        }
    }
  pool_dispatch (self, job);
}

/**
 * kw_pool_dup_devices:
 * @self: a pool
 *
 * Returns: (transfer full) (element-type KwDevice): all devices. Main context.
 */
GPtrArray *
kw_pool_dup_devices (KwPool *self)
{
  g_return_val_if_fail (KW_IS_POOL (self), NULL);

  return g_ptr_array_copy (self->devices, (GCopyFunc) (void (*) (void)) g_object_ref, NULL);
}

/**
 * kw_pool_dup_ready_keys:
 * @self: a pool
 * @kind: kind of key
 *
 * Returns: (transfer full) (element-type KwKey): the keys of that kind on ready devices, each once. Any thread.
 */
GPtrArray *
kw_pool_dup_ready_keys (KwPool *self, KwKeyKind kind)
{
  g_autoptr (Roster) roster = NULL;
  g_autoptr (GPtrArray) keys = g_ptr_array_new_with_free_func ((GDestroyNotify) kw_key_unref);

  g_return_val_if_fail (KW_IS_POOL (self), NULL);

  roster = pool_ref_roster (self);
  for (guint i = 0; i < roster->keys->len; i++)
    {
      KwKey *key = g_ptr_array_index (roster->keys, i);

      if (kw_key_get_kind (key) == kind)
        g_ptr_array_add (keys, kw_key_ref (key));
    }
  return g_steal_pointer (&keys);
}

/**
 * kw_pool_is_ready:
 * @self: a pool
 *
 * Returns: %TRUE when a device is ready. Any thread.
 */
gboolean
kw_pool_is_ready (KwPool *self)
{
  g_autoptr (Roster) roster = NULL;

  g_return_val_if_fail (KW_IS_POOL (self), FALSE);

  roster = pool_ref_roster (self);
  return roster->devices->len > 0;
}

/**
 * kw_pool_dup_status_text:
 * @self: a pool
 *
 * Returns: (transfer full): a sentence on the whole. Any thread.
 */
char *
kw_pool_dup_status_text (KwPool *self)
{
  g_autoptr (Roster) roster = NULL;

  g_return_val_if_fail (KW_IS_POOL (self), NULL);

  roster = pool_ref_roster (self);
  if (roster->devices->len == 0)
    return g_strdup (roster->status_text);
  return g_strdup_printf ("%u device%s ready, %u keys", roster->devices->len,
                          roster->devices->len == 1 ? "" : "s", roster->keys->len);
}

/**
 * kw_pool_reopen_devices:
 * @self: a pool
 * @keys_changed: the record of keys says something else than before
 *
 * Looks again at devices that wait for the administrator, and at the keys of the others, after the state directory
 * changed. Main context.
 */
void
kw_pool_reopen_devices (KwPool *self, gboolean keys_changed)
{
  g_return_if_fail (KW_IS_POOL (self));

  for (guint i = 0; i < self->devices->len; i++)
    {
      KwDevice *device = g_ptr_array_index (self->devices, i);
      KwDeviceState state = kw_device_get_state (device);

      if (state == KW_DEVICE_PIN_REFUSED || state == KW_DEVICE_LOCKED)
        kw_device_open (device);
      else if (keys_changed && state == KW_DEVICE_READY)
        kw_device_refresh_keys (device);
    }
}
