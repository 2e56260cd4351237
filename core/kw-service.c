/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-service"

#include "config.h"

#include "kw-service-private.h"

#include "kw-error.h"
#include "kw-job-private.h"
#include "kw-limits.h"
#include "kw-log.h"
#include "kw-names.h"
#include "kw-plugins.h"
#include "kw-uuid.h"

#include <glib-unix.h>
#include <glib/gstdio.h>
#include <sys/inotify.h>
#include <unistd.h>

/*
 * The one place that every request passes, whatever door it came through: is this caller allowed to do this, has he not
 * failed too often lately; then the pool does it; then it is audited and counted, and the door hears of it.
 *
 * kw_service_submit() is for any thread; everything else for the main context.
 */

enum
{
  SIGNAL_RELOADED,
  N_SIGNALS
};

static guint signals[N_SIGNALS];

G_DEFINE_FINAL_TYPE (KwService, kw_service, G_TYPE_OBJECT)

#define BUDGET_WINDOW_USEC (60 * G_TIME_SPAN_SECOND)
#define RELOAD_DELAY_MSEC 200

typedef struct
{
  gint64 window_start; /* monotonic */
  guint n;
} FailureCount;

/* Verbs whose failures may be guesses, and so are counted. */
static gboolean
verb_decrypts (KwVerb verb)
{
  return verb == KW_VERB_RSA_DECRYPT || verb == KW_VERB_DECRYPT || verb == KW_VERB_REWRAP;
}

/* Verbs that the vault takes care of. */
static gboolean
verb_is_for_vault (KwVerb verb)
{
  return verb == KW_VERB_ENCRYPT || verb == KW_VERB_DECRYPT || verb == KW_VERB_REWRAP
         || verb == KW_VERB_RANDOM;
}

/*
 * Failures are counted by what a caller cannot choose: his address, or his user id on a UNIX socket. The name in a JWT is
 * chosen freely by whoever has the secret.
 */
static char *
budget_name (const KwCaller *caller)
{
  if (kw_caller_get_uid (caller) != KW_CALLER_NO_UID)
    return g_strdup_printf ("uid %" G_GINT64_FORMAT, kw_caller_get_uid (caller));
  return g_strdup (kw_caller_get_address (caller));
}

static gboolean
budget_is_left (KwService *self, const KwCaller *caller)
{
  g_autofree char *name = NULL;
  FailureCount *count = NULL;
  gboolean left = TRUE;

  if (self->max_failures == 0)
    return TRUE;
  g_mutex_lock (&self->budget_lock);
  if (g_hash_table_size (self->failures) > 0)
    {
      name = budget_name (caller);
      count = g_hash_table_lookup (self->failures, name);
      left = count == NULL || count->n < self->max_failures
             || g_get_monotonic_time () - count->window_start >= BUDGET_WINDOW_USEC;
    }
  g_mutex_unlock (&self->budget_lock);
  return left;
}

static gboolean
count_is_old (gpointer key G_GNUC_UNUSED, gpointer value, gpointer user_data)
{
  const FailureCount *count = value;
  const gint64 *now = user_data;

  return *now - count->window_start >= BUDGET_WINDOW_USEC;
}

/* Called with the lock held. */
static void
forget_oldest (KwService *self)
{
  GHashTableIter iter;
  gpointer key = NULL;
  gpointer value = NULL;
  const char *oldest = NULL;
  gint64 start = G_MAXINT64;

  g_hash_table_iter_init (&iter, self->failures);
  while (g_hash_table_iter_next (&iter, &key, &value))
    {
      const FailureCount *count = value;

      if (count->window_start < start)
        {
          start = count->window_start;
          oldest = key;
        }
    }
  if (oldest != NULL)
    g_hash_table_remove (self->failures, oldest);
}

static void
spend_budget (KwService *self, const KwCaller *caller)
{
  g_autofree char *name = budget_name (caller);
  gint64 now = g_get_monotonic_time ();
  FailureCount *count = NULL;

  g_mutex_lock (&self->budget_lock);
  count = g_hash_table_lookup (self->failures, name);
  if (count == NULL)
    {
      if (g_hash_table_size (self->failures) >= KW_MAX_BUDGET_CALLERS)
        g_hash_table_foreach_remove (self->failures, count_is_old, &now);
      if (g_hash_table_size (self->failures) >= KW_MAX_BUDGET_CALLERS)
        forget_oldest (self);
      count = g_new0 (FailureCount, 1);
      count->window_start = now;
      g_hash_table_insert (self->failures, g_steal_pointer (&name), count);
    }
  if (now - count->window_start >= BUDGET_WINDOW_USEC)
    {
      count->window_start = now;
      count->n = 0;
    }
  count->n++;
  g_mutex_unlock (&self->budget_lock);
}

