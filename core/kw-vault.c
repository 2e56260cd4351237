/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define G_LOG_DOMAIN "kw-vault"

#include "config.h"

#include "kw-vault.h"

#include "kw-access.h"
#include "kw-envelope.h"
#include "kw-error.h"
#include "kw-job-private.h"
#include "kw-limits.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <string.h>

/*
 * Encrypts and decrypts messages. Each message has a data key of its own, which a device unwraps: one operation,
 * whatever the size. The message itself is processed here, after the device has let go of the job: small ones at once on the
 * thread that brings the answer, larger ones by threads kept for it, so that neither a device nor the main loop waits.
 *
 * With a time to live, data keys are used again meanwhile: the one that encrypts, and those that were unwrapped last. They are
 * kept in locked memory, wiped when their time is over, and all of them as soon as anything about a device or key changes.
 *
 * Any thread may submit; the cache is guarded by its lock, and looked after by the main context.
 */
struct _KwVault
{
  GObject parent_instance;

  KwPool *pool;          /* owned */
  KwKeyring *keyring;    /* owned */
  GMainContext *context; /* owned */
  GThreadPool *threads;  /* owned; for messages that take a while */
  gsize max_plaintext;
  gssize ttl_usec; /* atomic; 0 = data keys are used once */
  gsize n_bytes;   /* atomic: size of the messages that are under way */

  GMutex lock;
  guint generation; /* guarded by lock: how often everything was forgotten */
  GHashTable
      *sealing; /* owned; name of the wanted key, "" for the first → Sealing; guarded by lock */
  GHashTable
      *unwrapped; /* owned; GBytes of prefix, IV and wrapped key → Unwrapped; guarded by lock */
  guint purge_source; /* guarded by lock: source in the main context */
  gboolean stopped;   /* guarded by lock */
};

G_DEFINE_FINAL_TYPE (KwVault, kw_vault, G_TYPE_OBJECT)

#define INLINE_BYTES 16384 /* what is not longer is processed where it is */
#define MAX_THREADS 4
#define PURGE_INTERVAL_MSEC 500

typedef struct
{
  KwSecret *key; /* owned */
  char *key_name;
  char *fingerprint;
  gint64 expires; /* monotonic */
} Unwrapped;

/* A data key that encrypts. */
typedef struct
{
  KwSecret *key;           /* owned */
  KwEnvelopeHeader header; /* how it is wrapped */
  char *key_name;          /* owned */
  char *fingerprint;       /* owned */
  gint64 expires;          /* monotonic */
  guint64 n_bytes;         /* encrypted with it */
  guint64 n_messages;
} Sealing;

/* A message on its way. Belongs to one thread at a time, like its job. */
typedef struct
{
  KwVault *vault; /* owned */
  KwJob *job;     /* owned */
  KwJobFunc done;
  gpointer done_data;
  gsize n_bytes;      /* what it counts for in the vault */
  guint generation;   /* of the cache, when it set out */
  gboolean unwrapped; /* a device unwrapped the data key just now */
  gboolean sealing;   /* plaintext → envelope, the last half of all but decrypting */
  GBytes *envelope;   /* owned, nullable: in bytes */
  KwEnvelopeHeader header;
  KwSecret *data_key; /* owned, nullable */
} Passage;

static void advance (Passage *passage);

static void
unwrapped_free (gpointer data)
{
  Unwrapped *unwrapped = data;

  kw_secret_unref (unwrapped->key);
  g_free (unwrapped->key_name);
  g_free (unwrapped->fingerprint);
  g_free (unwrapped);
}

static void
sealing_free (gpointer data)
{
  Sealing *sealing = data;

  kw_secret_unref (sealing->key);
  g_free (sealing->key_name);
  g_free (sealing->fingerprint);
  g_free (sealing);
}

static gint64
get_ttl (KwVault *self)
{
  return (gint64) (gssize) g_atomic_pointer_get (&self->ttl_usec);
}

/* Under which name the data key for a message is kept. */
static const char *
sealing_name (const Passage *passage)
{
  return passage->job->wanted_key != NULL ? passage->job->wanted_key : "";
}

