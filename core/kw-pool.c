/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-pool"

#include "config.h"

#include "kw-pool.h"

#include "kw-access.h"
#include "kw-error.h"
#include "kw-job-private.h"
#include "kw-limits.h"
#include "kw-log.h"
#include "kw-preparation.h"
#include "kw-replication.h"
#include "kw-roster.h"

#include <openssl/crypto.h>
#include <string.h>

/*
 * All devices, and which of them takes a job.
 *
 * The main context owns devices and back ends. Whenever something changes it publishes a new roster: which ready device
 * holds which key. A roster never changes, so any thread may take a reference and choose from it; that is all a request
 * needs on its way to a token.
 *
 * A job that meets trouble with its device is given to another one that holds the key. Where there is none, it is parked
 * until a device comes (back), its deadline at the longest. New jobs are parked too while a device is on its way.
 *
 * Whenever devices or keys change, the keyring judges them; for the AES keys of `hsm_keyid` the roster has the devices on
 * which a key is proven, and no others.
 */

#define JOB_TIMEOUT_FACTOR                                                                         \
  2 /* a job may take this many times as long as one operation, attempts and waits included */
#define EXPECT_USEC                                                                                \
  (5 * G_TIME_SPAN_SECOND) /* how long jobs wait for a device that was there just now */
#define KEY_REFRESH_USEC                                                                           \
  (1 * G_TIME_SPAN_SECOND) /* keys made by others are looked for at most this often */
#define PARKED_INTERVAL_MSEC 50
#define SETTLE_USEC                                                                                \
  (300 * G_TIME_SPAN_MILLISECOND) /* so long after a device came, others may still be coming */

struct _KwPool
{
  GObject parent_instance;

  GMainContext *context; /* owned */
  KwDeviceOptions options;
  GPtrArray *backends; /* main context; of KwBackend */
  GPtrArray *devices;  /* main context; of KwDevice */
  GPtrArray *
      closing; /* main context; of KwExecutor: devices that were given up, while calls into them may be under way */
  GPtrArray *
      troubled; /* main context; of Troubled: devices that are shown until they come back, or are gone */
  KwDevice
      *resetting;     /* main context; borrowed: the one that is being given back to its back end */
  GHashTable *owners; /* main context; KwDevice → KwBackend, both borrowed from the arrays above */
  GHashTable
      *figures; /* main context; name of a device → KwFigures, owned; kept when it is unplugged */
  GHashTable
      *pins; /* main context; owned; serial number → KwSecret: PINs that were given by hand */
  guint check_source;  /* main context: proves keys again */
  guint settle_source; /* main context: judges again when devices have settled */
  gint64 check_interval_usec;
  gboolean replicate;  /* set before the start */
  guint min_copies;    /* set before the start; for new keys */
  gint64 last_arrival; /* main context; monotonic: when a device came */
  gint64 hope_until;
  gint64 expecting_until;
  gboolean started;
  gboolean stopped;
  guint parked_source; /* main context: looks after parked jobs */
  gint64 last_refresh; /* main context: when keys were looked for */
  guint64 refresh_started;
  guint64 refresh_done;
  GQueue generations;     /* main context; of KwJob, owned: AES keys are made one after another */
  gboolean is_generating; /* main context: the first of them is being made */
  GPtrArray *looks;       /* main context; of GTask, owned: who waits for keys to be looked at */

  GMutex lock;
  KwRoster *roster; /* guarded by lock; replaced, never changed */
  GQueue parked;    /* guarded by lock; of KwJob, owned */
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
  GBytes *key_id; /* owned, nullable */
  KwRsaPadding padding;
  GBytes *input;        /* owned, nullable */
  KwSecret *step_input; /* owned, nullable */
  guint8 step_iv[KW_AES_BLOCK_BYTES];
  gsize n_random;
  gint64 started; /* monotonic; written by the thread that runs it */
  guint bits;
  char *label; /* owned, nullable */
  guint reference;

  /* Written by the thread that runs it, read by `done` only if that thread came in time. */
  KwSecret *plaintext;
  KwKey *key;
  GError *error;
} Attempt;

/* A device that was given up for its trouble, and is still plugged in for all we know. */
typedef struct
{
  KwDevice *device;   /* owned */
  KwBackend *backend; /* owned */
} Troubled;

static void
troubled_free (gpointer data)
{
  Troubled *troubled = data;

  g_object_unref (troubled->device);
  g_object_unref (troubled->backend);
  g_free (troubled);
}

static void pool_dispatch (KwPool *self, KwJob *job);

static void publish_roster (KwPool *self);