static void
log_outcome (const KwJob *job)
{
  g_autofree char *uuid = job->key_id != NULL ? kw_uuid_from_bytes (job->key_id) : NULL;
  const char *key = job->key_name != NULL ? job->key_name : uuid;

  if (job->error != NULL && !g_error_matches (job->error, KW_ERROR, KW_ERROR_DECRYPT_FAILED)
      && !g_error_matches (job->error, KW_ERROR, KW_ERROR_RATE_LIMITED))
    kw_log (G_LOG_LEVEL_WARNING, "Request failed", "verb", kw_verb_to_string (job->verb), "key",
            key, "error", job->error->message, NULL);
  else if (job->verb == KW_VERB_GENERATE_RSA && job->error == NULL)
    kw_log (G_LOG_LEVEL_INFO, "generated keypair", "tokenID", key, "device", job->device_name,
            NULL);
  else if (job->verb == KW_VERB_GENERATE_AES && job->error == NULL)
    kw_log (G_LOG_LEVEL_INFO, "Generated AES key", "key", key, "device", job->device_name,
            "fingerprint", kw_key_get_fingerprint (job->key), NULL);
  else if (job->verb == KW_VERB_RSA_DECRYPT && job->error == NULL)
    kw_log (G_LOG_LEVEL_DEBUG, "Decrypted", "tokenID", key, "device", job->device_name, NULL);
  else if (job->error == NULL)
    kw_log (G_LOG_LEVEL_DEBUG, "Done", "verb", kw_verb_to_string (job->verb), "key", key, "device",
            job->device_name, NULL);
}

static void
count_aes_use (KwService *self, const char *fingerprint, KwUse use)
{
  g_autofree char *name = NULL;

  if (fingerprint == NULL)
    return;
  name = kw_use_counter_dup_aes_name (fingerprint);
  kw_use_counter_count (self->uses, name, use);
}

static void
count_uses (KwService *self, const KwJob *job)
{
  g_autofree char *name = NULL;

  if (job->error != NULL)
    return;
  switch (job->verb)
    {
    case KW_VERB_RSA_DECRYPT:
      name = kw_use_counter_dup_rsa_name (job->key_id);
      kw_use_counter_count (self->uses, name, KW_USE_DECRYPT);
      break;
    case KW_VERB_ENCRYPT:
      count_aes_use (self, job->fingerprint, KW_USE_ENCRYPT);
      break;
    case KW_VERB_DECRYPT:
      count_aes_use (self, job->fingerprint, KW_USE_DECRYPT);
      break;
    case KW_VERB_REWRAP:
      /* Where nothing had to change, nothing was done with a key. */
      count_aes_use (self, job->old_fingerprint, KW_USE_DECRYPT);
      if (job->changed)
        count_aes_use (self, job->fingerprint, KW_USE_ENCRYPT);
      break;
    case KW_VERB_GENERATE_RSA:
    case KW_VERB_GENERATE_AES:
    case KW_VERB_RANDOM:
    case KW_VERB_RUN_TEST:
    case KW_VERB_CHECK_KEYS:
    case KW_VERB_RETRY_DEVICE:
    case KW_VERB_ACCEPT_KEY:
    case KW_VERB_UNLOCK:
    case KW_VERB_RELOAD:
    case KW_VERB_WEB_LOGIN:
    default:
      break;
    }
}

/* Any thread. */
static void
on_job_done (KwJob *job, gpointer user_data)
{
  KwService *self = KW_SERVICE (user_data);
  KwAuditRecord record = {
    .job = job,
    .device = job->device_name,
    .result = job->error == NULL ? "ok" : kw_error_to_string ((KwError) job->error->code),
    .duration_usec = g_get_monotonic_time () - job->started,
  };

  if (verb_decrypts (job->verb) && g_error_matches (job->error, KW_ERROR, KW_ERROR_DECRYPT_FAILED))
    spend_budget (self, job->caller);
  count_uses (self, job);
  kw_metrics_count (self->metrics, job->verb, job->error, record.duration_usec);
  kw_audit_write (self->audit, &record);
  log_outcome (job);
  if (job->callback != NULL)
    job->callback (job, job->callback_data);
  g_object_unref (self);
}