static gboolean
sealing_is_expired (gpointer key G_GNUC_UNUSED, gpointer value, gpointer user_data)
{
  const Sealing *sealing = value;
  const gint64 *now = user_data;

  return sealing->expires <= *now;
}

static gboolean
is_expired (gpointer key G_GNUC_UNUSED, gpointer value, gpointer user_data)
{
  const Unwrapped *unwrapped = value;
  const gint64 *now = user_data;

  return unwrapped->expires <= *now;
}

static gboolean
purge (gpointer user_data)
{
  KwVault *self = KW_VAULT (user_data);
  gint64 now = g_get_monotonic_time ();
  gboolean more = FALSE;

  g_mutex_lock (&self->lock);
  g_hash_table_foreach_remove (self->sealing, sealing_is_expired, &now);
  g_hash_table_foreach_remove (self->unwrapped, is_expired, &now);
  more = g_hash_table_size (self->sealing) > 0 || g_hash_table_size (self->unwrapped) > 0;
  if (!more)
    self->purge_source = 0;
  g_mutex_unlock (&self->lock);
  return more ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
}

/* The lock held. */
static void
ensure_purging (KwVault *self)
{
  g_autoptr (GSource) source = NULL;

  if (self->purge_source != 0 || self->stopped)
    return;
  source = g_timeout_source_new (PURGE_INTERVAL_MSEC);
  g_source_set_callback (source, purge, self, NULL);
  self->purge_source = g_source_attach (source, self->context);
}

static GBytes *
cache_name (const KwEnvelopeHeader *header)
{
  guint8 name[sizeof header->prefix + sizeof header->wrap_iv + sizeof header->wrapped_key];
  guint8 *end = name;

  memcpy (end, header->prefix, sizeof header->prefix);
  end += sizeof header->prefix;
  memcpy (end, header->wrap_iv, sizeof header->wrap_iv);
  end += sizeof header->wrap_iv;
  memcpy (end, header->wrapped_key, sizeof header->wrapped_key);
  return g_bytes_new (name, sizeof name);
}

/* Called with the lock held. */
static void
make_room (KwVault *self)
{
  GHashTableIter iter;
  gpointer name = NULL;
  gpointer value = NULL;
  gpointer oldest = NULL;
  gint64 expires = G_MAXINT64;

  if (g_hash_table_size (self->unwrapped) < KW_MAX_CACHED_DATA_KEYS)
    return;
  g_hash_table_iter_init (&iter, self->unwrapped);
  while (g_hash_table_iter_next (&iter, &name, &value))
    {
      const Unwrapped *unwrapped = value;

      if (unwrapped->expires < expires)
        {
          expires = unwrapped->expires;
          oldest = name;
        }
    }
  g_hash_table_remove (self->unwrapped, oldest);
}

static void
keep_unwrapped (Passage *passage)
{
  KwVault *self = passage->vault;
  Unwrapped *unwrapped = NULL;

  if (get_ttl (self) == 0)
    return;
  unwrapped = g_new0 (Unwrapped, 1);
  unwrapped->key = kw_secret_ref (passage->data_key);
  unwrapped->key_name = g_strdup (passage->job->key_name);
  unwrapped->fingerprint = g_strdup (passage->job->fingerprint);
  unwrapped->expires = g_get_monotonic_time () + get_ttl (self);
  g_mutex_lock (&self->lock);
  if (self->generation == passage->generation && !self->stopped)
    {
      make_room (self);
      g_hash_table_replace (self->unwrapped, cache_name (&passage->header),
                            g_steal_pointer (&unwrapped));
      ensure_purging (self);
    }
  g_mutex_unlock (&self->lock);
  g_clear_pointer (&unwrapped, unwrapped_free);
}