static KwRoster *
pool_ref_roster (KwPool *self)
{
  KwRoster *roster = NULL;

  g_mutex_lock (&self->lock);
  roster = self->roster;
  kw_roster_ref (roster);
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
fail_unavailable (KwJob *job, const KwRoster *roster)
{
  gboolean stopped = roster->expecting_until == KW_ROSTER_NEVER_AGAIN;
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
  stopped = self->roster->expecting_until == KW_ROSTER_NEVER_AGAIN;
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
             * (kw_executor_get_expected_usec (executor) + 1);
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
  g_clear_pointer (&attempt->step_input, kw_secret_unref);
  g_free (attempt->label);
  g_clear_pointer (&attempt->plaintext, kw_secret_unref);
  g_clear_pointer (&attempt->key, kw_key_unref);
  g_clear_error (&attempt->error);
  g_free (attempt);
}

static gboolean
verb_generates (KwVerb verb)
{
  return verb == KW_VERB_GENERATE_RSA || verb == KW_VERB_GENERATE_AES;
}

/* The vault's verbs, which come here for one operation with an AES key. */
static gboolean
verb_takes_step (KwVerb verb)
{
  return verb == KW_VERB_ENCRYPT || verb == KW_VERB_DECRYPT || verb == KW_VERB_REWRAP;
}

static void
attempt_run (gpointer user_data)
{
  Attempt *attempt = user_data;

  attempt->started = g_get_monotonic_time ();
  if (kw_job_is_cancelled (attempt->job))
    {
      g_set_error_literal (&attempt->error, KW_ERROR, KW_ERROR_CANCELLED, "The caller has left");
      return;
    }
  switch (attempt->verb)
    {
    case KW_VERB_ENCRYPT:
    case KW_VERB_DECRYPT:
    case KW_VERB_REWRAP:
      attempt->plaintext
          = kw_device_aes_cbc (attempt->device, attempt->key_id, FALSE, attempt->step_iv,
                               kw_secret_get_data (attempt->step_input),
                               kw_secret_get_size (attempt->step_input), &attempt->error);
      break;
    case KW_VERB_RANDOM:
      attempt->plaintext = kw_device_random (attempt->device, attempt->n_random, &attempt->error);
      break;
    case KW_VERB_GENERATE_AES:
      attempt->key = kw_device_generate_aes (attempt->device, attempt->bits, attempt->key_id,
                                             attempt->label, attempt->reference, &attempt->error);
      break;
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
  return !verb_generates (verb);
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

static void
on_replicated (guint n_copies G_GNUC_UNUSED,
               gboolean may_remain,
               const GError *error,
               gpointer user_data)
{
  KwJob *job = user_data;

  if (error != NULL)
    {
      g_clear_pointer (&job->key, kw_key_unref);
      job->error = g_error_copy (error);
      job->key_may_remain = may_remain;
    }
  finish_job (job);
}

/* Main context: the new key is known to everybody, and on all devices that can have it, before the caller hears of it. */
static gboolean
take_new_key (gpointer user_data)
{
  News *news = user_data;
  KwPool *self = news->pool;
  g_autoptr (GPtrArray) targets = g_ptr_array_new_with_free_func (g_object_unref);

  for (guint i = 0; self->replicate && i < self->devices->len; i++)
    {
      KwDevice *device = g_ptr_array_index (self->devices, i);

      if (device != news->device && kw_device_get_state (device) == KW_DEVICE_READY)
        g_ptr_array_add (targets, g_object_ref (device));
    }
  kw_replicate (self->options.keyring, news->device, news->key, targets,
                self->replicate ? self->min_copies : 1, on_replicated,
                g_steal_pointer (&news->job));
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
retry_or_fail (KwPool *self, KwDevice *device, KwJob *job, const GError *reason, gboolean harmless)
{
  g_free (job->last_reason);
  job->last_reason = g_strdup (reason->message);
  if ((!harmless && !verb_can_be_repeated (job->verb))
      || job->n_attempts >= KW_MAX_ATTEMPTS_PER_JOB)
    {
      g_autofree char *text = g_strdup_printf ("The device failed: %s", reason->message);

      job->key_may_remain = !harmless;
      fail_job (job, KW_ERROR_UNAVAILABLE, text);
      return;
    }
  kw_device_count_failover (device);
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

/* Main context: the key is not where it was a moment ago. */
static gboolean
look_for_lost_key (gpointer user_data)
{
  KwDevice *device = KW_DEVICE (user_data);

  if (kw_device_get_state (device) == KW_DEVICE_READY)
    kw_device_refresh_keys (device);
  return G_SOURCE_REMOVE;
}

/*
 * Nothing in a step comes from the caller, and the key was proven on the device: whatever is wrong with it is wrong with the
 * key there, and others may still have it.
 */
static gboolean
key_was_lost (const Attempt *attempt)
{
  return verb_takes_step (attempt->verb) && attempt->error != NULL;
}

/* A device that makes no such keys has done nothing; there may be one that does. */
static gboolean
try_other_device (KwPool *self, KwJob *job, const GError *refusal)
{
  g_autoptr (KwRoster) roster = pool_ref_roster (self);

  if (job->n_attempts >= KW_MAX_ATTEMPTS_PER_JOB || choose_device (roster->devices, job) == NULL)
    return FALSE;
  g_clear_error (&job->refusal);
  job->refusal = g_error_copy (refusal);
  pool_dispatch (self, job);
  return TRUE;
}

static void
end_attempt (Attempt *attempt, KwJob *job)
{
  gboolean pin_trouble = is_pin_trouble (attempt->error);
  gboolean trouble = pin_trouble || kw_error_is_device_trouble (attempt->error);

  if (kw_job_is_cancelled (job) && g_error_matches (attempt->error, KW_ERROR, KW_ERROR_CANCELLED))
    {
      fail_job (job, KW_ERROR_CANCELLED, attempt->error->message);
      return;
    }
  /* Making a key takes so much longer that it would spoil the figures. */
  kw_device_count_job (attempt->device,
                       verb_generates (attempt->verb) ? -1
                                                      : g_get_monotonic_time () - attempt->started,
                       trouble);
  if (trouble)
    {
      pool_invoke (attempt->pool, take_trouble,
                   news_new (attempt, pin_trouble ? KW_DEVICE_PIN_REFUSED : KW_DEVICE_DEGRADED,
                             attempt->error->message),
                   (GDestroyNotify) news_free);
      retry_or_fail (attempt->pool, attempt->device, job, attempt->error, pin_trouble);
      return;
    }
  /* Started anew, the device shows its keys as they are now, and none is used that is not the recorded one. */
  if (g_error_matches (attempt->error, KW_ERROR, KW_ERROR_KEY_MISMATCH))
    pool_invoke (attempt->pool, take_trouble,
                 news_new (attempt, KW_DEVICE_DEGRADED, attempt->error->message),
                 (GDestroyNotify) news_free);
  else if (key_was_lost (attempt))
    pool_invoke (attempt->pool, look_for_lost_key, g_object_ref (attempt->device), g_object_unref);
  if (key_was_lost (attempt))
    {
      retry_or_fail (attempt->pool, attempt->device, job, attempt->error, TRUE);
      return;
    }
  if (verb_generates (job->verb)
      && g_error_matches (attempt->error, KW_ERROR, KW_ERROR_NOT_SUPPORTED)
      && try_other_device (attempt->pool, job, attempt->error))
    return;
  g_free (job->device_name);
  job->device_name = g_strdup (kw_device_get_name (attempt->device));
  if (verb_takes_step (attempt->verb))
    job->step.output = g_steal_pointer (&attempt->plaintext);
  else
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
                 gint64 duration_usec)
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
      kw_device_count_job (attempt->device, duration_usec, TRUE);
      pool_invoke (
          attempt->pool, take_trouble,
          news_new (
              attempt, KW_DEVICE_STUCK,
              "A call did not return in time; it is tried again by itself, and if that lasts, pull it out and put it in again"),
          (GDestroyNotify) news_free);
    }
  g_set_error_literal (&reason, KW_ERROR, KW_ERROR_TIMEOUT,
                       outcome == KW_WORK_OVERDUE ? "it did not answer in time" : "it is gone");
  retry_or_fail (attempt->pool, attempt->device, job, reason, !was_running);
}

/* Gives a job to a device. Any thread. */
static void
start_attempt (KwPool *self, KwDevice *device, GBytes *key_id, KwJob *job)
{
  g_autoptr (GError) error = NULL;
  Attempt *attempt = g_new0 (Attempt, 1);
  gint64 timeout = kw_device_get_timeout_usec (device);
  KwWork *work = NULL;

  attempt->pool = g_object_ref (self);
  attempt->device = g_object_ref (device);
  attempt->job = kw_job_ref (job);
  attempt->verb = job->verb;
  attempt->key_id = key_id != NULL ? g_bytes_ref (key_id) : NULL;
  attempt->padding = job->padding;
  attempt->input = job->input != NULL ? g_bytes_ref (job->input) : NULL;
  attempt->step_input = job->step.input != NULL ? kw_secret_ref (job->step.input) : NULL;
  memcpy (attempt->step_iv, job->step.iv, sizeof attempt->step_iv);
  attempt->n_random = job->n_random;
  attempt->bits = job->bits;
  attempt->label = g_strdup (job->label);
  attempt->reference = job->reference;
  job->tried[job->n_attempts++] = kw_device_get_number (device);
  if (verb_generates (job->verb))
    timeout *= KW_GENERATE_TIMEOUT_FACTOR;
  work
      = kw_work_new (attempt_run, on_attempt_done, timeout, attempt, (GDestroyNotify) attempt_free);
  if (verb_generates (job->verb))
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
    retry_or_fail (self, device, job, error, TRUE);
}

/* No ready device holds the key: wait for one, look for the key once, or give up. Any thread. */
static void
postpone_or_fail (KwPool *self, KwJob *job, const KwRoster *roster, gint64 now)
{
  gint64 wait_until = MAX (job->park_until, MIN (roster->expecting_until, job->deadline));

  if (roster->expecting_until == KW_ROSTER_NEVER_AGAIN)
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

/* Why nothing can be done with a key just now; what no waiting changes has a code of its own. */
static KwError
refusal_code (const KwRosterEntry *entry, gboolean wrap)
{
  if (wrap && entry->state == KW_KEY_STATE_WEAK)
    return KW_ERROR_NOT_SUPPORTED;
  if (kw_roster_entry_get_holders (entry, wrap)->len == 0 && entry->state == KW_KEY_STATE_DIFFERENT)
    return KW_ERROR_KEY_MISMATCH;
  return KW_ERROR_UNAVAILABLE;
}

/* Why there is no such key at all. */
static void
fail_unknown_key (KwJob *job)
{
  g_autofree char *text = NULL;

  if (!job->step.wrap)
    fail_job (job, KW_ERROR_KEY_NOT_FOUND,
              "The message was encrypted under a key that is none of [hsm] hsm_keyid");
  else if (job->wanted_key == NULL)
    fail_job (job, KW_ERROR_NOT_SUPPORTED,
              "No key is configured to encrypt with: set [hsm] hsm_keyid");
  else
    {
      text = g_strdup_printf ("There is no key %s in [hsm] hsm_keyid", job->wanted_key);
      fail_job (job, KW_ERROR_KEY_NOT_FOUND, text);
    }
}

static char *
describe_refusal (const KwJob *job, const KwRosterEntry *entry)
{
  if (job->last_reason != NULL)
    return g_strdup_printf ("The device failed: %s", job->last_reason);
  if (entry->advice != NULL)
    return g_strdup (entry->advice);
  if (entry->fingerprint == NULL || kw_roster_entry_get_holders (entry, job->step.wrap)->len == 0)
    return g_strdup_printf ("Key %s is not checked yet", entry->name);
  if (job->wanted_key != NULL)
    return g_strdup_printf (
        "Key %s may not encrypt now: it is weak, or on fewer ready devices than min_copies "
        "says, or [hsm] encrypt_hsm is off",
        entry->name);
  return g_strdup ("Encryption is switched off: see [hsm] encrypt_hsm");
}

/* The key cannot be used where it is wanted: wait for a device that may be coming, or say why. Any thread. */
static void
postpone_or_refuse_step (KwPool *self,
                         KwJob *job,
                         const KwRoster *roster,
                         const KwRosterEntry *entry)
{
  gint64 now = g_get_monotonic_time ();
  gint64 wait_until
      = MAX (job->park_until,
             MIN (MAX (roster->hope_until, roster->devices->len == 0 ? roster->expecting_until : 0),
                  job->deadline));
  g_autofree char *text = NULL;

  if (roster->expecting_until == KW_ROSTER_NEVER_AGAIN
      || (roster->devices->len == 0 && now >= wait_until))
    fail_unavailable (job, roster);
  else if (now < wait_until && (entry != NULL || !kw_roster_knows_all_entries (roster)))
    park_job (self, job);
  else if (entry == NULL)
    fail_unknown_key (job);
  else
    {
      text = describe_refusal (job, entry);
      fail_job (job,
                job->last_reason != NULL ? KW_ERROR_UNAVAILABLE
                                         : refusal_code (entry, job->step.wrap),
                text);
    }
}

static void
dispatch_step (KwPool *self, KwJob *job, const KwRoster *roster)
{
  KwRosterEntry *entry = kw_roster_find_entry (roster, &job->step, job->wanted_key);
  gboolean fit = FALSE;
  KwDevice *device = NULL;
  guint place = 0;

  /* Which key it is shows here first; nobody's device is bothered for those who may not use it. */
  if (entry != NULL && !kw_access_check_key (job->caller, job->verb, entry->name, &job->error))
    {
      g_free (job->key_name);
      job->key_name = g_strdup (entry->name);
      finish_job (job);
      return;
    }
  if (entry != NULL)
    fit = !job->step.wrap || (job->wanted_key != NULL ? entry->can_encrypt : entry->may_encrypt);
  if (fit)
    device = choose_device (kw_roster_entry_get_holders (entry, job->step.wrap), job);
  if (device == NULL)
    {
      postpone_or_refuse_step (self, job, roster, entry);
      return;
    }
  g_ptr_array_find (kw_roster_entry_get_holders (entry, job->step.wrap), device, &place);
  g_free (job->key_name);
  job->key_name = g_strdup (entry->name);
  g_free (job->fingerprint);
  job->fingerprint = g_strdup (entry->fingerprint);
  start_attempt (self, device,
                 g_ptr_array_index (job->step.wrap ? entry->key_ids : entry->reader_key_ids, place),
                 job);
}

/* --- making keys --- */

static void begin_next_generation (KwPool *self);

static gboolean
take_end_of_generation (gpointer user_data)
{
  KwPool *self = KW_POOL (user_data);

  self->is_generating = FALSE;
  begin_next_generation (self);
  return G_SOURCE_REMOVE;
}

/* Any thread. A key that may still be on some device is not taken notice of as long as this process runs. */
static void
on_generation_done (KwJob *job, gpointer user_data)
{
  KwPool *self = KW_POOL (user_data);

  if (job->key_id != NULL && !job->key_may_remain)
    kw_keyring_release (self->options.keyring, job->key_id);
  if (job->verb == KW_VERB_GENERATE_AES)
    pool_invoke (self, take_end_of_generation, g_object_ref (self), g_object_unref);
  job->after_generation (job, job->after_generation_data);
  g_object_unref (self);
}

static gboolean
id_is_in_use (KwPool *self, GBytes *key_id)
{
  g_autoptr (KwRoster) roster = pool_ref_roster (self);

  for (guint i = 0; i < roster->devices->len; i++)
    {
      GPtrArray *keys = kw_device_get_keys (g_ptr_array_index (roster->devices, i));

      for (guint j = 0; j < keys->len; j++)
        {
          if (g_bytes_equal (kw_key_get_id (g_ptr_array_index (keys, j)), key_id))
            return TRUE;
        }
    }
  return FALSE;
}

static void
on_prepared (const KwPreparationResult *result, const GError *error, gpointer user_data)
{
  KwJob *job = user_data;
  KwPool *self = KW_POOL (job->service_data);
  KwDevice *device = result != NULL ? choose_device (result->origins, job) : NULL;

  if (device == NULL)
    {
      if (result != NULL && job->refusal == NULL)
        g_set_error (&job->error, KW_ERROR, KW_ERROR_UNAVAILABLE,
                     "No other device can make the key: %s",
                     job->last_reason != NULL ? job->last_reason : "all were tried");
      else
        job->error = g_error_copy (job->refusal != NULL ? job->refusal : error);
      finish_job (job);
      return;
    }
  if (job->key_id == NULL)
    job->key_id = g_bytes_ref (result->key_id);
  job->reference = result->reference;
  /* An id that the caller chose may be that of a key in use, which then says so; that one must not be hidden. */
  if (!id_is_in_use (self, job->key_id))
    kw_keyring_hold (self->options.keyring, job->key_id);
  start_attempt (self, device, job->key_id, job);
}

/* Main context; takes the job. */
static void
prepare_generation (KwPool *self, KwJob *job)
{
  g_autoptr (KwRoster) roster = pool_ref_roster (self);
  const KwPreparationWish wish = {
    .kind = job->verb == KW_VERB_GENERATE_AES ? KW_KEY_KIND_AES : KW_KEY_KIND_RSA,
    .label = job->label,
    .key_id = job->key_id,
    .replicate = self->replicate,
    .min_copies = self->min_copies,
  };

  if (g_get_monotonic_time () >= job->deadline)
    fail_job (job, KW_ERROR_TIMEOUT, "No device answered in time");
  else if (roster->devices->len == 0)
    postpone_or_fail (self, job, roster, g_get_monotonic_time ());
  else
    kw_prepare_generation (self->options.keyring, roster->devices, &wish, on_prepared, job);
}

/* Two AES keys at a time would be given the same number. */
static void
begin_next_generation (KwPool *self)
{
  KwJob *job = NULL;

  if (self->is_generating)
    return;
  job = g_queue_pop_head (&self->generations);
  if (job == NULL)
    return;
  self->is_generating = TRUE;
  prepare_generation (self, job);
}

/* Main context. */
static gboolean
take_generation (gpointer user_data)
{
  News *news = user_data;
  KwPool *self = news->pool;
  KwJob *job = g_steal_pointer (&news->job);

  if (job->is_generating)
    {
      prepare_generation (self, job);
      return G_SOURCE_REMOVE;
    }
  job->is_generating = TRUE;
  job->after_generation = job->service_callback;
  job->after_generation_data = job->service_data;
  job->service_callback = on_generation_done;
  job->service_data = g_object_ref (self);
  if (job->verb != KW_VERB_GENERATE_AES)
    {
      prepare_generation (self, job);
      return G_SOURCE_REMOVE;
    }
  g_queue_push_tail (&self->generations, job);
  begin_next_generation (self);
  return G_SOURCE_REMOVE;
}

/* Any thread; takes the job. */
static void
dispatch_generation (KwPool *self, KwJob *job, const KwRoster *roster, gint64 now)
{
  KwDevice *device = choose_device (roster->devices, job);
  News *news = NULL;

  if (device == NULL)
    {
      postpone_or_fail (self, job, roster, now);
      return;
    }
  news = g_new0 (News, 1);
  news->pool = g_object_ref (self);
  news->device = g_object_ref (device);
  news->job = job;
  pool_invoke (self, take_generation, news, (GDestroyNotify) news_free);
}

/* Takes the job. Any thread; in place when the job allows it. */
static void
pool_dispatch (KwPool *self, KwJob *job)
{
  g_autoptr (KwRoster) roster = pool_ref_roster (self);
  KwDevice *device = NULL;
  gint64 now = g_get_monotonic_time ();

  if (kw_job_is_cancelled (job))
    {
      fail_job (job, KW_ERROR_CANCELLED, "The caller has left");
      return;
    }
  if (now >= job->deadline)
    {
      fail_job (job, KW_ERROR_TIMEOUT, "No device answered in time");
      return;
    }
  if (verb_takes_step (job->verb))
    {
      dispatch_step (self, job, roster);
      return;
    }
  if (verb_generates (job->verb))
    {
      dispatch_generation (self, job, roster, now);
      return;
    }
  if (job->verb == KW_VERB_RSA_DECRYPT)
    {
      GPtrArray *holders = kw_roster_find_holders (roster, KW_KEY_KIND_RSA, job->key_id);

      if (holders != NULL)
        device = choose_device (holders, job);
    }
  else
    device = choose_device (roster->devices, job);
  if (device != NULL)
    start_attempt (self, device, job->key_id, job);
  else
    postpone_or_fail (self, job, roster, now);
}

static gboolean
judge_again (gpointer user_data)
{
  KwPool *self = KW_POOL (user_data);

  self->settle_source = 0;
  publish_roster (self);
  return G_SOURCE_REMOVE;
}

static void
start_timer (KwPool *self, guint *source_id, gint64 delay_usec, GSourceFunc function)
{
  g_autoptr (GSource) source = NULL;

  if (*source_id != 0 || self->stopped)
    return;
  source = g_timeout_source_new ((guint) (delay_usec / 1000) + 1);
  g_source_set_callback (source, function, self, NULL);
  *source_id = g_source_attach (source, self->context);
}

static void
stop_timer (KwPool *self, guint *source_id)
{
  if (*source_id != 0)
    g_source_destroy (g_main_context_find_source_by_id (self->context, *source_id));
  *source_id = 0;
}

/* Says whether a key may be of use in a moment that is not now. */
static gboolean
judge_keys (KwPool *self)
{
  g_autofree KwKeyringDevice *list = g_new0 (KwKeyringDevice, MAX (self->devices->len, 1));
  gboolean settled = g_get_monotonic_time () - self->last_arrival >= SETTLE_USEC;

  for (guint i = 0; i < self->devices->len; i++)
    {
      KwDevice *device = g_ptr_array_index (self->devices, i);
      KwDeviceState state = kw_device_get_state (device);

      list[i] = (KwKeyringDevice){
        .name = kw_device_get_name (device),
        .label = kw_token_get_info (kw_device_get_token (device))->label,
        .number = kw_device_get_number (device),
        .ready = state == KW_DEVICE_READY,
        .checked = kw_device_is_checked (device)
                   && (state == KW_DEVICE_READY || state == KW_DEVICE_MISMATCHED),
        .settled = settled && state != KW_DEVICE_PROBING && state != KW_DEVICE_CHECKING
                   && !kw_device_is_busy (device),
        .keys = kw_device_get_keys (device),
        .different = kw_device_get_different_keys (device),
      };
    }
  if (!kw_keyring_judge (self->options.keyring, list, self->devices->len))
    return kw_keyring_is_recording (self->options.keyring);
  start_timer (self, &self->settle_source, SETTLE_USEC, judge_again);
  return TRUE;
}

/* Whether all that a device has is the wrong keys, and which sentence says so. */
static const char *
find_mismatch (KwPool *self, KwDevice *device, const KwKeyMatrix *matrix, guint column)
{
  GPtrArray *keys = kw_device_get_keys (device);
  const char *mismatch = NULL;

  /* It decrypts what was encrypted under a key that has another place now, or that was replaced. */
  if (kw_keyring_knows_any (self->options.keyring, keys))
    return NULL;

  for (guint i = 0; i < keys->len; i++)
    {
      if (kw_key_get_kind (g_ptr_array_index (keys, i)) != KW_KEY_KIND_AES)
        return NULL;
    }
  for (guint i = 0; i < kw_key_matrix_get_n_keys (matrix); i++)
    {
      const KwKeyFacts *facts = kw_key_matrix_get_key (matrix, i);
      const KwMatrixCell *cell = kw_key_matrix_get_cell (matrix, i, column);

      if (cell->state == KW_KEY_STATE_OK || cell->state == KW_KEY_STATE_WEAK)
        return NULL;
      if (facts->configured && cell->state == KW_KEY_STATE_DIFFERENT && mismatch == NULL)
        mismatch = cell->advice != NULL ? cell->advice : facts->advice;
    }
  return mismatch;
}

/* Sets aside devices that have nothing but wrong keys, and takes them back. Main context; may come here again. */
static void
sort_out_devices (KwPool *self, const KwKeyMatrix *matrix)
{
  for (guint i = 0; i < self->devices->len; i++)
    {
      KwDevice *device = g_ptr_array_index (self->devices, i);
      KwDeviceState state = kw_device_get_state (device);
      const char *mismatch = NULL;

      if ((state != KW_DEVICE_READY && state != KW_DEVICE_MISMATCHED)
          || kw_key_matrix_get_device (matrix, i)->number != kw_device_get_number (device))
        continue;
      mismatch = find_mismatch (self, device, matrix, i);
      if (mismatch != NULL && state == KW_DEVICE_READY)
        {
          kw_device_set_state (device, KW_DEVICE_MISMATCHED, mismatch);
          return;
        }
      if (mismatch == NULL && state == KW_DEVICE_MISMATCHED)
        {
          kw_device_set_state (device, KW_DEVICE_READY,
                               "Ready again: its keys are the recorded ones");
          return;
        }
    }
}

/* Main context. */
static void
publish_roster (KwPool *self)
{
  KwRoster *fresh = kw_roster_new ();
  KwRoster *old = NULL;
  gint64 now = g_get_monotonic_time ();
  gboolean on_its_way = FALSE;
  gboolean looking = FALSE;
  gboolean judging = FALSE;
  g_autoptr (KwKeyMatrix) matrix = NULL;

  judging = judge_keys (self);
  matrix = kw_keyring_ref_matrix (self->options.keyring);
  for (guint i = 0; i < self->devices->len; i++)
    {
      KwDevice *device = g_ptr_array_index (self->devices, i);

      if (kw_device_get_state (device) == KW_DEVICE_READY)
        kw_roster_add_device (fresh, device);
      on_its_way |= kw_device_get_state (device) == KW_DEVICE_PROBING
                    || kw_device_get_state (device) == KW_DEVICE_CHECKING;
      looking |= kw_device_is_busy (device);
    }
  for (guint i = 0; i < kw_key_matrix_get_n_keys (matrix); i++)
    {
      const KwKeyFacts *facts = kw_key_matrix_get_key (matrix, i);

      if (!facts->configured)
        continue;
      kw_roster_add_aes (fresh, matrix, i, self->devices);
      kw_roster_add_former (fresh, self->options.keyring, facts->id, self->devices);
    }
  if (!looking)
    self->refresh_done = self->refresh_started;
  if (on_its_way || judging || fresh->devices->len < self->roster->devices->len)
    self->hope_until = now + EXPECT_USEC;
  fresh->hope_until = self->hope_until;
  fresh->refresh_started = self->refresh_started;
  fresh->refresh_done = self->refresh_done;
  if (fresh->devices->len > 0 || on_its_way || self->roster->devices->len > 0)
    self->expecting_until = now + EXPECT_USEC;
  fresh->expecting_until = self->stopped ? KW_ROSTER_NEVER_AGAIN : self->expecting_until;
  fresh->status_text = describe_absence (self);
  g_mutex_lock (&self->lock);
  old = self->roster;
  self->roster = fresh;
  g_mutex_unlock (&self->lock);
  g_clear_pointer (&old, kw_roster_unref);
  revive_parked_jobs (self);
  g_signal_emit (self, signals[SIGNAL_CHANGED], 0);
  sort_out_devices (self, matrix);
}

static void
on_device_changed (KwDevice *device G_GNUC_UNUSED, KwPool *self)
{
  publish_roster (self);
}

/* Forgets troubled devices that are not there any more, and those that came back under the name @returned. */
static void
sort_out_troubled (KwPool *self, const char *returned)
{
  for (guint i = self->troubled->len; i > 0; i--)
    {
      Troubled *troubled = g_ptr_array_index (self->troubled, i - 1);

      if (g_strcmp0 (kw_device_get_name (troubled->device), returned) != 0
          && kw_backend_is_token_expected (troubled->backend,
                                           kw_device_get_token (troubled->device)))
        continue;
      kw_device_set_state (troubled->device, KW_DEVICE_GONE, "Not plugged in any more");
      g_ptr_array_remove_index (self->troubled, i - 1);
    }
}

static void
on_device_trouble (KwDevice *device, guint state, const char *text, KwPool *self)
{
  KwBackend *backend = g_hash_table_lookup (self->owners, device);

  kw_device_set_state (device, (KwDeviceState) state, text);
  if (backend == NULL)
    return;
  self->resetting = device;
  kw_backend_reset_token (backend, kw_device_get_token (device));
  self->resetting = NULL;
  sort_out_troubled (self, NULL);
  publish_roster (self);
}

/* --- looking at keys for somebody who waits for it --- */

typedef struct
{
  GHashTable *awaited; /* owned; number of a device → number of the look that it has to end */
  GSource *cancelled;  /* owned, nullable */
  char *busy_device;   /* owned, nullable: one that could not be looked at */
} Look;

static void
look_free (gpointer data)
{
  Look *look = data;

  if (look->cancelled != NULL)
    g_source_destroy (look->cancelled);
  g_clear_pointer (&look->cancelled, g_source_unref);
  g_hash_table_unref (look->awaited);
  g_free (look->busy_device);
  g_free (look);
}

static void
end_look (KwPool *self, GTask *task)
{
  const Look *look = g_task_get_task_data (task);

  if (g_task_return_error_if_cancelled (task))
    return;
  if (self->stopped)
    g_task_return_new_error (task, KW_ERROR, KW_ERROR_UNAVAILABLE, "The service is stopping");
  else if (look->busy_device != NULL)
    g_task_return_new_error (task, KW_ERROR, KW_ERROR_BUSY,
                             "Device %s is too busy to be looked at; try again", look->busy_device);
  else
    g_task_return_pointer (task, kw_keyring_ref_matrix (self->options.keyring),
                           (GDestroyNotify) kw_key_matrix_unref);
}

/* Ends what has nothing to wait for any more. */
static void
end_looks (KwPool *self)
{
  g_autoptr (GPtrArray) ended = g_ptr_array_new_with_free_func (g_object_unref);

  for (guint i = self->looks->len; i > 0; i--)
    {
      GTask *task = g_ptr_array_index (self->looks, i - 1);
      const Look *look = g_task_get_task_data (task);

      if (self->stopped || g_cancellable_is_cancelled (g_task_get_cancellable (task))
          || (g_hash_table_size (look->awaited) == 0
              && !kw_keyring_is_recording (self->options.keyring)))
        g_ptr_array_add (ended, g_ptr_array_steal_index (self->looks, i - 1));
    }
  for (guint i = ended->len; i > 0; i--)
    end_look (self, g_ptr_array_index (ended, i - 1));
}

/* A device has ended a look at its keys, or is not there any more. */
static void
note_look (KwPool *self, KwDevice *device, guint64 number)
{
  guint64 device_number = kw_device_get_number (device);

  for (guint i = 0; i < self->looks->len; i++)
    {
      Look *look = g_task_get_task_data (g_ptr_array_index (self->looks, i));
      const guint64 *wanted = g_hash_table_lookup (look->awaited, &device_number);

      if (wanted != NULL && number >= *wanted)
        g_hash_table_remove (look->awaited, &device_number);
    }
  end_looks (self);
}

static void
on_device_looked (KwDevice *device, guint64 number, gboolean whole, KwPool *self)
{
  guint64 device_number = kw_device_get_number (device);

  /* One that is in trouble shows as such; one that works on has merely no time. */
  for (guint i = 0;
       !whole && kw_device_get_state (device) == KW_DEVICE_READY && i < self->looks->len; i++)
    {
      Look *look = g_task_get_task_data (g_ptr_array_index (self->looks, i));
      const guint64 *wanted = g_hash_table_lookup (look->awaited, &device_number);

      if (wanted == NULL || number < *wanted)
        continue;
      g_free (look->busy_device);
      look->busy_device = g_strdup (kw_device_get_name (device));
    }
  note_look (self, device, number);
}

static gboolean
on_look_cancelled (GCancellable *cancellable G_GNUC_UNUSED, gpointer user_data)
{
  end_looks (KW_POOL (user_data));
  return G_SOURCE_REMOVE;
}

/* It is not forgotten at once: an administrator should see which one does not answer. */
static void
keep_troubled (KwPool *self, KwDevice *device)
{
  Troubled *troubled = g_new0 (Troubled, 1);

  troubled->device = g_object_ref (device);
  troubled->backend = g_object_ref (g_hash_table_lookup (self->owners, device));
  g_ptr_array_add (self->troubled, troubled);
}

/* The process must not end beside a thread that is in a library. */
static void
keep_executor (KwPool *self, KwDevice *device)
{
  for (guint i = self->closing->len; i > 0; i--)
    {
      if (kw_executor_is_finished (g_ptr_array_index (self->closing, i - 1)))
        g_ptr_array_remove_index_fast (self->closing, i - 1);
    }
  g_ptr_array_add (self->closing, g_object_ref (kw_device_get_executor (device)));
}

static void
remove_device (KwPool *self, KwDevice *device)
{
  g_autoptr (KwDevice) keep_alive G_GNUC_UNUSED = g_object_ref (device);

  keep_executor (self, device);
  g_signal_handlers_disconnect_by_data (device, self);
  if (device == self->resetting)
    keep_troubled (self, device);
  g_hash_table_remove (self->owners, device);
  g_ptr_array_remove (self->devices, device);
  if (device == self->resetting)
    kw_device_retire (device);
  else
    kw_device_close (device);
  publish_roster (self);
  note_look (self, device, G_MAXUINT64);
}

/* A device that comes back goes on counting where it left off. */
static KwFigures *
ensure_figures (KwPool *self, KwToken *token)
{
  const KwTokenInfo *info = kw_token_get_info (token);
  const char *name = info->serial[0] != '\0' ? info->serial : info->label;
  KwFigures *figures = g_hash_table_lookup (self->figures, name);

  if (figures != NULL)
    return figures;
  if (g_hash_table_size (self->figures) >= KW_MAX_KNOWN_DEVICES)
    g_hash_table_remove_all (self->figures);
  figures = kw_figures_new ();
  g_hash_table_insert (self->figures, g_strdup (name), figures);
  return figures;
}

static void
on_recorded (KwKeyring *keyring G_GNUC_UNUSED, KwPool *self)
{
  publish_roster (self);
  end_looks (self);
}

static void
on_not_recorded (KwKeyring *keyring G_GNUC_UNUSED, KwPool *self)
{
  end_looks (self);
}

static gboolean
check_devices (gpointer user_data)
{
  KwPool *self = KW_POOL (user_data);

  for (guint i = 0; i < self->devices->len; i++)
    (void) kw_device_check_keys (g_ptr_array_index (self->devices, i));
  return G_SOURCE_CONTINUE;
}

static void
on_token_added (KwBackend *backend, KwToken *token, KwPool *self)
{
  g_autoptr (KwDevice) device = NULL;
  KwDeviceOptions options = { 0 };
  KwTokenAccess access = { 0 };
  KwSecret *pin = NULL;

  sort_out_troubled (self, kw_token_get_info (token)->serial[0] != '\0'
                               ? kw_token_get_info (token)->serial
                               : kw_token_get_info (token)->label);
  self->options.number++;
  self->last_arrival = g_get_monotonic_time ();
  options = self->options;
  options.figures = ensure_figures (self, token);
  if (kw_backend_get_access (backend, token, &access))
    {
      options.pin = access.pin;
      options.pin_name = access.pin_name;
      options.timeout_usec = access.timeout_usec;
    }
  pin = g_hash_table_lookup (self->pins, kw_token_get_info (token)->serial);
  if (pin != NULL)
    options.pin = pin;
  device = kw_device_new (token, &options);
  g_signal_connect (device, "changed", G_CALLBACK (on_device_changed), self);
  g_signal_connect (device, "trouble", G_CALLBACK (on_device_trouble), self);
  g_signal_connect (device, "looked", G_CALLBACK (on_device_looked), self);
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
  sort_out_troubled (self, NULL);
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
  if (self->options.keyring != NULL)
    g_signal_handlers_disconnect_by_data (self->options.keyring, self);
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
  g_ptr_array_unref (self->troubled);
  g_hash_table_unref (self->owners);
  g_hash_table_unref (self->figures);
  g_ptr_array_unref (self->looks);
  g_hash_table_unref (self->pins);
  kw_roster_unref (self->roster);
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
  g_queue_init (&self->generations);
  self->looks = g_ptr_array_new_with_free_func (g_object_unref);
  self->context = g_main_context_ref_thread_default ();
  self->backends = g_ptr_array_new_with_free_func (g_object_unref);
  self->devices = g_ptr_array_new_with_free_func (g_object_unref);
  self->closing = g_ptr_array_new_with_free_func (g_object_unref);
  self->troubled = g_ptr_array_new_with_free_func (troubled_free);
  self->owners = g_hash_table_new (NULL, NULL);
  self->pins
      = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, (GDestroyNotify) kw_secret_unref);
  self->figures
      = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, (GDestroyNotify) kw_figures_unref);
  self->roster = kw_roster_new ();
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
  g_signal_connect (self->options.keyring, "recorded", G_CALLBACK (on_recorded), self);
  g_signal_connect (self->options.keyring, "not-recorded", G_CALLBACK (on_not_recorded), self);
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
 * kw_pool_set_check_interval:
 * @self: a pool
 * @interval_usec: time between two proofs of the keys on ready devices, in microseconds; 0 for never
 *
 * Says how often it is proven that devices still have the keys they had. Main context.
 */
void
kw_pool_set_check_interval (KwPool *self, gint64 interval_usec)
{
  g_return_if_fail (KW_IS_POOL (self));

  self->check_interval_usec = interval_usec;
  stop_timer (self, &self->check_source);
  if (self->started && interval_usec > 0)
    start_timer (self, &self->check_source, interval_usec, check_devices);
}

/**
 * kw_pool_set_replication:
 * @self: a pool that was not started
 * @replicate: new keys are cloned to all ready devices
 * @min_copies: and removed again when fewer devices have them then
 *
 * Says where new keys shall be. Without this they stay where they were made. Main context.
 */
void
kw_pool_set_replication (KwPool *self, gboolean replicate, guint min_copies)
{
  g_return_if_fail (KW_IS_POOL (self));

  self->replicate = replicate;
  self->min_copies = min_copies;
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
  self->hope_until = self->expecting_until;
  publish_roster (self);
  self->started = TRUE;
  if (self->check_interval_usec > 0)
    start_timer (self, &self->check_source, self->check_interval_usec, check_devices);
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
  KwJob *job = NULL;

  g_return_if_fail (KW_IS_POOL (self));

  if (self->stopped)
    return;
  self->stopped = TRUE;
  stop_timer (self, &self->parked_source);
  stop_timer (self, &self->check_source);
  stop_timer (self, &self->settle_source);
  for (guint i = 0; i < self->backends->len; i++)
    {
      KwBackend *backend = g_ptr_array_index (self->backends, i);

      g_signal_handlers_disconnect_by_data (backend, self);
    }
  while (self->devices->len > 0)
    {
      KwDevice *device = g_ptr_array_index (self->devices, 0);

      remove_device (self, device);
    }
  g_ptr_array_set_size (self->troubled, 0);
  for (guint i = 0; i < self->backends->len; i++)
    kw_backend_stop (g_ptr_array_index (self->backends, i));
  publish_roster (self);
  end_looks (self);
  while ((job = g_queue_pop_head (&self->generations)) != NULL)
    fail_job (job, KW_ERROR_UNAVAILABLE, "The service is stopping");
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
  gint64 now = 0;

  g_return_if_fail (KW_IS_POOL (self));

  now = g_get_monotonic_time ();
  if (job->started == 0)
    job->started = now;
  /* A message may come here twice, to be taken out of one envelope and put into another. */
  job->deadline = now + self->options.timeout_usec * JOB_TIMEOUT_FACTOR;
  job->park_until = 0;
  job->n_attempts = 0;
  job->wants_refresh = 0;
  g_clear_pointer (&job->last_reason, g_free);
  if (verb_generates (job->verb))
    job->deadline += self->options.timeout_usec * KW_GENERATE_TIMEOUT_FACTOR;
  pool_dispatch (self, job);
}

/**
 * kw_pool_check_keys_async:
 * @self: a pool
 * @cancellable: (nullable): ends the wait; what was begun goes on
 * @callback: told when all was looked at
 * @user_data: for @callback
 *
 * Has the keys of all devices in use listed and proven anew, between other work. Main context.
 */
void
kw_pool_check_keys_async (KwPool *self,
                          GCancellable *cancellable,
                          GAsyncReadyCallback callback,
                          gpointer user_data)
{
  GTask *task = NULL;
  Look *look = NULL;

  g_return_if_fail (KW_IS_POOL (self));

  task = g_task_new (self, cancellable, callback, user_data);
  look = g_new0 (Look, 1);
  look->awaited = g_hash_table_new_full (g_int64_hash, g_int64_equal, g_free, g_free);
  g_task_set_task_data (task, look, look_free);
  for (guint i = 0; i < self->devices->len; i++)
    {
      KwDevice *device = g_ptr_array_index (self->devices, i);
      guint64 device_number = kw_device_get_number (device);
      guint64 number = kw_device_check_keys (device);

      if (number > 0)
        g_hash_table_insert (look->awaited, g_memdup2 (&device_number, sizeof device_number),
                             g_memdup2 (&number, sizeof number));
    }
  g_ptr_array_add (self->looks, task);
  if (cancellable != NULL)
    {
      look->cancelled = g_cancellable_source_new (cancellable);
      g_source_set_callback (look->cancelled, G_SOURCE_FUNC (on_look_cancelled), self, NULL);
      g_source_attach (look->cancelled, self->context);
    }
  end_looks (self);
}

/**
 * kw_pool_check_keys_finish:
 * @self: a pool
 * @result: what the callback was given
 * @error: where to store the error
 *
 * Tells what was found.
 *
 * Returns: (transfer full): which key is how on which device, after the look; %NULL with %KW_ERROR_BUSY when a device could not
 *   be looked at, %KW_ERROR_UNAVAILABLE when the service stops, or %G_IO_ERROR_CANCELLED
 */
KwKeyMatrix *
kw_pool_check_keys_finish (KwPool *self, GAsyncResult *result, GError **error)
{
  g_return_val_if_fail (g_task_is_valid (result, self), NULL);

  return g_task_propagate_pointer (G_TASK (result), error);
}

/**
 * kw_pool_find_first_key:
 * @self: a pool
 * @out_prefix: (out): the first bytes of its fingerprint, KW_FINGERPRINT_PREFIX_BYTES of them
 * @out_name: (out) (transfer full): its entry of `hsm_keyid`
 *
 * Tells which key is to encrypt, whether it can just now or not. Any thread.
 *
 * Returns: %FALSE when none is configured, or when it is not known yet which key that is
 */
gboolean
kw_pool_find_first_key (KwPool *self, guint8 *out_prefix, char **out_name)
{
  g_autoptr (KwRoster) roster = NULL;
  const KwRosterEntry *entry = NULL;

  g_return_val_if_fail (KW_IS_POOL (self), FALSE);

  roster = pool_ref_roster (self);
  if (roster->aes->len == 0)
    return FALSE;
  entry = g_ptr_array_index (roster->aes, 0);
  if (entry->fingerprint == NULL)
    return FALSE;
  memcpy (out_prefix, entry->prefix, sizeof entry->prefix);
  *out_name = g_strdup (entry->name);
  return TRUE;
}

/**
 * kw_pool_dup_devices:
 * @self: a pool
 *
 * Returns: (transfer full) (element-type KwDevice): all devices, and those that were given up for their trouble and are still
 *   plugged in for all we know. Main context.
 */
GPtrArray *
kw_pool_dup_devices (KwPool *self)
{
  GPtrArray *devices = NULL;

  g_return_val_if_fail (KW_IS_POOL (self), NULL);

  devices = g_ptr_array_copy (self->devices, (GCopyFunc) (void (*) (void)) g_object_ref, NULL);
  for (guint i = 0; i < self->troubled->len; i++)
    g_ptr_array_add (devices,
                     g_object_ref (((Troubled *) g_ptr_array_index (self->troubled, i))->device));
  return devices;
}

/**
 * kw_pool_dup_trouble:
 * @self: a pool
 *
 * Returns: (transfer full) (nullable): what back ends are waiting for, though devices may be ready; %NULL when all is well.
 *   Main context.
 */
char *
kw_pool_dup_trouble (KwPool *self)
{
  g_autoptr (GString) trouble = g_string_new (NULL);

  g_return_val_if_fail (KW_IS_POOL (self), NULL);

  for (guint i = 0; i < self->backends->len; i++)
    {
      const char *text = kw_backend_get_status_text (g_ptr_array_index (self->backends, i));

      if (text != NULL)
        g_string_append_printf (trouble, "%s%s", trouble->len > 0 ? ". " : "", text);
    }
  return trouble->len > 0 ? g_string_free (g_steal_pointer (&trouble), FALSE) : NULL;
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
  g_autoptr (KwRoster) roster = NULL;
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
  g_autoptr (KwRoster) roster = NULL;

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
  g_autoptr (KwRoster) roster = NULL;

  g_return_val_if_fail (KW_IS_POOL (self), NULL);

  roster = pool_ref_roster (self);
  if (roster->devices->len == 0)
    return g_strdup (roster->status_text);
  if (roster->devices->len == 1)
    return g_strdup ("1 device ready");
  return g_strdup_printf ("%u devices ready", roster->devices->len);
}

/**
 * kw_pool_judge_keys:
 * @self: a pool
 *
 * Judges all keys anew by what is known of the devices, after the record or `hsm_keyid` changed. Main context.
 */
void
kw_pool_judge_keys (KwPool *self)
{
  g_return_if_fail (KW_IS_POOL (self));

  publish_roster (self);
}

/**
 * kw_pool_unlock:
 * @self: a pool
 * @serial: (nullable): serial number of a device; %NULL for all
 * @pin: its PIN
 *
 * Presents a PIN once to each device that waits for one, within the rules of the PIN guard. It is kept in memory for a
 * device that took it, and for no other: kw_pool_forget_pin() is for those that did not. Main context.
 *
 * Returns: (transfer full) (element-type KwDevice): the devices to which it is being presented; perhaps none
 */
GPtrArray *
kw_pool_unlock (KwPool *self, const char *serial, KwSecret *pin)
{
  g_autoptr (GPtrArray) chosen = g_ptr_array_new_with_free_func (g_object_unref);

  g_return_val_if_fail (KW_IS_POOL (self) && pin != NULL, NULL);

  for (guint i = 0; i < self->devices->len; i++)
    {
      KwDevice *device = g_ptr_array_index (self->devices, i);
      KwDeviceState state = kw_device_get_state (device);

      if ((state == KW_DEVICE_LOCKED || state == KW_DEVICE_PIN_REFUSED)
          && !kw_device_is_busy (device)
          && (serial == NULL || g_str_equal (serial, kw_device_get_name (device))))
        g_ptr_array_add (chosen, g_object_ref (device));
    }
  for (guint i = 0; i < chosen->len; i++)
    {
      KwDevice *device = g_ptr_array_index (chosen, i);
      const char *device_serial = kw_token_get_info (kw_device_get_token (device))->serial;

      /* Without a serial number the next such token could be any. */
      if (device_serial[0] != '\0' && g_hash_table_size (self->pins) < KW_MAX_KNOWN_DEVICES)
        g_hash_table_replace (self->pins, g_strdup (device_serial), kw_secret_ref (pin));
      kw_device_set_pin (device, pin);
      kw_device_open (device);
    }
  return g_steal_pointer (&chosen);
}

/**
 * kw_pool_forget_pin:
 * @self: a pool
 * @device: a device that did not take the PIN that was given by hand
 *
 * Has the configured PIN used from now on: the other one is not to be presented once more when somebody says “retry”. Main
 * context.
 */
void
kw_pool_forget_pin (KwPool *self, KwDevice *device)
{
  g_return_if_fail (KW_IS_POOL (self) && KW_IS_DEVICE (device));

  g_hash_table_remove (self->pins, kw_token_get_info (kw_device_get_token (device))->serial);
  kw_device_set_pin (device, NULL);
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
      else if (keys_changed && (state == KW_DEVICE_READY || state == KW_DEVICE_MISMATCHED))
        kw_device_refresh_keys (device);
    }
}