/* What can be told now; which AES key is meant, the vault and the pool find out. */
static gboolean
check_caller (KwJob *job)
{
  g_autofree char *uuid = NULL;

  if (job->verb == KW_VERB_GENERATE_RSA || job->verb == KW_VERB_GENERATE_AES)
    return kw_access_check_key (job->caller, job->verb, NULL, &job->error);
  if (job->verb != KW_VERB_RSA_DECRYPT)
    return kw_access_check_verb (job->caller, job->verb, &job->error);
  uuid = kw_uuid_from_bytes (job->key_id);
  return kw_access_check_key (job->caller, job->verb, uuid, &job->error);
}

/* Its error says why. */
static void
refuse_job (KwService *self, KwJob *job)
{
  job->started = g_get_monotonic_time ();
  on_job_done (job, g_object_ref (self));
  kw_job_unref (job);
}

static gboolean
reload_state (gpointer user_data)
{
  KwService *self = KW_SERVICE (user_data);
  g_autoptr (GError) error = NULL;
  gboolean keys_changed = FALSE;

  self->reload_source = 0;
  if (!kw_keyring_load (self->keyring, &keys_changed, &error))
    kw_log (G_LOG_LEVEL_WARNING, "State directory cannot be read", "error", error->message, NULL);
  kw_pool_reopen_devices (self->pool, keys_changed);
  return G_SOURCE_REMOVE;
}

static gboolean
on_state_directory_changed (gint fd, GIOCondition condition G_GNUC_UNUSED, gpointer user_data)
{
  KwService *self = KW_SERVICE (user_data);
  union
  {
    struct inotify_event event; /* for its alignment */
    char bytes[4096];
  } buffer;
  gssize n = read (fd, buffer.bytes, sizeof buffer);

  for (gssize i = 0; i + (gssize) sizeof (struct inotify_event) <= n;)
    {
      const struct inotify_event *event
          = (const struct inotify_event *) (const void *) (buffer.bytes + i);

      if (event->len > 0
          && (g_str_equal (event->name, KW_STATE_FILE_PINS)
              || g_str_equal (event->name, KW_STATE_FILE_KEYS))
          && self->reload_source == 0)
        self->reload_source = g_timeout_add (RELOAD_DELAY_MSEC, reload_state, self);
      i += (gssize) (sizeof (struct inotify_event) + event->len);
    }
  return G_SOURCE_CONTINUE;
}

/*
 * Not by GFileMonitor: that hears of every line of the audit log, which may lie in the same directory, and would cost each
 * request two thread switches. Files of ours are only ever replaced. Without a watch a change made by a command is seen at
 * the next start.
 */
static void
watch_state_directory (KwService *self, const char *path)
{
  int fd = inotify_init1 (IN_CLOEXEC | IN_NONBLOCK);

  if (fd < 0)
    return;
  if (inotify_add_watch (fd, path, IN_MOVED_TO | IN_CLOSE_WRITE | IN_DELETE) < 0)
    {
      close (fd);
      return;
    }
  self->watch_fd = fd;
  self->watch_source = g_unix_fd_add (fd, G_IO_IN, on_state_directory_changed, self);
}

static void
kw_service_dispose (GObject *object)
{
  KwService *self = KW_SERVICE (object);

  g_clear_handle_id (&self->reload_source, g_source_remove);
  g_clear_handle_id (&self->watch_source, g_source_remove);
  if (self->watch_fd >= 0)
    close (self->watch_fd);
  self->watch_fd = -1;
  g_clear_object (&self->vault);
  g_clear_object (&self->uses);
  g_clear_object (&self->health);
  g_clear_object (&self->pool);
  g_clear_object (&self->keyring);
  g_clear_object (&self->test);
  g_clear_object (&self->guard);
  g_clear_object (&self->audit);
  g_clear_object (&self->config);
  g_clear_object (&self->current_config);
  g_clear_pointer (&self->access, kw_access_unref);
  G_OBJECT_CLASS (kw_service_parent_class)->dispose (object);
}

static void
kw_service_finalize (GObject *object)
{
  KwService *self = KW_SERVICE (object);

  g_hash_table_unref (self->failures);
  g_mutex_clear (&self->budget_lock);
  g_mutex_clear (&self->access_lock);
  kw_metrics_unref (self->metrics);
  kw_tickets_unref (self->tickets);
  G_OBJECT_CLASS (kw_service_parent_class)->finalize (object);
}