static gboolean
find_unwrapped (Passage *passage)
{
  KwVault *self = passage->vault;
  g_autoptr (GBytes) name = NULL;
  const Unwrapped *unwrapped = NULL;

  if (get_ttl (self) == 0)
    return FALSE;
  name = cache_name (&passage->header);
  g_mutex_lock (&self->lock);
  unwrapped = g_hash_table_lookup (self->unwrapped, name);
  if (unwrapped != NULL && unwrapped->expires > g_get_monotonic_time ())
    {
      passage->data_key = kw_secret_ref (unwrapped->key);
      g_free (passage->job->key_name);
      passage->job->key_name = g_strdup (unwrapped->key_name);
      g_free (passage->job->fingerprint);
      passage->job->fingerprint = g_strdup (unwrapped->fingerprint);
    }
  g_mutex_unlock (&self->lock);
  return passage->data_key != NULL;
}

static void
keep_sealing_key (Passage *passage)
{
  KwVault *self = passage->vault;
  Sealing *sealing = NULL;

  if (get_ttl (self) == 0)
    return;
  sealing = g_new0 (Sealing, 1);
  sealing->key = kw_secret_ref (passage->data_key);
  sealing->header = passage->header;
  sealing->key_name = g_strdup (passage->job->key_name);
  sealing->fingerprint = g_strdup (passage->job->fingerprint);
  sealing->expires = g_get_monotonic_time () + get_ttl (self);
  sealing->n_bytes = kw_secret_get_size (passage->job->message);
  sealing->n_messages = 1;
  g_mutex_lock (&self->lock);
  /* Names differ in case only for one key, so a bound is needed here as well. */
  if (self->generation == passage->generation && !self->stopped
      && (g_hash_table_contains (self->sealing, sealing_name (passage))
          || g_hash_table_size (self->sealing) <= KW_MAX_CONFIGURED_KEYS))
    {
      g_hash_table_replace (self->sealing, g_strdup (sealing_name (passage)),
                            g_steal_pointer (&sealing));
      ensure_purging (self);
    }
  g_mutex_unlock (&self->lock);
  g_clear_pointer (&sealing, sealing_free);
}

/* A data key that is at hand, as long as it has not done too much. */
static gboolean
find_sealing_key (Passage *passage)
{
  KwVault *self = passage->vault;
  gsize size = kw_secret_get_size (passage->job->message);
  Sealing *sealing = NULL;

  if (get_ttl (self) == 0)
    return FALSE;
  g_mutex_lock (&self->lock);
  sealing = g_hash_table_lookup (self->sealing, sealing_name (passage));
  if (sealing != NULL && sealing->expires > g_get_monotonic_time ()
      && sealing->n_bytes + size <= KW_MAX_DATA_KEY_BYTES
      && sealing->n_messages < KW_MAX_DATA_KEY_MESSAGES)
    {
      passage->data_key = kw_secret_ref (sealing->key);
      passage->header = sealing->header;
      g_free (passage->job->key_name);
      passage->job->key_name = g_strdup (sealing->key_name);
      g_free (passage->job->fingerprint);
      passage->job->fingerprint = g_strdup (sealing->fingerprint);
      sealing->n_bytes += size;
      sealing->n_messages++;
    }
  g_mutex_unlock (&self->lock);
  return passage->data_key != NULL;
}

static void
passage_free (Passage *passage)
{
  g_atomic_pointer_add (&passage->vault->n_bytes, -(gssize) passage->n_bytes);
  g_clear_pointer (&passage->envelope, g_bytes_unref);
  g_clear_pointer (&passage->data_key, kw_secret_unref);
  kw_job_unref (passage->job);
  g_object_unref (passage->vault);
  g_free (passage);
}

/* Whatever is left of the way belongs to nobody any more. */
static void
finish (Passage *passage)
{
  KwJob *job = kw_job_ref (passage->job);
  KwJobFunc done = passage->done;
  gpointer done_data = passage->done_data;

  g_clear_pointer (&job->step.input, kw_secret_unref);
  g_clear_pointer (&job->step.output, kw_secret_unref);
  if (job->error != NULL)
    {
      g_clear_pointer (&job->plaintext, kw_secret_unref);
      g_clear_pointer (&job->output, g_bytes_unref);
    }
  job->service_callback = done;
  job->service_data = done_data;
  passage_free (passage);
  done (job, done_data);
  kw_job_unref (job);
}

static void
fail (Passage *passage, KwError code, const char *text)
{
  g_clear_error (&passage->job->error);
  g_set_error_literal (&passage->job->error, KW_ERROR, (gint) code, text);
  finish (passage);
}

static void
on_step_done (KwJob *job G_GNUC_UNUSED, gpointer user_data)
{
  advance (user_data);
}

/* Has the device do its one operation. */
static void
submit_step (Passage *passage)
{
  KwJob *job = passage->job;

  g_clear_pointer (&job->step.output, kw_secret_unref);
  job->service_callback = on_step_done;
  job->service_data = passage;
  kw_pool_submit (passage->vault->pool, kw_job_ref (job));
}

/*
 * The wrapped key is what is chosen at random, and the device unwraps it: the data key is then by its nature what a reader
 * will get, and no answer that was garbled on its way can make an envelope that nobody can open.
 */
static void
submit_wrap (Passage *passage)
{
  KwJob *job = passage->job;

  g_clear_pointer (&passage->data_key, kw_secret_unref);
  if (RAND_bytes (passage->header.wrap_iv, sizeof passage->header.wrap_iv) != 1
      || RAND_bytes (passage->header.wrapped_key, sizeof passage->header.wrapped_key) != 1)
    {
      fail (passage, KW_ERROR_FAILED, "The random number generator failed");
      return;
    }
  job->step.wrap = TRUE;
  memcpy (job->step.iv, passage->header.wrap_iv, sizeof job->step.iv);
  g_clear_pointer (&job->step.input, kw_secret_unref);
  job->step.input = kw_secret_new_copy (passage->header.wrapped_key,
                                        sizeof passage->header.wrapped_key, &job->error);
  if (job->step.input == NULL)
    finish (passage);
  else
    submit_step (passage);
}

static void
submit_unwrap (Passage *passage)
{
  KwJob *job = passage->job;

  job->step.wrap = FALSE;
  memcpy (job->step.iv, passage->header.wrap_iv, sizeof job->step.iv);
  memcpy (job->step.prefix, passage->header.prefix, sizeof job->step.prefix);
  g_clear_pointer (&job->step.input, kw_secret_unref);
  job->step.input = kw_secret_new_copy (passage->header.wrapped_key,
                                        sizeof passage->header.wrapped_key, &job->error);
  if (job->step.input == NULL)
    finish (passage);
  else
    submit_step (passage);
}

static void
seal (Passage *passage)
{
  KwJob *job = passage->job;

  if (RAND_bytes (passage->header.nonce, sizeof passage->header.nonce) != 1)
    {
      fail (passage, KW_ERROR_FAILED, "The random number generator failed");
      return;
    }
  job->output = kw_envelope_seal (&passage->header, passage->data_key, job->message,
                                  job->associated_data, &job->error);
  job->changed = job->output != NULL;
  finish (passage);
}

/* Whether the caller may use the key whose data key was at hand. Where a device is asked, the pool checks that. */
static gboolean
check_key (Passage *passage)
{
  KwJob *job = passage->job;

  return kw_access_check_key (job->caller, job->verb, job->key_name, &job->error);
}

static void
start_sealing (Passage *passage)
{
  passage->sealing = TRUE;
  g_clear_pointer (&passage->data_key, kw_secret_unref);
  if (!find_sealing_key (passage))
    submit_wrap (passage);
  else if (check_key (passage))
    advance (passage);
  else
    finish (passage);
}

static void
unseal (Passage *passage)
{
  KwJob *job = passage->job;
  g_autoptr (KwSecret) plaintext
      = kw_envelope_open (passage->envelope, passage->data_key, job->associated_data, &job->error);

  if (plaintext == NULL)
    {
      finish (passage);
      return;
    }
  /* Only what turned out to be right is worth a place. */
  if (passage->unwrapped)
    keep_unwrapped (passage);
  if (job->verb == KW_VERB_REWRAP)
    {
      job->message = g_steal_pointer (&plaintext);
      job->old_fingerprint = g_steal_pointer (&job->fingerprint);
      start_sealing (passage);
      return;
    }
  job->plaintext = g_steal_pointer (&plaintext);
  finish (passage);
}