static void
kw_service_class_init (KwServiceClass *klass)
{
  GObjectClass *object_class = G_OBJECT_CLASS (klass);

  /**
   * KwService::reloaded:
   * @self: the service
   *
   * The configuration was read anew: kw_service_get_config() has it. Emitted in the main context.
   */
  signals[SIGNAL_RELOADED] = g_signal_new ("reloaded", KW_TYPE_SERVICE, G_SIGNAL_RUN_LAST, 0, NULL,
                                           NULL, NULL, G_TYPE_NONE, 0);
  object_class->dispose = kw_service_dispose;
  object_class->finalize = kw_service_finalize;
}

static void
kw_service_init (KwService *self)
{
  self->watch_fd = -1;
  g_mutex_init (&self->budget_lock);
  g_mutex_init (&self->access_lock);
  self->metrics = kw_metrics_new ();
  self->tickets = kw_tickets_new ();
  self->failures = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, g_free);
}

/* A job may have to wait for the slowest device. */
static gint64
longest_timeout_usec (KwConfig *config)
{
  guint seconds = kw_config_get_pkcs11 (config)->timeout;

  if (kw_config_get_hsm (config)->model == KW_HSM_MODEL_SMARTCARD)
    seconds = kw_config_get_smartcard (config)->timeout;
  else
    {
      for (guint i = 1; i < kw_config_get_n_pkcs11 (config); i++)
        seconds = MAX (seconds, kw_config_get_pkcs11_table (config, i)->timeout);
    }
  return (gint64) seconds * G_USEC_PER_SEC;
}

/**
 * kw_service_new:
 * @config: the configuration, its secrets loaded
 * @error: where to store the error
 *
 * Builds the service with every back end that the plugins offer and the configuration asks for. Reads and makes files in
 * the state directory.
 *
 * Returns: (transfer full): the service; %NULL with an error that says what to do. Main context.
 */
KwService *
kw_service_new (KwConfig *config, GError **error)
{
  g_autoptr (KwService) self = g_object_new (KW_TYPE_SERVICE, NULL);
  g_autoptr (KwPinGuard) guard = NULL;
  g_autoptr (GPtrArray) backends = NULL;
  const char *state_directory = kw_config_get_state_directory (config);
  const KwHsmConfig *hsm = kw_config_get_hsm (config);
  KwDeviceOptions options = { 0 };

  self->config = g_object_ref (config);
  self->current_config = g_object_ref (config);
  self->access = kw_access_new (config);
  self->max_failures = kw_config_get_server (config)->failed_decrypts;
  self->audit = kw_audit_new (kw_config_get_audit_path (config), state_directory, error);
  if (self->audit == NULL)
    return NULL;
  self->keyring = kw_keyring_new (state_directory);
  if (!kw_keyring_load (self->keyring, NULL, error))
    return NULL;
  kw_keyring_set_keys (self->keyring, hsm->key_ids, hsm->encrypt_hsm, hsm->min_copies);
  self->uses = kw_use_counter_new (state_directory);
  guard = kw_pin_guard_new (state_directory);
  options.guard = guard;
  self->guard = g_object_ref (guard);
  options.keyring = self->keyring;
  options.pin = kw_config_get_pkcs11 (config)->pin;
  options.pin_name = kw_config_get_pkcs11 (config)->pin_name;
  options.timeout_usec = longest_timeout_usec (config);
  self->pool = kw_pool_new (&options);
  kw_pool_set_check_interval (self->pool, (gint64) hsm->check_interval * G_USEC_PER_SEC);
  kw_pool_set_replication (self->pool, hsm->replicate, hsm->min_copies);
  self->vault = kw_vault_new (self->pool, self->keyring, hsm);
  self->health = kw_health_new (self->pool, self->keyring);
  backends = kw_plugins_new_backends (config, error);
  if (backends == NULL)
    return NULL;
  for (guint i = 0; i < backends->len; i++)
    kw_pool_add_backend (self->pool, g_ptr_array_index (backends, i));
  (void) g_mkdir_with_parents (state_directory, 0700);
  watch_state_directory (self, state_directory);
  return g_steal_pointer (&self);
}

/**
 * kw_service_start:
 * @self: the service
 *
 * Begins to look for devices. Main context.
 */
void
kw_service_start (KwService *self)
{
  g_return_if_fail (KW_IS_SERVICE (self));

  kw_pool_start (self->pool);
}

/**
 * kw_service_stop:
 * @self: the service
 *
 * Ends waiting jobs and gives the devices back. Main context.
 */
void
kw_service_stop (KwService *self)
{
  g_return_if_fail (KW_IS_SERVICE (self));

  if (self->test != NULL)
    kw_self_test_cancel (self->test);

  kw_pool_stop (self->pool);
  kw_vault_stop (self->vault);
  kw_use_counter_stop (self->uses);
}