/* The part that takes time in proportion to the message. */
static void
process_message (Passage *passage)
{
  if (passage->sealing)
    seal (passage);
  else
    unseal (passage);
}

static void
run_in_thread (gpointer data, gpointer user_data G_GNUC_UNUSED)
{
  process_message (data);
}

/* The device has answered, or its answer was at hand. Any thread. */
static void
advance (Passage *passage)
{
  KwJob *job = passage->job;

  if (job->error != NULL)
    {
      finish (passage);
      return;
    }
  if (job->step.output != NULL && passage->sealing)
    {
      if (!kw_fingerprint_get_prefix (job->fingerprint, passage->header.prefix))
        {
          fail (passage, KW_ERROR_FAILED, "The key has no fingerprint");
          return;
        }
      passage->data_key = g_steal_pointer (&job->step.output);
      keep_sealing_key (passage);
    }
  else if (job->step.output != NULL)
    {
      passage->data_key = g_steal_pointer (&job->step.output);
      passage->unwrapped = TRUE;
    }
  g_clear_pointer (&job->step.input, kw_secret_unref);
  g_clear_pointer (&job->step.output, kw_secret_unref);
  if (passage->n_bytes <= INLINE_BYTES)
    process_message (passage);
  else
    g_thread_pool_push (passage->vault->threads, passage, NULL);
}

/* Takes the envelope apart; FALSE when the passage has ended with that. */
static gboolean
read_envelope (Passage *passage)
{
  KwJob *job = passage->job;

  passage->envelope = kw_envelope_decode (job->input, &job->error);
  if (passage->envelope == NULL
      || !kw_envelope_read_header (passage->envelope, &passage->header, &job->error))
    {
      finish (passage);
      return FALSE;
    }
  return TRUE;
}

/* Nothing has to be done for a message that is under the first key. */
static gboolean
is_under_first_key (Passage *passage)
{
  guint8 prefix[KW_FINGERPRINT_PREFIX_BYTES];
  g_autofree char *name = NULL;

  if (!kw_pool_find_first_key (passage->vault->pool, prefix, &name)
      || CRYPTO_memcmp (prefix, passage->header.prefix, sizeof prefix) != 0)
    return FALSE;
  g_free (passage->job->key_name);
  passage->job->key_name = g_steal_pointer (&name);
  return TRUE;
}

static void
start (Passage *passage)
{
  KwJob *job = passage->job;

  if (job->verb == KW_VERB_ENCRYPT)
    {
      start_sealing (passage);
      return;
    }
  if (!read_envelope (passage))
    return;
  if (job->verb == KW_VERB_REWRAP && is_under_first_key (passage))
    {
      if (check_key (passage))
        job->output = g_bytes_ref (passage->envelope);
      finish (passage);
    }
  else if (!find_unwrapped (passage))
    submit_unwrap (passage);
  else if (check_key (passage))
    advance (passage);
  else
    finish (passage);
}

/* Bounds first. */
static gboolean
check_job (KwVault *self, KwJob *job, gsize *out_n_bytes)
{
  gsize n_associated = job->associated_data != NULL ? g_bytes_get_size (job->associated_data) : 0;
  gsize n_bytes = job->message != NULL ? kw_secret_get_size (job->message) : 0;
  gsize max_envelope = self->max_plaintext + KW_ENVELOPE_OVERHEAD_BYTES;

  if (n_associated > KW_MAX_ASSOCIATED_BYTES)
    g_set_error (&job->error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                 "Associated data has at most %d bytes", KW_MAX_ASSOCIATED_BYTES);
  else if (n_bytes > self->max_plaintext)
    g_set_error (&job->error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                 "The message has %" G_GSIZE_FORMAT
                 " bytes, and [hsm] max_plaintext is %" G_GSIZE_FORMAT,
                 n_bytes, self->max_plaintext);
  if (job->input != NULL)
    {
      n_bytes = g_bytes_get_size (job->input);
      if (kw_envelope_is_text (job->input))
        max_envelope = (max_envelope + 2) / 3 * 4 + strlen (KW_ENVELOPE_TEXT_PREFIX);
      if (job->error == NULL && n_bytes > max_envelope)
        g_set_error (&job->error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                     "The encrypted message has %" G_GSIZE_FORMAT
                     " bytes, and with [hsm] max_plaintext at most %" G_GSIZE_FORMAT " are read",
                     n_bytes, max_envelope);
    }
  *out_n_bytes = n_bytes;
  return job->error == NULL;
}