/**
 * kw_service_submit:
 * @self: the service
 * @job: (transfer full): what is wanted; its callback is called exactly once, on any thread, perhaps before this returns
 *
 * Has something done with a key. Any thread.
 */
void
kw_service_submit (KwService *self, KwJob *job)
{
  g_return_if_fail (KW_IS_SERVICE (self));

  if (!check_caller (job))
    refuse_job (self, job);
  else if (verb_decrypts (job->verb) && !budget_is_left (self, job->caller))
    {
      g_set_error_literal (&job->error, KW_ERROR, KW_ERROR_RATE_LIMITED,
                           "Too many failed decrypts; try again in a minute");
      refuse_job (self, job);
    }
  else
    {
      job->service_callback = on_job_done;
      job->service_data = g_object_ref (self);
      if (verb_is_for_vault (job->verb))
        kw_vault_submit (self->vault, job);
      else
        kw_pool_submit (self->pool, job);
    }
}

/**
 * kw_service_get_pool:
 * @self: the service
 *
 * Returns: (transfer none): its pool. Any thread.
 */
KwPool *
kw_service_get_pool (KwService *self)
{
  g_return_val_if_fail (KW_IS_SERVICE (self), NULL);

  return self->pool;
}

/**
 * kw_service_get_keyring:
 * @self: the service
 *
 * Returns: (transfer none): its keyring, which has the matrix of keys and devices. Any thread.
 */
KwKeyring *
kw_service_get_keyring (KwService *self)
{
  g_return_val_if_fail (KW_IS_SERVICE (self), NULL);

  return self->keyring;
}

/**
 * kw_service_get_use_counter:
 * @self: the service
 *
 * Returns: (transfer none): what counts how often keys are used. Any thread.
 */
KwUseCounter *
kw_service_get_use_counter (KwService *self)
{
  g_return_val_if_fail (KW_IS_SERVICE (self), NULL);

  return self->uses;
}

/**
 * kw_service_get_audit:
 * @self: the service
 *
 * Returns: (transfer none): its audit log. Any thread.
 */
KwAudit *
kw_service_get_audit (KwService *self)
{
  g_return_val_if_fail (KW_IS_SERVICE (self), NULL);

  return self->audit;
}

/**
 * kw_service_get_config:
 * @self: the service
 *
 * Returns: (transfer none): the configuration as it was read last, which is not in force in all (see kw_service_reload_async()).
 *   Main context.
 */
KwConfig *
kw_service_get_config (KwService *self)
{
  g_return_val_if_fail (KW_IS_SERVICE (self), NULL);

  return self->current_config;
}

/**
 * kw_service_resolve_grant:
 * @self: the service
 * @uid: a user id, or %KW_CALLER_NO_UID
 * @groups: (array length=n_groups) (nullable): ids of all groups he is in
 * @n_groups: how many
 *
 * Returns: (transfer full): what `[[access]]` grants him; everything for root and the daemon's own user. Any thread.
 */
KwGrant *
kw_service_resolve_grant (KwService *self, gint64 uid, const guint32 *groups, gsize n_groups)
{
  g_autoptr (KwAccess) access = NULL;

  g_return_val_if_fail (KW_IS_SERVICE (self), NULL);

  g_mutex_lock (&self->access_lock);
  access = kw_access_ref (self->access);
  g_mutex_unlock (&self->access_lock);
  return kw_access_resolve (access, uid, groups, n_groups);
}

/**
 * kw_service_get_health:
 * @self: the service
 *
 * Returns: (transfer none): how it is. Main context.
 */
KwHealth *
kw_service_get_health (KwService *self)
{
  g_return_val_if_fail (KW_IS_SERVICE (self), NULL);

  return self->health;
}

/**
 * kw_service_get_metrics:
 * @self: the service
 *
 * Returns: (transfer none): what was asked of it, counted and timed. Any thread.
 */
KwMetrics *
kw_service_get_metrics (KwService *self)
{
  g_return_val_if_fail (KW_IS_SERVICE (self), NULL);

  return self->metrics;
}

/**
 * kw_service_get_tickets:
 * @self: the service
 *
 * Returns: (transfer none): tickets by which a browser is let in. Any thread.
 */
KwTickets *
kw_service_get_tickets (KwService *self)
{
  g_return_val_if_fail (KW_IS_SERVICE (self), NULL);

  return self->tickets;
}