static void
on_keys_changed (GObject *source G_GNUC_UNUSED, KwVault *self)
{
  kw_vault_forget (self);
}

static void
kw_vault_dispose (GObject *object)
{
  KwVault *self = KW_VAULT (object);

  kw_vault_stop (self);
  if (self->keyring != NULL)
    g_signal_handlers_disconnect_by_data (self->keyring, self);
  if (self->pool != NULL)
    g_signal_handlers_disconnect_by_data (self->pool, self);
  g_clear_object (&self->keyring);
  g_clear_object (&self->pool);
  G_OBJECT_CLASS (kw_vault_parent_class)->dispose (object);
}

static void
kw_vault_finalize (GObject *object)
{
  KwVault *self = KW_VAULT (object);

  /* The last reference may go on one of these threads, so they are not waited for. */
  g_thread_pool_free (self->threads, FALSE, FALSE);
  g_hash_table_unref (self->unwrapped);
  g_hash_table_unref (self->sealing);
  g_main_context_unref (self->context);
  g_mutex_clear (&self->lock);
  G_OBJECT_CLASS (kw_vault_parent_class)->finalize (object);
}

static void
kw_vault_class_init (KwVaultClass *klass)
{
  G_OBJECT_CLASS (klass)->dispose = kw_vault_dispose;
  G_OBJECT_CLASS (klass)->finalize = kw_vault_finalize;
}

static void
kw_vault_init (KwVault *self)
{
  g_mutex_init (&self->lock);
  self->context = g_main_context_ref_thread_default ();
  self->threads
      = g_thread_pool_new (run_in_thread, NULL,
                           (gint) CLAMP (g_get_num_processors (), 1, MAX_THREADS), FALSE, NULL);
  self->sealing = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, sealing_free);
  self->unwrapped = g_hash_table_new_full (g_bytes_hash, g_bytes_equal,
                                           (GDestroyNotify) g_bytes_unref, unwrapped_free);
}

/**
 * kw_vault_new:
 * @pool: who has the devices
 * @keyring: who says when keys change
 * @config: table `[hsm]`
 *
 * Returns: (transfer full): a vault. Main context.
 */
KwVault *
kw_vault_new (KwPool *pool, KwKeyring *keyring, const KwHsmConfig *config)
{
  KwVault *self = NULL;

  g_return_val_if_fail (KW_IS_POOL (pool) && KW_IS_KEYRING (keyring) && config != NULL, NULL);

  self = g_object_new (KW_TYPE_VAULT, NULL);
  self->pool = g_object_ref (pool);
  self->keyring = g_object_ref (keyring);
  self->max_plaintext = config->max_plaintext;
  kw_vault_set_data_key_ttl (self, config->data_key_ttl);
  g_signal_connect (self->keyring, "changed", G_CALLBACK (on_keys_changed), self);
  /* Until the pool knows of it, a message may still begin under what was right before. */
  g_signal_connect (self->pool, "changed", G_CALLBACK (on_keys_changed), self);
  return self;
}

/**
 * kw_vault_set_data_key_ttl:
 * @self: a vault
 * @seconds: for how long a data key is used again; 0 = each message has its own
 *
 * Changes the time to live from the next message on. Any thread.
 */
void
kw_vault_set_data_key_ttl (KwVault *self, guint seconds)
{
  g_return_if_fail (KW_IS_VAULT (self));

  g_atomic_pointer_set (&self->ttl_usec, (gssize) seconds * G_USEC_PER_SEC);
  kw_vault_forget (self);
}

/**
 * kw_vault_submit:
 * @self: a vault
 * @job: (transfer full): a job that encrypts, decrypts, rewraps or wants random bytes, whose service callback is set
 *
 * Has it done. The callback is called exactly once, on any thread, perhaps before this returns. Any thread.
 */
void
kw_vault_submit (KwVault *self, KwJob *job)
{
  Passage *passage = NULL;
  gsize n_bytes = 0;

  g_return_if_fail (KW_IS_VAULT (self));

  job->started = g_get_monotonic_time ();
  if (job->verb == KW_VERB_RANDOM && job->n_random > 0 && job->n_random <= KW_MAX_RANDOM_BYTES)
    {
      kw_pool_submit (self->pool, job);
      return;
    }
  passage = g_new0 (Passage, 1);
  passage->vault = g_object_ref (self);
  passage->job = job;
  passage->done = job->service_callback;
  passage->done_data = job->service_data;
  if (job->verb == KW_VERB_RANDOM)
    {
      g_set_error (&job->error, KW_ERROR, KW_ERROR_INVALID_ARGUMENT,
                   "1 to %d random bytes can be had at a time", KW_MAX_RANDOM_BYTES);
      finish (passage);
      return;
    }
  if (!check_job (self, job, &n_bytes))
    {
      finish (passage);
      return;
    }
  passage->n_bytes = n_bytes;
  if ((gsize) g_atomic_pointer_add (&self->n_bytes, (gssize) n_bytes) + n_bytes
      > KW_MAX_BYTES_UNDER_WAY)
    {
      fail (passage, KW_ERROR_BUSY,
            "Too many bytes of messages are under way; try again in a moment");
      return;
    }
  g_mutex_lock (&self->lock);
  passage->generation = self->generation;
  g_mutex_unlock (&self->lock);
  start (passage);
}

/**
 * kw_vault_forget:
 * @self: a vault
 *
 * Wipes all data keys that are kept to be used again. Any thread.
 */
void
kw_vault_forget (KwVault *self)
{
  g_return_if_fail (KW_IS_VAULT (self));

  g_mutex_lock (&self->lock);
  self->generation++;
  g_hash_table_remove_all (self->sealing);
  g_hash_table_remove_all (self->unwrapped);
  g_mutex_unlock (&self->lock);
}

/**
 * kw_vault_forget_sealing_key:
 * @self: a vault
 *
 * Has the next message get a data key of its own. Any thread.
 */
void
kw_vault_forget_sealing_key (KwVault *self)
{
  g_return_if_fail (KW_IS_VAULT (self));

  g_mutex_lock (&self->lock);
  g_hash_table_remove_all (self->sealing);
  g_mutex_unlock (&self->lock);
}

/**
 * kw_vault_stop:
 * @self: a vault
 *
 * Keeps no data keys from now on. May be called again. Main context.
 */
void
kw_vault_stop (KwVault *self)
{
  GSource *source = NULL;

  g_return_if_fail (KW_IS_VAULT (self));

  g_mutex_lock (&self->lock);
  self->stopped = TRUE;
  if (self->purge_source != 0)
    source = g_main_context_find_source_by_id (self->context, self->purge_source);
  self->purge_source = 0;
  g_mutex_unlock (&self->lock);
  if (source != NULL)
    g_source_destroy (source);
  kw_vault_forget (self);
}

/**
 * kw_vault_get_n_data_keys:
 * @self: a vault
 *
 * Returns: how many data keys are kept to be used again. Any thread.
 */
guint
kw_vault_get_n_data_keys (KwVault *self)
{
  guint n = 0;

  g_return_val_if_fail (KW_IS_VAULT (self), 0);

  g_mutex_lock (&self->lock);
  n = g_hash_table_size (self->unwrapped) + g_hash_table_size (self->sealing);
  g_mutex_unlock (&self->lock);
  return n;
}
